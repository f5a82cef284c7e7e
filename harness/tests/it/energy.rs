//! `weighbridge devices`, and runs with a probe, on hosts made of fake vendor libraries.
//!
//! A fake's power is a known function of the system's monotonic clock, and the report says where on
//! that clock its window was: what the energy should be is known in closed form.

use std::path::Path;

use reports::Report;
use reports::validity::Verdict;

use crate::command::{Ran, Sandbox, report};
use crate::fakes::Fake;
use crate::mock::Mock;

/// Joules of the fakes' power (a triangle between 200 and 400 W, 37 s long, 10 W more for each
/// device) from instant 0 to `at_s`.
fn joules_until(at_s: f64, device: f64) -> f64 {
    let t = at_s / 37.0;
    let (whole, phase) = (t.floor(), t.fract());
    let part = if phase < 0.5 {
        phase * phase
    } else {
        2.0 * phase - phase * phase - 0.5
    };
    37.0 * (200.0 * t + 200.0 * (whole * 0.5 + part) + 10.0 * device * t)
}

/// What the fakes drew in the window of a report.
fn known_joules(report: &Report, devices: &[u32]) -> f64 {
    let start: u64 = report.run.environment["monotonic_start_ns"]
        .parse()
        .expect("a number");
    let (from, to) = report.run.window_s;
    let of = |device: &u32| {
        let at = |second: f64| joules_until(start as f64 / 1e9 + second, f64::from(*device));
        at(to) - at(from)
    };
    devices.iter().map(of).sum()
}

fn run_with(fake: &Fake, variable: &str, probe: &str) -> (Report, Ran) {
    let sandbox = Sandbox::new();
    let mock = Mock::start(&sandbox, "--ttft 30ms --itl 5ms");
    let line = format!(
        "run --target {} --workload random:32/8 --rate 20 --duration 6s --warmup 1s --drain 3s \
         --no-preflight --probe {probe} --out out",
        mock.base
    );
    let words: Vec<&str> = line.split_whitespace().collect();
    let ran = sandbox.run_in(&words, &fake.environment(variable));
    mock.finish(&sandbox);
    (report(&sandbox.path("out")), ran)
}

#[track_caller]
fn check(name: &str, variable: &str, probe: &str, devices: &[u32], method: &str) {
    let Some(fake) = Fake::build(name, "cards=0 1\ncount=2\n") else {
        return;
    };
    // A busy machine makes the load generator late, and the run INVALID for that, or keeps the
    // sampler waiting, and there is no figure; a figure has to be right in each run.
    let valid = (0..3).any(|_| is_right(&fake, (variable, probe), devices, method));
    assert!(valid, "{name}: none of three runs was VALID");
}

/// Checks the energy of one run; was it VALID?
fn is_right(fake: &Fake, how: (&str, &str), devices: &[u32], method: &str) -> bool {
    let (report, ran) = run_with(fake, how.0, how.1);
    let energy = report.energy.as_ref().expect("a probe was asked");
    let known = known_joules(&report, devices);
    let Some(joules) = energy.joules else {
        let why = &energy.null_reasons["joules"];
        said(why);
        let was_busy = why.contains("are gaps between samples") || why.contains("s apart");
        assert!(was_busy, "{why}");
        return false;
    };
    let off = joules / known - 1.0;
    let probe = how.1;
    let off_percent = 100.0 * off;
    said(&format!(
        "{probe}: {joules:.2} J by {method}, known {known:.2} J, off {off_percent:.4} %"
    ));
    assert!(off.abs() < 1e-3, "{joules} J, not {known} J");
    assert_eq!(
        (energy.method.as_str(), energy.scope.as_str()),
        (method, "chip")
    );
    assert_eq!(energy.devices.len(), devices.len());
    assert!(ran.out.contains("Energy per query"), "{}", ran.out);
    let per_query = energy.joules_per_query.expect("requests finished");
    assert!((per_query * report.summary.completed() as f64 / joules - 1.0).abs() < 1e-9);
    let idle = energy.idle_power_w.expect("a baseline");
    let devices = devices.len() as f64;
    assert!(
        (199.0 * devices..=411.0 * devices).contains(&idle),
        "{idle} W"
    );
    let inside = report.series.iter().filter(|second| second.in_window);
    assert!(inside.clone().count() >= 6 && inside.clone().all(|second| second.power_w.is_some()));
    said(&format!("{:?}", report.validity.reasons));
    report.validity.verdict == Verdict::Valid
}

#[expect(clippy::print_stderr, reason = "how near it came is worth reading")]
fn said(text: &str) {
    eprintln!("{text}");
}

#[test]
fn a_910b_host_s_energy_is_the_known_integral() {
    check("dcmi", "WEIGHBRIDGE_DCMI_LIB", "dcmi", &[0, 1], "trapezoid");
}

#[test]
fn one_of_several_devices_is_counted_alone() {
    check("dcmi", "WEIGHBRIDGE_DCMI_LIB", "dcmi:1", &[1], "trapezoid");
}

#[test]
fn cambricon_s_generations_give_the_known_integral() {
    for (name, method) in [
        ("cndev_gen1", "trapezoid"),
        ("cndev_gen2", "trapezoid"),
        ("cndev_gen3", "counter"),
    ] {
        check(name, "WEIGHBRIDGE_CNDEV_LIB", "cndev", &[0, 1], method);
    }
}

#[test]
fn nvidia_s_counter_gives_the_known_integral() {
    check("nvml", "WEIGHBRIDGE_NVML_LIB", "nvml", &[0, 1], "counter");
}

#[test]
fn a_probe_that_is_not_named_is_found_beside_a_local_server() {
    check("nvml", "WEIGHBRIDGE_NVML_LIB", "auto", &[0, 1], "counter");
}

#[test]
fn a_counter_that_goes_back_is_not_believed() {
    // The driver is loaded anew in the middle: sampled power is left.
    let Some(fake) = Fake::build("nvml", "count=1\nregress=40\n") else {
        return;
    };
    let (report, _) = run_with(&fake, "WEIGHBRIDGE_NVML_LIB", "nvml");
    let energy = report.energy.as_ref().expect("a probe was asked");
    assert_eq!(energy.method, "trapezoid");
    let known = known_joules(&report, &[0]);
    let joules = energy.joules.expect("there is power");
    assert!(
        (joules / known - 1.0).abs() < 2e-3,
        "{joules} J, not {known} J"
    );
}

#[test]
fn power_that_cannot_be_read_gives_no_energy_and_says_why() {
    let Some(fake) = Fake::build("dcmi", "ret:dcmi_get_device_power_info=-8012\n") else {
        return;
    };
    let (report, ran) = run_with(&fake, "WEIGHBRIDGE_DCMI_LIB", "dcmi");
    let energy = report.energy.expect("a probe was asked");
    assert_eq!((energy.joules, energy.joules_per_query), (None, None));
    let why = &energy.null_reasons["joules"];
    assert!(why.contains("-8012 (not ready)"), "{why}");
    assert!(ran.out.contains("no energy:"), "{}", ran.out);
    assert!(report.series.iter().all(|second| second.power_w.is_none()));
}

#[test]
fn a_processor_s_counter_is_energy_of_a_run_on_it() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("root/sys/class/powercap/intel-rapl:0");
    std::fs::create_dir_all(&folder).expect("writable");
    for (file, text) in [
        ("name", "package-0\n"),
        ("energy_uj", "5000000\n"),
        ("max_energy_range_uj", "262143328850\n"),
    ] {
        std::fs::write(folder.join(file), text).expect("writable");
    }
    let root = [(
        "WEIGHBRIDGE_SYSROOT".to_owned(),
        sandbox.path("root").into_os_string(),
    )];
    let line = "run --model ref-tiny --workload random:32/4 --rate 4 --duration 2s --warmup 0s \
                --drain 5s --out out";
    let words: Vec<&str> = line.split_whitespace().collect();
    sandbox.run_in(&words, &root.into());
    // The counter stands still, and a processor that draws nothing is not believed.
    let energy = report(&sandbox.path("out"))
        .energy
        .expect("it was looked for");
    assert_eq!(energy.joules, None);
    let why = &energy.null_reasons["joules"];
    assert!(
        why.contains("package-0: the energy counter changed 0 times"),
        "{why}"
    );
}

#[test]
fn a_probe_that_does_not_work_stops_the_run_before_it_starts() {
    let sandbox = Sandbox::new();
    let nowhere = [("WEIGHBRIDGE_SYSROOT".to_owned(), "/no/such/root".into())];
    let run = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        sandbox.run_in(&words, &nowhere.clone().into())
    };
    let rest = "--model ref-tiny --workload random:32/4 --duration 1s --out out";
    run(&format!("run --probe dcmi {rest}"))
        .ends_with(2)
        .says("/no/such/root/usr/local/dcmi/libdcmi.so")
        .says("hint: `weighbridge devices`");
    run(&format!("run --probe meter {rest}"))
        .ends_with(2)
        .says("`--probe` is `meter`; accepted are `auto`, `none`");
}

#[test]
fn devices_shows_what_there_is_and_through_what() {
    let Some(fake) = Fake::build("dcmi", "cards=0 2 5\nconstant_w=90\nutil=255\n") else {
        return;
    };
    let sandbox = Sandbox::new();
    let environment = fake.environment("WEIGHBRIDGE_DCMI_LIB");
    let ran = sandbox.run_in(&["devices"], &environment).ends_with(0);
    for part in [
        "dcmi:0  910B3",
        "dcmi:2  910B3",
        "90.0 W",
        "energy_j of dcmi:0, dcmi:1, dcmi:2: DCMI has no energy counter",
        "utilisation_percent of dcmi:0, dcmi:1, dcmi:2: dcmi_get_device_utilization_rate gave 255",
        "TDP unknown (unconfirmed)",
    ] {
        assert!(ran.out.contains(part), "no `{part}` in:\n{}", ran.out);
    }
    let ran = sandbox
        .run_in(&["devices", "--json"], &environment)
        .ends_with(0);
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    let first = &json["devices"][0];
    assert_eq!(first["readings"]["power_w"]["value"], 90.0);
    assert_eq!(
        first["readings"]["power_w"]["source"],
        "dcmi_get_device_power_info"
    );
    assert!(first["readings"]["utilisation_percent"]["value"].is_null());
    assert_eq!(first["published_as"], "ascend-910b3");
    assert_eq!(json["devices"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_host_with_nothing_says_where_it_looked_and_what_to_install() {
    let sandbox = Sandbox::new();
    let device = sandbox.path("root/sys/bus/pci/devices/0000:c1:00.0");
    std::fs::create_dir_all(&device).expect("writable");
    for (file, text) in [
        ("vendor", "0x19e5"),
        ("device", "0xd802"),
        ("class", "0x120000"),
    ] {
        std::fs::write(device.join(file), text).expect("writable");
    }
    let mut environment = std::collections::BTreeMap::from([
        (
            "WEIGHBRIDGE_SYSROOT".to_owned(),
            sandbox.path("root").into_os_string(),
        ),
        ("PATH".to_owned(), "/no/such/folder".into()),
    ]);
    for name in ["DCGM", "NPU", "MLU"] {
        let variable = format!("WEIGHBRIDGE_{name}_EXPORTER");
        environment.insert(variable, "http://127.0.0.1:9/metrics".into());
    }
    let ran = sandbox.run_in(&["devices"], &environment).ends_with(0);
    for part in [
        "No device with telemetry was found",
        "root/usr/local/Ascend/driver/lib64/driver/libdcmi.so",
        "`npu-smi` on PATH",
        "http://127.0.0.1:9/metrics",
        "sys/class/powercap/intel-rapl:*",
        "0000:c1:00.0 ascend 0xd802 (Ascend 910B)",
        "hint: Ascend: the driver brings libdcmi.so",
    ] {
        assert!(ran.out.contains(part), "no `{part}` in:\n{}", ran.out);
    }
}

#[test]
fn published_figures_carry_source_and_mark() {
    let sandbox = Sandbox::new();
    let ran = sandbox
        .run(&["devices", "--facts", "nvidia-h20-sxm"])
        .ends_with(0);
    assert!(
        ran.out
            .contains("400 W (unconfirmed) (unconfirmed; tweaktown"),
        "{}",
        ran.out
    );
    sandbox
        .run(&["devices", "--facts", "abacus"])
        .ends_with(2)
        .says("`--facts` is `abacus`; accepted are `nvidia-h100-sxm`");
    let ran = sandbox.run(&["devices", "--facts", "--json"]).ends_with(0);
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(20));
    assert!(!Path::new("results").exists());
}
