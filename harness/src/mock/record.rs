//! What the mock server really did, request by request.
//!
//! On disk and at `/record`: one line of JSON with [`RecordHead`], then one [`Truth`] for each
//! request in the order in which they came. Invariant: instants are those of the system's monotonic
//! clock in nanoseconds, and a stamp is taken before its write.

use std::io::{self, BufRead};

use reports::Outcome;
use serde::{Deserialize, Serialize};

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordHead {
    /// When the server started; stalls count from it.
    pub started_ns: u64,
    /// Connections it has accepted.
    pub connections: u64,
    /// Times in which it could not accept any, for want of files; those that wait are accepted when
    /// others have ended.
    #[serde(default)]
    pub accept_failures: u64,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// Its number, in the order of arrival.
    pub request: u64,
    /// `X-Request-Id`, if it came with one.
    pub id: Option<String>,
    /// How it ended; `unfinished` while it goes on, `cancelled` when the client went away.
    pub outcome: Outcome,
    /// When the last of it arrived, or the answer before it on its connection had ended.
    pub received_ns: u64,
    /// When each chunk was to be sent.
    pub planned_ns: Vec<u64>,
    /// When each chunk that was sent was sent: given to its connection.
    pub sent_ns: Vec<u64>,
    /// How many of them the socket did not take whole at once, since the client reads too slowly.
    #[serde(default)]
    pub late_chunks: u32,
    /// Tokens in those chunks.
    pub tokens: Vec<u32>,
    /// When it ended.
    pub ended_ns: Option<u64>,
}

impl Truth {
    /// The number at the end of its identity: weighbridge's number of the request.
    pub fn ticket(&self) -> Option<u64> {
        self.id.as_ref()?.rsplit('-').next()?.parse().ok()
    }

    /// How late each chunk was sent, by its plan.
    pub fn lateness_ns(&self) -> impl Iterator<Item = u64> {
        let sends = self.sent_ns.iter().zip(&self.planned_ns);
        sends.map(|(sent, planned)| sent.saturating_sub(*planned))
    }
}

/// All that a server remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The first line.
    pub head: RecordHead,
    /// The others.
    pub requests: Vec<Truth>,
}

impl Record {
    /// As lines.
    pub fn to_lines(&self) -> Vec<u8> {
        let mut lines = serde_json::to_vec(&self.head).expect("a head is plain data");
        for truth in &self.requests {
            lines.push(b'\n');
            serde_json::to_writer(&mut lines, truth).expect("a truth is plain data");
        }
        lines.push(b'\n');
        lines
    }

    /// From lines.
    pub fn from_lines(text: impl BufRead) -> io::Result<Self> {
        let mut lines = text.lines();
        let head = lines
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the record is empty"))??;
        let requests = lines.map(|line| Ok(serde_json::from_str(&line?)?));
        Ok(Self {
            head: serde_json::from_str(&head)?,
            requests: requests.collect::<io::Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_equal() {
        let record = Record {
            head: RecordHead {
                started_ns: 7,
                connections: 2,
                accept_failures: 1,
            },
            requests: vec![Truth {
                request: 0,
                id: Some("wb-1f-77-12".into()),
                outcome: Outcome::HttpStatus(500),
                received_ns: 8,
                planned_ns: vec![9, 10],
                sent_ns: vec![9],
                late_chunks: 1,
                tokens: vec![1],
                ended_ns: None,
            }],
        };
        let read = Record::from_lines(&record.to_lines()[..]).expect("our own");
        assert_eq!(read, record);
        assert_eq!(read.requests[0].ticket(), Some(12));
        assert!(read.requests[0].lateness_ns().eq([0]));
        assert!(Record::from_lines(&b""[..]).is_err());
    }
}
