//! Reads a probe at its period beside a run, on a thread of its own.
//!
//! Power and energy are read at each tick, everything else once a second. Invariants: a sample is
//! stamped at its read on the system's monotonic clock, not at its tick, and a tick that was missed
//! is not made up for; nothing a library does (not even a hang) keeps the run from ending. What it
//! does not do: integrate.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Kind, Probe, Quantity, Readings, Unit, UnitSample, Value, Wanted};
use crate::clock::{Clock, Nanos};

/// Time between two looks at everything.
const DETAIL_NS: u64 = 1_000_000_000;
/// How long the last sample is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// One sample of one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// On the system's monotonic clock.
    pub at_ns: u64,
    /// Watts.
    pub power_w: Option<f64>,
    /// Counter, joules.
    pub energy_j: Option<f64>,
}

/// What was read of one device.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Which.
    pub unit: Unit,
    /// In the order of time.
    pub samples: Vec<Sampled>,
    /// Everything, once a second.
    pub details: Vec<(u64, Readings)>,
    /// Where power and energy are from.
    pub sources: [Option<String>; 2],
    /// Why there was once no power, and no energy.
    pub reasons: [Option<String>; 2],
    /// Where the counter begins again, joules.
    pub counter_range_j: Option<f64>,
}

/// What a sampler found.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Through what.
    pub kind: Kind,
    /// Time between two samples as planned.
    pub period_ns: u64,
    /// Device by device.
    pub devices: Vec<Watched>,
    /// Samples in which no device could be asked.
    pub failed_samples: u64,
    /// What the last of those said.
    pub last_failure: Option<String>,
}

/// A probe that is being read.
#[derive(Debug)]
pub struct Sampler {
    kind: Kind,
    telemetry: Arc<Mutex<Telemetry>>,
    stop: Sender<()>,
    stopped: Receiver<()>,
}

impl Sampler {
    /// Begins to read.
    pub fn start(probe: Box<dyn Probe>, clock: &Clock) -> Self {
        let kind = probe.kind();
        let devices = probe.units().iter().map(watched).collect();
        let telemetry = Arc::new(Mutex::new(Telemetry {
            kind,
            period_ns: kind.period_ns(),
            devices,
            failed_samples: 0,
            last_failure: None,
        }));
        let (stop, stops) = channel();
        let (stopping, stopped) = channel();
        let (kept, clock) = (Arc::clone(&telemetry), clock.clone());
        std::thread::Builder::new()
            .name("sampler".into())
            .spawn(move || {
                sample_until(&stops, probe, &clock, &kept);
                let _ = stopping.send(());
            })
            .expect("a thread can be started");
        Self {
            kind,
            telemetry,
            stop,
            stopped,
        }
    }

    /// Through what it reads.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Takes a last sample and ends. A probe that no longer answers is left behind.
    pub fn finish(self) -> Telemetry {
        drop(self.stop);
        let in_time = self.stopped.recv_timeout(PATIENCE).is_ok();
        let locked = self.telemetry.lock();
        let mut telemetry = locked.unwrap_or_else(PoisonError::into_inner).clone();
        if !in_time {
            telemetry.failed_samples += 1;
            telemetry.last_failure = Some(format!("{} no longer answers", telemetry.kind));
        }
        telemetry
    }
}

fn watched(unit: &Unit) -> Watched {
    Watched {
        unit: unit.clone(),
        samples: Vec::new(),
        details: Vec::new(),
        sources: [None, None],
        reasons: [None, None],
        counter_range_j: None,
    }
}

fn sample_until(
    stops: &Receiver<()>,
    mut probe: Box<dyn Probe>,
    clock: &Clock,
    kept: &Mutex<Telemetry>,
) {
    let period_ns = probe.kind().period_ns();
    let mut tick = clock.now();
    let mut detail_at = tick;
    loop {
        let is_due = clock.now() >= detail_at;
        let wanted = if is_due {
            detail_at = clock.now().plus(Nanos(DETAIL_NS));
            Wanted::Everything
        } else {
            Wanted::Power
        };
        keep(probe.as_mut(), wanted, kept);
        tick = next_tick(tick, clock.now(), period_ns);
        let wait = Duration::from_nanos(tick.since(clock.now()).0);
        if stops.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            // What happened up to now is between two samples.
            keep(probe.as_mut(), Wanted::Power, kept);
            return;
        }
    }
}

/// The first tick after `now`.
fn next_tick(last: Nanos, now: Nanos, period_ns: u64) -> Nanos {
    let missed = now.since(last).0 / period_ns;
    last.plus(Nanos((missed + 1) * period_ns))
}

fn keep(probe: &mut dyn Probe, wanted: Wanted, kept: &Mutex<Telemetry>) {
    let sampled = probe.sample(wanted);
    let mut telemetry = kept.lock().unwrap_or_else(PoisonError::into_inner);
    match sampled {
        Ok(samples) => {
            for (device, sample) in telemetry.devices.iter_mut().zip(samples) {
                device.keep(sample, wanted);
            }
        }
        Err(error) => {
            telemetry.failed_samples += 1;
            telemetry.last_failure = Some(error.to_string());
        }
    }
}

impl Watched {
    fn keep(&mut self, sample: UnitSample, wanted: Wanted) {
        let UnitSample { at_ns, readings } = sample;
        let both = [Quantity::Power, Quantity::Energy];
        for (at, what) in both.into_iter().enumerate() {
            match readings.value(what) {
                Some(Value::Read { source, .. }) if self.sources[at].is_none() => {
                    self.sources[at] = Some(source.to_string());
                }
                Some(Value::Unavailable(why)) => self.reasons[at] = Some(why.clone()),
                _ => {}
            }
        }
        self.counter_range_j = self.counter_range_j.or(readings.get(Quantity::EnergyRange));
        self.samples.push(Sampled {
            at_ns,
            power_w: readings.get(Quantity::Power),
            energy_j: readings.get(Quantity::Energy),
        });
        if wanted == Wanted::Everything {
            self.details.push((at_ns, readings));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SampleError, Scope, Vendor};
    use super::*;
    use crate::clock::monotonic_now_ns;

    struct Scripted {
        units: Vec<Unit>,
        calls: u64,
    }

    impl Probe for Scripted {
        fn kind(&self) -> Kind {
            Kind::Dcmi
        }

        fn units(&self) -> &[Unit] {
            &self.units
        }

        fn sample(&mut self, _: Wanted) -> Result<Vec<UnitSample>, SampleError> {
            self.calls += 1;
            if self.calls == 2 {
                return Err(SampleError("once".to_owned()));
            }
            let mut readings = Readings::default();
            readings.read(Quantity::Power, self.calls as f64, "here");
            readings.unavailable(Quantity::Energy, "none");
            Ok(vec![UnitSample {
                at_ns: monotonic_now_ns(),
                readings,
            }])
        }
    }

    fn scripted() -> Box<dyn Probe> {
        let unit = Unit {
            vendor: Vendor::Ascend,
            index: 0,
            name: "x".to_owned(),
            id: None,
            scope: Scope::Chip,
            power_at: None,
            facts: Vec::new(),
        };
        Box::new(Scripted {
            units: vec![unit],
            calls: 0,
        })
    }

    #[test]
    fn samples_are_kept_in_order_with_their_sources() {
        let clock = Clock::wall();
        let sampler = Sampler::start(scripted(), &clock);
        clock.block_on(clock.sleep(Nanos(350_000_000)));
        let found = sampler.finish();
        let device = &found.devices[0];
        assert!(device.samples.len() >= 2, "{found:?}");
        let instants: Vec<u64> = device.samples.iter().map(|sample| sample.at_ns).collect();
        assert!(instants.is_sorted());
        assert_eq!(device.sources, [Some("here".to_owned()), None]);
        assert_eq!(device.reasons, [None, Some("none".to_owned())]);
        assert_eq!(found.failed_samples, 1);
        assert_eq!(found.last_failure.as_deref(), Some("once"));
        assert_eq!(device.details.len(), 1, "the first");
    }

    #[test]
    fn missed_ticks_are_not_made_up_for() {
        for (last, now, next) in [(0, 5, 100), (0, 100, 200), (100, 950, 1000), (300, 10, 400)] {
            assert_eq!(next_tick(Nanos(last), Nanos(now), 100), Nanos(next));
        }
    }
}
