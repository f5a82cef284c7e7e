//! One engine for every device: continuous batching over an [`Executor`].
//!
//! The engine's loop takes new requests, drops cancelled ones, plans a step, lets the executor run
//! it, and sends each token with the instant at which the step was done. It owns a thread of its
//! own in real time and is a task in virtual time ([`Clock::spawn_engine`]).
//!
//! Invariant: every request that is submitted gets its last event, whatever the device does, short
//! of a panic; then the streams end without one, which readers count as an engine failure.

mod batch;
mod blocks;
mod scheduler;
mod times;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

pub use batch::{Batch, Row, Sample, SequenceId, StepOutput};
pub use blocks::{BlockId, BlockPool, PrefixCache, PrefixId, blocks_for};
pub use scheduler::{AddError, Admission, Capacity, NewSequence, Progress, Scheduler};
pub use times::{DeviceSeconds, StepTimes};

use crate::clock::{Clock, Nanos};
use crate::contract::{
    Backend, Event, EventKind, Failure, FailureCause, Gauges, Request, SystemInfo, TokenStream,
    Usage,
};

/// Runs one planned step on a device.
pub trait Executor: Send + 'static {
    /// What the device can hold; asked once, at the start.
    fn capacity(&self) -> Capacity;
    /// Runs a step; may block in real time. Called by the engine, one step at a time.
    fn step(
        &mut self,
        batch: &Batch,
    ) -> impl Future<Output = Result<StepOutput, DeviceError>> + Send;
}

/// A step could not be run. Every request in the engine fails with it; the engine goes on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

impl DeviceError {
    /// Runs a step; a panic in it is an error of the device, not the end of the engine.
    pub(crate) fn catch(
        step: impl FnOnce() -> Result<StepOutput, Self>,
    ) -> Result<StepOutput, Self> {
        catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
            let words = words.unwrap_or("no message");
            Err(Self(format!("the model panicked: {words}")))
        })
    }
}

/// Continuous batching over one device.
#[derive(Debug)]
pub struct Engine {
    clock: Clock,
    info: SystemInfo,
    submissions: mpsc::UnboundedSender<Submission>,
    counters: Arc<Counters>,
    end_tokens: Arc<[u32]>,
}

#[derive(Debug)]
struct Submission {
    request: Request,
    end_tokens: Arc<[u32]>,
    events: mpsc::UnboundedSender<Event>,
    ticket: Ticket,
}

/// A request that has not had its last event; it counts itself.
#[derive(Debug)]
struct Ticket(Arc<Counters>);

impl Ticket {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Counters {
    in_flight: AtomicU32,
    waiting: AtomicU32,
    running: AtomicU32,
    used_blocks: AtomicU32,
    total_blocks: AtomicU32,
    preemptions: AtomicU64,
    times: Mutex<StepTimes>,
}

impl Engine {
    /// Starts an engine; it ends when this value is dropped and its requests are done. In virtual
    /// time it must be called inside [`Clock::block_on`].
    pub fn start<E: Executor>(
        executor: E,
        clock: Clock,
        prefix_cache: PrefixCache,
        end_tokens: Arc<[u32]>,
        info: SystemInfo,
    ) -> Self {
        let (submissions, receiver) = mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let capacity = executor.capacity();
        counters
            .total_blocks
            .store(capacity.blocks, Ordering::Relaxed);
        let worker = Worker {
            executor,
            clock: clock.clone(),
            scheduler: Scheduler::new(capacity, prefix_cache),
            live: FxHashMap::default(),
            next_id: 0,
            counters: Arc::clone(&counters),
        };
        clock.spawn_engine(worker.run(receiver));
        Self {
            clock,
            info,
            submissions,
            counters,
            end_tokens,
        }
    }
}

impl Backend for Engine {
    fn describe(&self) -> SystemInfo {
        self.info.clone()
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn submit(&self, request: Request) -> TokenStream {
        let (events, stream) = TokenStream::channel();
        let at = self.clock.now();
        let send = |kind| drop(events.send(Event { at, kind }));
        send(EventKind::Sent);
        let end_tokens = if request.ignore_eos {
            Arc::from([])
        } else {
            Arc::clone(&self.end_tokens)
        };
        let submission = Submission {
            request,
            end_tokens,
            events: events.clone(),
            ticket: Ticket::new(&self.counters),
        };
        if self.submissions.send(submission).is_err() {
            send(EventKind::Failed(Failure::new(
                FailureCause::Engine,
                "the engine has stopped",
            )));
        }
        stream
    }

    fn gauges(&self) -> Gauges {
        let read = |counter: &AtomicU32| Some(counter.load(Ordering::Relaxed));
        Gauges {
            in_flight: read(&self.counters.in_flight),
            waiting: read(&self.counters.waiting),
            running: read(&self.counters.running),
            used_blocks: read(&self.counters.used_blocks),
            total_blocks: read(&self.counters.total_blocks),
            preemptions: Some(self.counters.preemptions.load(Ordering::Relaxed)),
        }
    }

    fn step_times(&self) -> Option<StepTimes> {
        let times = self.counters.times.lock();
        Some(times.unwrap_or_else(PoisonError::into_inner).clone())
    }
}

struct Worker<E> {
    executor: E,
    clock: Clock,
    scheduler: Scheduler,
    live: FxHashMap<SequenceId, Live>,
    next_id: u64,
    counters: Arc<Counters>,
}

/// A request in the engine.
struct Live {
    events: mpsc::UnboundedSender<Event>,
    usage: Usage,
    ticket: Ticket,
}

impl Live {
    /// Sends the last event. The request no longer counts by then, so that whoever reads it finds
    /// its place free.
    fn end(self, at: Nanos, kind: EventKind) {
        drop(self.ticket);
        drop(self.events.send(Event { at, kind }));
    }
}

impl<E: Executor> Worker<E> {
    async fn run(mut self, mut submissions: mpsc::UnboundedReceiver<Submission>) {
        let mut batch = Batch::default();
        loop {
            while let Ok(submission) = submissions.try_recv() {
                self.add(submission);
            }
            self.drop_cancelled();
            self.scheduler.plan(&mut batch);
            self.publish_counters();
            if batch.rows.is_empty() {
                match submissions.recv().await {
                    Some(submission) => self.add(submission),
                    None => return,
                }
                continue;
            }
            self.announce_admissions();
            let began = self.clock.now();
            let output = self.executor.step(&batch).await;
            let at = self.clock.now();
            let times = self.counters.times.lock();
            let mut times = times.unwrap_or_else(PoisonError::into_inner);
            times.add(&batch, at.since(began));
            drop(times);
            match output {
                Ok(output) if output.tokens.len() == batch.samples() => self.apply(&output, at),
                Ok(output) => {
                    let (found, wanted) = (output.tokens.len(), batch.samples());
                    self.fail_all(
                        &format!("the device gave {found} tokens for {wanted} rows"),
                        at,
                    );
                }
                Err(error) => self.fail_all(&error.to_string(), at),
            }
        }
    }

    fn add(&mut self, submission: Submission) {
        let Submission {
            request,
            end_tokens,
            events,
            ticket,
        } = submission;
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let input_tokens = request.prompt.tokens.len() as u64;
        let added = self.scheduler.add(NewSequence {
            id,
            prompt: request.prompt.tokens,
            max_tokens: request.max_tokens,
            end_tokens,
            min_tokens: request.min_tokens,
            params: request.sampling,
        });
        let usage = Usage {
            input_tokens,
            cached_tokens: None,
            output_tokens: 0,
        };
        let live = Live {
            events,
            usage,
            ticket,
        };
        match added {
            Ok(()) => drop(self.live.insert(id, live)),
            Err(error) => {
                let failure = Failure::new(FailureCause::Rejected, error.to_string());
                live.end(self.clock.now(), EventKind::Failed(failure));
            }
        }
    }

    /// A dropped stream is how a request is cancelled.
    fn drop_cancelled(&mut self) {
        let Self {
            live, scheduler, ..
        } = self;
        live.retain(|&id, request| {
            let wanted = !request.events.is_closed();
            if !wanted {
                scheduler.cancel(id);
            }
            wanted
        });
    }

    fn announce_admissions(&mut self) {
        let at = self.clock.now();
        for admission in self.scheduler.admissions() {
            if let Some(request) = self.live.get_mut(&admission.id) {
                let cached_tokens = admission.cached_tokens;
                request.usage.cached_tokens = Some(u64::from(cached_tokens));
                let kind = EventKind::Admitted { cached_tokens };
                drop(request.events.send(Event { at, kind }));
            }
        }
    }

    fn apply(&mut self, output: &StepOutput, at: Nanos) {
        let live = &mut self.live;
        self.scheduler.apply(output, |id, progress| match progress {
            Progress::Token(token) => {
                if let Some(request) = live.get_mut(&id) {
                    request.usage.output_tokens += 1;
                    drop(request.events.send(Event {
                        at,
                        kind: EventKind::Token(token),
                    }));
                }
            }
            Progress::Finished(reason) => {
                if let Some(request) = live.remove(&id) {
                    let kind = EventKind::Finished {
                        reason,
                        usage: Some(request.usage),
                    };
                    request.end(at, kind);
                }
            }
        });
    }

    fn fail_all(&mut self, message: &str, at: Nanos) {
        tracing::error!(message, "device step failed");
        for id in self.scheduler.clear() {
            if let Some(request) = self.live.remove(&id) {
                let failure = Failure::new(FailureCause::Engine, message);
                request.end(at, EventKind::Failed(failure));
            }
        }
    }

    fn publish_counters(&self) {
        let counters = &self.counters;
        counters
            .waiting
            .store(self.scheduler.waiting() as u32, Ordering::Relaxed);
        counters
            .running
            .store(self.scheduler.running() as u32, Ordering::Relaxed);
        counters
            .used_blocks
            .store(self.scheduler.pool().used() as u32, Ordering::Relaxed);
        counters
            .preemptions
            .store(self.scheduler.preemptions(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
