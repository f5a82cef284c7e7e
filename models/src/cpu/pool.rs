//! The threads of the engine.
//!
//! A step is some 150 parallel sections of a few microseconds each, so threads wait for the next
//! section spinning, for a short time, and then sleep: an idle engine costs nothing. Work is
//! split into one run of items per thread; who is done early takes from the others, so a thread
//! that the system has put aside holds nobody up for longer than the item it is at.
//! **Invariant.** Every item is done once, and all are done when [`Pool::run`] returns; which
//! thread does it decides nothing.

#![expect(unsafe_code, reason = "threads share a borrowed closure and buffers")]

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// Rounds a worker spins before it sleeps: some tens of microseconds.
const SPINS: u32 = 2_000;
/// Work (in elementary operations) below which waking the others costs more than it saves.
const MIN_WORK: usize = 20_000;
/// Turns in which a thread takes its own items.
const TURNS: usize = 6;

/// A thread count and whether threads are bound to cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// The caller's thread included.
    pub count: NonZeroUsize,
    /// Bind thread `i` to core `i` of those this process may use.
    pub pinned: bool,
}

/// A thread pool for short parallel sections.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<State>,
    workers: Vec<JoinHandle<()>>,
}

type Section<'a> = dyn Fn(usize, Range<usize>) + Sync + 'a;

/// A line of its own, so that threads do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

/// The items one thread starts with.
#[derive(Debug, Default)]
struct Share {
    next: AtomicUsize,
    end: AtomicUsize,
}

struct State {
    /// Counts sections; workers wait for it to change.
    epoch: Line<AtomicU32>,
    /// Workers that have not finished the section.
    running: Line<AtomicUsize>,
    section: UnsafeCell<Option<*const Section<'static>>>,
    shares: Box<[Line<Share>]>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "State({} threads)", self.shares.len())
    }
}

// SAFETY: `section` is written only by `Pool::run`, which has the pool to itself, while no worker
// runs; workers read it between the change of `epoch` and their decrement of `running`.
unsafe impl Sync for State {}
// SAFETY: the pointer in `section` is to a `Sync` closure.
unsafe impl Send for State {}

impl Pool {
    /// Starts the threads. Where the system gives fewer, the pool has fewer.
    pub(crate) fn new(threads: Threads) -> Self {
        let count = threads.count.get();
        let shared = Arc::new(State {
            epoch: Line::default(),
            running: Line::default(),
            section: UnsafeCell::new(None),
            shares: (0..count).map(|_| Line::default()).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let cores = if threads.pinned {
            core_affinity::get_core_ids().unwrap_or_default()
        } else {
            Vec::new()
        };
        if let Some(core) = cores.first() {
            core_affinity::set_for_current(*core);
        }
        let workers = (1..count).map_while(|index| {
            let shared = Arc::clone(&shared);
            let core = cores.get(index % cores.len().max(1)).copied();
            std::thread::Builder::new()
                .name(format!("engine-{index}"))
                .spawn(move || {
                    if let Some(core) = core {
                        core_affinity::set_for_current(core);
                    }
                    shared.work(index);
                })
                .ok()
        });
        let workers = workers.collect();
        Self { shared, workers }
    }

    /// Threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(thread, items)` until every one of `items` items is done. `work` estimates
    /// the whole in elementary operations; a little is done by the caller alone.
    ///
    /// # Panics
    /// If `body` panics, after all threads have come to rest.
    pub(crate) fn run(
        &mut self,
        items: usize,
        work: usize,
        body: impl Fn(usize, Range<usize>) + Sync,
    ) {
        let threads = self.threads();
        if threads == 1 || items < 2 || work < MIN_WORK {
            body(0, 0..items);
            return;
        }
        let state = &*self.shared;
        for (index, Line(share)) in state.shares.iter().enumerate() {
            let bound = |index: usize| items * index.min(threads) / threads;
            share.next.store(bound(index), Ordering::Relaxed);
            share.end.store(bound(index + 1), Ordering::Relaxed);
        }
        let section: &Section<'_> = &body;
        // SAFETY: the lifetime is erased, but `run` returns only when no worker uses the closure
        // any more: each has decremented `running`, and none reads it before the next epoch.
        let section: *const Section<'static> =
            unsafe { std::mem::transmute::<&Section<'_>, &'static Section<'static>>(section) };
        // SAFETY: no worker runs, see the invariant of `State`.
        unsafe { *state.section.get() = Some(section) };
        state.running.0.store(self.workers.len(), Ordering::Relaxed);
        state.epoch.0.fetch_add(1, Ordering::Release);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        let mine = catch_unwind(AssertUnwindSafe(|| state.take_all(0, section)));
        let mut spins = 0_u32;
        while state.running.0.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        if let Err(panic) = mine {
            std::panic::resume_unwind(panic);
        }
        assert!(
            !state.panicked.swap(false, Ordering::Relaxed),
            "a thread of the engine panicked"
        );
    }
}

impl State {
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: `run` wrote it before it changed the epoch, and waits for us to be done.
            let section = unsafe { *self.section.get() };
            let section = section.expect("a section precedes the epoch");
            let done = catch_unwind(AssertUnwindSafe(|| self.take_all(thread, section)));
            if done.is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.running.0.fetch_sub(1, Ordering::Release);
        }
    }

    fn wait(&self, seen: u32) -> u32 {
        for _ in 0..SPINS {
            let epoch = self.epoch.0.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
        }
        loop {
            std::thread::park();
            let epoch = self.epoch.0.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
        }
    }

    /// Does the thread's own items, then whatever is left of the others'.
    fn take_all(&self, thread: usize, section: *const Section<'static>) {
        // SAFETY: `run` keeps the closure alive until all threads are done.
        let section = unsafe { &*section };
        let threads = self.shares.len();
        for step in 0..threads {
            let Line(share) = &self.shares[(thread + step) % threads];
            let end = share.end.load(Ordering::Relaxed);
            let left = end.saturating_sub(share.next.load(Ordering::Relaxed));
            let turn = left.div_ceil(TURNS).max(1);
            loop {
                let start = share.next.fetch_add(turn, Ordering::Relaxed);
                if start >= end {
                    break;
                }
                section(thread, start..end.min(start + turn));
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.0.fetch_add(1, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its sections.
            let _ = worker.join();
        }
    }
}

/// A buffer that several threads fill, each its own part.
#[derive(Debug)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    buffer: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: access is through unsafe methods whose callers keep the threads apart.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: as a `&mut [T]` is.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(buffer: &'a mut [T]) -> Self {
        Self {
            start: buffer.as_mut_ptr(),
            length: buffer.len(),
            buffer: PhantomData,
        }
    }

    /// A part of the buffer.
    ///
    /// # Safety
    /// While the part is used nobody else uses any element of it.
    ///
    /// # Panics
    /// If the part is not inside the buffer.
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: inside the buffer by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Sets one element.
    ///
    /// # Safety
    /// Nobody else uses the element at the same time.
    ///
    /// # Panics
    /// If there is no such element.
    #[inline]
    pub(crate) unsafe fn set(&self, index: usize, value: T) {
        assert!(index < self.length);
        // SAFETY: inside the buffer by the assertion; exclusive by the caller's promise.
        unsafe { *self.start.add(index) = value };
    }
}
