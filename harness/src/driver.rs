//! Holds the conversations: sends each turn at its instant and takes what comes back.
//!
//! Open loop: every turn has its instant from the schedule, and latency counts from it, however
//! late it was really sent. A turn cannot come before the answer it follows; if that is late, the
//! turn moves, and the record says by how much. Closed loop: a fixed number of users, each of whom
//! thinks after an answer and then asks again.
//!
//! Invariant: every turn that is due before the end of the load gives exactly one record, sent or
//! not; nothing is dropped, retried or re-anchored in silence.

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backends::{
    Backend, Clock, Delivery, Event, EventKind, FailureCause, FinishReason, Nanos, Request, Ticket,
    TokenStream, Usage,
};
use models::{ChatTokenizer, SamplingParams, Special};
use reports::{Finish, Outcome, RequestRecord, TokenCountSource};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::plan::TokenizerKind;
use crate::recorder::Recorder;
use crate::workload::conversation::{Conversation, Reply};
use crate::workload::schedule::{Session, Turn};
use crate::workload::source::SessionSource;

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
    let mut seat = Seat {
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
    let mut seats = JoinSet::new();
    match load {
        Load::Open(sessions) => {
            for session in sessions {
                // Tasks are started a little before they are due, not all at once.
                let first = session
                    .turns
                    .first()
                    .map_or(Nanos::ZERO, |turn| turn.nominal);
                let begin = first.since(AHEAD);
                let ids = seat
                    .next_id
                    .fetch_add(session.turns.len() as u64, Ordering::Relaxed);
                if begin > Nanos::ZERO {
                    seat.wait_until(begin).await;
                }
                seats.spawn(seat.clone().hold_open(session, ids));
            }
        }
        Load::Closed(users) => {
            for user in 0..users.count {
                seats.spawn(seat.clone().hold_closed(user, users.clone()));
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
    // An open-loop schedule is cut before the run, so only users can reach the limit early.
    let all_asked = seat.next_id.load(Ordering::Relaxed) > seat.max_requests;
    let cut_short = *seat.stop.borrow() || all_asked;
    Ended {
        lost_conversations: lost,
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
            if self
                .take(&mut talk, turn, record, Due::At(intended))
                .await
                .is_none()
            {
                return;
            }
            free_at = self.now().plus(self.pause);
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
                if self
                    .take(&mut talk, turn, record, Due::From(intended))
                    .await
                    .is_none()
                {
                    return;
                }
                intended = self.now().plus(turn.think);
            }
        }
    }

    /// One turn, from its instant to its record. `None` when the run was stopped before it was due.
    async fn take(
        &mut self,
        talk: &mut Conversation,
        turn: &Turn,
        mut record: RequestRecord,
        due: Due,
    ) -> Option<()> {
        // The prompt is ready before its instant, so that making it costs the request nothing.
        let prompt = match self.source.prompt(talk, turn) {
            Ok(prompt) => prompt,
            Err(error) => {
                record.outcome = Outcome::Engine;
                record.error = Some(format!("the prompt cannot be made: {error}"));
                self.recorder.record(&record, 0);
                return Some(());
            }
        };
        let intended = match due {
            Due::At(instant) => instant,
            // The user is ready when the message is written.
            Due::From(instant) => instant.max(self.now()),
        };
        record.intended_ns = intended.0;
        record.input_tokens = prompt.tokens.len() as u64;
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
        let lead = self.backend.lead();
        if !self.wait_until(intended.since(lead)).await {
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
        let mut answer = Answer {
            record,
            reply: Reply::default(),
            texts: vec![],
            coalesced: 0,
        };
        self.listen(stream, turn, &mut answer).await;
        if answer.record.sent_ns.is_none() && self.now() < intended {
            // Stopped before it was due.
            return None;
        }
        answer.settle(&self.tokenizer, self.tokenizer_kind);
        self.recorder.record(&answer.record, answer.coalesced);
        talk.push(turn.user.clone(), answer.reply);
        Some(())
    }

    /// Reads a stream until it ends, the user stops it, or the run is over.
    async fn listen(&self, mut stream: TokenStream, turn: &Turn, answer: &mut Answer) {
        let last_word = self.drain_end.plus(self.backend.delivery_delay());
        let mut drained = pin!(self.clock.sleep_until(self.start.plus(last_word)));
        let mut stop = self.stop.clone();
        let mut stopped = pin!(stopped(&mut stop));
        loop {
            let event = tokio::select! {
                biased;
                () = &mut stopped => None,
                event = stream.next() => Some(event),
                () = &mut drained => None,
            };
            let in_time = |event: &Event| event.at.since(self.start) <= self.drain_end;
            let event = event.filter(|event| event.as_ref().is_none_or(in_time));
            let Some(event) = event else {
                answer.end(self.now().min(self.drain_end), Outcome::Unfinished, None);
                return;
            };
            let Some(Event { at, kind }) = event else {
                let message = "the backend stopped without an answer".to_owned();
                answer.end(self.now(), Outcome::Engine, Some(message));
                return;
            };
            let is_content = matches!(kind, EventKind::Token(_) | EventKind::Text { .. });
            if answer.take(at.since(self.start), kind).is_break() {
                return;
            }
            if is_content {
                self.recorder.live().tokens.fetch_add(1, Ordering::Relaxed);
            }
            if turn
                .cancel_after
                .is_some_and(|after| answer.tokens_so_far(&self.tokenizer) >= after as usize)
            {
                let last = answer
                    .record
                    .chunk_ns
                    .last()
                    .copied()
                    .map_or(Nanos::ZERO, Nanos);
                answer.end(last, Outcome::Cancelled, None);
                return;
            }
        }
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
        let reply = conversation.scripted(reply.clone());
        conversation.push(user.clone(), reply);
    }
    conversation
}

/// What has come of a request.
struct Answer {
    record: RequestRecord,
    reply: Reply,
    /// Bytes of each content event of a server.
    texts: Vec<usize>,
    coalesced: u64,
}

impl Answer {
    fn take(&mut self, at: Nanos, kind: EventKind) -> ControlFlow<()> {
        match kind {
            EventKind::Sent => self.record.sent_ns = Some(at.0),
            EventKind::Admitted { cached_tokens } => {
                self.record.admitted_ns = Some(at.0);
                self.record.cached_input_tokens = Some(u64::from(cached_tokens));
            }
            EventKind::Token(id) => {
                self.record.chunk_ns.push(at.0);
                self.record.chunk_tokens.push(1);
                self.reply.ids.push(id);
            }
            EventKind::Text { text, coalesced } => {
                self.record.chunk_ns.push(at.0);
                self.texts.push(text.len());
                self.coalesced += u64::from(coalesced);
                self.reply.text.push_str(&text);
            }
            EventKind::Bare => self.record.bare_ns.push(at.0),
            EventKind::UsageOnly => self.record.usage_ns = Some(at.0),
            EventKind::Finished { reason, usage } => {
                self.record.finish = Some(finish_of(reason));
                self.note_usage(usage);
                self.end(at, Outcome::Ok, None);
                return ControlFlow::Break(());
            }
            EventKind::Failed(failure) => {
                self.end(at, outcome_of(failure.cause), Some(failure.message));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Output tokens so far: an engine's own, or those of a server's text.
    fn tokens_so_far(&self, tokenizer: &ChatTokenizer) -> usize {
        if self.texts.is_empty() {
            self.reply.ids.len()
        } else {
            tokenizer.encode(&self.reply.text, Special::Plain).len()
        }
    }

    fn note_usage(&mut self, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        self.record.input_tokens = usage.input_tokens;
        self.record.cached_input_tokens = usage.cached_tokens.or(self.record.cached_input_tokens);
        if self.record.chunk_tokens.is_empty() {
            self.record.output_tokens = usage.output_tokens;
            self.record.token_count_source = TokenCountSource::Usage;
        }
    }

    fn end(&mut self, at: Nanos, outcome: Outcome, error: Option<String>) {
        self.record.end_ns = Some(at.0);
        self.record.outcome = outcome;
        self.record.error = error;
    }

    /// Counts the tokens, now that no instant is being taken. An engine's tokens are known; those
    /// of a server are its own count, else the text's, spread over the events by their length.
    fn settle(&mut self, tokenizer: &ChatTokenizer, kind: TokenizerKind) {
        let record = &mut self.record;
        if record.outcome == Outcome::Ok && record.chunk_ns.is_empty() {
            record.outcome = Outcome::BadStream;
            record.error = Some("the answer finished without any content".to_owned());
        }
        if self.texts.is_empty() {
            if record.token_count_source == TokenCountSource::Engine {
                record.output_tokens = record.chunk_tokens.len() as u64;
            }
            return;
        }
        if record.token_count_source != TokenCountSource::Usage {
            (record.output_tokens, record.token_count_source) = match kind {
                TokenizerKind::Exact => {
                    self.reply.ids = tokenizer.encode(&self.reply.text, Special::Plain);
                    (self.reply.ids.len() as u64, TokenCountSource::Tokenized)
                }
                // Another model's tokenizer would give a number that looks like knowledge.
                TokenizerKind::StandIn => (self.texts.len() as u64, TokenCountSource::Chunks),
            };
        }
        record.chunk_tokens = spread(record.output_tokens, &self.texts);
    }
}

/// Shares `tokens` out over chunks of the given lengths: one each, and what is left in proportion.
/// Where there are more chunks than tokens, some get none.
fn spread(tokens: u64, lengths: &[usize]) -> Vec<u32> {
    let each = u64::from(tokens >= lengths.len() as u64);
    let surplus = tokens - each * lengths.len() as u64;
    let total: u64 = lengths.iter().map(|&length| length as u64).sum();
    let (mut length_so_far, mut given) = (0, 0);
    lengths
        .iter()
        .map(|&length| {
            length_so_far += length as u64;
            let due = surplus * length_so_far / total.max(1);
            let share = each + due - given;
            given = due;
            share as u32
        })
        .collect()
}

fn finish_of(reason: FinishReason) -> Finish {
    match reason {
        FinishReason::Stop => Finish::Stop,
        FinishReason::Length => Finish::Length,
        FinishReason::Other => Finish::Other,
    }
}

fn outcome_of(cause: FailureCause) -> Outcome {
    match cause {
        FailureCause::Connect => Outcome::Connect,
        FailureCause::Timeout => Outcome::Timeout,
        FailureCause::HttpStatus(status) => Outcome::HttpStatus(status),
        FailureCause::Reset => Outcome::Reset,
        FailureCause::Truncated => Outcome::Truncated,
        FailureCause::BadStream => Outcome::BadStream,
        FailureCause::Rejected => Outcome::Rejected,
        FailureCause::Engine => Outcome::Engine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::schedule::SessionMaker;
    use proptest::prelude::*;

    #[test]
    fn a_run_starts_later_in_real_time_and_at_once_in_virtual_time() {
        let (wall, simulated) = (Clock::wall(), Clock::simulated());
        let now = wall.now();
        assert!(start(&wall) >= now.plus(HEAD_START));
        assert_eq!(start(&simulated), simulated.now());
    }

    #[test]
    fn tokens_are_spread_by_length() {
        assert_eq!(spread(3, &[5, 1, 9]), [1, 1, 1]);
        assert_eq!(spread(6, &[3, 6, 9]), [1, 2, 3]);
        assert_eq!(spread(4, &[3, 6, 9]), [1, 1, 2]);
        assert_eq!(spread(9, &[3, 6, 9]), [2, 3, 4]);
        assert_eq!(spread(1, &[3, 3]), [0, 1]);
        assert_eq!(spread(0, &[3]), [0]);
    }

    /// The stream of `metrics.md` as eight servers write it: each event at its instant in
    /// milliseconds, role at 40, content at 100 to 180, usage at 190, end at 191.
    const GOLDEN: [(&str, &[u8], &[u64]); 9] = [
        (
            "vllm",
            include_bytes!("../../backends/corpus/vllm.sse"),
            &[40, 100, 120, 140, 160, 180, 180, 190, 191],
        ),
        (
            "vllm-reasoning",
            include_bytes!("../../backends/corpus/vllm-reasoning.sse"),
            &[40, 100, 120, 140, 160, 180, 185, 190, 191],
        ),
        (
            "sglang",
            include_bytes!("../../backends/corpus/sglang.sse"),
            &[40, 100, 120, 140, 160, 180, 190, 190, 191],
        ),
        (
            "mindie",
            include_bytes!("../../backends/corpus/mindie.sse"),
            &[40, 100, 120, 140, 160, 180, 191],
        ),
        (
            "lmdeploy",
            include_bytes!("../../backends/corpus/lmdeploy.sse"),
            &[40, 100, 120, 140, 160, 180, 181, 190, 191],
        ),
        // Its role comes together with the first token.
        (
            "xllm",
            include_bytes!("../../backends/corpus/xllm.sse"),
            &[100, 100, 120, 140, 160, 180, 190, 190, 191],
        ),
        (
            "llama-cpp",
            include_bytes!("../../backends/corpus/llama-cpp.sse"),
            &[40, 100, 120, 140, 160, 180, 180, 190, 191],
        ),
        // A ping comes between two tokens.
        (
            "llama-cpp-python",
            include_bytes!("../../backends/corpus/llama-cpp-python.sse"),
            &[40, 100, 120, 140, 150, 160, 180, 185, 190, 191],
        ),
        (
            "tensorrt-llm",
            include_bytes!("../../backends/corpus/tensorrt-llm.sse"),
            &[40, 100, 120, 140, 160, 180, 190, 190, 191],
        ),
    ];

    fn golden_record(body: &[u8], instants_ms: &[u64]) -> RequestRecord {
        let text = std::str::from_utf8(body).expect("the corpus is UTF-8");
        let end = if text.contains("\r\n") {
            "\r\n\r\n"
        } else {
            "\n\n"
        };
        let events: Vec<&str> = text.split_inclusive(end).collect();
        assert_eq!(events.len(), instants_ms.len());
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let (mut reader, mut seen) = (backends::http::AnswerReader::default(), Vec::new());
        reader.read(Nanos(1), head.as_bytes(), &mut seen);
        for (event, ms) in events.iter().zip(instants_ms) {
            reader.read(Nanos(ms * 1_000_000), event.as_bytes(), &mut seen);
        }
        reader.close(Nanos(192_000_000), None, &mut seen);
        let source = models::ModelSource::parse("ref-tiny").expect("built in");
        let tokenizer = models::load_tokenizer(&source).expect("made in memory").1;
        let workload = crate::workload::spec::load("random:64/10").expect("a shape");
        let maker = SessionMaker::new(workload, 1, Arc::clone(&tokenizer)).expect("it renders");
        let session = maker.make_closed(0);
        let mut answer = Answer {
            record: new_record(0, &session, &session.turns[0], Nanos::ZERO),
            reply: Reply::default(),
            texts: vec![],
            coalesced: 0,
        };
        answer.record.sent_ns = Some(0);
        for event in seen {
            if answer.take(event.at, event.kind).is_break() {
                break;
            }
        }
        answer.settle(&tokenizer, TokenizerKind::StandIn);
        answer.record
    }

    #[test]
    fn the_golden_stream_gives_its_figures_from_every_server() {
        for (name, body, instants) in GOLDEN {
            let record = golden_record(body, instants);
            assert_eq!(record.outcome, Outcome::Ok, "{name}: {:?}", record.error);
            assert_eq!(
                (record.input_tokens, record.output_tokens),
                (31, 10),
                "{name}"
            );
            assert_eq!(record.chunk_tokens, [2; 5], "{name}");
            let figures = (record.ttft_ns(), record.tpot_ns(), record.e2e_ns());
            let ms = |ms: u64| Some(ms * 1_000_000);
            assert_eq!(figures, (ms(100), ms(10), ms(180)), "{name}");
            let gaps: Vec<(u64, u32)> = record.gaps_ns().collect();
            assert_eq!(
                gaps,
                [(20_000_000, 2); 4],
                "{name}: ITL is 10 ms for each token"
            );
            assert_eq!(record.end_ns, ms(191), "{name}");
        }
    }

    proptest! {
        #[test]
        fn spreading_loses_no_token(
            tokens in 0..500_u64,
            weights in prop::collection::vec(1..40_usize, 1..60),
        ) {
            let shares = spread(tokens, &weights);
            prop_assert_eq!(shares.iter().map(|&s| u64::from(s)).sum::<u64>(), tokens);
            prop_assert_eq!(shares.len(), weights.len());
        }
    }
}
