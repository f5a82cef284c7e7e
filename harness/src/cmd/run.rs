//! `weighbridge run`: measure a target under load and write the result folder.

mod assemble;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use backends::{Backend, Clock, Nanos};
use clap::Args;
use models::{Model, load_tokenizer};
use reports::schema::RealisedWorkload;
use reports::{Accumulator, Window};
use tokio::sync::watch;

use super::{Ending, note, report};
use crate::driver::{self, Load, LoadPlan};
use crate::plan::{self, LoadKind, Plan};
use crate::progress;
use crate::recorder::{Recorded, Recorder};
use crate::scenario::Scenario;
use crate::target::{self, Served, Target};
use crate::threads::set_engine_threads;
use crate::units::show_bytes;
use crate::workload::schedule::SessionMaker;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Scenario file with the flags' names as keys; a flag beats the file
    scenario: Option<PathBuf>,
    #[command(flatten)]
    flags: Scenario,
    /// Result folder [default: results/<UTC time>-<target>-<workload>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print report.json instead of the summary
    #[arg(long)]
    json: bool,
}

/// What a run leaves behind for the report.
struct Outcome {
    recorded: Recorded,
    system: backends::SystemInfo,
    realised: RealisedWorkload,
    schedule_hash: String,
    window: Window,
    interrupted: bool,
    /// p50 and p99 lateness of timers before the run, in seconds.
    timers_s: Option<(f64, f64)>,
    cpu_cores_used: Option<f64>,
    started: jiff::Timestamp,
    ended: jiff::Timestamp,
}

pub(super) fn run(args: &RunArgs) -> Result<Ending> {
    let plan = plan::resolve(&args.flags, args.scenario.as_deref())?;
    let out = args.out.clone().unwrap_or_else(|| default_folder(&plan));
    std::fs::create_dir_all(&out).with_context(|| format!("`--out` {}", out.display()))?;
    // Before any thread is started.
    let threads = set_engine_threads(plan.threads);
    let served = load_model(&plan)?;
    let info = served.info().clone();
    let tokenizer = served.tokenizer();
    check_context(&plan, &info)?;
    let maker = SessionMaker::new(plan.workload.clone(), plan.seed, Arc::clone(&tokenizer))?;
    let clock = plan.target.clock();
    let outcome = clock.block_on(measure(&plan, &clock, served, Arc::new(maker), &out))?;
    let mut report = assemble::report(&plan, &info, &outcome, threads);
    if let Some(error) = &outcome.recorded.write_error {
        report
            .warnings
            .push(format!("requests.jsonl is incomplete: {error}"));
    }
    write_files(&report, &outcome, &out)?;
    report::show(&report, args.json)?;
    note(&format!("\n{}", out.join("report.html").display()));
    if let Some(error) = &outcome.recorded.write_error {
        return Err(anyhow!(
            "`{}`: {error}",
            out.join("requests.jsonl").display()
        ));
    }
    Ok(if outcome.interrupted {
        Ending::Interrupted
    } else if report.validity.reasons.is_empty() {
        Ending::Done
    } else {
        Ending::Invalid
    })
}

fn default_folder(plan: &Plan) -> PathBuf {
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let name = format!("{time}-{}-{}", plan.target, plan.workload.name);
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-._".contains(c) {
            c
        } else {
            '_'
        }
    };
    Path::new("results").join(name.chars().map(safe).collect::<String>())
}

fn load_model(plan: &Plan) -> Result<Served> {
    if plan.target == Target::Cpu {
        note(&format!("loading {} …", plan.model_name));
        let model = Model::load(&plan.model, plan.weights)?;
        note(&format!(
            "{}: {:.1} M parameters, {}, {} of weights, KV pool {}",
            model.info.name,
            model.info.parameters as f64 / 1e6,
            model.info.weights,
            show_bytes(model.info.weight_bytes),
            show_bytes(plan.engine.kv_memory_bytes)
        ));
        return Ok(Served::Loaded(Box::new(model)));
    }
    let (info, tokenizer) = load_tokenizer(&plan.model)?;
    Ok(Served::Described(info, tokenizer))
}

/// A workload that the model's window cannot hold is a mistake, not a run full of rejections.
fn check_context(plan: &Plan, info: &models::ModelInfo) -> Result<()> {
    let (wanted, limit) = (u64::from(plan.workload.context_limit), info.context_limit);
    let known = plan.tokenizer == plan::TokenizerKind::Exact;
    anyhow::ensure!(
        wanted <= limit || !known,
        "`--workload` {} has prompts of up to {wanted} tokens; model {} takes {limit}\n\nhint: \
         `doubao-chat-8k` needs 8192, `doubao-chat-lite` 2048, `smoke` 256",
        plan.workload.name,
        plan.model_name
    );
    let (pool, per_token) = (plan.engine.kv_memory_bytes, info.kv_bytes_per_token);
    let holds = plan.target == Target::Cpu || matches!(plan.target, Target::Sim(_));
    anyhow::ensure!(
        !holds || pool / per_token.max(1) >= wanted + 64,
        "`--kv-memory` {} holds {} tokens; one request of {} needs up to {wanted}",
        show_bytes(pool),
        pool / per_token.max(1),
        plan.workload.name
    );
    Ok(())
}

async fn measure(
    plan: &Plan,
    clock: &Clock,
    served: Served,
    maker: Arc<SessionMaker>,
    out: &Path,
) -> Result<Outcome> {
    let tokenizer = served.tokenizer();
    let backend = target::connect(&plan.target, clock, served, &plan.engine, &plan.http)
        .await
        .map_err(|failure| anyhow!("`--target` {}: {}", plan.target, failure.message))?;
    let prepared = prepare_load(plan, &maker);
    let window_ns = |s: f64| Nanos::from_secs_f64(s).0;
    let warmup_s = plan.warmup_s.min(prepared.end_s);
    let window = Window {
        start_ns: window_ns(warmup_s),
        end_ns: window_ns(prepared.end_s),
    };
    let timers_s = if clock.is_simulated() {
        None
    } else {
        Some(timer_lateness(clock).await)
    };
    let started = timestamp(clock, jiff::Timestamp::now());
    let accumulator = Accumulator::new(window, plan.slo)
        .with_run_start(u64::try_from(started.as_nanosecond()).unwrap_or_default());
    let path = out.join("requests.jsonl");
    let recorder =
        Recorder::create(&path, accumulator).with_context(|| format!("`{}`", path.display()))?;
    let start = clock.now();
    let end = Nanos(window.end_ns);
    let load = LoadPlan {
        load: prepared.load,
        start,
        end,
        drain_end: end.plus(Nanos::from_secs_f64(plan.drain_s)),
        sampling: plan.sampling,
        ignore_eos: plan.ignore_eos,
        think_scale: plan.workload.think_scale,
        max_requests: plan.max_requests,
    };
    let cpu_before = crate::host::process_cpu_s();
    let (stop, interrupted) = watch::channel(false);
    let shown = show_progress(&backend, &recorder, start, end);
    let listening = listen_for_signals(clock, stop);
    let driven = driver::run(
        Arc::clone(&backend),
        maker,
        tokenizer,
        load,
        recorder.clone(),
        interrupted.clone(),
    );
    driven.await;
    // The recorder has one owner again once the display has let go of it.
    if let Some(shown) = shown {
        shown.abort();
        drop(shown.await);
    }
    let interrupted = *interrupted.borrow();
    listening.inspect(tokio::task::JoinHandle::abort);
    let seconds = clock.now().since(start).as_secs_f64();
    let cpu_s = crate::host::process_cpu_s()
        .zip(cpu_before)
        .map(|(now, before)| now - before);
    let cores = cpu_s
        .filter(|_| !clock.is_simulated())
        .map(|cpu| cpu / seconds.max(1e-9));
    let system = backend.describe();
    Ok(Outcome {
        recorded: recorder.finish(),
        system,
        realised: prepared.realised,
        schedule_hash: prepared.hash,
        window,
        interrupted,
        timers_s,
        cpu_cores_used: cores,
        started,
        ended: timestamp(clock, jiff::Timestamp::now()),
    })
}

/// The load and what it is like.
struct Prepared {
    load: Load,
    realised: RealisedWorkload,
    hash: String,
    end_s: f64,
}

fn prepare_load(plan: &Plan, maker: &SessionMaker) -> Prepared {
    /// Sessions of a closed loop that are looked at beforehand to say what the load is like.
    const SAMPLED_SESSIONS: u64 = 64;
    let end_s = plan.warmup_s + plan.duration_s;
    let prepared = match plan.load {
        LoadKind::Open(rate, arrivals) => {
            let schedule = maker.open(arrivals, rate, end_s, plan.max_requests);
            Prepared {
                load: Load::Open(schedule.sessions),
                realised: schedule.realised,
                hash: schedule.hash,
                end_s: schedule.end_s,
            }
        }
        LoadKind::Closed(users) => {
            let (realised, hash) = maker.closed_realised(SAMPLED_SESSIONS);
            // Users come in evenly over one cycle of asking and thinking.
            let cycle_s = maker.mean_cycle_s().min(end_s);
            let spread = Nanos::from_secs_f64(cycle_s / f64::from(users));
            Prepared {
                load: Load::Closed { users, spread },
                realised,
                hash,
                end_s,
            }
        }
    };
    let realised = &prepared.realised;
    note(&format!(
        "{}: {} requests in {} sessions{}, prompts {:.0} tokens, answers {:.0} on average",
        plan.workload.name,
        realised.requests,
        realised.sessions,
        if matches!(plan.load, LoadKind::Closed(_)) {
            " sampled"
        } else {
            ""
        },
        realised.prompt_tokens_mean,
        realised.output_tokens_mean
    ));
    prepared
}

fn show_progress(
    backend: &Arc<dyn Backend>,
    recorder: &Recorder,
    start: Nanos,
    end: Nanos,
) -> Option<tokio::task::JoinHandle<()>> {
    if backend.clock().is_simulated() {
        return None;
    }
    let shown = progress::show(Arc::clone(backend), recorder.clone(), start, end);
    Some(tokio::spawn(shown))
}

/// The first Ctrl-C (or SIGTERM) ends the run with what it has; the second ends the program.
fn listen_for_signals(
    clock: &Clock,
    stop: watch::Sender<bool>,
) -> Option<tokio::task::JoinHandle<()>> {
    if clock.is_simulated() {
        // A run in virtual time takes seconds; the sender must live as long as the run.
        std::mem::forget(stop);
        return None;
    }
    Some(tokio::spawn(async move {
        interrupt().await;
        note("\nstopping; what was measured is being written (once more to stop at once)");
        stop.send_replace(true);
        interrupt().await;
        #[expect(clippy::exit, reason = "the user asked twice")]
        std::process::exit(130);
    }))
}

#[cfg(unix)]
async fn interrupt() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened to");
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn interrupt() {
    drop(tokio::signal::ctrl_c().await);
}

/// How late the clock's own timers are on this machine, idle: p50 and p99 in seconds.
async fn timer_lateness(clock: &Clock) -> (f64, f64) {
    const TIMERS: usize = 100;
    let mut late = Vec::with_capacity(TIMERS);
    for _ in 0..TIMERS {
        let deadline = clock.now().plus(Nanos(2_000_000));
        clock.sleep_until(deadline).await;
        late.push(clock.now().since(deadline).0);
    }
    late.sort_unstable();
    let at = |quantile| reports::stats::nearest_rank(&late, quantile).unwrap_or_default() as f64;
    (
        at(reports::stats::Quantile::P50) / 1e9,
        at(reports::stats::Quantile::P99) / 1e9,
    )
}

/// Runs in virtual time begin at the epoch, so that two of them are equal.
fn timestamp(clock: &Clock, now: jiff::Timestamp) -> jiff::Timestamp {
    if clock.is_simulated() {
        let now = i64::try_from(clock.now().0).unwrap_or(i64::MAX);
        return jiff::Timestamp::from_nanosecond(i128::from(now))
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    }
    now
}

fn write_files(report: &reports::Report, outcome: &Outcome, out: &Path) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("`{}`", path.display()))
    };
    write(
        "report.json",
        serde_json::to_string_pretty(report)?.as_bytes(),
    )?;
    write("latency.hlog", &outcome.recorded.measurements.interval_log)?;
    report::write_renderings(report, out)
}
