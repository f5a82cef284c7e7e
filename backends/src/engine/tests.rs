//! The engine over the simulated device, in virtual time: exact instants, no wall clock.

use std::collections::BTreeMap;

use models::{BLOCK_TOKENS, SamplingParams};

use super::*;
use crate::contract::{FinishReason, Prompt};

/// A device whose step takes 10 ms and 1 ms for each token; it fails at the steps it is told to.
struct TestDevice {
    clock: Clock,
    blocks: u32,
    steps: u32,
    fail_at: Option<u32>,
}

impl Executor for TestDevice {
    fn capacity(&self) -> Capacity {
        let max_context = 4096;
        Capacity {
            blocks: self.blocks,
            max_sequences: 8,
            max_batch_tokens: 64,
            max_context,
        }
    }

    async fn step(&mut self, batch: &Batch) -> Result<StepOutput, DeviceError> {
        self.steps += 1;
        self.clock
            .sleep(Nanos(10_000_000 + 1_000_000 * batch.tokens.len() as u64))
            .await;
        if self.fail_at == Some(self.steps) {
            return Err(DeviceError("out of memory".into()));
        }
        Ok(StepOutput {
            tokens: vec![9; batch.samples()],
        })
    }
}

fn engine(clock: &Clock, blocks: u32, fail_at: Option<u32>) -> Engine {
    let device = TestDevice {
        clock: clock.clone(),
        blocks,
        steps: 0,
        fail_at,
    };
    let info = SystemInfo {
        kind: "test".into(),
        device: "test".into(),
        details: BTreeMap::new(),
    };
    Engine::start(device, clock.clone(), PrefixCache::On, Arc::from([9]), info)
}

fn request(prompt: &[u32], max_tokens: u32, ignore_eos: bool) -> Request {
    let prompt = Prompt {
        tokens: prompt.into(),
        messages: Arc::from([]),
    };
    let sampling = SamplingParams {
        temperature: 0.0,
        top_k: None,
        top_p: None,
        seed: 1,
    };
    Request {
        prompt,
        max_tokens,
        ignore_eos,
        min_tokens: 0,
        sampling,
    }
}

async fn collect(mut stream: TokenStream) -> Vec<(u64, EventKind)> {
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push((event.at.0 / 1_000_000, event.kind));
    }
    events
}

fn usage(input: u64, cached: u64, output: u64) -> Usage {
    Usage {
        input_tokens: input,
        cached_tokens: Some(cached),
        output_tokens: output,
    }
}

#[test]
fn each_token_carries_the_instant_its_step_was_done() {
    let clock = Clock::simulated();
    let events = clock.block_on(async {
        collect(engine(&clock, 64, None).submit(request(&[5; 20], 3, true))).await
    });
    let finished = EventKind::Finished {
        reason: FinishReason::Length,
        usage: Some(usage(20, 0, 3)),
    };
    let expected = [
        (0, EventKind::Sent),
        (0, EventKind::Admitted { cached_tokens: 0 }),
        (30, EventKind::Token(9)),
        (41, EventKind::Token(9)),
        (52, EventKind::Token(9)),
        (52, finished),
    ];
    assert_eq!(events, expected);
}

#[test]
fn the_end_token_ends_an_answer_unless_it_is_ignored() {
    let clock = Clock::simulated();
    let events = clock.block_on(async {
        collect(engine(&clock, 64, None).submit(request(&[5; 20], 3, false))).await
    });
    let finished = EventKind::Finished {
        reason: FinishReason::Stop,
        usage: Some(usage(20, 0, 1)),
    };
    assert_eq!(events.last(), Some(&(30, finished)));
}

#[test]
fn a_dropped_stream_frees_its_blocks() {
    let clock = Clock::simulated();
    clock.block_on(async {
        let engine = engine(&clock, 64, None);
        let mut stream = engine.submit(request(&[5; 200], 1000, true));
        while !matches!(
            stream.next().await.map(|e| e.kind),
            Some(EventKind::Token(_))
        ) {}
        let gauges = engine.gauges();
        assert!(gauges.used_blocks > Some(0) && gauges.in_flight == Some(1));
        drop(stream);
        clock.sleep(Nanos(100_000_000)).await;
        let gauges = engine.gauges();
        assert_eq!(
            (gauges.used_blocks, gauges.running, gauges.in_flight),
            (Some(0), Some(0), Some(0))
        );
    });
}

#[test]
fn a_request_is_in_flight_from_its_submission_to_its_last_event() {
    let clock = Clock::simulated();
    clock.block_on(async {
        let engine = engine(&clock, 2, Some(3));
        let in_flight = || engine.gauges().in_flight;
        let answered = engine.submit(request(&[5; 20], 1, true));
        let too_long = engine.submit(request(&[5; 200], 1, true));
        assert_eq!(in_flight(), Some(2), "before the engine has looked");
        for stream in [answered, too_long] {
            collect(stream).await;
        }
        assert_eq!(in_flight(), Some(0));
        let mut failed = engine.submit(request(&[5; 20], 9, true));
        loop {
            let event = failed.next().await.expect("a last event");
            match event.kind {
                EventKind::Failed(_) => break assert_eq!(in_flight(), Some(0)),
                _ => assert_eq!(in_flight(), Some(1)),
            }
        }
    });
}

#[test]
fn a_device_error_fails_what_runs_and_spares_what_comes_later() {
    let clock = Clock::simulated();
    clock.block_on(async {
        let engine = engine(&clock, 64, Some(2));
        let events = collect(engine.submit(request(&[5; 20], 5, true))).await;
        let failure = Failure::new(FailureCause::Engine, "out of memory");
        assert_eq!(events.last(), Some(&(41, EventKind::Failed(failure))));
        let events = collect(engine.submit(request(&[6; 20], 1, true))).await;
        assert!(matches!(
            events.last(),
            Some((_, EventKind::Finished { .. }))
        ));
    });
}

#[test]
fn a_request_that_cannot_fit_is_rejected_with_its_numbers() {
    let clock = Clock::simulated();
    let events = clock.block_on(async {
        collect(engine(&clock, 2, None).submit(request(&[5; 2 * BLOCK_TOKENS], 1, true))).await
    });
    let Some((_, EventKind::Failed(failure))) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(failure.cause, FailureCause::Rejected);
    assert!(failure.message.contains("64"), "{}", failure.message);
}

#[test]
fn two_runs_in_virtual_time_are_equal() {
    let run = || {
        let clock = Clock::simulated();
        clock.block_on(async {
            let engine = engine(&clock, 24, None);
            let mut tasks = Vec::new();
            for id in 0..40_u64 {
                let stream_clock = clock.clone();
                let prompt: Vec<u32> = (0..30 + (id * 13 % 50) as u32).collect();
                let request = request(&prompt, 5 + (id % 7) as u32, true);
                stream_clock.sleep(Nanos(7_000_000)).await;
                tasks.push(tokio::spawn(collect(engine.submit(request))));
            }
            let mut all = Vec::new();
            for task in tasks {
                all.push(task.await.expect("the task ends"));
            }
            all
        })
    };
    assert_eq!(run(), run());
}
