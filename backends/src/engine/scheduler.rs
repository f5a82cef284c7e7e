//! What runs next: continuous batching with chunked prefill, a prefix cache and preemption.
//!
//! A pure state machine: no clock, no device, no async. Each step, [`Scheduler::plan`] fills a
//! batch and [`Scheduler::apply`] takes its result. Sequences that decode go first, one token each;
//! what is left of the token budget goes to prompts, oldest first. When blocks run out, the
//! youngest running sequence gives its blocks up and waits at the head of the queue; its tokens so
//! far are computed again later, mostly from the prefix cache.
//!
//! Invariants (property-tested): blocks are conserved; a batch never exceeds its token and
//! sequence budgets; the oldest sequence always moves on, so nothing starves; a request that is not
//! cancelled gives exactly `max_tokens` tokens, or fewer up to and with its first end token.

use std::collections::VecDeque;
use std::sync::Arc;

use models::{BLOCK_TOKENS, SamplingParams};

use super::batch::{Batch, Sample, SequenceId, StepOutput};
use super::blocks::{BlockId, BlockPool, PrefixCache, PrefixId};
use crate::contract::FinishReason;

/// What a device can hold and do in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// KV blocks of [`BLOCK_TOKENS`] tokens.
    pub blocks: u32,
    /// Sequences in one step.
    pub max_sequences: usize,
    /// Tokens in one step.
    pub max_batch_tokens: usize,
    /// Prompt and output tokens of one sequence.
    pub max_context: usize,
}

/// A request to be scheduled.
#[derive(Debug, Clone)]
pub struct NewSequence {
    /// Its name from here on.
    pub id: SequenceId,
    /// The prompt.
    pub prompt: Arc<[u32]>,
    /// Output tokens at most.
    pub max_tokens: u32,
    /// Tokens that end the answer; empty to ignore them.
    pub end_tokens: Arc<[u32]>,
    /// Output tokens before which no end token may be drawn.
    pub min_tokens: u32,
    /// How tokens are chosen.
    pub params: SamplingParams,
}

/// A request that can never run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// Nothing to answer.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// Zero output tokens were asked for.
    #[error("max_tokens is 0; at least 1 is needed")]
    NoOutput,
    /// It would not fit even alone.
    #[error(
        "prompt of {prompt} and output of {output} tokens exceed the context of {limit} tokens"
    )]
    TooLong {
        /// Prompt tokens.
        prompt: usize,
        /// Output tokens.
        output: u32,
        /// Tokens that fit.
        limit: usize,
    },
}

/// What a step did for a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It put out a token.
    Token(u32),
    /// It is complete; nothing follows.
    Finished(FinishReason),
}

/// A sequence that the last [`Scheduler::plan`] admitted for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Which.
    pub id: SequenceId,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: u32,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    /// Prompt, then output.
    tokens: Vec<u32>,
    prompt_len: usize,
    max_tokens: u32,
    end_tokens: Arc<[u32]>,
    min_tokens: u32,
    params: SamplingParams,
    blocks: Vec<BlockId>,
    /// Tokens whose keys and values are in the cache.
    computed: usize,
    /// Full blocks that the prefix index has been told of, and the prefix they end.
    registered: usize,
    prefix: PrefixId,
    /// Tokens in the step that is under way.
    in_step: usize,
    admitted_before: bool,
}

impl Sequence {
    fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    fn output_len(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// End tokens, as long as the answer is too short to end.
    fn forbidden(&self) -> Option<Arc<[u32]>> {
        let too_short = self.output_len() < self.min_tokens as usize;
        (too_short && !self.end_tokens.is_empty()).then(|| Arc::clone(&self.end_tokens))
    }

    fn finish_reason(&self) -> Option<FinishReason> {
        let last = self.tokens.last()?;
        if self.output_len() == 0 {
            None
        } else if self.end_tokens.contains(last) {
            Some(FinishReason::Stop)
        } else {
            (self.output_len() >= self.max_tokens as usize).then_some(FinishReason::Length)
        }
    }
}

/// The scheduler of one device.
#[derive(Debug)]
pub struct Scheduler {
    capacity: Capacity,
    pool: BlockPool,
    waiting: VecDeque<Sequence>,
    /// Oldest first.
    running: Vec<Sequence>,
    admissions: Vec<Admission>,
    preemptions: u64,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    ///
    /// # Panics
    /// When the device cannot take one token or has no block.
    pub fn new(capacity: Capacity, prefix_cache: PrefixCache) -> Self {
        assert!(
            capacity.max_batch_tokens > 0 && capacity.max_sequences > 0,
            "a step does work"
        );
        assert!(capacity.blocks > 0, "the device holds at least one block");
        // Decodes alone must not use the budget up, or prompts would never be computed.
        let max_sequences = capacity
            .max_sequences
            .min((capacity.max_batch_tokens - 1).max(1));
        Self {
            capacity: Capacity {
                max_sequences,
                ..capacity
            },
            pool: BlockPool::new(capacity.blocks, prefix_cache),
            waiting: VecDeque::new(),
            running: Vec::new(),
            admissions: Vec::new(),
            preemptions: 0,
        }
    }

    /// Tokens that one sequence may have: the context limit, or all blocks if they are fewer.
    pub fn context_limit(&self) -> usize {
        self.capacity
            .max_context
            .min(self.pool.total() * BLOCK_TOKENS)
    }

    /// Puts a request at the end of the queue.
    pub fn add(&mut self, new: NewSequence) -> Result<(), AddError> {
        let (prompt, limit) = (new.prompt.len(), self.context_limit());
        if prompt == 0 {
            return Err(AddError::EmptyPrompt);
        }
        if new.max_tokens == 0 {
            return Err(AddError::NoOutput);
        }
        if prompt + new.max_tokens as usize > limit {
            return Err(AddError::TooLong {
                prompt,
                output: new.max_tokens,
                limit,
            });
        }
        self.waiting.push_back(Sequence {
            id: new.id,
            tokens: new.prompt.to_vec(),
            prompt_len: prompt,
            max_tokens: new.max_tokens,
            end_tokens: new.end_tokens,
            min_tokens: new.min_tokens,
            params: new.params,
            blocks: Vec::new(),
            computed: 0,
            registered: 0,
            prefix: PrefixId::ROOT,
            in_step: 0,
            admitted_before: false,
        });
        Ok(())
    }

    /// Forgets a request, wherever it is; its blocks are free at once. Between steps only.
    pub fn cancel(&mut self, id: SequenceId) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let mut sequence = self.running.remove(index);
            release(&mut self.pool, &mut sequence);
        }
    }

    /// Forgets every request, for when the device has failed; returns them.
    pub fn clear(&mut self) -> Vec<SequenceId> {
        let mut all: Vec<_> = self
            .running
            .drain(..)
            .chain(self.waiting.drain(..))
            .collect();
        for sequence in &mut all {
            release(&mut self.pool, sequence);
        }
        all.iter().map(|sequence| sequence.id).collect()
    }

    /// Fills `batch` with the next step. An empty batch means that there is nothing to do.
    pub fn plan(&mut self, batch: &mut Batch) {
        batch.clear();
        self.admissions.clear();
        let mut budget = self.capacity.max_batch_tokens;
        let preemptions = self.preemptions;
        // The oldest gets its blocks before anyone else, so that it always moves on.
        if let Some(oldest) = self.running.first() {
            let tokens = oldest.pending().min(budget);
            self.reserve(0, tokens);
        }
        // Decodes first: a token each. Then prompts under way, oldest first.
        self.plan_running(&mut budget, |sequence| sequence.pending() == 1);
        self.plan_running(&mut budget, |sequence| sequence.pending() > 1);
        // Blocks are short: what runs already comes before what waits.
        let stalled = self.running.iter().any(|sequence| sequence.in_step == 0);
        if self.preemptions == preemptions && !stalled {
            self.admit(&mut budget);
        }
        for sequence in self.running.iter().filter(|sequence| sequence.in_step > 0) {
            let end = sequence.computed + sequence.in_step;
            let sample = (end == sequence.tokens.len()).then_some(Sample {
                params: sequence.params,
                output_index: sequence.output_len() as u64,
                forbidden: sequence.forbidden(),
            });
            let tokens = &sequence.tokens[sequence.computed..end];
            let blocks = sequence
                .blocks
                .iter()
                .take(end.div_ceil(BLOCK_TOKENS))
                .map(|id| id.0);
            batch.push(sequence.id, tokens, blocks, sequence.computed, sample);
        }
    }

    fn plan_running(&mut self, budget: &mut usize, wanted: impl Fn(&Sequence) -> bool) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &self.running[index];
            if *budget == 0 {
                return;
            }
            if sequence.in_step == 0 && wanted(sequence) {
                let tokens = sequence.pending().min(*budget);
                if self.reserve(index, tokens) {
                    self.running[index].in_step = tokens;
                    *budget -= tokens;
                }
            }
            index += 1;
        }
    }

    /// Gives the sequence blocks for its next `tokens`, preempting younger ones that are not yet in
    /// this step if it must. False when it cannot run in this step.
    fn reserve(&mut self, index: usize, tokens: usize) -> bool {
        let sequence = &self.running[index];
        let blocks = (sequence.computed + tokens).div_ceil(BLOCK_TOKENS);
        let needed = blocks.saturating_sub(sequence.blocks.len());
        while self.pool.free() < needed {
            let youngest = self.running.len() - 1;
            if youngest <= index || self.running[youngest].in_step > 0 {
                return false;
            }
            self.preempt_youngest();
        }
        for _ in 0..needed {
            let block = self
                .pool
                .allocate()
                .expect("enough free blocks were counted");
            self.running[index].blocks.push(block);
        }
        true
    }

    fn preempt_youngest(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            release(&mut self.pool, &mut sequence);
            self.waiting.push_front(sequence);
            self.preemptions += 1;
        }
    }

    /// Takes requests from the queue, in order, while the budgets last.
    fn admit(&mut self, budget: &mut usize) {
        while *budget > 0 && self.running.len() < self.capacity.max_sequences {
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            let (blocks, prefix) = self.pool.match_prefix(&sequence.tokens);
            sequence.computed = blocks.len() * BLOCK_TOKENS;
            sequence.registered = blocks.len();
            sequence.prefix = prefix;
            sequence.blocks = blocks;
            // Room for all that it has to compute, so that it is not preempted in its own prefill.
            let needed = sequence.tokens.len().div_ceil(BLOCK_TOKENS) - sequence.blocks.len();
            if needed > self.pool.free() {
                release(&mut self.pool, &mut sequence);
                self.waiting.push_front(sequence);
                return;
            }
            if !sequence.admitted_before {
                sequence.admitted_before = true;
                let cached_tokens = sequence.computed as u32;
                self.admissions.push(Admission {
                    id: sequence.id,
                    cached_tokens,
                });
            }
            let tokens = sequence.pending().min(*budget);
            self.running.push(sequence);
            let reserved = self.reserve(self.running.len() - 1, tokens);
            assert!(reserved, "enough free blocks were counted");
            self.running.last_mut().expect("just pushed").in_step = tokens;
            *budget -= tokens;
        }
    }

    /// The requests that the last plan admitted for the first time.
    pub fn admissions(&self) -> &[Admission] {
        &self.admissions
    }

    /// Takes the result of the planned step.
    ///
    /// # Panics
    /// When the output has not one token for each sampling row.
    pub fn apply(&mut self, output: &StepOutput, mut emit: impl FnMut(SequenceId, Progress)) {
        let mut drawn = output.tokens.iter().copied();
        let Self { running, pool, .. } = self;
        running.retain_mut(|sequence| {
            if sequence.in_step == 0 {
                return true;
            }
            sequence.computed += std::mem::take(&mut sequence.in_step);
            register_full_blocks(pool, sequence);
            if sequence.pending() > 0 {
                return true;
            }
            let token = drawn.next().expect("a token for each sampling row");
            sequence.tokens.push(token);
            emit(sequence.id, Progress::Token(token));
            let Some(reason) = sequence.finish_reason() else {
                return true;
            };
            emit(sequence.id, Progress::Finished(reason));
            release(pool, sequence);
            false
        });
        assert!(drawn.next().is_none(), "a sampling row for each token");
    }

    /// Requests in the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences in the batch.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The block pool.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Preemptions so far.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }
}

fn register_full_blocks(pool: &mut BlockPool, sequence: &mut Sequence) {
    while (sequence.registered + 1) * BLOCK_TOKENS <= sequence.computed {
        let at = sequence.registered;
        let tokens = &sequence.tokens[at * BLOCK_TOKENS..(at + 1) * BLOCK_TOKENS];
        sequence.prefix = pool.register(sequence.prefix, tokens, sequence.blocks[at]);
        sequence.registered += 1;
    }
}

/// Gives all blocks back, tail first, so that a prefix outlives what hangs on it.
fn release(pool: &mut BlockPool, sequence: &mut Sequence) {
    sequence
        .blocks
        .drain(..)
        .rev()
        .for_each(|id| pool.release(id));
    sequence.computed = 0;
    sequence.registered = 0;
    sequence.prefix = PrefixId::ROOT;
    sequence.in_step = 0;
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
