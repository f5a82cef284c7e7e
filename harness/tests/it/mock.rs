//! The client against the ground truth: nothing is lost, nothing is hidden, and the report says how
//! large the client's own error was.
//!
//! With `WEIGHBRIDGE_LONG=1` the two long ones run at full size: 100,000 requests, and stalls of
//! 2 s in every 10 s.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use harness::mock::plan::Stall;
use harness::mock::record::{Record, Truth};
use reports::stats::{Quantile, nearest_rank};
use reports::{Outcome, RequestRecord};

use crate::command::{Sandbox, records, report};

/// `weighbridge mock` while a test goes on.
pub(crate) struct Mock {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) base: String,
}

impl Mock {
    pub(crate) fn start(sandbox: &Sandbox, line: &str) -> Self {
        Self::start_as(sandbox, line, |command| command)
    }

    /// The same, by another command made of the usual one.
    fn start_as(sandbox: &Sandbox, line: &str, other: impl FnOnce(Command) -> Command) -> Self {
        let always = "mock --listen 127.0.0.1:0 --record truth.jsonl --until-stdin-closes";
        let line = format!("{always} {line}");
        let command = sandbox.command(&line.split_whitespace().collect::<Vec<_>>());
        let mut child = other(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stdout = child.stdout.take().expect("piped");
        let mut said = String::new();
        BufReader::new(stdout)
            .read_line(&mut said)
            .expect("it says where it listens");
        let base = said.trim().trim_start_matches("listening on ").to_owned();
        Self {
            stdin: child.stdin.take(),
            child,
            base,
        }
    }

    pub(crate) fn finish(mut self, sandbox: &Sandbox) -> Record {
        self.stdin = None;
        assert!(self.child.wait().expect("it ends").success());
        let file = std::fs::File::open(sandbox.path("truth.jsonl")).expect("written");
        Record::from_lines(BufReader::new(file)).expect("a record")
    }
}

fn is_long() -> bool {
    std::env::var_os("WEIGHBRIDGE_LONG").is_some()
}

pub(crate) fn by_ticket(record: &Record) -> BTreeMap<u64, &Truth> {
    let with_ticket = |truth| Some((Truth::ticket(truth)?, truth));
    record.requests.iter().filter_map(with_ticket).collect()
}

#[test]
fn no_request_is_lost_or_called_what_it_was_not() {
    let sandbox = Sandbox::new();
    let (requests, rate) = if is_long() {
        (100_000, 1000)
    } else {
        (1200, 200)
    };
    let mock = Mock::start(
        &sandbox,
        "--ttft uniform:1ms..40ms --itl exp:2ms --chunk-tokens 2 --cuts 3 --crlf --stall 100ms/1s \
         --errors 0.1 --resets 0.1 --truncations 0.1 --no-done 0.1 --seed 7",
    );
    let base = &mock.base;
    let load = format!("--rate {rate} --requests {requests} --duration 600s --drain 600s");
    sandbox
        .run_line(&format!(
            "run --target {base} --workload random:32/9 {load} --warmup 0s --no-preflight --out out"
        ))
        .ends_with(1);
    let truth = mock.finish(&sandbox);
    let truths = by_ticket(&truth);
    let records = records(&sandbox.path("out"));
    assert_eq!(records.len(), requests, "each was recorded");
    assert_eq!(
        truth.requests.len(),
        requests,
        "each came once, and none twice"
    );
    let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
    for record in &records {
        let truth = truths[&record.id];
        assert_eq!(record.outcome, truth.outcome, "{record:?}");
        *counts.entry(record.outcome).or_default() += 1;
        // A reset may destroy what was on its way.
        let came = record.chunk_ns.len();
        let fits = if record.outcome == Outcome::Reset {
            came <= truth.sent_ns.len()
        } else {
            came == truth.sent_ns.len()
        };
        assert!(fits, "{came} of {} chunks", truth.sent_ns.len());
    }
    let expected = [
        Outcome::Ok,
        Outcome::HttpStatus(500),
        Outcome::Reset,
        Outcome::Truncated,
    ];
    assert!(
        expected
            .iter()
            .all(|outcome| counts[outcome] * 20 > requests)
            && counts.len() == 4,
        "{counts:?}"
    );
    let found = report(&sandbox.path("out"));
    let failed: usize = expected[1..].iter().map(|outcome| counts[outcome]).sum();
    assert_eq!(found.summary.requests.ok, counts[&Outcome::Ok] as u64);
    assert_eq!(found.summary.requests.failed, failed as u64);
    println!("{requests} requests, each as the server has it: {counts:?}");
}

/// TTFT of the schedule: from the intended instant, had the server read the request right then.
fn scheduled_ttft_ns(record: &RequestRecord, start_ns: u64, truth: &Record, stall: Stall) -> u64 {
    const WORK_NS: u64 = 50_000_000;
    let since = start_ns + record.intended_ns - truth.head.started_ns;
    stall.after(since, WORK_NS) - since
}

/// The reported TTFT p99 is that from the schedule's instants to the server's own stamps: nothing
/// of the latter is the client's word.
fn assert_reported_as_sent(
    reported: f64,
    records: &[RequestRecord],
    truths: &BTreeMap<u64, &Truth>,
    start_ns: u64,
) {
    let first_sent = |record: &RequestRecord| truths[&record.id].sent_ns[0] - start_ns;
    let mut to_the_send: Vec<u64> = records
        .iter()
        .map(|record| first_sent(record) - record.intended_ns)
        .collect();
    to_the_send.sort_unstable();
    let to_the_send = nearest_rank(&to_the_send, Quantile::P99).expect("requests") as f64 / 1e9;
    // Where the kernel does not stamp, a read may be late.
    let read_late_ns = records
        .iter()
        .map(|record| record.chunk_ns[0].saturating_sub(first_sent(record)));
    let read_late = read_late_ns.max().expect("requests") as f64 / 1e9;
    assert!(
        (reported - to_the_send).abs() <= 0.01 * to_the_send + read_late,
        "reported {reported}, by the schedule and the server's stamps {to_the_send}"
    );
}

#[test]
fn a_server_that_stands_still_cannot_hide_it() {
    let sandbox = Sandbox::new();
    let (lasts_ms, every_ms, seconds) = if is_long() {
        (2000, 10_000, 60)
    } else {
        (400, 2000, 8)
    };
    let line = format!("--ttft 50ms --itl 1ms --stall {lasts_ms}ms/{every_ms}ms");
    let mock = Mock::start(&sandbox, &line);
    let base = &mock.base;
    let load = format!("--rate 120 --arrivals poisson --duration {seconds}s --drain 10s");
    sandbox.run_line(&format!(
        "run --target {base} --workload random:32/4 {load} --warmup 0s --no-preflight --out out"
    ));
    let truth = mock.finish(&sandbox);
    let found = report(&sandbox.path("out"));
    let stall = Stall {
        every_ns: every_ms * 1_000_000,
        lasts_ns: lasts_ms * 1_000_000,
    };
    let start_ns: u64 = found.run.environment["monotonic_start_ns"]
        .parse()
        .expect("a number");
    let records = records(&sandbox.path("out"));
    let mut scheduled: Vec<u64> = records
        .iter()
        .map(|record| scheduled_ttft_ns(record, start_ns, &truth, stall))
        .collect();
    scheduled.sort_unstable();
    let scheduled = nearest_rank(&scheduled, Quantile::P99).expect("requests") as f64 / 1e9;
    let reported = found.summary.ttft_s.p99.expect("enough requests");
    let truths = by_ticket(&truth);
    assert_reported_as_sent(reported, &records, &truths, start_ns);
    // Lateness can only add; how much it added on this machine is known from both sides' stamps.
    // At full size it may not matter.
    let late_ns = records.iter().filter_map(|record| {
        let truth = truths.get(&record.id)?;
        let server = truth
            .sent_ns
            .first()?
            .saturating_sub(*truth.planned_ns.first()?);
        let received = (start_ns + record.chunk_ns.first()?).saturating_sub(truth.sent_ns[0]);
        let sent = truth
            .received_ns
            .saturating_sub(start_ns + record.intended_ns);
        Some(server + received + sent)
    });
    let late = if is_long() {
        0.0
    } else {
        late_ns.max().expect("requests") as f64 / 1e9
    };
    assert!(
        reported >= 0.99 * scheduled && reported <= 1.01 * scheduled + late,
        "reported {reported}, by the schedule {scheduled}, late by up to {late}"
    );
    assert!(scheduled > 0.9 * lasts_ms as f64 / 1e3, "{scheduled}");
    println!("TTFT p99 {reported:.4} s, by the schedule {scheduled:.4} s");
}

#[test]
fn a_turn_that_waits_counts_from_the_end_of_the_answer_before_it() {
    const PAUSE_NS: u64 = 20_000_000;
    let sandbox = Sandbox::new();
    sandbox.write(
        "talk.toml",
        "name = \"talk\"\ndescription = \"short talks\"\nrate = 20.0\nduration_s = 4.0\n\
         warmup_s = 0.0\narrivals = \"poisson\"\ncontext_limit = 512\n\
         [[class]]\nid = \"casual_chat\"\nsession_share = 1.0\n\
         turns = { q = 0.9, beta = 1.0, max = 3 }\n\
         user_first = { dist = \"fixed\", value = 30.0 }\n\
         user_next = { dist = \"fixed\", value = 30.0 }\n\
         output = { dist = \"fixed\", value = 8.0 }\nthink = { dist = \"fixed\", value = 0.0 }\n",
    );
    // Slower than the schedule takes any server to be.
    let mock = Mock::start(&sandbox, "--ttft 1500ms --itl 1ms");
    sandbox.run_line(&format!(
        "run --target {} --workload talk.toml --think-scale 0.02 --drain 5s --no-preflight --out out",
        mock.base
    ));
    drop(mock.finish(&sandbox));
    let records = records(&sandbox.path("out"));
    let waited: Vec<_> = records
        .iter()
        .filter(|record| record.pushed_ns > 0 && record.sent_ns.is_some())
        .collect();
    assert!(waited.len() > 5, "{} turns waited", waited.len());
    for record in waited {
        let mut others = records.iter();
        let is_before =
            |r: &&RequestRecord| r.session == record.session && r.turn + 1 == record.turn;
        let before = others.find(is_before).expect("a turn before it");
        let ended = before.end_ns.expect("it ended");
        assert_eq!(record.intended_ns, ended + PAUSE_NS);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_mock_without_files_left_accepts_again_when_others_have_gone() {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    const FILES: usize = 40;
    let sandbox = Sandbox::new();
    let mock = Mock::start_as(&sandbox, "", |command| {
        let program = command.get_program().to_owned();
        let mut limited = Command::new("sh");
        limited
            .arg("-c")
            .arg(format!("ulimit -n {FILES} && exec \"$0\" \"$@\""))
            .arg(program)
            .args(command.get_args())
            .current_dir(sandbox.path("."));
        limited
    });
    let address = mock
        .base
        .trim_start_matches("http://")
        .trim_end_matches("/v1");
    let open = || TcpStream::connect(address).expect("its queue is long");
    let mut crowd: Vec<TcpStream> = (0..2 * FILES).map(|_| open()).collect();
    let mut last = open();
    let asked = last.write_all(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n");
    asked.expect("it is connected");
    let short = std::time::Duration::from_millis(200);
    last.set_read_timeout(Some(short))
        .expect("a socket takes it");
    let mut some = [0; 64];
    assert!(last.read(&mut some).is_err(), "there is no file for it");
    crowd.clear();
    last.set_read_timeout(Some(100 * short))
        .expect("a socket takes it");
    let count = last.read(&mut some).expect("now there is");
    assert!(some[..count].starts_with(b"HTTP/1.1 200 OK"));
    drop(last);
    let record = mock.finish(&sandbox);
    assert_eq!(record.head.connections, 2 * FILES as u64 + 1);
    assert!(record.head.accept_failures > 0);
}

#[test]
fn the_client_s_own_error_is_in_the_report() {
    let sandbox = Sandbox::new();
    let mock = Mock::start(&sandbox, "");
    let line = format!(
        "run --target {} --workload random:32/8 --rate 30 --duration 3s --warmup 0s --drain 3s",
        mock.base
    );
    let ran = sandbox.run_line(&format!("{line} --out with"));
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.err);
    assert!(ran.out.contains("Client's own error"), "{}", ran.out);
    let with = report(&sandbox.path("with")).client_error;
    let preflight = with.preflight.expect("it was measured");
    assert!(preflight.requests > 50, "{preflight:?}");
    assert_eq!(preflight.tokens, 64 * preflight.requests);
    assert!(preflight.receive_error_s.p50 > 0.0 && preflight.errors.len() == 4);
    assert!(preflight.server_late_s.is_some_and(|late| late.p50 > 0.0));
    assert!(preflight.early_share.is_some_and(|share| share < 0.5));
    assert!(
        preflight.load.contains("prompts of 64 tokens"),
        "{}",
        preflight.load
    );
    assert!(with.cpu_s.is_some_and(|cpu_s| cpu_s > 0.0));
    assert_eq!(with.preflight_skipped, None);
    let ran = sandbox.run_line(&format!("{line} --no-preflight --out without"));
    assert!(
        ran.out.contains("own error was not measured"),
        "{}",
        ran.out
    );
    let without = report(&sandbox.path("without")).client_error;
    assert_eq!(without.preflight, None);
    assert!(
        without
            .preflight_skipped
            .is_some_and(|why| why.contains("--no-preflight"))
    );
    assert_eq!(
        mock.finish(&sandbox).requests.len(),
        2 * records(&sandbox.path("with")).len()
    );
}

#[test]
fn mistakes_are_named() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "");
    for (line, part) in [
        ("mock --ttft soon", "`soon` is not a law of times"),
        ("mock --stall 10s/2s", "accepted is D/P"),
        ("mock --errors 1.5", "`--errors` is 1.5"),
        ("mock --errors 0.6 --resets 0.6", "add up to 1.2"),
        ("mock --record file/below", "`--record` file/below"),
        ("mock --listen 127.0.0.1", "--listen"),
        ("mock --tokens 0", "--tokens"),
        (
            "run --target http://127.0.0.1:9/v1 --users 90000 --workload random:32/8",
            "needs 90000 connections",
        ),
    ] {
        sandbox.run_line(line).ends_with(2).says(part);
    }
}
