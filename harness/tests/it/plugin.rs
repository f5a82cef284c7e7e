//! A run on the example plugin, built here; without a C compiler it says that it is skipped.

use std::path::Path;
use std::process::Command;

use reports::validity::Verdict;

use crate::command::{Sandbox, report};

#[test]
fn a_run_on_a_plugin_is_a_run_like_any_other() {
    let sandbox = Sandbox::new();
    let backends = Path::new(env!("CARGO_MANIFEST_DIR")).join("../backends");
    let library = sandbox.path("libtiny.so");
    let built = Command::new("cc")
        .args(["-std=c11", "-O2", "-shared", "-fPIC", "-I"])
        .arg(backends.join("include"))
        .arg(backends.join("plugins/tiny.c"))
        .arg("-o")
        .arg(&library)
        .status();
    let Ok(built) = built else {
        skipped();
        return;
    };
    assert!(built.success());
    let run = "run --target plugin:libtiny.so?lane=2 --model ref-tiny --workload smoke --rate 20 \
               --duration 3s --warmup 1s --price-device cpu --price-units 4 --out out";
    sandbox.run_line(run).says("report.html");
    let report = report(&sandbox.path("out"));
    assert_eq!(report.target.name, "plugin:libtiny.so?lane=2");
    assert_eq!(report.target.kind, "plugin");
    assert_eq!(report.target.device, "tiny example device");
    assert!(report.summary.requests.ok > 20);
    assert_eq!(report.summary.requests.failed, 0);
    assert!(report.device_time.is_some_and(|time| time.decode_s > 0.0));
    // A busy machine may make the load generator late; nothing else may be wrong.
    let late = report
        .validity
        .reasons
        .iter()
        .all(|reason| reason.contains("send"));
    assert!(
        report.validity.verdict == Verdict::Valid || late,
        "{:?}",
        report.validity
    );
    for (target, message) in [
        ("plugin:", "names no file"),
        ("plugin:nowhere.so", "plugin `nowhere.so`: it does not load"),
    ] {
        let ran = sandbox.run(&["run", "--target", target, "--model", "ref-tiny"]);
        ran.ends_with(2).says(message);
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skipped() {
    eprintln!("skipped: there is no C compiler `cc`");
}
