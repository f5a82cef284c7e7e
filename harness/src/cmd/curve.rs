//! `weighbridge sweep` and `weighbridge capacity`: runs at several loads.
//!
//! Each run is a whole `weighbridge run` in a folder of its own, with a seed and so with prompts of
//! its own: no probe finds the prompts of another in a cache. What all runs share, such as the
//! system prompt, is warm in each after its warm-up, as it would be in service.
//!
//! Invariant: every run that was made is in the curve, whatever came of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use reports::Report;
use reports::capacity::{Decision, Goal, LOOKS, Next, Search, Segment};
use reports::load_curve::{Found, LoadCurve, LoadUnit, Point, SCHEMA_VERSION};
use reports::render;

use super::run::{Ran, default_folder, make};
use super::{Ending, note, print};
use crate::plan;
use crate::scenario::Scenario;
use crate::target::Target;

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
    /// How near to each other a load that passes and one that fails end up
    #[arg(long, value_name = "PERCENT", default_value = "3%", value_parser = percent)]
    precision: f64,
    /// No load above is tried
    #[arg(long, value_name = "LOAD", default_value_t = 100_000.0)]
    most: f64,
}

/// `99%`, or `0.99`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%');
    let scale = if number.is_some() { 0.01 } else { 1.0 };
    let value: Option<f64> = number.unwrap_or(text).trim().parse().ok();
    let share = value.map(|value| value * scale);
    share
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
    let mut probes = Probes::new(&args.curve, "sweep", unit, loads[0])?;
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
            "a trace has its own rate\n\nhint: `sweep` it with `--time-scale`, or search with a \
             generated workload"
        ),
    };
    let mut probes = Probes::new(&args.curve, "capacity", unit, start)?;
    let mut search = Search::new(Goal {
        share: args.share,
        start,
        bracket: 1.0 + args.precision,
        whole: unit == LoadUnit::Users,
        most: args.most,
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

/// The runs of a curve.
struct Probes<'a> {
    args: &'a CurveArgs,
    unit: LoadUnit,
    out: PathBuf,
    seed: u64,
    curve: Option<LoadCurve>,
}

impl<'a> Probes<'a> {
    fn new(args: &'a CurveArgs, command: &str, unit: LoadUnit, start: f64) -> Result<Self> {
        let probes = Self {
            args,
            unit,
            out: PathBuf::new(),
            seed: 0,
            curve: None,
        };
        let plan = plan::resolve(&probes.flags(start, None), args.scenario.as_deref())?;
        let name = default_folder(&plan, &format!("{command}-"));
        let probes = Self {
            out: args.out.clone().unwrap_or(name),
            seed: plan.seed,
            ..probes
        };
        if !matches!(plan.target, Target::Sim(_)) {
            note("a run to warm up, which does not count …");
            let plan = plan::resolve(&probes.flags(start, Some(0)), args.scenario.as_deref())?;
            make(&plan, &probes.out.join("warm-up"))?;
        }
        Ok(probes)
    }

    /// The flags at a load, with the seed of a run.
    fn flags(&self, load: f64, run: Option<u64>) -> Scenario {
        let mut flags = self.args.flags.clone();
        match self.unit {
            LoadUnit::RequestsPerSecond => (flags.rate, flags.users) = (Some(load), None),
            LoadUnit::Users => (flags.users, flags.rate) = (Some(load as i64), None),
        }
        if let Some(run) = run {
            // The warm-up has the number 0 and a seed beyond those of all others.
            flags.seed = Some(self.seed + if run == 0 { 10_000 } else { run - 1 });
        }
        flags
    }

    fn run(&mut self, load: f64) -> Result<(Segment, Report)> {
        let number = self.curve.as_ref().map_or(0, |curve| curve.points.len()) + 1;
        let flags = self.flags(load, Some(number as u64));
        let plan = plan::resolve(&flags, self.args.scenario.as_deref())?;
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
            blocks: good_blocks,
            valid: report.validity.reasons.is_empty(),
        };
        Ok((segment, report))
    }

    /// Notes what became of a load.
    fn decide(&mut self, load: f64, decision: Decision, share: Option<f64>) {
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
        note(&format!(
            "{} {} {outcome}: {} within the SLO",
            significant(load),
            self.unit.name(),
            share.map_or_else(
                || "none".to_owned(),
                |share| format!("{:.2} %", share * 100.0)
            )
        ));
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
        let path = self.out.join("curve.json");
        let text = serde_json::to_string_pretty(curve)?;
        std::fs::write(&path, text).with_context(|| format!("`{}`", path.display()))
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
    let place = || format!("`{}`", path.display());
    let text = std::fs::read_to_string(path).with_context(place)?;
    let value: serde_json::Value = serde_json::from_str(&text).with_context(place)?;
    let version = value["schema_version"].as_u64();
    ensure!(
        version == Some(u64::from(SCHEMA_VERSION)),
        "{}: schema_version is {version:?}; accepted is {SCHEMA_VERSION}",
        place()
    );
    serde_json::from_value(value).with_context(place)
}

/// Writes the renderings and prints the curve.
pub(super) fn show(curve: &LoadCurve, out: &Path, as_json: bool) -> Result<()> {
    for (name, text) in [
        ("curve.md", render::curve_markdown(curve)),
        ("curve.html", render::curve_html(curve)),
    ] {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("`{}`", path.display()))?;
    }
    note(&format!("\n{}", out.join("curve.html").display()));
    if as_json {
        return Ok(print(&format!(
            "{}\n",
            serde_json::to_string_pretty(curve)?
        ))?);
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
