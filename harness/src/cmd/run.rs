//! `weighbridge run`: measure a target under load and write the result folder.

mod assemble;
mod measure;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use models::{Model, load_tokenizer};

use super::{Ending, note, report};
use crate::plan::{self, Plan};
use crate::scenario::Scenario;
use crate::target::{Served, Target};
use crate::units::show_bytes;
use crate::workload::schedule::SessionMaker;
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
}

pub(super) fn run(args: &RunArgs) -> Result<Ending> {
    let plan = plan::resolve(&args.flags, args.scenario.as_deref())?;
    if let Target::Http(_) = plan.target {
        crate::limits::raise_file_limit();
    }
    let served = load_model(&plan)?;
    let info = served.info().clone();
    let tokenizer = served.tokenizer();
    check_context(&plan, &info)?;
    let maker = SessionMaker::new(plan.workload.clone(), plan.seed, Arc::clone(&tokenizer))?;
    check_shortest_prompt(&plan, maker.overhead().without_system)?;
    let out = args.out.clone().unwrap_or_else(|| default_folder(&plan));
    let clock = plan.target.clock();
    let outcome = clock.block_on(measure(&plan, &clock, served, Arc::new(maker), &out))?;
    let mut report = assemble::report(&plan, &info, &outcome);
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

/// A whole prompt holds at least the chat template and one token.
fn check_shortest_prompt(plan: &Plan, template_tokens: u32) -> Result<()> {
    let prompt = plan.workload.classes[0].user_first.largest();
    anyhow::ensure!(
        !plan.workload.whole_prompt || prompt > f64::from(template_tokens),
        "`--workload` {}: a prompt of {prompt} tokens is too short; the chat template of {} alone \
         takes {template_tokens}",
        plan.workload.name,
        plan.model_name
    );
    Ok(())
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
