//! `weighbridge generate`: one reply from the built-in engine.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use backends::cpu::CpuExecutor;
use backends::engine::{Capacity, Engine, PrefixCache};
use backends::{Backend, Clock, EventKind, FinishReason, Prompt, Request, SystemInfo};
use clap::Args;
use models::{CpuOptions, Message, Model, ModelSource, Role, SamplingParams, WeightsDtype};
use serde_json::json;

use super::{Ending, print};

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// Model, as for run
    #[arg(long, value_name = "M", default_value = "smollm2-135m-instruct")]
    model: String,
    /// A user's message
    #[arg(long, conflicts_with = "chat", required_unless_present = "chat")]
    prompt: Option<String>,
    /// A JSON file with a list of messages: [{"role": "user", "content": "…"}]
    #[arg(long, value_name = "FILE")]
    chat: Option<PathBuf>,
    /// Output tokens at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_tokens: u32,
    /// Sampling temperature; 0 takes the likeliest token
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    temperature: f32,
    /// Draw from this many of the likeliest tokens
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Draw from the likeliest tokens of this total probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Expand the weights to f32
    #[arg(long)]
    f32: bool,
    /// {"`prompt_token_ids`", "`token_ids`", "text", "`finish_reason`"} instead of the text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &GenerateArgs) -> Result<Ending> {
    let messages = messages(args)?;
    let dtype = if args.f32 {
        WeightsDtype::F32
    } else {
        WeightsDtype::AsStored
    };
    let Model { llama, chat, .. } = Model::load(&ModelSource::parse(&args.model)?, dtype)?;
    let prompt_ids = chat.encode_chat(&messages)?;
    let room = llama.config().context.saturating_sub(prompt_ids.len());
    let max_tokens = (args.max_tokens as usize).min(room);
    // Memory for this one conversation, not for the model's whole context.
    let max_context = (prompt_ids.len() + max_tokens).max(1);
    let capacity = Capacity {
        blocks: max_context.div_ceil(models::BLOCK_TOKENS) as u32,
        max_sequences: 1,
        max_batch_tokens: 512,
        max_context,
    };
    let system = SystemInfo {
        kind: "engine".into(),
        device: "cpu".into(),
        details: std::collections::BTreeMap::default(),
    };
    let request = Request {
        prompt: Prompt {
            tokens: prompt_ids.clone().into(),
            messages: messages.into(),
        },
        max_tokens: max_tokens as u32,
        ignore_eos: false,
        min_tokens: 0,
        sampling: SamplingParams {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            seed: args.seed,
        },
    };
    let clock = Clock::wall();
    let end_tokens: Arc<[u32]> = chat.eos_ids().into();
    let threads = NonZeroUsize::new(crate::host::logical_cpus() as usize);
    let options = CpuOptions::new(threads.unwrap_or(NonZeroUsize::MIN));
    let executor = CpuExecutor::new(llama, capacity, options)?;
    let engine = Engine::start(
        executor,
        clock.clone(),
        PrefixCache::Off,
        end_tokens,
        system,
    );
    let (ids, reason) = clock.block_on(answer(&engine, request, args, &chat))?;
    if args.json {
        let reply = json!({
            "prompt_token_ids": prompt_ids,
            "token_ids": ids,
            "text": chat.decode(&ids),
            "finish_reason": reason,
        });
        print(&format!("{reply}\n"))?;
    } else {
        print("\n")?;
    }
    Ok(Ending::Done)
}

fn messages(args: &GenerateArgs) -> Result<Vec<Message>> {
    match (&args.prompt, &args.chat) {
        (Some(text), _) => Ok(vec![Message {
            role: Role::User,
            content: text.clone(),
        }]),
        (None, Some(path)) => {
            let place = || format!("chat file `{}`", path.display());
            let text = std::fs::read_to_string(path).with_context(place)?;
            let messages: Vec<Message> = serde_json::from_str(&text).with_context(place)?;
            if messages.is_empty() {
                bail!(
                    "{}: the list is empty; at least one message is needed",
                    place()
                );
            }
            Ok(messages)
        }
        (None, None) => bail!("`--prompt` or `--chat` is needed"),
    }
}

/// The reply's ids and why it ended; without `--json` the text is printed as it comes.
async fn answer(
    engine: &Engine,
    request: Request,
    args: &GenerateArgs,
    chat: &models::ChatTokenizer,
) -> Result<(Vec<u32>, FinishReason)> {
    let mut stream = engine.submit(request);
    let mut ids = Vec::new();
    let mut text = chat.detokenizer();
    while let Some(event) = stream.next().await {
        match event.kind {
            EventKind::Token(id) => {
                ids.push(id);
                if let Some(piece) = text.push(id).filter(|_| !args.json) {
                    print(&piece)?;
                }
            }
            EventKind::Finished { reason, .. } => {
                if !args.json {
                    print(&text.finish())?;
                }
                return Ok((ids, reason));
            }
            EventKind::Failed(failure) => bail!("{}", failure.message),
            EventKind::Sent
            | EventKind::Admitted { .. }
            | EventKind::Text { .. }
            | EventKind::Bare
            | EventKind::UsageOnly => {}
        }
    }
    bail!("the engine stopped without an answer")
}
