//! What happened each second of the run, warm-up and drain included.
//!
//! Invariant: points are consecutive from second 0 to the last event. Latencies of a second are by
//! the rule of the parent module, but of all requests, inside the window or not.
//! What it does not do: smooth, or leave out quiet seconds.

use std::collections::BTreeMap;

use crate::histogram::SparseCounts;
use crate::record::{Outcome, RequestRecord};
use crate::schema::SecondPoint;
use crate::stats::Quantile;

use super::{SECOND_NS, Window, delivered_tokens, ended_ns, seconds};

/// Later events are shown in this second, so that a broken clock cannot fill the memory.
const LAST_SECOND: u64 = 14 * 24 * 3_600;

/// Counts by second.
#[derive(Debug, Default)]
pub(super) struct Series(BTreeMap<u64, Second>);

#[derive(Debug, Default)]
struct Second {
    intended: u64,
    completed: u64,
    failed: u64,
    ended: u64,
    output_tokens: u64,
    ttft: SparseCounts,
    ttft_max_ns: u64,
    itl: SparseCounts,
    itl_max_ns: u64,
}

impl Series {
    fn second(&mut self, instant_ns: u64) -> &mut Second {
        self.0
            .entry((instant_ns / SECOND_NS).min(LAST_SECOND))
            .or_default()
    }

    pub(super) fn record(&mut self, record: &RequestRecord) {
        self.second(record.intended_ns).intended += 1;
        for (instant_ns, tokens) in delivered_tokens(record) {
            self.second(instant_ns).output_tokens += tokens;
        }
        let failed = record.outcome.is_failure();
        if let Some(end_ns) = ended_ns(record).filter(|_| record.outcome != Outcome::Unfinished) {
            let second = self.second(end_ns);
            second.ended += 1;
            second.completed += u64::from(record.outcome == Outcome::Ok);
            second.failed += u64::from(failed);
        } else if failed {
            let second = self.second(record.intended_ns);
            second.ended += 1;
            second.failed += 1;
        }
        if failed {
            return;
        }
        if let Some(ttft_ns) = record.ttft_ns() {
            let second = self.second(record.intended_ns);
            second.ttft.add(ttft_ns, 1);
            second.ttft_max_ns = second.ttft_max_ns.max(ttft_ns);
        }
        for (&instant_ns, (gap_ns, tokens)) in record.chunk_ns.iter().skip(1).zip(record.gaps_ns())
        {
            if let Some(value_ns) = gap_ns.checked_div(u64::from(tokens)) {
                let second = self.second(instant_ns);
                second.itl.add(value_ns, u64::from(tokens));
                second.itl_max_ns = second.itl_max_ns.max(value_ns);
            }
        }
    }

    /// One point for each second from the start of the run.
    pub(super) fn points(&self, window: Window) -> Vec<SecondPoint> {
        let Some((&last, _)) = self.0.last_key_value() else {
            return Vec::new();
        };
        let quiet = Second::default();
        let mut in_flight: u64 = 0;
        let point = |t_s: u64| {
            let second = self.0.get(&t_s).unwrap_or(&quiet);
            in_flight = (in_flight + second.intended).saturating_sub(second.ended);
            let capped = |counts: &SparseCounts, quantile, max_ns: u64| {
                counts
                    .value_at(quantile)
                    .map(|value| seconds(value.min(max_ns)))
            };
            SecondPoint {
                t_s,
                in_window: window.contains(t_s * SECOND_NS + SECOND_NS / 2),
                intended: second.intended,
                completed: second.completed,
                failed: second.failed,
                output_tokens: second.output_tokens,
                in_flight,
                ttft_p50_s: capped(&second.ttft, Quantile::P50, second.ttft_max_ns),
                ttft_max_s: (!second.ttft.is_empty()).then(|| seconds(second.ttft_max_ns)),
                itl_p50_s: capped(&second.itl, Quantile::P50, second.itl_max_ns),
                itl_p99_s: capped(&second.itl, Quantile::P99, second.itl_max_ns),
                ..SecondPoint::default()
            }
        };
        (0..=last).map(point).collect()
    }
}
