//! Traces of comma-separated values: Azure and `BurstGPT`.
//!
//! Columns are found by their names, since newer files have more of them. Invariant: a column that
//! is missing and a value of the wrong kind are both named with their line.

use std::io::BufRead;

use csv::{Reader, ReaderBuilder, StringRecord, Terminator, Trim};

use super::source::{Place, Source, TraceError};
use super::{Row, Rows};

const WHOLE: &str = "a whole number from 0 to 4294967295";

/// `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`.
pub(super) fn azure(source: Source, rows: &mut Rows) -> Result<(), TraceError> {
    const COLUMNS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];
    requests(
        Table::open(source, "azure", COLUMNS)?,
        |cells| cells.calendar_s(0),
        rows,
    )
}

/// `Timestamp` in seconds, `Request tokens`, `Response tokens` (0 for a failure). Sessions, which
/// newer files name, are not used: they carry no text and no order of turns.
pub(super) fn burstgpt(source: Source, rows: &mut Rows) -> Result<(), TraceError> {
    const COLUMNS: [&str; 3] = ["Timestamp", "Request tokens", "Response tokens"];
    requests(
        Table::open(source, "burstgpt", COLUMNS)?,
        |cells| cells.seconds(0),
        rows,
    )
}

/// Takes a table of instants, prompt lengths and answer lengths.
fn requests(
    mut table: Table<3>,
    at_s: fn(&Cells<'_, 3>) -> Result<f64, TraceError>,
    rows: &mut Rows,
) -> Result<(), TraceError> {
    while let Some(record) = table.next()? {
        rows.take(Row {
            at_s: at_s(&record)?,
            input_tokens: record.count(1)?,
            output_tokens: record.count(2)?,
            session: None,
            turn: 0,
            block_ids: &[],
        });
    }
    Ok(())
}

/// A file with named columns.
struct Table<const N: usize> {
    file: String,
    reader: Reader<Box<dyn BufRead>>,
    names: [&'static str; N],
    places: [usize; N],
    record: StringRecord,
}

impl<const N: usize> Table<N> {
    fn open(source: Source, kind: &str, names: [&'static str; N]) -> Result<Self, TraceError> {
        let file = source.file.clone();
        let mut reader = ReaderBuilder::new()
            // With the default, lines that end in CR LF are counted one too late.
            .terminator(Terminator::Any(b'\n'))
            .trim(Trim::All)
            .from_reader(source.into_reader());
        let heads = reader.headers().cloned();
        let heads = heads.map_err(|error| wrong_line(&file, &error))?;
        let mut places = [0; N];
        for (name, place) in names.iter().zip(&mut places) {
            let found = heads
                .iter()
                .position(|head| head.trim_start_matches('\u{feff}') == *name);
            *place = found.ok_or_else(|| {
                let all: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                let here: Vec<&str> = heads.iter().take(12).collect();
                let problem = format!(
                    "is missing; an {kind} trace has {}, this file has `{}`",
                    all.join(", "),
                    here.join(",")
                );
                let first = Place {
                    file: &file,
                    line: 1,
                };
                first.wrong_field(name, problem)
            })?;
        }
        Ok(Self {
            file,
            reader,
            names,
            places,
            record: StringRecord::new(),
        })
    }

    fn next(&mut self) -> Result<Option<Cells<'_, N>>, TraceError> {
        let more = self.reader.read_record(&mut self.record);
        if !more.map_err(|error| wrong_line(&self.file, &error))? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        Ok(Some(Cells {
            place: Place {
                file: &self.file,
                line,
            },
            names: &self.names,
            values: self
                .places
                .map(|place| self.record.get(place).unwrap_or_default()),
        }))
    }
}

fn wrong_line(file: &str, error: &csv::Error) -> TraceError {
    let line = error.position().map_or(1, csv::Position::line);
    Place { file, line }.wrong(error.to_string())
}

/// The columns of one line.
struct Cells<'a, const N: usize> {
    place: Place<'a>,
    names: &'a [&'static str; N],
    values: [&'a str; N],
}

impl<const N: usize> Cells<'_, N> {
    fn wrong(&self, column: usize, accepted: &str) -> TraceError {
        let (name, value) = (self.names[column], self.values[column]);
        self.place.not_accepted(name, value, accepted)
    }

    /// Some files write whole numbers with a decimal point.
    fn count(&self, column: usize) -> Result<u32, TraceError> {
        let number: Option<f64> = self.values[column].trim().parse().ok();
        let in_range = |value: &f64| (0.0..=f64::from(u32::MAX)).contains(value);
        let count = number.filter(in_range).filter(|value| value.fract() == 0.0);
        count
            .map(|value| value as u32)
            .ok_or_else(|| self.wrong(column, WHOLE))
    }

    fn seconds(&self, column: usize) -> Result<f64, TraceError> {
        let number: Option<f64> = self.values[column].trim().parse().ok();
        let instant = number.filter(|value| value.is_finite() && *value >= 0.0);
        instant.ok_or_else(|| self.wrong(column, "a number of seconds from 0"))
    }

    /// `2023-11-16 18:15:46.6805900`, with or without an offset from UTC.
    fn calendar_s(&self, column: usize) -> Result<f64, TraceError> {
        let text = self.values[column].trim();
        let instant = text.parse::<jiff::Timestamp>().ok().or_else(|| {
            let local: jiff::civil::DateTime = text.parse().ok()?;
            jiff::tz::TimeZone::UTC.to_timestamp(local).ok()
        });
        let accepted = "a time such as `2023-11-16 18:15:46.6805900`";
        let instant = instant.ok_or_else(|| self.wrong(column, accepted))?;
        Ok(instant.as_nanosecond() as f64 / 1e9)
    }
}
