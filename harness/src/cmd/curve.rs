//! `weighbridge sweep` and `weighbridge capacity`: runs at several loads.
//!
//! Each run is a whole `weighbridge run` in a folder of its own, with a seed and so with prompts of
//! its own: no probe finds the prompts of another in a cache. What all runs share, such as the
//! system prompt, is warm in each after its warm-up, as it would be in service.
//!
//! Invariant: every run that was made is in the curve, whatever came of it.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use reports::Report;
use reports::capacity::{Decision, Goal, LOOKS, Next, Search, Segment};
use reports::load_curve::{Found, LoadCurve, LoadUnit, Point, SCHEMA_VERSION};
use reports::render;

use super::run::{Ran, default_folder, make};
use super::{Ending, note, print, print_json, write_file};
use crate::plan::{self, Plan};
use crate::scenario::Scenario;
use crate::target::Target;
use crate::units::parse_share;
use crate::versioned;

/// What both commands share.
#[derive(Debug, Args)]
struct CurveArgs {
    /// Scenario file with the flags' names as keys; a flag beats the file
    scenario: Option<PathBuf>,
    #[command(flatten)]
    flags: Scenario,
    /// Result folder [default: results/<UTC time>-<command>-<target>-<workload>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print curve.json instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    #[command(flatten)]
    curve: CurveArgs,
    /// Requests per second to try, such as 1,2,4,8
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "user_counts"
    )]
    rates: Vec<f64>,
    /// Numbers of users to try, such as 1,2,4,8
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    user_counts: Vec<u32>,
}

#[derive(Debug, Args)]
pub(super) struct CapacityArgs {
    #[command(flatten)]
    curve: CurveArgs,
    /// Share of requests that must meet the SLO
    #[arg(long, value_name = "PERCENT", default_value = "99%", value_parser = percent)]
    share: f64,
    /// How near the ends of the capacity's interval are to come to it
    #[arg(long, value_name = "PERCENT", default_value = "3%", value_parser = percent)]
    precision: f64,
    /// No load above is tried
    #[arg(long, value_name = "LOAD", default_value_t = 100_000.0)]
    most: f64,
    /// With as many runs made, none is added to narrow the interval
    #[arg(long, value_name = "N", default_value_t = 24)]
    most_runs: usize,
}

fn percent(text: &str) -> Result<f64, String> {
    parse_share(text)
        .filter(|share| (0.000_1..1.0).contains(share))
        .ok_or_else(|| format!("`{text}` is no share; accepted is more than 0% and less than 100%"))
}

pub(super) fn sweep(args: &SweepArgs) -> Result<Ending> {
    let mut loads = args.rates.clone();
    loads.extend(args.user_counts.iter().map(|&users| f64::from(users)));
    ensure!(
        !loads.is_empty() && loads.iter().all(|load| load.is_finite() && *load > 0.0),
        "`sweep` needs loads over 0\n\nhint: `--rates 1,2,4,8`, or `--user-counts 1,2,4,8` for users \
         who wait for their answers"
    );
    let unit = if args.rates.is_empty() {
        LoadUnit::Users
    } else {
        LoadUnit::RequestsPerSecond
    };
    let first = at_load(&args.curve.flags, unit, loads[0]);
    let plan = plan::resolve(&first, args.curve.scenario.as_deref())?;
    let mut probes = Probes::new(&args.curve, "sweep", unit, &plan);
    if !probes.warm_up(&plan, loads[0])? {
        return Ok(Ending::Interrupted);
    }
    for load in loads {
        let (_, report) = probes.run(load)?;
        if report.run.incomplete {
            return probes.finish(None, Ending::Interrupted);
        }
    }
    probes.finish(None, Ending::Done)
}

pub(super) fn capacity(args: &CapacityArgs) -> Result<Ending> {
    let flags = &args.curve.flags;
    let plan = plan::resolve(flags, args.curve.scenario.as_deref())?;
    ensure!(
        plan.slo.is_some(),
        "the capacity is the highest load within an SLO, and this workload has none\n\n\
         hint: `--slo ttft=2s,tpot=100ms`"
    );
    let (unit, start) = match plan.load {
        plan::LoadKind::Closed(users) => (LoadUnit::Users, f64::from(users)),
        plan::LoadKind::Open(rate, _) => (LoadUnit::RequestsPerSecond, rate),
        plan::LoadKind::Replay(_) => anyhow::bail!(
            "a trace has its own rate\n\nhint: `run` it with several `--time-scale`s, or search \
             with a generated workload"
        ),
    };
    let mut probes = Probes::new(&args.curve, "capacity", unit, &plan);
    if !probes.warm_up(&plan, start)? {
        return Ok(Ending::Interrupted);
    }
    let mut search = Search::new(Goal {
        share: args.share,
        start,
        precision: args.precision,
        unit,
        most: args.most,
        most_runs: args.most_runs,
    });
    let capacity = loop {
        let load = match search.next() {
            Next::Run { load } => load,
            Next::Done(capacity) => break capacity,
        };
        let (segment, report) = probes.run(load)?;
        if report.run.incomplete {
            return probes.finish(None, Ending::Interrupted);
        }
        search.add(segment);
        probes.decide(load, search.decision(load), search.share(load));
    };
    let passed = probes.report_at(capacity.passed)?;
    let ending = if capacity.load.is_some() {
        Ending::Done
    } else {
        Ending::Invalid
    };
    let found = Found::new(args.share, capacity, passed.as_ref());
    probes.finish(Some(found), ending)
}

/// Beyond the seeds of all runs that count.
const WARM_UP_SEED: u64 = 10_000;

/// The flags with a load in place of theirs.
fn at_load(flags: &Scenario, unit: LoadUnit, load: f64) -> Scenario {
    let (rate, users) = match unit {
        LoadUnit::RequestsPerSecond => (Some(load), None),
        LoadUnit::Users => (None, Some(load as i64)),
    };
    Scenario {
        rate,
        users,
        ..flags.clone()
    }
}

/// The runs of a curve.
struct Probes<'a> {
    args: &'a CurveArgs,
    unit: LoadUnit,
    out: PathBuf,
    seed: u64,
    curve: Option<LoadCurve>,
}

impl<'a> Probes<'a> {
    /// `plan` is of the first load.
    fn new(args: &'a CurveArgs, command: &str, unit: LoadUnit, plan: &Plan) -> Self {
        let usual = || default_folder(plan, &format!("{command}-"));
        Self {
            args,
            unit,
            out: args.out.clone().unwrap_or_else(usual),
            seed: plan.seed,
            curve: None,
        }
    }

    /// A run that does not count; false when it was interrupted. A simulated device is never cold.
    fn warm_up(&self, plan: &Plan, load: f64) -> Result<bool> {
        if matches!(plan.target, Target::Sim(_)) {
            return Ok(true);
        }
        note("a run to warm up, which does not count …");
        let plan = self.plan(load, WARM_UP_SEED)?;
        let ran = make(&plan, &self.out.join("warm-up"))?;
        Ok(!ran.report.run.incomplete)
    }

    /// The plan of a load, with prompts of its own.
    fn plan(&self, load: f64, seed_offset: u64) -> Result<Plan> {
        let mut flags = at_load(&self.args.flags, self.unit, load);
        flags.seed = Some(self.seed + seed_offset);
        plan::resolve(&flags, self.args.scenario.as_deref())
    }

    fn run(&mut self, load: f64) -> Result<(Segment, Report)> {
        let made = self.curve.as_ref().map_or(0, |curve| curve.points.len());
        let number = made + 1;
        let plan = self.plan(load, made as u64)?;
        let folder = format!("{number:02}-{}", significant(load));
        note(&format!(
            "run {number}: {} {} …",
            significant(load),
            self.unit.name()
        ));
        let Ran {
            report,
            good_blocks,
            ..
        } = make(&plan, &self.out.join(&folder))?;
        let point = Point::new(load, folder, &report);
        let curve = self.curve.get_or_insert_with(|| begin(&report, self.unit));
        curve.run.end.clone_from(&report.run.end);
        curve.points.push(point);
        // A search that is killed leaves what it has.
        self.write()?;
        let segment = Segment {
            load,
            window_s: report.summary.window_s,
            blocks: good_blocks,
            valid: report.validity.reasons.is_empty(),
        };
        Ok((segment, report))
    }

    /// Notes what became of a load; nothing does of a run that only narrows the interval.
    fn decide(&mut self, load: f64, decision: Option<Decision>, share: Option<f64>) {
        let share = share.map_or_else(
            || "none".to_owned(),
            |share| format!("{:.2} %", share * 100.0),
        );
        let (unit, shown) = (self.unit.name(), significant(load));
        let Some(decision) = decision else {
            note(&format!(
                "{shown} {unit}, to narrow the interval: {share} within the SLO"
            ));
            return;
        };
        let points = self.curve.iter_mut().flat_map(|curve| &mut curve.points);
        let mut runs = 0;
        for point in points.filter(|point| point.load.to_bits() == load.to_bits()) {
            point.decision = Some(decision);
            runs += 1;
        }
        let outcome = match decision {
            Decision::Pass => "passes".to_owned(),
            Decision::Fail => "fails".to_owned(),
            Decision::Open => format!("is too close to call ({runs} of {LOOKS} runs)"),
        };
        note(&format!("{shown} {unit} {outcome}: {share} within the SLO"));
    }

    /// The report of the last run at a load.
    fn report_at(&self, load: Option<f64>) -> Result<Option<Report>> {
        let mut points = self.curve.iter().flat_map(|curve| &curve.points);
        let at = |point: &&Point| load.is_some_and(|load| load.to_bits() == point.load.to_bits());
        let point = points.rfind(at);
        let Some(point) = point else { return Ok(None) };
        super::report::read(&self.out.join(&point.folder).join("report.json")).map(Some)
    }

    fn write(&self) -> Result<()> {
        let Some(curve) = &self.curve else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(curve)?;
        write_file(&self.out.join("curve.json"), text)
    }

    fn finish(mut self, found: Option<Found>, ending: Ending) -> Result<Ending> {
        let Some(curve) = &mut self.curve else {
            return Ok(ending);
        };
        curve.search = found;
        curve.run.incomplete = ending == Ending::Interrupted;
        self.write()?;
        if let Some(curve) = &self.curve {
            show(curve, &self.out, self.args.json)?;
        }
        Ok(ending)
    }
}

/// Reads a curve of this schema.
pub(super) fn read(path: &Path) -> Result<LoadCurve> {
    Ok(versioned::read(path, SCHEMA_VERSION)?.0)
}

/// Writes the renderings and prints the curve.
pub(super) fn show(curve: &LoadCurve, out: &Path, as_json: bool) -> Result<()> {
    write_file(&out.join("curve.md"), render::curve_markdown(curve))?;
    write_file(&out.join("curve.html"), render::curve_html(curve))?;
    note(&format!("\n{}", out.join("curve.html").display()));
    if as_json {
        return print_json(curve);
    }
    Ok(print(&render::curve_terminal(curve))?)
}

/// A curve without points, as its first run describes it.
fn begin(report: &Report, unit: LoadUnit) -> LoadCurve {
    let mut warnings = Vec::new();
    if report.target.virtual_time {
        warnings.extend(report.warnings.first().cloned());
    }
    LoadCurve {
        schema_version: SCHEMA_VERSION,
        kind: "load_curve".to_owned(),
        run: report.run.clone(),
        target: report.target.name.clone(),
        device: report.target.device.clone(),
        virtual_time: report.target.virtual_time,
        model: report.model.name.clone(),
        workload: report.workload.name.clone(),
        slo: report.workload.slo,
        unit,
        points: Vec::new(),
        search: None,
        warnings,
    }
}

/// Four digits, for folder names and notes.
fn significant(load: f64) -> String {
    let digits = (3 - load.abs().log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{load:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
