//! The verdict on simulated queues: how often a good run is called bad, and a bad one good.
//!
//! Requests come by a Poisson process, or from users who think, to a server with so many places
//! that takes them in order. Nothing here is a run of ours; it is the simplest system that has a
//! queue, so that what is right is known.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use reports::accumulate::{Accumulator, Window};
use reports::validity::{Inputs, LoadKind, Requested, Validity, assess};
use reports::{Outcome, RequestRecord, TokenCountSource};

use crate::synthetic::SECOND;

/// Places of the server.
const PLACES: usize = 16;
/// Seconds for the prompt and for each token, and tokens of an answer, on average.
const PREFILL_S: f64 = 0.2;
const TOKEN_S: f64 = 0.02;
const TOKENS: f64 = 150.0;
/// Tokens of a chunk.
const CHUNK: u64 = 10;
/// Warm-up and drain around the window.
const WARMUP_S: f64 = 20.0;
const DRAIN_S: f64 = 60.0;

/// What is done to the server.
struct Run {
    seed: u64,
    window_s: f64,
    load: Load,
    /// Multiplies the time of everything, by the second of the run.
    slowness: fn(f64) -> f64,
}

#[derive(Debug, Clone, Copy)]
enum Load {
    /// Share of the server's capacity.
    Open(f64),
    Users(usize),
}

fn exponential(rng: &mut ChaCha8Rng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

/// Around 1 on average, with a tail.
fn skewed(rng: &mut ChaCha8Rng, sigma: f64) -> f64 {
    let normal = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    (sigma * normal - sigma * sigma / 2.0).exp()
}

fn ns(seconds: f64) -> u64 {
    (seconds * SECOND as f64) as u64
}

impl Run {
    fn rate(&self) -> Option<f64> {
        match self.load {
            Load::Open(share) => Some(share * PLACES as f64 / (PREFILL_S + TOKENS * TOKEN_S)),
            Load::Users(_) => None,
        }
    }

    fn records(&self) -> Vec<RequestRecord> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let end_s = WARMUP_S + self.window_s;
        // When a place becomes free, and when a user is ready: whole nanoseconds can be ordered.
        let mut free: BinaryHeap<Reverse<u64>> = (0..PLACES).map(|_| Reverse(0)).collect();
        let mut ready: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
        match self.load {
            Load::Open(_) => {
                let rate = self.rate().expect("an open loop has one");
                let mut at_s = 0.0;
                while at_s < end_s {
                    at_s += exponential(&mut rng) / rate;
                    ready.push(Reverse(ns(at_s)));
                }
            }
            Load::Users(users) => ready.extend((0..users).map(|u| Reverse(ns(0.1 * u as f64)))),
        }
        let mut records = Vec::new();
        while let Some(Reverse(intended)) = ready.pop() {
            if intended >= ns(end_s) {
                break;
            }
            let Reverse(place) = free.pop().expect("there are places");
            let begins = intended.max(place);
            let slow = (self.slowness)(begins as f64 / SECOND as f64);
            let first = begins + ns(slow * PREFILL_S * skewed(&mut rng, 0.5));
            let tokens = (TOKENS * skewed(&mut rng, 0.6)).clamp(20.0, 1_000.0) as u64;
            let step = ns(slow * TOKEN_S * skewed(&mut rng, 0.1)) * CHUNK;
            let chunks: Vec<u64> = (0..tokens / CHUNK).map(|i| first + i * step).collect();
            let end = chunks[chunks.len() - 1];
            free.push(Reverse(end));
            if matches!(self.load, Load::Users(_)) {
                ready.push(Reverse(end + ns(2.0 * exponential(&mut rng))));
            }
            records.push(self.record(records.len() as u64, intended, begins, chunks));
        }
        records
    }

    fn record(&self, id: u64, intended: u64, begins: u64, chunks: Vec<u64>) -> RequestRecord {
        let last = ns(WARMUP_S + self.window_s + DRAIN_S);
        let planned = chunks.len() as u64 * CHUNK;
        let chunk_ns: Vec<u64> = chunks.into_iter().filter(|&at| at < last).collect();
        let tokens = chunk_ns.len() as u64 * CHUNK;
        let finished = tokens == planned;
        RequestRecord {
            id,
            session: id,
            turn: 0,
            class: "made up".to_owned(),
            intended_ns: intended,
            pushed_ns: 0,
            sent_ns: Some(intended),
            admitted_ns: Some(begins),
            chunk_tokens: vec![CHUNK as u32; chunk_ns.len()],
            output_tokens: tokens,
            end_ns: Some(
                chunk_ns
                    .last()
                    .copied()
                    .filter(|_| finished)
                    .unwrap_or(last),
            ),
            chunk_ns,
            bare_ns: Vec::new(),
            usage_ns: None,
            outcome: if finished {
                Outcome::Ok
            } else {
                Outcome::Unfinished
            },
            finish: None,
            input_tokens: 100,
            planned_input_tokens: 100,
            cached_input_tokens: None,
            planned_output_tokens: planned,
            token_count_source: TokenCountSource::Engine,
            error: None,
        }
    }

    fn verdict(&self) -> Validity {
        let window = Window {
            start_ns: ns(WARMUP_S),
            end_ns: ns(WARMUP_S + self.window_s),
        };
        let mut accumulator = Accumulator::new(window, None);
        self.records()
            .iter()
            .for_each(|record| accumulator.record(record));
        let found = accumulator.finish();
        let inputs = Inputs {
            load: match self.load {
                Load::Open(_) => LoadKind::Open,
                Load::Users(_) => LoadKind::Closed,
            },
            requested: self.rate().map(|rate| Requested {
                requests: rate * self.window_s,
                sd: (rate * self.window_s).sqrt(),
            }),
            ..crate::validity::inputs(&found)
        };
        assess(inputs).0
    }
}

/// Reasons of those of `seeds` runs that are INVALID.
fn invalid(seeds: u64, window_s: f64, load: Load, slowness: fn(f64) -> f64) -> Vec<String> {
    let run = |seed| Run {
        seed,
        window_s,
        load,
        slowness,
    };
    let verdicts = (0..seeds).map(|seed| run(seed).verdict().reasons);
    let reasons = verdicts.filter(|reasons| !reasons.is_empty());
    reasons.map(|reasons| reasons.join(" ")).collect()
}

fn always(_: f64) -> f64 {
    1.0
}

#[test]
fn a_steady_run_is_valid() {
    // A server at 80 % of its capacity has queues that come and go for a minute. More seeds than
    // these say more: `WEIGHBRIDGE_SEEDS=400 cargo test -p reports steady -- --nocapture`.
    let seeds = std::env::var("WEIGHBRIDGE_SEEDS").map(|seeds| seeds.parse());
    let seeds = seeds.unwrap_or(Ok(10)).expect("a number of seeds");
    for (window_s, load) in [
        (60.0, Load::Open(0.5)),
        (60.0, Load::Open(0.8)),
        (300.0, Load::Open(0.8)),
        (60.0, Load::Users(12)),
        (300.0, Load::Users(40)),
    ] {
        let found = invalid(seeds, window_s, load, always);
        println!("{} of {seeds} at {load:?} for {window_s} s", found.len());
        let allowed = (seeds / 25).max(1) as usize;
        assert!(found.len() <= allowed, "{found:#?}");
    }
}

#[test]
fn overload_is_named() {
    for share in [1.3, 2.0] {
        let found = invalid(6, 120.0, Load::Open(share), always);
        let named = found
            .iter()
            .filter(|reasons| reasons.contains("Over-saturated"));
        assert!(named.count() >= 5, "{} at {share}: {found:#?}", found.len());
    }
}

#[test]
fn a_warm_up_that_is_too_short_is_named() {
    // Half as fast for the first half minute of the window.
    let cold = |t: f64| if t < WARMUP_S + 30.0 { 2.0 } else { 1.0 };
    for load in [Load::Open(0.3), Load::Users(12)] {
        let found = invalid(6, 120.0, load, cold);
        let named = found
            .iter()
            .filter(|reasons| reasons.contains("lengthen --warmup"));
        assert!(named.count() >= 5, "{} of 6: {found:#?}", found.len());
    }
}

#[test]
fn a_server_that_becomes_slower_is_named_in_open_and_closed_loop() {
    let tiring = |t: f64| 1.0 + t / 120.0;
    for load in [Load::Open(0.3), Load::Users(12)] {
        let found = invalid(6, 120.0, load, tiring);
        // An open loop that is near its capacity in the end is called over-saturated instead.
        let named = |reasons: &&String| {
            reasons.contains("not steady") || reasons.contains("Over-saturated")
        };
        let named = found.iter().filter(named).count();
        assert!(named >= 5, "{named} of 6: {found:#?}");
    }
}

#[test]
fn a_load_that_was_not_made_is_named() {
    let run = Run {
        seed: 3,
        window_s: 120.0,
        load: Load::Open(0.5),
        slowness: always,
    };
    let wanted = run.rate().expect("open") * 120.0;
    let window = Window {
        start_ns: ns(WARMUP_S),
        end_ns: ns(WARMUP_S + 120.0),
    };
    let mut accumulator = Accumulator::new(window, None);
    let records = run.records();
    records
        .iter()
        .step_by(2)
        .for_each(|record| accumulator.record(record));
    let found = accumulator.finish();
    let inputs = |requests| Inputs {
        requested: Some(Requested {
            requests,
            sd: wanted.sqrt(),
        }),
        length_mismatches: 0,
        ..crate::validity::inputs(&found)
    };
    let reasons = assess(inputs(wanted)).0.reasons.join(" ");
    assert!(
        reasons.contains("The load was not the one asked for"),
        "{reasons}"
    );
    assert_eq!(assess(inputs(wanted / 2.0)).0.reasons, Vec::<String>::new());
}
