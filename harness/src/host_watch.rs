//! Looks each second at what all programs together use of this machine, on a thread of its own.
//!
//! Invariant: it never makes a run wait. What it does not do: tell whose use it was; in the report
//! the load generator's own stands beside it.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backends::{Clock, Nanos};
use reports::Window;
use reports::schema::HostUse;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// One look: when on the monotonic clock, the busy share since the one before, memory in use.
type Look = (u64, f64, u64);

/// A watch that goes on until it is finished.
#[derive(Debug)]
pub struct HostWatch {
    clock: Clock,
    looks: Arc<Mutex<Vec<Look>>>,
    /// The thread ends when this goes.
    _stop: Sender<()>,
}

impl HostWatch {
    /// Begins; `None` where the system does not tell.
    pub fn start(clock: &Clock) -> Option<Self> {
        let kinds = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let mut system = System::new_with_specifics(kinds).ok()?;
        let looks = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = channel::<()>();
        let (own, kept) = (clock.clone(), Arc::clone(&looks));
        std::thread::Builder::new()
            .name("host".into())
            .spawn(move || {
                while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                    system.refresh_specifics(kinds);
                    let look = (
                        own.monotonic_ns(own.now()),
                        f64::from(system.global_cpu_usage()) / 100.0,
                        system.used_memory(),
                    );
                    kept.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(look);
                }
            })
            .ok()?;
        Some(Self {
            clock: clock.clone(),
            looks,
            _stop: stop,
        })
    }

    /// What was used in the window of a run that began at `start`.
    pub fn used(&self, start: Nanos, window: Window) -> Option<HostUse> {
        let start_ns = self.clock.monotonic_ns(start);
        let span = start_ns + window.start_ns..=start_ns + window.end_ns;
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let inside: Vec<(f64, u64)> = looks
            .iter()
            .filter(|look| span.contains(&look.0))
            .map(|look| (look.1, look.2))
            .collect();
        HostUse::of(&inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_second_is_seen() {
        let clock = Clock::wall();
        let watch = HostWatch::start(&clock).expect("this system tells");
        let start = clock.now();
        let end_ns = 2_300_000_000;
        while clock.now().since(start).0 < end_ns {
            std::hint::spin_loop();
        }
        let window = |start_ns, end_ns| Window { start_ns, end_ns };
        let used = watch.used(start, window(0, end_ns)).expect("two looks");
        // One processor at least was busy.
        let least = 0.5 / f64::from(crate::host::logical_cpus());
        assert!(used.looks >= 1 && used.cpu_busy_max > least, "{used:?}");
        assert!(used.cpu_busy_mean <= used.cpu_busy_max && used.memory_used_max_bytes > 0);
        assert_eq!(watch.used(start, window(0, 1)), None);
    }
}
