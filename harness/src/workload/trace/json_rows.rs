//! Traces of JSON lines: Mooncake and Qwen-Bailian.
//!
//! Invariant: every field that is used is checked for its kind and range; other fields are left
//! alone, since both formats have grown some.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::source::{Place, Source, TraceError};
use super::{Row, Rows};

const WHOLE: &str = "a whole number from 0 to 4294967295";
const INSTANT: &str = "a number from 0";

/// `timestamp` in milliseconds, `input_length`, `output_length`, `hash_ids` of 512-token blocks.
pub(super) fn mooncake(source: Source, rows: &mut Rows) -> Result<(), TraceError> {
    source.lines(|place, line| {
        let record = Record::parse(*place, line, "mooncake", &MOONCAKE)?;
        let block_ids = record.ids("hash_ids")?;
        rows.take(Row {
            at_s: record.instant("timestamp")? / 1e3,
            input_tokens: record.count("input_length")?,
            output_tokens: record.count("output_length")?,
            session: None,
            turn: 0,
            block_ids: &block_ids,
        });
        Ok(())
    })
}

const MOONCAKE: [&str; 4] = ["timestamp", "input_length", "output_length", "hash_ids"];

/// `timestamp` in seconds, chats by `chat_id` and `parent_chat_id`, `hash_ids` of 16-token blocks.
pub(super) fn bailian(source: Source, rows: &mut Rows) -> Result<(), TraceError> {
    // A chat's first message; answers to it name their parent, not their root.
    let mut roots: BTreeMap<i64, u64> = BTreeMap::new();
    source.lines(|place, line| {
        let record = Record::parse(*place, line, "bailian", &BAILIAN)?;
        let (chat, parent) = (record.whole("chat_id")?, record.whole("parent_chat_id")?);
        let root = roots.get(&parent).copied().unwrap_or(chat.unsigned_abs());
        roots.insert(chat, root);
        let block_ids = record.ids("hash_ids")?;
        rows.take(Row {
            at_s: record.instant("timestamp")?,
            input_tokens: record.count("input_length")?,
            output_tokens: record.count("output_length")?,
            session: Some(root),
            turn: record.count("turn")?.saturating_sub(1),
            block_ids: &block_ids,
        });
        Ok(())
    })
}

const BAILIAN: [&str; 7] = [
    "chat_id",
    "parent_chat_id",
    "timestamp",
    "input_length",
    "output_length",
    "turn",
    "hash_ids",
];

/// One line.
struct Record<'a> {
    place: Place<'a>,
    fields: Map<String, Value>,
}

impl<'a> Record<'a> {
    fn parse(
        place: Place<'a>,
        line: &[u8],
        kind: &str,
        needed: &[&str],
    ) -> Result<Self, TraceError> {
        let fields: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| place.wrong(format!("{error}; accepted is one JSON object a line")))?;
        if let Some(missing) = needed.iter().find(|field| !fields.contains_key(**field)) {
            let all: Vec<String> = needed.iter().map(|field| format!("`{field}`")).collect();
            let problem = format!("is missing; a {kind} trace has {}", all.join(", "));
            return Err(place.wrong_field(missing, problem));
        }
        Ok(Self { place, fields })
    }

    fn wrong(&self, field: &str, accepted: &str) -> TraceError {
        let value = self.fields[field].to_string();
        self.place.not_accepted(field, &value, accepted)
    }

    fn instant(&self, field: &str) -> Result<f64, TraceError> {
        let value = self.fields[field].as_f64();
        let instant = value.filter(|value| value.is_finite() && *value >= 0.0);
        instant.ok_or_else(|| self.wrong(field, INSTANT))
    }

    fn count(&self, field: &str) -> Result<u32, TraceError> {
        let value = self.fields[field].as_u64();
        let count = value.and_then(|value| u32::try_from(value).ok());
        count.ok_or_else(|| self.wrong(field, WHOLE))
    }

    fn whole(&self, field: &str) -> Result<i64, TraceError> {
        let value = self.fields[field].as_i64();
        value.ok_or_else(|| self.wrong(field, "a whole number"))
    }

    fn ids(&self, field: &str) -> Result<Vec<u64>, TraceError> {
        let wrong = || self.wrong(field, "a list of whole numbers from 0");
        let list = self.fields[field].as_array().ok_or_else(wrong)?;
        let id = |value: &Value| value.as_u64().ok_or_else(wrong);
        list.iter().map(id).collect()
    }
}
