//! Holds the conversations: sends each turn at its instant and takes what comes back.
//!
//! Open loop: every turn has its instant from the schedule, and latency counts from it, however
//! late it was really sent. A turn cannot come before the answer it follows; if that is late, the
//! turn moves, and the record says by how much. Closed loop: a fixed number of users, each of whom
//! thinks after an answer and then asks again.
//!
//! Invariant: every turn that is due before the end of the load gives exactly one record, sent or
//! not; nothing is dropped, retried or re-anchored in silence.

mod answer;

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backends::{Backend, Clock, Delivery, Event, EventKind, Nanos, Request, Ticket, TokenStream};
use models::{ChatTokenizer, SamplingParams};
use reports::{Outcome, RequestRecord, TokenCountSource};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::plan::TokenizerKind;
use crate::recorder::Recorder;
use crate::workload::conversation::{Conversation, Reply};
use crate::workload::schedule::{Session, Turn};
use crate::workload::source::SessionSource;
use answer::Answer;

/// Between the call of [`run`] and the start of a run in real time, so that what is due at once has
/// its prompt by then.
const HEAD_START: Nanos = Nanos(500_000_000);
/// So long before its first turn a conversation is begun.
const AHEAD: Nanos = Nanos(2_000_000_000);
/// Nobody reads an answer and asks on in less.
const SHORTEST_PAUSE_S: f64 = 1.0;

/// What a run does.
#[derive(Debug)]
pub struct LoadPlan {
    /// Who asks.
    pub load: Load,
    /// The clock's instant that is the start of the run; all else counts from it.
    pub start: Nanos,
    /// No turn is due from here on.
    pub end: Nanos,
    /// What still runs then may run until here.
    pub drain_end: Nanos,
    /// How tokens are chosen; each turn brings its own seed.
    pub sampling: SamplingParams,
    /// Ask for exactly the planned number of output tokens.
    pub ignore_eos: bool,
    /// Is the tokenizer that of the served model?
    pub tokenizer_kind: TokenizerKind,
    /// Multiplies the shortest pause, as it does think times.
    pub think_scale: f64,
    /// Requests at most, in closed loop; an open-loop schedule is cut before the run.
    pub max_requests: Option<u64>,
}

/// Who asks.
#[derive(Debug)]
pub enum Load {
    /// The schedule.
    Open(Vec<Session>),
    /// Users.
    Closed(Users),
}

/// The users of a closed loop.
#[derive(Debug, Clone)]
pub struct Users {
    /// How many.
    pub count: u32,
    /// Between the first messages of two of them.
    pub spread: Nanos,
    /// The first conversations, made before the run; later ones are made as they are needed.
    pub ready: Arc<[Session]>,
}

/// When a run that is driven from now on starts.
pub fn start(clock: &Clock) -> Nanos {
    let head_start = if clock.is_simulated() {
        Nanos::ZERO
    } else {
        HEAD_START
    };
    clock.now().plus(head_start)
}

/// Runs the load to its end, or until `stop` turns true.
pub async fn run(
    backend: Arc<dyn Backend>,
    source: Arc<SessionSource>,
    tokenizer: Arc<ChatTokenizer>,
    plan: LoadPlan,
    recorder: Recorder,
    stop: watch::Receiver<bool>,
) -> Ended {
    let LoadPlan {
        load,
        start,
        end,
        drain_end,
        sampling,
        ignore_eos,
        ..
    } = plan;
    let pause = Nanos::from_secs_f64(SHORTEST_PAUSE_S * plan.think_scale.min(1.0));
    let seat = Seat {
        clock: backend.clock().clone(),
        backend,
        source,
        tokenizer,
        recorder,
        stop,
        start,
        end,
        drain_end,
        sampling,
        ignore_eos,
        tokenizer_kind: plan.tokenizer_kind,
        pause,
        next_id: Arc::new(AtomicU64::new(0)),
        max_requests: plan.max_requests.unwrap_or(u64::MAX),
    };
    // As a task: each conversation that begins or ends would wake the main thread otherwise.
    let held = tokio::spawn(seat.clone().hold_all(load));
    let lost_conversations = held.await.unwrap_or_else(|error| {
        tracing::error!(%error, "the load was lost");
        1
    });
    // An open-loop schedule is cut before the run, so only users can reach the limit early.
    let all_asked = seat.next_id.load(Ordering::Relaxed) > seat.max_requests;
    let cut_short = *seat.stop.borrow() || all_asked;
    Ended {
        lost_conversations,
        load_end: cut_short.then(|| seat.now()),
    }
}

/// How a load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Conversations that a fault of ours took out of the load; they make the run INVALID.
    pub lost_conversations: u64,
    /// Set when the load was over before its planned end: interrupted, or all requests were asked.
    pub load_end: Option<Nanos>,
}

/// When a turn is due.
#[derive(Clone, Copy)]
enum Due {
    /// At the schedule's instant, ready or not.
    At(Nanos),
    /// As soon as it is ready, from this instant on.
    From(Nanos),
}

/// What every conversation needs.
#[derive(Clone)]
struct Seat {
    clock: Clock,
    backend: Arc<dyn Backend>,
    source: Arc<SessionSource>,
    tokenizer: Arc<ChatTokenizer>,
    recorder: Recorder,
    stop: watch::Receiver<bool>,
    start: Nanos,
    end: Nanos,
    drain_end: Nanos,
    sampling: SamplingParams,
    ignore_eos: bool,
    tokenizer_kind: TokenizerKind,
    pause: Nanos,
    next_id: Arc<AtomicU64>,
    max_requests: u64,
}

impl Seat {
    /// All conversations of the load, to their end; how many a fault of ours took out of it.
    async fn hold_all(mut self, load: Load) -> u64 {
        let mut seats = JoinSet::new();
        match load {
            Load::Open(sessions) => {
                for session in sessions {
                    // Tasks are started a little before they are due, not all at once.
                    let first = session.turns.first();
                    let first = first.map_or(Nanos::ZERO, |turn| turn.nominal);
                    let begin = together(first.since(AHEAD));
                    let turns = session.turns.len() as u64;
                    let ids = self.next_id.fetch_add(turns, Ordering::Relaxed);
                    if begin > Nanos::ZERO {
                        self.wait_until(begin).await;
                    }
                    seats.spawn(self.clone().hold_open(session, ids));
                }
            }
            Load::Closed(users) => {
                for user in 0..users.count {
                    seats.spawn(self.clone().hold_closed(user, users.clone()));
                }
            }
        }
        let mut lost = 0;
        while let Some(ended) = seats.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a conversation was lost");
                lost += 1;
            }
        }
        lost
    }

    /// A conversation of the schedule.
    async fn hold_open(mut self, session: Session, first_id: u64) {
        let mut talk = begin(&self.tokenizer, &session);
        let mut free_at = Nanos::ZERO;
        for (id, turn) in (first_id..).zip(&session.turns) {
            let intended = turn.nominal.max(free_at);
            let mut record = new_record(id, &session, turn, intended);
            record.pushed_ns = intended.since(turn.nominal).0;
            if intended >= self.end {
                record.intended_ns = turn.nominal.0;
                record.error = Some("the answer before it came too late".into());
                self.recorder.record(&record, 0);
                continue;
            }
            let due = Due::At(intended);
            let Some(ended) = self.take(&mut talk, turn, record, due).await else {
                return;
            };
            free_at = ended.plus(self.pause);
        }
    }

    /// A user of a closed loop: one conversation after another.
    async fn hold_closed(mut self, user: u32, users: Users) {
        let mut intended = Nanos(users.spread.0 * u64::from(user));
        for index in (u64::from(user)..).step_by(users.count.max(1) as usize) {
            let session = match users.ready.get(index as usize) {
                Some(session) => session.clone(),
                None => self.source.make_closed(index),
            };
            let mut talk = begin(&self.tokenizer, &session);
            for turn in &session.turns {
                if intended >= self.end {
                    return;
                }
                let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                if id >= self.max_requests {
                    return;
                }
                let record = new_record(id, &session, turn, intended);
                let due = Due::From(intended);
                let Some(ended) = self.take(&mut talk, turn, record, due).await else {
                    return;
                };
                intended = ended.plus(turn.think);
            }
        }
    }

    /// One turn, from its instant to its record; when its answer ended, which may be before it is
    /// known here. `None` when the run was stopped before it was due.
    async fn take(
        &mut self,
        talk: &mut Conversation,
        turn: &Turn,
        mut record: RequestRecord,
        due: Due,
    ) -> Option<Nanos> {
        // The prompt is ready before its instant, so that making it costs the request nothing.
        let prompt = match self.source.prompt(talk, turn, self.backend.reads()) {
            Ok(prompt) => prompt,
            Err(error) => {
                record.outcome = Outcome::Engine;
                record.error = Some(format!("the prompt cannot be made: {error}"));
                self.recorder.record(&record, 0);
                return Some(self.now());
            }
        };
        let intended = match due {
            Due::At(instant) => instant,
            // The user is ready when the message is written.
            Due::From(instant) => instant.max(self.now()),
        };
        record.intended_ns = intended.0;
        let unread = if prompt.tokens.is_empty() {
            Some(Arc::clone(&prompt.messages))
        } else {
            record.input_tokens = prompt.tokens.len() as u64;
            None
        };
        let request = Request {
            prompt,
            max_tokens: turn.output_tokens,
            ignore_eos: self.ignore_eos,
            min_tokens: 0,
            sampling: SamplingParams {
                seed: turn.seed,
                ..self.sampling
            },
        };
        // A backend that keeps the instant itself is given the request a little before.
        let submit = match self.backend.lead() {
            Nanos::ZERO => intended,
            lead => together(intended.since(lead)),
        };
        if !self.wait_until(submit).await {
            return None;
        }
        let ticket = Ticket {
            id: record.id,
            due: self.start.plus(intended),
            delivery: match turn.cancel_after {
                Some(_) => Delivery::AtOnce,
                None => Delivery::Lazy,
            },
        };
        let stream = self.backend.submit_at(request, ticket);
        self.recorder.live().sent.fetch_add(1, Ordering::Relaxed);
        let mut answer = Answer::new(record, unread);
        self.listen(stream, turn, &mut answer).await;
        if answer.record.sent_ns.is_none() && self.now() < intended {
            // Stopped before it was due.
            return None;
        }
        answer.settle(&self.tokenizer, self.tokenizer_kind);
        self.recorder.record(&answer.record, answer.coalesced);
        talk.push(turn.user.clone(), answer.reply);
        Some(answer.record.end_ns.map_or_else(|| self.now(), Nanos))
    }

    /// Reads a stream until it ends, the user stops it, or the run is over.
    async fn listen(&self, mut stream: TokenStream, turn: &Turn, answer: &mut Answer) {
        // What has come by the end may still be on its way from there to here.
        let told_by = |end: Nanos| {
            let last_word = end.plus(self.backend.delivery_delay());
            self.clock.sleep_until(self.start.plus(last_word))
        };
        let mut end = self.drain_end;
        let mut told = pin!(told_by(end));
        let mut stop = self.stop.clone();
        let mut stopped = pin!(stopped(&mut stop));
        let mut is_stopped = false;
        let mut events = Vec::new();
        loop {
            let over = tokio::select! {
                biased;
                () = &mut stopped, if !is_stopped => {
                    is_stopped = true;
                    end = end.min(self.now());
                    told.set(told_by(end));
                    continue;
                }
                () = stream.next_all(&mut events) => false,
                () = &mut told => true,
            };
            if over {
                answer.end(self.now().min(end), Outcome::Unfinished, None);
                return;
            }
            if events.is_empty() {
                let message = "the backend stopped without an answer".to_owned();
                answer.end(self.now(), Outcome::Engine, Some(message));
                return;
            }
            for event in events.drain(..) {
                if self.hear(event, turn, answer, end).is_break() {
                    return;
                }
            }
        }
    }

    /// Takes an event of a stream; break when it was the last that counts, or came after `end`.
    fn hear(&self, event: Event, turn: &Turn, answer: &mut Answer, end: Nanos) -> ControlFlow<()> {
        let at = event.at.since(self.start);
        if at > end {
            answer.end(self.now().min(end), Outcome::Unfinished, None);
            return ControlFlow::Break(());
        }
        if matches!(event.kind, EventKind::Token(_) | EventKind::Text { .. }) {
            self.recorder.live().tokens.fetch_add(1, Ordering::Relaxed);
        }
        answer.take(at, event.kind)?;
        let cancel_after = turn.cancel_after.map(|after| after as usize);
        if cancel_after.is_some_and(|after| answer.tokens_so_far(&self.tokenizer) >= after) {
            let last = answer.record.chunk_ns.last().copied();
            answer.end(last.map_or(Nanos::ZERO, Nanos), Outcome::Cancelled, None);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Since the start of the run.
    fn now(&self) -> Nanos {
        self.clock.now().since(self.start)
    }

    /// Waits; false when the run was stopped meanwhile.
    async fn wait_until(&mut self, instant: Nanos) -> bool {
        tokio::select! {
            biased;
            () = stopped(&mut self.stop) => false,
            () = self.clock.sleep_until(self.start.plus(instant)) => true,
        }
    }
}

/// An instant before this one, at which others wake as well: where it need not be kept, since each
/// waking takes time from the thread that reads sockets.
fn together(at: Nanos) -> Nanos {
    const EVERY: Nanos = Nanos(10_000_000);
    Nanos(at.0 - at.0 % EVERY.0)
}

/// Completes when the run is to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could stop the run.
        std::future::pending::<()>().await;
    }
}

fn new_record(id: u64, session: &Session, turn: &Turn, intended: Nanos) -> RequestRecord {
    RequestRecord {
        id,
        session: session.index,
        turn: turn.turn,
        class: session.class.to_string(),
        intended_ns: intended.0,
        pushed_ns: 0,
        sent_ns: None,
        admitted_ns: None,
        // Mostly one chunk for each token.
        chunk_ns: Vec::with_capacity(turn.output_tokens.min(8192) as usize),
        chunk_tokens: Vec::new(),
        bare_ns: Vec::new(),
        usage_ns: None,
        end_ns: None,
        outcome: Outcome::Unfinished,
        input_tokens: u64::from(turn.prompt.prompt_tokens),
        planned_input_tokens: u64::from(turn.prompt.prompt_tokens),
        cached_input_tokens: None,
        output_tokens: 0,
        planned_output_tokens: u64::from(turn.output_tokens),
        token_count_source: TokenCountSource::Engine,
        error: None,
        finish: None,
    }
}

/// The conversation as it stands when the run begins.
fn begin(tokenizer: &Arc<ChatTokenizer>, session: &Session) -> Conversation {
    let mut conversation = Conversation::new(Arc::clone(tokenizer), session.system.clone());
    for (user, reply) in &session.past {
        conversation.push(user.clone(), Reply::scripted(reply.clone()));
    }
    conversation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_starts_later_in_real_time_and_at_once_in_virtual_time() {
        let (wall, simulated) = (Clock::wall(), Clock::simulated());
        let now = wall.now();
        assert!(start(&wall) >= now.plus(HEAD_START));
        assert_eq!(start(&simulated), simulated.now());
    }
}
