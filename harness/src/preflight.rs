//! Measures the client itself: the whole load generator against a server whose truth is known.
//!
//! The server is this program again, as a child process, so that the two share no thread. What the
//! client reports of it is held against the server's own record, request by request. Invariant: the
//! same driver, client and recorder as in the run that follows, with its number of users or at the
//! requests and tokens per second of its busiest seconds. Prompts have the mean length of the
//! run's, not their spread; where that is too much, the words for the load say so.
//! What it does not do: judge; [`reports::preflight`] does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use backends::http::{HttpBackend, HttpConfig, parse_base};
use backends::{Backend, Clock, Nanos};
use models::{ChatTokenizer, SamplingParams};
use reports::preflight::{Pairs, Preflight, Spread};
use reports::schema::Metric;
use reports::{Accumulator, Outcome, RequestRecord, Window};
use tokio::sync::watch;

use crate::arrivals::Arrivals;
use crate::driver::{self, Load, LoadPlan, Users};
use crate::mock::record::{Record, Truth};
use crate::plan::TokenizerKind;
use crate::recorder::Recorder;
use crate::workload::rate::RateCurve;
use crate::workload::schedule::{OpenLoad, Pace, Session};
use crate::workload::source::{SessionSource, Workload};
use crate::workload::spec;

/// How long it lasts.
const DURATION_S: f64 = 3.0;
/// What still runs then has so long.
const DRAIN_S: f64 = 2.0;
/// Sessions that are made for each user.
const SESSIONS_PER_USER: u64 = 4;
/// Fewer requests a second would leave too few for a p99.
const LOWEST_RATE: f64 = 40.0;
/// The length of a short answer; one token in each chunk.
const ANSWER_TOKENS: u32 = 64;
/// A chat template alone takes up to so many.
const SHORTEST_PROMPT_TOKENS: u32 = 64;
/// Prompts are made before they are sent, which takes a second for half as many.
const MOST_PROMPT_TOKENS: f64 = 2e6;

/// How hard the client has to work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pressure {
    /// Requests per second, of 64 tokens each.
    Rate(f64),
    /// Users of a closed loop.
    Users(u32),
}

impl Pressure {
    /// The busiest seconds of a schedule, as so many requests of the preflight's length: as many
    /// requests, and as many tokens.
    pub fn of_schedule(sessions: &[Session]) -> Self {
        /// About as long as the tokens of an answer take to come.
        const STRETCH_S: f64 = 5.0;
        let mut stretches: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for turn in sessions.iter().flat_map(|session| &session.turns) {
            let stretch = (turn.nominal.as_secs_f64() / STRETCH_S) as u64;
            let (requests, tokens) = stretches.entry(stretch).or_default();
            *requests += 1;
            let until = turn.cancel_after.unwrap_or(turn.output_tokens);
            *tokens += u64::from(turn.output_tokens.min(until));
        }
        let each = |&(requests, tokens): &(u64, u64)| {
            (requests as f64).max(tokens as f64 / f64::from(ANSWER_TOKENS)) / STRETCH_S
        };
        Self::Rate(stretches.values().map(each).fold(0.0, f64::max))
    }
}

/// Drives the client for a few seconds under `pressure`, with prompts of so many tokens.
pub async fn measure(
    pressure: Pressure,
    prompt_tokens_mean: f64,
    seed: u64,
    clock: &Clock,
    tokenizer: Arc<ChatTokenizer>,
) -> Result<Preflight> {
    let folder = Folder::new(clock)?;
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let mut server = GroundTruth::start(Command::new(program), &folder.0.join("truth.jsonl"))?;
    let config = HttpConfig::new(parse_base(server.base())?);
    let backend = HttpBackend::connect(config, clock.clone()).await;
    let backend = backend.map_err(|failure| anyhow!("{}", failure.message))?;
    let ahead = connections(pressure);
    backend.prepare(ahead);
    let (prompt_tokens, prompts) = prompts(pressure, prompt_tokens_mean);
    let spec = spec::load(&format!("random:{prompt_tokens}/{ANSWER_TOKENS}"))?;
    let workload = Workload::Generated(Box::new(spec));
    let source = SessionSource::new(workload, seed, Arc::clone(&tokenizer), None)?;
    let (words, load) = load_under(pressure, &source);
    // The connections are there by then.
    clock
        .sleep(Nanos(100_000_000 + 50_000 * ahead as u64))
        .await;
    let path = folder.0.join("requests.jsonl");
    let begun = clock.now();
    let start = driver::start(clock);
    let cpu_before = crate::host::process_cpu_s();
    drive(
        Arc::new(backend),
        Arc::new(source),
        tokenizer,
        load,
        &path,
        start,
    )
    .await?;
    let wall_s = clock.now().since(begun).as_secs_f64();
    let cpu_s = crate::host::process_cpu_s()
        .zip(cpu_before)
        .map(|(now, before)| now - before);
    let truth = server.finish()?;
    ensure!(
        truth.head.accept_failures == 0,
        "the ground truth had no files left for all connections\n\nhint: raise the limit with `ulimit -n`"
    );
    let mut preflight = compare(&read_records(&path)?, &truth, clock.monotonic_ns(start));
    ensure!(
        preflight.requests > 0,
        "no request to the ground truth finished in {DURATION_S} s"
    );
    preflight.load = format!("{words}, {prompts}");
    preflight.duration_s = DURATION_S;
    preflight.cpu_cores_used = cpu_s.map(|cpu| cpu / wall_s.max(1e-9));
    let tokens = preflight.tokens as f64;
    preflight.cpu_ms_per_1000_tokens = cpu_s.map(|cpu| cpu * 1e6 / tokens.max(1.0));
    Ok(preflight)
}

/// The load, and what it is in words.
fn load_under(pressure: Pressure, source: &SessionSource) -> (String, Load) {
    match pressure {
        Pressure::Rate(rate) => {
            let rate = preflight_rate(rate);
            let schedule = source.open(&OpenLoad {
                pace: Pace::Process {
                    arrivals: Arrivals::Poisson,
                    rate,
                },
                curve: &RateCurve::flat((0.0, DURATION_S)),
                window_s: 0.0,
                end_s: DURATION_S,
                max_requests: None,
            });
            (
                format!("open loop, {rate} requests of {ANSWER_TOKENS} tokens per second"),
                Load::Open(schedule.sessions),
            )
        }
        Pressure::Users(users) => {
            let ready = source.ahead(u64::from(users) * SESSIONS_PER_USER);
            let spread = Nanos::from_secs_f64(0.5 / f64::from(users));
            (
                format!("closed loop, {users} users"),
                Load::Closed(Users {
                    count: users,
                    spread,
                    ready,
                }),
            )
        }
    }
}

/// The rate of the preflight, where that of the run is so much.
fn preflight_rate(rate: f64) -> f64 {
    rate.max(LOWEST_RATE)
}

/// Tokens of each prompt, and what that is in words.
fn prompts(pressure: Pressure, mean: f64) -> (u32, String) {
    let requests = match pressure {
        Pressure::Rate(rate) => preflight_rate(rate) * DURATION_S,
        Pressure::Users(users) => f64::from(users) * SESSIONS_PER_USER as f64,
    };
    let wanted = mean.round().max(f64::from(SHORTEST_PROMPT_TOKENS)) as u32;
    let most = (MOST_PROMPT_TOKENS / requests.max(1.0)) as u32;
    let tokens = wanted.min(most.max(SHORTEST_PROMPT_TOKENS));
    let words = if tokens < wanted {
        format!("prompts of {tokens} tokens where the run's have {wanted} on average")
    } else {
        format!("prompts of {tokens} tokens")
    };
    (tokens, words)
}

/// Connections that are made before a load. Users need one each; at a rate nobody knows how long a
/// server takes, and those that are missing are made as they are needed, which a report counts.
pub fn connections(pressure: Pressure) -> usize {
    const LIKELY_S: f64 = 2.0;
    /// More at once are turned away by many servers.
    const MOST: usize = 4000;
    match pressure {
        Pressure::Users(users) => users as usize,
        Pressure::Rate(rate) => ((rate * LIKELY_S).ceil() as usize).clamp(1, MOST),
    }
}

async fn drive(
    backend: Arc<dyn Backend>,
    source: Arc<SessionSource>,
    tokenizer: Arc<ChatTokenizer>,
    load: Load,
    path: &Path,
    start: Nanos,
) -> Result<()> {
    let end = Nanos::from_secs_f64(DURATION_S);
    let window = Window {
        start_ns: 0,
        end_ns: end.0,
    };
    let recorder = Recorder::create(path, Accumulator::new(window, None))?;
    let plan = LoadPlan {
        load,
        start,
        end,
        drain_end: end.plus(Nanos::from_secs_f64(DRAIN_S)),
        sampling: SamplingParams {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            seed: 0,
        },
        ignore_eos: true,
        tokenizer_kind: TokenizerKind::StandIn,
        think_scale: 0.0,
        max_requests: None,
    };
    // Nobody stops it: a signal ends the program, as before any run.
    let (_never, stop) = watch::channel(false);
    let ended = driver::run(backend, source, tokenizer, plan, recorder.clone(), stop).await;
    ensure!(
        ended.lost_conversations == 0,
        "{} conversations with the ground truth were lost",
        ended.lost_conversations
    );
    match recorder.finish().write_error {
        Some(error) => Err(error).with_context(|| format!("`{}`", path.display())),
        None => Ok(()),
    }
}

fn read_records(path: &Path) -> Result<Vec<RequestRecord>> {
    let file = std::fs::File::open(path)?;
    let read = |line: std::io::Result<String>| Ok(serde_json::from_str(&line?)?);
    BufReader::new(file).lines().map(read).collect()
}

/// What the client has against what the server has; `start_ns` is the start of the client's run on
/// the clock that both share.
pub fn compare(records: &[RequestRecord], truth: &Record, start_ns: u64) -> Preflight {
    let mut truths: Vec<(u64, &Truth)> = truth
        .requests
        .iter()
        .filter_map(|truth| Some((truth.ticket()?, truth)))
        .collect();
    truths.sort_unstable_by_key(|(ticket, _)| *ticket);
    let (mut receive, mut lag, mut server_late) = (Vec::new(), Vec::new(), Vec::new());
    let metrics = [Metric::Ttft, Metric::Itl, Metric::Tpot, Metric::E2e];
    let mut pairs = metrics.map(|metric| (metric, Pairs::default()));
    let mut requests = 0;
    for record in records {
        lag.extend(record.send_lag_ns());
        let Ok(at) = truths.binary_search_by_key(&record.id, |(ticket, _)| *ticket) else {
            continue;
        };
        let truth = truths[at].1;
        let alike = record.chunk_ns.len() == truth.sent_ns.len();
        if record.outcome != Outcome::Ok || truth.outcome != Outcome::Ok || !alike {
            continue;
        }
        requests += 1;
        let stamps = record.chunk_ns.iter().zip(&truth.sent_ns);
        receive.extend(
            stamps.map(|(read, sent)| (start_ns + read).cast_signed() - sent.cast_signed()),
        );
        server_late.extend(truth.lateness_ns());
        let as_it_was = as_it_was(record, truth);
        for (metric, pairs) in &mut pairs {
            values(*metric, record, &mut pairs.reported_ns);
            values(*metric, &as_it_was, &mut pairs.true_ns);
        }
    }
    let early = receive.iter().filter(|error| error.is_negative()).count();
    Preflight {
        load: String::new(),
        duration_s: 0.0,
        requests,
        tokens: receive.len() as u64,
        early_share: Some(early as f64 / receive.len().max(1) as f64),
        receive_error_s: Spread::of(receive),
        server_late_s: Some(Spread::of(server_late)),
        send_lag_s: Spread::of(lag),
        errors: pairs
            .into_iter()
            .map(|(metric, pairs)| (metric, pairs.errors()))
            .collect(),
        cpu_cores_used: None,
        cpu_ms_per_1000_tokens: None,
        marks: Vec::new(),
    }
}

/// The record that a client without any error would have made.
fn as_it_was(record: &RequestRecord, truth: &Truth) -> RequestRecord {
    RequestRecord {
        intended_ns: truth.received_ns,
        sent_ns: Some(truth.received_ns),
        chunk_ns: truth.sent_ns.clone(),
        chunk_tokens: truth.tokens.clone(),
        ..record.clone()
    }
}

fn values(metric: Metric, record: &RequestRecord, into: &mut Vec<u64>) {
    match metric {
        Metric::Ttft => into.extend(record.ttft_ns()),
        Metric::Tpot => into.extend(record.tpot_ns()),
        Metric::E2e => into.extend(record.e2e_ns()),
        Metric::Itl => into.extend(record.gaps_ns().flat_map(|(gap_ns, tokens)| {
            let each = gap_ns / u64::from(tokens.max(1));
            std::iter::repeat_n(each, tokens as usize)
        })),
        Metric::TtftFromSend | Metric::ChunkGap | Metric::SendLag | Metric::Queue => {}
    }
}

/// A folder of its own that goes away with it.
struct Folder(PathBuf);

impl Folder {
    fn new(clock: &Clock) -> Result<Self> {
        let now_ns = clock.monotonic_ns(clock.now());
        let name = format!("weighbridge-{}-{now_ns}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("`{}`", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a temporary folder is left behind");
        }
    }
}

/// `weighbridge mock` as a process of its own; it ends when its standard input does, so also when
/// this program dies.
#[derive(Debug)]
pub struct GroundTruth {
    child: Child,
    base: String,
    stdin: Option<ChildStdin>,
    record: PathBuf,
}

impl GroundTruth {
    /// Starts `program`, which is weighbridge, and lets it write what it does to `record`.
    pub fn start(mut program: Command, record: &Path) -> Result<Self> {
        let mut child = program
            .args(["mock", "--listen", "127.0.0.1:0", "--until-stdin-closes"])
            .arg("--record")
            .arg(record)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{program:?} cannot be started"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let stdin = child.stdin.take();
        let base = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap_or_default();
        let server = Self {
            base: base.to_owned(),
            child,
            stdin,
            record: record.to_owned(),
        };
        ensure!(!server.base.is_empty(), "the ground truth did not start");
        Ok(server)
    }

    /// The address of its API.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Ends it and reads what it did.
    pub fn finish(&mut self) -> Result<Record> {
        self.stdin = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "the ground truth ended with {status}");
        let file = std::fs::File::open(&self.record)?;
        Ok(Record::from_lines(BufReader::new(file))?)
    }
}

impl Drop for GroundTruth {
    fn drop(&mut self) {
        self.stdin = None;
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::record::RecordHead;
    use crate::workload::schedule::Turn;
    use crate::workload::session::PromptPlan;
    use reports::TokenCountSource;

    fn record(id: u64, chunk_ns: Vec<u64>) -> RequestRecord {
        RequestRecord {
            id,
            session: id,
            turn: 0,
            class: "random".into(),
            intended_ns: 1_000,
            pushed_ns: 0,
            sent_ns: Some(1_030),
            admitted_ns: None,
            chunk_tokens: vec![1; chunk_ns.len()],
            output_tokens: chunk_ns.len() as u64,
            planned_output_tokens: chunk_ns.len() as u64,
            chunk_ns,
            end_ns: Some(9_000),
            outcome: Outcome::Ok,
            finish: None,
            input_tokens: 64,
            planned_input_tokens: 64,
            cached_input_tokens: None,
            token_count_source: TokenCountSource::Usage,
            bare_ns: Vec::new(),
            usage_ns: None,
            error: None,
        }
    }

    fn truth(ticket: u64, sent_ns: Vec<u64>) -> Truth {
        Truth {
            request: 0,
            id: Some(format!("wb-1-2-{ticket}")),
            outcome: Outcome::Ok,
            received_ns: 7_001_050,
            planned_ns: sent_ns.clone(),
            tokens: vec![1; sent_ns.len()],
            sent_ns,
            late_chunks: 0,
            ended_ns: Some(7_009_000),
        }
    }

    #[test]
    fn errors_are_differences_between_what_is_reported_and_what_was() {
        // The client's run began at 7,000,000 ns of the clock that both share.
        let records = [
            record(3, vec![2_060, 3_040, 4_090]),
            record(5, vec![2_000]),
            record(6, vec![2_000]),
        ];
        let cut = Truth {
            outcome: Outcome::Cancelled,
            ..truth(5, vec![7_001_999])
        };
        let record = Record {
            head: RecordHead {
                started_ns: 0,
                connections: 1,
                accept_failures: 0,
            },
            requests: vec![cut, truth(3, vec![7_002_000, 7_003_000, 7_004_000])],
        };
        let found = compare(&records, &record, 7_000_000);
        assert_eq!((found.requests, found.tokens), (1, 3));
        let ns = |seconds: f64| (seconds * 1e9).round() as u64;
        let spread = found.receive_error_s;
        assert_eq!([spread.p50, spread.max].map(ns), [60, 90]);
        assert_eq!(ns(found.send_lag_s.p50), 30);
        let of = |metric, figure: &str| {
            let error = found.errors[&metric][figure];
            (ns(error.reported_s), ns(error.true_s), ns(error.error_s()))
        };
        assert_eq!(of(Metric::Ttft, "p50"), (1_060, 950, 110));
        assert_eq!(of(Metric::Itl, "p50"), (980, 1_000, 20));
        assert_eq!(of(Metric::Tpot, "p50"), (1_015, 1_000, 15));
        assert_eq!(of(Metric::E2e, "p50"), (3_090, 2_950, 140));
        assert!(
            found
                .errors
                .values()
                .all(|figures| !figures.contains_key("p99"))
        );
    }

    #[test]
    fn the_busiest_seconds_count_by_requests_and_by_tokens() {
        let turn = |at_s: f64, output_tokens: u32, cancel_after: Option<u32>| Turn {
            turn: 0,
            nominal: Nanos::from_secs_f64(at_s),
            user: String::new(),
            injected: String::new(),
            fixed: None,
            prompt: PromptPlan {
                first_turn: 0,
                user_tokens: 1,
                injected_tokens: 0,
                prompt_tokens: 1,
                truncated: false,
            },
            output_tokens,
            cancel_after,
            think: Nanos(0),
            seed: 0,
        };
        let of = |turns: Vec<Turn>| {
            Pressure::of_schedule(&[Session {
                index: 0,
                class: "a".into(),
                system: None,
                past: Vec::new(),
                turns,
            }])
        };
        let short = || (0..50).map(|i| turn(10.0 + f64::from(i) * 0.1, 8, None));
        assert_eq!(
            of(short().collect()),
            Pressure::Rate(10.0),
            "as many requests"
        );
        let long = turn(1.0, 6_400, None);
        let both = short().chain([long]).collect();
        assert_eq!(
            of(both),
            Pressure::Rate(20.0),
            "as many tokens: 6,400 in 5 s"
        );
        let given_up = turn(1.0, 6_400, Some(640));
        assert_eq!(of(vec![given_up]), Pressure::Rate(2.0));
        assert_eq!(of(Vec::new()), Pressure::Rate(0.0));
    }

    #[test]
    fn prompts_are_as_long_as_those_of_the_run_or_it_is_said() {
        let of = |pressure, mean| prompts(pressure, mean).0;
        assert_eq!(of(Pressure::Rate(10.0), 812.4), 812);
        assert_eq!(of(Pressure::Users(8), 3.0), 64);
        let (tokens, words) = prompts(Pressure::Rate(1000.0), 2048.0);
        assert_eq!(tokens, 666);
        assert!(words.contains("666") && words.contains("2048"), "{words}");
        assert_eq!(of(Pressure::Users(100_000), 2048.0), 64, "never less");
    }

    #[test]
    fn connections_follow_the_load() {
        let open = |rate| connections(Pressure::Rate(rate));
        assert_eq!((open(0.1), open(20.0), open(1e5)), (1, 40, 4000));
        assert_eq!(connections(Pressure::Users(2000)), 2000);
    }
}
