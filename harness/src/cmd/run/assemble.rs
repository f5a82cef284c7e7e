//! From what a run left behind to its report.
//!
//! Invariant: every figure comes from the records or the plan; nothing is measured here. Secrets
//! (API keys) are not in the plan's scenario, so they cannot get into a report.

use std::collections::BTreeMap;

use reports::Measurements;
use reports::cost::Priced;
use reports::energy::Span;
use reports::schema::{
    ClientError, ModelInfo, Report, RunInfo, SCHEMA_VERSION, TargetInfo, WorkloadInfo,
};
use reports::server_metrics;
use reports::validity::{
    self, Completion, Evenness, Inputs, LoadKind as AssessedLoad, OutputLength, assess,
};

use super::measure::Outcome;
use crate::plan::{LoadKind, Plan, TokenizerKind};
use crate::prices::{self, NO_COST};
use crate::target::{Server, Target};
use crate::warm_up;

pub(super) fn report(plan: &Plan, model: &models::ModelInfo, outcome: &Outcome) -> Report {
    let measured = &outcome.recorded.measurements;
    let client_error = client_error(plan, outcome, measured);
    let (validity, mut warnings) = assess(inputs(plan, outcome, measured, &client_error));
    warnings.extend(own_warnings(plan, measured));
    warnings.extend(outcome.warnings.iter().cloned());
    warnings.extend(warm_up::warning(&outcome.warmed));
    let price = price(plan, outcome, &mut warnings);
    let start_ns = outcome.monotonic_start_ns.unwrap_or_default();
    let watch = &outcome.watch;
    let energy = watch.energy(start_ns, outcome.window, &measured.summary);
    warnings.extend(watch.warnings(energy.as_ref()));
    let mut series = measured.series.clone();
    watch.fill_series(start_ns, outcome.window, &mut series);
    let server_metrics = outcome.scraped.as_ref().map(|scraped| {
        server_metrics::fill_series(scraped, start_ns, &mut series);
        let span = Span {
            start_ns: start_ns + outcome.window.start_ns,
            end_ns: start_ns + outcome.window.end_ns,
        };
        server_metrics::summarise(scraped, span)
    });
    let others = server_metrics.as_ref();
    warnings.extend(others.and_then(|told| server_metrics::warning(told, &measured.summary)));
    let mut report = Report {
        schema_version: SCHEMA_VERSION,
        run: run_info(plan, outcome),
        target: TargetInfo {
            name: plan.target.to_string(),
            kind: outcome.system.kind.clone(),
            device: outcome.system.device.clone(),
            virtual_time: outcome.timers_s.is_none(),
            details: target_details(plan, outcome),
        },
        model: model_info(plan, model, outcome),
        workload: workload_info(plan, outcome),
        validity,
        client_error,
        summary: measured.summary.clone(),
        histograms: measured.histograms.clone(),
        series,
        energy,
        server_metrics,
        device_time: outcome.device_time,
        cost: None,
        warnings,
    };
    if let Some(priced) = &price
        && let Err(error) = prices::bill(&mut report, priced, None)
    {
        report.warnings.push(format!("{NO_COST}: {error}"));
    }
    report
}

/// What the verdict goes by.
fn inputs<'a>(
    plan: &Plan,
    outcome: &'a Outcome,
    measured: &'a Measurements,
    client_error: &'a ClientError,
) -> Inputs<'a> {
    Inputs {
        completion: if outcome.interrupted {
            Completion::Interrupted
        } else {
            Completion::Complete
        },
        load: match plan.load {
            LoadKind::Open(..) | LoadKind::Replay(_) => AssessedLoad::Open,
            LoadKind::Closed(_) => AssessedLoad::Closed,
        },
        evenness: if plan.workload.is_uneven() && !matches!(plan.load, LoadKind::Closed(_)) {
            Evenness::Uneven
        } else {
            Evenness::Even
        },
        requested: outcome.requested.map(|asked| validity::Requested {
            requests: asked.requests,
            sd: asked.sd,
        }),
        drifts: &measured.drifts,
        output_length: if plan.ignore_eos {
            OutputLength::Exact
        } else {
            OutputLength::UpTo
        },
        summary: &measured.summary,
        client_error,
        series: &measured.series,
        ttft_p50_any_s: measured.ttft_p50_any_s,
        length_mismatches: measured.length_mismatches,
        lost_conversations: outcome.lost_conversations,
    }
}

fn client_error(plan: &Plan, outcome: &Outcome, measured: &Measurements) -> ClientError {
    let mut preflight = outcome.preflight.clone();
    if let Some(preflight) = &mut preflight {
        preflight.mark(&measured.summary, plan.slo);
    }
    let skipped = matches!(plan.target, Target::Http(_)) && preflight.is_none();
    ClientError {
        preflight,
        preflight_skipped: skipped.then(|| "--no-preflight was given".to_owned()),
        timer_p50_s: outcome.timers_s.map(|(p50, _)| p50),
        timer_p99_s: outcome.timers_s.map(|(_, p99)| p99),
        cpu_cores_used: outcome.used.map(|used| used.cores),
        cpu_s: outcome.used.map(|used| used.cpu_s),
        coalesced_share: outcome.recorded.coalesced_share,
        ..measured.client_error.clone()
    }
}

/// What the backend says of itself, and whose devices it runs on.
fn target_details(plan: &Plan, outcome: &Outcome) -> BTreeMap<String, String> {
    let mut details = outcome.system.details.clone();
    if let Target::Http(Server {
        vendor: Some(vendor),
        ..
    }) = &plan.target
    {
        details.insert("vendor".into(), vendor.name().into());
        if let Some((kind, names)) = outcome.watch.devices() {
            details.insert(
                "devices".into(),
                format!("{} (by {kind})", names.join(", ")),
            );
        }
        let versions = outcome.watch.versions();
        if !versions.is_empty() {
            details.insert("device_software".into(), versions.join(", "));
        }
    }
    details
}

/// What the target costs: as planned, or that of a vendor's devices that were found. Says in a
/// warning what was taken, or why there is none.
fn price(plan: &Plan, outcome: &Outcome, warnings: &mut Vec<String>) -> Option<Priced> {
    if plan.price.is_some() {
        return plan.price.clone();
    }
    let scenario = &plan.scenario;
    let found = match &plan.target {
        Target::Http(Server {
            vendor: Some(_), ..
        }) if scenario.price_device.is_none() => outcome.watch.devices(),
        _ => None,
    };
    let Some((kind, names)) = found else {
        warnings.push(format!(
            "{NO_COST}: no price for {} is known; give --price FILE and --price-device NAME",
            plan.target
        ));
        return None;
    };
    let units = scenario.price_units.map(|units| units as u32);
    match prices::of_found(scenario.price.as_deref(), units, &names) {
        Ok(priced) => {
            warnings.push(format!(
                "priced as {} × {}, the devices that `{kind}` watches; --price-units and \
                 --price-device say otherwise",
                priced.units, priced.device.id
            ));
            Some(priced)
        }
        Err(error) => {
            warnings.push(format!(
                "{NO_COST}: {error}; --price-device NAME says which"
            ));
            None
        }
    }
}

fn own_warnings(plan: &Plan, measured: &Measurements) -> Vec<String> {
    let mut warnings = Vec::new();
    if matches!(plan.target, Target::Sim(_)) {
        warnings.push(
            "simulated: step times are a roofline with assumed efficiencies, not calibrated; no \
             figure here is a measurement of the device"
                .to_owned(),
        );
    }
    if plan.tokenizer == TokenizerKind::StandIn {
        warnings.push(
            "prompts were made with the tokenizer of ref-135m, not the served model's: their \
             lengths are not the planned ones; input tokens are the server's count where it gives \
             one"
            .to_owned(),
        );
    }
    if plan.scenario.tls_insecure == Some(true) {
        warnings.push(
            "the server's certificate was not checked (--tls-insecure): it may be any server"
                .to_owned(),
        );
    }
    if measured.clamped_values > 0 {
        let count = measured.clamped_values;
        warnings.push(format!(
            "{count} values over an hour are recorded as an hour"
        ));
    }
    if plan.workload.name() == "doubao-chat-lite" {
        warnings.push("doubao-chat-lite is not comparable with full-length workloads".to_owned());
    }
    warnings
}

fn run_info(plan: &Plan, outcome: &Outcome) -> RunInfo {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let mut environment = BTreeMap::from([
        (
            "build".to_owned(),
            if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
        ),
        ("drain_s".to_owned(), plan.drain_s.to_string()),
    ]);
    if !outcome.warmed.is_empty() {
        environment.insert(
            "warm_up_batches".to_owned(),
            warm_up::words(&outcome.warmed),
        );
    }
    if let Some(start_ns) = outcome.monotonic_start_ns {
        environment.insert("monotonic_start_ns".to_owned(), start_ns.to_string());
    }
    RunInfo {
        tool_version: env!("CARGO_PKG_VERSION").into(),
        git_commit: option_env!("WEIGHBRIDGE_GIT_COMMIT").map(ToOwned::to_owned),
        command: std::env::args().collect(),
        seed: plan.seed,
        schedule_hash: outcome.schedule_hash.clone(),
        start: to_the_second(outcome.started),
        end: to_the_second(outcome.ended),
        window_s: (
            seconds(outcome.window.start_ns),
            seconds(outcome.window.end_ns),
        ),
        incomplete: outcome.interrupted,
        host: crate::host::host_info(),
        host_use: outcome.host_use,
        environment,
    }
}

fn to_the_second(instant: jiff::Timestamp) -> String {
    instant.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn model_info(plan: &Plan, model: &models::ModelInfo, outcome: &Outcome) -> ModelInfo {
    let tokenizer = model.name.clone();
    if plan.tokenizer == TokenizerKind::StandIn {
        let served = outcome.system.details.get("served_model");
        return ModelInfo {
            name: served.unwrap_or(&plan.model_name).clone(),
            architecture: None,
            parameters: None,
            weights: None,
            weight_bytes: None,
            context_limit: None,
            identity: None,
            tokenizer: format!("{tokenizer} (stand-in)"),
        };
    }
    ModelInfo {
        name: plan.model_name.clone(),
        architecture: Some(model.architecture.clone()),
        parameters: Some(model.parameters),
        weights: Some(model.weights.clone()),
        weight_bytes: Some(model.weight_bytes),
        context_limit: Some(model.context_limit),
        identity: Some(model.identity.clone()),
        tokenizer,
    }
}

fn workload_info(plan: &Plan, outcome: &Outcome) -> WorkloadInfo {
    let (load, target_rate, users, arrivals) = match plan.load {
        LoadKind::Open(rate, arrivals) => ("open", Some(rate), None, arrivals.to_string()),
        LoadKind::Replay(scale) => ("open", None, None, format!("the trace's, time × {scale}")),
        LoadKind::Closed(users) => ("closed", None, Some(users), "users who think".to_owned()),
    };
    let seconds = |ns: u64| ns as f64 / 1e9;
    WorkloadInfo {
        name: plan.workload.name(),
        description: plan.workload.description(),
        load: load.into(),
        target_rate,
        users,
        arrivals,
        warmup_s: seconds(outcome.window.start_ns),
        duration_s: seconds(outcome.window.end_ns - outcome.window.start_ns),
        length_mode: "tokens".into(),
        slo: plan.slo,
        chatbot: plan.workload.is_chatbot(),
        whole_day: plan.workload.is_whole_day(plan.duration_s),
        realised: outcome.realised.clone(),
        scenario: serde_json::to_value(&plan.scenario).unwrap_or_default(),
    }
}
