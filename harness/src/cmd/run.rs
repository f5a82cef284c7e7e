//! `weighbridge run`: measure a target under load and write the result folder.

mod assemble;
mod measure;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow};
use clap::Args;
use reports::Report;
use reports::capacity::GoodBlock;
use reports::dialect::Dialect;

use super::{Ending, note, report, write_file};
use crate::plan::{self, Plan};
use crate::scenario::Scenario;
use crate::target::{Served, Target};
use crate::units::show_bytes;
use crate::workload::source::{SessionSource, Workload};
use measure::{Outcome, measure};

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
    /// Print the run in another tool's definitions: vllm, sglang, aiperf, guidellm, genai-perf,
    /// llmperf, inference-perf, evalscope, aisbench
    #[arg(long, value_name = "TOOL")]
    dialect: Option<Dialect>,
}

pub(super) fn run(args: &RunArgs) -> Result<Ending> {
    let plan = plan::resolve(&args.flags, args.scenario.as_deref())?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| default_folder(&plan, ""));
    let ran = make(&plan, &out)?;
    match args.dialect {
        Some(dialect) => report::show_dialect(dialect, &ran.report, &out, args.json)?,
        None => report::show(&ran.report, args.json)?,
    }
    note(&format!("\n{}", out.join("report.html").display()));
    if let Some(error) = &ran.write_error {
        return Err(anyhow!(
            "`{}`: {error}",
            out.join("requests.jsonl").display()
        ));
    }
    Ok(if ran.report.run.incomplete {
        Ending::Interrupted
    } else if ran.report.validity.reasons.is_empty() {
        Ending::Done
    } else {
        Ending::Invalid
    })
}

/// A run that was made, and its files written.
pub(super) struct Ran {
    /// The product.
    pub(super) report: Report,
    /// What met the SLO, by block of time.
    pub(super) good_blocks: Vec<GoodBlock>,
    /// `requests.jsonl` lacks lines.
    write_error: Option<String>,
}

/// Makes a run and writes its folder.
pub(super) fn make(plan: &Plan, out: &Path) -> Result<Ran> {
    if let Target::Http(_) = plan.target {
        crate::limits::raise_file_limit();
    }
    let served = load_model(plan)?;
    let info = served.info().clone();
    let source = session_source(plan, &served)?;
    let clock = plan.target.clock();
    let measured = measure(plan, &clock, served, Arc::new(source), out);
    let outcome = match plan.target {
        Target::Http(_) => clock.block_on_giving_way(measured),
        _ => clock.block_on(measured),
    }?;
    let mut report = assemble::report(plan, &info, &outcome);
    let write_error = outcome
        .recorded
        .write_error
        .as_ref()
        .map(ToString::to_string);
    if let Some(error) = &write_error {
        report
            .warnings
            .push(format!("requests.jsonl is incomplete: {error}"));
    }
    write_files(&report, &outcome, out)?;
    Ok(Ran {
        report,
        good_blocks: outcome.recorded.measurements.good_blocks,
        write_error,
    })
}

pub(super) fn default_folder(plan: &Plan, prefix: &str) -> PathBuf {
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let name = format!("{time}-{prefix}{}-{}", plan.target, plan.workload.name());
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
    let load = || Served::load(&plan.target, plan.engine.kernels, &plan.model, plan.weights);
    if !matches!(plan.target, Target::Cpu | Target::Cuda(_)) {
        return Ok(load()?);
    }
    note(&format!("loading {} …", plan.model_name));
    let served = load()?;
    let info = served.info();
    note(&format!(
        "{}: {:.1} M parameters, {}, {} of weights, KV pool {}",
        info.name,
        info.parameters as f64 / 1e6,
        info.weights,
        show_bytes(info.weight_bytes),
        show_bytes(served.kv_memory_bytes(&plan.engine))
    ));
    Ok(served)
}

/// The sessions of the run, once it is sure that the model can take them.
fn session_source(plan: &Plan, served: &Served) -> Result<SessionSource> {
    let info = served.info();
    let pool = served.kv_memory_bytes(&plan.engine);
    let per_token = info.kv_bytes_per_token.max(1);
    let held = match plan.target {
        Target::Cpu | Target::Cuda(_) | Target::Sim(_) | Target::Plugin { .. } => {
            (pool / per_token).saturating_sub(64)
        }
        Target::Http(_) => u64::MAX,
    };
    let window = match plan.tokenizer {
        plan::TokenizerKind::Exact => info.context_limit,
        plan::TokenizerKind::StandIn => u64::MAX,
    };
    if let Workload::Generated(spec) = &plan.workload {
        let wanted = u64::from(spec.context_limit);
        anyhow::ensure!(
            wanted <= window,
            "`--workload` {} has prompts of up to {wanted} tokens; model {} takes {window}\n\n\
             hint: `doubao-chat-8k` needs 8192, `doubao-chat-lite` 2048, `smoke` 256; \
             `--context-limit {window}` cuts what is longer, and counts it",
            spec.name,
            plan.model_name
        );
        anyhow::ensure!(
            wanted <= held,
            "`--kv-memory` {} holds {} tokens; one request of {} needs up to {wanted}",
            show_bytes(pool),
            pool / per_token,
            spec.name
        );
    }
    let limit = u32::try_from(window.min(held)).ok();
    let tokenizer = served.tokenizer();
    let source = SessionSource::new(plan.workload.clone(), plan.seed, tokenizer, limit)?;
    match &source {
        SessionSource::Generated(maker) => {
            check_shortest_prompt(plan, maker.overhead().without_system)?;
        }
        SessionSource::Replayed(replay) => {
            note_left_out(replay.left_out());
            anyhow::ensure!(
                !replay.is_empty(),
                "`--workload` {}: no request fits; the model takes {} tokens",
                plan.workload.name(),
                window.min(held)
            );
        }
    }
    Ok(source)
}

fn note_left_out(left_out: &std::collections::BTreeMap<String, u64>) {
    for (reason, count) in left_out {
        note(&format!("left out of the trace: {count} {reason}"));
    }
}

/// A whole prompt holds at least the chat template and one token.
fn check_shortest_prompt(plan: &Plan, template_tokens: u32) -> Result<()> {
    let Some(spec) = plan.workload.spec().filter(|spec| spec.whole_prompt) else {
        return Ok(());
    };
    let prompt = spec.classes[0].user_first.largest();
    anyhow::ensure!(
        prompt > f64::from(template_tokens),
        "`--workload` {}: a prompt of {prompt} tokens is too short; the chat template of {} alone \
         takes {template_tokens}",
        spec.name,
        plan.model_name
    );
    Ok(())
}

fn write_files(report: &Report, outcome: &Outcome, out: &Path) -> Result<()> {
    let report_json = serde_json::to_string_pretty(report)?;
    write_file(&out.join("report.json"), report_json)?;
    let log = &outcome.recorded.measurements.interval_log;
    write_file(&out.join("latency.hlog"), log)?;
    report::write_renderings(report, out)
}
