//! From samples of power and energy counters to the energy of the measured window.
//!
//! Each device gives a curve of joules over time: its counter, with wraps undone, or else the
//! integral of its power by trapezoids. The energy of a window is the difference of the curve at
//! its ends, by linear interpolation between the samples around each end.
//!
//! Invariant: telemetry that does not cover the window, has gaps over a tenth of it, or a counter
//! that goes back gives no figure at all, and says why; a device without a figure leaves the sum
//! without one. What it does not do: estimate, or use a nameplate power.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{Rate, SecondPoint, Summary};

mod curve;

pub use curve::{Curve, PowerSample, Span};

/// Energy over the measured window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Energy {
    /// Joules in the window, of all devices; null where the telemetry is not good enough.
    pub joules: Option<f64>,
    /// What is counted: `chip`, `card` or `node`. Nothing else of the machine is in the figure.
    pub scope: String,
    /// Interface and counter or reading.
    pub source: String,
    /// `counter`: differences of the devices' own counters. `trapezoid`: sampled power, integrated.
    #[serde(default)]
    pub method: String,
    /// `joules` over the window.
    #[serde(default)]
    pub mean_power_w: Option<f64>,
    /// The largest mean of a second in the window.
    #[serde(default)]
    pub max_power_w: Option<f64>,
    /// Mean power before the load, with the server up.
    #[serde(default)]
    pub idle_power_w: Option<f64>,
    /// How long that was looked at, seconds.
    #[serde(default)]
    pub idle_s: f64,
    /// `joules` less the idle power over the window.
    #[serde(default)]
    pub joules_above_idle: Option<f64>,
    /// `joules` over requests completed in the window.
    #[serde(default)]
    pub joules_per_query: Option<f64>,
    /// `joules` over output tokens in the window.
    #[serde(default)]
    pub joules_per_output_token: Option<f64>,
    /// `joules` over input and output tokens in the window.
    #[serde(default)]
    pub joules_per_token: Option<f64>,
    /// With method `counter`: the same by trapezoids over sampled power, as a check.
    #[serde(default)]
    pub joules_by_power: Option<f64>,
    /// Time between samples as planned, seconds.
    #[serde(default)]
    pub period_s: f64,
    /// Samples in the window, of the device that has fewest.
    #[serde(default)]
    pub samples: u64,
    /// Times in the window without a sample for more than 2.5 periods, of the device with most.
    #[serde(default)]
    pub gaps: u64,
    /// The longest of them, seconds.
    #[serde(default)]
    pub longest_gap_s: f64,
    /// Device by device.
    #[serde(default)]
    pub devices: Vec<EnergyDevice>,
    /// 95 % interval of figures above, by name, carried over from the measured rates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ci95: BTreeMap<String, (f64, f64)>,
    /// Why a figure above is null, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub null_reasons: BTreeMap<String, String>,
}

/// One device's part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EnergyDevice {
    /// Number and name.
    pub name: String,
    /// Joules in the window; null where they are counted at another device, or not known.
    pub joules: Option<f64>,
    /// Why they are null.
    pub reason: Option<String>,
    /// Mean busy share in the window, percent, by the device's own count.
    pub utilisation_percent: Option<f64>,
    /// Highest temperature in the window.
    pub temperature_max_c: Option<f64>,
    /// Most device memory in use in the window, bytes.
    pub memory_used_max_bytes: Option<f64>,
    /// Mean clock in the window, MHz.
    pub clock_mean_mhz: Option<f64>,
    /// Share of looks (one a second) that found the device slowed down to keep its limits.
    pub throttled_share: Option<f64>,
}

/// What was read of one device.
#[derive(Debug, Clone, Default)]
pub struct Track {
    /// As the report will have it; only the joules are still to be found.
    pub device: EnergyDevice,
    /// Its power is counted at another device.
    pub is_counted_elsewhere: bool,
    /// In the order of time.
    pub samples: Vec<PowerSample>,
    /// Where the counter begins again, joules.
    pub counter_range_j: Option<f64>,
    /// Where counter and power are from.
    pub counter_source: Option<String>,
    /// The same.
    pub power_source: Option<String>,
    /// Why there is no power, if it is known.
    pub reason: Option<String>,
}

/// Telemetry of a run.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// The interface.
    pub probe: String,
    /// `chip`, `card` or `node`.
    pub scope: String,
    /// Time between samples as planned.
    pub period_ns: u64,
    /// The devices.
    pub tracks: Vec<Track>,
    /// Before the load.
    pub idle: Option<Span>,
    /// The measured window, on the clock of the samples.
    pub window: Span,
}

/// What one device came to.
struct Part {
    curve: Curve,
    method: &'static str,
    source: String,
    /// With method `counter`: sampled power, if it is good enough for the window.
    by_power: Option<Curve>,
}

impl Part {
    /// Mean power in a span that the telemetry covers without a gap; a counter counts through gaps.
    fn mean_power(&self, span: Span, period_ns: u64) -> Option<f64> {
        let curve = &self.curve;
        let is_counter = self.method == COUNTER;
        let fine = curve.covers(span) && (is_counter || !curve.has_gap(span, period_ns));
        fine.then(|| curve.between(span) / span.seconds())
    }

    /// Mean power before the load and how long it was looked at: by the counter where that changes
    /// often enough for so short a time, else by sampled power.
    fn idle(&self, idle: Span, period_ns: u64) -> Option<(f64, f64)> {
        /// Less is no baseline.
        const LEAST_S: f64 = 0.5;
        let by_curve = Some((&self.curve, self.method == COUNTER));
        let by_power = self.by_power.as_ref().map(|curve| (curve, false));
        [by_curve, by_power]
            .into_iter()
            .flatten()
            .find_map(|(curve, is_counter)| {
                let span = Span {
                    start_ns: idle.start_ns.max(curve.first_ns()),
                    end_ns: idle.end_ns,
                };
                let fine = span.seconds() >= LEAST_S
                    && curve.covers(span)
                    && if is_counter {
                        curve.resolves_idle(span)
                    } else {
                        !curve.has_gap(span, period_ns)
                    };
                fine.then(|| (curve.between(span) / span.seconds(), span.seconds()))
            })
    }
}

const COUNTER: &str = "counter";
const TRAPEZOID: &str = "trapezoid";

/// The energy of the measured window.
pub fn energy(telemetry: &Telemetry, summary: &Summary) -> Energy {
    let window = telemetry.window;
    let mut energy = Energy {
        scope: telemetry.scope.clone(),
        source: telemetry.probe.clone(),
        period_s: telemetry.period_ns as f64 / 1e9,
        ..Energy::default()
    };
    let (devices, parts) = parts(telemetry);
    energy.devices = devices;
    count_samples(telemetry, &mut energy);
    let parts = match parts {
        Ok(parts) => parts,
        Err(why) => {
            explain_all(&mut energy, &why);
            return energy;
        }
    };
    let methods: Vec<&str> = parts.iter().map(|part| part.method).collect();
    energy.method = if methods.iter().all(|method| *method == methods[0]) {
        methods[0].to_owned()
    } else {
        "counter and trapezoid".to_owned()
    };
    energy.source = format!("{}: {}", telemetry.probe, parts[0].source);
    let joules = parts.iter().map(|part| part.curve.between(window)).sum();
    energy.joules = Some(joules);
    energy.mean_power_w = Some(joules / window.seconds());
    energy.max_power_w = seconds_of(window.start_ns, window.seconds() as u64)
        .filter_map(|second| mean_power(&parts, second, telemetry.period_ns))
        .reduce(f64::max);
    let by_power = parts.iter().map(|part| part.by_power.as_ref());
    energy.joules_by_power = by_power
        .map(|curve| curve.map(|curve| curve.between(window)))
        .sum();
    idle(telemetry, &parts, &mut energy);
    per_unit(&mut energy, joules, summary);
    energy
}

/// All devices, and the curve of each that has a power of its own; or why there is no sum.
fn parts(telemetry: &Telemetry) -> (Vec<EnergyDevice>, Result<Vec<Part>, String>) {
    let (mut devices, mut parts, mut failure) = (Vec::new(), Vec::new(), None);
    for track in &telemetry.tracks {
        let mut device = track.device.clone();
        if track.is_counted_elsewhere {
            device.reason.clone_from(&track.reason);
        } else {
            match part(track, telemetry) {
                Ok(part) => {
                    device.joules = Some(part.curve.between(telemetry.window));
                    parts.push(part);
                }
                Err(why) => {
                    let why = format!("{}: {why}", device.name);
                    device.reason = Some(why.clone());
                    failure = failure.or(Some(why));
                }
            }
        }
        devices.push(device);
    }
    let none = || "no device gave power or energy".to_owned();
    let failure = failure.or_else(|| parts.is_empty().then(none));
    (devices, failure.map_or(Ok(parts), Err))
}

fn part(track: &Track, telemetry: &Telemetry) -> Result<Part, String> {
    let (window, period_ns) = (telemetry.window, telemetry.period_ns);
    let by_power =
        Curve::of_power(&track.samples).and_then(|curve| curve.checked_power(window, period_ns));
    let by_counter = Curve::of_counter(&track.samples, track.counter_range_j)
        .and_then(|curve| curve.checked_counter(window));
    let source = |source: &Option<String>| source.clone().unwrap_or_default();
    match (by_counter, by_power) {
        (Ok(curve), by_power) => Ok(Part {
            curve,
            method: COUNTER,
            source: source(&track.counter_source),
            by_power: by_power.ok(),
        }),
        (Err(_), Ok(curve)) => Ok(Part {
            curve,
            method: TRAPEZOID,
            source: source(&track.power_source),
            by_power: None,
        }),
        (Err(counter), Err(power)) => {
            // Whichever there was once tells more.
            let why = if track.counter_source.is_some() {
                counter
            } else {
                power
            };
            let said = track.reason.as_ref();
            Err(said.map_or(why.clone(), |said| format!("{why} ({said})")))
        }
    }
}

fn count_samples(telemetry: &Telemetry, energy: &mut Energy) {
    let own = telemetry
        .tracks
        .iter()
        .filter(|track| !track.is_counted_elsewhere);
    let mut fewest = None;
    for track in own {
        let instants: Vec<u64> = track.samples.iter().map(|sample| sample.at_ns).collect();
        let inside = |at: &&u64| telemetry.window.contains(**at);
        let count = instants.iter().filter(inside).count() as u64;
        fewest = Some(fewest.unwrap_or(u64::MAX).min(count));
        let gaps = curve::gaps(&instants, telemetry.window, telemetry.period_ns);
        energy.gaps = energy.gaps.max(gaps.len() as u64);
        let longest = gaps.iter().map(Span::seconds).fold(0.0, f64::max);
        energy.longest_gap_s = energy.longest_gap_s.max(longest);
    }
    energy.samples = fewest.unwrap_or(0);
}

fn seconds_of(start_ns: u64, count: u64) -> impl Iterator<Item = Span> {
    const SECOND_NS: u64 = 1_000_000_000;
    (0..count).map(move |second| Span {
        start_ns: start_ns + second * SECOND_NS,
        end_ns: start_ns + (second + 1) * SECOND_NS,
    })
}

/// Mean power of all in a span that all of them cover.
fn mean_power(parts: &[Part], span: Span, period_ns: u64) -> Option<f64> {
    let watts = parts.iter().map(|part| part.mean_power(span, period_ns));
    watts.sum()
}

fn idle(telemetry: &Telemetry, parts: &[Part], energy: &mut Energy) {
    let found: Option<Vec<(f64, f64)>> = telemetry.idle.and_then(|idle| {
        let parts = parts.iter();
        parts
            .map(|part| part.idle(idle, telemetry.period_ns))
            .collect()
    });
    let watts = found
        .as_ref()
        .map(|found| found.iter().map(|(watts, _)| watts).sum());
    energy.idle_power_w = watts;
    energy.idle_s = found
        .into_iter()
        .flatten()
        .map(|(_, seconds)| seconds)
        .reduce(f64::min)
        .unwrap_or(0.0);
    match watts.zip(energy.joules) {
        Some((watts, joules)) => {
            energy.joules_above_idle = Some(joules - watts * telemetry.window.seconds());
        }
        None => {
            for key in ["idle_power_w", "joules_above_idle"] {
                let why = "no half second of telemetry before the load, or too coarse".to_owned();
                energy.null_reasons.insert(key.to_owned(), why);
            }
        }
    }
}

/// Joules for one of what was served, with the interval of its rate.
fn per_unit(energy: &mut Energy, joules: f64, summary: &Summary) {
    let output = summary.output_tokens as f64;
    let all = output + summary.input_tokens as f64;
    let over = |amount: f64| (amount > 0.0).then(|| joules / amount);
    energy.joules_per_query = over(summary.completed() as f64);
    energy.joules_per_output_token = over(output);
    energy.joules_per_token = over(all);
    let watts = energy.mean_power_w.unwrap_or_default();
    let mut carry = |key: &str, figure: Option<f64>, rate: Rate, why: &str| {
        if figure.is_none() {
            energy.null_reasons.insert(key.to_owned(), why.to_owned());
        } else if let Some((low, high)) = rate.ci95.filter(|(low, _)| *low > 0.0) {
            energy
                .ci95
                .insert(key.to_owned(), (watts / high, watts / low));
        }
    };
    let why = "no request finished in the measured window";
    carry(
        "joules_per_query",
        energy.joules_per_query,
        summary.request_rate,
        why,
    );
    let why = "no output token fell in the measured window";
    let rate = summary.output_tokens_per_s;
    carry(
        "joules_per_output_token",
        energy.joules_per_output_token,
        rate,
        why,
    );
    if energy.joules_per_token.is_none() {
        let why = "no token fell in the measured window".to_owned();
        energy
            .null_reasons
            .insert("joules_per_token".to_owned(), why);
    }
}

fn explain_all(energy: &mut Energy, why: &str) {
    for key in [
        "joules",
        "mean_power_w",
        "max_power_w",
        "idle_power_w",
        "joules_above_idle",
        "joules_per_query",
        "joules_per_output_token",
        "joules_per_token",
    ] {
        energy.null_reasons.insert(key.to_owned(), why.to_owned());
    }
}

/// No figure, and why: there is no telemetry at all.
pub fn none(why: &str) -> Energy {
    let mut energy = Energy::default();
    explain_all(&mut energy, why);
    energy
}

/// Puts the mean power of each second into the series; `start_ns` is the start of the run on the
/// clock of the samples. A second that the telemetry does not cover has none, and none has any where
/// the window has no energy.
pub fn fill_series(telemetry: &Telemetry, start_ns: u64, series: &mut [SecondPoint]) {
    let Ok(parts) = parts(telemetry).1 else {
        return;
    };
    for point in series {
        let second = seconds_of(start_ns + point.t_s * 1_000_000_000, 1).next();
        point.power_w = second.and_then(|second| mean_power(&parts, second, telemetry.period_ns));
    }
}
