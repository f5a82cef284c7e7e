//! A running `weighbridge serve`, and a client that sees what it sends, byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::command::Sandbox;

/// A server that ends with its value.
pub(crate) struct Serving {
    child: Child,
    /// Kept, so that the server can still write to it.
    _out: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
    _sandbox: Sandbox,
}

impl Serving {
    /// Starts `weighbridge serve` with these flags, on a free port.
    pub(crate) fn start(flags: &str) -> Self {
        let sandbox = Sandbox::new();
        let line = format!("serve --listen 127.0.0.1:0 {flags}");
        let mut child = sandbox
            .command(&line.split_whitespace().collect::<Vec<_>>())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("it says where it listens");
        let address = line.trim().rsplit_once("http://").map(|(_, rest)| rest);
        let address = address.and_then(|rest| rest.strip_suffix("/v1"));
        let address = address.unwrap_or_else(|| panic!("no address in `{line}`"));
        Self {
            child,
            _out: out,
            address: address.parse().expect("an address"),
            _sandbox: sandbox,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &body.to_string())
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> Reply {
        self.begin(method, path, body).finish()
    }

    /// Sends a request; the answer can be read bit by bit.
    pub(crate) fn begin(&self, method: &str, path: &str, body: &str) -> Incoming {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        let patience = Some(Duration::from_mins(2));
        stream.set_read_timeout(patience).expect("it can be set");
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        let sent = write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}");
        drop(sent);
        Incoming {
            stream: BufReader::new(stream),
            seen: Vec::new(),
        }
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.get("/metrics").metric(name)
    }

    /// Whether it takes requests. One that stops may close a connection on which it has read no
    /// request yet, without an answer.
    pub(crate) fn is_healthy(&self) -> bool {
        let mut incoming = self.begin("GET", "/health", "");
        let answered = incoming.stream.read_to_end(&mut incoming.seen);
        answered.is_ok() && incoming.seen.starts_with(b"HTTP/1.1 200")
    }

    /// Waits until a metric has the value.
    pub(crate) fn wait_for(&self, name: &str, wanted: f64) {
        while (self.metric(name) - wanted).abs() > 1e-9 {
            std::thread::yield_now();
        }
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill")
            .args([name, &self.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("it ends")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An answer on its way.
pub(crate) struct Incoming {
    stream: BufReader<TcpStream>,
    seen: Vec<u8>,
}

impl Incoming {
    /// Reads lines until one contains `part`; false when the answer ends before.
    pub(crate) fn read_until(&mut self, part: &str) -> bool {
        loop {
            let start = self.seen.len();
            if self.stream.read_until(b'\n', &mut self.seen).unwrap_or(0) == 0 {
                return false;
            }
            if String::from_utf8_lossy(&self.seen[start..]).contains(part) {
                return true;
            }
        }
    }

    /// The whole answer.
    pub(crate) fn finish(mut self) -> Reply {
        let complete = self.stream.read_to_end(&mut self.seen).is_ok();
        Reply::read(&self.seen, complete)
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    /// It came to its proper end.
    pub(crate) complete: bool,
}

impl Reply {
    pub(crate) fn read(bytes: &[u8], complete: bool) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = end else {
            panic!("no answer: {:?}", String::from_utf8_lossy(bytes))
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let rest = &bytes[end + 4..];
        let (body, whole) = if head.contains("transfer-encoding: chunked") {
            unchunk(rest)
        } else {
            (rest.to_vec(), true)
        };
        Self {
            status: head[9..12].parse().expect("a status"),
            head,
            body: String::from_utf8(body).expect("it speaks UTF-8"),
            complete: complete && whole,
        }
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    #[track_caller]
    pub(crate) fn has(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// The events of a stream, up to and without `[DONE]`.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.body.strip_suffix("data: [DONE]\n\n");
        let text = text.unwrap_or_else(|| panic!("no end: {}", self.body));
        let event = |event: &str| {
            let data = event.strip_prefix("data: ").expect("an event");
            serde_json::from_str(data).expect("JSON in each event")
        };
        text.split_terminator("\n\n").map(event).collect()
    }

    /// Text of the first choice, streamed or not.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        if self.body.starts_with("data: ") {
            self.events().iter().map(choice_text).collect()
        } else {
            choice_text(&self.json())
        }
    }

    /// A figure of `/metrics`, the labels that all have left out.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let plain = |line: &str| {
            let (labels, value) = line.rsplit_once(' ')?;
            let labels = labels.replace("engine=\"0\",", "");
            let (name, labels) = labels.split_once('{')?;
            let own = labels.split_once(',').map_or("}", |(_, own)| own);
            let name = match own {
                "}" => name.to_owned(),
                own => format!("{name}{{{own}"),
            };
            Some((name, value.parse().ok()?))
        };
        let found = self.body.lines().filter_map(plain);
        found
            .filter(|(found, _)| found == name)
            .map(|(_, value)| value)
            .next()
            .unwrap_or(0.0)
    }
}

fn choice_text(value: &Value) -> String {
    let choice = &value["choices"][0];
    let places = [
        &choice["delta"]["content"],
        &choice["message"]["content"],
        &choice["text"],
    ];
    places.into_iter().filter_map(Value::as_str).collect()
}

/// The body inside chunks, and whether the last one came.
fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else {
            return (body, false);
        };
        let size = std::str::from_utf8(&rest[..line]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        let start = line + 2;
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = rest.get(start..start + size) else {
            body.extend_from_slice(&rest[start..]);
            return (body, false);
        };
        body.extend_from_slice(chunk);
        rest = &rest[(start + size + 2).min(rest.len())..];
    }
}
