//! What a run is doing, while it does it: a line on a terminal, now and then a line elsewhere.
//!
//! Invariant: it only reads counters; nothing that is measured waits for it. In virtual time there
//! is no progress to show.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backends::{Backend, Gauges, Nanos};
use indicatif::{ProgressBar, ProgressStyle};

use crate::recorder::Recorder;

/// How a run that is under way looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests sent and not ended.
    pub in_flight: u64,
    /// Requests ended.
    pub ended: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Output tokens so far.
    pub tokens: u64,
}

impl Snapshot {
    fn of(recorder: &Recorder) -> Self {
        let live = recorder.live();
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (sent, ended) = (read(&live.sent), read(&live.ended));
        Self {
            in_flight: sent.saturating_sub(ended),
            ended,
            failed: read(&live.failed),
            tokens: read(&live.tokens),
        }
    }

    fn line(self, before: Self, seconds: f64, gauges: Gauges) -> String {
        let rate = (self.tokens - before.tokens) as f64 / seconds;
        let mut line = format!(
            "{} in flight, {} done, {} failed, {rate:.0} tok/s",
            self.in_flight, self.ended, self.failed
        );
        if let (Some(used), Some(total)) = (gauges.used_blocks, gauges.total_blocks) {
            let share = 100 * u64::from(used) / u64::from(total.max(1));
            line = format!("{line}, KV {share}%");
        }
        if let Some(preemptions) = gauges.preemptions.filter(|&count| count > 0) {
            line = format!("{line}, {preemptions} preemptions");
        }
        line
    }
}

/// Shows progress until dropped by its caller; `end` is when the load ends.
pub async fn show(backend: Arc<dyn Backend>, recorder: Recorder, start: Nanos, end: Nanos) {
    let terminal = stderr().is_terminal();
    let seconds = if terminal { 0.5 } else { 10.0 };
    let total = end.as_secs_f64().ceil() as u64;
    let bar = if terminal {
        ProgressBar::new(total)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(
        ProgressStyle::with_template("{bar:30} {pos:>4}/{len}s  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let clock = backend.clock().clone();
    let mut before = Snapshot::of(&recorder);
    let mut at = clock.now();
    loop {
        at = at.plus(Nanos::from_secs_f64(seconds));
        clock.sleep_until(at).await;
        let now = Snapshot::of(&recorder);
        let line = now.line(before, seconds, backend.gauges());
        let elapsed = clock.now().since(start).as_secs_f64();
        let phase = if elapsed > end.as_secs_f64() {
            " (drain)"
        } else {
            ""
        };
        if terminal {
            bar.set_position((elapsed as u64).min(total));
            bar.set_message(format!("{line}{phase}"));
        } else {
            crate::cmd::note(&format!("{elapsed:4.0}/{total}s{phase}  {line}"));
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_matters() {
        let before = Snapshot {
            in_flight: 0,
            ended: 0,
            failed: 0,
            tokens: 50,
        };
        let now = Snapshot {
            in_flight: 3,
            ended: 7,
            failed: 1,
            tokens: 150,
        };
        let gauges = Gauges {
            used_blocks: Some(10),
            total_blocks: Some(40),
            preemptions: Some(2),
            ..Gauges::default()
        };
        assert_eq!(
            now.line(before, 2.0, gauges),
            "3 in flight, 7 done, 1 failed, 50 tok/s, KV 25%, 2 preemptions"
        );
    }
}
