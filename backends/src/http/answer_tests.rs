//! Streams of servers and what else the grammar allows, read at every split of their bytes.

use proptest::prelude::*;

use super::*;

/// Bodies as servers write them (`corpus/`), each with an answer of ten tokens in five chunks.
const STREAMS: [(&str, &[u8]); 11] = [
    ("vllm", include_bytes!("../../corpus/vllm.sse")),
    (
        "vllm-reasoning",
        include_bytes!("../../corpus/vllm-reasoning.sse"),
    ),
    ("sglang", include_bytes!("../../corpus/sglang.sse")),
    ("mindie", include_bytes!("../../corpus/mindie.sse")),
    ("lmdeploy", include_bytes!("../../corpus/lmdeploy.sse")),
    ("xllm", include_bytes!("../../corpus/xllm.sse")),
    ("llama-cpp", include_bytes!("../../corpus/llama-cpp.sse")),
    (
        "llama-cpp-python",
        include_bytes!("../../corpus/llama-cpp-python.sse"),
    ),
    (
        "tensorrt-llm",
        include_bytes!("../../corpus/tensorrt-llm.sse"),
    ),
    ("tgi", include_bytes!("../../corpus/tgi.sse")),
    ("oddities", include_bytes!("../../corpus/oddities.sse")),
];

/// How a body may be framed: by length, by chunks, by the end of the connection.
fn framed(body: &[u8]) -> [Vec<u8>; 3] {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n";
    let length = format!("{head}Content-Length: {}\r\n\r\n", body.len());
    let mut chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    // Chunks that end anywhere, also within a character.
    for chunk in body.chunks(97) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    [
        [length.as_bytes(), body].concat(),
        chunked,
        [head.as_bytes(), b"\r\n", body].concat(),
    ]
}

/// All events, without instants and without what depends on the split.
fn events_of(reads: &[&[u8]]) -> Vec<EventKind> {
    let (mut reader, mut events) = (AnswerReader::default(), Vec::new());
    for (at, bytes) in (1..).zip(reads) {
        if reader.read(Nanos(at), bytes, &mut events) != Connection::Read {
            break;
        }
    }
    reader.close(Nanos(reads.len() as u64 + 1), None, &mut events);
    assert!(events.is_sorted_by_key(|event| event.at));
    let plain = |event: Event| match event.kind {
        EventKind::Text { text, .. } => EventKind::Text {
            text,
            coalesced: false,
        },
        kind => kind,
    };
    events.into_iter().map(plain).collect()
}

/// What is said: events without output are left out.
fn said(reads: &[&[u8]]) -> Vec<EventKind> {
    let mut events = events_of(reads);
    events.retain(|kind| !matches!(kind, EventKind::Bare | EventKind::UsageOnly));
    events
}

fn expected(name: &str) -> Vec<EventKind> {
    let texts = if name == "tensorrt-llm" {
        ["uptime", "{\"day\"", ":\"22\",", "\"at\":8", ",\"z\":0"]
    } else {
        ["你好", "，今", "天天", "气很", "好。"]
    };
    let text = |text: &str| EventKind::Text {
        text: text.into(),
        coalesced: false,
    };
    let reason = match name {
        "tensorrt-llm" => FinishReason::Other,
        "vllm-reasoning" | "oddities" => FinishReason::Stop,
        _ => FinishReason::Length,
    };
    let usage = Usage {
        input_tokens: 31,
        cached_tokens: (name == "vllm").then_some(16),
        output_tokens: 10,
    };
    let end = EventKind::Finished {
        reason,
        usage: Some(usage),
    };
    texts.into_iter().map(text).chain([end]).collect()
}

#[test]
fn every_stream_says_the_same_at_every_split() {
    for (name, body) in STREAMS {
        for bytes in framed(body) {
            for cut in 0..=bytes.len() {
                let found = said(&[&bytes[..cut], &bytes[cut..]]);
                assert_eq!(found, expected(name), "{name} cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(said(&single), expected(name), "{name} byte by byte");
        }
    }
}

#[test]
fn a_stream_cut_short_is_never_whole() {
    for (name, body) in STREAMS {
        let [by_length, chunked, to_close] = framed(body);
        for bytes in [by_length, chunked] {
            for end in 0..bytes.len() {
                let found = said(&[&bytes[..end]]);
                let (last, before) = found.split_last().expect("there is always an end");
                let over = matches!(last, EventKind::Finished { .. });
                let reset = matches!(last, EventKind::Failed(f) if f.cause == FailureCause::Reset);
                let seen_done = bytes[..end].windows(6).any(|six| six == b"[DONE]");
                assert!(reset || (over && seen_done), "{name} at {end}: {last:?}");
                assert!(expected(name).starts_with(before), "{name} at {end}");
            }
        }
        for end in 0..to_close.len() {
            let found = said(&[&to_close[..end]]);
            let last = found.last().expect("there is always an end");
            let fine = match last {
                EventKind::Finished { .. } => true,
                EventKind::Failed(failure) => {
                    let proper = [FailureCause::Truncated, FailureCause::Reset];
                    proper.contains(&failure.cause)
                }
                _ => false,
            };
            assert!(fine, "{name} at {end}: {last:?}");
        }
    }
}

proptest! {
    #[test]
    fn any_splits_give_the_same(
        stream in 0..STREAMS.len(),
        framing in 0..3_usize,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let (name, body) = STREAMS[stream];
        let bytes = &framed(body)[framing];
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let reads: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(said(&reads), expected(name));
        prop_assert_eq!(events_of(&reads), events_of(&[bytes]));
    }

    #[test]
    fn damaged_streams_end_once_and_alike_at_any_split(
        stream in 0..STREAMS.len(),
        framing in 0..3_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = framed(STREAMS[stream].1)[framing].clone();
        for (place, byte) in damage {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = events_of(&[&bytes]);
        let is_end = |kind: &EventKind| {
            matches!(kind, EventKind::Finished { .. } | EventKind::Failed(_))
        };
        prop_assert_eq!(whole.iter().filter(|kind| is_end(kind)).count(), 1);
        prop_assert!(whole.last().is_some_and(is_end));
        let cut = cut.index(bytes.len() + 1);
        prop_assert_eq!(events_of(&[&bytes[..cut], &bytes[cut..]]), whole);
    }
}

#[test]
fn coalesced_content_is_marked() {
    let [bytes, ..] = framed(STREAMS[0].1);
    let (mut reader, mut events) = (AnswerReader::default(), Vec::new());
    let then = reader.read(Nanos(5), &bytes, &mut events);
    assert_eq!(then, Connection::Keep);
    let marks: Vec<bool> = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Text { coalesced, .. } => Some(coalesced),
            _ => None,
        })
        .collect();
    assert_eq!(marks, [false, true, true, true, true]);
}

#[test]
fn events_without_output_are_told_apart() {
    let count = |name: &str| {
        let (_, body) = STREAMS
            .iter()
            .find(|(known, _)| *known == name)
            .expect("there");
        let events = events_of(&[&framed(body)[0]]);
        let of = |kind| events.iter().filter(|event| **event == kind).count();
        (of(EventKind::Bare), of(EventKind::UsageOnly))
    };
    // A role and a finish reason of their own, then usage; usage with the last choice.
    assert_eq!(count("vllm"), (2, 1));
    assert_eq!(count("mindie"), (1, 0));
}

#[test]
fn refusals_keep_their_words() {
    let refusal = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 9\r\n\r\nslow down";
    for cut in 0..=refusal.len() {
        let (first, second) = refusal.as_bytes().split_at(cut);
        let found = said(&[first, second]);
        let failure = Failure::new(
            FailureCause::HttpStatus(429),
            "429 Too Many Requests: slow down",
        );
        assert_eq!(found, [EventKind::Failed(failure)]);
    }
}
