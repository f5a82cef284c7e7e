//! Comparisons without noise: results that must be equal, and counted instructions.
//!
//! Invariant: every value that differs is listed with its place; nothing is rounded away. What it
//! does not do: say whether a change was wanted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::report::{Change, MetricResult, Verdict};

/// Longest text of a value; histograms are kilobytes of it.
const SHOWN_CHARS: usize = 60;

/// What differs between two values, below the JSON pointer `place`.
pub fn changed_values(place: &str, baseline: &Value, candidate: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    walk(place, Some(baseline), Some(candidate), &mut changes);
    changes
}

fn walk(
    place: &str,
    baseline: Option<&Value>,
    candidate: Option<&Value>,
    changes: &mut Vec<Change>,
) {
    match (baseline, candidate) {
        (Some(one), Some(other)) if one == other => {}
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                walk(
                    &format!("{place}/{escaped}"),
                    one.get(key),
                    other.get(key),
                    changes,
                );
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) => {
            for index in 0..one.len().max(other.len()) {
                walk(
                    &format!("{place}/{index}"),
                    one.get(index),
                    other.get(index),
                    changes,
                );
            }
        }
        (one, other) => {
            let number = |value: Option<&Value>| value.and_then(Value::as_f64);
            let ratio = number(one)
                .zip(number(other))
                .filter(|&(one, _)| one != 0.0);
            changes.push(Change {
                place: place.to_owned(),
                baseline: one.map(shown),
                candidate: other.map(shown),
                ratio: ratio.map(|(one, other)| other / one),
            });
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text,
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
    }
}

/// Counted instructions, as `scripts/instruction-counts` writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstructionCounts {
    /// `rustc --version`; counts of two compilers are not comparable.
    pub compiler: String,
    /// Instructions by what was counted.
    pub counts: BTreeMap<String, u64>,
}

/// Why counts cannot be compared.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CountsError {
    /// Counted with two compilers.
    #[error("counted with `{baseline}` and with `{candidate}`; one compiler is needed")]
    Compilers {
        /// Of the baseline.
        baseline: String,
        /// Of the candidate.
        candidate: String,
    },
    /// A count that only the baseline has: it must not vanish unseen.
    #[error("`{0}` is counted in the baseline, and not in the candidate")]
    Missing(String),
    /// Nothing was executed.
    #[error("`{0}` is 0; something must have been counted")]
    Zero(String),
    /// No counts at all.
    #[error("the baseline has no counts")]
    Empty,
}

/// Judges counts one by one: beyond the margin is worse, or better. What only the candidate has
/// is left out.
pub fn instructions(
    baseline: &InstructionCounts,
    candidate: &InstructionCounts,
    margin: f64,
) -> Result<(Verdict, Vec<MetricResult>), CountsError> {
    if baseline.compiler != candidate.compiler {
        return Err(CountsError::Compilers {
            baseline: baseline.compiler.clone(),
            candidate: candidate.compiler.clone(),
        });
    }
    let judge = |(name, &before): (&String, &u64)| {
        let after = *candidate
            .counts
            .get(name)
            .ok_or_else(|| CountsError::Missing(name.clone()))?;
        if before == 0 || after == 0 {
            return Err(CountsError::Zero(name.clone()));
        }
        let ratio = after as f64 / before as f64;
        let verdict = match ratio {
            more if more > 1.0 + margin => Verdict::Worse,
            less if less < 1.0 - margin => Verdict::Better,
            _ => Verdict::Equivalent,
        };
        Ok(MetricResult {
            name: name.clone(),
            unit: None,
            more_is_better: false,
            decides: true,
            baseline: before as f64,
            candidate: after as f64,
            ratio,
            ratio_interval: None,
            p: None,
            p_holm: None,
            verdict,
        })
    };
    let results: Vec<_> = baseline
        .counts
        .iter()
        .map(judge)
        .collect::<Result<_, _>>()?;
    let has = |verdict| {
        results
            .iter()
            .any(|result: &MetricResult| result.verdict == verdict)
    };
    let verdict = match () {
        () if results.is_empty() => return Err(CountsError::Empty),
        () if has(Verdict::Worse) => Verdict::Worse,
        () if has(Verdict::Better) => Verdict::Better,
        () => Verdict::Equivalent,
    };
    Ok((verdict, results))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_difference_is_listed_at_its_place() {
        let baseline = json!({"a": {"b/c": 2.0, "same": [1, 2]}, "gone": true, "text": "x"});
        let candidate = json!({"a": {"b/c": 3.0, "same": [1, 2, 4]}, "new": null, "text": "y"});
        let changes = changed_values("", &baseline, &candidate);
        let seen: Vec<_> = changes
            .iter()
            .map(|c| {
                (
                    c.place.as_str(),
                    c.baseline.as_deref(),
                    c.candidate.as_deref(),
                    c.ratio,
                )
            })
            .collect();
        let expected = [
            ("/a/b~1c", Some("2.0"), Some("3.0"), Some(1.5)),
            ("/a/same/2", None, Some("4"), None),
            ("/gone", Some("true"), None, None),
            ("/new", None, Some("null"), None),
            ("/text", Some("\"x\""), Some("\"y\""), None),
        ];
        assert_eq!(seen, expected);
        assert_eq!(changed_values("", &baseline, &baseline), []);
        let long = changed_values("/h", &json!("a".repeat(500)), &json!(1));
        assert!(
            long[0]
                .baseline
                .as_ref()
                .is_some_and(|text| text.ends_with("… (502 bytes)"))
        );
    }

    fn counts(of: &[(&str, u64)]) -> InstructionCounts {
        let counts = of
            .iter()
            .map(|&(name, count)| (name.to_owned(), count))
            .collect();
        InstructionCounts {
            compiler: "rustc 1".into(),
            counts,
        }
    }

    #[test]
    fn counts_are_judged_by_the_margin_alone() {
        let base = counts(&[("a", 1_000), ("b", 1_000)]);
        for (a, b, expected) in [
            (1_000, 1_010, Verdict::Equivalent),
            (1_000, 1_011, Verdict::Worse),
            (900, 1_011, Verdict::Worse),
            (989, 1_000, Verdict::Better),
        ] {
            let found = instructions(&base, &counts(&[("a", a), ("b", b), ("new", 7)]), 0.01);
            let (verdict, results) = found.expect("comparable");
            assert_eq!((verdict, results.len()), (expected, 2), "{a} {b}");
        }
    }

    #[test]
    fn counts_that_cannot_be_compared_are_not() {
        let base = counts(&[("a", 1_000)]);
        let missing = instructions(&base, &counts(&[("b", 1)]), 0.01);
        assert_eq!(missing, Err(CountsError::Missing("a".into())));
        let zero = instructions(&base, &counts(&[("a", 0)]), 0.01);
        assert_eq!(zero, Err(CountsError::Zero("a".into())));
        assert_eq!(
            instructions(&counts(&[]), &base, 0.01),
            Err(CountsError::Empty)
        );
        let other = InstructionCounts {
            compiler: "rustc 2".into(),
            ..base.clone()
        };
        assert!(matches!(
            instructions(&base, &other, 0.01),
            Err(CountsError::Compilers { .. })
        ));
    }
}
