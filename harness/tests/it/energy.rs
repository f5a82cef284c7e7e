//! `weighbridge devices`, and runs with a probe, on hosts made of fake vendor libraries.
//!
//! A fake's power is a known function of the system's monotonic clock, and the report says where on
//! that clock its window was: what the energy should be is known in closed form.

use std::path::Path;

use reports::{Report, TokenCountSource};

use crate::command::{Ran, Sandbox, records, report};
use crate::fakes::Fake;
use crate::mock::{Mock, by_ticket};

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

/// A host made of a fake library and a server that plays a stack.
struct Host<'a> {
    fake: &'a str,
    variable: &'a str,
    /// Before the address: nothing, or whose devices the server runs on.
    target: &'a str,
    probe: &'a str,
    /// Flags of the mock server.
    server: &'a str,
    devices: &'a [u32],
    /// How the energy is to be found.
    method: &'a str,
    /// What the report calls the server, and the devices.
    known_as: [&'a str; 2],
    /// A part of what the report says of the devices' software; empty if there is none.
    software: &'a str,
}

const NVIDIA: Host<'static> = Host {
    fake: "nvml",
    variable: "WEIGHBRIDGE_NVML_LIB",
    target: "",
    probe: "nvml",
    server: "",
    devices: &[0, 1],
    method: "counter",
    known_as: ["openai (assumed)", ""],
    software: "",
};

fn run_with(fake: &Fake, variable: &str, probe: &str) -> (Report, Ran) {
    let host = Host {
        variable,
        probe,
        ..NVIDIA
    };
    let (report, ran, _) = run_on(&host, fake);
    (report, ran)
}

/// The report, what was said, and the tokens that did not agree with the server's own record.
fn run_on(host: &Host<'_>, fake: &Fake) -> (Report, Ran, Vec<String>) {
    let sandbox = Sandbox::new();
    let mock = Mock::start(&sandbox, &format!("--ttft 30ms --itl 5ms {}", host.server));
    let line = format!(
        "run --target {}{} --workload random:32/8 --rate 20 --duration 6s --warmup 1s --drain 3s \
         --no-preflight --probe {} {} --out out",
        host.target,
        mock.base,
        host.probe,
        if host.target == "ascend=" {
            "--price china"
        } else {
            ""
        }
    );
    let words: Vec<&str> = line.split_whitespace().collect();
    let ran = sandbox.run_in(&words, &fake.environment(host.variable));
    let truth = mock.finish(&sandbox);
    let truths = by_ticket(&truth);
    let records = records(&sandbox.path("out"));
    assert!(records.len() > 80, "{}", records.len());
    let wrong = records.iter().filter_map(|record| {
        let sent: u32 = truths[&record.id].tokens.iter().sum();
        let read = (
            record.output_tokens,
            record.chunk_tokens.iter().sum::<u32>(),
        );
        let counted = record.token_count_source == TokenCountSource::Usage;
        let agree = read == (u64::from(sent), sent) && counted;
        (!agree).then(|| format!("{sent} sent: {record:?}"))
    });
    (report(&sandbox.path("out")), ran, wrong.collect())
}

#[track_caller]
fn check(host: &Host<'_>) {
    const TRIES: usize = 6;
    let Some(fake) = Fake::build(host.fake, "cards=0 1\ncount=2\n") else {
        return;
    };
    // A busy machine makes the load generator late, and the run INVALID for that, or keeps the
    // sampler waiting, and there is no figure. A figure has to be right in each run.
    let mut reasons = Vec::new();
    for _ in 0..TRIES {
        match wrong_with(&fake, host) {
            found if found.is_empty() => return,
            found => reasons.push(found),
        }
    }
    panic!(
        "{}: none of {TRIES} runs was VALID: {reasons:#?}",
        host.fake
    );
}

/// Checks energy and tokens of one run; why it is not VALID.
fn wrong_with(fake: &Fake, host: &Host<'_>) -> Vec<String> {
    let (report, ran, wrong) = run_on(host, fake);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let energy = report.energy.as_ref().expect("a probe was asked");
    let known = known_joules(&report, host.devices);
    let Some(joules) = energy.joules else {
        let why = energy.null_reasons["joules"].clone();
        said(&why);
        return vec![why];
    };
    let off = joules / known - 1.0;
    let off_percent = 100.0 * off;
    let (fake, method) = (host.fake, host.method);
    said(&format!(
        "{fake}: {joules:.2} J by {method}, known {known:.2} J, off {off_percent:.4} %"
    ));
    assert!(off.abs() < 1e-3, "{joules} J, not {known} J");
    assert_eq!(
        (energy.method.as_str(), energy.scope.as_str()),
        (host.method, "chip")
    );
    assert_eq!(energy.devices.len(), host.devices.len());
    assert!(ran.out.contains("Energy per query"), "{}", ran.out);
    let per_query = energy.joules_per_query.expect("requests finished");
    assert!((per_query * report.summary.completed() as f64 / joules - 1.0).abs() < 1e-9);
    let idle = energy.idle_power_w.expect("a baseline");
    let devices = host.devices.len() as f64;
    assert!(
        (199.0 * devices..=411.0 * devices).contains(&idle),
        "{idle} W"
    );
    let inside = report.series.iter().filter(|second| second.in_window);
    assert!(inside.clone().count() >= 6 && inside.clone().all(|second| second.power_w.is_some()));
    is_known_as(&report, host);
    let software = report.target.details.get("device_software");
    assert_eq!(
        software.is_some_and(|software| software.contains(host.software)),
        !host.software.is_empty(),
        "{software:?}"
    );
    said(&format!("{:?}", report.validity.reasons));
    report.validity.reasons
}

#[expect(clippy::print_stderr, reason = "how near it came is worth reading")]
fn said(text: &str) {
    eprintln!("{text}");
}

/// The report says what answered, on whose devices, and prices those.
fn is_known_as(report: &Report, host: &Host<'_>) {
    let [stack, devices] = host.known_as;
    let told = |key: &str| report.target.details.get(key).map_or("", String::as_str);
    assert_eq!(report.target.kind, "http");
    assert_eq!(told("server_stack"), stack);
    assert_eq!(told("devices"), devices);
    assert_eq!(told("vendor"), host.target.trim_end_matches('='));
    if host.fake == "dcmi" {
        let cost = report.cost.as_ref().expect("the sheet has a 910B");
        let units = host.devices.len() as u32;
        assert_eq!((cost.device.as_str(), cost.units), ("ascend-910b", units));
    }
}

#[test]
fn a_910b_host_is_measured_whole() {
    check(&Host {
        fake: "dcmi",
        variable: "WEIGHBRIDGE_DCMI_LIB",
        target: "ascend=",
        probe: "auto",
        server: "--dialect mindie --chunk-tokens 2",
        devices: &[0, 1],
        method: "trapezoid",
        known_as: [
            "mindie (by what the server says of itself)",
            "910B3, 910B3 (by dcmi)",
        ],
        software: "soc Ascend910B3, driver 25.5.1",
    });
}

#[test]
fn one_of_several_devices_is_counted_alone() {
    check(&Host {
        fake: "dcmi",
        variable: "WEIGHBRIDGE_DCMI_LIB",
        target: "ascend=",
        probe: "dcmi:1",
        server: "",
        devices: &[1],
        method: "trapezoid",
        known_as: ["mindie (assumed)", "910B3 (by dcmi)"],
        software: "soc Ascend910B3",
    });
}

#[test]
fn cambricon_s_generations_are_measured_whole() {
    for (fake, method, server, devices) in [
        ("cndev_gen1", "trapezoid", "vllm", "MLU370-X8, MLU370-X8"),
        (
            "cndev_gen2",
            "trapezoid",
            "lmdeploy",
            "MLU370-X8, MLU370-X8",
        ),
        ("cndev_gen3", "counter", "xllm", "MLU590-M9, MLU590-M9"),
    ] {
        check(&Host {
            fake,
            variable: "WEIGHBRIDGE_CNDEV_LIB",
            target: "cambricon=",
            probe: "auto",
            server: &format!("--dialect {server} --chunk-tokens 3"),
            devices: &[0, 1],
            method,
            known_as: [
                &format!("{server} (by what the server says of itself)"),
                &format!("{devices} (by cndev)"),
            ],
            software: "api CNDEV, generation",
        });
    }
}

#[test]
fn an_nvidia_host_is_measured_whole() {
    check(&Host {
        server: "--dialect sglang",
        known_as: ["sglang (by what the server says of itself)", ""],
        ..NVIDIA
    });
}

#[test]
fn a_probe_that_is_not_named_is_found_beside_a_local_server() {
    check(&Host {
        probe: "auto",
        ..NVIDIA
    });
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
        why.contains("package-0: the energy counter never changed"),
        "{why}"
    );
    let series = report(&sandbox.path("out")).series;
    assert!(series.iter().all(|second| second.power_w.is_none()));
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
        "dcmi:0: card 0, soc Ascend910B3, driver 25.5.1",
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
