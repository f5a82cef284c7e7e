//! All conversations of a run, with their text.
//!
//! Open loop: every instant is fixed here, before the run, from `(seed, workload, rate)`; its hash
//! is the same for every target. Closed loop: users take their next conversation when they are done
//! with the last, so only the conversations are fixed.
//!
//! Invariant: making a session twice gives the same session, whatever else was made before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backends::Nanos;
use models::{ChatTokenizer, TemplateError};
use reports::schema::RealisedWorkload;
use reports::stats::{Quantile, nearest_rank};
use sha2::{Digest, Sha256};

use super::conversation::template_overhead;
use super::rate::{RateCurve, RateShape};
use super::replay::FixedPrompt;
use super::session::{
    NOMINAL_TPOT_S, NOMINAL_TTFT_S, PromptPlan, SessionPlan, TemplateOverhead, held_tokens,
    plan_prompts, plan_session,
};
use super::spec::WorkloadSpec;
use super::text::TextMaker;
use crate::arrivals::Arrivals;
use crate::random::{Purpose, stream};

/// Longest time before the run in which a session that still goes on may have begun.
const LOOKBACK_S: f64 = 3600.0;

/// A conversation ready to be held.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Its number.
    pub index: u64,
    /// Its class.
    pub class: Arc<str>,
    /// System prompt with the role card.
    pub system: Option<String>,
    /// Exchanges before the run, with scripted answers.
    pub past: Vec<(String, String)>,
    /// Turns in the run.
    pub turns: Vec<Turn>,
}

/// A turn ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Position in the conversation.
    pub turn: u32,
    /// The schedule's instant; in closed loop the offset from the session's start.
    pub nominal: Nanos,
    /// The message.
    pub user: String,
    /// Material before it.
    pub injected: String,
    /// A prompt that does not come from the conversation, in place of the message.
    pub fixed: Option<FixedPrompt>,
    /// What the prompt is made of.
    pub prompt: PromptPlan,
    /// Output tokens asked for.
    pub output_tokens: u32,
    /// The user stops after this many.
    pub cancel_after: Option<u32>,
    /// From the end of the answer to the next message.
    pub think: Nanos,
    /// Seed of the sampler.
    pub seed: u64,
}

impl Session {
    /// Seconds from each turn to the next, nominally.
    pub fn cycles_s(&self) -> Vec<f64> {
        let cycle_s = |turn: &Turn| {
            let received = turn.cancel_after.unwrap_or(turn.output_tokens);
            turn.think.as_secs_f64() + NOMINAL_TTFT_S + NOMINAL_TPOT_S * f64::from(received)
        };
        self.turns.iter().map(cycle_s).collect()
    }
}

/// What an open loop is to be like.
#[derive(Debug, Clone, Copy)]
pub struct OpenLoad<'a> {
    /// When sessions begin.
    pub pace: Pace,
    /// How the rate changes.
    pub curve: &'a RateCurve,
    /// Start of the measured window in seconds.
    pub window_s: f64,
    /// No request is due from here on, in seconds.
    pub end_s: f64,
    /// Requests at most.
    pub max_requests: Option<u64>,
}

/// When the sessions of an open loop begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// A process at a number of *requests* per second.
    Process {
        /// The law of the gaps.
        arrivals: Arrivals,
        /// Requests per second, before the curve.
        rate: f64,
    },
    /// As in the trace.
    Trace {
        /// Multiplies its time.
        time_scale: f64,
    },
}

impl OpenLoad<'_> {
    /// Where a schedule of too many requests ends: at the first that is too many, in seconds.
    pub(super) fn cut_at(&self, sessions: &[Session]) -> Option<f64> {
        let max = self.max_requests? as usize;
        let turns = sessions.iter().flat_map(|session| &session.turns);
        let mut instants: Vec<Nanos> = turns.map(|turn| turn.nominal).collect();
        instants.sort_unstable();
        instants.get(max).map(|instant| instant.as_secs_f64())
    }
}

/// Makes the sessions of one run.
#[derive(Debug)]
pub struct SessionMaker {
    spec: WorkloadSpec,
    seed: u64,
    text: TextMaker,
    overhead: TemplateOverhead,
    classes: Vec<Arc<str>>,
}

impl SessionMaker {
    /// For one workload, seed and tokenizer.
    pub fn new(
        spec: WorkloadSpec,
        seed: u64,
        tokenizer: Arc<ChatTokenizer>,
    ) -> Result<Self, TemplateError> {
        let overhead = template_overhead(&tokenizer)?;
        let classes = spec
            .classes
            .iter()
            .map(|class| Arc::from(class.id.as_str()))
            .collect();
        Ok(Self {
            spec,
            seed,
            text: TextMaker::new(tokenizer),
            overhead,
            classes,
        })
    }

    /// What the chat template adds.
    pub fn overhead(&self) -> TemplateOverhead {
        self.overhead
    }

    /// Characters of the text for a token of the model.
    pub fn characters_per_token(&self) -> f64 {
        self.text.characters_per_token()
    }

    /// Session `index` as lengths.
    fn plan(&self, index: u64) -> (SessionPlan, Vec<PromptPlan>) {
        let mut session = plan_session(&self.spec, self.seed, index);
        let prompts = plan_prompts(&self.spec, &mut session, self.overhead);
        (session, prompts)
    }

    /// Session `index` with its text. It begins at `start_s`; turns before 0 become its past, and
    /// turns from `end_s` on are left out.
    fn make(&self, index: u64, start_s: f64, end_s: f64) -> Session {
        let (session, prompts) = self.plan(index);
        let class = Arc::clone(&self.classes[session.class]);
        let (mut past, mut turns) = (Vec::new(), Vec::new());
        for (number, (plan, prompt)) in session.turns.iter().zip(prompts).enumerate() {
            let at_s = start_s + plan.offset_s;
            if at_s >= end_s {
                break;
            }
            let mut rng = stream(self.seed, Purpose::Text, (index << 8) | number as u64);
            let user = self
                .text
                .user(&class, number == 0, plan.user_tokens, &mut rng);
            if at_s < 0.0 {
                let tokens = plan.received_tokens();
                past.push((user, self.text.reply(&class, tokens, &mut rng)));
                continue;
            }
            let injected = match prompt.injected_tokens {
                0 => String::new(),
                tokens => self.text.injected(tokens, &mut rng),
            };
            turns.push(Turn {
                turn: number as u32,
                nominal: Nanos::from_secs_f64(at_s),
                user,
                injected,
                fixed: None,
                prompt,
                output_tokens: plan.output_tokens,
                cancel_after: plan.cancel_after,
                think: Nanos::from_secs_f64(plan.think_s),
                seed: self.seed ^ (index << 8) ^ number as u64,
            });
        }
        Session {
            index,
            class,
            system: self.system(&session),
            past,
            turns,
        }
    }

    fn system(&self, session: &SessionPlan) -> Option<String> {
        let mut system = match self.spec.system_prompt_tokens {
            0 => String::new(),
            tokens => self.text.system(tokens),
        };
        if let Some((card, tokens)) = session.persona {
            let mut rng = stream(self.seed, Purpose::SharedText, card);
            system.push_str(&self.text.persona(tokens, &mut rng));
        }
        (!system.is_empty()).then_some(system)
    }

    /// The whole session, for a user of a closed loop.
    pub fn make_closed(&self, index: u64) -> Session {
        self.make(index, 0.0, f64::INFINITY)
    }

    /// Seconds from each turn of session `index` to the next, nominally.
    pub fn cycles_s(&self, index: u64) -> Vec<f64> {
        let turns = plan_session(&self.spec, self.seed, index).turns;
        let answer_s = |tokens| NOMINAL_TTFT_S + NOMINAL_TPOT_S * f64::from(tokens);
        let cycles = turns
            .iter()
            .map(|turn| turn.think_s + answer_s(turn.received_tokens()));
        cycles.collect()
    }

    /// How the rate changes over a run of `end_s` seconds, from the first session that can reach
    /// into it.
    pub fn curve(&self, window_s: f64, end_s: f64) -> RateCurve {
        curve(&self.spec, self.seed, window_s, end_s)
    }

    /// The open-loop schedule: arrivals at a rate of requests over a time, with at most
    /// `max_requests` of them.
    ///
    /// # Panics
    /// With the pace of a trace, which a specification does not have.
    pub fn open(&self, load: &OpenLoad<'_>) -> Schedule {
        let Pace::Process { arrivals, rate } = load.pace else {
            panic!("a specification has no instants of a trace");
        };
        let starts = session_starts(&self.spec, self.seed, (arrivals, rate), load);
        let starts: Vec<(u64, f64)> = (0..).zip(starts).collect();
        let mut instants: Vec<(f64, u64)> = Vec::new();
        for &(index, start_s) in &starts {
            let turns = plan_session(&self.spec, self.seed, index).turns;
            let at = turns.iter().map(|turn| start_s + turn.offset_s);
            let due = at.filter(|t| (0.0..load.end_s).contains(t));
            instants.extend(due.map(|t| (t, index)));
        }
        instants.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut end_s = load.end_s;
        if let Some(&(beyond, _)) = load.max_requests.and_then(|max| instants.get(max as usize)) {
            end_s = beyond;
            instants.truncate(load.max_requests.unwrap_or_default() as usize);
        }
        let wanted: BTreeSet<u64> = instants.iter().map(|(_, index)| *index).collect();
        let mut sessions: Vec<Session> = starts
            .iter()
            .filter(|(index, _)| wanted.contains(index))
            .map(|&(index, start_s)| self.make(index, start_s, end_s))
            .collect();
        sessions.sort_by_key(|session| (session.turns[0].nominal, session.index));
        let in_run: Vec<f64> = starts
            .iter()
            .map(|(_, t)| *t)
            .filter(|t| *t >= 0.0)
            .collect();
        let mut found = realised(&sessions, &in_run);
        found.ideal_prefix_hit = self.ideal_hit(&sessions);
        Schedule {
            hash: hash(&sessions),
            requested: (end_s > load.window_s).then(|| {
                let span = (load.window_s, end_s);
                let requests = rate * load.curve.mean_factor(span) * (span.1 - span.0);
                self.requested(requests, arrivals)
            }),
            end_s,
            sessions,
            realised: found,
        }
    }

    /// So many requests are to be expected, and how far off a right schedule may be: sessions come
    /// by a renewal process and bring several requests each.
    fn requested(&self, requests: f64, arrivals: Arrivals) -> Requested {
        let (mean, square) = (self.spec.mean_turns(), self.spec.mean_square_turns());
        let spread = (square - mean * mean) / mean + arrivals.cv().powi(2) * mean;
        Requested {
            requests,
            sd: (requests * spread).sqrt(),
        }
    }

    /// Share of prompt tokens that an unbounded prefix cache would hold.
    pub fn ideal_hit(&self, sessions: &[Session]) -> Option<f64> {
        let of_turn = |turn: &Turn| {
            let received = turn.cancel_after.unwrap_or(turn.output_tokens);
            (turn.prompt, received)
        };
        let held = |session: &Session| {
            let turns: Vec<_> = session.turns.iter().map(of_turn).collect();
            held_tokens(&self.spec, &turns)
        };
        let held: u64 = sessions.iter().map(held).sum();
        let turns = sessions.iter().flat_map(|session| &session.turns);
        let all: u64 = turns.map(|turn| u64::from(turn.prompt.prompt_tokens)).sum();
        (all > 0).then(|| held as f64 / all as f64)
    }
}

/// All conversations of an open-loop run.
#[derive(Debug)]
pub struct Schedule {
    /// By first instant.
    pub sessions: Vec<Session>,
    /// No request is due from here on, in seconds.
    pub end_s: f64,
    /// What they are like.
    pub realised: RealisedWorkload,
    /// Equal for equal `(seed, workload, rate, tokenizer)`.
    pub hash: String,
    /// What the window was to have, where a rate was asked for.
    pub requested: Option<Requested>,
}

/// Requests that a window is expected to have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Requested {
    /// So many.
    pub requests: f64,
    /// Standard deviation of a right schedule.
    pub sd: f64,
}

/// How the rate of a workload changes over a run of `end_s` seconds, from the first session that
/// can reach into it.
pub(super) fn curve(spec: &WorkloadSpec, seed: u64, window_s: f64, end_s: f64) -> RateCurve {
    let constant = RateShape {
        time_scale: 1.0,
        ..RateShape::default()
    };
    let shape = spec.rate_shape.as_ref().unwrap_or(&constant);
    let resumed = spec.resume.as_ref();
    let longest_pause_s = resumed.map_or(0.0, |resume| resume.pause.largest());
    let lookback_s = if spec.start_in_steady_state {
        LOOKBACK_S + longest_pause_s
    } else {
        0.0
    };
    RateCurve::new(shape, seed, (-lookback_s, end_s), window_s)
}

/// When the sessions of a workload begin, at a rate of *requests*.
pub(super) fn session_starts(
    spec: &WorkloadSpec,
    seed: u64,
    (arrivals, rate): (Arrivals, f64),
    load: &OpenLoad<'_>,
) -> impl Iterator<Item = f64> {
    let rng = stream(seed, Purpose::Arrivals, 0);
    arrivals.instants_s(rate / spec.mean_turns(), load.curve, load.end_s, rng)
}

/// What sessions are like; `starts` are the instants at which sessions began, for the gaps. The
/// prefix cache is left to those who know what is shared.
pub(super) fn realised(sessions: &[Session], starts: &[f64]) -> RealisedWorkload {
    let turns = || sessions.iter().flat_map(|session| &session.turns);
    let sorted = |value: fn(&Turn) -> u64| {
        let mut values: Vec<u64> = turns().map(value).collect();
        values.sort_unstable();
        values
    };
    let prompts = sorted(|turn| u64::from(turn.prompt.prompt_tokens));
    let outputs = sorted(|turn| u64::from(turn.output_tokens));
    let rank = |values: &[u64], quantile| nearest_rank(values, quantile).unwrap_or_default();
    let mean = |values: &[u64]| values.iter().sum::<u64>() as f64 / values.len().max(1) as f64;
    let count = |which: fn(&Turn) -> bool| turns().filter(|turn| which(turn)).count() as u64;
    let mut classes = BTreeMap::new();
    for session in sessions {
        *classes.entry(session.class.to_string()).or_default() += session.turns.len() as u64;
    }
    RealisedWorkload {
        requests: prompts.len() as u64,
        sessions: sessions.len() as u64,
        prompt_tokens_mean: mean(&prompts),
        prompt_tokens_p50: rank(&prompts, Quantile::P50),
        prompt_tokens_p95: rank(&prompts, Quantile::P95),
        output_tokens_mean: mean(&outputs),
        output_tokens_p50: rank(&outputs, Quantile::P50),
        truncated: count(|turn| turn.prompt.truncated),
        cancelled: count(|turn| turn.cancel_after.is_some()),
        arrival_cv: coefficient_of_variation(starts),
        classes,
        ..RealisedWorkload::default()
    }
}

pub(super) fn hash(sessions: &[Session]) -> String {
    let mut digest = Sha256::new();
    for session in sessions {
        digest.update(session.index.to_le_bytes());
        digest.update(session.class.as_bytes());
        for turn in &session.turns {
            digest.update(turn.nominal.0.to_le_bytes());
            digest.update(turn.prompt.prompt_tokens.to_le_bytes());
            digest.update(turn.output_tokens.to_le_bytes());
            digest.update(turn.cancel_after.unwrap_or(0).to_le_bytes());
            digest.update(turn.user.as_bytes());
            let fixed = turn.fixed.map_or(0, |fixed| fixed.request as u64 + 1);
            digest.update(fixed.to_le_bytes());
        }
    }
    let bytes: [u8; 32] = digest.finalize().into();
    let (head, _) = bytes.split_first_chunk().expect("32 bytes have a first 8");
    format!("{:016x}", u64::from_be_bytes(*head))
}

fn coefficient_of_variation(instants: &[f64]) -> Option<f64> {
    let gaps: Vec<f64> = instants.windows(2).map(|pair| pair[1] - pair[0]).collect();
    if gaps.len() < 2 {
        return None;
    }
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance =
        gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / (gaps.len() - 1) as f64;
    (mean > 0.0).then(|| variance.sqrt() / mean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::spec;
    use models::{ModelSource, load_tokenizer};

    fn maker(workload: &str, seed: u64) -> SessionMaker {
        let source = ModelSource::parse("ref-tiny").expect("built in");
        let (_, tokenizer) = load_tokenizer(&source).expect("made in memory");
        let spec = spec::load(workload).expect("built in");
        SessionMaker::new(spec, seed, tokenizer).expect("the template renders")
    }

    fn open_with(maker: &SessionMaker, rate: f64, end_s: f64, max: Option<u64>) -> Schedule {
        let arrivals = Arrivals::Poisson;
        maker.open(&OpenLoad {
            pace: Pace::Process { arrivals, rate },
            curve: &maker.curve(0.0, end_s),
            window_s: 0.0,
            end_s,
            max_requests: max,
        })
    }

    fn open(workload: &str, rate: f64, end_s: f64) -> Schedule {
        open_with(&maker(workload, 3), rate, end_s, None)
    }

    #[test]
    fn the_rate_asked_for_is_the_rate_scheduled_from_the_first_second() {
        // Sessions come in clumps of turns: the tolerance is three times the spread of the mean.
        let schedule = open("doubao-chat-lite", 2.0, 1_000.0);
        let instants: Vec<f64> = schedule
            .sessions
            .iter()
            .flat_map(|session| &session.turns)
            .map(|turn| turn.nominal.as_secs_f64())
            .collect();
        assert!(
            (instants.len() as f64 / 2_000.0 - 1.0).abs() < 0.12,
            "{}",
            instants.len()
        );
        let early = instants.iter().filter(|&&at| at < 100.0).count() as f64;
        assert!(
            (early / 200.0 - 1.0).abs() < 0.35,
            "{early} in the first 100 s of 200 expected"
        );
    }

    #[test]
    fn a_schedule_repeats_and_its_hash_tells_others_apart() {
        let one = open("smoke", 5.0, 20.0);
        let same = open("smoke", 5.0, 20.0);
        assert_eq!(
            (one.hash.clone(), &one.sessions),
            (same.hash, &same.sessions)
        );
        assert_ne!(one.hash, open("smoke", 5.5, 20.0).hash);
        let first: Vec<Nanos> = one.sessions.iter().map(|s| s.turns[0].nominal).collect();
        assert!(first.is_sorted());
    }

    #[test]
    fn a_cut_schedule_has_its_first_requests_only() {
        let all = open("smoke", 5.0, 40.0);
        let cut = open_with(&maker("smoke", 3), 5.0, 40.0, Some(25));
        let turns: usize = cut.sessions.iter().map(|session| session.turns.len()).sum();
        assert_eq!((turns, cut.realised.requests), (25, 25));
        assert!(cut.end_s < all.end_s);
    }

    #[test]
    fn the_ideal_prefix_cache_holds_what_the_specification_expects() {
        // 0.742 over whole sessions; here the first turn of a session under way finds no past.
        let maker = maker("doubao-chat", 20_241_231);
        let sessions: Vec<Session> = (0..400).map(|index| maker.make_closed(index)).collect();
        let hit = maker.ideal_hit(&sessions).expect("there are prompts");
        assert!((hit - 0.742).abs() < 0.06, "{hit}");
    }

    #[test]
    fn sessions_under_way_bring_their_past() {
        let schedule = open("doubao-chat-lite", 3.0, 60.0);
        let with_past = schedule
            .sessions
            .iter()
            .filter(|session| !session.past.is_empty());
        assert!(with_past.count() > 10);
        for session in &schedule.sessions {
            let expected = session.past.len() as u32;
            assert_eq!(session.turns[0].turn, expected, "session {}", session.index);
        }
    }
}
