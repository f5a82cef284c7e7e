//! How the tests call the binary and read what it wrote.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Output;

use reports::{Report, RequestRecord};
use tempfile::TempDir;

/// The binary, in a folder of its own, away from the caller's environment.
pub(crate) struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("writable");
        path
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("weighbridge"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("OPENAI_API_KEY")
            .env("NO_COLOR", "1");
        command
    }

    /// The same, from one line of words.
    pub(crate) fn run_line(&self, line: &str) -> Ran {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// The same in an environment with more in it.
    pub(crate) fn run_in(
        &self,
        arguments: &[&str],
        environment: &BTreeMap<String, OsString>,
    ) -> Ran {
        let mut command = self.command(arguments);
        let output = command.envs(environment).output().expect("the binary runs");
        Ran::new(&output)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().expect("the binary runs");
        Ran::new(&output)
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it speaks UTF-8");
        let ran = Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        };
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        ran
    }

    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, part: &str) -> Self {
        assert!(self.err.contains(part), "no `{part}` in:\n{}", self.err);
        self
    }
}

pub(crate) fn report(folder: &Path) -> Report {
    let text = std::fs::read_to_string(folder.join("report.json")).expect("it was written");
    serde_json::from_str(&text).expect("it is a report")
}

pub(crate) fn records(folder: &Path) -> Vec<RequestRecord> {
    let text = std::fs::read_to_string(folder.join("requests.jsonl")).expect("it was written");
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let read = |line: &str| serde_json::from_str(line).expect("a record on each line");
    whole.lines().map(read).collect()
}
