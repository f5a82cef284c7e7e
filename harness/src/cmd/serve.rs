//! `weighbridge serve`: the built-in engine behind an OpenAI-compatible server.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use backends::{Clock, Nanos};
use clap::Args;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;

use super::{Ending, note, print};
use crate::plan::{self, EnginePlan};
use crate::scenario::Scenario;
use crate::serve::{self, Server, ServerOptions};
use crate::target::{self, Served, Target};
use crate::units::{parse_bytes, parse_duration, show_bytes};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// What answers: cpu, cuda:N (in a build with `cuda`), or sim:DEVICE, which keeps the device's
    /// pace in real time
    #[arg(long, value_name = "T", default_value = "cpu")]
    target: String,
    /// Model: ref-135m, ref-tiny, smollm2-135m-instruct or a path ending in .gguf
    #[arg(long, value_name = "M", default_value = "ref-135m")]
    model: String,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: String,
    /// What clients call the model [default: --model]
    #[arg(long, value_name = "NAME")]
    served_model: Option<String>,
    /// Requests that may wait for the engine, beyond those it runs; more are refused with 429
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_queue: u32,
    /// Largest request body; larger ones are refused with 413
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = parse_bytes)]
    max_body: u64,
    /// After Ctrl-C or SIGTERM, time for what runs to finish
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    grace: Duration,
    /// Seeds of requests that bring none come from it
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Memory for keys and values [default: 1GiB, at most a quarter of the memory; 16GiB simulated;
    /// on a GPU what is free, less a tenth]
    #[arg(long, value_name = "SIZE")]
    kv_memory: Option<String>,
    /// Tokens in one step [default: 128 on the CPU, 2048 on a GPU, 8192 simulated]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_batch_tokens: Option<i64>,
    /// Sequences in one step [default: 32 on the CPU, 256 on a GPU and simulated]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_sequences: Option<i64>,
    /// Keep computed prefixes for later requests: on or off [default: on]
    #[arg(long, value_name = "ON|OFF")]
    prefix_cache: Option<String>,
    /// Whose kernels run the model on the CPU: own or candle [default: own]
    #[arg(long, value_name = "KIND")]
    engine: Option<String>,
    /// Weights as stored, or expanded to f32: stored or f32 [default: stored]
    #[arg(long, value_name = "KIND")]
    weights: Option<String>,
    /// Threads of the engine [default: all processors]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    threads: Option<i64>,
    /// Bind each thread to a core: on or off [default: off]
    #[arg(long, value_name = "ON|OFF")]
    pin: Option<String>,
    /// Instruction set of the kernels, such as avx2 [default: the best there is]
    #[arg(long, value_name = "SET")]
    instructions: Option<String>,
}

pub(super) fn run(args: &ServeArgs) -> Result<Ending> {
    let plan = plan::resolve_engine_plan(&args.scenario())?;
    ensure!(
        !matches!(plan.target, Target::Http(_)),
        "`--target` is `{}`; accepted are `cpu`, `cuda:N`, `plugin:FILE` and `sim:DEVICE`\n\nhint: \
         that is a server already; clients can reach it themselves",
        plan.target
    );
    let address = resolve_address(&args.listen)?;
    // Taken before the model is loaded, so that a mistake shows at once.
    let socket = bind(address).with_context(|| {
        format!(
            "`--listen` {}\n\nhint: port 0 takes a free one",
            args.listen
        )
    })?;
    let served = load(&plan)?;
    // Clients live in real time, so a simulated device has to as well.
    let clock = Clock::wall();
    clock.block_on(serve(args, &plan, &clock, served, socket))
}

impl ServeArgs {
    fn scenario(&self) -> Scenario {
        Scenario {
            target: Some(self.target.clone()),
            model: Some(self.model.clone()),
            kv_memory: self.kv_memory.clone(),
            max_batch_tokens: self.max_batch_tokens,
            max_sequences: self.max_sequences,
            prefix_cache: self.prefix_cache.clone(),
            engine: self.engine.clone(),
            weights: self.weights.clone(),
            threads: self.threads,
            pin: self.pin.clone(),
            instructions: self.instructions.clone(),
            ..Scenario::default()
        }
    }
}

fn resolve_address(listen: &str) -> Result<SocketAddr> {
    let found = listen.to_socket_addrs().ok().and_then(|mut all| all.next());
    found.with_context(|| {
        format!("`--listen` is `{listen}`; accepted is HOST:PORT, such as `127.0.0.1:8000`")
    })
}

fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A server that was restarted need not wait for its old connections to be forgotten.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn load(plan: &EnginePlan) -> Result<Served> {
    if matches!(plan.target, Target::Cpu | Target::Cuda(_)) {
        note(&format!("loading {} …", plan.model_name));
    }
    let kernels = plan.engine.kernels;
    let served = Served::load(&plan.target, kernels, &plan.model, plan.weights)?;
    let (pool, info) = (served.kv_memory_bytes(&plan.engine), served.info());
    let held = pool / info.kv_bytes_per_token.max(1);
    ensure!(
        held >= LEAST_CONTEXT,
        "`--kv-memory` {} holds {held} tokens; at least {LEAST_CONTEXT} are needed",
        show_bytes(pool)
    );
    Ok(served)
}

/// Tokens that the KV pool holds at least: a short chat.
const LEAST_CONTEXT: u64 = 256;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

async fn serve(
    args: &ServeArgs,
    plan: &EnginePlan,
    clock: &Clock,
    served: Served,
    socket: TcpSocket,
) -> Result<Ending> {
    let (tokenizer, context) = (served.tokenizer(), served.info().context_limit as usize);
    let backend = target::connect(&plan.target, clock, served, &plan.engine, &plan.http)
        .await
        .map_err(|failure| anyhow!("`--target` {}: {}", plan.target, failure.message))?;
    let model_name = args
        .served_model
        .clone()
        .unwrap_or_else(|| plan.model_name.clone());
    let options = ServerOptions {
        model_name: model_name.clone(),
        max_in_flight: args
            .max_queue
            .saturating_add(plan.engine.max_sequences as u32),
        max_body_bytes: usize::try_from(args.max_body).unwrap_or(usize::MAX),
        seed: args.seed,
    };
    let server = Arc::new(Server::new(backend, tokenizer, context, options));
    let listener = socket
        .listen(BACKLOG)
        .with_context(|| format!("`--listen` {}", args.listen))?;
    let address = listener.local_addr()?;
    let stop = stop_words(Arc::clone(&server), args.grace)?;
    print(&format!(
        "{model_name} on {} at http://{address}/v1\n",
        plan.target
    ))?;
    let grace = Nanos::from_secs_f64(args.grace.as_secs_f64());
    Ok(match serve::run(server, listener, stop, grace).await {
        serve::Ending::Drained => Ending::Done,
        serve::Ending::CutOff(requests) => {
            note(&format!("requests cut off: {requests}"));
            Ending::Interrupted
        }
    })
}

/// A word for each Ctrl-C and each SIGTERM.
fn stop_words(server: Arc<Server>, grace: Duration) -> Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(2);
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        signals.next().await;
        let (running, grace) = (server.in_flight(), humantime::format_duration(grace));
        if running > 0 {
            note(&format!(
                "stopping: {running} requests have {grace} to finish; Ctrl-C again ends them now"
            ));
        }
        while sender.send(()).await.is_ok() {
            signals.next().await;
        }
    });
    Ok(receiver)
}

/// What a user or a supervisor sends to end a process.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: {
                use tokio::signal::unix::{SignalKind, signal};
                signal(SignalKind::terminate())?
            },
        })
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        drop(tokio::signal::ctrl_c().await);
    }
}
