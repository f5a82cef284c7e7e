//! What is compared, and where a run's figure is found.
//!
//! Invariant: a metric whose direction is not known is refused, since a gate that guesses would
//! pass the regressions of one half of them.

use reports::Report;
use reports::gate::Interval;
use reports::schema::{Metric, MetricSummary, Rate};
use serde_json::Value;

/// The elapsed time of a command.
pub const WALL: &str = "wall_s";

/// One metric, as named by the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateMetric {
    /// A figure of a result folder, `wall_s`, a key, or a JSON pointer.
    pub name: String,
    /// Is more of it better?
    pub more_is_better: bool,
}

/// What a run left behind.
#[derive(Debug)]
pub enum Given {
    /// A result folder.
    Report(Box<Report>, Value),
    /// JSON on standard output.
    Json(Value),
    /// Nothing but the time it took.
    Nothing,
}

type Pick = fn(&MetricSummary) -> Option<f64>;
/// Latency figures of a report by the end of their names.
const STATISTICS: [(&str, Pick); 6] = [
    ("mean", |figures| figures.mean),
    ("p50", |figures| figures.p50),
    ("p90", |figures| figures.p90),
    ("p95", |figures| figures.p95),
    ("p99", |figures| figures.p99),
    ("max", |figures| figures.max),
];
/// Figures of a report that are no latencies.
const RATES: [&str; 3] = ["output_tokens_per_s", "request_rate", "goodput_rate"];
/// What a report is judged by when nothing is named.
pub const DEFAULT_OF_REPORTS: &str = "e2e_p50";
/// What is shown of a report beside the metrics that decide.
const SHOWN: [&str; 7] = [
    "ttft_p50",
    "ttft_p95",
    "tpot_p50",
    "e2e_p50",
    "output_tokens_per_s",
    "request_rate",
    "goodput_rate",
];

/// `ttft_p50`, `wall_s`, `/0/decode_tokens_per_s`, `/score:more`.
pub fn parse(text: &str) -> Result<GateMetric, String> {
    let (name, said) = match text.rsplit_once(':') {
        Some((name, "more")) => (name, Some(true)),
        Some((name, "less")) => (name, Some(false)),
        _ => (text, None),
    };
    if name.is_empty() {
        return Err("an empty name; accepted is a metric such as `ttft_p50` or `wall_s`".into());
    }
    let known = || name.rsplit('/').find_map(direction);
    let more_is_better = said.or_else(known).ok_or_else(|| {
        format!(
            "`{name}`: is more of it better, or less? Nothing in its name says so\n\n\
             hint: write `{name}:more` or `{name}:less`"
        )
    })?;
    Ok(GateMetric {
        name: name.to_owned(),
        more_is_better,
    })
}

/// What is shown of reports without deciding.
pub fn shown(deciding: &[GateMetric]) -> Vec<GateMetric> {
    let others = SHOWN
        .iter()
        .filter(|name| deciding.iter().all(|metric| metric.name != **name));
    others.filter_map(|name| parse(name).ok()).collect()
}

/// Is more of it better? As its name says, if it does.
fn direction(segment: &str) -> Option<bool> {
    let more = ["_per_s", "_rate", "_share", "throughput"];
    let less = [
        "_s",
        "_ms",
        "_us",
        "_ns",
        "seconds",
        "latency",
        "instructions",
    ];
    if latency(segment).is_some() {
        Some(false)
    } else if more.iter().any(|end| segment.ends_with(end)) {
        Some(true)
    } else if less.iter().any(|end| segment.ends_with(end)) {
        Some(false)
    } else {
        None
    }
}

/// `ttft_p50` as metric and statistic.
fn latency(name: &str) -> Option<(Metric, usize)> {
    let (metric, statistic) = name.rsplit_once('_')?;
    let metric = Metric::ALL
        .into_iter()
        .find(|known| known.name() == metric)?;
    let statistic = STATISTICS
        .iter()
        .position(|(known, _)| *known == statistic)?;
    Some((metric, statistic))
}

impl GateMetric {
    /// Its unit, where the name says it.
    pub fn unit(&self) -> Option<String> {
        let last = self.name.rsplit('/').next().unwrap_or_default();
        let seconds = latency(last).is_some() || last.ends_with("_s") && !last.ends_with("_per_s");
        seconds.then(|| "s".to_owned())
    }

    /// The figure of one run. It is above 0, since ratios are compared.
    pub fn read(&self, given: &Given, wall_s: f64) -> Result<f64, String> {
        let name = &self.name;
        let found = match given {
            _ if name == WALL => Ok(wall_s),
            Given::Report(_, value) if name.starts_with('/') => pointed(value, name),
            Given::Report(report, _) => of_report(report, name),
            Given::Json(value) if name.starts_with('/') => pointed(value, name),
            Given::Json(value) => keyed(value, name),
            Given::Nothing => Err(format!("`{name}`: the command gave no figures")),
        }?;
        if found.is_finite() && found > 0.0 {
            Ok(found)
        } else {
            Err(format!("`{name}` is {found}; ratios need figures above 0"))
        }
    }

    /// The 95 % interval from within a run, where its report has one.
    pub fn interval(&self, report: &Report) -> Option<Interval> {
        let (low, high) = match latency(&self.name) {
            Some((metric, statistic)) => {
                let intervals = &report.summary.metric(metric).ci95;
                *intervals.get(STATISTICS[statistic].0)?
            }
            None => rate(report, &self.name)?.ci95?,
        };
        (low > 0.0).then_some(Interval { low, high })
    }
}

fn pointed(value: &Value, pointer: &str) -> Result<f64, String> {
    match value.pointer(pointer) {
        Some(found) => number(found, pointer),
        None => Err(format!("`{pointer}` is not in the JSON{}", keys(value))),
    }
}

fn number(value: &Value, name: &str) -> Result<f64, String> {
    value.as_f64().ok_or_else(|| {
        let shown: String = value.to_string().chars().take(40).collect();
        format!("`{name}` is `{shown}`; accepted is a number")
    })
}

/// A key of the object, or of the only row.
fn keyed(value: &Value, key: &str) -> Result<f64, String> {
    let object = match value {
        Value::Array(rows) if rows.len() == 1 => &rows[0],
        Value::Array(rows) if rows.len() > 1 => {
            return Err(format!(
                "`{key}`: the JSON has {} rows\n\nhint: say which, as in `--metric /0/{key}`",
                rows.len()
            ));
        }
        value => value,
    };
    match object.get(key) {
        Some(found) => number(found, key),
        None => Err(format!("`{key}` is not in the JSON{}", keys(object))),
    }
}

/// What there is instead.
fn keys(value: &Value) -> String {
    let Some(object) = value.as_object() else {
        return String::new();
    };
    let keys: Vec<String> = object
        .keys()
        .take(12)
        .map(|key| format!("`{key}`"))
        .collect();
    format!("; it has {}", keys.join(", "))
}

fn of_report(report: &Report, name: &str) -> Result<f64, String> {
    if let Some((metric, statistic)) = latency(name) {
        let figures = report.summary.metric(metric);
        let (key, read) = STATISTICS[statistic];
        return read(figures).ok_or_else(|| {
            let reason = figures
                .null_reasons
                .get(key)
                .map_or("no values", String::as_str);
            format!("`{name}` is not in the report: {reason}")
        });
    }
    if name == "goodput_share" {
        let share = report.summary.goodput_share;
        return share.ok_or_else(|| format!("`{name}` needs a run with `--slo`"));
    }
    if RATES.contains(&name) {
        let rate = rate(report, name).map(|rate| rate.per_s);
        return rate.ok_or_else(|| format!("`{name}` needs a run with `--slo`"));
    }
    let latencies = Metric::ALL.map(Metric::name).join("_, ");
    Err(format!(
        "`{name}` is no figure of a report; accepted are {latencies}_ with mean, p50, p90, p95, \
         p99 or max, {}, goodput_share, wall_s, and JSON pointers into report.json",
        RATES.join(", ")
    ))
}

fn rate(report: &Report, name: &str) -> Option<Rate> {
    let summary = &report.summary;
    match name {
        "output_tokens_per_s" => Some(summary.output_tokens_per_s),
        "request_rate" => Some(summary.request_rate),
        "goodput_rate" => summary.goodput_rate,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_say_which_way_is_better_or_are_refused() {
        for (text, name, more) in [
            ("ttft_p50", "ttft_p50", false),
            ("chunk_gap_mean", "chunk_gap_mean", false),
            ("output_tokens_per_s", "output_tokens_per_s", true),
            ("wall_s", "wall_s", false),
            ("/0/decode_tokens_per_s", "/0/decode_tokens_per_s", true),
            ("/summary/ttft_s/p50", "/summary/ttft_s/p50", false),
            ("/score:more", "/score", true),
            ("request_rate:less", "request_rate", false),
        ] {
            let metric = parse(text).expect(text);
            assert_eq!(
                (metric.name.as_str(), metric.more_is_better),
                (name, more),
                "{text}"
            );
        }
        for text in ["score", "", ":more", "/0/value"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn figures_are_found_or_the_place_is_named() {
        let one = Given::Json(json!([{"decode_tokens_per_s": 12.5, "zero_s": 0, "text_s": "x"}]));
        let two = Given::Json(json!([{"a_s": 1}, {"a_s": 2}]));
        let read = |text: &str, given: &Given| parse(text).expect(text).read(given, 0.25);
        assert_eq!(read("wall_s", &Given::Nothing), Ok(0.25));
        assert_eq!(read("decode_tokens_per_s", &one), Ok(12.5));
        assert_eq!(read("/0/decode_tokens_per_s", &one), Ok(12.5));
        assert_eq!(read("/1/a_s", &two), Ok(2.0));
        for (name, given, part) in [
            ("a_s", &two, "2 rows"),
            ("zero_s", &one, "above 0"),
            ("text_s", &one, "accepted is a number"),
            ("prefill_s", &one, "it has `decode_tokens_per_s`"),
            ("/9/a_s", &two, "not in the JSON"),
            ("b_s", &Given::Nothing, "no figures"),
        ] {
            let error = read(name, given).expect_err(name);
            assert!(error.contains(part), "{name}: {error}");
        }
    }
}
