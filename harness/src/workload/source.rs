//! Where the sessions of a run come from: drawn from a specification, or read from a trace.
//!
//! Invariant: both give the same session for the same number, whatever else was asked before.

use std::sync::Arc;

use backends::{Prompt, PromptForm};
use models::{ChatTokenizer, TemplateError};
use reports::schema::{RealisedWorkload, Slo};

use super::conversation::Conversation;
use super::replay::{Replay, ReplayOptions};
use super::schedule::{OpenLoad, Schedule, Session, SessionMaker, Turn, hash, realised};
use super::spec::{Audience, WorkloadSpec};
use super::trace::{Content, Trace};

/// What is asked, as the plan has it.
#[derive(Debug, Clone)]
pub enum Workload {
    /// Drawn from a specification.
    Generated(Box<WorkloadSpec>),
    /// Read from a trace.
    Replayed {
        /// What there is.
        trace: Arc<Trace>,
        /// Multiplies think times, where a trace has none of its own.
        think_scale: f64,
        /// Prompt and output tokens of a request at most, if the user says.
        context_limit: Option<u32>,
    },
}

impl Workload {
    /// What reports call it.
    pub fn name(&self) -> String {
        match self {
            Self::Generated(spec) => spec.name.clone(),
            Self::Replayed { trace, .. } => {
                let path = std::path::Path::new(&trace.file);
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                format!("{}:{file}", trace.kind.name())
            }
        }
    }

    /// In a sentence.
    pub fn description(&self) -> String {
        match self {
            Self::Generated(spec) => spec.description.clone(),
            Self::Replayed { trace, .. } => match &trace.content {
                Content::Requests(requests) => {
                    let spread = requests.step_s.map_or_else(String::new, |step_s| {
                        format!(", instants in steps of {step_s} s spread evenly")
                    });
                    let count = requests.list.len();
                    format!("Replay of {count} requests{spread}")
                }
                Content::Conversations(list) => format!(
                    "Replay of {} conversations; instants and think times are drawn",
                    list.len()
                ),
            },
        }
    }

    /// Multiplies think times.
    pub fn think_scale(&self) -> f64 {
        match self {
            Self::Generated(spec) => spec.think_scale,
            Self::Replayed { think_scale, .. } => *think_scale,
        }
    }

    /// The specification, if there is one.
    pub fn spec(&self) -> Option<&WorkloadSpec> {
        match self {
            Self::Generated(spec) => Some(spec),
            Self::Replayed { .. } => None,
        }
    }

    /// Limits of goodput when the user does not say.
    pub fn slo(&self) -> Option<Slo> {
        self.spec().and_then(|spec| spec.slo)
    }

    /// Does the rate change on purpose?
    pub fn is_uneven(&self) -> bool {
        match self {
            Self::Generated(spec) => spec
                .rate_shape
                .as_ref()
                .is_some_and(|shape| !shape.is_constant()),
            Self::Replayed { trace, .. } => matches!(trace.content, Content::Requests(_)),
        }
    }

    /// Conversations of the chatbot whose usage is known.
    pub fn is_chatbot(&self) -> bool {
        self.spec()
            .is_some_and(|spec| spec.audience == Audience::Chatbot)
    }

    /// Does a window of so many seconds hold a day's rise and fall?
    pub fn is_whole_day(&self, window_s: f64) -> bool {
        /// A little less, since the warm-up is taken off.
        const MOST_OF_A_DAY_S: f64 = 0.9 * 86_400.0;
        let shape = self.spec().and_then(|spec| spec.rate_shape.as_ref());
        shape.is_some_and(|shape| {
            shape.day.is_some() && window_s / shape.time_scale >= MOST_OF_A_DAY_S
        })
    }
}

/// Makes the sessions of a run.
#[derive(Debug)]
pub enum SessionSource {
    /// Drawn from a specification.
    Generated(Box<SessionMaker>),
    /// Read from a trace.
    Replayed(Replay),
}

impl SessionSource {
    /// For one workload, seed and tokenizer. `context_limit` is the model's, if it is known.
    pub fn new(
        workload: Workload,
        seed: u64,
        tokenizer: Arc<ChatTokenizer>,
        context_limit: Option<u32>,
    ) -> Result<Self, TemplateError> {
        Ok(match workload {
            Workload::Generated(spec) => {
                let maker = SessionMaker::new(*spec, seed, tokenizer)?;
                Self::Generated(Box::new(maker))
            }
            Workload::Replayed {
                trace,
                think_scale,
                context_limit: asked,
            } => {
                let options = ReplayOptions {
                    seed,
                    think_scale,
                    context_limit: context_limit.into_iter().chain(asked).min(),
                };
                Self::Replayed(Replay::new(trace, &tokenizer, options)?)
            }
        })
    }

    /// Characters of our Chinese text for a token of the model.
    pub fn characters_per_token(&self) -> Option<f64> {
        match self {
            Self::Generated(maker) => Some(maker.characters_per_token()),
            Self::Replayed(_) => None,
        }
    }

    /// The open-loop schedule.
    pub fn open(&self, load: &OpenLoad<'_>) -> Schedule {
        match self {
            Self::Generated(maker) => maker.open(load),
            Self::Replayed(replay) => replay.open(load),
        }
    }

    /// The whole session, for a user of a closed loop.
    pub fn make_closed(&self, index: u64) -> Session {
        match self {
            Self::Generated(maker) => maker.make_closed(index),
            Self::Replayed(replay) => replay.make_closed(index),
        }
    }

    /// The first `count` sessions of a closed loop.
    pub fn ahead(&self, count: u64) -> Arc<[Session]> {
        (0..count).map(|index| self.make_closed(index)).collect()
    }

    /// What the first `count` sessions are like, for a closed loop.
    pub fn closed_realised(&self, count: u64) -> (RealisedWorkload, String) {
        let sessions: Vec<Session> = (0..count).map(|index| self.make_closed(index)).collect();
        let mut found = realised(&sessions, &[]);
        match self {
            Self::Generated(maker) => found.ideal_prefix_hit = maker.ideal_hit(&sessions),
            Self::Replayed(replay) => found.left_out = replay.left_out().clone(),
        }
        (found, hash(&sessions))
    }

    /// Seconds that a user of a closed loop spends on one turn, nominally and on average over the
    /// first sessions: how far apart users are when the run begins.
    pub fn mean_cycle_s(&self) -> f64 {
        let sessions = (0..200).map(|index| match self {
            Self::Generated(maker) => maker.cycles_s(index),
            Self::Replayed(replay) => replay.make_closed(index).cycles_s(),
        });
        let turns: Vec<f64> = sessions.flatten().collect();
        turns.iter().sum::<f64>() / turns.len().max(1) as f64
    }

    /// The prompt of a turn, in a conversation that stands where `talk` does.
    pub fn prompt(
        &self,
        talk: &mut Conversation,
        turn: &Turn,
        form: PromptForm,
    ) -> Result<Prompt, TemplateError> {
        match (self, turn.fixed) {
            (Self::Replayed(replay), Some(fixed)) => Ok(replay.prompt(fixed)),
            _ => talk.prompt(turn.prompt.first_turn, &turn.injected, &turn.user, form),
        }
    }
}
