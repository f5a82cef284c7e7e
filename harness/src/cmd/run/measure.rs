//! The measurement itself: from a plan and a loaded model to records and figures.
//!
//! Invariant: everything that costs time (sessions, text, timers) is done before the run starts,
//! and the run's instants count from its own start.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use backends::engine::StepTimes;
use backends::{Backend, Clock, Nanos};
use models::ChatTokenizer;
use reports::preflight::Preflight;
use reports::schema::{DeviceTime, HostUse, RealisedWorkload};
use reports::server_metrics::Scraped;
use reports::{Accumulator, Window};
use tokio::sync::watch;

use crate::cmd::{interrupt, note};
use crate::doctor::timer_lateness;
use crate::driver::{self, Ended, Load, LoadPlan, Users};
use crate::host_watch::HostWatch;
use crate::limits;
use crate::plan::{LoadKind, Plan, TokenizerKind};
use crate::preflight::{self, Pressure};
use crate::progress;
use crate::recorder::{Recorded, Recorder, refold};
use crate::scrape::Scraper;
use crate::target::{self, Served, Target};
use crate::telemetry::{self, Watch};
use crate::warm_up::{self, Warmed};
use crate::workload::rate::RateCurve;
use crate::workload::schedule::{OpenLoad, Pace, Requested, Schedule};
use crate::workload::source::SessionSource;

/// What a run leaves behind for the report.
pub(super) struct Outcome {
    /// The figures.
    pub(super) recorded: Recorded,
    /// The client's own error, for servers, unless the user wanted none of it.
    pub(super) preflight: Option<Preflight>,
    /// What was under test.
    pub(super) system: backends::SystemInfo,
    /// What the load was like.
    pub(super) realised: RealisedWorkload,
    /// Equal for equal loads.
    pub(super) schedule_hash: String,
    /// Requests that the window was to have.
    pub(super) requested: Option<Requested>,
    /// What counts.
    pub(super) window: Window,
    /// Conversations lost to a fault of ours.
    pub(super) lost_conversations: u64,
    /// Stopped by the user.
    pub(super) interrupted: bool,
    /// p50 and p99 lateness of timers before the run, in seconds.
    pub(super) timers_s: Option<(f64, f64)>,
    /// By this process, over the run.
    pub(super) used: Option<CpuUse>,
    /// The start of the run on the system's monotonic clock, in real time: what a server's own
    /// stamps can be held against.
    pub(super) monotonic_start_ns: Option<u64>,
    /// Where the device's time went in the window, for engines of ours.
    pub(super) device_time: Option<DeviceTime>,
    /// What devices on this host drew.
    pub(super) watch: Watch,
    /// What all programs used of this host.
    pub(super) host_use: Option<HostUse>,
    /// What the server told about itself.
    pub(super) scraped: Option<Scraped>,
    /// Batches before the run.
    pub(super) warmed: Vec<Warmed>,
    /// What was to be feared before the run.
    pub(super) warnings: Vec<String>,
    /// By the calendar; virtual runs begin at the epoch.
    pub(super) started: jiff::Timestamp,
    /// The same.
    pub(super) ended: jiff::Timestamp,
}

/// Measures a plan: connects, makes the load, runs it, and keeps what came of it.
pub(super) async fn measure(
    plan: &Plan,
    clock: &Clock,
    served: Served,
    source: Arc<SessionSource>,
    out: &Path,
) -> Result<Outcome> {
    let tokenizer = served.tokenizer();
    let backend = target::connect(&plan.target, clock, served, &plan.engine, &plan.http)
        .await
        .map_err(|failure| anyhow!("`--target` {}: {}", plan.target, failure.message))?;
    std::fs::create_dir_all(out).with_context(|| format!("`--out` {}", out.display()))?;
    let prepared = prepare_load(plan, &source);
    let pressure = pressure(&prepared.load);
    let warnings = connection_warning(plan, pressure);
    let prompt_tokens = prepared.realised.prompt_tokens_mean;
    let preflight = own_error(plan, pressure, prompt_tokens, clock, &tokenizer).await?;
    backend.prepare(preflight::connections(pressure));
    let mut window = window(plan.warmup_s, prepared.end_s);
    let warmed = warm_up(plan, &backend, pressure).await;
    let (timers_s, watch) = before_the_load(plan, clock).await?;
    let scraper = scraper(plan, &backend);
    let host = timers_s.and_then(|_| HostWatch::start(clock));
    let start = driver::start(clock);
    let ahead = Duration::from_nanos(start.since(clock.now()).0);
    let started = timestamp(clock, jiff::Timestamp::now()) + ahead;
    let started_ns = u64::try_from(started.as_nanosecond()).unwrap_or_default();
    let accumulator = |window| Accumulator::new(window, plan.slo).with_run_start(started_ns);
    let path = out.join("requests.jsonl");
    let place = || format!("`{}`", path.display());
    let recorder = Recorder::create(&path, accumulator(window)).with_context(place)?;
    let end = Nanos(window.end_ns);
    let load = load_plan(plan, prepared.load, start, end);
    let driven = Driven {
        backend: &backend,
        source,
        tokenizer,
        start,
        end,
    };
    let steps = Steps::watch(&backend, start, window);
    let (ended, interrupted, used) = drive(driven, load, &recorder).await;
    let scraped = scraper.map(Scraper::finish);
    let watch = watch
        .finish(clock, start.plus(ended.load_end.unwrap_or(end)), window)
        .await;
    let device_time = steps.device_time(&backend, window.seconds());
    let mut recorded = recorder.finish();
    if let Some(load_end) = ended.load_end.filter(|at| at.0 < window.end_ns) {
        // Rates over a window in which nothing more was asked would be too low.
        window.end_ns = load_end.0;
        window.start_ns = window.start_ns.min(load_end.0);
        recorded.measurements = refold(&path, accumulator(window)).with_context(place)?;
    }
    Ok(Outcome {
        recorded,
        host_use: host.and_then(|host| host.used(start, window)),
        preflight,
        lost_conversations: ended.lost_conversations,
        system: backend.describe(),
        realised: prepared.realised,
        schedule_hash: prepared.hash,
        requested: prepared.requested,
        window,
        interrupted,
        timers_s,
        used,
        device_time,
        watch,
        scraped,
        warmed,
        warnings,
        monotonic_start_ns: timers_s.map(|_| clock.monotonic_ns(start)),
        started,
        ended: timestamp(clock, jiff::Timestamp::now()),
    })
}

fn load_plan(plan: &Plan, load: Load, start: Nanos, end: Nanos) -> LoadPlan {
    LoadPlan {
        load,
        start,
        end,
        drain_end: end.plus(Nanos::from_secs_f64(plan.drain_s)),
        sampling: plan.sampling,
        ignore_eos: plan.ignore_eos,
        tokenizer_kind: plan.tokenizer,
        think_scale: plan.workload.think_scale(),
        max_requests: plan.max_requests,
    }
}

/// Batches that a server may have to prepare for, out of the measurement.
async fn warm_up(plan: &Plan, backend: &Arc<dyn Backend>, pressure: Pressure) -> Vec<Warmed> {
    let Target::Http(server) = &plan.target else {
        return Vec::new();
    };
    let at_once = preflight::connections(pressure);
    let sizes = plan.warm_up_batches.sizes(server.vendor.is_some(), at_once);
    if sizes.is_empty() {
        return Vec::new();
    }
    let words: Vec<String> = sizes.iter().map(u32::to_string).collect();
    note(&format!(
        "warming up with batches of {} …",
        words.join(", ")
    ));
    warm_up::run(backend, &sizes).await
}

/// The reader of the server's own metrics, where there may be any and they are wanted.
fn scraper(plan: &Plan, backend: &Arc<dyn Backend>) -> Option<Scraper> {
    let page = backend.metrics_page().filter(|_| plan.scrape)?;
    Scraper::start(page, backend.clock()).ok()
}

/// How late timers are, and what idle devices draw; neither is there in virtual time.
async fn before_the_load(plan: &Plan, clock: &Clock) -> Result<(Option<(f64, f64)>, Watch)> {
    if clock.is_simulated() {
        return Ok((None, Watch::Off));
    }
    let watch = telemetry::begin(&plan.probe, &plan.target, clock).await;
    let watch = watch.context("`--probe`")?;
    Ok((Some(timer_lateness(clock).await), watch))
}

/// The engine's step times at both ends of the window.
#[derive(Debug, Clone, Default)]
struct Steps(Arc<[OnceLock<StepTimes>; 2]>);

impl Steps {
    fn watch(backend: &Arc<dyn Backend>, start: Nanos, window: Window) -> Self {
        let steps = Self::default();
        if backend.step_times().is_none() {
            return steps;
        }
        let (kept, backend) = (steps.clone(), Arc::clone(backend));
        let instants = [window.start_ns, window.end_ns].map(|ns| start.plus(Nanos(ns)));
        tokio::spawn(async move {
            for (place, instant) in kept.0.iter().zip(instants) {
                backend.clock().sleep_until(instant).await;
                if let Some(times) = backend.step_times() {
                    drop(place.set(times));
                }
            }
        });
        steps
    }

    /// What the window took; of a run that was stopped, what there is of it.
    fn device_time(&self, backend: &Arc<dyn Backend>, window_s: f64) -> Option<DeviceTime> {
        let [before, after] = &*self.0;
        let after = after.get().cloned().or_else(|| backend.step_times())?;
        let spent = after.since(before.get()?).seconds();
        Some(DeviceTime {
            prefill_s: spent.prefill,
            decode_s: spent.decode,
            idle_s: (window_s - spent.prefill - spent.decode).max(0.0),
            steps: spent.steps,
        })
    }
}

/// What counts of a load that ends at `end_s`.
fn window(warmup_s: f64, end_s: f64) -> Window {
    let ns = |s: f64| Nanos::from_secs_f64(s).0;
    Window {
        start_ns: ns(warmup_s.min(end_s)),
        end_ns: ns(end_s),
    }
}

/// How hard the client will have to work.
fn pressure(load: &Load) -> Pressure {
    match load {
        Load::Open(sessions) => Pressure::of_schedule(sessions),
        Load::Closed(users) => Pressure::Users(users.count),
    }
}

/// What the busiest part of a schedule may run into.
fn connection_warning(plan: &Plan, pressure: Pressure) -> Vec<String> {
    let (Target::Http(_), Pressure::Rate(rate)) = (&plan.target, pressure) else {
        return Vec::new();
    };
    let warning = limits::warning_of_rate(rate);
    if let Some(warning) = &warning {
        note(warning);
    }
    warning.into_iter().collect()
}

/// Drives the client against the ground truth, where there is a client.
async fn own_error(
    plan: &Plan,
    pressure: Pressure,
    prompt_tokens_mean: f64,
    clock: &Clock,
    tokenizer: &Arc<ChatTokenizer>,
) -> Result<Option<Preflight>> {
    if !plan.preflight {
        return Ok(None);
    }
    note("measuring the client's own error against the bundled ground truth …");
    let tokenizer = Arc::clone(tokenizer);
    let measured =
        preflight::measure(pressure, prompt_tokens_mean, plan.seed, clock, tokenizer).await;
    let mut measured = measured
        .context("the client's own error could not be measured; `--no-preflight` runs without")?;
    if plan.http.tls.is_some() {
        measured
            .load
            .push_str(", without the TLS that the target has");
    }
    Ok(Some(measured))
}

/// What a run is driven with.
struct Driven<'a> {
    backend: &'a Arc<dyn Backend>,
    source: Arc<SessionSource>,
    tokenizer: Arc<ChatTokenizer>,
    start: Nanos,
    end: Nanos,
}

/// Processor time of this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuUse {
    /// Seconds.
    pub(super) cpu_s: f64,
    /// Over wall seconds.
    pub(super) cores: f64,
}

/// Runs the load beside the progress display and the signal handler. How it ended, whether it was
/// interrupted, and what this process used.
async fn drive(
    with: Driven<'_>,
    load: LoadPlan,
    recorder: &Recorder,
) -> (Ended, bool, Option<CpuUse>) {
    let Driven {
        backend,
        source,
        tokenizer,
        start,
        end,
    } = with;
    let clock = backend.clock();
    let begun = clock.now();
    let cpu_before = crate::host::process_cpu_s();
    let (stop, interrupted) = watch::channel(false);
    let shown = show_progress(backend, recorder, start, end);
    let listening = listen_for_signals(clock, stop);
    let (backend, recorder) = (Arc::clone(backend), recorder.clone());
    let clock = clock.clone();
    let ended = driver::run(
        backend,
        source,
        tokenizer,
        load,
        recorder,
        interrupted.clone(),
    )
    .await;
    // The recorder has one owner again once the display has let go of it.
    if let Some(shown) = shown {
        shown.abort();
        drop(shown.await);
    }
    let interrupted = *interrupted.borrow();
    listening.inspect(tokio::task::JoinHandle::abort);
    let seconds = clock.now().since(begun).as_secs_f64();
    let cpu_s = crate::host::process_cpu_s()
        .zip(cpu_before)
        .map(|(now, before)| now - before);
    let used = cpu_s.filter(|_| !clock.is_simulated()).map(|cpu_s| CpuUse {
        cpu_s,
        cores: cpu_s / seconds.max(1e-9),
    });
    (ended, interrupted, used)
}

/// The load and what it is like.
struct Prepared {
    load: Load,
    realised: RealisedWorkload,
    hash: String,
    end_s: f64,
    requested: Option<Requested>,
}

fn prepare_load(plan: &Plan, source: &SessionSource) -> Prepared {
    /// Sessions of a closed loop that are looked at beforehand to say what the load is like.
    const SAMPLED_SESSIONS: u64 = 64;
    let end_s = plan.warmup_s + plan.duration_s;
    let mut prepared = match plan.load {
        LoadKind::Open(..) | LoadKind::Replay(_) => {
            let schedule = open_schedule(plan, source, end_s);
            Prepared {
                load: Load::Open(schedule.sessions),
                realised: schedule.realised,
                hash: schedule.hash,
                end_s: schedule.end_s,
                requested: schedule.requested,
            }
        }
        LoadKind::Closed(users) => {
            let (realised, hash) = source.closed_realised(SAMPLED_SESSIONS);
            // Users come in evenly over one cycle of asking and thinking.
            let cycle_s = source.mean_cycle_s().min(end_s);
            let spread = Nanos::from_secs_f64(cycle_s / f64::from(users));
            Prepared {
                load: Load::Closed(Users {
                    count: users,
                    spread,
                    ready: source.ahead(sessions_ahead(plan, users, cycle_s)),
                }),
                realised,
                hash,
                end_s,
                requested: None,
            }
        }
    };
    let realised = &mut prepared.realised;
    // A stand-in's tokens have another length than those that the server counts.
    realised.characters_per_token = source
        .characters_per_token()
        .filter(|_| plan.tokenizer != TokenizerKind::StandIn);
    note(&format!(
        "{}: {} requests in {} sessions{}, prompts {:.0} tokens, answers {:.0} on average",
        plan.workload.name(),
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

/// Conversations of a closed loop that are made before the run, so that making them takes nothing
/// from the client while it measures: enough for a server four times as fast as is assumed.
fn sessions_ahead(plan: &Plan, users: u32, cycle_s: f64) -> u64 {
    const MOST_TOKENS: f64 = 2e7;
    let wanted = 4.0 * f64::from(users) * ((plan.warmup_s + plan.duration_s) / cycle_s + 1.0);
    // A trace's prompts may be of any length.
    let spec = plan.workload.spec();
    let tokens = spec.map_or(8192.0, |spec| f64::from(spec.context_limit));
    let most = plan.max_requests.map_or(f64::MAX, |most| most as f64);
    match plan.target {
        Target::Http(_) => wanted.min(MOST_TOKENS / tokens).min(most) as u64,
        Target::Cpu | Target::Cuda(_) | Target::Sim(_) | Target::Plugin { .. } => 0,
    }
}

fn open_schedule(plan: &Plan, source: &SessionSource, end_s: f64) -> Schedule {
    let curve = match source {
        SessionSource::Generated(maker) => maker.curve(plan.warmup_s, end_s),
        SessionSource::Replayed(_) => RateCurve::flat((0.0, end_s)),
    };
    let pace = match plan.load {
        LoadKind::Open(rate, arrivals) => Pace::Process { arrivals, rate },
        LoadKind::Replay(time_scale) => Pace::Trace { time_scale },
        LoadKind::Closed(_) => unreachable!("users have no schedule"),
    };
    source.open(&OpenLoad {
        pace,
        curve: &curve,
        window_s: plan.warmup_s,
        end_s,
        max_requests: plan.max_requests,
    })
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
        // A run in virtual time takes seconds, and its runtime has no signals.
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

/// Runs in virtual time begin at the epoch, so that two of them are equal.
fn timestamp(clock: &Clock, now: jiff::Timestamp) -> jiff::Timestamp {
    if clock.is_simulated() {
        let since_epoch = jiff::Timestamp::from_nanosecond(i128::from(clock.now().0));
        return since_epoch.unwrap_or(jiff::Timestamp::MAX);
    }
    now
}
