//! `weighbridge mock`: a ground-truth server, for checking a client.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use backends::http::Stack;
use clap::Args;

use super::{Ending, print};
use crate::mock::law::Law;
use crate::mock::plan::{Faults, Stall};
use crate::mock::{MockConfig, UsageChunk, serve};
use crate::units::parse_duration;

#[derive(Debug, Args)]
pub(super) struct MockArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8800")]
    listen: SocketAddr,
    /// From the request to the first chunk: 50ms, uniform:LOW..HIGH, lognormal:MEDIAN,SIGMA or
    /// exp:MEAN
    #[arg(long, value_name = "LAW", default_value = "50ms")]
    ttft: Law,
    /// From token to token, the same
    #[arg(long, value_name = "LAW", default_value = "20ms")]
    itl: Law,
    /// Tokens of an answer to a request that does not say
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tokens: u32,
    /// Tokens in one chunk
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    chunk_tokens: u32,
    /// Usage chunk
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = UsageChunk::Asked)]
    usage: UsageChunk,
    /// Whose habits it has: openai, vllm, sglang, mindie (role in each chunk; finish and usage in
    /// the last one, unasked), xllm (role and first token in one write), lmdeploy, tgi; also the
    /// names of its metrics
    #[arg(long, value_name = "STACK", default_value = "openai", value_parser = parse_stack)]
    dialect: Stack,
    /// Leave out the chunk with the role alone
    #[arg(long)]
    no_role_chunk: bool,
    /// End lines with CR LF
    #[arg(long)]
    crlf: bool,
    /// Cut each write at this many bytes drawn at random
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    cuts: u32,
    /// All streams stand still for D at the end of each P, as D/P: 2s/10s
    #[arg(long, value_name = "D/P", value_parser = parse_stall)]
    stall: Option<Stall>,
    /// Share of requests answered with an error status
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    errors: f64,
    /// That status
    #[arg(long, value_name = "CODE", default_value_t = 500, value_parser = clap::value_parser!(u16).range(400..=599))]
    error_status: u16,
    /// Share of requests whose connection is reset before the end
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    resets: f64,
    /// Share of requests whose stream ends without a finish
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    truncations: f64,
    /// Share of requests whose stream ends without [DONE]
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    no_done: f64,
    /// Everything random comes from it and the number of the request
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write what was done here at the end; it is also at `GET /record`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// End when standard input does, so that no server outlives the program that started it
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

pub(super) fn run(args: &MockArgs) -> Result<Ending> {
    let faults = faults(args)?;
    crate::limits::raise_file_limit();
    // Before it listens: a file that cannot be written is a mistake.
    let record = match &args.record {
        Some(path) => {
            let place = || format!("`--record` {}", path.display());
            Some((File::create(path).with_context(place)?, place()))
        }
        None => None,
    };
    let config = MockConfig {
        seed: args.seed,
        ttft: args.ttft,
        itl: args.itl,
        tokens: args.tokens,
        chunk_tokens: args.chunk_tokens,
        usage: args.usage,
        role_chunk: !args.no_role_chunk,
        crlf: args.crlf,
        cuts: args.cuts,
        stall: args.stall,
        faults,
        stack: args.dialect,
    };
    let server =
        serve(args.listen, config).with_context(|| format!("`--listen` {}", args.listen))?;
    print(&format!("listening on {}\n", server.base()))?;
    wait(args.until_stdin_closes)?;
    let done = server.stop()?;
    if let Some((file, place)) = record {
        let mut file = BufWriter::new(file);
        let written = file.write_all(&done.to_lines()).and_then(|()| file.flush());
        written.context(place)?;
    }
    Ok(Ending::Done)
}

fn faults(args: &MockArgs) -> Result<Faults> {
    let shares = [
        ("--errors", args.errors),
        ("--resets", args.resets),
        ("--truncations", args.truncations),
        ("--no-done", args.no_done),
    ];
    for (flag, share) in shares {
        let in_range = (0.0..=1.0).contains(&share);
        ensure!(
            in_range,
            "`{flag}` is {share}; accepted is a share from 0 to 1"
        );
    }
    let total: f64 = shares.iter().map(|(_, share)| share).sum();
    ensure!(
        total <= 1.0 + 1e-9,
        "`--errors`, `--resets`, `--truncations` and `--no-done` add up to {total}; accepted is up \
         to 1"
    );
    Ok(Faults {
        status_share: args.errors,
        status: args.error_status,
        reset_share: args.resets,
        truncate_share: args.truncations,
        no_done_share: args.no_done,
    })
}

fn parse_stack(text: &str) -> Result<Stack, String> {
    Stack::parse(text).ok_or_else(|| {
        let names = Stack::ALL.map(|stack| format!("`{stack}`")).join(", ");
        format!("accepted are {names}")
    })
}

fn parse_stall(text: &str) -> Result<Stall, String> {
    let wrong = || {
        format!("`{text}` is not a stall; accepted is D/P with D shorter than P, such as `2s/10s`")
    };
    let (lasts, every) = text.split_once('/').ok_or_else(wrong)?;
    let stall = Stall {
        lasts_ns: parse_duration(lasts)?.as_nanos() as u64,
        every_ns: parse_duration(every)?.as_nanos() as u64,
    };
    if stall.lasts_ns < stall.every_ns {
        Ok(stall)
    } else {
        Err(wrong())
    }
}

/// Until Ctrl-C, SIGTERM, or the end of standard input.
fn wait(until_stdin_closes: bool) -> Result<()> {
    if until_stdin_closes {
        let mut sink = Vec::new();
        std::io::stdin().read_to_end(&mut sink)?;
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| anyhow!("the async runtime cannot be started: {error}"))?;
    runtime.block_on(super::interrupt());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_read() {
        let stall = parse_stall("2s/10s").expect("two durations");
        assert_eq!(
            (stall.lasts_ns, stall.every_ns),
            (2_000_000_000, 10_000_000_000)
        );
        for wrong in ["2s", "10s/2s", "2s/2s", "2/10", "/"] {
            let error = parse_stall(wrong).expect_err(wrong);
            assert!(error.contains("accepted"), "{error}");
        }
    }
}
