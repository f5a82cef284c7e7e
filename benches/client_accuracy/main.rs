//! How accurate and how cheap the load generator is, beside the floor: the least a client can do.
//!
//! ```sh
//! cargo build --release
//! cargo bench -p benches --bench client_accuracy -- --weighbridge target/release/weighbridge
//! ```
//!
//! For each load, the floor, the floor with the kernel's instants and `weighbridge run` take turns
//! against `weighbridge mock` (TTFT 50 ms, ITL 20 ms, 64 tokens); medians over the repetitions.
//! Where there is `taskset`, the client has one processor and the server another. All are judged by
//! the same code, from their records and the server's. A turn in which the machine did not carry
//! the load for the floor is void: it is taken again, and has rows of its own. `--aiperf` puts
//! `AIPerf` beside them, once and by its own report.
//! Without `--bench` (as in `cargo test`) it checks in a second that floor and server agree, and
//! that goals are judged right.

mod floor;
mod goals;
mod peer;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use floor::Instants;
use goals::Run;
use harness::mock::{MockConfig, serve};
use harness::preflight::{GroundTruth, compare};
use reports::{Outcome, Report, RequestRecord};

/// A load in closed or open loop.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Load {
    /// So many streams, one request after another.
    Closed(usize),
    /// Poisson arrivals at so many requests per second.
    Open(f64),
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || match text.split_once(':')? {
            ("closed", users) => users.parse().ok().map(Self::Closed),
            ("open", rate) => rate.parse().ok().map(Self::Open),
            _ => None,
        };
        read().ok_or_else(|| format!("`{text}` is no load; accepted are `closed:N` and `open:R`"))
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(users) => write!(formatter, "closed:{users}"),
            Self::Open(rate) => write!(formatter, "open:{rate}"),
        }
    }
}

#[derive(Debug, Clone, Parser)]
struct Options {
    /// Loads
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "closed:1,closed:64,closed:256,closed:1000,closed:2000,open:49,open:195,open:763,open:1527"
    )]
    loads: Vec<Load>,
    /// Each client at each load so often
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// How long each time
    #[arg(long, default_value_t = 9.0)]
    seconds: f64,
    /// The program
    #[arg(long, default_value = "target/release/weighbridge")]
    weighbridge: PathBuf,
    /// Processor of the server
    #[arg(long, default_value = "0")]
    server_cpu: String,
    /// Processor of the client
    #[arg(long, default_value = "1")]
    client_cpu: String,
    /// The peer from the package index too, judged by the figures that it reports
    #[arg(long)]
    aiperf: bool,
    /// Drive the floor against this server and write its records (used by this program itself)
    #[arg(long, hide = true)]
    floor: Option<SocketAddr>,
    /// Which instants it has
    #[arg(long, hide = true, value_enum, default_value_t = Instants::AfterTheRead)]
    instants: Instants,
    /// Where to
    #[arg(long, hide = true, default_value = "floor.jsonl")]
    out: PathBuf,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// So many turns may be void for each that is asked for.
const MOST_VOID: usize = 3;
const TOKENS: u32 = 64;
/// An answer lasts so long: TTFT and 63 gaps.
const ANSWER_S: f64 = 0.05 + 63.0 * 0.02;

fn main() -> Result<()> {
    let mut options = Options::parse();
    // Cargo starts benches in their package, people name paths from the checkout.
    if !options.weighbridge.exists() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        options.weighbridge = checkout.join(&options.weighbridge);
    }
    if let Some(server) = options.floor {
        return floor_process(&options, server);
    }
    if !options.bench {
        return check();
    }
    ensure!(
        options.seconds >= 6.0,
        "`--seconds` is {}; accepted is 6 and more, since users come in over the first 1.3 s",
        options.seconds
    );
    let folder = tempfile::tempdir()?;
    print(goals::HEADS);
    let mut judgements = Vec::new();
    for &load in &options.loads {
        let (counted, void) = take_turns(&options, load, folder.path())?;
        for ((name, _), runs) in CLIENTS.iter().zip(&counted) {
            print(&goals::row(name, load, runs));
        }
        for ((name, _), runs) in CLIENTS.iter().zip(&void) {
            if !runs.is_empty() {
                print(&goals::row(&format!("{name}, void"), load, runs));
            }
        }
        let [floor, .., client] = &counted;
        judgements.push(if client.len() == options.repeat {
            goals::judgement(load, floor, client)
        } else {
            let (turns, void) = (client.len(), void[0].len());
            format!("| {load} | not judged: {void} turns void, {turns} not |")
        });
        if options.aiperf {
            match measure_peer(&options, load, folder.path()) {
                Ok(run) => print(&goals::row("aiperf", load, &[run])),
                // Its own limits are not ours to mend, nor to hide.
                Err(error) => print(&format!("| aiperf | {load} | {error:#} |")),
            }
        }
    }
    print(&format!("\n{}", goals::GOAL_HEADS));
    for judgement in judgements {
        print(&judgement);
    }
    Ok(())
}

/// For each client, its runs.
type Runs = [Vec<Run>; CLIENTS.len()];

/// All clients, one after another, until enough turns count or too many do not; those that count,
/// and those that are void since the machine did not carry the load.
fn take_turns(options: &Options, load: Load, folder: &Path) -> Result<(Runs, Runs)> {
    let [mut counted, mut void] = [Runs::default(), Runs::default()];
    while counted[0].len() < options.repeat && void[0].len() < MOST_VOID * options.repeat {
        let turn = CLIENTS.iter();
        let turn = turn.map(|(_, client)| measure(options, load, folder, *client));
        let turn: Vec<Run> = turn.collect::<Result<_>>()?;
        let runs = if turn[0].was_carried() {
            &mut counted
        } else {
            &mut void
        };
        for (runs, run) in runs.iter_mut().zip(turn) {
            runs.push(run);
        }
    }
    Ok((counted, void))
}

/// The floor in this process, against the server in this process.
fn check() -> Result<()> {
    for instants in [Instants::AfterTheRead, Instants::OfTheKernel] {
        let server = serve("127.0.0.1:0".parse()?, MockConfig::default())?;
        let (records, _) = floor::run(server.address(), Load::Closed(3), instants, 0.2, 8)?;
        let truth = server.stop()?;
        ensure!(records.len() == truth.requests.len() && records.len() >= 3);
        ensure!(records.iter().all(|record| record.chunk_ns.len() == 8));
        let found = compare(&records, &truth, 0);
        ensure!(found.requests == records.len() as u64, "all are compared");
        goals::check(found)?;
    }
    Ok(())
}

type Client = fn(&Options, Load, &str, &Path) -> Result<Ran>;

/// They take turns in this order.
const CLIENTS: [(&str, Client); 3] = [
    ("floor", |options, load, server, folder| {
        run_floor(Instants::AfterTheRead, options, load, server, folder)
    }),
    (
        "floor, kernel's instants",
        |options, load, server, folder| {
            run_floor(Instants::OfTheKernel, options, load, server, folder)
        },
    ),
    ("weighbridge", run_weighbridge),
];

/// What a client leaves behind: its records, the instant they count from, and its CPU seconds.
type Ran = (Vec<RequestRecord>, u64, f64);

fn measure(options: &Options, load: Load, folder: &Path, client: Client) -> Result<Run> {
    let program = pinned(&options.server_cpu, &options.weighbridge);
    let mut server = GroundTruth::start(program, &folder.join("truth.jsonl"))?;
    let base = server.base().trim_start_matches("http://");
    let address = base.trim_end_matches("/v1");
    let (records, start_ns, cpu_s) = client(options, load, address, folder)?;
    let truth = server.finish()?;
    let tokens: usize = truth.requests.iter().map(|truth| truth.sent_ns.len()).sum();
    Ok(Run {
        against: compare(&records, &truth, start_ns),
        achieved: achieved(options, load, &records),
        cpu_ms_per_1000: cpu_s * 1e6 / tokens.max(1) as f64,
    })
}

/// The share of the load that was carried out. In open loop, of the requests of the schedule those
/// that were sent within a tenth of a second and answered in full. In closed loop, of the tokens that
/// so many streams have in whole answers' time those that came.
fn achieved(options: &Options, load: Load, records: &[RequestRecord]) -> f64 {
    const IN_TIME_S: f64 = 0.1;
    const ANSWERS: f64 = 3.0;
    let instants = records.iter().map(|record| record.intended_ns);
    let first_ns = instants.min().unwrap_or_default();
    let since_s = |ns: u64| ns.saturating_sub(first_ns) as f64 / 1e9;
    match load {
        Load::Open(_) => {
            let scheduled = records
                .iter()
                .filter(|record| since_s(record.intended_ns) <= options.seconds);
            let done = scheduled.clone().filter(|record| {
                let lag_ns = record.send_lag_ns().unwrap_or(u64::MAX);
                let whole = record.chunk_ns.len() == TOKENS as usize;
                record.outcome == Outcome::Ok && whole && (lag_ns as f64) < IN_TIME_S * 1e9
            });
            done.count() as f64 / scheduled.count().max(1) as f64
        }
        Load::Closed(users) => {
            let to_s = options.seconds;
            let from_s = to_s - ANSWERS * ANSWER_S;
            let tokens = records.iter().flat_map(|record| &record.chunk_ns);
            let came = tokens.filter(|&&ns| (from_s..to_s).contains(&since_s(ns)));
            came.count() as f64 / (users as f64 * ANSWERS * f64::from(TOKENS))
        }
    }
}

/// Once, since it takes minutes; it says itself over how many requests.
fn measure_peer(options: &Options, load: Load, folder: &Path) -> Result<Run> {
    let program = pinned(&options.server_cpu, &options.weighbridge);
    let mut server = GroundTruth::start(program, &folder.join("truth.jsonl"))?;
    let reported = peer::run(options, load, server.base(), folder)?;
    let truth = server.finish()?;
    let asked_per_s = match load {
        Load::Open(rate) => rate,
        Load::Closed(users) => users as f64 / ANSWER_S,
    };
    let tokens = reported.requests() * f64::from(TOKENS);
    Ok(Run {
        against: reported.against(&truth.requests),
        // Over all its time, in which users come and go too.
        achieved: reported.requests_per_s() / asked_per_s,
        cpu_ms_per_1000: reported.cpu_s * 1e6 / tokens,
    })
}

fn run_floor(
    instants: Instants,
    options: &Options,
    load: Load,
    server: &str,
    folder: &Path,
) -> Result<Ran> {
    let instants = instants.to_possible_value().context("it has a name")?;
    let out = folder.join("floor.jsonl");
    let program = std::env::current_exe()?;
    let status = pinned(&options.client_cpu, &program)
        .args(["--floor", server, "--loads", &load.to_string()])
        .args(["--seconds", &options.seconds.to_string()])
        .args(["--instants", instants.get_name()])
        .arg("--out")
        .arg(&out)
        .status()?;
    ensure!(status.success(), "the floor ended with {status}");
    let mut lines = BufReader::new(File::open(&out)?).lines();
    let cpu_s = lines.next().context("an empty file")??.parse()?;
    let records = lines.map(|line| Ok(serde_json::from_str(&line?)?));
    Ok((records.collect::<Result<_>>()?, 0, cpu_s))
}

fn floor_process(options: &Options, server: SocketAddr) -> Result<()> {
    harness::limits::raise_file_limit();
    let load = *options.loads.first().context("a load")?;
    let (records, cpu_s) = floor::run(server, load, options.instants, options.seconds, TOKENS)?;
    let mut out = BufWriter::new(File::create(&options.out)?);
    writeln!(out, "{cpu_s}")?;
    for record in &records {
        serde_json::to_writer(&mut out, record)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn run_weighbridge(options: &Options, load: Load, server: &str, folder: &Path) -> Result<Ran> {
    let out = folder.join("out");
    let (flag, value) = match load {
        Load::Closed(users) => ("--users", users.to_string()),
        Load::Open(rate) => ("--rate", rate.to_string()),
    };
    let target = format!("http://{server}/v1");
    let workload = format!("random:48/{TOKENS}");
    let output = pinned(&options.client_cpu, &options.weighbridge)
        .args(["run", "--no-preflight", "--warmup", "0s", "--drain", "5s"])
        .args(["--target", &target, "--workload", &workload])
        .args(["--duration", &format!("{}s", options.seconds), flag, &value])
        .arg("--out")
        .arg(&out)
        .output()
        .with_context(|| format!("`{}`", options.weighbridge.display()))?;
    // 1 is INVALID, which a benchmark of the client must not hide but may go on after.
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "weighbridge: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Report = serde_json::from_reader(File::open(out.join("report.json"))?)?;
    let lines = BufReader::new(File::open(out.join("requests.jsonl"))?).lines();
    let records: Vec<RequestRecord> = lines
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect::<Result<_>>()?;
    let start_ns = report.run.environment["monotonic_start_ns"].parse()?;
    let cpu_s = report.client_error.cpu_s.unwrap_or(f64::NAN);
    Ok((records, start_ns, cpu_s))
}

/// A command on one processor, where that can be asked for.
fn pinned(cpu: &str, program: &Path) -> Command {
    let there = Command::new("taskset").arg("--version").output().is_ok();
    if !there {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", cpu]).arg(program);
    command
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn print(text: &str) {
    println!("{text}");
}
