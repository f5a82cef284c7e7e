//! Recorded load: requests with their instants and lengths, or conversations with their text.
//!
//! A trace is read once, line by line, gzip or plain, and only what a replay needs is kept: a few
//! numbers for each request and one list of block ids for all of them. Invariant: a trace that
//! [`read`] returns is in the order of its instants, which count from its first record (or from the
//! start of the window); what was not taken over is counted by reason, never dropped in silence.
//! What it does not do: make text, or know of models; see [`super::replay`].

mod csv_rows;
mod json_rows;
mod sharegpt;
mod source;

use std::collections::BTreeMap;

use source::Source;
pub use source::TraceError;

/// Requests of a trace at most; what a replay could not hold is not read.
const MAX_REQUESTS: usize = 5_000_000;

/// The formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceKind {
    /// Mooncake (FAST'25): JSON lines with ids of 512-token blocks.
    Mooncake,
    /// Azure LLM inference 2023 and 2024: CSV with lengths alone.
    Azure,
    /// `BurstGPT`: CSV with lengths, and sessions in newer files.
    BurstGpt,
    /// Qwen-Bailian: JSON lines with ids of 16-token blocks.
    Bailian,
    /// `ShareGPT`: conversations without instants.
    ShareGpt,
}

impl TraceKind {
    /// What stands before the colon, in the order of the variants.
    pub const NAMES: [&'static str; 5] = ["mooncake", "azure", "burstgpt", "bailian", "sharegpt"];
    const ALL: [Self; 5] = [
        Self::Mooncake,
        Self::Azure,
        Self::BurstGpt,
        Self::Bailian,
        Self::ShareGpt,
    ];

    /// Reads `KIND:FILE`.
    pub fn split(name: &str) -> Option<(Self, &str)> {
        let (kind, file) = name.split_once(':')?;
        let place = Self::NAMES.iter().position(|&known| known == kind)?;
        Some((Self::ALL[place], file))
    }

    /// What stands before the colon.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Tokens of a block; `None` where there are no blocks.
    pub fn block_tokens(self) -> Option<u32> {
        match self {
            Self::Mooncake => Some(512),
            Self::Bailian => Some(16),
            Self::Azure | Self::BurstGpt | Self::ShareGpt => None,
        }
    }
}

/// A trace as it was read.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Its format.
    pub kind: TraceKind,
    /// The file, as given.
    pub file: String,
    /// What there is to replay.
    pub content: Content,
    /// Records that were not taken over, by reason.
    pub left_out: BTreeMap<String, u64>,
}

/// What a trace holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// Requests at their instants.
    Requests(Requests),
    /// Conversations with their text.
    Conversations(Vec<Conversation>),
}

/// Requests in the order of their instants.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    /// One by one.
    pub list: Vec<Request>,
    /// The block ids of all of them, one after another.
    pub block_ids: Vec<u64>,
    /// From the first instant to the end of the trace, or of its window, in seconds.
    pub span_s: f64,
    /// Instants are multiples of this and were given to several requests at once, in seconds.
    pub step_s: Option<f64>,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// Seconds after the start.
    pub at_s: f64,
    /// Tokens of the whole prompt.
    pub input_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// The conversation it belongs to, or its own number.
    pub session: u64,
    /// Its place in the conversation, from 0.
    pub turn: u32,
    /// Where its ids are in [`Requests::block_ids`].
    pub blocks: (u32, u32),
}

impl Requests {
    /// The ids of a request's blocks; equal ids are equal prompts up to and with that block.
    pub fn blocks(&self, request: &Request) -> &[u64] {
        let (from, count) = request.blocks;
        &self.block_ids[from as usize..(from + count) as usize]
    }

    /// Requests per second on average.
    pub fn mean_rate(&self) -> f64 {
        self.list.len() as f64 / self.span_s
    }
}

/// A conversation with its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// What the operator told the model.
    pub system: Option<String>,
    /// Messages, each with the answer it got.
    pub exchanges: Vec<(String, String)>,
}

/// A part of a trace, in seconds of its own time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// First instant.
    pub from_s: f64,
    /// First instant after.
    pub to_s: f64,
}

/// Reads a trace, or the part of it in `window`.
pub fn read(kind: TraceKind, file: &str, window: Option<Window>) -> Result<Trace, TraceError> {
    let source = Source::open(file)?;
    if kind == TraceKind::ShareGpt {
        return sharegpt::read(source);
    }
    let mut rows = Rows::new(window);
    match kind {
        TraceKind::Mooncake => json_rows::mooncake(source, &mut rows)?,
        TraceKind::Bailian => json_rows::bailian(source, &mut rows)?,
        TraceKind::Azure => csv_rows::azure(source, &mut rows)?,
        TraceKind::BurstGpt | TraceKind::ShareGpt => csv_rows::burstgpt(source, &mut rows)?,
    }
    let left_out = std::mem::take(&mut rows.left_out);
    let Some(requests) = rows.finish() else {
        return Err(TraceError::Empty {
            file: file.to_owned(),
            window: window.is_some(),
        });
    };
    Ok(Trace {
        kind,
        file: file.to_owned(),
        content: Content::Requests(requests),
        left_out,
    })
}

/// One record as a reader found it.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    /// Seconds, from any origin.
    at_s: f64,
    input_tokens: u32,
    output_tokens: u32,
    session: Option<u64>,
    turn: u32,
    block_ids: &'a [u64],
}

/// Takes rows one by one and keeps those of the window.
struct Rows {
    window: Option<Window>,
    origin_s: Option<f64>,
    end_s: f64,
    found: Requests,
    left_out: BTreeMap<String, u64>,
}

impl Rows {
    fn new(window: Option<Window>) -> Self {
        Self {
            window,
            origin_s: None,
            end_s: 0.0,
            found: Requests::default(),
            left_out: BTreeMap::new(),
        }
    }

    fn leave_out(&mut self, reason: &str) {
        *self.left_out.entry(reason.to_owned()).or_default() += 1;
    }

    fn take(&mut self, row: Row<'_>) {
        let origin_s = *self.origin_s.get_or_insert(row.at_s);
        let mut at_s = row.at_s - origin_s;
        self.end_s = self.end_s.max(at_s);
        if let Some(window) = self.window {
            if !(window.from_s..window.to_s).contains(&at_s) {
                return;
            }
            at_s -= window.from_s;
        }
        if row.input_tokens == 0 || row.output_tokens == 0 {
            self.leave_out("without a prompt or an answer in the trace");
        } else if self.found.list.len() >= MAX_REQUESTS {
            self.leave_out("beyond the first 5,000,000");
        } else {
            let first = self.found.block_ids.len() as u32;
            self.found.block_ids.extend_from_slice(row.block_ids);
            self.found.list.push(Request {
                at_s,
                input_tokens: row.input_tokens,
                output_tokens: row.output_tokens,
                session: row.session.unwrap_or(self.found.list.len() as u64),
                turn: row.turn,
                blocks: (first, row.block_ids.len() as u32),
            });
        }
    }

    /// The requests by instant; `None` when there are none.
    fn finish(self) -> Option<Requests> {
        let mut found = self.found;
        found.list.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        let last_s = found.list.last()?.at_s;
        let beyond_s = self.end_s - self.window.map_or(0.0, |window| window.from_s);
        let window_s = self.window.map_or(f64::INFINITY, |w| w.to_s - w.from_s);
        // A little more than the last instant, so that it is inside.
        found.span_s = window_s.min(beyond_s).max(last_s) + 1e-3;
        found.step_s = step_s(&found.list);
        Some(found)
    }
}

/// The step of instants that were rounded so coarsely that most requests share theirs.
fn step_s(list: &[Request]) -> Option<f64> {
    let gaps = list.windows(2).map(|pair| pair[1].at_s - pair[0].at_s);
    let mut steps: Vec<f64> = gaps.filter(|&gap| gap > 0.0).collect();
    steps.sort_unstable_by(f64::total_cmp);
    let coarse = steps.len() * 2 < list.len();
    steps.get(steps.len() / 2).copied().filter(|_| coarse)
}

#[cfg(test)]
mod tests;
