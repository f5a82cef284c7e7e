//! `weighbridge speed`: how fast the built-in engine prefills and decodes, without load.
//!
//! Measured as `llama-bench` measures: random tokens, no sampling, decode from an empty cache
//! unless a depth is asked for. **Invariant.** Every sample is in the JSON; the printed figure is
//! their median. It does not say how a server behaves: for that there is `run`.

use std::num::NonZeroUsize;

use anyhow::{Context, Result, anyhow, bail, ensure};
use backends::clock::monotonic_now_ns;
use clap::Args;
use models::{
    BLOCK_TOKENS, Cpu, CpuOptions, ForwardError, KvCache, KvFormat, Level, Llama, LlamaConfig,
    MachineProbe, ModelSource, Operation, Profile, SequenceStep, TensorCache, TensorDevice,
    TensorLlama, Threads, WeightsDtype, probe,
};
use reports::stats::median;
use serde::Serialize;

use super::{Ending, note, print, print_json};
use crate::plan::{instructions, kernels};
use crate::target::{Kernels, Served, Target};
use crate::units::show_bytes;

/// Tokens of a prompt that one step takes.
const CHUNK: usize = 512;
/// Most of any of the numbers a user gives.
const MOST: usize = 1 << 20;

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct SpeedArgs {
    /// Model, as for run
    #[arg(long, value_name = "M", default_value = "ref-135m")]
    model: String,
    /// What runs it: cpu, or cuda:N in a build with `cuda`
    #[arg(long, value_name = "T", default_value = "cpu")]
    target: String,
    /// Whose kernels run the model on the CPU: own or candle [default: own]
    #[arg(long, value_name = "KIND")]
    engine: Option<String>,
    /// Tokens of the prompts that are prefilled; several numbers make several rows
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "512")]
    prompt_tokens: Vec<usize>,
    /// Tokens that are decoded in each sequence
    #[arg(long, value_name = "N", default_value_t = 128)]
    gen_tokens: usize,
    /// Tokens in the cache before the first is decoded
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Sequences side by side
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1")]
    batch: Vec<usize>,
    /// Threads [default: all processors]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Times each figure is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: usize,
    /// Instruction set of the kernels, such as avx2 [default: the best there is]
    #[arg(long, value_name = "SET")]
    instructions: Option<String>,
    /// Bind each thread to a core
    #[arg(long)]
    pin: bool,
    /// Keys and values in single precision
    #[arg(long)]
    kv_f32: bool,
    /// Expand the weights to f32
    #[arg(long)]
    f32: bool,
    /// Show where the time goes, and how near that is to this machine's limits
    #[arg(long)]
    profile: bool,
    /// JSON rows instead of the table
    #[arg(long)]
    json: bool,
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Row {
    model: String,
    weights: String,
    target: String,
    engine: &'static str,
    instructions: String,
    threads: usize,
    batch: usize,
    prompt_tokens: usize,
    gen_tokens: usize,
    depth: usize,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    prefill_samples: Vec<f64>,
    decode_samples: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profiles>,
}

/// Where the time went, and the limits it is compared with.
#[derive(Debug, Serialize)]
struct Profiles {
    machine: Machine,
    prefill: Vec<Share>,
    decode: Vec<Share>,
}

#[derive(Debug, Serialize)]
struct Machine {
    working_set_bytes: u64,
    read_bytes_per_s: f64,
    int8_operations_per_s: f64,
    f32_operations_per_s: f64,
}

/// One operation's part of a step. The last of a list is the whole step.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the names in the JSON")]
struct Share {
    operation: &'static str,
    microseconds_per_step: f64,
    share_of_time: f64,
    bytes_per_s: f64,
    share_of_bandwidth: f64,
    int8_operations_per_s: f64,
    share_of_int8_peak: f64,
    f32_operations_per_s: f64,
    share_of_f32_peak: f64,
}

/// What a row is measured with.
#[derive(Clone, Copy)]
struct Setting {
    threads: usize,
    batch: usize,
    prompt: usize,
    depth: usize,
}

pub(super) fn run(args: &SpeedArgs) -> Result<Ending> {
    let target = Target::parse(&args.target)?;
    ensure!(
        matches!(target, Target::Cpu | Target::Cuda(_)),
        "`--target` is `{target}`; accepted are `cpu` and `cuda:N`"
    );
    let kernels = resolve_kernels(args, &target)?;
    let settings = settings(args, kernels)?;
    let level = match &args.instructions {
        None => Level::best(),
        Some(name) => {
            instructions(name).map_err(|message| anyhow!("`--instructions` {message}"))?
        }
    };
    let source = ModelSource::parse(&args.model)?;
    let dtype = if args.f32 {
        WeightsDtype::F32
    } else {
        WeightsDtype::AsStored
    };
    let served = Served::load(&target, kernels, &source, dtype)?;
    let limit = served.info().context_limit as usize;
    for setting in &settings {
        let longest = setting.prompt.max(setting.depth + args.gen_tokens);
        ensure!(
            longest <= limit,
            "`--prompt-tokens`, `--depth` and `--gen-tokens` ask for {longest} tokens in a \
             sequence; `{}` takes at most {limit}",
            args.model
        );
    }
    if !args.json {
        note(&format!(
            "{}, {}, {}; keys and values {}; medians of {}",
            served.info().name,
            served.info().weights,
            runs_on(&served, level),
            kv_format(args).name(),
            args.repeats
        ));
        print(&format!("{HEADER}\n"))?;
    }
    let mut rows = Vec::new();
    for setting in settings {
        let row = measure(&served, setting, level, args)?;
        if !args.json {
            print(&line(&row))?;
        }
        rows.push(row);
    }
    if args.json {
        print_json(&rows)?;
    }
    Ok(Ending::Done)
}

/// Whose kernels; what only our own can do is refused with the others.
fn resolve_kernels(args: &SpeedArgs, target: &Target) -> Result<Kernels> {
    let kernels = kernels("`--engine`", args.engine.as_deref(), target)?;
    if kernels == Kernels::Candle {
        for (flag, given) in [
            ("--threads", !args.threads.is_empty()),
            ("--pin", args.pin),
            ("--instructions", args.instructions.is_some()),
            ("--profile", args.profile),
        ] {
            ensure!(!given, "`{flag}` is given; only engine `own` takes it");
        }
    }
    Ok(kernels)
}

/// The instruction set, or whose device and kernels.
fn runs_on(served: &Served, level: Level) -> String {
    match served {
        Served::Tensors(_, Some(facts)) => format!("{}, candle's kernels", facts.name),
        Served::Tensors(_, None) => "candle's kernels".to_owned(),
        _ => level.to_string(),
    }
}

fn settings(args: &SpeedArgs, kernels: Kernels) -> Result<Vec<Setting>> {
    let all = vec![match kernels {
        Kernels::Own => crate::host::logical_cpus() as usize,
        Kernels::Candle => TensorDevice::cpu_threads(),
    }];
    let threads = if args.threads.is_empty() {
        &all
    } else {
        &args.threads
    };
    let generated = [args.gen_tokens];
    let repeats = [args.repeats];
    for (flag, values, least) in [
        ("--threads", &threads[..], 1),
        ("--batch", &args.batch, 1),
        ("--prompt-tokens", &args.prompt_tokens, 1),
        ("--depth", &args.depth, 0),
        ("--gen-tokens", &generated, 1),
        ("--repeats", &repeats, 1),
    ] {
        for value in values {
            ensure!(
                (least..=MOST).contains(value),
                "`{flag}` is {value}; accepted is {least} to {MOST}"
            );
        }
    }
    let mut settings = Vec::new();
    for &threads in threads {
        for &batch in &args.batch {
            for &depth in &args.depth {
                settings.extend(args.prompt_tokens.iter().map(|&prompt| Setting {
                    threads,
                    batch,
                    prompt,
                    depth,
                }));
            }
        }
    }
    Ok(settings)
}

fn kv_format(args: &SpeedArgs) -> KvFormat {
    if args.kv_f32 {
        KvFormat::F32
    } else {
        KvFormat::F16
    }
}

fn measure(served: &Served, setting: Setting, level: Level, args: &SpeedArgs) -> Result<Row> {
    let longest = setting.prompt.max(setting.depth + args.gen_tokens);
    let per_sequence = longest.div_ceil(BLOCK_TOKENS);
    let pass = Pass::new(served, setting, level, args, per_sequence * setting.batch)?;
    let vocab = pass.config().vocab as u64;
    let mut bench = Bench {
        pass,
        tables: (0..setting.batch)
            .map(|s| {
                (s * per_sequence..(s + 1) * per_sequence)
                    .map(|b| b as u32)
                    .collect()
            })
            .collect(),
        tokens: (0..longest as u64)
            .map(|i| (i * 7919 % vocab) as u32)
            .collect(),
    };
    let (batch, prompt, generated) = (setting.batch, setting.prompt, args.gen_tokens);
    // The first round warms caches and is not counted.
    bench.prefill(prompt)?;
    let prefill_samples = bench.samples(args.repeats, batch * prompt, |b| b.prefill(prompt))?;
    bench.prefill(setting.depth)?;
    bench.decode(setting.depth, generated.min(8))?;
    let decode_samples = bench.samples(args.repeats, batch * generated, |bench| {
        bench.decode(setting.depth, generated)
    })?;
    let profile = if args.profile {
        Some(bench.profiles(setting, generated, served.info().weight_bytes)?)
    } else {
        None
    };
    Ok(Row {
        model: served.info().name.clone(),
        weights: served.info().weights.clone(),
        target: args.target.clone(),
        engine: bench.pass.kernels().name(),
        instructions: match bench.pass.kernels() {
            Kernels::Own => level.to_string(),
            Kernels::Candle => "candle".to_owned(),
        },
        threads: setting.threads,
        batch,
        prompt_tokens: prompt,
        gen_tokens: generated,
        depth: setting.depth,
        prefill_tokens_per_s: median(&prefill_samples),
        decode_tokens_per_s: median(&decode_samples),
        prefill_samples,
        decode_samples,
        profile,
    })
}

/// One of the forward passes, with its cache.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, and it is not moved"
)]
enum Pass<'a> {
    Own {
        llama: &'a Llama,
        cpu: Cpu,
        cache: KvCache,
    },
    Candle {
        llama: &'a TensorLlama,
        cache: TensorCache,
    },
}

impl<'a> Pass<'a> {
    fn new(
        served: &'a Served,
        setting: Setting,
        level: Level,
        args: &SpeedArgs,
        blocks: usize,
    ) -> Result<Self> {
        let format = kv_format(args);
        let no_memory = |per_block: usize| {
            let bytes = show_bytes((per_block * blocks) as u64);
            format!("no memory for {bytes} of cache")
        };
        match served {
            Served::Loaded(model) => {
                let count = NonZeroUsize::new(setting.threads).unwrap_or(NonZeroUsize::MIN);
                let threads = Threads {
                    count,
                    pinned: args.pin,
                };
                let config = model.llama.config();
                let cache = KvCache::new(config, blocks, format);
                let cache =
                    cache.with_context(|| no_memory(KvCache::bytes_per_block(config, format)))?;
                Ok(Self::Own {
                    llama: &model.llama,
                    cpu: Cpu::new(CpuOptions { threads, level }),
                    cache,
                })
            }
            Served::Tensors(model, _) => {
                let (llama, per_block) = (&model.llama, TensorCache::bytes_per_block);
                let cache = llama.cache(blocks, format);
                let cache = cache.with_context(|| no_memory(per_block(llama.config(), format)))?;
                Ok(Self::Candle { llama, cache })
            }
            Served::Described(..) | Served::Filed(..) => unreachable!("these targets are refused"),
        }
    }

    fn config(&self) -> &LlamaConfig {
        match self {
            Self::Own { llama, .. } => llama.config(),
            Self::Candle { llama, .. } => llama.config(),
        }
    }

    fn kernels(&self) -> Kernels {
        match self {
            Self::Own { .. } => Kernels::Own,
            Self::Candle { .. } => Kernels::Candle,
        }
    }

    /// Runs a step to its end.
    fn step(&mut self, steps: &[SequenceStep<'_>]) -> Result<(), ForwardError> {
        match self {
            Self::Own { llama, cpu, cache } => {
                std::hint::black_box(llama.forward(cpu, cache, steps)?.rows());
                Ok(())
            }
            Self::Candle { llama, cache } => {
                std::hint::black_box(llama.forward(cache, steps)?.rows());
                llama.finish()
            }
        }
    }
}

/// A model with sequences side by side.
struct Bench<'a> {
    pass: Pass<'a>,
    tables: Vec<Vec<u32>>,
    tokens: Vec<u32>,
}

impl Bench<'_> {
    /// Tokens per second, several times.
    fn samples(
        &mut self,
        repeats: usize,
        tokens: usize,
        work: impl Fn(&mut Self) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let mut sample = || {
            let start = monotonic_now_ns();
            work(self)?;
            let elapsed = monotonic_now_ns().saturating_sub(start).max(1);
            Ok(tokens as f64 / (elapsed as f64 / 1e9))
        };
        (0..repeats).map(|_| sample()).collect()
    }

    /// Every sequence's prompt, one after the other, in chunks.
    fn prefill(&mut self, tokens: usize) -> Result<()> {
        let prompt = std::mem::take(&mut self.tokens);
        let tables = std::mem::take(&mut self.tables);
        for blocks in &tables {
            for start in (0..tokens).step_by(CHUNK) {
                let end = tokens.min(start + CHUNK);
                self.pass.step(&[SequenceStep {
                    tokens: &prompt[start..end],
                    start,
                    blocks,
                    logits: end == tokens,
                }])?;
            }
        }
        (self.tokens, self.tables) = (prompt, tables);
        Ok(())
    }

    /// All sequences together, token by token.
    fn decode(&mut self, depth: usize, tokens: usize) -> Result<()> {
        let text = std::mem::take(&mut self.tokens);
        let tables = std::mem::take(&mut self.tables);
        for start in depth..depth + tokens {
            let step = |blocks| SequenceStep {
                tokens: &text[start..=start],
                start,
                blocks,
                logits: true,
            };
            let steps: Vec<_> = tables.iter().map(|blocks| step(blocks)).collect();
            self.pass.step(&steps)?;
        }
        (self.tokens, self.tables) = (text, tables);
        Ok(())
    }

    /// The processor of our own kernels, which alone keep a profile.
    fn cpu(&mut self) -> Result<&mut Cpu> {
        match &mut self.pass {
            Pass::Own { cpu, .. } => Ok(cpu),
            Pass::Candle { .. } => bail!("candle's kernels keep no profile"),
        }
    }

    fn profiles(
        &mut self,
        setting: Setting,
        generated: usize,
        weight_bytes: u64,
    ) -> Result<Profiles> {
        let limits = probe(self.cpu()?, weight_bytes, monotonic_now_ns)
            .context("no memory to probe the machine with")?;
        self.cpu()?.start_profile(monotonic_now_ns);
        self.prefill(setting.prompt)?;
        let prefill = self.cpu()?.take_profile();
        self.prefill(setting.depth)?;
        self.cpu()?.start_profile(monotonic_now_ns);
        self.decode(setting.depth, generated)?;
        let decode = self.cpu()?.take_profile();
        let shares = |profile: Option<Profile>| {
            let profile = profile.expect("it was started above");
            shares(&profile, &limits)
        };
        Ok(Profiles {
            prefill: shares(prefill),
            decode: shares(decode),
            machine: Machine {
                working_set_bytes: limits.working_set_bytes,
                read_bytes_per_s: limits.read_bytes_per_s,
                int8_operations_per_s: limits.integer_operations_per_s,
                f32_operations_per_s: limits.float_operations_per_s,
            },
        })
    }
}

fn shares(profile: &Profile, limits: &MachineProbe) -> Vec<Share> {
    let mut whole = models::Tally::default();
    for operation in Operation::ALL {
        let tally = profile.tally(operation);
        whole.nanoseconds += tally.nanoseconds;
        whole.bytes += tally.bytes;
        whole.integer_operations += tally.integer_operations;
        whole.float_operations += tally.float_operations;
    }
    let share = |operation, tally: models::Tally| {
        let seconds = tally.nanoseconds.max(1) as f64 / 1e9;
        let rate = |amount: u64| amount as f64 / seconds;
        Share {
            operation,
            microseconds_per_step: seconds * 1e6 / profile.steps().max(1) as f64,
            share_of_time: tally.nanoseconds as f64 / whole.nanoseconds.max(1) as f64,
            bytes_per_s: rate(tally.bytes),
            share_of_bandwidth: rate(tally.bytes) / limits.read_bytes_per_s,
            int8_operations_per_s: rate(tally.integer_operations),
            share_of_int8_peak: rate(tally.integer_operations) / limits.integer_operations_per_s,
            f32_operations_per_s: rate(tally.float_operations),
            share_of_f32_peak: rate(tally.float_operations) / limits.float_operations_per_s,
        }
    };
    let mut shares: Vec<_> = Operation::ALL
        .into_iter()
        .map(|operation| share(operation.name(), profile.tally(operation)))
        .collect();
    shares.push(share("whole step", whole));
    shares
}

const HEADER: &str = "threads  batch  prompt  depth    prefill tok/s    decode tok/s";

fn line(row: &Row) -> String {
    let mut text = format!(
        "{:>7}  {:>5}  {:>6}  {:>5}  {:>15.1}  {:>14.1}\n",
        row.threads,
        row.batch,
        row.prompt_tokens,
        row.depth,
        row.prefill_tokens_per_s,
        row.decode_tokens_per_s
    );
    if let Some(profile) = &row.profile {
        let machine = &profile.machine;
        text.extend([format!(
            "\n  this machine reads {:.1} GB/s of a working set of {}, and does {:.0} int8 and {:.0} \
             f32 GOP/s\n",
            machine.read_bytes_per_s / 1e9,
            show_bytes(machine.working_set_bytes),
            machine.int8_operations_per_s / 1e9,
            machine.f32_operations_per_s / 1e9
        )]);
        for (name, shares) in [("prefill", &profile.prefill), ("decode", &profile.decode)] {
            text += &table(name, shares);
        }
        text.extend(["\n", HEADER, "\n"]);
    }
    text
}

fn table(name: &str, shares: &[Share]) -> String {
    let mut text = format!(
        "\n  {name:<18} {:>11} {:>7} {:>8} {:>13} {:>10} {:>10}\n",
        "us/step", "time", "GB/s", "of bandwidth", "of int8", "of f32"
    );
    let percent = |share: f64| {
        if share < 5e-4 {
            "-".to_owned()
        } else {
            format!("{:.1} %", share * 100.0)
        }
    };
    for share in shares {
        text.extend([format!(
            "  {:<18} {:>11.1} {:>7} {:>8.1} {:>13} {:>10} {:>10}\n",
            share.operation,
            share.microseconds_per_step,
            percent(share.share_of_time),
            share.bytes_per_s / 1e9,
            percent(share.share_of_bandwidth),
            percent(share.share_of_int8_peak),
            percent(share.share_of_f32_peak)
        )]);
    }
    text
}
