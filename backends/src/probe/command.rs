//! Runs a vendor's command and takes what it prints.
//!
//! Invariant: a command that hangs is ended at its limit, with all that it started; one that floods
//! is cut off. Text that is not UTF-8 is kept with marks, for the parsers to refuse or not.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Of one run; the longest real output is some 20 kB.
const MOST_BYTES: u64 = 1 << 20;
/// How often an exit is looked for once the output has ended.
const EXIT_POLL: Duration = Duration::from_millis(5);

/// Why a command gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CommandError {
    #[error("cannot be started: {0}")]
    Start(String),
    #[error("gave no answer in {0:?}")]
    Timeout(Duration),
    #[error("ended with {status}: {said}")]
    Exit { status: String, said: String },
}

/// Standard output of a command that ends well within `limit`.
pub(super) fn run(
    program: &Path,
    arguments: &[&str],
    limit: Duration,
) -> Result<String, CommandError> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    own_group(&mut command);
    let mut child = command
        .spawn()
        .map_err(|error| CommandError::Start(error.to_string()))?;
    let out = read_all(child.stdout.take());
    let err = read_all(child.stderr.take());
    let Ok(text) = out.recv_timeout(limit) else {
        end(&mut child);
        return Err(CommandError::Timeout(limit));
    };
    let status = wait(&mut child, limit)?;
    if !status.success() {
        // Many of these commands complain on standard output.
        let complaint = err.recv_timeout(EXIT_POLL).unwrap_or_default();
        let first = |text: &str| {
            text.lines()
                .map(str::trim)
                .find(|line| !line.is_empty())
                .map(str::to_owned)
        };
        let said = first(&complaint)
            .or_else(|| first(&text))
            .unwrap_or_default();
        return Err(CommandError::Exit {
            status: status.to_string(),
            said,
        });
    }
    Ok(text)
}

/// Reads a pipe to its end beside us.
fn read_all(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still what it said; the rest is not kept.
            drop(pipe.by_ref().take(MOST_BYTES).read_to_end(&mut bytes));
            drop(std::io::copy(&mut pipe, &mut std::io::sink()));
        }
        drop(sender.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
    receiver
}

fn wait(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus, CommandError> {
    let (_alive, never) = channel::<()>();
    let polls = limit.as_millis() / EXIT_POLL.as_millis().max(1) + 1;
    for _ in 0..polls {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => {}
            Err(error) => return Err(CommandError::Start(error.to_string())),
        }
        let _ = never.recv_timeout(EXIT_POLL);
    }
    end(child);
    Err(CommandError::Timeout(limit))
}

#[cfg(unix)]
fn own_group(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    command.process_group(0);
}

#[cfg(not(unix))]
fn own_group(_: &mut Command) {}

/// Ends a child and what it started.
fn end(child: &mut Child) {
    #[cfg(unix)]
    {
        let group = rustix::process::Pid::from_child(child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    drop(child.kill());
    drop(child.wait());
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::clock::monotonic_now_ns;

    fn sh(script: &str, limit_ms: u64) -> Result<String, CommandError> {
        run(
            Path::new("/bin/sh"),
            &["-c", script],
            Duration::from_millis(limit_ms),
        )
    }

    #[test]
    fn output_is_taken_whole() {
        assert_eq!(sh("printf 'a\\nb'", 5_000), Ok("a\nb".to_owned()));
        let long = sh("yes | head -c 3000000", 20_000).expect("it ends");
        assert_eq!(long.len() as u64, MOST_BYTES, "cut off");
    }

    #[test]
    fn a_hang_ends_at_the_limit_with_what_it_started() {
        let before = monotonic_now_ns();
        for script in ["sleep 60", "sleep 60 & wait", "exec >&- 2>&-; sleep 60"] {
            let error = sh(script, 300).expect_err("it hangs");
            assert_eq!(error, CommandError::Timeout(Duration::from_millis(300)));
        }
        let took_s = (monotonic_now_ns() - before) as f64 / 1e9;
        assert!(took_s < 50.0, "{took_s} s: the sleeps were waited for");
    }

    #[test]
    fn a_failure_says_what_the_command_said() {
        let error = sh("echo; echo 'no card' >&2; exit 3", 5_000).expect_err("exit 3");
        assert!(error.to_string().contains("no card"), "{error}");
        let error = sh("echo 'on stdout'; exit 1", 5_000).expect_err("exit 1");
        assert!(error.to_string().contains("on stdout"), "{error}");
        let error = run(Path::new("/no/such/command"), &[], EXIT_POLL).expect_err("none");
        assert!(matches!(error, CommandError::Start(_)));
    }

    #[test]
    fn garbage_is_text_with_marks() {
        let text = sh("printf '\\377\\376|x'", 5_000).expect("it ends");
        assert!(text.ends_with("|x") && text.contains('\u{fffd}'));
    }
}
