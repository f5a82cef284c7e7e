//! The tables of the report below the latencies, one for each topic.
//!
//! Invariant: a row stands in its table whether or not its figure is known; only what a target
//! cannot have at all is left out. What it does not do: order the tables; `view` does.

use crate::cost::{Cost, Estimate};
use crate::preflight::{Preflight, Spread};
use crate::record::TokenCountSource;
use crate::schema::{RealisedWorkload, Report};
use crate::stats::thousands;

use super::format::{bytes, duration, parameters, percent, significant, usd};
use super::view::{DOUBTFUL, Figure, Row, Section, rate_figure, usd_figure};

/// What was served, and how fast.
pub(super) fn throughput(report: &Report) -> Section {
    let summary = &report.summary;
    let mut rows = vec![
        row(
            "Output tokens",
            rate_figure(summary.output_tokens_per_s, "tok/s"),
        ),
        row("Requests", rate_figure(summary.request_rate, "req/s")),
    ];
    if let Some(slo) = report.workload.slo {
        let limits = [
            ("TTFT", slo.ttft_s),
            ("TPOT", slo.tpot_s),
            ("E2E", slo.e2e_s),
        ];
        let limits: Vec<String> = limits
            .into_iter()
            .filter_map(|(name, limit)| Some(format!("{name} ≤ {}", duration(limit?))))
            .collect();
        rows.push(text("SLO", limits.join(", ")));
    }
    rows.push(row(
        "Goodput",
        match summary.goodput_rate {
            Some(rate) => rate_figure(rate, "req/s"),
            None => Figure::missing("no SLO was given"),
        },
    ));
    if let Some(share) = summary.goodput_share {
        rows.push(text("Goodput share", percent(share)));
    }
    rows.push(count("Input tokens", summary.input_tokens));
    if let Some(cached) = summary.cached_input_tokens {
        rows.push(count("of them in a prefix cache", cached));
    }
    rows.push(count("Output tokens in the window", summary.output_tokens));
    let source = |source: &TokenCountSource| match source {
        TokenCountSource::Engine => "the engine's own count",
        TokenCountSource::Usage => "the server's usage",
        TokenCountSource::Tokenized => "text tokenised after the run",
        TokenCountSource::Chunks => "one for each chunk (unreliable)",
    };
    let sources: Vec<&str> = summary.token_count_source.iter().map(source).collect();
    rows.push(text("Tokens counted by", sources.join(", ")));
    Section {
        id: "throughput",
        title: "Throughput",
        rows,
    }
}

/// A figure of the cost by its key.
pub(super) fn cost_figure(cost: &Cost, key: &str, value: Option<Estimate>) -> Figure {
    match value {
        Some(value) => usd_figure(value),
        None => Figure::missing(
            cost.null_reasons
                .get(key)
                .map_or("not known", String::as_str),
        ),
    }
}

/// The label of a figure of the cost.
fn cost_label(key: &'static str) -> &'static str {
    match key {
        "usd_per_query" => "Per served query",
        "usd_per_million_input_tokens" => "Per million input tokens",
        "usd_per_million_uncached_input_tokens" => "of which no cache held",
        "usd_per_million_cached_input_tokens" => "of which a cache held",
        "usd_per_million_output_tokens" => "Per million output tokens",
        "usd_per_million_total_tokens" => "Per million tokens, input and output alike",
        "usd_per_million_output_tokens_whole_cost" => "Per million output tokens, input free",
        "usd_per_million_chinese_characters" => "Per million Chinese characters",
        "usd_per_mau_month" => "Per monthly active user and month",
        other => other,
    }
}

/// What it cost.
pub(super) fn cost(report: &Report) -> Section {
    let Some(cost) = &report.cost else {
        let rows = vec![row(
            "Cost",
            Figure::missing("no price is known for this device"),
        )];
        return Section {
            id: "cost-figures",
            title: "Cost",
            rows,
        };
    };
    let figures = cost.at_this_load.by_key().into_iter();
    let mut rows: Vec<Row> = figures
        .map(|(key, value)| row(cost_label(key), cost_figure(cost, key, value)))
        .collect();
    if let Some(why) = cost.null_reasons.get("interval") {
        rows.push(text("Interval of the above", format!("none: {why}")));
    }
    if let Some(split) = &cost.split {
        let shares = format!(
            "{} to {}; {}",
            percent(split.input_share),
            percent(1.0 - split.input_share),
            split.detail
        );
        rows.push(text("Input to output", shares));
    }
    rows.push(row("Hardware per hour", usd_figure(cost.usd_per_hour)));
    if cost.hour.len() > 1 {
        let parts = cost.hour.iter();
        rows.extend(parts.map(|part| row(format!("of it {}", part.name), usd_figure(part.usd))));
    }
    rows.push(row("The measured window", usd_figure(cost.usd_window)));
    if let Some(served) = cost.served {
        let of = format!(
            "{} of {}",
            thousands(served.requests),
            thousands(cost.offered)
        );
        rows.push(text("Served requests, of those offered", of));
    }
    Section {
        id: "cost-figures",
        title: "Cost",
        rows,
    }
}

/// The same for hardware that idles off the peak of a day, and list prices beside it.
pub(super) fn cost_over_the_day(report: &Report) -> Option<Section> {
    let cost = report.cost.as_ref()?;
    let day = cost.over_the_day.as_ref()?;
    let used = &day.utilisation;
    let mut rows = vec![text(
        "Mean over peak of the load",
        format!(
            "{} ({} to {}; {}, {}, confidence {})",
            percent(used.mid),
            percent(used.low),
            percent(used.high),
            used.source,
            used.date,
            used.confidence.name()
        ),
    )];
    let figures = day.figures.by_key().into_iter();
    let known = figures.filter(|(_, value)| value.is_some());
    rows.extend(known.map(|(key, value)| row(cost_label(key), cost_figure(cost, key, value))));
    rows.extend(cost.services.iter().map(|bill| {
        let words = format!(
            "{} for a query, {} for a million tokens ({}; {}, {}, confidence {})",
            usd(bill.usd_per_query),
            usd(bill.usd_per_million_total_tokens),
            bill.prices,
            bill.source,
            bill.date,
            bill.confidence.name()
        );
        text(format!("List price of {}", bill.service), words)
    }));
    Some(Section {
        id: "cost-day",
        title: "Cost over a day, and list prices",
        rows,
    })
}

/// The prices, with their sources.
pub(super) fn cost_source(cost: &Cost) -> String {
    let mut words = format!(
        "{} × {}: {} (sheet {}, confidence {}). Requests that failed or came late are paid for and \
         not counted.",
        cost.units,
        cost.device,
        cost.what,
        cost.sheet,
        cost.confidence.name()
    );
    for (name, quantity) in &cost.inputs {
        let currency = quantity.currency.as_deref().unwrap_or_default();
        let range = if quantity.low < quantity.high {
            format!(" [{}, {}]", quantity.low, quantity.high)
        } else {
            String::new()
        };
        let value = format!("{}{range} {currency}", quantity.mid);
        words.push_str(&format!(
            " {}: {} ({}, {}, confidence {}).",
            name.replace('_', " "),
            value.trim_end(),
            quantity.source,
            quantity.date,
            quantity.confidence.name()
        ));
    }
    words
}

/// How the requests of the window ended.
pub(super) fn outcomes(report: &Report) -> Section {
    let requests = report.summary.requests;
    let share = |count: u64| match requests.total {
        0 => thousands(count),
        total => format!(
            "{} ({})",
            thousands(count),
            percent(count as f64 / total as f64)
        ),
    };
    let mut rows = vec![
        count("Intended in the window", requests.total),
        text("Finished", share(requests.ok)),
        text("Failed", share(requests.failed)),
        text(
            "Cancelled by the user, as planned",
            share(requests.cancelled),
        ),
        text(
            "Unfinished at the end of the drain",
            share(requests.unfinished),
        ),
    ];
    let causes = report.summary.failures.iter();
    rows.extend(causes.map(|(cause, &times)| count(&format!("Failed: {cause}"), times)));
    Section {
        id: "outcomes",
        title: "Request outcomes",
        rows,
    }
}

/// The load, as specified and as generated.
pub(super) fn workload(report: &Report) -> Section {
    let load = &report.workload;
    let realised = &load.realised;
    let mut rows = vec![
        text("Workload", load.description.clone()),
        text("Load", format!("{} loop; {}", load.load, load.arrivals)),
    ];
    if let Some(users) = load.users {
        rows.push(count("Users", u64::from(users)));
    }
    if let Some(rate) = load.target_rate {
        let intended = report.summary.requests.total as f64 / report.summary.window_s.max(1e-9);
        rows.push(text(
            "Rate asked for",
            format!("{} req/s", significant(rate)),
        ));
        rows.push(text(
            "Rate intended in the window",
            format!("{} req/s", significant(intended)),
        ));
    }
    let plan = format!(
        "{} warm-up, {} window",
        duration(load.warmup_s),
        duration(load.duration_s)
    );
    rows.push(text("Phases", plan));
    rows.extend(schedule_rows(realised));
    rows.push(text("Lengths counted in", load.length_mode.clone()));
    rows.push(count(
        "Histories cut to fit the context",
        realised.truncated,
    ));
    rows.push(count("Cancellations planned", realised.cancelled));
    if let Some(cv) = realised.arrival_cv {
        rows.push(text("Variation of arrival gaps (CV)", significant(cv)));
    }
    if let Some(share) = realised.ideal_prefix_hit {
        rows.push(text("Prefix hits with an unbounded cache", percent(share)));
    }
    let classes = realised.classes.iter();
    rows.extend(classes.map(|(class, &times)| count(&format!("Class {class}"), times)));
    Section {
        id: "workload",
        title: "Workload: asked for and realised",
        rows,
    }
}

/// What the generated schedule is like, and what of a trace is not in it.
fn schedule_rows(realised: &RealisedWorkload) -> Vec<Row> {
    let mut rows = Vec::new();
    let schedule = format!(
        "{} requests in {} sessions",
        thousands(realised.requests),
        thousands(realised.sessions)
    );
    rows.push(text("Schedule", schedule));
    let prompt = format!(
        "mean {}, p50 {}, p95 {}",
        significant(realised.prompt_tokens_mean),
        thousands(realised.prompt_tokens_p50),
        thousands(realised.prompt_tokens_p95)
    );
    rows.push(text("Prompt tokens", prompt));
    let output = format!(
        "mean {}, p50 {}",
        significant(realised.output_tokens_mean),
        thousands(realised.output_tokens_p50)
    );
    rows.push(text("Output tokens asked for", output));
    for (reason, left_out) in &realised.left_out {
        rows.push(count(&format!("Left out: {reason}"), *left_out));
    }
    if realised.lengthened > 0 {
        rows.push(count(
            "Prompts made longer for the template",
            realised.lengthened,
        ));
    }
    if realised.repeated > 0 {
        rows.push(count("Sessions that came a second time", realised.repeated));
    }
    rows
}

/// The generator's own error.
pub(super) fn client_error(report: &Report) -> Section {
    let error = &report.client_error;
    let seconds = |label: &str, value: Option<f64>| {
        row(
            label,
            value.map_or_else(
                || Figure::missing("not measured"),
                |s| Figure::plain(duration(s)),
            ),
        )
    };
    let mut rows = vec![
        seconds("Send lag p50", error.send_lag_p50_s),
        seconds("Send lag p99", error.send_lag_p99_s),
        seconds("Send lag max", error.send_lag_max_s),
        seconds("Timer lateness p50", error.timer_p50_s),
        seconds("Timer lateness p99", error.timer_p99_s),
        count("Turns that waited for the reply before", error.pushed_turns),
    ];
    if let Some(cores) = error.cpu_cores_used {
        rows.push(text("CPU cores used by this process", significant(cores)));
    }
    if let Some(share) = error.coalesced_share {
        rows.push(text(
            "Events read together with the one before",
            percent(share),
        ));
    }
    if let Some(why) = &error.preflight_skipped {
        rows.push(row("Own error", Figure::missing(why)));
    }
    rows.extend(error.preflight.iter().flat_map(own_error));
    Section {
        id: "generator",
        title: "Load generator",
        rows,
    }
}

/// The client against the bundled ground truth.
fn own_error(preflight: &Preflight) -> Vec<Row> {
    let spread = |spread: Spread| {
        format!(
            "p50 {}, p90 {}, p99 {}, max {}",
            duration(spread.p50),
            duration(spread.p90),
            duration(spread.p99),
            duration(spread.max)
        )
    };
    let measured = format!(
        "{}, {}; {} requests, {} tokens",
        preflight.load,
        duration(preflight.duration_s),
        thousands(preflight.requests),
        thousands(preflight.tokens)
    );
    let mut rows = vec![
        text("Own error measured against the ground truth at", measured),
        text(
            "Receive error, per chunk",
            spread(preflight.receive_error_s),
        ),
        text("Send lag there", spread(preflight.send_lag_s)),
    ];
    if let Some(share) = preflight.early_share.filter(|share| *share > 0.0) {
        let earliest = preflight.receive_error_s.min.unwrap_or_default();
        let words = format!("{}, by {} at most", percent(share), duration(-earliest));
        rows.push(text("Chunks that the client has as too early", words));
    }
    if let Some(late) = preflight.server_late_s {
        rows.push(text("Lateness of the ground truth itself", spread(late)));
    }
    for (metric, errors) in &preflight.errors {
        let figures: Vec<String> = errors
            .iter()
            .map(|(figure, error)| format!("{figure} {}", duration(error.error_s())))
            .collect();
        let label = format!("Own error of {}", metric.short_name());
        rows.push(text(label, figures.join(", ")));
    }
    if let Some(ms) = preflight.cpu_ms_per_1000_tokens {
        rows.push(text(
            "CPU for 1000 tokens",
            format!("{} ms", significant(ms)),
        ));
    }
    if !preflight.marks.is_empty() {
        let marks = preflight.marks.iter();
        let names: Vec<String> = marks
            .map(|mark| format!("{} {}", mark.metric.short_name(), mark.figure))
            .collect();
        rows.push(text(
            format!("{} Own error over 5 % of the figure", DOUBTFUL.trim()),
            names.join(", "),
        ));
    }
    rows
}

/// What ran where.
pub(super) fn system(report: &Report) -> Section {
    let (run, target, model, host) = (&report.run, &report.target, &report.model, &report.run.host);
    let mut rows = vec![
        text("Target", format!("{} ({})", target.name, target.kind)),
        text("Device", target.device.clone()),
        text("Model", model.name.clone()),
    ];
    let mut optional = |label: &str, value: Option<String>| {
        rows.extend(value.map(|value| text(label, value)));
    };
    optional("Architecture", model.architecture.clone());
    optional("Parameters", model.parameters.map(parameters));
    optional("Weights", model.weights.clone());
    optional("Weight memory", model.weight_bytes.map(bytes));
    optional(
        "Context limit",
        model
            .context_limit
            .map(|tokens| format!("{} tokens", thousands(tokens))),
    );
    optional("Identity", model.identity.clone());
    rows.push(text("Tokenizer", model.tokenizer.clone()));
    rows.extend(
        target
            .details
            .iter()
            .map(|(key, value)| text(key.clone(), value.clone())),
    );
    let cpu = format!(
        "{} ({} logical CPUs, {})",
        host.cpu,
        host.logical_cpus,
        bytes(host.memory_bytes)
    );
    rows.push(text("Host", cpu));
    rows.extend(run.host_use.map(|used| {
        let words = format!(
            "processors {} busy, {} at most; {} of memory in use at most",
            percent(used.cpu_busy_mean),
            percent(used.cpu_busy_max),
            bytes(used.memory_used_max_bytes)
        );
        text("Host in the window", words)
    }));
    rows.push(text("System", format!("{}, {}", host.os, host.arch)));
    rows.extend(
        run.environment
            .iter()
            .map(|(key, value)| text(key.clone(), value.clone())),
    );
    let commit = run
        .git_commit
        .as_ref()
        .map(|commit| format!(" ({commit})"))
        .unwrap_or_default();
    rows.push(text("weighbridge", format!("{}{commit}", run.tool_version)));
    rows.push(text("Seed", run.seed.to_string()));
    rows.push(text("Schedule hash", run.schedule_hash.clone()));
    rows.push(text("Started", run.start.clone()));
    rows.push(text("Ended", run.end.clone()));
    Section {
        id: "environment",
        title: "Environment",
        rows,
    }
}

pub(super) fn row(label: impl Into<String>, figure: Figure) -> Row {
    Row {
        label: label.into(),
        figure,
    }
}

pub(super) fn text(label: impl Into<String>, value: impl Into<String>) -> Row {
    row(label, Figure::plain(value))
}

fn count(label: &str, value: u64) -> Row {
    text(label, thousands(value))
}
