//! The command line: one file for each command. The only place that prints.
//!
//! Invariant: data goes to standard output, everything else to standard error; exit codes are those
//! of the contract (0 done and VALID, 1 INVALID or a regression, 2 a mistake or an I/O error, 3 an
//! inconclusive gate, 130 interrupted).

mod compare;
mod curve;
mod devices;
mod doctor;
mod gate;
mod generate;
mod mock;
mod models;
mod prices;
mod report;
mod run;
mod serve;
mod speed;
mod workloads;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use reports::render;

/// What does a chatbot query, and a million tokens, cost on this chip, at a latency users accept?
#[derive(Debug, Parser)]
#[command(name = "weighbridge", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure a target under load and write a report
    Run(Box<run::RunArgs>),
    /// Measure a target at several loads
    Sweep(Box<curve::SweepArgs>),
    /// Find the highest load that meets the SLO, with an interval, and the cost there
    Capacity(Box<curve::CapacityArgs>),
    /// Serve the built-in engine over HTTP, as OpenAI's API
    Serve(Box<serve::ServeArgs>),
    /// One reply from the built-in engine
    Generate(generate::GenerateArgs),
    /// Prefill and decode speed of the built-in engine, without load
    Speed(speed::SpeedArgs),
    /// Accelerators of this host, how each was found, and what telemetry each gives
    Devices(devices::DevicesArgs),
    /// List, fetch and find models
    Models(models::ModelsArgs),
    /// List and describe workloads
    Workloads(workloads::WorkloadsArgs),
    /// Regression verdict for CI: two commands in pairs, or stored results
    Gate(Box<gate::GateArgs>),
    /// A ground-truth server whose every token time is known, for checking a client
    Mock(Box<mock::MockArgs>),
    /// Render a result folder again from its report.json
    Report(report::ReportArgs),
    /// What is compiled in, and what would make measurements here unreliable
    Doctor(doctor::DoctorArgs),
    /// Price sheets: list, print, check
    Prices(prices::PricesArgs),
    /// A result as vLLM, `AIPerf` or `InferenceX` write theirs, or as CSV
    Export(report::ExportArgs),
    /// Results side by side, with intervals: ours, vLLM's, `AIPerf`'s, `GuideLLM`'s, llama-bench's
    Compare(compare::CompareArgs),
    /// Another tool's result as a file that compare reads
    Import(compare::ImportArgs),
    /// Print shell completions
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// How a command ended, short of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Done; for a run: VALID.
    Done,
    /// The measurement is INVALID.
    Invalid,
    /// A gate found a regression.
    Regression,
    /// A gate could not decide.
    Inconclusive,
    /// Stopped by the user.
    Interrupted,
}

impl Cli {
    /// Runs the command; errors are printed.
    pub fn run(self) -> ExitCode {
        let filter = tracing_subscriber::EnvFilter::try_from_env("WEIGHBRIDGE_LOG")
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .init();
        let ended = match self.command {
            Command::Run(args) => run::run(&args),
            Command::Sweep(args) => curve::sweep(&args),
            Command::Capacity(args) => curve::capacity(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Generate(args) => generate::run(&args),
            Command::Speed(args) => speed::run(&args),
            Command::Devices(args) => devices::run(&args),
            Command::Models(args) => models::run(&args),
            Command::Workloads(args) => workloads::run(&args),
            Command::Gate(args) => gate::run(&args),
            Command::Mock(args) => mock::run(&args),
            Command::Report(args) => report::run(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Prices(args) => prices::run(&args),
            Command::Export(args) => report::export(&args),
            Command::Compare(args) => compare::run(&args),
            Command::Import(args) => compare::import(&args),
            Command::Completions { shell } => completions(shell),
        };
        match ended {
            Ok(Ending::Done) => ExitCode::SUCCESS,
            Ok(Ending::Invalid | Ending::Regression) => ExitCode::from(1),
            Ok(Ending::Inconclusive) => ExitCode::from(3),
            Ok(Ending::Interrupted) => ExitCode::from(130),
            Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
            Err(error) => {
                note(&format!("error: {error:#}"));
                ExitCode::from(2)
            }
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<Ending> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weighbridge", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Ending::Done)
}

/// A reader that has seen enough, such as `head`, is no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A value as JSON, to standard output.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    Ok(print(&format!(
        "{}\n",
        serde_json::to_string_pretty(value)?
    ))?)
}

/// A file of a user's; the error names it.
fn write_file(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("`{}`", path.display()))
}

/// Data, to standard output.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A word to the user, to standard error.
#[expect(
    clippy::print_stderr,
    reason = "the one place that writes to standard error"
)]
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Completes at Ctrl-C or SIGTERM.
#[cfg(unix)]
async fn interrupt() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened to");
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn interrupt() {
    drop(tokio::signal::ctrl_c().await);
}

/// Colour on a terminal whose user has nothing against it.
fn style() -> render::Style {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && io::stdout().is_terminal() {
        render::Style::Ansi
    } else {
        render::Style::Plain
    }
}
