//! `weighbridge generate`: one reply from the built-in engine.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use backends::engine::PrefixCache;
use backends::{Backend, EventKind, FinishReason, Prompt, Request};
use clap::Args;
use models::{BLOCK_TOKENS, Message, Role, SamplingParams};
use serde_json::json;

use super::{Ending, print};
use crate::plan::{self, EnginePlan};
use crate::scenario::Scenario;
use crate::target::{self, Served, Target};

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// Model, as for run
    #[arg(long, value_name = "M", default_value = "smollm2-135m-instruct")]
    model: String,
    /// What answers: cpu, or cuda:N in a build with `cuda`
    #[arg(long, value_name = "T", default_value = "cpu")]
    target: String,
    /// Whose kernels run the model on the CPU: own or candle [default: own]
    #[arg(long, value_name = "KIND")]
    engine: Option<String>,
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
    let mut plan = plan::resolve_engine_plan(&args.scenario())?;
    ensure!(
        matches!(plan.target, Target::Cpu | Target::Cuda(_)),
        "`--target` is `{}`; accepted are `cpu` and `cuda:N`",
        plan.target
    );
    let served = Served::load(&plan.target, plan.engine.kernels, &plan.model, plan.weights)?;
    let (info, chat) = (served.info(), served.tokenizer());
    let prompt_ids = chat.encode_chat(&messages)?;
    let room = (info.context_limit as usize).saturating_sub(prompt_ids.len());
    let max_tokens = (args.max_tokens as usize).min(room);
    // Memory for this one conversation, not for the model's whole context.
    let tokens = (prompt_ids.len() + max_tokens).max(1);
    let tokens = tokens.next_multiple_of(BLOCK_TOKENS) as u64;
    plan.engine.kv_memory_bytes = Some(tokens * info.kv_bytes_per_token);
    plan.engine.prefix_cache = PrefixCache::Off;
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
    let clock = plan.target.clock();
    let answering = async {
        let EnginePlan {
            target,
            engine,
            http,
            ..
        } = &plan;
        let backend = target::connect(target, &clock, served, engine, http).await;
        let backend = backend.map_err(|failure| anyhow!("{}", failure.message))?;
        answer(backend.as_ref(), request, args, &chat).await
    };
    let (ids, reason) = clock.block_on(answering)?;
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

impl GenerateArgs {
    fn scenario(&self) -> Scenario {
        Scenario {
            target: Some(self.target.clone()),
            model: Some(self.model.clone()),
            engine: self.engine.clone(),
            weights: self.f32.then(|| "f32".to_owned()),
            max_batch_tokens: Some(512),
            max_sequences: Some(1),
            ..Scenario::default()
        }
    }
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
    engine: &dyn Backend,
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
