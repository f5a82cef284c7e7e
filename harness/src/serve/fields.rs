//! A request body, read field by field, so that each mistake is told with the field's name.
//!
//! Invariant: no field is passed over in silence. What this server cannot do is refused unless the
//! value asks for nothing ([`FIXED`]); what changes no answer is listed ([`WITHOUT_EFFECT`]); any
//! other name is unknown, and refused. `null` is the same as absence.

use std::fmt::Display;
use std::ops::RangeInclusive;

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::error::ApiError;

/// Fields that this server understands in one sense only: the values that it takes.
const FIXED: [(&str, &str); 30] = [
    ("add_generation_prompt", "[true]"),
    ("add_special_tokens", "[true, false]"),
    ("audio", "[]"),
    ("best_of", "[1]"),
    ("chat_template", "[]"),
    ("chat_template_kwargs", "[{}]"),
    ("continue_final_message", "[false]"),
    ("echo", "[false]"),
    ("frequency_penalty", "[0]"),
    ("function_call", r#"["none"]"#),
    ("functions", "[[]]"),
    ("include_stop_str_in_output", "[false]"),
    ("length_penalty", "[1]"),
    ("logit_bias", "[{}]"),
    ("logprobs", "[false]"),
    ("min_p", "[0]"),
    ("modalities", r#"[["text"]]"#),
    ("n", "[1]"),
    ("presence_penalty", "[0]"),
    ("prompt_logprobs", "[]"),
    ("repetition_penalty", "[1]"),
    ("response_format", r#"[{"type": "text"}]"#),
    ("skip_special_tokens", "[true]"),
    ("spaces_between_special_tokens", "[true, false]"),
    ("stop_token_ids", "[[]]"),
    ("suffix", r#"[""]"#),
    ("tool_choice", r#"["none", "auto"]"#),
    ("tools", "[[]]"),
    ("top_logprobs", "[0]"),
    ("use_beam_search", "[false]"),
];

/// Fields that do not change the answer, whatever they say.
const WITHOUT_EFFECT: [&str; 9] = [
    "metadata",
    "parallel_tool_calls",
    "priority",
    "prompt_cache_key",
    "request_id",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// The fields of one JSON object that have not been read yet.
#[derive(Debug)]
pub(super) struct Fields {
    /// The name of the object in its parent, with a point at the end; empty for the body.
    prefix: &'static str,
    left: Map<String, Value>,
}

impl Fields {
    /// Reads a request body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let malformed = |what: String| ApiError::new(StatusCode::BAD_REQUEST, what);
        match serde_json::from_slice(body) {
            Ok(Value::Object(left)) => Ok(Self { prefix: "", left }),
            Ok(other) => Err(malformed(format!(
                "the body is {}; accepted is a JSON object",
                show(&other)
            ))),
            Err(error) => Err(malformed(format!("the body is not JSON: {error}"))),
        }
    }

    /// Takes a field out; `null` counts as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub(super) fn need(&mut self, name: &str, accepted: &str) -> Result<Value, ApiError> {
        let missing =
            || ApiError::field(name, format!("`{name}` is missing; accepted is {accepted}"));
        self.take(name).ok_or_else(missing)
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.wrong(name, &other, "true or false")),
        }
    }

    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, &other, "a string")),
        }
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let accepted = value.as_f64().filter(|number| range.contains(number));
        let wrong = || {
            let (low, high) = range.clone().into_inner();
            self.wrong(name, &value, format!("a number from {low} to {high}"))
        };
        accepted.ok_or_else(wrong).map(Some)
    }

    pub(super) fn whole(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let accepted = value.as_i64().filter(|number| range.contains(number));
        let wrong = || {
            let (low, high) = range.clone().into_inner();
            self.wrong(name, &value, format!("a whole number from {low} to {high}"))
        };
        accepted.ok_or_else(wrong).map(Some)
    }

    pub(super) fn object(&mut self, name: &'static str) -> Result<Option<Self>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(left)) => Ok(Some(Self { prefix: name, left })),
            Some(other) => Err(self.wrong(name, &other, "an object")),
        }
    }

    /// Refuses what is left over and would have changed the answer.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        for (name, value) in self.left.iter().filter(|(_, value)| !value.is_null()) {
            if self.prefix.is_empty() && WITHOUT_EFFECT.contains(&name.as_str()) {
                continue;
            }
            let fixed = FIXED.iter().find(|(known, _)| known == name);
            let Some((_, accepted)) = fixed.filter(|_| self.prefix.is_empty()) else {
                let name = self.full(name);
                return Err(ApiError::field(
                    &name,
                    format!("`{name}` is not known here"),
                ));
            };
            let values: Vec<Value> =
                serde_json::from_str(accepted).expect("the table holds lists, which is tested");
            if values.iter().any(|accepted| equal(accepted, value)) {
                continue;
            }
            let values: Vec<String> = values.iter().map(Value::to_string).collect();
            let accepted = match values.as_slice() {
                [] => "nothing: leave it out".to_owned(),
                values => values.join(" or "),
            };
            return Err(self.wrong(name, value, accepted));
        }
        Ok(())
    }

    fn wrong(&self, name: &str, value: &Value, accepted: impl Display) -> ApiError {
        let name = self.full(name);
        let message = format!("`{name}` is {}; accepted is {accepted}", show(value));
        ApiError::field(&name, message)
    }

    fn full(&self, name: &str) -> String {
        match self.prefix {
            "" => name.to_owned(),
            prefix => format!("{prefix}.{name}"),
        }
    }
}

/// `1` and `1.0` are one number.
fn equal(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one.to_bits() == other.to_bits(),
        _ => one == other,
    }
}

/// A value as it was given, cut where it gets long.
pub(super) fn show(value: &Value) -> String {
    const ENOUGH: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes()).expect(body)
    }

    #[test]
    fn the_table_of_fixed_fields_is_well_formed() {
        for (name, accepted) in FIXED {
            let values: Result<Vec<Value>, _> = serde_json::from_str(accepted);
            assert!(values.is_ok(), "{name}: {accepted}");
        }
    }

    #[test]
    fn bodies_that_are_no_objects_are_refused() {
        for (body, part) in [
            ("", "not JSON"),
            ("{\"a\":", "line 1 column"),
            ("[1]", "the body is [1]"),
            ("\u{feff}{}", "not JSON"),
        ] {
            let error = Fields::parse(body.as_bytes()).expect_err(body);
            assert!(error.message.contains(part), "{}", error.message);
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn values_are_read_and_mistakes_named() {
        let mut read =
            fields(r#"{"a": true, "b": 0.5, "c": 7, "d": "x", "e": null, "f": {"g": 1}}"#);
        assert_eq!(read.flag("a"), Ok(true));
        assert_eq!(read.number("b", 0.0..=1.0), Ok(Some(0.5)));
        assert_eq!(read.whole("c", 1..=9), Ok(Some(7)));
        assert_eq!(read.string("d"), Ok(Some("x".into())));
        assert_eq!(read.whole("e", 1..=9), Ok(None));
        let inner = read.object("f").expect("an object").expect("there");
        let error = inner.finish().expect_err("g is unknown");
        assert_eq!(error.param.as_deref(), Some("f.g"));
        assert_eq!(read.finish(), Ok(()));
        let mut wrong = fields(r#"{"a": 1, "b": 2, "c": 1.5, "d": [1]}"#);
        for (error, message) in [
            (
                wrong.flag("a").map(drop),
                "`a` is 1; accepted is true or false",
            ),
            (
                wrong.number("b", 0.0..=1.0).map(drop),
                "`b` is 2; accepted is a number from 0 to 1",
            ),
            (
                wrong.whole("c", 1..=9).map(drop),
                "`c` is 1.5; accepted is a whole number from 1 to 9",
            ),
            (
                wrong.string("d").map(drop),
                "`d` is [1]; accepted is a string",
            ),
            (
                wrong.need("e", "a list").map(drop),
                "`e` is missing; accepted is a list",
            ),
        ] {
            assert_eq!(error.expect_err(message).message, message);
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_unless_nothing_is_asked() {
        for body in [
            r#"{"n": 1, "presence_penalty": 0.0, "tools": [], "user": "me", "logprobs": false}"#,
            r#"{"unknown": null, "response_format": {"type": "text"}, "tool_choice": "auto"}"#,
        ] {
            assert_eq!(fields(body).finish(), Ok(()), "{body}");
        }
        for (body, message) in [
            (r#"{"n": 2}"#, "`n` is 2; accepted is 1"),
            (
                r#"{"logprobs": true}"#,
                "`logprobs` is true; accepted is false",
            ),
            (
                r#"{"prompt_logprobs": 1}"#,
                "accepted is nothing: leave it out",
            ),
            (r#"{"tool_choice": "required"}"#, "\"none\" or \"auto\""),
            (r#"{"temprature": 1}"#, "`temprature` is not known here"),
        ] {
            let error = fields(body).finish().expect_err(body);
            assert!(error.message.contains(message), "{}", error.message);
        }
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let shown = show(&Value::String("汉".repeat(500)));
        assert_eq!(shown.chars().count(), 61);
    }
}
