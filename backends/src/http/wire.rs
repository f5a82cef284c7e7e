//! HTTP/1.1 answers, read incrementally.
//!
//! Invariant: what is found does not depend on how the bytes were split into reads
//! (property-tested with the streams in `answer_tests.rs`). Bodies end by length, by chunked coding
//! or by the end of the connection. A head is limited to 64 KiB. It does not look into the body,
//! and decodes no compression: none is asked for.

use httparse::Status;
use memchr::memchr;

/// Longest head, and longest line of chunked coding.
const HEAD_LIMIT: usize = 64 << 10;
const LINE_LIMIT: usize = 4 << 10;
const MOST_HEADERS: usize = 96;

/// What has come of an answer so far.
#[derive(Debug)]
pub(super) struct WireReader {
    state: State,
    head: Vec<u8>,
    /// The connection can be used again after this answer.
    keep_alive: bool,
}

#[derive(Debug)]
enum State {
    Head,
    /// So many bytes of body are left.
    Length(u64),
    Chunked(Chunked),
    /// The body ends with the connection.
    ToClose,
    Over,
}

#[derive(Debug)]
enum Chunked {
    /// In the line of a chunk's length.
    Size {
        value: u64,
        digits: u8,
        /// The digits are over; an extension is skipped.
        extension: bool,
        length: usize,
    },
    /// So many bytes of the chunk are left.
    Data(u64),
    /// The line end after a chunk.
    DataEnd,
    /// After the last chunk; `length` of the present line.
    Trailer { length: usize },
}

const NEXT_CHUNK: Chunked = Chunked::Size {
    value: 0,
    digits: 0,
    extension: false,
    length: 0,
};

/// A part of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Status and headers.
    Head(Head),
    /// Bytes of the body.
    Body(&'a [u8]),
    /// The answer is whole.
    End,
}

/// Status and the headers that matter.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) content_type: Option<String>,
    pub(super) server: Option<String>,
}

/// The bytes are not an HTTP/1.1 answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an HTTP/1.1 answer: {0}")]
pub(super) struct WireError(String);

fn wrong<T>(what: impl Into<String>) -> Result<T, WireError> {
    Err(WireError(what.into()))
}

impl Default for WireReader {
    fn default() -> Self {
        Self {
            state: State::Head,
            head: Vec::new(),
            keep_alive: false,
        }
    }
}

impl WireReader {
    /// Takes the bytes of one read and calls `part` with what they complete.
    pub(super) fn read(
        &mut self,
        mut bytes: &[u8],
        mut part: impl FnMut(Part<'_>),
    ) -> Result<(), WireError> {
        while !bytes.is_empty() {
            bytes = match &mut self.state {
                State::Head => self.read_head(bytes, &mut part)?,
                State::Length(left) => {
                    let (now, rest) = split(bytes, *left);
                    *left -= now.len() as u64;
                    let over = *left == 0;
                    part(Part::Body(now));
                    if over {
                        self.end(&mut part);
                    }
                    rest
                }
                State::Chunked(chunked) => {
                    let (rest, over) = chunked.read(bytes, &mut part)?;
                    if over {
                        self.end(&mut part);
                    }
                    rest
                }
                State::ToClose => {
                    part(Part::Body(bytes));
                    &[]
                }
                State::Over => {
                    self.keep_alive = false;
                    &[]
                }
            };
        }
        Ok(())
    }

    /// The connection has ended: true when that is a proper end of the answer.
    pub(super) fn close(&mut self) -> bool {
        if matches!(self.state, State::ToClose) {
            self.state = State::Over;
        }
        matches!(self.state, State::Over)
    }

    /// Not a byte of an answer has come.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.state, State::Head) && self.head.is_empty()
    }

    /// The answer is whole, and the connection may carry another.
    pub(super) fn is_reusable(&self) -> bool {
        matches!(self.state, State::Over) && self.keep_alive
    }

    fn end(&mut self, part: &mut impl FnMut(Part<'_>)) {
        self.state = State::Over;
        part(Part::End);
    }

    fn read_head<'a>(
        &mut self,
        bytes: &'a [u8],
        part: &mut impl FnMut(Part<'_>),
    ) -> Result<&'a [u8], WireError> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some(end) = head_end(&self.head, before) else {
            if self.head.len() > HEAD_LIMIT {
                return wrong(format!("its head is longer than {HEAD_LIMIT} bytes"));
            }
            return Ok(&[]);
        };
        let head = std::mem::take(&mut self.head);
        let rest = &bytes[end - before..];
        let parsed = parse_head(&head[..end])?;
        if (100..200).contains(&parsed.head.status) {
            if parsed.head.status == 101 {
                return wrong("it changes to another protocol");
            }
            return Ok(rest);
        }
        self.state = parsed.body;
        self.keep_alive = parsed.keep_alive;
        part(Part::Head(parsed.head));
        if matches!(self.state, State::Length(0)) {
            self.end(part);
        }
        Ok(rest)
    }
}

impl Chunked {
    /// The bytes that are left, and whether the body is over.
    fn read<'a>(
        &mut self,
        bytes: &'a [u8],
        part: &mut impl FnMut(Part<'_>),
    ) -> Result<(&'a [u8], bool), WireError> {
        if let Self::Data(left) = self {
            let (now, rest) = split(bytes, *left);
            *left -= now.len() as u64;
            if *left == 0 {
                *self = Self::DataEnd;
            }
            part(Part::Body(now));
            return Ok((rest, false));
        }
        let (byte, rest) = (bytes[0], &bytes[1..]);
        let over = match self {
            Self::Size {
                value,
                digits,
                extension,
                length,
            } => {
                *length += 1;
                if *length > LINE_LIMIT {
                    return wrong("the line of a chunk's length is too long");
                }
                match (byte, char::from(byte).to_digit(16)) {
                    (b'\n', _) if *digits > 0 => {
                        *self = match *value {
                            0 => Self::Trailer { length: 0 },
                            size => Self::Data(size),
                        };
                    }
                    (_, Some(digit)) if !*extension && *digits < 16 => {
                        *value = *value << 4 | u64::from(digit);
                        *digits += 1;
                    }
                    (b';' | b' ' | b'\t' | b'\r', _) if *digits > 0 => *extension = true,
                    _ if *extension => {}
                    _ => return wrong("the length of a chunk is not a number"),
                }
                false
            }
            Self::DataEnd => match byte {
                b'\r' => false,
                b'\n' => {
                    *self = NEXT_CHUNK;
                    false
                }
                _ => return wrong("a chunk is longer than it says"),
            },
            Self::Trailer { length } => match byte {
                b'\r' => false,
                b'\n' => std::mem::take(length) == 0,
                _ if *length > LINE_LIMIT => return wrong("a trailer is too long"),
                _ => {
                    *length += 1;
                    false
                }
            },
            Self::Data(_) => unreachable!("handled above"),
        };
        Ok((rest, over))
    }
}

/// The first `most` bytes, and the rest.
fn split(bytes: &[u8], most: u64) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(most).map_or(bytes.len(), |most| most.min(bytes.len())))
}

/// Where the head ends: after an empty line, looked for from `from` on.
fn head_end(head: &[u8], from: usize) -> Option<usize> {
    let mut at = from.saturating_sub(3);
    while let Some(found) = memchr(b'\n', &head[at..]) {
        at += found + 1;
        match &head[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

struct ParsedHead {
    head: Head,
    body: State,
    keep_alive: bool,
}

fn parse_head(bytes: &[u8]) -> Result<ParsedHead, WireError> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return wrong("its head is cut off"),
        Err(error) => return wrong(error.to_string()),
    }
    let status = response.code.unwrap_or_default();
    let find = |name: &str| {
        let mut found = response.headers.iter();
        found
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let says = |name: &str, word: &str| {
        find(name).is_some_and(|value| value.to_ascii_lowercase().contains(word))
    };
    if let Some(coding) = find("content-encoding").filter(|coding| coding != "identity") {
        return wrong(format!(
            "it is encoded as `{coding}`, which was not asked for"
        ));
    }
    let body = if matches!(status, 100..200 | 204 | 304) {
        State::Length(0)
    } else if says("transfer-encoding", "chunked") {
        State::Chunked(NEXT_CHUNK)
    } else if let Some(length) = find("content-length") {
        match length.trim().parse() {
            Ok(length) => State::Length(length),
            Err(_) => return wrong(format!("its content length is `{length}`")),
        }
    } else {
        State::ToClose
    };
    let keep_alive = response.version == Some(1)
        && !says("connection", "close")
        && !matches!(body, State::ToClose);
    Ok(ParsedHead {
        head: Head {
            status,
            reason: response.reason.unwrap_or_default().to_owned(),
            content_type: find("content-type"),
            server: find("server"),
        },
        body,
        keep_alive,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Body, whether it ended, whether the connection can go on.
    fn read(reads: &[&[u8]]) -> Result<(Option<u16>, String, bool, bool), WireError> {
        let mut reader = WireReader::default();
        let (mut status, mut body, mut ended) = (None, Vec::new(), false);
        for bytes in reads {
            reader.read(bytes, |part| match part {
                Part::Head(head) => status = Some(head.status),
                Part::Body(bytes) => body.extend_from_slice(bytes),
                Part::End => ended = true,
            })?;
        }
        let text = String::from_utf8(body).expect("the cases are text");
        Ok((status, text, ended, reader.is_reusable()))
    }

    const ANSWERS: [(&str, &str, bool, bool); 9] = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            "abc",
            true,
            true,
        ),
        (
            "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
            "abc",
            true,
            true,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nabc", "abc", false, false),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n",
            "abc0123456789abcdef",
            true,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n00A \r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n",
            "0123456789",
            true,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na",
            "a",
            true,
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
            "a",
            true,
            false,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "",
            true,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
            "a",
            true,
            false,
        ),
    ];

    #[test]
    fn bodies_end_where_they_should_however_the_bytes_are_split() {
        for (bytes, body, ended, reusable) in ANSWERS {
            let expected = Ok((Some(200), body.to_owned(), ended, reusable));
            let bytes = bytes.as_bytes();
            for cut in 0..=bytes.len() {
                assert_eq!(
                    read(&[&bytes[..cut], &bytes[cut..]]),
                    expected,
                    "{cut} of {}",
                    String::from_utf8_lossy(bytes)
                );
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single), expected);
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(HEAD_LIMIT));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (bytes, part) in [
            ("SSH-2.0-OpenSSH_9\r\n\r\n".to_owned(), "not an HTTP"),
            (endless, "longer than"),
            (format!("{chunked}xyz\r\n"), "not a number"),
            (format!("{chunked}\r\n"), "not a number"),
            (format!("{chunked}1\r\nab"), "longer than it says"),
            (format!("{chunked}11111111111111111\r\n"), "not a number"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_owned(),
                "`-1`",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n".to_owned(),
                "`gzip`",
            ),
            (
                "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned(),
                "protocol",
            ),
        ] {
            let error = read(&[bytes.as_bytes()]).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_end_of_the_connection_is_proper_only_where_the_body_says_so() {
        for (bytes, proper) in [
            ("", false),
            ("HTTP/1.1 200 OK\r\n", false),
            ("HTTP/1.1 200 OK\r\n\r\nabc", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", true),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
                false,
            ),
        ] {
            let mut reader = WireReader::default();
            reader.read(bytes.as_bytes(), |_| {}).expect(bytes);
            assert_eq!(reader.close(), proper, "{bytes:?}");
        }
    }
}
