//! What the words of a report mean, one click away from each of them.
//!
//! Invariant: every metric has a definition, and a definition says what `record` and `accumulate`
//! compute. What it does not do: other tools' definitions; those are in `dialect`.

use serde::Serialize;

use crate::schema::Metric;

/// One entry.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Definition {
    /// Its address on the page, after `def-`.
    pub(super) key: &'static str,
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

const ALL: &[Definition] = &[
    Definition {
        key: "verdict",
        name: "VALID, INVALID",
        text: "VALID: the load was the one described, the load generator kept time, and latencies \
               and backlog were steady through the window. INVALID: at least one of these does not \
               hold, so no figure may be used; the reasons stand beside it.",
    },
    Definition {
        key: "ttft",
        name: "TTFT, time to first token",
        text: "First event that carries output, minus the instant at which the schedule wanted the \
               request sent. Lateness of the load generator and queueing count. An empty or \
               role-only chunk is not a first token.",
    },
    Definition {
        key: "ttft_from_send",
        name: "TTFT from send",
        text: "The same first event, minus the instant of the first byte sent: what tools report \
               that do not keep to a schedule.",
    },
    Definition {
        key: "itl",
        name: "ITL, inter-token latency",
        text: "Gaps between consecutive events with output, one value for each token: an event of k \
               tokens gives its gap divided by k, k times.",
    },
    Definition {
        key: "chunk_gap",
        name: "Chunk gap",
        text: "Gaps between consecutive events with output as they are, whatever the number of \
               tokens in an event.",
    },
    Definition {
        key: "tpot",
        name: "TPOT, time per output token",
        text: "One value for each finished request: from the first to the last event with output, \
               divided by the tokens after the first event. A request whose tokens all came in one \
               event has none.",
    },
    Definition {
        key: "e2e",
        name: "E2E, end to end",
        text: "Last event with output, minus the intended instant. Usage and end-of-stream marks do \
               not move it. Finished requests only.",
    },
    Definition {
        key: "send_lag",
        name: "Send lag",
        text: "How late the load generator sent, against the schedule. It is part of TTFT and E2E; \
               a run in which it is large is INVALID.",
    },
    Definition {
        key: "queue",
        name: "Queue",
        text: "From the send until the engine admits the request, where the target can tell.",
    },
    Definition {
        key: "throughput",
        name: "Throughput",
        text: "Output tokens (or finished requests) whose own instant lies in the measured window, \
               divided by its length. Warm-up and drain are outside. In an open loop that the \
               target keeps up with, this is the load that was asked for, not the capacity.",
    },
    Definition {
        key: "goodput",
        name: "Goodput",
        text: "Requests that finished and met every limit of the SLO, over all requests intended in \
               the window. Failed and unfinished requests stay in the denominator; those that the \
               workload itself cancels do not.",
    },
    Definition {
        key: "capacity",
        name: "Capacity",
        text: "The highest load at which enough of the requests meet the SLO (99 %, unless \
               `weighbridge capacity` was asked for another share). That command finds it, with an \
               interval; a single run only shows on which side of it its load is, and that only \
               where the share of its requests is clearly above or below.",
    },
    Definition {
        key: "cost_per_query",
        name: "Cost per query",
        text: "Price of the hardware for the measured window, over the requests served in it: those \
               that finished within the SLO. An idle device is paid for, and so are requests that \
               failed or came too late. The interval holds the ranges of the prices too.",
    },
    Definition {
        key: "cost_per_million",
        name: "Cost per million tokens",
        text: "Price of the hardware for the window, split between input and output tokens as the \
               table says, over the served tokens of each kind. The two parts add up to the whole.",
    },
    Definition {
        key: "interval",
        name: "95 % intervals",
        text: "In brackets. Consecutive requests are not independent, so blocks of time are \
               resampled, not requests. They cover variation within a run, not from run to run.",
    },
    Definition {
        key: "quantile",
        name: "p50 to p99.9",
        text: "Nearest rank, of raw values or of merged histograms, never an average of quantiles. \
               p99 needs 662 requests, p99.9 needs 6,636; with fewer it is left out.",
    },
    Definition {
        key: "own_error",
        name: "Own error, †",
        text: "What the load generator itself adds, measured before the run against a server whose \
               every token instant is known. A figure of which it is more than 5 % carries a †.",
    },
    Definition {
        key: "ratio",
        name: "Ratio to the reference",
        text: "The figure over the reference's. Its 95 % interval is carried over from both \
               intervals on a logarithmic scale, as for independent runs: the distances to the \
               ends are added in quadrature, each side by itself. Where it holds 1, no \
               difference is shown.",
    },
    Definition {
        key: "break_even",
        name: "Break-even price",
        text: "What a system may cost per hour, as a multiple of the reference's price, before the \
               reference is cheaper for the same work: the ratio of their goodput, or of their \
               output tokens per second without one.",
    },
];

impl Definition {
    /// Its place in the list.
    pub(super) fn place(&self) -> usize {
        ALL.iter()
            .position(|one| one.key == self.key)
            .unwrap_or(ALL.len())
    }
}

/// By its key.
pub(super) fn definition(key: &str) -> Option<&'static Definition> {
    ALL.iter().find(|definition| definition.key == key)
}

/// The key of a metric's definition.
pub(super) fn metric_term(metric: Metric) -> &'static str {
    metric.name()
}

/// The key for a row of a table by its label; empty when nothing explains it.
pub(super) fn term(label: &str) -> &'static str {
    match label {
        "Output tokens" | "Requests" => "throughput",
        "Goodput" | "Goodput share" | "SLO" => "goodput",
        "Per served query" => "cost_per_query",
        "Send lag p50" | "Send lag p99" | "Send lag max" => "send_lag",
        "Own error" | "Own error measured against the ground truth at" => "own_error",
        label if label.starts_with("Per million") => "cost_per_million",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_metric_has_a_definition_and_each_key_is_there_once() {
        for metric in Metric::ALL {
            assert!(definition(metric_term(metric)).is_some(), "{metric:?}");
        }
        let keys: BTreeSet<&str> = ALL.iter().map(|definition| definition.key).collect();
        assert_eq!(keys.len(), ALL.len());
        for label in [
            "Goodput",
            "Per served query",
            "Per million input tokens",
            "Send lag p99",
        ] {
            assert!(definition(term(label)).is_some(), "{label}");
        }
        assert_eq!(term("Seed"), "");
    }
}
