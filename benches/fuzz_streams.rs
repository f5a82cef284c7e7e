//! Damaged streams, many of them: the reader of answers must end each exactly once, the same at any
//! split, and never panic.
//!
//! ```sh
//! cargo bench -p benches --bench fuzz_streams -- --executions 10000000
//! ```
//!
//! Every execution takes a stream of `backends/corpus`, frames it, damages it in ways drawn from
//! (seed, number of the execution), and reads it whole and in pieces. What is found is printed with
//! its number, so that `--seed S --only N` repeats it. Without `--bench` (as in `cargo test`) some
//! thousands are run.

use std::path::Path;

use anyhow::{Result, ensure};
use backends::http::{AnswerReader, Connection};
use backends::{Event, EventKind, Nanos};
use clap::Parser;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[derive(Debug, Parser)]
struct Options {
    /// How many
    #[arg(long, default_value_t = 10_000_000)]
    executions: u64,
    /// All damage comes from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// This execution alone
    #[arg(long)]
    only: Option<u64>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let corpus = corpus()?;
    let executions = if options.bench {
        options.executions
    } else {
        3000
    };
    let range = match options.only {
        Some(number) => number..number + 1,
        None => 0..executions,
    };
    let mut finished = 0_u64;
    for number in range.clone() {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        rng.set_stream(number);
        finished += u64::from(execute(&corpus, &mut rng, number)?);
        if number % 1_000_000 == 999_999 {
            print(&format!("{} executions", number + 1));
        }
    }
    let count = range.end - range.start;
    print(&format!(
        "{count} executions, {finished} of them read to a proper end, none against the rules"
    ));
    Ok(())
}

fn corpus() -> Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../backends/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    let streams: Vec<Vec<u8>> = paths.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    ensure!(
        streams.len() >= 10,
        "the corpus has {} streams",
        streams.len()
    );
    Ok(streams)
}

/// True when the damage left a proper end.
fn execute(corpus: &[Vec<u8>], rng: &mut ChaCha8Rng, number: u64) -> Result<bool> {
    let body = &corpus[rng.random_range(0..corpus.len())];
    let mut bytes = frame(body, rng);
    for _ in 0..rng.random_range(0..4) {
        damage(&mut bytes, corpus, rng);
    }
    let whole = read(&[&bytes]);
    let ends = whole.iter().filter(|event| is_end(event)).count();
    let last_is_end = whole.last().is_some_and(is_end);
    ensure!(
        ends == 1 && last_is_end,
        "execution {number}: {ends} ends in {whole:?}"
    );
    let mut cuts: Vec<usize> = (0..rng.random_range(1..6))
        .map(|_| rng.random_range(0..=bytes.len()))
        .collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let pieces: Vec<&[u8]> = cuts.windows(2).map(|at| &bytes[at[0]..at[1]]).collect();
    let split = read(&pieces);
    let alike = whole.len() == split.len() && whole.iter().zip(&split).all(|(a, b)| same(a, b));
    ensure!(
        alike,
        "execution {number}: whole {whole:?}\nin pieces {split:?}"
    );
    let finished = |event: &Event| matches!(event.kind, EventKind::Finished { .. });
    Ok(whole.last().is_some_and(finished))
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

fn frame(body: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
    match rng.random_range(0..3) {
        0 => [head.as_bytes(), b"\r\n", body].concat(),
        1 => {
            let length = format!("Content-Length: {}\r\n\r\n", body.len());
            [head.as_bytes(), length.as_bytes(), body].concat()
        }
        _ => {
            let mut out = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
            for chunk in body.chunks(rng.random_range(1..400)) {
                out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n\r\n");
            out
        }
    }
}

/// Pieces that mean something to one of the readers.
const TOKENS: [&[u8]; 14] = [
    b"\r\n",
    b"\n\n",
    b"\r",
    b"data:",
    b"data: [DONE]\n\n",
    b":",
    b"0\r\n\r\n",
    b"\xEF\xBB\xBF",
    b"\xE4\xBD",
    b"\"}]}",
    b"{\"error\":{\"message\":\"x\"}}",
    b"{\"choices\":[]}",
    b"ffffffffffffffff\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
];

fn damage(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    let at = rng.random_range(0..=bytes.len());
    let until = (at + rng.random_range(1..64)).min(bytes.len());
    match rng.random_range(0..7) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..until)),
        2 => {
            let again = bytes[at..until].to_vec();
            bytes.splice(at..at, again);
        }
        3 => {
            let token = TOKENS[rng.random_range(0..TOKENS.len())];
            bytes.splice(at..at, token.iter().copied());
        }
        4 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
        5 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = rng.random();
            }
        }
        _ => {
            let other = &corpus[rng.random_range(0..corpus.len())];
            let from = rng.random_range(0..other.len());
            let to = (from + rng.random_range(1..200)).min(other.len());
            bytes.splice(at..until, other[from..to].iter().copied());
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "what was found is what this program is for"
)]
fn print(text: &str) {
    println!("{text}");
}
