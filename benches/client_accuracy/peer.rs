//! Another load generator beside ours: what it reports against what the server did.
//!
//! It is started as a user would and judged by its own export. Since that has no instants, there is
//! no receive error of its; its figures have warm-up and drain in them as the server's have.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::mock::record::Truth;
use reports::Outcome;
use reports::preflight::{FigureError, Preflight, Spread};
use reports::schema::Metric;
use reports::stats::{Quantile, nearest_rank};
use serde_json::Value;

use super::{Load, Options, TOKENS};

/// Its figures, by the export's names, and the CPU seconds it took.
pub(super) struct Reported {
    export: Value,
    pub(super) cpu_s: f64,
}

/// Drives the server with `scripts/clients/aiperf_load.sh`.
pub(super) fn run(options: &Options, load: Load, base: &str, folder: &Path) -> Result<Reported> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/clients/aiperf_load.sh");
    let out = folder.join("aiperf");
    let output = Command::new(&script)
        .args([base, &load.to_string(), &options.seconds.to_string()])
        .arg(TOKENS.to_string())
        .arg(&out)
        .env("ON", &options.client_cpu)
        .env("WEIGHBRIDGE", &options.weighbridge)
        .output()?;
    ensure!(
        output.status.success(),
        "{}: {}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let read = |name: &str| {
        let path = out.join(name);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    Ok(Reported {
        export: serde_json::from_str(&read("profile_export_aiperf.json")?)?,
        cpu_s: read("cpu_s")?.trim().parse()?,
    })
}

impl Reported {
    /// Requests that it finished.
    pub(super) fn requests(&self) -> f64 {
        self.export["request_count"]["avg"]
            .as_f64()
            .unwrap_or_default()
    }

    /// As it says.
    pub(super) fn requests_per_s(&self) -> f64 {
        let rate = &self.export["request_throughput"]["avg"];
        rate.as_f64().unwrap_or_default()
    }

    /// Its figures beside those of what the server sent.
    pub(super) fn against(&self, truths: &[Truth]) -> Preflight {
        let done: Vec<&Truth> = truths
            .iter()
            .filter(|truth| truth.outcome == Outcome::Ok)
            .collect();
        let first = |truth: &&Truth| Some(truth.sent_ns.first()? - truth.received_ns);
        let gaps = |truth: &&Truth| -> Vec<u64> {
            truth
                .sent_ns
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .collect()
        };
        let each = |truth: &&Truth| {
            let (first, last) = (truth.sent_ns.first()?, truth.sent_ns.last()?);
            (last - first).checked_div(truth.sent_ns.len() as u64 - 1)
        };
        // One chunk has one token, so its gaps between chunks are what others call ITL.
        let metrics = [
            (
                Metric::Ttft,
                "time_to_first_token",
                done.iter().filter_map(first).collect(),
            ),
            (
                Metric::Itl,
                "inter_chunk_latency",
                done.iter().flat_map(gaps).collect(),
            ),
            (
                Metric::Tpot,
                "inter_token_latency",
                done.iter().filter_map(each).collect(),
            ),
        ];
        let errors = metrics.map(|(metric, name, mut true_ns): (_, _, Vec<u64>)| {
            true_ns.sort_unstable();
            let figure = |(key, quantile): (&str, Quantile)| {
                let reported_ms = self.export[name][key].as_f64().unwrap_or(f64::NAN);
                let true_ns = nearest_rank(&true_ns, quantile).unwrap_or_default();
                let error = FigureError {
                    reported_s: reported_ms / 1e3,
                    true_s: true_ns as f64 / 1e9,
                };
                (key.to_owned(), error)
            };
            let figures = [("p50", Quantile::P50), ("p99", Quantile::P99)].map(figure);
            (metric, BTreeMap::from(figures))
        });
        let late: Vec<u64> = truths.iter().flat_map(Truth::lateness_ns).collect();
        let unknown = Spread {
            p50: f64::NAN,
            p90: f64::NAN,
            p99: f64::NAN,
            max: f64::NAN,
            min: None,
        };
        Preflight {
            load: String::new(),
            duration_s: 0.0,
            requests: done.len() as u64,
            tokens: 0,
            receive_error_s: unknown,
            early_share: None,
            server_late_s: Some(Spread::of(late)),
            send_lag_s: unknown,
            errors: errors.into(),
            cpu_cores_used: None,
            cpu_ms_per_1000_tokens: None,
            marks: Vec::new(),
        }
    }
}
