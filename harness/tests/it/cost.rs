//! Prices, sweeps and the search for the capacity, through the binary.

use reports::Outcome;
use reports::cost::SplitMethod;
use reports::load_curve::LoadCurve;

use crate::command::{Sandbox, records, report};

/// Two sequences at a time, so that a few requests a second fill the device.
const SMALL: &str = "--target sim:h100 --model ref-tiny --workload random:64/128 --max-sequences 2 \
                     --slo ttft=100ms --warmup 2s";

fn curve(sandbox: &Sandbox, folder: &str) -> LoadCurve {
    let text = std::fs::read_to_string(sandbox.path(folder).join("curve.json")).expect("a curve");
    serde_json::from_str(&text).expect("of this schema")
}

#[test]
fn the_bill_agrees_with_the_requests() {
    let sandbox = Sandbox::new();
    sandbox
        .run_line(&format!("run {SMALL} --rate 16 --duration 30s --out out"))
        .ends_with(0);
    let report = report(&sandbox.path("out"));
    let cost = report.cost.expect("an H100 has a price");
    let (from_s, to_s) = report.run.window_s;
    let (mut requests, mut tokens) = (0_u64, 0_u64);
    for record in records(&sandbox.path("out")) {
        let at_s = record.intended_ns as f64 / 1e9;
        let in_time = record.ttft_ns().is_some_and(|ns| ns <= 100_000_000);
        if (from_s..to_s).contains(&at_s) && record.outcome == Outcome::Ok && in_time {
            requests += 1;
            tokens += record.input_tokens + record.output_tokens;
        }
    }
    let usd = cost.usd_per_hour.mid * (to_s - from_s) / 3_600.0;
    let close = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-4;
    let figures = &cost.at_this_load;
    let per_query = figures.usd_per_query.expect("served").mid;
    assert!(close(per_query, usd / requests as f64));
    let per_million = figures.usd_per_million_total_tokens.expect("served").mid;
    assert!(close(per_million, 1e6 * usd / tokens as f64));
    let split = cost.split.expect("served");
    assert_eq!(split.method, SplitMethod::DeviceTime);
    let time = report.device_time.expect("the engine is ours");
    assert!(time.prefill_s > 0.0 && time.decode_s > time.prefill_s);
    assert!(close(
        time.prefill_s + time.decode_s + time.idle_s,
        to_s - from_s
    ));
    assert!(
        figures.usd_per_mau_month.is_none(),
        "random prompts have no users"
    );
}

#[test]
fn a_run_is_priced_again_with_another_sheet_and_split() {
    let sandbox = Sandbox::new();
    for (out, workload) in [("a", "random:512/16"), ("b", "random:64/128")] {
        sandbox
            .run_line(&format!(
                "run --target sim:h100 --model ref-tiny --workload {workload} --max-sequences 2 \
                 --rate 14 --duration 12s --out {out}"
            ))
            .says("report.html");
    }
    let before = report(&sandbox.path("a")).cost.expect("priced");
    assert_eq!((before.sheet.as_str(), before.hour.len()), ("rental", 1));
    let priced = sandbox.run_line("report a --price us").ends_with(0);
    assert!(priced.out.contains("sheet us"), "{}", priced.out);
    let after = report(&sandbox.path("a")).cost.expect("priced");
    let parts: Vec<&str> = after.hour.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(parts, ["capital", "network", "maintenance", "power"]);
    sandbox
        .run_line("report a --price us --split-from b")
        .ends_with(0);
    let solved = report(&sandbox.path("a")).cost.expect("priced");
    let split = solved.split.expect("served");
    assert_eq!(split.method, SplitMethod::Solved);
    assert!(
        split.detail.contains("solved from 2 runs"),
        "{}",
        split.detail
    );
    sandbox
        .run_line("report a --price us --split-from a")
        .ends_with(2)
        .says("different ratios of input to output");
    sandbox
        .run_line("report a --price china")
        .ends_with(2)
        .says("has no device `nvidia-h100-sxm`");
}

#[test]
fn price_sheets_are_listed_printed_and_checked() {
    let sandbox = Sandbox::new();
    let list = sandbox.run_line("prices list").ends_with(0).out;
    assert_eq!(list.lines().count(), 5, "{list}");
    let sheet = sandbox.run_line("prices show china").ends_with(0).out;
    sandbox.write("mine.toml", sheet.replace("970000", "1"));
    let checked = sandbox.run_line("prices check mine.toml").ends_with(0).out;
    assert!(
        checked.contains("600000.5 [1, 1200000] CNY for 8"),
        "{checked}"
    );
    sandbox.write("bad.toml", sheet.replace("low = 970000", "low = 9700000"));
    sandbox
        .run_line("prices check bad.toml")
        .ends_with(2)
        .says("bad.toml: device[nvidia-h20-sxm].purchase = 9700000, 5450000, 1200000")
        .says("accepted is low ≤ mid ≤ high");
    sandbox
        .run_line("run --target sim:h100 --price no.toml")
        .ends_with(2)
        .says("accepted is a file or one of rental, china");
    sandbox
        .run_line("run --target sim:h20 --price-device nvidia-h20-sxm")
        .ends_with(2)
        .says("no citable hourly price");
}

#[test]
fn a_capacity_is_found_and_every_run_of_the_search_is_kept() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run_line(&format!(
        "capacity {SMALL} --rate 16 --duration 30s --share 95% --precision 8% --out cap"
    ));
    let ran = ran.ends_with(0);
    assert!(ran.out.contains("Capacity: "), "{}", ran.out);
    let curve = curve(&sandbox, "cap");
    let found = curve.search.expect("it searched");
    let load = found.capacity.load.expect("there is a knee");
    let (low, high) = found.capacity.ci95.expect("an interval");
    // Two places of 70 ms each cannot serve more than 29 requests a second.
    assert!((14.0..26.0).contains(&load) && low <= load && load <= high);
    let (passed, failed) = (found.capacity.passed, found.capacity.failed);
    assert!(failed.expect("one failed") / passed.expect("one passed") <= 1.08);
    assert!(
        found
            .usd_per_query
            .and_then(|usd| Some((usd.mid, usd.interval()?)))
            .is_some_and(|(mid, (low, high))| low < mid && mid < high)
    );
    let mut seeds: Vec<u64> = curve.points.iter().map(|point| point.seed).collect();
    seeds.dedup();
    assert_eq!(
        seeds.len(),
        curve.points.len(),
        "every run has prompts of its own"
    );
    for point in &curve.points {
        let report = report(&sandbox.path("cap").join(&point.folder));
        assert_eq!(report.workload.target_rate, Some(point.load));
    }
    let again = Sandbox::new();
    again
        .run_line(&format!(
            "capacity {SMALL} --rate 16 --duration 30s --share 95% --precision 8% --out cap"
        ))
        .ends_with(0);
    let read = |sandbox: &Sandbox| std::fs::read(sandbox.path("cap/curve.json")).expect("a curve");
    assert_eq!(read(&sandbox), read(&again), "the same to the byte");
}

#[test]
fn a_sweep_has_a_point_for_each_load_and_says_what_was_late() {
    let sandbox = Sandbox::new();
    let ran = sandbox
        .run_line(&format!(
            "sweep {SMALL} --rates 4,40 --duration 15s --out sweep"
        ))
        .ends_with(0);
    assert!(ran.out.contains("INVALID"), "{}", ran.out);
    let curve = curve(&sandbox, "sweep");
    let shares: Vec<f64> = curve
        .points
        .iter()
        .filter_map(|point| point.share)
        .collect();
    assert!(shares[0] > 0.99 && shares[1] < 0.5, "{shares:?}");
    assert!(curve.points[0].usd_per_query.is_some());
    let markdown = std::fs::read_to_string(sandbox.path("sweep/curve.md")).expect("it is there");
    assert!(markdown.contains("INVALID runs:"), "{markdown}");
    let users = sandbox
        .run_line(&format!(
            "sweep {SMALL} --user-counts 1,2 --duration 10s --out users --json"
        ))
        .ends_with(0);
    assert!(users.out.contains("\"unit\": \"users\""));
    for (line, message) in [
        ("sweep --target sim:h100", "`sweep` needs loads over 0"),
        (
            "capacity --target sim:h100 --workload random:64/64 --rate 1",
            "has none",
        ),
        ("capacity --share 120%", "is no share"),
    ] {
        sandbox.run_line(line).ends_with(2).says(message);
    }
}
