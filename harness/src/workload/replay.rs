//! Replays a trace: its requests at their instants, or its conversations at a rate.
//!
//! A request of a trace has a prompt of its own (`blocks.rs`), whatever was answered before
//! it, and is a session of one turn. A conversation keeps its text and its order; its instants and
//! think times are drawn, since no trace of text has any. Invariant: what does not fit the model is
//! left out and counted, a prompt is never cut; the replay is a function of (trace, seed).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backends::{Nanos, Prompt};
use models::{ChatTokenizer, Special, TemplateError};
use rand::Rng;

use super::blocks::BlockText;
use super::conversation::template_overhead;
use super::distribution::Distribution;
use super::schedule::{OpenLoad, Pace, Schedule, Session, Turn, hash, realised};
use super::session::{NOMINAL_TPOT_S, NOMINAL_TTFT_S, PromptPlan, TemplateOverhead};
use super::trace::{Content, Conversation, Request, Trace};
use crate::random::{Purpose, stream};

/// Ids that no trace has: the prompt of a request without blocks.
const OWN_CONTENT: u64 = 1 << 46;

/// A prompt that a trace fixes as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedPrompt {
    /// The request's number among those that are replayed.
    pub request: usize,
}

/// Makes sessions out of a trace.
#[derive(Debug)]
pub struct Replay {
    trace: Arc<Trace>,
    name: Arc<str>,
    seed: u64,
    think_scale: f64,
    blocks: BlockText,
    block_tokens: u32,
    kept: Kept,
    span_s: f64,
    left_out: BTreeMap<String, u64>,
    lengthened: u64,
}

/// What fits the model.
#[derive(Debug)]
enum Kept {
    Requests(Vec<Request>),
    Conversations(Vec<Counted>),
}

/// The lengths of a conversation in tokens, turn by turn as far as it fits.
#[derive(Debug)]
struct Counted {
    /// Its number in the trace.
    number: usize,
    turns: Vec<CountedTurn>,
}

#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "units are part of names")]
struct CountedTurn {
    prompt_tokens: u32,
    user_tokens: u32,
    output_tokens: u32,
}

/// How a trace is replayed.
#[derive(Debug, Clone, Copy)]
pub struct ReplayOptions {
    /// Everything random comes from it.
    pub seed: u64,
    /// Multiplies think times, where they are drawn.
    pub think_scale: f64,
    /// Prompt and output tokens of a request at most.
    pub context_limit: Option<u32>,
}

impl Replay {
    /// Takes what fits out of a trace.
    pub fn new(
        trace: Arc<Trace>,
        tokenizer: &Arc<ChatTokenizer>,
        options: ReplayOptions,
    ) -> Result<Self, TemplateError> {
        let blocks = BlockText::new(options.seed, tokenizer)?;
        let least = blocks.template_tokens() + 1;
        let limit = options.context_limit.unwrap_or(u32::MAX);
        let (mut lengthened, mut too_long) = (0, 0);
        let mut span_s = f64::INFINITY;
        let kept = match &trace.content {
            Content::Requests(requests) => {
                let mut list = requests.list.clone();
                spread(&mut list, requests.step_s, options.seed);
                span_s = requests.span_s + requests.step_s.unwrap_or(0.0);
                list.retain_mut(|request| {
                    lengthened += u64::from(request.input_tokens < least);
                    request.input_tokens = request.input_tokens.max(least);
                    let total = request.input_tokens.saturating_add(request.output_tokens);
                    too_long += u64::from(total > limit);
                    total <= limit
                });
                Kept::Requests(list)
            }
            Content::Conversations(list) => {
                let overhead = template_overhead(tokenizer)?;
                let mut kept = Vec::new();
                for (number, conversation) in list.iter().enumerate() {
                    let turns = counted(conversation, tokenizer, overhead, limit);
                    too_long += (conversation.exchanges.len() - turns.len()) as u64;
                    kept.extend((!turns.is_empty()).then_some(Counted { number, turns }));
                }
                Kept::Conversations(kept)
            }
        };
        let mut left_out = trace.left_out.clone();
        if too_long > 0 {
            left_out.insert(format!("longer than {limit} tokens"), too_long);
        }
        Ok(Self {
            name: trace.kind.name().into(),
            seed: options.seed,
            think_scale: options.think_scale,
            blocks,
            block_tokens: trace.kind.block_tokens().unwrap_or(u32::MAX),
            trace,
            kept,
            span_s,
            left_out,
            lengthened,
        })
    }

    /// Nothing is left to replay?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does the trace say when its requests came?
    pub fn has_instants(&self) -> bool {
        matches!(self.kept, Kept::Requests(_))
    }

    /// Requests, or conversations, that are replayed.
    pub fn len(&self) -> usize {
        match &self.kept {
            Kept::Requests(list) => list.len(),
            Kept::Conversations(list) => list.len(),
        }
    }

    /// Records that are not replayed, by reason.
    pub fn left_out(&self) -> &BTreeMap<String, u64> {
        &self.left_out
    }

    /// Prompt and output tokens of the longest request.
    pub fn longest_request(&self) -> u32 {
        let longest = match &self.kept {
            Kept::Requests(list) => {
                let total = |r: &Request| r.input_tokens.saturating_add(r.output_tokens);
                list.iter().map(total).max()
            }
            Kept::Conversations(list) => {
                let total = |turn: &CountedTurn| turn.prompt_tokens + turn.output_tokens;
                list.iter().flat_map(|c| &c.turns).map(total).max()
            }
        };
        longest.unwrap_or(0)
    }

    /// The prompt of a request.
    pub fn prompt(&self, fixed: FixedPrompt) -> Prompt {
        let (ids, tokens) = self.request(fixed);
        let own = [OWN_CONTENT | fixed.request as u64];
        let ids = if ids.is_empty() { &own[..] } else { ids };
        self.blocks.prompt(ids, self.block_tokens, tokens)
    }

    /// The block ids of a request and its prompt's tokens.
    fn request(&self, fixed: FixedPrompt) -> (&[u64], u32) {
        match (&self.kept, &self.trace.content) {
            (Kept::Requests(list), Content::Requests(requests)) => {
                let request = &list[fixed.request];
                (requests.blocks(request), request.input_tokens)
            }
            _ => unreachable!("conversations have no fixed prompts"),
        }
    }

    /// The open-loop schedule.
    pub fn open(&self, load: &OpenLoad<'_>) -> Schedule {
        let starts: Vec<(usize, f64)> = match (&self.kept, load.pace) {
            (Kept::Requests(list), Pace::Trace { time_scale }) => {
                let at = |(index, request): (usize, &Request)| (index, request.at_s * time_scale);
                list.iter().enumerate().map(at).collect()
            }
            (Kept::Conversations(_), Pace::Trace { .. }) => {
                unreachable!("the plan refuses instants of conversations")
            }
            (_, Pace::Process { arrivals, rate }) => {
                let rng = stream(self.seed, Purpose::Arrivals, 0);
                let rate = rate / self.mean_turns();
                let instants = arrivals.instants_s(rate, load.curve, load.end_s, rng);
                let cycle = (0..self.len()).cycle();
                cycle.zip(instants.filter(|t| *t >= 0.0)).collect()
            }
        };
        let mut sessions: Vec<Session> = (0..)
            .zip(starts)
            .filter(|&(_, (_, at_s))| at_s < load.end_s)
            .map(|(number, (index, at_s))| self.make(index, number, at_s, load.end_s))
            .collect();
        sessions.sort_by_key(|session| session.turns[0].nominal);
        let mut end_s = load.end_s;
        if let Some(beyond) = load.cut_at(&sessions) {
            end_s = beyond;
            for session in &mut sessions {
                session
                    .turns
                    .retain(|turn| turn.nominal < Nanos::from_secs_f64(beyond));
            }
            sessions.retain(|session| !session.turns.is_empty());
        }
        if let Pace::Trace { time_scale } = load.pace {
            end_s = end_s.min(self.span_s * time_scale);
        }
        let starts = sessions
            .iter()
            .map(|session| session.turns[0].nominal.as_secs_f64());
        let mut found = realised(&sessions, &starts.collect::<Vec<f64>>());
        found.ideal_prefix_hit = self.ideal_hit(&sessions);
        found.left_out = self.left_out.clone();
        found.lengthened = self.lengthened;
        found.repeated = sessions.len().saturating_sub(self.len()) as u64;
        Schedule {
            hash: hash(&sessions),
            end_s,
            sessions,
            realised: found,
            requested: None,
        }
    }

    /// Session `index` of a closed loop; behind the last comes the first again.
    pub fn make_closed(&self, index: u64) -> Session {
        let place = (index % self.len() as u64) as usize;
        self.make(place, index, 0.0, f64::INFINITY)
    }

    /// Turns of a session on average.
    pub fn mean_turns(&self) -> f64 {
        match &self.kept {
            Kept::Requests(_) => 1.0,
            Kept::Conversations(list) => {
                let turns: usize = list
                    .iter()
                    .map(|conversation| conversation.turns.len())
                    .sum();
                turns as f64 / list.len() as f64
            }
        }
    }

    fn make(&self, index: usize, number: u64, at_s: f64, end_s: f64) -> Session {
        match &self.kept {
            Kept::Requests(list) => self.one_turn(&list[index], index, at_s),
            Kept::Conversations(list) => self.talk(&list[index], number, at_s, end_s),
        }
    }

    fn one_turn(&self, request: &Request, index: usize, at_s: f64) -> Session {
        let user_tokens = request.input_tokens - self.blocks.template_tokens();
        Session {
            index: request.session,
            class: Arc::clone(&self.name),
            system: None,
            past: Vec::new(),
            turns: vec![Turn {
                turn: request.turn,
                nominal: Nanos::from_secs_f64(at_s),
                user: String::new(),
                injected: String::new(),
                fixed: Some(FixedPrompt { request: index }),
                prompt: PromptPlan {
                    first_turn: 0,
                    user_tokens,
                    injected_tokens: 0,
                    prompt_tokens: request.input_tokens,
                    truncated: false,
                },
                output_tokens: request.output_tokens,
                cancel_after: None,
                think: Nanos::ZERO,
                seed: self.seed ^ index as u64,
            }],
        }
    }

    fn talk(&self, from: &Counted, number: u64, start_s: f64, end_s: f64) -> Session {
        let Content::Conversations(texts) = &self.trace.content else {
            unreachable!("requests are not conversations")
        };
        let text = &texts[from.number];
        let mut rng = stream(self.seed, Purpose::Trace, number);
        let think = think_time();
        let mut at_s = start_s;
        let mut turns = Vec::new();
        for (place, (counted, (user, _))) in (0..).zip(from.turns.iter().zip(&text.exchanges)) {
            if at_s >= end_s {
                break;
            }
            let think_s = think.sample(&mut rng, 0.0) * self.think_scale;
            turns.push(Turn {
                turn: place,
                nominal: Nanos::from_secs_f64(at_s),
                user: user.clone(),
                injected: String::new(),
                fixed: None,
                prompt: PromptPlan {
                    first_turn: 0,
                    user_tokens: counted.user_tokens,
                    injected_tokens: 0,
                    prompt_tokens: counted.prompt_tokens,
                    truncated: false,
                },
                output_tokens: counted.output_tokens,
                cancel_after: None,
                think: Nanos::from_secs_f64(think_s),
                seed: self.seed ^ (number << 8) ^ u64::from(place),
            });
            at_s += NOMINAL_TTFT_S + NOMINAL_TPOT_S * f64::from(counted.output_tokens) + think_s;
        }
        Session {
            index: number,
            class: Arc::clone(&self.name),
            system: text.system.clone(),
            past: Vec::new(),
            turns,
        }
    }

    /// Share of prompt tokens that an unbounded prefix cache would hold. By blocks where there are
    /// ids; in conversations each turn finds the one before with its answer.
    pub fn ideal_hit(&self, sessions: &[Session]) -> Option<f64> {
        let (mut held, mut all) = (0_u64, 0_u64);
        let mut seen: BTreeSet<u64> = BTreeSet::new();
        for session in sessions {
            let mut before = 0;
            for turn in &session.turns {
                let prompt = turn.prompt.prompt_tokens;
                all += u64::from(prompt);
                held += match turn.fixed {
                    Some(fixed) => {
                        let (ids, _) = self.request(fixed);
                        let known = ids.iter().take_while(|id| seen.contains(*id)).count() as u64;
                        seen.extend(ids);
                        (known * u64::from(self.block_tokens)).min(u64::from(prompt))
                    }
                    None => u64::from(std::mem::replace(&mut before, prompt + turn.output_tokens)),
                };
            }
        }
        (all > 0).then(|| held as f64 / all as f64)
    }
}

/// Think times are not in traces of text; Mooncake's conversation trace has LN(4.74, 1.12) s, which
/// fits 3,830 pairs of turns with a KS distance of 0.033.
fn think_time() -> Distribution {
    Distribution::Lognormal {
        mu: 4.74,
        sigma: 1.12,
        min: 3.0,
        max: 3600.0,
    }
}

/// Spreads instants that were rounded to a coarse step evenly over it.
fn spread(list: &mut [Request], step_s: Option<f64>, seed: u64) {
    let Some(step_s) = step_s else { return };
    let mut rng = stream(seed, Purpose::Trace, 0);
    for request in &mut *list {
        request.at_s += step_s * rng.random::<f64>();
    }
    list.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
}

/// The turns of a conversation up to the first that does not fit.
fn counted(
    conversation: &Conversation,
    tokenizer: &ChatTokenizer,
    overhead: TemplateOverhead,
    limit: u32,
) -> Vec<CountedTurn> {
    let count = |text: &str| tokenizer.encode(text, Special::Plain).len() as u32;
    let mut prompt_tokens = match &conversation.system {
        Some(system) => overhead.with_system + count(system),
        None => overhead.without_system,
    };
    let mut turns = Vec::new();
    for (user, answer) in &conversation.exchanges {
        let (user_tokens, output_tokens) = (count(user), count(answer));
        prompt_tokens += user_tokens;
        if prompt_tokens.saturating_add(output_tokens) > limit {
            break;
        }
        turns.push(CountedTurn {
            prompt_tokens,
            user_tokens,
            output_tokens,
        });
        prompt_tokens += output_tokens + overhead.exchange;
    }
    turns
}
