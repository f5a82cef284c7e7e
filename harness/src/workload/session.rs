//! A conversation as a plan: how long each message is, and when it would come.
//!
//! Invariant: session `i` depends on `(seed, i)` and the workload alone, not on the target, so the
//! same load meets every accelerator. Lengths are planned in tokens; text comes later
//! ([`super::text`]). A turn's instant is *nominal*: it assumes an answer that takes half a second
//! and 50 ms for each token, whatever the target really takes.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Zipf};

use super::spec::{Class, WorkloadSpec};
use crate::random::{Purpose, stream};

/// Seconds to the first token that the nominal schedule assumes.
pub(super) const NOMINAL_TTFT_S: f64 = 0.5;
/// Seconds for each output token that the nominal schedule assumes.
pub(super) const NOMINAL_TPOT_S: f64 = 0.05;

/// A planned conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionPlan {
    /// Its number.
    pub index: u64,
    /// Index of its class in the workload.
    pub class: usize,
    /// Role card: its number and its tokens.
    pub persona: Option<(u64, u32)>,
    /// Its turns.
    pub turns: Vec<TurnPlan>,
}

/// A planned turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TurnPlan {
    /// Seconds after the start of the session, nominally.
    pub offset_s: f64,
    /// Tokens of the user's message.
    pub user_tokens: u32,
    /// Tokens put before it and not kept.
    pub injected_tokens: u32,
    /// Output tokens asked for.
    pub output_tokens: u32,
    /// The user stops the answer after this many tokens.
    pub cancel_after: Option<u32>,
    /// Seconds between the answer's end and the next message.
    pub think_s: f64,
}

impl TurnPlan {
    /// Output tokens that the user gets to see.
    pub fn received_tokens(&self) -> u32 {
        self.cancel_after.unwrap_or(self.output_tokens)
    }
}

/// Tokens that a chat template puts around the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateOverhead {
    /// Around a lone user message.
    pub without_system: u32,
    /// Around a system and a user message together.
    pub with_system: u32,
    /// Around each past message and its answer together.
    pub exchange: u32,
}

/// Draws session `index`.
pub fn plan_session(spec: &WorkloadSpec, seed: u64, index: u64) -> SessionPlan {
    let mut rng = stream(seed, Purpose::Session, index);
    let class_index = draw_class(spec, &mut rng);
    let class = &spec.classes[class_index];
    let count = class
        .turns
        .sample(&mut rng)
        .min(spec.max_turns.unwrap_or(u32::MAX));
    let persona = class.persona.as_ref().map(|persona| {
        let zipf = Zipf::new(f64::from(persona.pool), persona.zipf_s).expect("checked");
        let card = zipf.sample(&mut rng) as u64;
        // A card's length belongs to the card, not to the session.
        let mut card_rng = stream(seed, Purpose::SharedText, card);
        let tokens = scaled(spec, persona.tokens.sample(&mut card_rng, 0.0));
        (card, tokens.min(spec.context_limit / 4))
    });
    let mut offset_s = 0.0;
    let turns = (0..count)
        .map(|turn| {
            let plan = plan_turn(spec, class, turn, offset_s, &mut rng);
            let answer_s = NOMINAL_TTFT_S + NOMINAL_TPOT_S * f64::from(plan.received_tokens());
            offset_s += answer_s + plan.think_s;
            plan
        })
        .collect();
    SessionPlan {
        index,
        class: class_index,
        persona,
        turns,
    }
}

fn draw_class(spec: &WorkloadSpec, rng: &mut ChaCha8Rng) -> usize {
    let total: f64 = spec.classes.iter().map(|class| class.session_share).sum();
    let mut left = rng.random::<f64>() * total;
    let chosen = spec.classes.iter().position(|class| {
        left -= class.session_share;
        left < 0.0
    });
    chosen.unwrap_or(spec.classes.len() - 1)
}

fn plan_turn(
    spec: &WorkloadSpec,
    class: &Class,
    turn: u32,
    offset_s: f64,
    rng: &mut ChaCha8Rng,
) -> TurnPlan {
    let law = if turn == 0 {
        &class.user_first
    } else {
        &class.user_next
    };
    let user = law.sample(rng, 0.0);
    let injected = class.injected.as_ref().map_or(0.0, |injected| {
        let tokens = injected.tokens.sample(rng, 0.0);
        if rng.random::<f64>() < injected.probability {
            tokens
        } else {
            0.0
        }
    });
    let output = scaled(spec, class.output.sample(rng, user));
    let output_tokens = output.min(spec.max_output.unwrap_or(u32::MAX));
    let mut think_s = class.think.sample(rng, 0.0) * spec.think_scale;
    if let Some(resume) = &spec.resume {
        let pause_s = resume.pause.sample(rng, 0.0);
        if rng.random::<f64>() < resume.probability {
            think_s = pause_s;
        }
    }
    // Both are drawn always, so that switching cancels off changes nothing else.
    let (stops, fraction) = (
        rng.random::<f64>() < class.p_cancel,
        0.1 + 0.8 * rng.random::<f64>(),
    );
    let cancel_after = (spec.cancel && stops && output_tokens > 1)
        .then(|| ((f64::from(output_tokens) * fraction) as u32).clamp(1, output_tokens - 1));
    TurnPlan {
        offset_s,
        user_tokens: scaled(spec, user),
        injected_tokens: if injected > 0.0 {
            scaled(spec, injected)
        } else {
            0
        },
        output_tokens,
        cancel_after,
        think_s,
    }
}

fn scaled(spec: &WorkloadSpec, tokens: f64) -> u32 {
    ((tokens * spec.length_scale).round() as u32).max(1)
}

/// A turn's prompt after the history was cut to fit the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptPlan {
    /// The first turn that is still part of the history.
    pub first_turn: usize,
    /// Tokens of the user's message after cutting.
    pub user_tokens: u32,
    /// Tokens put before it, after cutting.
    pub injected_tokens: u32,
    /// The whole prompt.
    pub prompt_tokens: u32,
    /// Something had to be cut.
    pub truncated: bool,
}

/// The prompt of turn `turn`: system prompt, persona, history, injected material and message, in
/// at most `context_limit` tokens with the output. Oldest turns go first, then injected material,
/// then the end of the message itself.
pub fn plan_prompt(
    spec: &WorkloadSpec,
    session: &SessionPlan,
    turn: usize,
    overhead: TemplateOverhead,
) -> PromptPlan {
    let plan = &session.turns[turn];
    let persona = session.persona.map_or(0, |(_, tokens)| tokens);
    let system = spec.system_prompt_tokens + persona;
    let around = if system > 0 {
        overhead.with_system
    } else {
        overhead.without_system
    };
    let room = spec.context_limit.saturating_sub(plan.output_tokens);
    let fixed = system + around;
    if spec.whole_prompt {
        let user_tokens = plan.user_tokens.saturating_sub(fixed).max(1);
        let prompt_tokens = user_tokens + fixed;
        let (first_turn, injected_tokens, truncated) = (0, 0, false);
        return PromptPlan {
            first_turn,
            user_tokens,
            injected_tokens,
            prompt_tokens,
            truncated,
        };
    }
    let exchange = |past: &TurnPlan| past.user_tokens + past.received_tokens() + overhead.exchange;
    let mut history: u32 = session.turns[..turn].iter().map(exchange).sum();
    let mut first_turn = 0;
    let now = plan.user_tokens + plan.injected_tokens;
    while first_turn < turn && fixed + history + now > room {
        history -= exchange(&session.turns[first_turn]);
        first_turn += 1;
    }
    let over = (fixed + history + now).saturating_sub(room);
    let injected_tokens = plan.injected_tokens.saturating_sub(over);
    let over = over.saturating_sub(plan.injected_tokens);
    let user_tokens = plan.user_tokens.saturating_sub(over).max(1);
    PromptPlan {
        first_turn,
        user_tokens,
        injected_tokens,
        prompt_tokens: fixed + history + user_tokens + injected_tokens,
        truncated: first_turn > 0 || over > 0 || injected_tokens < plan.injected_tokens,
    }
}

/// The prompts of all turns. A message that was cut stays cut when it becomes history.
pub fn plan_prompts(
    spec: &WorkloadSpec,
    session: &mut SessionPlan,
    overhead: TemplateOverhead,
) -> Vec<PromptPlan> {
    let prompts = (0..session.turns.len()).map(|turn| {
        let prompt = plan_prompt(spec, session, turn, overhead);
        session.turns[turn].user_tokens = prompt.user_tokens;
        prompt
    });
    prompts.collect()
}

/// Tokens of each prompt that an unbounded prefix cache holds: the system prompt always, and all of
/// the turn before with its answer, up to material that was not kept. `received` are the tokens of
/// the answers.
pub fn held_tokens(spec: &WorkloadSpec, turns: &[(PromptPlan, u32)]) -> u64 {
    let mut held = 0;
    for (number, (now, _)) in turns.iter().enumerate() {
        let before = number.checked_sub(1).map(|before| turns[before]);
        let reach = match before {
            Some((last, received)) if last.first_turn == now.first_turn => {
                match last.injected_tokens {
                    0 => last.prompt_tokens + received,
                    // What follows the injected material stands elsewhere now.
                    injected => last.prompt_tokens - injected - last.user_tokens,
                }
            }
            _ => spec.system_prompt_tokens,
        };
        held += u64::from(reach.min(now.prompt_tokens));
    }
    held
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
