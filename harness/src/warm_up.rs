//! Batches of short requests before a run, so that what a server compiles or captures for each size
//! of a batch is done by then.
//!
//! Invariant: nothing of it is measured or recorded; the report says which batches there were, how
//! long each took and what failed. What it does not do: long prompts, whose shapes a server may
//! treat apart; `--warmup` is for those.

use std::sync::Arc;

use backends::{Backend, Delivery, EventKind, Nanos, Prompt, Request, Ticket};
use models::{Message, Role, SamplingParams};

/// Tokens of each answer: enough that the whole batch is decoded together.
const TOKENS: u32 = 16;
/// A batch may take so long; compiling takes minutes with some.
const LIMIT: Nanos = Nanos(600_000_000_000);
/// Tickets that no request of a run has.
const FIRST_TICKET: u64 = 1 << 48;
/// Larger batches have to be asked for.
const LARGEST_BY_DEFAULT: u32 = 256;

/// Which batches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Batches {
    /// Powers of two up to what the load will need at once, for targets with a vendor.
    #[default]
    Auto,
    /// These; none is possible.
    These(Vec<u32>),
}

impl Batches {
    /// Reads `--warm-up-batches`.
    pub fn parse(text: &str) -> Result<Self, String> {
        const LARGEST: u32 = 4096;
        match text {
            "auto" => return Ok(Self::Auto),
            "none" => return Ok(Self::These(Vec::new())),
            _ => {}
        }
        let sizes: Result<Vec<u32>, _> = text.split(',').map(|size| size.trim().parse()).collect();
        let sizes = sizes.ok();
        let accepted = |sizes: &Vec<u32>| sizes.iter().all(|size| (1..=LARGEST).contains(size));
        sizes.filter(accepted).map(Self::These).ok_or_else(|| {
            format!(
                "is `{text}`; accepted are `auto`, `none`, and sizes from 1 to {LARGEST} with \
                 commas, as in `1,2,4,8`"
            )
        })
    }

    /// The sizes, for a load that needs `at_once` requests.
    pub fn sizes(&self, has_vendor: bool, at_once: usize) -> Vec<u32> {
        match self {
            Self::These(sizes) => sizes.clone(),
            Self::Auto if !has_vendor => Vec::new(),
            Self::Auto => {
                let most = u32::try_from(at_once).unwrap_or(u32::MAX);
                let most = most.clamp(1, LARGEST_BY_DEFAULT);
                let doubled = std::iter::successors(Some(1), |size: &u32| size.checked_mul(2));
                let mut sizes: Vec<u32> = doubled.take_while(|size| *size < most).collect();
                sizes.push(most);
                sizes
            }
        }
    }
}

/// A batch that was run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warmed {
    /// Requests at once.
    pub size: u32,
    /// How long all of them took.
    pub seconds: f64,
    /// Requests without a proper end.
    pub failed: u32,
}

/// Runs each batch to its end.
pub async fn run(backend: &Arc<dyn Backend>, sizes: &[u32]) -> Vec<Warmed> {
    let clock = backend.clock();
    let mut warmed = Vec::new();
    let mut number = 0;
    for &size in sizes {
        let start = clock.now();
        let mut streams = Vec::new();
        for _ in 0..size {
            let ticket = Ticket {
                id: FIRST_TICKET + number,
                due: Nanos::ZERO,
                delivery: Delivery::AtOnce,
            };
            streams.push(backend.submit_at(request(number), ticket));
            number += 1;
        }
        let mut ok = 0;
        let all = async {
            for stream in &mut streams {
                while let Some(event) = stream.next().await {
                    ok += u32::from(matches!(event.kind, EventKind::Finished { .. }));
                }
            }
        };
        // What is not over by then is cancelled, and counted as failed.
        if clock.timeout(start.plus(LIMIT), all).await.is_err() {
            tracing::warn!(size, "a warm-up batch was given up");
        }
        warmed.push(Warmed {
            size,
            seconds: clock.now().since(start).as_secs_f64(),
            failed: size - ok,
        });
    }
    warmed
}

/// A short request; its number keeps it from being another's prefix.
fn request(number: u64) -> Request {
    let message = Message {
        role: Role::User,
        content: format!("{number}：请用一句话介绍一下你自己。"),
    };
    Request {
        prompt: Prompt {
            tokens: Arc::from([]),
            messages: Arc::from([message]),
        },
        max_tokens: TOKENS,
        ignore_eos: true,
        min_tokens: 0,
        sampling: SamplingParams {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            seed: number,
        },
    }
}

/// In words, for the report.
pub fn words(warmed: &[Warmed]) -> String {
    let each = |batch: &Warmed| format!("{}: {:.2} s", batch.size, batch.seconds);
    warmed.iter().map(each).collect::<Vec<_>>().join(", ")
}

/// What went wrong, if anything did.
pub fn warning(warmed: &[Warmed]) -> Option<String> {
    let failed: u32 = warmed.iter().map(|batch| batch.failed).sum();
    let all: u32 = warmed.iter().map(|batch| batch.size).sum();
    (failed > 0).then(|| format!("{failed} of {all} requests of the warm-up batches failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_chosen() {
        for (text, has_vendor, at_once, sizes) in [
            ("auto", true, 20, &[1, 2, 4, 8, 16, 20][..]),
            ("auto", true, 1, &[1]),
            ("auto", true, 8, &[1, 2, 4, 8]),
            ("auto", true, 100_000, &[1, 2, 4, 8, 16, 32, 64, 128, 256]),
            ("auto", false, 20, &[]),
            ("none", true, 20, &[]),
            ("3,5", false, 2, &[3, 5]),
        ] {
            let batches = Batches::parse(text).expect(text);
            assert_eq!(batches.sizes(has_vendor, at_once), sizes, "{text}");
        }
        for text in ["", "0", "1,,2", "1-8", "5000"] {
            let error = Batches::parse(text).expect_err(text);
            assert!(error.contains("as in `1,2,4,8`"), "{error}");
        }
    }
}
