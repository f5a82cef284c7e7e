//! What is asked, who asks, and for how long: the part of a plan that is about load.
//!
//! Invariant: a workload and its flags fit together; a flag that would have no effect is a mistake
//! with a hint, not something to pass over.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::{LoadKind, MAX_REQUESTS, Places};
use crate::arrivals::Arrivals;
use crate::scenario::Scenario;
use crate::units::{parse_duration, parse_window};
use crate::workload::source::Workload;
use crate::workload::spec::{self, WorkloadSpec};
use crate::workload::trace::{self, Content, Requests, TraceKind, Window};

/// Requests per second of conversations without instants, when the user does not say.
const TALK_RATE: f64 = 1.0;
/// Window of the same.
const TALK_S: f64 = 900.0;
/// Warm-up of a replay at most.
const REPLAY_WARMUP_S: f64 = 120.0;

/// Load and times of a run.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) workload: Workload,
    pub(super) load: LoadKind,
    pub(super) warmup_s: f64,
    pub(super) duration_s: f64,
    pub(super) drain_s: f64,
}

/// Workload, load and times.
pub(super) fn resolve(scenario: &Scenario, places: &Places<'_>) -> Result<Resolved> {
    let name = scenario.workload.as_deref().unwrap_or("smoke");
    let workload = match TraceKind::split(name) {
        Some((kind, file)) => replayed(scenario, places, kind, file)?,
        None => Workload::Generated(Box::new(generated(scenario, places, name)?)),
    };
    let load = load_of(scenario, places, &workload)?;
    if let (LoadKind::Replay(_), Some(requests)) = (load, requests_of(&workload)) {
        let count = requests.list.len();
        ensure!(
            count as f64 <= MAX_REQUESTS,
            "`--workload` {name} has {count} requests; accepted are {MAX_REQUESTS:.0} in one \
             run\n\nhint: `--window` plays a part of it"
        );
    }
    let (warmup_s, duration_s, drain_s) = times(scenario, places, &workload, load)?;
    Ok(Resolved {
        workload,
        load,
        warmup_s,
        duration_s,
        drain_s,
    })
}

fn factor(
    places: &Places<'_>,
    key: &str,
    value: Option<f64>,
    flag: fn(&Scenario) -> bool,
    least: f64,
) -> Result<Option<f64>> {
    let Some(value) = value else { return Ok(None) };
    let place = places.of(key, flag);
    let in_range = value.is_finite() && value >= least;
    ensure!(
        in_range,
        "{place} is {value}; accepted is a number from {least}"
    );
    Ok(Some(value))
}

fn think_scale(scenario: &Scenario, places: &Places<'_>) -> Result<Option<f64>> {
    let flag = |flags: &Scenario| flags.think_scale.is_some();
    factor(places, "think_scale", scenario.think_scale, flag, 0.0)
}

fn time_scale(scenario: &Scenario, places: &Places<'_>) -> Result<Option<f64>> {
    let flag = |flags: &Scenario| flags.time_scale.is_some();
    factor(places, "time_scale", scenario.time_scale, flag, 1e-5)
}

fn window(scenario: &Scenario, places: &Places<'_>) -> Result<Option<Window>> {
    let Some(text) = &scenario.window else {
        return Ok(None);
    };
    let place = places.of("window", |flags| flags.window.is_some());
    let (from_s, to_s) = parse_window(text).map_err(|message| anyhow!("{place}: {message}"))?;
    Ok(Some(Window { from_s, to_s }))
}

fn context_limit(scenario: &Scenario, places: &Places<'_>) -> Result<Option<u32>> {
    let flag = |flags: &Scenario| flags.context_limit.is_some();
    let limit = super::count(places, "context_limit", scenario.context_limit, flag)?;
    Ok(limit.map(|limit| limit as u32))
}

/// A workload by name or file, with the flags that change it.
fn generated(scenario: &Scenario, places: &Places<'_>, name: &str) -> Result<WorkloadSpec> {
    let mut spec = spec::load(name)?;
    spec.think_scale = think_scale(scenario, places)?.unwrap_or(spec.think_scale);
    if let Some(limit) = context_limit(scenario, places)? {
        let place = places.of("context_limit", |flags| flags.context_limit.is_some());
        ensure!(
            !spec.whole_prompt,
            "{place} has no effect on prompts of a fixed length"
        );
        spec.context_limit = spec.context_limit.min(limit);
        spec::check(&spec).with_context(|| place)?;
    }
    let (scale, window) = (time_scale(scenario, places)?, window(scenario, places)?);
    if scale.is_none() && window.is_none() {
        return Ok(spec);
    }
    let shape = spec.rate_shape.as_mut().filter(|shape| shape.day.is_some());
    let Some(shape) = shape else {
        bail!(
            "`time_scale` and `window` need a trace or a workload with a day; `{name}` has \
             neither\n\nhint: `doubao-day` has one"
        )
    };
    shape.time_scale = scale.unwrap_or(shape.time_scale);
    if let (Some(window), Some(day)) = (window, &mut shape.day) {
        let place = places.of("window", |flags| flags.window.is_some());
        let in_day = window.from_s < 86_400.0 && window.to_s - window.from_s <= 86_400.0;
        ensure!(
            in_day,
            "{place} is not a part of a day; accepted is such as `20h..21h`"
        );
        day.from_hour = window.from_s / 3600.0;
        spec.duration_s = (window.to_s - window.from_s) * shape.time_scale;
    }
    spec::check(&spec)?;
    Ok(spec)
}

fn replayed(
    scenario: &Scenario,
    places: &Places<'_>,
    kind: TraceKind,
    file: &str,
) -> Result<Workload> {
    let window = window(scenario, places)?;
    if kind == TraceKind::ShareGpt {
        let has_time = window.is_some() || scenario.time_scale.is_some();
        ensure!(
            !has_time,
            "`window` and `time_scale` need instants; a `sharegpt` trace has none\n\nhint: \
             `--rate` says how fast its conversations begin"
        );
    }
    Ok(Workload::Replayed {
        trace: Arc::new(trace::read(kind, file, window)?),
        think_scale: think_scale(scenario, places)?.unwrap_or(1.0),
        context_limit: context_limit(scenario, places)?,
    })
}

fn load_of(scenario: &Scenario, places: &Places<'_>, workload: &Workload) -> Result<LoadKind> {
    let requests = requests_of(workload);
    if let Some(users) = scenario.users {
        ensure!(
            scenario.rate.is_none(),
            "`rate` and `users` are both given; accepted is one of them: a rate for open loop, \
             users for closed loop"
        );
        let place = places.of("users", |flags| flags.users.is_some());
        ensure!(
            scenario.arrivals.is_none(),
            "`arrivals` is given with `users`; arrivals belong to an open loop (`rate`)"
        );
        let in_range = (1..=100_000).contains(&users);
        ensure!(in_range, "{place} is {users}; accepted is 1 to 100000");
        return Ok(LoadKind::Closed(users as u32));
    }
    if let Some(rate) = scenario.rate {
        let place = places.of("rate", |flags| flags.rate.is_some());
        let in_range = rate.is_finite() && rate > 0.0 && rate <= 1e6;
        ensure!(
            in_range,
            "{place} is {rate}; accepted is a number of requests per second above 0"
        );
    }
    let place = || places.of("arrivals", |flags| flags.arrivals.is_some());
    match (scenario.arrivals.as_deref(), requests) {
        (None | Some("trace"), Some(requests)) => {
            let scale = time_scale(scenario, places)?;
            ensure!(
                scale.is_none() || scenario.rate.is_none(),
                "`rate` and `time_scale` are both given; accepted is one of them: a rate sets the \
                 time scale of a trace"
            );
            let of_rate = scenario.rate.map(|rate| requests.mean_rate() / rate);
            Ok(LoadKind::Replay(of_rate.or(scale).unwrap_or(1.0)))
        }
        (Some("trace"), None) => bail!(
            "{} is `trace`; `--workload` has no instants of its own\n\nhint: accepted are \
             `poisson`, `constant` and `gamma:CV`",
            place()
        ),
        (Some(text), _) => {
            let arrivals = text.parse().with_context(place)?;
            Ok(LoadKind::Open(rate_of(scenario, workload), arrivals))
        }
        (None, None) => {
            let own = workload
                .spec()
                .map_or(Arrivals::Poisson, |spec| spec.arrivals);
            Ok(LoadKind::Open(rate_of(scenario, workload), own))
        }
    }
}

fn requests_of(workload: &Workload) -> Option<&Requests> {
    match workload {
        Workload::Replayed { trace, .. } => match &trace.content {
            Content::Requests(requests) => Some(requests),
            Content::Conversations(_) => None,
        },
        Workload::Generated(_) => None,
    }
}

fn rate_of(scenario: &Scenario, workload: &Workload) -> f64 {
    let own = match workload {
        Workload::Generated(spec) => spec.rate,
        Workload::Replayed { .. } => requests_of(workload).map_or(TALK_RATE, Requests::mean_rate),
    };
    scenario.rate.unwrap_or(own)
}

/// Warm-up, window and drain in seconds.
fn times(
    scenario: &Scenario,
    places: &Places<'_>,
    workload: &Workload,
    load: LoadKind,
) -> Result<(f64, f64, f64)> {
    let seconds = |key, text: &Option<String>, flag: fn(&Scenario) -> bool| -> Result<_> {
        let parse = |text: &String| {
            let parsed = parse_duration(text).map(|duration| Duration::as_secs_f64(&duration));
            parsed.map_err(|message| anyhow!("{}: {message}", places.of(key, flag)))
        };
        text.as_ref().map(parse).transpose()
    };
    let duration = seconds("duration", &scenario.duration, |flags| {
        flags.duration.is_some()
    })?;
    let warmup = seconds("warmup", &scenario.warmup, |flags| flags.warmup.is_some())?;
    let drain = seconds("drain", &scenario.drain, |flags| flags.drain.is_some())?;
    // A whole replay: its first part warms up, the rest is measured.
    let replay_s = match (requests_of(workload), load) {
        (Some(requests), LoadKind::Replay(scale)) => Some(requests.span_s * scale),
        _ => None,
    };
    let (own_duration_s, own_warmup_s) = match (workload, replay_s) {
        (Workload::Generated(spec), _) => (spec.duration_s, spec.warmup_s),
        (_, Some(whole_s)) => {
            let warmup_s = warmup.unwrap_or(REPLAY_WARMUP_S.min(whole_s / 7.0));
            ((whole_s - warmup_s).max(1.0), REPLAY_WARMUP_S)
        }
        (_, None) => (TALK_S, REPLAY_WARMUP_S),
    };
    let duration_s = duration.unwrap_or(own_duration_s);
    let place = places.of("duration", |flags| flags.duration.is_some());
    ensure!(
        duration_s >= 1.0,
        "{place} is {duration_s} s; accepted is 1 s or more"
    );
    // A number of requests means requests that count.
    let default_s = match scenario.requests {
        Some(_) => 0.0,
        None => own_warmup_s.min(duration_s / 6.0),
    };
    let warmup_s = warmup.unwrap_or(default_s);
    if let Some(whole_s) = replay_s {
        let place = places.of("warmup", |flags| flags.warmup.is_some());
        ensure!(
            warmup_s < whole_s,
            "{place} is {warmup_s} s; the trace plays for {whole_s:.1} s only"
        );
    }
    Ok((warmup_s, duration_s, drain.unwrap_or(60.0)))
}
