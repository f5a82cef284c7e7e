//! One command line, run once, as a process of its own.
//!
//! Invariant: the output goes to files, so nothing of ours runs beside the command; a command that
//! is given up takes its children with it (on Unix). What it does not do: a shell's work; whoever
//! wants pipes writes `sh -c '…'`.

use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use backends::clock::monotonic_now_ns;
use backends::{Clock, Nanos};
use reports::Report;
use reports::schema::SCHEMA_VERSION;
use reports::validity::Verdict;
use serde_json::Value;

use super::metric::Given;
use crate::versioned;

/// Stands for the folder of a run.
const OUT: &str = "{out}";
/// Most of a command's output that is read.
const MOST_BYTES: u64 = 64 << 20;
/// What is shown of a failed command's last words.
const TAIL_CHARS: usize = 600;

/// A command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// As it was given.
    pub text: String,
    words: Vec<String>,
    gives: Gives,
}

/// Where the figures of a command are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gives {
    Folder,
    Output,
}

/// A run that came to its end.
#[derive(Debug)]
pub struct Ran {
    /// Elapsed time.
    pub wall_s: f64,
    /// Its figures.
    pub given: Given,
    /// Why it does not count, if its report says INVALID.
    pub invalid: Option<String>,
}

impl Program {
    /// Splits a line as a POSIX shell would, without expanding anything.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(mut words) = shlex::split(text) else {
            bail!("`{text}` has a quote that is not closed");
        };
        if words.is_empty() {
            bail!(
                "an empty command; accepted is a command line such as `weighbridge run --seed 1`"
            );
        }
        let placed = words.iter().any(|word| word.contains(OUT));
        let is_run = is_weighbridge_run(&words);
        if is_run && !placed {
            if words
                .iter()
                .any(|word| word == "--out" || word.starts_with("--out="))
            {
                bail!(
                    "`{text}` has its own `--out`; each run needs a folder of its own\n\n\
                     hint: leave `--out` away, or write `--out {OUT}`"
                );
            }
            words.extend(["--out".to_owned(), OUT.to_owned()]);
        }
        let gives = if is_run || placed {
            Gives::Folder
        } else {
            Gives::Output
        };
        Ok(Self {
            text: text.to_owned(),
            words,
            gives,
        })
    }

    /// Does it write a result folder?
    pub fn gives_report(&self) -> bool {
        self.gives == Gives::Folder
    }

    /// Runs it. `folder` is its own, and empty.
    pub async fn run(
        &self,
        folder: &Path,
        timeout: Duration,
        wants_output: bool,
        clock: &Clock,
    ) -> Result<Ran> {
        let (status, wall_s) = self.process(folder, timeout, clock).await?;
        let report = folder.join("out").join("report.json");
        if self.gives == Gives::Folder {
            let may_be_invalid = status.code() == Some(1) && report.exists();
            if !status.success() && !may_be_invalid {
                bail!("{status}{}", last_words(folder));
            }
            let (report, value) = versioned::read::<Report>(&report, SCHEMA_VERSION)?;
            let is_invalid = report.validity.verdict == Verdict::Invalid;
            if !status.success() && !is_invalid {
                bail!("{status}, though its report is VALID{}", last_words(folder));
            }
            let invalid = is_invalid.then(|| report.validity.reasons.join("; "));
            return Ok(Ran {
                wall_s,
                given: Given::Report(Box::new(report), value),
                invalid,
            });
        }
        if !status.success() {
            bail!("{status}{}", last_words(folder));
        }
        let given = if wants_output {
            Given::Json(json_of(&read_text(&folder.join("stdout"))?)?)
        } else {
            Given::Nothing
        };
        Ok(Ran {
            wall_s,
            given,
            invalid: None,
        })
    }

    /// Starts the process and waits for it.
    async fn process(
        &self,
        folder: &Path,
        timeout: Duration,
        clock: &Clock,
    ) -> Result<(ExitStatus, f64)> {
        let out = folder.join("out").display().to_string();
        let words: Vec<String> = self
            .words
            .iter()
            .map(|word| word.replace(OUT, &out))
            .collect();
        let file = |name: &str| {
            let path = folder.join(name);
            File::create(&path).with_context(|| format!("`{}`", path.display()))
        };
        let mut command = tokio::process::Command::new(&words[0]);
        command
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(file("stdout")?)
            .stderr(file("stderr")?)
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let start_ns = monotonic_now_ns();
        let mut child = command
            .spawn()
            .with_context(|| format!("`{}` cannot be run", words[0]))?;
        let mut group = Group(child.id());
        let deadline = clock
            .now()
            .plus(Nanos::from_secs_f64(timeout.as_secs_f64()));
        let Ok(status) = clock.timeout(deadline, child.wait()).await else {
            bail!(
                "not done after {}, the `--timeout`{}",
                humantime::format_duration(timeout),
                last_words(folder)
            );
        };
        let wall_s = monotonic_now_ns().saturating_sub(start_ns) as f64 / 1e9;
        group.0 = None;
        Ok((status.context("waiting for it failed")?, wall_s))
    }
}

/// `weighbridge run …`, by whatever path.
fn is_weighbridge_run(words: &[String]) -> bool {
    let stem = words.first().and_then(|word| Path::new(word).file_stem());
    let is_ours = stem.is_some_and(|stem| stem == "weighbridge");
    is_ours && words.get(1).is_some_and(|word| word == "run")
}

/// The processes of a command that has not ended; they end with this.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Some(pid) = self
            .0
            .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
        {
            // A group that has gone by itself is no mistake.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

fn read_text(path: &Path) -> Result<String> {
    let place = || format!("`{}`", path.display());
    let length = std::fs::metadata(path).with_context(place)?.len();
    if length > MOST_BYTES {
        bail!("it wrote {length} bytes to its output; {MOST_BYTES} are read");
    }
    let bytes = std::fs::read(path).with_context(place)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The output as JSON: all of it, or its last line.
fn json_of(text: &str) -> Result<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    let last = last.context("it wrote nothing to its output; accepted is JSON")?;
    serde_json::from_str(last).map_err(|error| {
        let shown: String = last.chars().take(60).collect();
        anyhow::anyhow!(
            "its output is not JSON, nor is the last line, `{shown}`: {error}\n\n\
             hint: `--metric wall_s` compares the elapsed time of any command"
        )
    })
}

/// The end of what a command wrote to its standard error, as an appendix to a message.
fn last_words(folder: &Path) -> String {
    let text = read_text(&folder.join("stderr")).unwrap_or_default();
    let text = text.trim_end();
    if text.is_empty() {
        return "; it wrote nothing to its standard error".to_owned();
    }
    let skipped = text.chars().count().saturating_sub(TAIL_CHARS);
    let tail: String = text.chars().skip(skipped).collect();
    format!("; its last words:\n{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_split_and_given_a_folder() {
        let words = |text: &str| {
            let program = Program::parse(text).expect(text);
            (program.words.join("|"), program.gives)
        };
        for (text, expected, gives) in [
            ("sh -c 'echo \"a b\"'", "sh|-c|echo \"a b\"", Gives::Output),
            (
                "./old/weighbridge run --seed 1",
                "./old/weighbridge|run|--seed|1|--out|{out}",
                Gives::Folder,
            ),
            (
                "weighbridge run --out {out}",
                "weighbridge|run|--out|{out}",
                Gives::Folder,
            ),
            (
                "sh -c 'weighbridge run --out {out}'",
                "sh|-c|weighbridge run --out {out}",
                Gives::Folder,
            ),
            (
                "weighbridge speed --json",
                "weighbridge|speed|--json",
                Gives::Output,
            ),
        ] {
            assert_eq!(words(text), (expected.to_owned(), gives), "{text}");
        }
        for text in ["", "  ", "echo 'a", "weighbridge run --out results/x"] {
            assert!(Program::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn json_is_the_whole_output_or_its_last_line() {
        assert_eq!(
            json_of("[1,\n2]\n").expect("JSON"),
            serde_json::json!([1, 2])
        );
        assert_eq!(json_of("warming up\n{\"a\": 1}\n\n").expect("JSON")["a"], 1);
        for text in ["", "\n\n", "hello\n", "{\"a\": 1}\nbye"] {
            assert!(json_of(text).is_err(), "{text}");
        }
    }
}
