//! Server-sent events, read incrementally.
//!
//! Invariant: the events found do not depend on how the bytes were split into reads
//! (property-tested). Lines may end in LF, CRLF or CR; comments and unknown fields are skipped; a
//! space after the colon is optional; several `data` lines make one event, joined by LF. An event
//! that is not closed by a blank line is not an event, as the specification (WHATWG HTML §9.2.6)
//! says. It does not look into the data.

use memchr::{memchr_iter, memchr2};

/// The reader's state between reads.
#[derive(Debug, Default)]
pub(super) struct SseReader {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was CR: an LF that follows belongs to it.
    after_cr: bool,
    /// Anything at all was read; a byte order mark may only come first.
    started: bool,
}

const BYTE_ORDER_MARK: &[u8] = &[0xEF, 0xBB, 0xBF];

impl SseReader {
    /// Takes the bytes of one read and calls `event` with the data of each event completed by them.
    pub(super) fn read(&mut self, mut bytes: &[u8], mut event: impl FnMut(&[u8])) {
        if let [first, rest @ ..] = bytes
            && std::mem::take(&mut self.after_cr)
            && *first == b'\n'
        {
            bytes = rest;
        }
        while let Some(end) = memchr2(b'\n', b'\r', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            // Most events are one line that came with the blank line after it; they are not copied.
            if let Some(value) = data_value(line).filter(|_| self.is_between_events())
                && let Some(rest) = end_of_event(&bytes[end..])
            {
                event(value);
                bytes = rest;
                continue;
            }
            if self.line.is_empty() {
                self.end_line(line, &mut event);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.end_line(&whole, &mut event);
                whole.clear();
                self.line = whole;
            }
            let is_cr = bytes[end] == b'\r';
            bytes = match rest {
                [b'\n', rest @ ..] if is_cr => rest,
                rest => rest,
            };
            self.after_cr = is_cr && rest.is_empty();
        }
        self.line.extend_from_slice(bytes);
    }

    /// Bytes of an event that was begun and not closed.
    pub(super) fn pending(&self) -> usize {
        self.line.len() + self.data.len()
    }

    fn is_between_events(&self) -> bool {
        self.started && self.line.is_empty() && !self.has_data
    }

    fn end_line(&mut self, mut line: &[u8], event: &mut impl FnMut(&[u8])) {
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        if line.is_empty() {
            if std::mem::take(&mut self.has_data) {
                event(&self.data);
            }
            self.data.clear();
            return;
        }
        if let Some(value) = data_value(line) {
            if std::mem::replace(&mut self.has_data, true) {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
        }
    }
}

/// What comes after an event whose last line ends here.
fn end_of_event(bytes: &[u8]) -> Option<&[u8]> {
    let after = bytes.strip_prefix(b"\n\n");
    after.or_else(|| bytes.strip_prefix(b"\r\n\r\n"))
}

fn data_value(line: &[u8]) -> Option<&[u8]> {
    match line.strip_prefix(b"data")? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// Where events in these bytes end, but for the last: each with the line ends after it, which may
/// be those of a chunk. The head of an answer belongs to what follows. A guess, since it takes no
/// notice of what came before the bytes.
pub(super) fn ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let is_line_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let end = move |from: usize| {
        let mut lines = memchr_iter(b'\n', &bytes[from..]).map(|end| from + end);
        let blank = lines.find(|&end| bytes.get(end + 1).is_some_and(is_line_end))?;
        let after = bytes[blank..].iter().position(|byte| !is_line_end(byte))?;
        Some(blank + after)
    };
    let body = if bytes.starts_with(b"HTTP/") {
        end(0)
    } else {
        Some(0)
    };
    std::iter::successors(body.and_then(end), move |&before| end(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(reads: &[&[u8]]) -> Vec<String> {
        let (mut reader, mut found) = (SseReader::default(), Vec::new());
        for bytes in reads {
            reader.read(bytes, |data| {
                found.push(String::from_utf8_lossy(data).into_owned());
            });
        }
        found
    }

    #[test]
    fn reads_what_the_specification_allows() {
        let cases: [(&str, &[&str]); 10] = [
            ("data: a\n\ndata: b\n\n", &["a", "b"]),
            ("data:a\r\n\r\ndata:  b\r\n\r\n", &["a", " b"]),
            ("data: a\rdata: b\r\r", &["a\nb"]),
            (": comment\n\ndata: a\n\n", &["a"]),
            ("event: x\nid: 3\nretry: 5\ndata: a\n\n", &["a"]),
            ("data\n\n", &[""]),
            ("data: a\n", &[]),
            ("\u{FEFF}data: a\n\n", &["a"]),
            ("datax: a\n\n", &[]),
            ("\n\n\ndata: 汉字\n\n", &["汉字"]),
        ];
        for (stream, expected) in cases {
            assert_eq!(events(&[stream.as_bytes()]), expected, "{stream:?}");
        }
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_events(
            parts in prop::collection::vec("(data: ?)?[a-z汉🦀:{}\" ]{0,6}(\n|\r\n|\r)", 0..30),
            cuts in prop::collection::vec(0..400_usize, 0..20),
        ) {
            let stream = parts.concat();
            let bytes = stream.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let reads: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(events(&reads), events(&[bytes]));
        }
    }

    #[test]
    fn events_end_before_others_begin() {
        for (bytes, expected) in [
            ("", &[][..]),
            ("data: 1\n", &[]),
            ("data: 1\n\n", &[]),
            ("9\r\ndata: 1\n\n\r\n", &[]),
            ("data: 1\n\ndata: 2\n\n", &[9]),
            ("data: 1\n\ndata: 2\n\ndata: 3\n\n", &[9, 18]),
            ("data: 1\r\n\r\ndata: 2\r\n\r\n", &[11]),
            ("9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n", &[14]),
            ("a: 1\n\n\r\n9\r\ndata: 2", &[8]),
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\ndata: 1\n\n", &[]),
            ("HTTP/1.1 200 OK\r\n\r\ndata: 1\n\nd", &[28]),
            ("HTTP/1.1 200 OK\r\n", &[]),
        ] {
            assert!(
                ends(bytes.as_bytes()).eq(expected.iter().copied()),
                "{bytes:?}"
            );
        }
    }
}
