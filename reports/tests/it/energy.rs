//! Energy against integrals that are known in closed form, and telemetry that gives no figure.

use proptest::prelude::*;
use reports::energy::{self, Curve, Energy, EnergyDevice, PowerSample, Span, Telemetry, Track};
use reports::render::{self, Style};
use reports::schema::SecondPoint;

use crate::synthetic::{self, Story};

const SECOND: u64 = 1_000_000_000;
const WINDOW: Span = Span {
    start_ns: 10 * SECOND,
    end_ns: 130 * SECOND,
};

/// Samples of a device from second 5 to 135, ten in a second.
fn samples(
    power: impl Fn(f64) -> Option<f64>,
    energy: impl Fn(f64) -> Option<f64>,
) -> Vec<PowerSample> {
    (50..=1350)
        .map(|tick| {
            // Not quite on the beat, as in life.
            let at_ns = tick * SECOND / 10 + (tick * 7_919) % 9_000_000;
            let at_s = at_ns as f64 / 1e9;
            PowerSample {
                at_ns,
                power_w: power(at_s),
                energy_j: energy(at_s),
            }
        })
        .collect()
}

fn track(name: &str, samples: Vec<PowerSample>) -> Track {
    Track {
        device: EnergyDevice {
            name: name.to_owned(),
            ..EnergyDevice::default()
        },
        counter_source: samples[0].energy_j.map(|_| "a counter".to_owned()),
        power_source: samples[0].power_w.map(|_| "a power".to_owned()),
        samples,
        ..Track::default()
    }
}

fn telemetry(tracks: Vec<Track>) -> Telemetry {
    Telemetry {
        probe: "dcmi".to_owned(),
        scope: "chip".to_owned(),
        period_ns: SECOND / 10,
        tracks,
        idle: Some(Span {
            start_ns: 5 * SECOND,
            end_ns: 8 * SECOND,
        }),
        window: WINDOW,
    }
}

fn found(tracks: Vec<Track>) -> Energy {
    let summary = synthetic::report(Story::Steady, "ref-135m").summary;
    energy::energy(&telemetry(tracks), &summary)
}

fn none(_: f64) -> Option<f64> {
    None
}

#[track_caller]
fn near(value: Option<f64>, expected: f64, share: f64) {
    let value = value.expect("a figure");
    assert!(
        (value - expected).abs() <= share * expected,
        "{value}, not {expected}"
    );
}

/// Watts that rise and fall, and their integral over the window.
fn wave(at_s: f64) -> f64 {
    300.0 + 100.0 * (at_s / 3.0).sin()
}

fn wave_joules() -> f64 {
    300.0 * 120.0 + 300.0 * ((10.0_f64 / 3.0).cos() - (130.0_f64 / 3.0).cos())
}

#[test]
fn sampled_power_gives_the_known_integral() {
    let energy = found(vec![track("0", samples(|at| Some(wave(at)), none))]);
    near(energy.joules, wave_joules(), 1e-4);
    assert_eq!((energy.method.as_str(), energy.gaps), ("trapezoid", 0));
    assert_eq!(energy.source, "dcmi: a power");
    assert_eq!(energy.samples, 1200);
    near(energy.mean_power_w, wave_joules() / 120.0, 1e-4);
    near(energy.max_power_w, 400.0, 0.01);
}

#[test]
fn a_counter_is_preferred_and_its_wraps_are_undone() {
    // 250 W; the counter begins again at 4000 J, so some seven times in the window.
    let counter = |at: f64| Some((250.0 * at + 1234.0) % 4_000.0);
    let mut device = track("package-0", samples(|_| Some(260.0), counter));
    device.counter_range_j = Some(4_000.0);
    let energy = found(vec![device.clone()]);
    near(energy.joules, 30_000.0, 1e-9);
    near(energy.joules_by_power, 31_200.0, 1e-9);
    assert_eq!(
        (energy.method.as_str(), energy.source.as_str()),
        ("counter", "dcmi: a counter")
    );
    near(energy.idle_power_w, 250.0, 1e-9);
    near(
        energy.joules_above_idle.map(|joules| joules + 1.0),
        1.0,
        1e-6,
    );
    // Without a known range a fall is a fault, and sampled power is taken.
    device.counter_range_j = None;
    let energy = found(vec![device.clone()]);
    assert_eq!(energy.method, "trapezoid");
    near(energy.joules, 31_200.0, 1e-9);
    // Without that either there is no figure.
    for sample in &mut device.samples {
        sample.power_w = None;
    }
    device.power_source = None;
    let energy = found(vec![device]);
    assert_eq!(energy.joules, None);
    let why = &energy.null_reasons["joules"];
    assert!(why.contains("the energy counter went from"), "{why}");
}

#[test]
fn all_devices_count_once_and_one_without_a_figure_spoils_the_sum() {
    let own = track("0", samples(|_| Some(100.0), none));
    let other = track("1", samples(|_| Some(50.0), none));
    let mut shared = track("2", samples(none, none));
    shared.is_counted_elsewhere = true;
    shared.reason = Some("shared with device 0, and counted there".to_owned());
    let energy = found(vec![own.clone(), shared, other]);
    near(energy.joules, 18_000.0, 1e-9);
    assert_eq!(energy.devices.len(), 3);
    assert_eq!(energy.devices[1].joules, None);
    let mut silent = track("3", samples(none, none));
    silent.reason = Some("-8255 (not supported)".to_owned());
    let energy = found(vec![own, silent]);
    assert_eq!(energy.joules, None);
    let why = &energy.null_reasons["joules"];
    assert_eq!(why, "3: there is no power (-8255 (not supported))");
    near(energy.devices[0].joules, 12_000.0, 1e-9);
}

#[test]
fn telemetry_that_is_not_good_enough_gives_no_figure() {
    let without = |from: f64, to: f64| {
        let mut all = samples(|_| Some(100.0), none);
        all.retain(|sample| !(from..to).contains(&(sample.at_ns as f64 / 1e9)));
        found(vec![track("0", all)])
    };
    let fine = without(20.0, 24.0);
    near(fine.joules, 12_000.0, 1e-9);
    assert_eq!(fine.gaps, 1);
    assert!(
        (4.0..4.3).contains(&fine.longest_gap_s),
        "{}",
        fine.longest_gap_s
    );
    for (energy, part) in [
        (without(20.0, 33.0), "are gaps between samples of power"),
        (
            without(0.0, 12.0),
            "telemetry covers 118.0 s of the window of 120.0 s",
        ),
        (without(125.0, 199.0), "of the window of 120.0 s"),
        (without(0.0, 134.95), "one sample of power only"),
        (found(vec![]), "no device gave power or energy"),
    ] {
        assert_eq!(energy.joules, None, "{part}");
        let why = &energy.null_reasons["joules"];
        assert!(why.contains(part), "{why}");
        assert_eq!(energy.joules_per_query, None);
    }
    // A counter that an exporter repeats for 15 seconds is no counter for a window of two minutes.
    let slow = |at: f64| Some((at / 15.0).floor() * 1_000.0);
    let energy = found(vec![track("0", samples(none, slow))]);
    let why = &energy.null_reasons["joules"];
    assert!(why.contains("changed 8 times"), "{why}");
}

/// A counter that is repeated for `step_s` at a time, and what it says of a device's power.
fn staircase(step_s: f64, power: fn(f64) -> Option<f64>) -> Energy {
    // 200 W before the load, 300 W after second 9.
    let drawn = |at: f64| 200.0 * at + 100.0 * (at - 9.0).max(0.0);
    let counter = move |at: f64| Some(drawn((at / step_s).floor() * step_s));
    found(vec![track("0", samples(power, counter))])
}

#[test]
fn a_counter_that_is_repeated_is_read_where_it_changes() {
    for step_s in [0.5, 1.0, 2.5, 4.3] {
        let energy = staircase(step_s, none);
        near(energy.joules, 36_000.0, 0.005);
        // Its steps are not peaks of power.
        near(energy.max_power_w, 300.0, 0.25);
    }
    // Three seconds before the load are enough for half-second steps, not for longer ones.
    near(staircase(0.5, none).idle_power_w, 200.0, 0.05);
    let coarse = staircase(2.5, none);
    assert_eq!(
        (coarse.idle_power_w, coarse.joules_above_idle),
        (None, None)
    );
    assert!(coarse.null_reasons["idle_power_w"].contains("too coarse"));
    // Sampled power tells it then.
    let both = staircase(2.5, |at| Some(if at < 9.0 { 201.0 } else { 300.0 }));
    assert_eq!(both.method, "counter");
    near(both.idle_power_w, 201.0, 1e-9);
    // Longer steps than a twentieth of the window around an end of it give no figure.
    let energy = staircase(7.0, none);
    assert_eq!(energy.joules, None);
    let why = &energy.null_reasons["joules"];
    assert!(
        why.contains("the energy counter stood still for 7"),
        "{why}"
    );
    let stuck = found(vec![track("0", samples(none, |_| Some(5.0)))]);
    let why = &stuck.null_reasons["joules"];
    assert_eq!(why, "0: the energy counter never changed");
}

#[test]
fn a_look_a_second_is_enough_for_an_idle_power() {
    let mut device = track(
        "0",
        samples(|at| Some(if at < 9.0 { 90.0 } else { 300.0 }), none),
    );
    device.samples = device.samples.into_iter().step_by(10).collect();
    let mut slow = telemetry(vec![device]);
    slow.period_ns = SECOND;
    let summary = synthetic::report(Story::Steady, "ref-135m").summary;
    let energy = energy::energy(&slow, &summary);
    near(energy.idle_power_w, 90.0, 1e-9);
    near(energy.joules, 36_000.0, 0.005);
}

#[test]
fn seconds_without_telemetry_have_no_power_in_the_series() {
    let series = |track: Track| -> Vec<Option<f64>> {
        let mut series: Vec<SecondPoint> = (0..140)
            .map(|t_s| SecondPoint {
                t_s,
                ..SecondPoint::default()
            })
            .collect();
        energy::fill_series(&telemetry(vec![track]), 0, &mut series);
        series.into_iter().map(|point| point.power_w).collect()
    };
    let mut gap = samples(|_| Some(100.0), none);
    gap.retain(|sample| !(20.5..24.5).contains(&(sample.at_ns as f64 / 1e9)));
    let power = series(track("0", gap));
    assert!(
        (20..=24).all(|second| power[second].is_none()),
        "{:?}",
        &power[18..27]
    );
    near(power[19], 100.0, 1e-9);
    near(power[25], 100.0, 1e-9);
    // A counter that stands still says nothing, and neither does one that goes back.
    for stuck in [
        samples(none, |_| Some(5.0)),
        samples(none, |at| Some(1e6 - at)),
    ] {
        assert!(series(track("0", stuck)).iter().all(Option::is_none));
    }
}

#[test]
fn what_one_query_takes_follows_from_the_window() {
    let report = synthetic::report(Story::Steady, "ref-135m");
    let energy = found(vec![track("0", samples(|_| Some(100.0), none))]);
    let summary = &report.summary;
    near(
        energy.joules_per_query,
        12_000.0 / summary.completed() as f64,
        1e-9,
    );
    near(
        energy.joules_per_output_token,
        12_000.0 / summary.output_tokens as f64,
        1e-9,
    );
    let all = summary.input_tokens + summary.output_tokens;
    near(energy.joules_per_token, 12_000.0 / all as f64, 1e-9);
    let (low, high) = energy.ci95["joules_per_query"];
    let (slow, fast) = summary.request_rate.ci95.expect("an interval");
    assert!((low - 100.0 / fast).abs() < 1e-9 && (high - 100.0 / slow).abs() < 1e-9);
}

#[test]
fn the_series_has_the_power_of_each_covered_second() {
    let telemetry = telemetry(vec![track("0", samples(|at| Some(10.0 * at), none))]);
    let mut series: Vec<SecondPoint> = (0..140)
        .map(|t_s| SecondPoint {
            t_s,
            ..SecondPoint::default()
        })
        .collect();
    energy::fill_series(&telemetry, 0, &mut series);
    assert_eq!(series[3].power_w, None);
    assert_eq!(series[138].power_w, None);
    near(series[30].power_w, 305.0, 1e-6);
}

fn report_with(energy: Energy) -> reports::Report {
    let mut report = synthetic::report(Story::Steady, "ref-135m");
    report.energy = Some(energy);
    report.warnings.clear();
    report
}

#[test]
fn scope_and_source_stand_beside_every_figure() {
    let mut device = track("0 910B3", samples(|at| Some(wave(at)), none));
    device.device.throttled_share = Some(0.25);
    device.device.utilisation_percent = Some(87.0);
    let report = report_with(found(vec![device]));
    let terminal = render::terminal(&report, Style::Plain);
    for part in [
        "Energy per query",
        "scope chip; dcmi: a power; sampled power, integrated",
    ] {
        assert!(terminal.contains(part), "{terminal}");
    }
    assert!(terminal.lines().all(|line| line.chars().count() <= 100));
    let markdown = render::markdown(&report);
    let table = markdown.split("## Energy").nth(1).expect("a section");
    let table = table.split("##").next().expect("it ends");
    insta::assert_snapshot!(table);
    assert!(render::html(&report).contains("slowed down 25"));
}

#[test]
fn no_figure_stands_with_its_reason() {
    let report = report_with(energy::none("no counter in `/sys/class/powercap`"));
    assert!(!render::terminal(&report, Style::Plain).contains("Energy"));
    for text in [render::markdown(&report), render::html(&report)] {
        assert!(text.contains("no counter in"), "the reason");
    }
    let text = serde_json::to_string(&report).expect("a report is JSON");
    assert_eq!(
        serde_json::from_str::<reports::Report>(&text).expect("ours"),
        report
    );
}

#[test]
fn an_energy_as_it_was_first_written_is_read() {
    let old = r#"{"joules": 12.5, "scope": "chip", "source": "rapl"}"#;
    let energy: Energy = serde_json::from_str(old).expect("it is read");
    assert_eq!((energy.joules, energy.devices.len()), (Some(12.5), 0));
}

proptest! {
    /// Energy adds up over parts of a window, and never falls.
    #[test]
    fn parts_add_up(
        steps in prop::collection::vec((1_u64..400_000_000, 0.0_f64..500.0), 2..60),
        cuts in prop::collection::vec(0.0_f64..1.0, 1..6),
    ) {
        let mut at_ns = 0;
        let samples: Vec<PowerSample> = steps
            .iter()
            .map(|(step_ns, watts)| {
                at_ns += step_ns;
                PowerSample { at_ns, power_w: Some(*watts), energy_j: None }
            })
            .collect();
        let curve = Curve::of_power(&samples).expect("enough samples");
        let (first, last) = (samples[0].at_ns, at_ns);
        let mut ends: Vec<u64> = cuts
            .iter()
            .map(|cut| first + (cut * (last - first) as f64) as u64)
            .collect();
        ends.extend([first, last]);
        ends.sort_unstable();
        let parts = ends.windows(2).map(|pair| {
            curve.between(Span { start_ns: pair[0], end_ns: pair[1] })
        });
        let parts: Vec<f64> = parts.collect();
        prop_assert!(parts.iter().all(|part| *part >= -1e-9));
        let whole = curve.between(Span { start_ns: first, end_ns: last });
        prop_assert!((parts.iter().sum::<f64>() - whole).abs() < 1e-6 * whole.max(1.0));
    }
}
