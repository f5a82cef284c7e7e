//! Files of traces as lines, plain or gzip, and what can be wrong with them.
//!
//! Invariant: an error names the file, the line (from 1) and the field. A line is at most
//! [`MAX_LINE`] bytes long, so that a file which is no trace cannot fill the memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;

const MAX_LINE: u64 = 16 << 20;
/// Characters of a wrong value that are shown.
const SHOWN: usize = 60;

/// A trace that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Cannot be read.
    #[error("trace `{file}`: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A record of the wrong form.
    #[error("trace `{file}`, line {line}: field `{field}` {problem}")]
    Field {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u64,
        /// Which field.
        field: String,
        /// Its value, and what is accepted.
        problem: String,
    },
    /// A line of the wrong form.
    #[error("trace `{file}`, line {line}: {problem}")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u64,
        /// What is wrong, and what is accepted.
        problem: String,
    },
    /// Nothing to replay.
    #[error(
        "trace `{file}` has no request{}", if *window { " in the window asked for" } else { "" }
    )]
    Empty {
        /// The file.
        file: String,
        /// Was a part asked for?
        window: bool,
    },
}

/// An open trace.
pub(super) struct Source {
    pub(super) file: String,
    reader: Box<dyn BufRead>,
}

impl Source {
    pub(super) fn open(file: &str) -> Result<Self, TraceError> {
        let read = |source| TraceError::Read {
            file: file.to_owned(),
            source,
        };
        let mut plain = BufReader::with_capacity(1 << 16, File::open(file).map_err(read)?);
        let packed = plain.fill_buf().map_err(read)?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn BufRead> = if packed {
            Box::new(BufReader::with_capacity(
                1 << 16,
                MultiGzDecoder::new(plain),
            ))
        } else {
            Box::new(plain)
        };
        Ok(Self {
            file: file.to_owned(),
            reader,
        })
    }

    /// The whole file as bytes, to be read once.
    pub(super) fn into_reader(self) -> Box<dyn BufRead> {
        self.reader
    }

    /// Gives every line that is not empty to `take`, with its number.
    pub(super) fn lines(
        mut self,
        mut take: impl FnMut(&Place<'_>, &[u8]) -> Result<(), TraceError>,
    ) -> Result<(), TraceError> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let mut limited = self.reader.by_ref().take(MAX_LINE);
            let read = limited.read_until(b'\n', &mut line);
            let place = Place {
                file: &self.file,
                line: number,
            };
            let length = read.map_err(|source| TraceError::Read {
                file: place.file.to_owned(),
                source,
            })?;
            if length == 0 {
                break;
            }
            if length as u64 == MAX_LINE {
                return Err(place.wrong("is longer than 16 MiB; accepted is one record a line"));
            }
            let text = line.trim_ascii();
            if !text.is_empty() {
                take(&place, text)?;
            }
        }
        Ok(())
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    pub(super) line: u64,
}

impl Place<'_> {
    pub(super) fn wrong(&self, problem: impl Into<String>) -> TraceError {
        TraceError::Line {
            file: self.file.to_owned(),
            line: self.line,
            problem: problem.into(),
        }
    }

    pub(super) fn wrong_field(&self, field: &str, problem: impl Into<String>) -> TraceError {
        TraceError::Field {
            file: self.file.to_owned(),
            line: self.line,
            field: field.to_owned(),
            problem: problem.into(),
        }
    }

    /// `is VALUE; accepted is …`.
    pub(super) fn not_accepted(&self, field: &str, value: &str, accepted: &str) -> TraceError {
        let shown: String = value.chars().take(SHOWN).collect();
        self.wrong_field(field, format!("is `{shown}`; accepted is {accepted}"))
    }
}
