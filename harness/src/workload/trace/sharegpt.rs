//! `ShareGPT`: conversations as people saved them, in one JSON array or one to a line.
//!
//! Both spellings are read: `from`/`value` and `role`/`content`. Conversations are taken one by one
//! off the stream, so that a file of any size needs the memory of what is kept. Invariant: a
//! conversation that is kept begins with a user, and each message has its answer; other ones are
//! counted by what is wrong with them.

use std::fmt;
use std::io::BufRead;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};

use super::source::{Source, TraceError};
use super::{Content, Conversation, Rows, Trace, TraceKind};

/// Conversations that are kept at most: more than any run of ours needs.
const MAX_CONVERSATIONS: usize = 20_000;

pub(super) fn read(source: Source) -> Result<Trace, TraceError> {
    let file = source.file.clone();
    let mut reader = source.into_reader();
    let is_array = first_byte(&mut reader) == Some(b'[');
    let mut taken = Taken {
        kept: Vec::new(),
        counts: Rows::new(None),
    };
    let mut parser = serde_json::Deserializer::from_reader(reader);
    let parsed = if is_array {
        Each(&mut taken).deserialize(&mut parser)
    } else {
        let mut stream = parser.into_iter::<Saved>();
        stream.try_for_each(|saved| saved.map(|saved| taken.take(saved)))
    };
    parsed.map_err(|error| TraceError::Line {
        file: file.clone(),
        line: error.line() as u64,
        problem: format!("{error}; accepted are `conversations` of `from` and `value`"),
    })?;
    if taken.kept.is_empty() {
        return Err(TraceError::Empty {
            file,
            window: false,
        });
    }
    Ok(Trace {
        kind: TraceKind::ShareGpt,
        file,
        content: Content::Conversations(taken.kept),
        left_out: taken.counts.left_out,
    })
}

/// The first byte that is not white space, left in place.
fn first_byte(reader: &mut dyn BufRead) -> Option<u8> {
    loop {
        let buffer = reader.fill_buf().ok()?;
        let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace());
        let (blank, length) = (blank.count(), buffer.len());
        if length == 0 {
            return None;
        }
        if blank < length {
            return Some(buffer[blank]);
        }
        reader.consume(blank);
    }
}

#[derive(Deserialize)]
struct Saved {
    #[serde(alias = "items", alias = "messages")]
    conversations: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(alias = "role")]
    from: String,
    #[serde(alias = "content")]
    value: String,
}

/// Takes conversations off an array.
struct Each<'a>(&'a mut Taken);

impl<'de> DeserializeSeed<'de> for Each<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
        parser.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Each<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of conversations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(saved) = array.next_element()? {
            self.0.take(saved);
        }
        Ok(())
    }
}

struct Taken {
    kept: Vec<Conversation>,
    counts: Rows,
}

impl Taken {
    fn take(&mut self, saved: Saved) {
        if self.kept.len() >= MAX_CONVERSATIONS {
            self.counts
                .leave_out("beyond the first 20,000 conversations");
            return;
        }
        match conversation(saved) {
            Ok(conversation) => self.kept.push(conversation),
            Err(reason) => self.counts.leave_out(reason),
        }
    }
}

fn conversation(saved: Saved) -> Result<Conversation, &'static str> {
    let (mut system, mut asked, mut exchanges) = (None, None, Vec::new());
    for Said { from, value } in saved.conversations {
        match (from.as_str(), asked.take()) {
            ("system", None) if exchanges.is_empty() => system = Some(value),
            ("human" | "user", None) => asked = Some(value),
            ("gpt" | "chatgpt" | "assistant" | "bing" | "bard", Some(question)) => {
                exchanges.push((question, value));
            }
            ("human" | "user" | "system", _) => return Err("two messages without an answer"),
            ("gpt" | "chatgpt" | "assistant" | "bing" | "bard", None) => {
                return Err("an answer without a message");
            }
            _ => return Err("a speaker who is neither user nor assistant"),
        }
    }
    // A message at the end that nobody answered is no request.
    let spoken = |(asked, said): &(String, String)| !asked.is_empty() && !said.is_empty();
    if exchanges.is_empty() || !exchanges.iter().all(spoken) {
        return Err("nothing asked or nothing answered");
    }
    Ok(Conversation { system, exchanges })
}
