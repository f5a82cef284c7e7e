//! Energy in the report: its table, and its lines on the terminal.
//!
//! Invariant: no joule without what is counted (`chip`, `card`, `node`) and where it is from.

use crate::energy::{Energy, EnergyDevice};
use crate::schema::Report;
use crate::stats::thousands;

use super::format::{bytes, duration, interval, percent, significant};
use super::sections::{row, text};
use super::view::{Figure, Row, Section};

/// A figure of the energy by its key.
fn figure(energy: &Energy, key: &str, value: Option<f64>, unit: &str) -> Figure {
    let Some(value) = value else {
        let why = energy.null_reasons.get(key);
        return Figure::missing(why.map_or("not known", String::as_str));
    };
    let ends = energy.ci95.get(key).map(|&ends| interval(ends));
    Figure {
        value: format!("{} {unit}", significant(value)),
        interval: ends.unwrap_or_default(),
        reason: String::new(),
    }
}

/// `1.2 J (chip)`: per query and per output token.
pub(super) fn headline(energy: &Energy) -> [(&'static str, Figure); 2] {
    let by = |key, value| figure(energy, key, value, "J");
    [
        (
            "Energy per query",
            by("joules_per_query", energy.joules_per_query),
        ),
        (
            "Energy per 1 output",
            by("joules_per_output_token", energy.joules_per_output_token),
        ),
    ]
}

/// What is counted, and how.
pub(super) fn source(energy: &Energy) -> String {
    let looked = format!(
        "{} samples, {} apart, {} gaps{}",
        thousands(energy.samples),
        duration(energy.period_s),
        energy.gaps,
        if energy.gaps > 0 {
            format!(" of up to {}", duration(energy.longest_gap_s))
        } else {
            String::new()
        }
    );
    let method = match energy.method.as_str() {
        "counter" => "the devices' energy counters",
        "trapezoid" => "sampled power, integrated",
        other => other,
    };
    format!(
        "scope {}; {}; {method}; {looked}",
        energy.scope, energy.source
    )
}

/// The table; none where a target has no power.
pub(super) fn section(report: &Report) -> Option<Section> {
    let energy = report.energy.as_ref()?;
    let by = |key, value, unit| figure(energy, key, value, unit);
    let mut rows = vec![row("Energy", by("joules", energy.joules, "J"))];
    if energy.joules.is_some() {
        rows.push(text("Counted", source(energy)));
        for (key, label, value, unit) in [
            ("mean_power_w", "Mean power", energy.mean_power_w, "W"),
            (
                "max_power_w",
                "Highest power of a second",
                energy.max_power_w,
                "W",
            ),
            (
                "idle_power_w",
                "Power before the load",
                energy.idle_power_w,
                "W",
            ),
            (
                "joules_above_idle",
                "Energy above that",
                energy.joules_above_idle,
                "J",
            ),
            (
                "joules_per_query",
                "Per query",
                energy.joules_per_query,
                "J",
            ),
            (
                "joules_per_output_token",
                "Per output token",
                energy.joules_per_output_token,
                "J",
            ),
            (
                "joules_per_token",
                "Per token, input and output alike",
                energy.joules_per_token,
                "J",
            ),
        ] {
            rows.push(row(label, by(key, value, unit)));
        }
        if let Some(joules) = energy.joules_by_power {
            rows.push(text(
                "Check: sampled power, integrated",
                format!("{} J", significant(joules)),
            ));
        }
    }
    rows.extend(energy.devices.iter().map(device));
    Some(Section {
        id: "energy",
        title: "Energy",
        rows,
    })
}

fn device(device: &EnergyDevice) -> Row {
    let mut words = Vec::new();
    words.extend(
        device
            .joules
            .map(|joules| format!("{} J", significant(joules))),
    );
    words.extend(
        device
            .utilisation_percent
            .map(|busy| format!("{} % busy", significant(busy))),
    );
    words.extend(
        device
            .clock_mean_mhz
            .map(|mhz| format!("{} MHz", significant(mhz))),
    );
    words.extend(
        device
            .temperature_max_c
            .map(|heat| format!("up to {} °C", significant(heat))),
    );
    let memory = device.memory_used_max_bytes;
    words.extend(memory.map(|used| format!("up to {}", bytes(used as u64))));
    let slowed = device.throttled_share.filter(|share| *share > 0.0);
    words.extend(slowed.map(|share| format!("slowed down {} of the time", percent(share))));
    let figure = Figure {
        value: words.join(", "),
        interval: String::new(),
        reason: device.reason.clone().unwrap_or_default(),
    };
    row(device.name.clone(), figure)
}
