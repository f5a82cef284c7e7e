//! Takes every finished request: a line in `requests.jsonl`, then into the figures.
//!
//! Invariant: a record is on its way to the disk (handed to the operating system) before it counts,
//! so a killed run loses at most the line being written, and the figures never know a request that
//! the file does not. A write error does not stop the run; it is kept and reported at the end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reports::{Accumulator, Measurements, RequestRecord};

/// Shared by all conversations of a run.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    live: Live,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    file: File,
    accumulator: Accumulator,
    write_error: Option<io::Error>,
    line: Vec<u8>,
    content_events: u64,
    coalesced: u64,
}

/// Counters for the progress display, updated as events come.
#[derive(Debug, Default)]
pub struct Live {
    /// Requests sent.
    pub sent: AtomicU64,
    /// Requests ended, however they ended.
    pub ended: AtomicU64,
    /// Of these, failed.
    pub failed: AtomicU64,
    /// Output tokens.
    pub tokens: AtomicU64,
}

/// What a run measured.
#[derive(Debug)]
pub struct Recorded {
    /// The figures.
    pub measurements: Measurements,
    /// Share of content events that came with the same read as the one before.
    pub coalesced_share: Option<f64>,
    /// The first failure to write `requests.jsonl`.
    pub write_error: Option<io::Error>,
}

impl Recorder {
    /// Opens `path` for the lines and folds records into `accumulator`.
    pub fn create(path: &Path, accumulator: Accumulator) -> io::Result<Self> {
        let state = State {
            path: path.to_owned(),
            file: File::create(path)?,
            accumulator,
            write_error: None,
            line: Vec::new(),
            content_events: 0,
            coalesced: 0,
        };
        Ok(Self(Arc::new(Shared {
            state: Mutex::new(state),
            live: Live::default(),
        })))
    }

    /// Counters for the progress display.
    pub fn live(&self) -> &Live {
        &self.0.live
    }

    /// Takes a request that has ended. `coalesced` of its content events shared a read.
    pub fn record(&self, record: &RequestRecord, coalesced: u64) {
        let live = &self.0.live;
        live.ended.fetch_add(1, Ordering::Relaxed);
        if record.outcome.is_failure() {
            live.failed.fetch_add(1, Ordering::Relaxed);
        }
        let mut state = self.lock();
        if let Err(error) = state.write(record) {
            tracing::error!(path = %state.path.display(), %error, "a record was not written");
            state.write_error.get_or_insert(error);
        }
        state.content_events += record.chunk_ns.len() as u64;
        state.coalesced += coalesced;
        state.accumulator.record(record);
    }

    /// Ends the recording.
    ///
    /// # Panics
    /// When a conversation still holds a recorder.
    pub fn finish(self) -> Recorded {
        let shared = Arc::into_inner(self.0).expect("every conversation has ended");
        let state = shared
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let State {
            accumulator,
            write_error,
            content_events,
            coalesced,
            ..
        } = state;
        Recorded {
            measurements: accumulator.finish(),
            coalesced_share: (content_events > 0).then(|| coalesced as f64 / content_events as f64),
            write_error,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The figures of a file of records over another window.
pub fn refold(path: &Path, mut accumulator: Accumulator) -> io::Result<Measurements> {
    for line in BufReader::new(File::open(path)?).lines() {
        accumulator.record(&serde_json::from_str(&line?)?);
    }
    Ok(accumulator.finish())
}

/// All records of a file. A last line that a killed run left half written is passed over.
pub fn read_records(path: &Path) -> io::Result<Vec<RequestRecord>> {
    let mut records = Vec::new();
    let mut lines = BufReader::new(File::open(path)?).lines().peekable();
    while let Some(line) = lines.next() {
        match serde_json::from_str(&line?) {
            Ok(record) => records.push(record),
            Err(error) if error.is_eof() && lines.peek().is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(records)
}

impl State {
    /// One write for one line, so that no line is ever half of two.
    fn write(&mut self, record: &RequestRecord) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record)?;
        self.line.push(b'\n');
        self.file.write_all(&self.line)
    }
}
