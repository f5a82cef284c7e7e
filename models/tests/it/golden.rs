//! The real model against llama.cpp, if the model is in the cache and the golden data is there.
//!
//! Every test feeds the golden tokens (teacher forcing). Before the first tie that is the same as
//! comparing free greedy continuations: as long as the best tokens agree, so do the inputs.

use crate::cpu;
use models::{
    BLOCK_TOKENS, ChatTokenizer, KvCache, KvFormat, Message, Model, ModelSource, SamplingParams,
    SequenceStep, Special, TensorDevice, WeightsDtype, load_tokenizer, sample, store,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::path::{Path, PathBuf};

/// Two tokens closer than this many nats count as equally probable.
const TIE: f64 = 0.02;

#[derive(Deserialize)]
struct TokenizerCase {
    text: String,
    ids: Vec<u32>,
    ids_parse_special: Vec<u32>,
}

#[derive(Deserialize)]
struct GreedyCase {
    messages: Vec<Message>,
    prompt: String,
    prompt_token_ids: Vec<u32>,
    greedy_token_ids: Vec<u32>,
    /// The five best tokens, best first, of every step whose token completes a character:
    /// llama.cpp's server reports nothing for the others.
    top5_logprobs: Vec<Best>,
}

type Best = Vec<(u32, f64)>;

impl GreedyCase {
    /// What is fed to get the logits of a step, and how many tokens come before it.
    fn input(&self, step: usize) -> (&[u32], usize) {
        match step.checked_sub(1) {
            None => (&self.prompt_token_ids, 0),
            Some(last) => (
                &self.greedy_token_ids[last..=last],
                self.prompt_token_ids.len() + last,
            ),
        }
    }

    /// The five best tokens of every step, where they were recorded.
    fn aligned(&self, chat: &ChatTokenizer) -> Vec<Option<&Best>> {
        let mut recorded = self.top5_logprobs.iter();
        let mut pending = Vec::new();
        let steps = self.greedy_token_ids.iter().map(|id| {
            pending.extend(chat.token_bytes(*id));
            if std::str::from_utf8(&pending).is_err() {
                return None;
            }
            pending.clear();
            let best = recorded.next().unwrap();
            assert_eq!(best[0].0, *id);
            Some(best)
        });
        let steps = steps.collect();
        assert!(recorded.next().is_none());
        steps
    }
}

fn is_tie(best: &Best) -> bool {
    best[0].1 - best[1].1 < TIE
}

/// The model and a file of golden data, or the reason why not.
fn find(file: &str) -> Result<(ModelSource, PathBuf), String> {
    let source = ModelSource::parse("smollm2-135m-instruct").unwrap();
    let model = store::path(&store::list()[0]);
    if !model.exists() {
        return Err(format!("{} is not there", model.display()));
    }
    let data = std::env::var_os("WEIGHBRIDGE_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let path = data.join("golden").join(file);
    if !path.exists() {
        return Err(format!("{} is not there", path.display()));
    }
    Ok((source, path))
}

fn lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

macro_rules! find_or_skip {
    ($file:literal) => {
        match find($file) {
            Ok(found) => found,
            Err(reason) => {
                println!("skipped: {reason}");
                return;
            }
        }
    };
}

#[test]
fn texts_have_the_golden_token_ids() {
    let (source, path) = find_or_skip!("tokenizer.jsonl");
    let (_, chat) = load_tokenizer(&source).unwrap();
    let cases: Vec<TokenizerCase> = lines(&path);
    for case in &cases {
        assert_eq!(
            chat.encode(&case.text, Special::Plain),
            case.ids,
            "{:?}",
            case.text
        );
        let parsed = chat.encode(&case.text, Special::Parse);
        assert_eq!(parsed, case.ids_parse_special, "{:?}", case.text);
        assert_eq!(chat.decode(&case.ids), case.text);
    }
    println!("{} texts: all ids equal", cases.len());
}

#[test]
fn conversations_have_the_golden_prompts() {
    let (source, path) = find_or_skip!("smollm2-135m-instruct.f32.greedy.jsonl");
    let (_, chat) = load_tokenizer(&source).unwrap();
    for case in lines::<GreedyCase>(&path) {
        assert_eq!(chat.render(&case.messages, true).unwrap(), case.prompt);
        assert_eq!(
            chat.encode_chat(&case.messages).unwrap(),
            case.prompt_token_ids
        );
    }
}

/// What teacher forcing found.
#[derive(Debug, Default)]
struct Findings {
    /// Steps whose best five were recorded.
    steps: usize,
    /// Steps that are no ties.
    clear: usize,
    /// Of these, steps with the golden best token.
    agreeing: usize,
    /// Cases whose best tokens all agree up to the first tie.
    equal_to_first_tie: usize,
    /// Cases whose best tokens all agree.
    equal: usize,
    /// Largest difference of the log-probability of one of the golden best five.
    worst: f64,
    /// Mean divergence in nats over six outcomes: the golden best five, and all others together.
    divergence: f64,
}

/// Blocks of a case.
const BLOCKS: usize = 4;

/// Runs all cases side by side through a forward pass that gives the logits of each step. Every
/// golden token is a step of its own, so that its logits are seen, and [`TOGETHER`] of them share
/// a pass, so that the test is quick.
fn teacher_forced(
    chat: &ChatTokenizer,
    mut forward: impl FnMut(&[SequenceStep<'_>]) -> Vec<Vec<f32>>,
    cases: &[GreedyCase],
    most_steps: usize,
) -> Findings {
    const TOGETHER: usize = 16;
    let tables: Vec<u32> = (0..(cases.len() * BLOCKS) as u32).collect();
    let mut findings = Findings::default();
    let mut first_miss = vec![usize::MAX; cases.len()];
    let golden: Vec<_> = cases.iter().map(|case| case.aligned(chat)).collect();
    let longest = golden.iter().map(Vec::len).max().unwrap().min(most_steps);
    for first in (0..longest).step_by(TOGETHER) {
        let mut batch = Vec::new();
        let mut places = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            let blocks = &tables[index * BLOCKS..(index + 1) * BLOCKS];
            for step in first..golden[index].len().min(longest).min(first + TOGETHER) {
                let (tokens, start) = case.input(step);
                assert!(start + tokens.len() <= BLOCKS * BLOCK_TOKENS);
                batch.push(SequenceStep {
                    tokens,
                    start,
                    blocks,
                    logits: true,
                });
                places.push((index, step));
            }
        }
        let logits = forward(&batch);
        for (logits, (index, step)) in logits.iter().zip(places) {
            let agrees = best_token(logits) == cases[index].greedy_token_ids[step];
            if !agrees {
                first_miss[index] = first_miss[index].min(step);
            }
            if let Some(best) = golden[index][step] {
                findings.take(best, agrees, logits);
            }
        }
    }
    for (golden, first_miss) in golden.iter().zip(first_miss) {
        let first_tie = golden.iter().position(|best| best.is_some_and(is_tie));
        findings.equal_to_first_tie += usize::from(first_miss >= first_tie.unwrap_or(usize::MAX));
        findings.equal += usize::from(first_miss == usize::MAX);
    }
    findings.divergence /= findings.steps as f64;
    findings
}

impl Findings {
    /// Every token is the golden one, but for ties.
    #[expect(clippy::print_stdout, reason = "how near it was, for those who ask")]
    fn are_golden(&self, cases: &[GreedyCase]) {
        println!("{} cases: {self:?}", cases.len());
        assert_eq!(self.equal_to_first_tie, cases.len());
        assert_eq!(self.agreeing, self.clear);
        assert!(self.worst <= 0.01, "{}", self.worst);
    }

    /// Compares one row of logits with the golden best five.
    fn take(&mut self, golden: &Best, agrees: bool, logits: &[f32]) {
        let maximum = f64::from(logits[best_token(logits) as usize]);
        let total: f64 = logits
            .iter()
            .map(|logit| (f64::from(*logit) - maximum).exp())
            .sum();
        let (mut rest, mut golden_rest) = (1.0, 1.0);
        for (id, golden) in golden {
            let found = f64::from(logits[*id as usize]) - maximum - total.ln();
            self.worst = self.worst.max((found - golden).abs());
            self.divergence += golden.exp() * (golden - found);
            rest -= found.exp();
            golden_rest -= golden.exp();
        }
        if golden_rest > 1e-6 {
            self.divergence += golden_rest * (golden_rest / rest.max(1e-12)).ln();
        }
        self.steps += 1;
        if !is_tie(golden) {
            self.clear += 1;
            self.agreeing += usize::from(agrees);
        }
    }
}

fn best_token(logits: &[f32]) -> u32 {
    let greedy = SamplingParams {
        temperature: 0.0,
        top_k: None,
        top_p: None,
        seed: 0,
    };
    sample(logits, &greedy, 0)
}

/// The project's own forward pass, with a cache for so many cases.
fn own(
    model: &Model,
    format: KvFormat,
    cases: usize,
) -> impl FnMut(&[SequenceStep<'_>]) -> Vec<Vec<f32>> {
    let mut cache = KvCache::new(model.llama.config(), cases * BLOCKS, format).unwrap();
    let mut cpu = cpu(2);
    move |batch| {
        let logits = model.llama.forward(&mut cpu, &mut cache, batch).unwrap();
        (0..logits.rows())
            .map(|row| logits.row(row).to_vec())
            .collect()
    }
}

#[test]
fn with_f32_weights_the_continuations_are_llama_cpps() {
    let (source, path) = find_or_skip!("smollm2-135m-instruct.f32.greedy.jsonl");
    let cases: Vec<GreedyCase> = lines(&path);
    let model = Model::load(&source, WeightsDtype::F32).unwrap();
    let forward = own(&model, KvFormat::F32, cases.len());
    let findings = teacher_forced(&model.chat, forward, &cases, 64);
    findings.are_golden(&cases);
}

#[test]
fn so_they_are_through_candle_s_kernels() {
    let (source, path) = find_or_skip!("smollm2-135m-instruct.f32.greedy.jsonl");
    let cases: Vec<GreedyCase> = lines(&path);
    let model = Model::load_on(TensorDevice::Cpu, &source, WeightsDtype::F32).unwrap();
    let mut cache = model
        .llama
        .cache(cases.len() * BLOCKS, KvFormat::F32)
        .unwrap();
    let forward = |batch: &[SequenceStep<'_>]| {
        let logits = model.llama.forward(&mut cache, batch).unwrap();
        logits.to_rows().unwrap()
    };
    let findings = teacher_forced(&model.chat, forward, &cases, 64);
    findings.are_golden(&cases);
}

#[test]
fn with_stored_weights_the_distribution_stays_close() {
    let (source, path) = find_or_skip!("smollm2-135m-instruct.f32.greedy.jsonl");
    let cases: Vec<GreedyCase> = lines(&path);
    let model = Model::load(&source, WeightsDtype::AsStored).unwrap();
    let forward = own(&model, KvFormat::F16, cases.len());
    let findings = teacher_forced(&model.chat, forward, &cases, 24);
    println!("{} cases: {findings:?}", cases.len());
    assert!(findings.agreeing as f64 >= 0.97 * findings.clear as f64);
    assert!(findings.divergence <= 0.02, "{}", findings.divergence);
}
