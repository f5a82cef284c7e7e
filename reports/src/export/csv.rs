//! One row for each request of the window, in our own definitions; seconds, empty where there is
//! none.
//!
//! Invariant: fields are quoted as RFC 4180 wants where they need it. Names of classes and errors
//! come from outside; one that a spreadsheet would run as a formula is made text by an apostrophe.

use std::fmt::Write as _;

use crate::record::RequestRecord;

const HEAD: &str = "id,session,turn,class,outcome,intended_s,sent_s,end_s,input_tokens,\
                    cached_input_tokens,output_tokens,planned_output_tokens,ttft_s,\
                    ttft_from_send_s,tpot_s,e2e_s,send_lag_s,queue_s,chunks,error\n";

pub(super) fn table(records: &[&RequestRecord]) -> String {
    let mut text = HEAD.to_owned();
    for record in records {
        row(record, &mut text);
    }
    text
}

fn row(record: &RequestRecord, text: &mut String) {
    let outcome = super::outcome_name(record.outcome);
    let count = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let fields = [
        record.id.to_string(),
        record.session.to_string(),
        record.turn.to_string(),
        quoted(&record.class),
        quoted(&outcome),
        seconds(Some(record.intended_ns)),
        seconds(record.sent_ns),
        seconds(record.end_ns),
        record.input_tokens.to_string(),
        count(record.cached_input_tokens),
        record.output_tokens.to_string(),
        record.planned_output_tokens.to_string(),
        seconds(record.ttft_ns()),
        seconds(record.ttft_from_send_ns()),
        seconds(record.tpot_ns()),
        seconds(record.e2e_ns()),
        seconds(record.send_lag_ns()),
        seconds(record.queue_ns()),
        record.chunk_ns.len().to_string(),
        quoted(record.error.as_deref().unwrap_or_default()),
    ];
    let _ = writeln!(text, "{}", fields.join(","));
}

/// Nanoseconds as seconds, every digit of them.
fn seconds(ns: Option<u64>) -> String {
    ns.map(|ns| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000))
        .unwrap_or_default()
}

fn quoted(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let cases = [
            ("chat", "chat"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "'=1+1"),
            ("", ""),
        ];
        for (given, expected) in cases {
            assert_eq!(quoted(given), expected, "{given}");
        }
        assert_eq!(seconds(Some(1_000_000_007)), "1.000000007");
        assert_eq!(seconds(None), "");
    }
}
