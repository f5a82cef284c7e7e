//! The tables of requests that `weighbridge export` writes, CSV and Parquet.
//!
//! TTFT is of every row that did not fail, the other latencies of those that finished, as in a
//! report. Invariant: columns go by name, and a table without one that is needed is an error that
//! names it. A table does not say whether its run was VALID, nor what was measured, and a subject
//! from it says that. What it does not do: rates, since the window is not in the table either.

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::{ImportError, with_figures};
use crate::schema::Metric;
use crate::stats::{Quantile, nearest_rank};
use crate::subject::{Source, Subject, latency_key};

/// Columns that are read.
const COLUMNS: [&str; 6] = [
    "outcome",
    "input_tokens",
    "output_tokens",
    "ttft_s",
    "tpot_s",
    "e2e_s",
];

/// Outcomes whose TTFT counts.
const NO_FAILURES: [&str; 3] = ["ok", "cancelled", "unfinished"];

/// How the CSV begins.
pub(super) const CSV_START: &str = "id,session,turn,class,outcome,";
/// How a Parquet file begins.
pub(super) const PARQUET_START: &[u8] = b"PAR1";

/// A request: its outcome and the numbers of the other columns.
struct Row {
    outcome: String,
    numbers: [Option<f64>; 5],
}

/// What people call it.
const TOOL: &str = "table of requests";

fn without(what: &'static str) -> ImportError {
    ImportError::Missing { tool: TOOL, what }
}

pub(super) fn from_csv(text: &str) -> Result<Subject, ImportError> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let heads = reader.headers()?.clone();
    let mut places = [0; COLUMNS.len()];
    for (place, name) in places.iter_mut().zip(COLUMNS) {
        let found = heads.iter().position(|head| head == name);
        *place = found.ok_or(without(name))?;
    }
    let row = |record: Result<csv::StringRecord, csv::Error>| {
        let record = record?;
        let text = |column: usize| record.get(places[column]).unwrap_or_default();
        let mut numbers = [None; 5];
        for (number, column) in numbers.iter_mut().zip(1..) {
            *number = Some(text(column))
                .filter(|text| !text.is_empty())
                .map(str::parse)
                .transpose()
                .map_err(|_| ImportError::Cell {
                    column: COLUMNS[column],
                    line: record.position().map_or(0, csv::Position::line),
                    found: text(column).to_owned(),
                })?;
        }
        Ok(Row {
            outcome: text(0).to_owned(),
            numbers,
        })
    };
    let rows: Vec<Row> = reader
        .records()
        .map(row)
        .collect::<Result<_, ImportError>>()?;
    subject(&rows)
}

pub(super) fn from_parquet(bytes: &[u8]) -> Result<Subject, ImportError> {
    let reader = SerializedFileReader::new(Bytes::copy_from_slice(bytes))?;
    let fields = reader.metadata().file_metadata().schema().get_fields();
    for name in COLUMNS {
        if !fields.iter().any(|field| field.name() == name) {
            return Err(without(name));
        }
    }
    let mut rows = Vec::new();
    for row in reader.get_row_iter(None)? {
        let row = row?;
        let field = |name: &str| {
            let mut columns = row.get_column_iter();
            columns
                .find(|column| column.0 == name)
                .map(|column| column.1)
        };
        let number = |name: &str| match field(name) {
            Some(Field::Long(value)) => Some(*value as f64),
            Some(Field::Double(value)) => Some(*value),
            _ => None,
        };
        let outcome = match field("outcome") {
            Some(Field::Str(outcome)) => outcome.clone(),
            _ => String::new(),
        };
        let mut numbers = [None; 5];
        for (into, name) in numbers.iter_mut().zip(&COLUMNS[1..]) {
            *into = number(name);
        }
        rows.push(Row { outcome, numbers });
    }
    subject(&rows)
}

fn subject(rows: &[Row]) -> Result<Subject, ImportError> {
    let finished = |row: &&Row| row.outcome == "ok";
    let of_finished = |at: usize| -> Vec<f64> {
        let rows = rows.iter().filter(finished);
        rows.filter_map(|row| row.numbers[at]).collect()
    };
    let mean = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (!values.is_empty()).then_some(mean)
    };
    let mut subject = Subject::new(Source::Requests, TOOL);
    subject.workload.input_tokens_mean = mean(&of_finished(0));
    subject.workload.output_tokens_mean = mean(&of_finished(1));
    let no_failure = |row: &&Row| NO_FAILURES.contains(&row.outcome.as_str());
    let ttfts = rows
        .iter()
        .filter(no_failure)
        .filter_map(|row| row.numbers[2]);
    let ttfts = ttfts.collect();
    for (metric, seconds) in [
        (Metric::Ttft, ttfts),
        (Metric::Tpot, of_finished(3)),
        (Metric::E2e, of_finished(4)),
    ] {
        put(&mut subject, metric, mean(&seconds), &seconds);
    }
    subject.invalid.push(
        "a table of requests does not say whether its run was VALID, or simulated: its result \
         folder does"
            .to_owned(),
    );
    let left_out = rows.len() - rows.iter().filter(finished).count();
    if left_out > 0 {
        let note = format!("{left_out} requests did not finish");
        subject.notes.push(note);
    }
    with_figures(subject, TOOL)
}

fn put(subject: &mut Subject, metric: Metric, mean: Option<f64>, seconds: &[f64]) {
    let ns = |seconds: &f64| (seconds * 1e9).round() as u64;
    let mut sorted_ns: Vec<u64> = seconds.iter().map(ns).collect();
    sorted_ns.sort_unstable();
    let count = sorted_ns.len() as u64;
    subject.put(&latency_key(metric, "mean"), mean, Some(count));
    for quantile in Quantile::ALL {
        let enough = quantile.null_reason(count).is_none();
        let value = nearest_rank(&sorted_ns, quantile).filter(|_| enough);
        let seconds = value.map(|ns| ns as f64 / 1e9);
        subject.put(&latency_key(metric, quantile.key()), seconds, Some(count));
    }
}
