//! Answers of any bytes, found by coverage: each ends exactly once, the same at any split, and the
//! reader never panics.
//!
//! ```sh
//! scripts/fuzz                # ten million executions; --runs N for another number
//! ```
//!
//! An input is a whole answer where it begins like one, else the body of one. Where it is split
//! follows from its bytes.

#![no_main]

use backends::http::{AnswerReader, Connection};
use backends::{Event, EventKind, Nanos};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = answer(data);
    let whole = read(&[&bytes]);
    let ends = whole.iter().filter(|event| is_end(event)).count();
    assert!(ends == 1 && whole.last().is_some_and(is_end), "{whole:?}");
    let split = read(&pieces(&bytes));
    let alike = whole.len() == split.len() && whole.iter().zip(&split).all(|(a, b)| same(a, b));
    assert!(alike, "whole {whole:?}\nin pieces {split:?}");
});

fn answer(data: &[u8]) -> Vec<u8> {
    if data.starts_with(b"HTTP/") {
        return data.to_vec();
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
    let length = format!("Content-Length: {}\r\n\r\n", data.len());
    if data.len() % 2 == 0 {
        return [head.as_bytes(), b"\r\n", data].concat();
    }
    [head.as_bytes(), length.as_bytes(), data].concat()
}

/// Five pieces, some of them empty.
fn pieces(bytes: &[u8]) -> Vec<&[u8]> {
    // FNV-1a.
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix);
    let mut cuts: Vec<usize> = (0..4)
        .map(|cut| (hash >> (16 * cut)) as usize % (bytes.len() + 1))
        .collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|at| &bytes[at[0]..at[1]]).collect()
}

fn read(reads: &[&[u8]]) -> Vec<Event> {
    let (mut reader, mut events) = (AnswerReader::default(), Vec::new());
    for (at, bytes) in (1..).zip(reads) {
        if reader.read(Nanos(at), bytes, &mut events) != Connection::Read {
            break;
        }
    }
    reader.close(Nanos(u64::MAX), None, &mut events);
    events
}

fn is_end(event: &Event) -> bool {
    matches!(
        event.kind,
        EventKind::Finished { .. } | EventKind::Failed(_)
    )
}

/// The same, but for instants and for which content shared a read.
fn same(a: &Event, b: &Event) -> bool {
    match (&a.kind, &b.kind) {
        (EventKind::Text { text: a, .. }, EventKind::Text { text: b, .. }) => a == b,
        (a, b) => a == b,
    }
}
