//! Servers as targets: TLS, batches before the run, the server's own metrics.

use reports::server_metrics::ServerFigure;

use crate::command::{Sandbox, records, report};
use crate::mock::Mock;
use crate::sealed::{Asks, Authority, serve};

const LOAD: &str = "--workload random:32/8 --rate 20 --duration 4s --warmup 1s --drain 3s \
                    --no-preflight --probe none --out out";

#[test]
fn batches_before_the_run_are_told_and_not_measured() {
    let sandbox = Sandbox::new();
    let mock = Mock::start(&sandbox, "--ttft 10ms --itl 1ms --dialect vllm");
    let line = format!("run --target {} --warm-up-batches 2,3 {LOAD}", mock.base);
    let ran = sandbox
        .run_line(&line)
        .says("warming up with batches of 2, 3");
    let truth = mock.finish(&sandbox);
    let found = report(&sandbox.path("out"));
    let told = &found.run.environment["warm_up_batches"];
    assert!(
        told.starts_with("2: 0.") && told.contains(", 3: 0."),
        "{told}"
    );
    let measured = records(&sandbox.path("out"));
    assert_eq!(truth.requests.len(), measured.len() + 5, "{}", ran.err);
    // Two, then three at once; each batch waited for the one before it.
    let ends = truth.requests[..2]
        .iter()
        .filter_map(|request| request.ended_ns);
    let begins = truth.requests[2..5]
        .iter()
        .map(|request| request.received_ns);
    assert!(ends.max() < begins.min());
}

#[test]
fn a_server_s_own_metrics_are_in_the_report() {
    let sandbox = Sandbox::new();
    let mock = Mock::start(&sandbox, "--ttft 30ms --itl 20ms --dialect sglang");
    let ran = sandbox.run_line(&format!("run --target {} {LOAD}", mock.base));
    mock.finish(&sandbox);
    let found = report(&sandbox.path("out"));
    let told = found.server_metrics.as_ref().expect("they were read");
    assert!(
        told.url.ends_with("/metrics") && told.looks >= 3,
        "{told:?}"
    );
    let running = &told.figures[&ServerFigure::Running];
    assert_eq!(running.source, "sglang:num_running_reqs");
    // Twenty a second for 0.17 s each are 3.4 at a time; a look sees some of them.
    assert!(
        running.max > Some(0.0) && running.max < Some(40.0),
        "{running:?}"
    );
    assert_eq!(told.figures[&ServerFigure::Waiting].mean, Some(0.0));
    let output = told.figures[&ServerFigure::OutputTokens]
        .growth
        .expect("a counter");
    let rate = output / told.covered_s / found.summary.output_tokens_per_s.per_s;
    assert!((0.6..1.67).contains(&rate), "{rate}");
    assert!(told.null_reasons["kv_usage"].contains("does not tell"));
    let seconds = found
        .series
        .iter()
        .filter(|second| second.server_running.is_some());
    assert!(seconds.count() >= 3, "{}", ran.err);
    let page = std::fs::read_to_string(sandbox.path("out/report.md")).expect("written");
    assert!(page.contains(r"sglang:num\_running\_reqs"), "{page}");
}

#[test]
fn metrics_that_are_not_there_are_a_reason() {
    for (dialect, flags, reason) in [
        ("tgi", "", Some("/metrics: HTTP status 404")),
        (
            "vllm",
            "--metrics-url http://127.0.0.1:9/x",
            Some("/x: 127.0.0.1:9: "),
        ),
        ("vllm", "--no-scrape", None),
    ] {
        let sandbox = Sandbox::new();
        let mock = Mock::start(
            &sandbox,
            &format!("--ttft 1ms --itl 1ms --dialect {dialect}"),
        );
        sandbox.run_line(&format!("run --target {} {flags} {LOAD}", mock.base));
        mock.finish(&sandbox);
        let told = report(&sandbox.path("out")).server_metrics;
        let why = told.map(|told| {
            assert!(told.figures.is_empty());
            told.null_reasons["all"].clone()
        });
        match (reason, why) {
            (Some(reason), Some(why)) => assert!(why.contains(reason), "{why}"),
            (None, None) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_server_with_mutual_tls_is_measured_and_no_secret_is_kept() {
    let sandbox = Sandbox::new();
    let authority = Authority::new();
    let signed = authority.sign(&["127.0.0.1"], 2100);
    let server = serve(&authority, &signed, Asks::Everybody);
    let (certificate, key) = authority.client("client");
    let base = format!("ascend=https://{}/v1", server.address);
    let line = format!(
        "run --target {base} --workload random:24/2 --rate 20 --duration 4s --warmup 0s --drain 3s \
         --no-preflight --probe none --warm-up-batches 1,4 --out out --tls-ca {} --tls-cert {} \
         --tls-key {}",
        authority.path("ca.pem").display(),
        certificate.display(),
        key.display()
    );
    let ran = sandbox.run_line(&line);
    let found = report(&sandbox.path("out"));
    assert!(found.summary.requests.ok > 40, "{}", ran.err);
    assert_eq!(found.summary.requests.failed, 0, "{}", ran.err);
    let details = &found.target.details;
    assert!(
        details["tls"].contains("a client certificate is given"),
        "{details:?}"
    );
    assert_eq!(details["vendor"], "ascend");
    let key = std::fs::read_to_string(key).expect("it was written");
    let secret = key.lines().nth(1).expect("a key has lines");
    for entry in std::fs::read_dir(sandbox.path("out")).expect("a folder") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("readable");
        assert!(!String::from_utf8_lossy(&bytes).contains(secret));
    }
    assert!(!ran.err.contains(secret) && !ran.out.contains(secret));
    // Without it, the reason and what to do.
    let nobody = format!(
        "run --target {base} --tls-ca {}",
        authority.path("ca.pem").display()
    );
    let ran = sandbox.run_line(&nobody).ends_with(2);
    ran.says("hint: `--tls-cert FILE --tls-key FILE`");
    let ran = sandbox
        .run_line(&format!("run --target {base}"))
        .ends_with(2);
    ran.says("hint: `--tls-ca FILE`");
}

#[test]
fn a_server_nobody_checked_is_said_so() {
    let sandbox = Sandbox::new();
    let authority = Authority::new();
    let server = serve(
        &authority,
        &authority.sign(&["elsewhere"], 2001),
        Asks::Nobody,
    );
    let ran = sandbox.run_line(&format!(
        "run --target https://{}/v1 --workload random:24/2 --rate 20 --duration 2s --warmup 0s \
         --probe none --no-scrape --tls-insecure --out out",
        server.address
    ));
    let found = report(&sandbox.path("out"));
    assert!(found.target.details["tls"].contains("NOT checked"));
    let own_error = found.client_error.preflight.expect("measured");
    assert!(own_error.load.contains("without the TLS"), "{own_error:?}");
    assert!(
        ran.out.contains("certificate was not checked"),
        "{}",
        ran.out
    );
}

#[test]
fn mistakes_about_servers_say_what_is_accepted() {
    let sandbox = Sandbox::new();
    let http = "http://127.0.0.1:9/v1";
    for (line, part) in [
        (
            format!("--target {http} --server triton"),
            "`--server` is `triton`; accepted are `auto`",
        ),
        (
            format!("--target {http} --tls-ca x"),
            "`--tls-ca` is for targets with `https://`",
        ),
        (
            format!("--target {http} --warm-up-batches 0"),
            "`--warm-up-batches` is `0`; accepted",
        ),
        (
            "--target cpu --warm-up-batches 1".to_owned(),
            "is for servers, not for `cpu`",
        ),
        (
            format!("--target {http} --metrics-url h"),
            "`--metrics-url` is `h`; accepted",
        ),
        (
            "--target https://h/v1 --tls-cert c".to_owned(),
            "`--tls-cert` needs `--tls-key FILE`",
        ),
        (
            "--target https://h/v1 --tls-key k".to_owned(),
            "`--tls-key` needs `--tls-cert FILE`",
        ),
        (
            "--target https://h/v1 --tls-ca /no/such".to_owned(),
            "`--tls-ca` `/no/such`: No such file",
        ),
        (
            "--target https://h/v1 --tls-ca x --tls-insecure".to_owned(),
            "contradict each other",
        ),
    ] {
        sandbox
            .run_line(&format!("run {line}"))
            .ends_with(2)
            .says(part);
    }
    sandbox
        .run_line("mock --dialect triton")
        .ends_with(2)
        .says("`mindie`");
}
