//! The program's only source of time: one timer heap with two drivers.
//!
//! A *wall* clock has a pacer thread that sleeps to the earliest deadline (tokio's own timer rounds
//! up to the next millisecond, which would show in every figure). A *simulated* clock stands still
//! while anything can run and jumps to the earliest deadline when nothing can, so a run in virtual
//! time takes as long as its computation and is the same on every machine.
//!
//! Invariants: `now` never decreases; timers with equal deadlines fire in the order in which they
//! were made; a simulated run in which everything waits and no timer is set is a deadlock, and
//! panics saying so. Which of the two drivers runs is fixed at construction and invisible after.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::priority;

/// Nanoseconds since the start of the run. The only time type in the program.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The start of the run.
    pub const ZERO: Self = Self(0);

    /// From seconds; negative and NaN become zero.
    pub fn from_secs_f64(seconds: f64) -> Self {
        Self((seconds * 1e9).round() as u64)
    }

    /// In seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// `self − earlier`, or zero.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// `self + other`, saturating.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// The run's time source. Cheap to clone; all clones are one clock.
#[derive(Clone)]
pub struct Clock(Arc<Shared>);

/// A deadline passed before the future was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

struct Shared {
    driver: Driver,
    timers: Mutex<Timers>,
    /// Wakes the pacer when an earlier deadline arrives.
    changed: Condvar,
}

enum Driver {
    Wall { origin_ns: u64 },
    Simulated { now_ns: AtomicU64 },
}

#[derive(Default)]
struct Timers {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    wakers: FxHashMap<u64, Waker>,
    next_id: u64,
}

impl Clock {
    /// A clock that follows real time.
    pub fn wall() -> Self {
        let clock = Self::with(Driver::Wall {
            origin_ns: monotonic_now_ns(),
        });
        let weak = Arc::downgrade(&clock.0);
        std::thread::Builder::new()
            .name("pacer".into())
            .spawn(move || pace(&weak))
            .expect("a thread can be started");
        clock
    }

    /// A clock whose time is virtual.
    pub fn simulated() -> Self {
        Self::with(Driver::Simulated {
            now_ns: AtomicU64::new(0),
        })
    }

    fn with(driver: Driver) -> Self {
        let timers = Mutex::new(Timers::default());
        Self(Arc::new(Shared {
            driver,
            timers,
            changed: Condvar::new(),
        }))
    }

    /// Is time virtual?
    pub fn is_simulated(&self) -> bool {
        matches!(self.0.driver, Driver::Simulated { .. })
    }

    /// The present instant.
    pub fn now(&self) -> Nanos {
        self.0.now()
    }

    /// An instant of this clock on the system's monotonic clock, in nanoseconds: how instants of
    /// two processes on one machine are compared. Virtual instants stay as they are.
    pub fn monotonic_ns(&self, at: Nanos) -> u64 {
        match &self.0.driver {
            Driver::Wall { origin_ns } => origin_ns.saturating_add(at.0),
            Driver::Simulated { .. } => at.0,
        }
    }

    /// What the system's wall clock, in nanoseconds since 1970, is ahead of this clock by, to some
    /// microseconds; none when the two could not be read that close to each other.
    #[cfg(target_os = "linux")]
    pub(crate) fn wall_is_ahead_by(&self) -> Option<i64> {
        /// Between two readings the thread may have lost its processor.
        const TRIES: usize = 3;
        const CLOSE: Nanos = Nanos(20_000);
        let tries = (0..TRIES).map(|_| {
            let before = self.now();
            let wall_ns = system_ns(rustix::time::ClockId::Realtime).cast_signed();
            let took = self.now().since(before);
            (took, wall_ns - (before.0 + took.0 / 2).cast_signed())
        });
        let closest = tries.min_by_key(|(took, _)| *took);
        closest.and_then(|(took, ahead)| (took <= CLOSE).then_some(ahead))
    }

    /// Completes at `deadline`, or at once if that has passed.
    pub fn sleep_until(&self, deadline: Nanos) -> Sleep {
        Sleep {
            clock: self.clone(),
            deadline,
            id: None,
        }
    }

    /// Completes after `duration`.
    pub fn sleep(&self, duration: Nanos) -> Sleep {
        self.sleep_until(self.now().plus(duration))
    }

    /// Runs `future` until it is done or `deadline` comes, whichever is first.
    pub async fn timeout<F: Future>(
        &self,
        deadline: Nanos,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut sleep = pin!(self.sleep_until(deadline));
        std::future::poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            sleep.as_mut().poll(context).map(|()| Err(Elapsed))
        })
        .await
    }

    /// Runs `main` to its end on the runtime that fits this clock.
    ///
    /// # Panics
    /// In virtual time, when every task waits and no timer is set.
    pub fn block_on<F: Future>(&self, main: F) -> F::Output {
        self.runtime(|| ()).block_on(main)
    }

    /// The same beside a thread of this process that stamps what it reads: tasks give way to it, so
    /// that it need not wait for the end of their time slice. Only on Linux, where a thread has a
    /// priority of its own.
    ///
    /// # Panics
    /// As [`Self::block_on`].
    pub fn block_on_giving_way<F: Future>(&self, main: F) -> F::Output {
        self.runtime(priority::give_way).block_on(main)
    }

    /// In real time each thread of tasks begins with `begin`.
    fn runtime(&self, begin: fn()) -> tokio::runtime::Runtime {
        let built = if self.is_simulated() {
            let shared = Arc::clone(&self.0);
            tokio::runtime::Builder::new_current_thread()
                .on_thread_park(move || shared.advance())
                .build()
        } else {
            // A second worker on one processor would only be in the way.
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            tokio::runtime::Builder::new_multi_thread()
                .enable_io()
                .worker_threads(processors.min(2))
                .on_thread_start(begin)
                .build()
        };
        built.expect("the async runtime can be started")
    }

    /// Runs an engine beside the callers: on a thread of its own in real time, so that a device
    /// step may block; as a task in virtual time.
    ///
    /// # Panics
    /// In virtual time, when called outside [`Clock::block_on`].
    pub fn spawn_engine<F: Future<Output = ()> + Send + 'static>(&self, engine: F) {
        if self.is_simulated() {
            tokio::spawn(engine);
            return;
        }
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                tokio::runtime::Builder::new_current_thread()
                    .build()
                    .expect("the engine's runtime can be started")
                    .block_on(engine);
            })
            .expect("a thread can be started");
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_simulated() {
            "simulated"
        } else {
            "wall"
        };
        write!(formatter, "Clock({kind}, {:?})", self.now())
    }
}

impl Shared {
    fn now(&self) -> Nanos {
        match &self.driver {
            Driver::Wall { origin_ns } => Nanos(monotonic_now_ns().saturating_sub(*origin_ns)),
            Driver::Simulated { now_ns } => Nanos(now_ns.load(Ordering::Acquire)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Timers> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The idle hook of virtual time: jumps to the earliest deadline and wakes its waiter.
    fn advance(&self) {
        let Driver::Simulated { now_ns } = &self.driver else {
            return;
        };
        let next = self.lock().pop();
        let Some((deadline, waker)) = next else {
            panic!("virtual time stands still: every task waits and no timer is set (deadlock)");
        };
        now_ns.fetch_max(deadline, Ordering::AcqRel);
        waker.wake();
    }
}

impl Timers {
    /// The earliest timer still wanted.
    fn pop(&mut self) -> Option<(u64, Waker)> {
        while let Some(Reverse((deadline, id))) = self.heap.pop() {
            if let Some(waker) = self.wakers.remove(&id) {
                return Some((deadline, waker));
            }
        }
        None
    }

    fn pop_due(&mut self, now: Nanos) -> Option<Waker> {
        while self
            .heap
            .peek()
            .is_some_and(|Reverse((deadline, _))| *deadline <= now.0)
        {
            let Reverse((_, id)) = self.heap.pop()?;
            if let Some(waker) = self.wakers.remove(&id) {
                return Some(waker);
            }
        }
        None
    }

    /// Forgets timers that were dropped, once they outnumber those still wanted, and gives back the
    /// memory of a crowd that has gone.
    fn compact(&mut self) {
        const WORTH_IT: usize = 64;
        let Self { heap, wakers, .. } = self;
        if heap.len() > WORTH_IT + 2 * wakers.len() {
            heap.retain(|Reverse((_, id))| wakers.contains_key(id));
            let enough = WORTH_IT + 2 * wakers.len();
            if wakers.capacity() > 4 * enough {
                heap.shrink_to(enough);
                wakers.shrink_to(enough);
            }
        }
    }
}

/// The pacer thread of a wall clock. It ends with the last clone of its clock.
fn pace(shared: &std::sync::Weak<Shared>) {
    /// How often an idle pacer looks whether its clock is still there.
    const IDLE: Duration = Duration::from_millis(500);
    while let Some(shared) = shared.upgrade() {
        let mut due = Vec::new();
        let timers = {
            let mut timers = shared.lock();
            let now = shared.now();
            while let Some(waker) = timers.pop_due(now) {
                due.push(waker);
            }
            timers
        };
        if !due.is_empty() {
            drop(timers);
            due.into_iter().for_each(Waker::wake);
            continue;
        }
        let wait = timers.heap.peek().map_or(IDLE, |Reverse((deadline, _))| {
            Duration::from_nanos(deadline.saturating_sub(shared.now().0)).min(IDLE)
        });
        drop(shared.changed.wait_timeout(timers, wait));
    }
}

/// The system's monotonic clock: the one place that reads it. For measuring computations, which no
/// run's clock drives; everything in a run goes by its [`Clock`].
#[cfg(unix)]
pub fn monotonic_now_ns() -> u64 {
    system_ns(rustix::time::ClockId::Monotonic)
}

#[cfg(unix)]
fn system_ns(clock: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The same, from an origin of its own: other processes cannot be compared with.
#[cfg(not(unix))]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the system's clock"
)]
pub fn monotonic_now_ns() -> u64 {
    static ORIGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let origin = ORIGIN.get_or_init(std::time::Instant::now);
    origin.elapsed().as_nanos() as u64
}

/// Completes at its deadline. Dropping it takes the timer back.
#[derive(Debug)]
#[must_use = "a sleep does nothing unless awaited"]
pub struct Sleep {
    clock: Clock,
    deadline: Nanos,
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.clock.0);
        if shared.now() >= self.deadline {
            return Poll::Ready(());
        }
        let mut timers = shared.lock();
        if let Some(waker) = self.id.and_then(|id| timers.wakers.get_mut(&id)) {
            waker.clone_from(context.waker());
            return Poll::Pending;
        }
        timers.compact();
        let id = timers.next_id;
        timers.next_id += 1;
        let earliest = timers
            .heap
            .peek()
            .is_none_or(|Reverse((at, _))| self.deadline.0 < *at);
        timers.heap.push(Reverse((self.deadline.0, id)));
        timers.wakers.insert(id, context.waker().clone());
        drop(timers);
        self.id = Some(id);
        if earliest {
            shared.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.clock.0.lock().wakers.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[cfg(target_os = "linux")]
    #[test]
    fn tasks_give_way_where_they_are_to_and_nothing_else_does() {
        let niceness = || rustix::process::getpriority_process(None).expect("of this thread");
        let before = niceness();
        let clock = Clock::wall();
        let of_task = async || {
            tokio::spawn(async move { niceness() })
                .await
                .expect("it ran")
        };
        assert_eq!(clock.block_on(of_task()), before);
        let (task, main) = clock.block_on_giving_way(async { (of_task().await, niceness()) });
        assert_eq!(task, (before + 10).min(19));
        assert_eq!((main, niceness()), (before, before));
    }

    #[test]
    fn virtual_time_fires_a_million_timers_in_order() {
        let clock = Clock::simulated();
        let fired = clock.block_on(async {
            let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
            for task in 0..1000_u64 {
                let (clock, sender) = (clock.clone(), sender.clone());
                tokio::spawn(async move {
                    for step in 0..1000_u64 {
                        clock
                            .sleep_until(Nanos(1 + step * 1_000 + (task * 7919) % 1000))
                            .await;
                        sender.send(clock.now().0).expect("the receiver lives");
                    }
                });
            }
            drop(sender);
            let mut fired = Vec::new();
            while let Some(at) = receiver.recv().await {
                fired.push(at);
            }
            fired
        });
        assert_eq!(fired.len(), 1_000_000);
        assert!(fired.is_sorted());
        assert_eq!(fired.last(), Some(&1_000_000));
    }

    #[test]
    fn equal_deadlines_fire_in_the_order_they_were_made() {
        let clock = Clock::simulated();
        let order = clock.block_on(async {
            let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
            for task in 0..100 {
                let (clock, sender) = (clock.clone(), sender.clone());
                tokio::spawn(async move {
                    clock.sleep_until(Nanos(5)).await;
                    sender.send(task).expect("the receiver lives");
                });
            }
            drop(sender);
            let mut order = Vec::new();
            while let Some(task) = receiver.recv().await {
                order.push(task);
            }
            order
        });
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_deadlock_in_virtual_time_panics_and_says_so() {
        let outcome = std::panic::catch_unwind(|| {
            Clock::simulated().block_on(std::future::pending::<()>());
        });
        let message = *outcome
            .expect_err("it must panic")
            .downcast::<&str>()
            .expect("a message");
        assert!(message.contains("deadlock"), "{message}");
    }

    #[test]
    fn timeout_is_whichever_comes_first() {
        let clock = Clock::simulated();
        clock.block_on(async {
            let slow = clock.timeout(Nanos(10), clock.sleep_until(Nanos(20))).await;
            assert_eq!((slow, clock.now()), (Err(Elapsed), Nanos(10)));
            let fast = clock.timeout(Nanos(40), clock.sleep_until(Nanos(20))).await;
            assert_eq!((fast, clock.now()), (Ok(()), Nanos(20)));
        });
    }

    #[test]
    fn a_dropped_sleep_leaves_nothing_behind() {
        let clock = Clock::simulated();
        clock.block_on(async {
            for _ in 0..100_000 {
                let soon = clock.now().plus(Nanos(1));
                let far = clock.sleep_until(Nanos(u64::MAX));
                assert_eq!(clock.timeout(soon, far).await, Err(Elapsed));
            }
            assert!(clock.0.lock().heap.len() < 200, "dropped timers pile up");
        });
        let clock = Clock::simulated();
        clock.block_on(async {
            let late = clock
                .timeout(Nanos(5), clock.sleep_until(Nanos(1_000_000)))
                .await;
            assert_eq!(late, Err(Elapsed));
            clock.sleep_until(Nanos(9)).await;
        });
        assert_eq!(clock.now(), Nanos(9));
        assert!(clock.0.lock().wakers.is_empty());
    }

    #[test]
    fn many_dropped_timers_that_fall_due_at_once_do_no_harm() {
        let mut timers = Timers::default();
        timers.heap.extend((0..200_000).map(|id| Reverse((7, id))));
        timers.wakers.insert(199_999, Waker::noop().clone());
        assert!(timers.pop_due(Nanos(6)).is_none());
        assert!(timers.pop_due(Nanos(7)).is_some());
        assert!(timers.heap.is_empty());
    }

    #[test]
    fn wall_timers_are_never_early() {
        let clock = Clock::wall();
        let early = AtomicUsize::new(0);
        clock.block_on(async {
            for _ in 0..20 {
                let deadline = clock.now().plus(Nanos(1_000_000));
                clock.sleep_until(deadline).await;
                if clock.now() < deadline {
                    early.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        assert_eq!(early.load(Ordering::Relaxed), 0);
    }
}
