//! What the thread of the sockets counts.
//!
//! Invariant: numbers only grow. It knows no sockets.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;

use crate::clock::Nanos;

use super::acks::Change;

/// Counts of connections and reads.
#[derive(Debug)]
pub(super) struct Counts {
    /// Made so far.
    pub(super) made: AtomicU64,
    /// Of these, made before a request needed them.
    pub(super) ahead: AtomicU64,
    /// Open at the same time, at most.
    pub(super) peak: AtomicU64,
    /// Reads that gave bytes.
    pub(super) reads: AtomicU64,
    /// Connections of which some acknowledgements were put off, to see what the server does.
    pub(super) acks_tried: AtomicU64,
    /// Acknowledgements are put off where much comes.
    pub(super) acks_put_off: AtomicBool,
    waits: Mutex<Histogram<u64>>,
}

impl Default for Counts {
    fn default() -> Self {
        const MINUTE_NS: u64 = 60_000_000_000;
        let waits = Histogram::new_with_max(MINUTE_NS, 2).expect("the limits are accepted");
        Self {
            made: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            acks_tried: AtomicU64::new(0),
            acks_put_off: AtomicBool::new(false),
            waits: Mutex::new(waits),
        }
    }
}

impl Counts {
    /// How long the bytes that the kernel stamped had waited for their read, nanoseconds.
    pub(super) fn waits(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has become of acknowledgements, or nothing.
    pub(super) fn acks(&self, change: Option<Change>) {
        match change {
            Some(Change::Tried) => drop(self.acks_tried.fetch_add(1, Ordering::Relaxed)),
            Some(Change::PutOff) => self.acks_put_off.store(true, Ordering::Relaxed),
            None => {}
        }
    }

    pub(super) fn read(&self, waited: Option<Nanos>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(Nanos(waited_ns)) = waited {
            self.waits().saturating_record(waited_ns);
        }
    }
}
