//! What a server told about itself during the measured window: queue, batch, cache.
//!
//! Invariant: a figure carries the name of the metric it is from; one that the server does not
//! give is absent with a reason, never zero. Counters are differences between the first and the
//! last look in the window. Nothing here is measured by the client, and nothing else is computed
//! from it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::energy::Span;
use crate::schema::{SecondPoint, Summary};

/// Something that servers tell.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ServerFigure {
    /// Requests in the batch.
    Running,
    /// Requests that wait for the batch.
    Waiting,
    /// Share of the memory for keys and values that is in use, as the server counts it.
    KvUsage,
    /// Share of prompt tokens found in the prefix cache, as the server counts it.
    PrefixHitShare,
    /// Prompt tokens (with some servers blocks) looked up in the prefix cache.
    PrefixQueries,
    /// Of those, found.
    PrefixHits,
    /// Requests that lost their place in the batch.
    Preemptions,
    /// Prompt tokens.
    PromptTokens,
    /// Output tokens.
    OutputTokens,
}

impl ServerFigure {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Running,
        Self::Waiting,
        Self::KvUsage,
        Self::PrefixHitShare,
        Self::PrefixQueries,
        Self::PrefixHits,
        Self::Preemptions,
        Self::PromptTokens,
        Self::OutputTokens,
    ];

    /// It only ever grows.
    pub fn is_counter(self) -> bool {
        !self.is_share() && !matches!(self, Self::Running | Self::Waiting)
    }

    /// A share: of several engines the mean counts, not the sum.
    pub fn is_share(self) -> bool {
        matches!(self, Self::KvUsage | Self::PrefixHitShare)
    }

    /// Its key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::KvUsage => "kv_usage",
            Self::PrefixHitShare => "prefix_hit_share",
            Self::PrefixQueries => "prefix_queries",
            Self::PrefixHits => "prefix_hits",
            Self::Preemptions => "preemptions",
            Self::PromptTokens => "prompt_tokens",
            Self::OutputTokens => "output_tokens",
        }
    }
}

/// What was read of a server's metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scraped {
    /// Where.
    pub url: String,
    /// Time between two looks as planned.
    pub period_ns: u64,
    /// In the order of time.
    pub looks: Vec<Look>,
    /// The metric behind each figure.
    pub sources: BTreeMap<ServerFigure, String>,
    /// Looks that gave nothing.
    pub failed: u64,
    /// What the last of those said.
    pub last_failure: Option<String>,
}

/// One look at the page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    /// When, on the system's monotonic clock.
    pub at_ns: u64,
    /// What it said.
    pub values: BTreeMap<ServerFigure, f64>,
}

/// The server's own metrics over the measured window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerMetrics {
    /// Where they were read.
    pub url: String,
    /// Time between two looks as planned, seconds.
    pub period_s: f64,
    /// Looks in the window.
    pub looks: u64,
    /// Looks of the whole run that gave nothing.
    pub failed_looks: u64,
    /// Seconds between the first and the last look in the window: what counters cover.
    pub covered_s: f64,
    /// What was told.
    pub figures: BTreeMap<ServerFigure, ServerValue>,
    /// Why a figure is not among them; `all` where there is none at all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub null_reasons: BTreeMap<String, String>,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerValue {
    /// The metric it is from, by the server's own name.
    pub source: String,
    /// Mean of the looks; null for counters.
    pub mean: Option<f64>,
    /// The largest look; null for counters.
    pub max: Option<f64>,
    /// By how much a counter grew; null for the others.
    pub growth: Option<f64>,
}

/// No metrics, and why.
pub fn none(url: &str, why: &str) -> ServerMetrics {
    ServerMetrics {
        url: url.to_owned(),
        null_reasons: BTreeMap::from([("all".to_owned(), why.to_owned())]),
        ..ServerMetrics::default()
    }
}

/// The window's part of what was read.
pub fn summarise(scraped: &Scraped, window: Span) -> ServerMetrics {
    let inside = scraped.looks.iter();
    let inside: Vec<&Look> = inside.filter(|look| window.contains(look.at_ns)).collect();
    let (Some(first), Some(last)) = (inside.first(), inside.last()) else {
        let why = scraped.last_failure.as_deref();
        return none(&scraped.url, why.unwrap_or("no look fell in the window"));
    };
    let mut metrics = ServerMetrics {
        url: scraped.url.clone(),
        period_s: scraped.period_ns as f64 / 1e9,
        looks: inside.len() as u64,
        failed_looks: scraped.failed,
        covered_s: (last.at_ns - first.at_ns) as f64 / 1e9,
        ..ServerMetrics::default()
    };
    for figure in ServerFigure::ALL {
        match value(figure, scraped, &inside) {
            Ok(value) => drop(metrics.figures.insert(figure, value)),
            Err(why) => drop(metrics.null_reasons.insert(figure.name().to_owned(), why)),
        }
    }
    share_of_hits(&mut metrics);
    metrics
}

fn value(figure: ServerFigure, scraped: &Scraped, inside: &[&Look]) -> Result<ServerValue, String> {
    let Some(source) = scraped.sources.get(&figure) else {
        return Err("the server does not tell it by a known name".to_owned());
    };
    let looked = inside.iter().filter_map(|look| look.values.get(&figure));
    let looked: Vec<f64> = looked.copied().collect();
    let (Some(first), Some(last)) = (looked.first(), looked.last()) else {
        return Err("the server did not tell it in the window".to_owned());
    };
    let mut value = ServerValue {
        source: source.clone(),
        mean: None,
        max: None,
        growth: None,
    };
    if figure.is_counter() {
        if looked.len() < 2 {
            return Err("one look in the window is not enough for a counter".to_owned());
        }
        if looked.windows(2).any(|two| two[1] < two[0]) {
            return Err("the counter went back: was the server started anew?".to_owned());
        }
        value.growth = Some(last - first);
    } else {
        value.mean = Some(looked.iter().sum::<f64>() / looked.len() as f64);
        value.max = looked.iter().copied().reduce(f64::max);
    }
    Ok(value)
}

/// Where a server counts what it looked up and what it found, the share follows.
fn share_of_hits(metrics: &mut ServerMetrics) {
    let growth = |figure| metrics.figures.get(&figure)?.growth;
    let counted = growth(ServerFigure::PrefixQueries).zip(growth(ServerFigure::PrefixHits));
    let Some((asked, found)) = counted.filter(|(asked, _)| *asked > 0.0) else {
        return;
    };
    let source = |figure| metrics.figures[&figure].source.as_str();
    let value = ServerValue {
        source: format!(
            "{} / {}",
            source(ServerFigure::PrefixHits),
            source(ServerFigure::PrefixQueries)
        ),
        mean: Some(found / asked),
        max: None,
        growth: None,
    };
    let figure = ServerFigure::PrefixHitShare;
    metrics.figures.insert(figure, value);
    metrics.null_reasons.remove(figure.name());
}

/// Puts the last look of each second into the series.
pub fn fill_series(scraped: &Scraped, start_ns: u64, series: &mut [SecondPoint]) {
    for look in &scraped.looks {
        let Some(since) = look.at_ns.checked_sub(start_ns) else {
            continue;
        };
        let second = since / 1_000_000_000;
        let Some(point) = series.iter_mut().find(|point| point.t_s == second) else {
            continue;
        };
        let of = |figure| look.values.get(&figure).copied();
        point.server_running = of(ServerFigure::Running);
        point.server_waiting = of(ServerFigure::Waiting);
        point.server_kv_usage = of(ServerFigure::KvUsage);
    }
}

/// What a reader should know: a server that made far more tokens than this run has others to serve.
pub fn warning(metrics: &ServerMetrics, summary: &Summary) -> Option<String> {
    const MUCH_MORE: f64 = 1.25;
    const FEWEST_LOOKS: u64 = 5;
    let output = metrics.figures.get(&ServerFigure::OutputTokens)?;
    let made = output.growth? / metrics.covered_s;
    let ours = summary.output_tokens_per_s.per_s;
    let is_much = metrics.looks >= FEWEST_LOOKS && ours > 0.0 && made > MUCH_MORE * ours;
    is_much.then(|| {
        format!(
            "the server counted {made:.1} output tokens a second ({}) and this run {ours:.1}: \
             somebody else uses it",
            output.source
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Looks a second apart at [running, hits, queries, output tokens].
    fn scraped(rows: &[[f64; 4]]) -> Scraped {
        let figures = [
            ServerFigure::Running,
            ServerFigure::PrefixHits,
            ServerFigure::PrefixQueries,
            ServerFigure::OutputTokens,
        ];
        let look = |(at, row): (u64, &[f64; 4])| Look {
            at_ns: at * SECOND,
            values: figures.into_iter().zip(*row).collect(),
        };
        Scraped {
            url: "http://h/metrics".into(),
            period_ns: SECOND,
            looks: (0..).zip(rows).map(look).collect(),
            sources: figures
                .map(|figure| (figure, figure.name().to_owned()))
                .into(),
            failed: 1,
            last_failure: Some("refused".into()),
        }
    }

    fn span(from: u64, to: u64) -> Span {
        Span {
            start_ns: from * SECOND,
            end_ns: to * SECOND,
        }
    }

    #[test]
    fn only_the_window_counts() {
        let rows = [
            [9.0, 0.0, 0.0, 100.0],
            [1.0, 10.0, 20.0, 130.0],
            [3.0, 30.0, 60.0, 170.0],
            [9.0, 99.0, 99.0, 999.0],
        ];
        let found = summarise(&scraped(&rows), span(1, 2));
        assert_eq!(
            (found.looks, found.covered_s, found.failed_looks),
            (2, 1.0, 1)
        );
        let running = &found.figures[&ServerFigure::Running];
        assert_eq!(
            (running.mean, running.max, running.growth),
            (Some(2.0), Some(3.0), None)
        );
        let share = &found.figures[&ServerFigure::PrefixHitShare];
        assert_eq!(
            (share.mean, share.source.as_str()),
            (Some(0.5), "prefix_hits / prefix_queries")
        );
        assert_eq!(
            found.figures[&ServerFigure::OutputTokens].growth,
            Some(40.0)
        );
        assert!(!found.figures.contains_key(&ServerFigure::KvUsage));
        assert!(found.null_reasons["kv_usage"].contains("known name"));
        assert!(!found.null_reasons.contains_key("prefix_hit_share"));
    }

    #[test]
    fn what_cannot_be_told_is_not_zero() {
        let back = summarise(
            &scraped(&[[1.0, 5.0, 9.0, 9.0], [1.0, 6.0, 9.0, 3.0]]),
            span(0, 9),
        );
        assert!(back.null_reasons["output_tokens"].contains("went back"));
        // Nothing was looked up, so no share was found.
        assert!(!back.figures.contains_key(&ServerFigure::PrefixHitShare));
        let one = summarise(&scraped(&[[1.0, 5.0, 9.0, 9.0]]), span(0, 9));
        assert!(one.null_reasons["output_tokens"].contains("one look"));
        let nothing = summarise(&scraped(&[]), span(0, 9));
        assert_eq!(nothing.null_reasons["all"], "refused");
        assert!(nothing.figures.is_empty());
    }

    #[test]
    fn each_second_has_its_last_look() {
        let scraped = scraped(&[[1.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]]);
        let mut series = [0, 1, 2].map(|t_s| SecondPoint {
            t_s,
            ..SecondPoint::default()
        });
        fill_series(&scraped, 0, &mut series);
        let running = series.map(|point| point.server_running);
        assert_eq!(running, [Some(1.0), Some(2.0), None]);
    }
}
