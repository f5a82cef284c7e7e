//! What an answer will be, before it begins.
//!
//! Invariant: a plan depends on the configuration, the number of the request and the tokens it asks
//! for, on nothing else. Times in a plan are *working* time: a stall takes none of it.

use rand::Rng;

use super::MockConfig;
use crate::random::{Purpose, stream};

/// All streams stand still for `lasts` at the end of each `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// Length of a period.
    pub every_ns: u64,
    /// Its last part, in which nothing is sent; shorter than the period.
    pub lasts_ns: u64,
}

impl Stall {
    /// When `work_ns` of working time after `from_ns` are over; both instants count from the start
    /// of the first period.
    pub fn after(self, from_ns: u64, work_ns: u64) -> u64 {
        if work_ns == 0 {
            return from_ns;
        }
        let good_ns = self.every_ns - self.lasts_ns;
        let (periods, within) = (from_ns / self.every_ns, from_ns % self.every_ns);
        let work_ns = periods * good_ns + within.min(good_ns) + work_ns;
        // The end of a good time is before the stall, not after it.
        let whole = (work_ns - 1) / good_ns;
        whole * self.every_ns + (work_ns - whole * good_ns)
    }
}

/// What goes wrong: shares of all requests, each from 0 to 1, together at most 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Faults {
    /// Answered with an error status.
    pub status_share: f64,
    /// Which.
    pub status: u16,
    /// The connection is reset before the end.
    pub reset_share: f64,
    /// The stream ends, properly framed, without a finish.
    pub truncate_share: f64,
    /// The stream ends without the mark of its end; not a failure.
    pub no_done_share: f64,
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// With finish, usage and the mark of the end.
    Well,
    /// With a finish, without the mark of the end.
    WithoutDone,
    /// It never begins: an error status.
    Status(u16),
    /// The connection is reset in place of this chunk.
    Reset(usize),
    /// The body ends in place of this chunk.
    Truncated(usize),
}

/// A chunk of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedChunk {
    /// Working time from the request.
    pub work_ns: u64,
    /// Tokens in it.
    pub tokens: u32,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerPlan {
    /// How it ends.
    pub ends: Ends,
    /// When what comes.
    pub chunks: Vec<PlannedChunk>,
    /// Seed of where its writes are cut.
    pub cut_seed: u64,
}

/// The answer to request `number`, which asks for `tokens`.
pub fn plan(config: &MockConfig, number: u64, tokens: u32) -> AnswerPlan {
    let mut rng = stream(config.seed, Purpose::Mock, number);
    let fate: f64 = rng.random();
    let cut_seed = rng.random();
    let mut work_ns = config.ttft.draw_ns(&mut rng);
    let mut left = tokens;
    let mut chunks = Vec::with_capacity(tokens.div_ceil(config.chunk_tokens.max(1)) as usize);
    while left > 0 {
        let now = left.min(config.chunk_tokens.max(1));
        if !chunks.is_empty() {
            // A chunk goes out when its last token is there.
            work_ns += (0..now).map(|_| config.itl.draw_ns(&mut rng)).sum::<u64>();
        }
        chunks.push(PlannedChunk {
            work_ns,
            tokens: now,
        });
        left -= now;
    }
    let somewhere = rng.random_range(0..chunks.len().max(1));
    let faults = &config.faults;
    let mut below = 0.0;
    let mut falls = |share: f64| {
        below += share;
        fate < below
    };
    let ends = if falls(faults.status_share) {
        Ends::Status(faults.status)
    } else if falls(faults.reset_share) {
        Ends::Reset(somewhere)
    } else if falls(faults.truncate_share) {
        Ends::Truncated(somewhere)
    } else if falls(faults.no_done_share) {
        Ends::WithoutDone
    } else {
        Ends::Well
    };
    AnswerPlan {
        ends,
        chunks,
        cut_seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::law::Law;
    use proptest::prelude::*;

    #[test]
    fn chunks_come_when_their_last_token_is_there() {
        let config = MockConfig {
            chunk_tokens: 3,
            ..MockConfig::default()
        };
        let made = plan(&config, 0, 7);
        let chunks: Vec<(u64, u32)> = made
            .chunks
            .iter()
            .map(|chunk| (chunk.work_ns / 1_000_000, chunk.tokens))
            .collect();
        assert_eq!(chunks, [(50, 3), (110, 3), (130, 1)]);
        assert_eq!(plan(&config, 0, 0).chunks, []);
    }

    #[test]
    fn shares_are_kept_and_plans_repeat() {
        let config = MockConfig {
            ttft: Law::Exponential(1000),
            faults: Faults {
                status_share: 0.1,
                status: 503,
                reset_share: 0.2,
                truncate_share: 0.3,
                no_done_share: 0.4,
            },
            ..MockConfig::default()
        };
        let plans: Vec<AnswerPlan> = (0..20_000).map(|n| plan(&config, n, 4)).collect();
        assert_eq!(plans[7], plan(&config, 7, 4));
        let share = |wanted: fn(&Ends) -> bool| {
            plans.iter().filter(|plan| wanted(&plan.ends)).count() as f64 / plans.len() as f64
        };
        // Three standard errors at most.
        for (found, expected) in [
            (share(|ends| *ends == Ends::Status(503)), 0.1),
            (share(|ends| matches!(ends, Ends::Reset(_))), 0.2),
            (share(|ends| matches!(ends, Ends::Truncated(0..=3))), 0.3),
            (share(|ends| *ends == Ends::WithoutDone), 0.4),
            (share(|ends| *ends == Ends::Well), 0.0),
        ] {
            assert!((found - expected).abs() < 0.011, "{found} for {expected}");
        }
    }

    #[test]
    fn a_stall_takes_no_working_time() {
        let stall = Stall {
            every_ns: 10,
            lasts_ns: 2,
        };
        for (from, work, after) in [
            (0, 0, 0),
            (0, 8, 8),
            (0, 9, 11),
            (5, 3, 8),
            (5, 4, 11),
            (8, 1, 11),
            (9, 1, 11),
            (9, 0, 9),
            (12, 20, 36),
        ] {
            assert_eq!(stall.after(from, work), after, "{from} + {work}");
        }
    }

    proptest! {
        #[test]
        fn stalls_only_delay_and_parts_add_up(
            from in 0..1_000_u64, a in 1..300_u64, b in 1..300_u64, lasts in 1..9_u64,
        ) {
            let stall = Stall { every_ns: 10, lasts_ns: lasts };
            let whole = stall.after(from, a + b);
            prop_assert!(whole >= from + a + b);
            prop_assert_eq!(stall.after(stall.after(from, a), b), whole);
        }
    }
}
