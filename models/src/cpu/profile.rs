//! Where the time of a step goes, by operation.
//!
//! **Invariant.** Every moment between the first and the last lap belongs to one operation, so
//! the shares add up. It does not say why an operation is slow; [`super::probe`] says what the
//! machine could do.

/// The operations of a forward pass, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Checks, packing of the batch, angles, embedding rows.
    Prepare,
    /// Norms and rounding of activations before a product.
    Quantise,
    /// Queries, keys and values.
    Projections,
    /// Rotary embedding and writes to the cache.
    CacheWrite,
    /// Scores, softmax, weighted values.
    Attention,
    /// Output of the attention.
    AttentionOutput,
    /// Gate and up, with the activation function.
    GateUp,
    /// Down.
    Down,
    /// Logits.
    Head,
}

impl Operation {
    /// In their order.
    pub const ALL: [Self; 9] = [
        Self::Prepare,
        Self::Quantise,
        Self::Projections,
        Self::CacheWrite,
        Self::Attention,
        Self::AttentionOutput,
        Self::GateUp,
        Self::Down,
        Self::Head,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Quantise => "norm and quantise",
            Self::Projections => "q, k, v",
            Self::CacheWrite => "rope, cache write",
            Self::Attention => "attention",
            Self::AttentionOutput => "attention output",
            Self::GateUp => "gate, up, SiLU",
            Self::Down => "down",
            Self::Head => "head",
        }
    }
}

/// What an operation took and did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Time.
    pub nanoseconds: u64,
    /// Bytes of weights and cache read.
    pub bytes: u64,
    /// Integer multiplications and additions.
    pub integer_operations: u64,
    /// Floating-point multiplications and additions.
    pub float_operations: u64,
}

/// The account of some steps.
#[derive(Clone, Debug)]
pub struct Profile {
    now: fn() -> u64,
    last: u64,
    tallies: [Tally; Operation::ALL.len()],
    steps: u64,
}

impl Profile {
    pub(super) fn new(now: fn() -> u64) -> Self {
        Self {
            now,
            last: now(),
            tallies: [Tally::default(); Operation::ALL.len()],
            steps: 0,
        }
    }

    /// A step begins: time since the last one is nobody's.
    pub(crate) fn begin(&mut self) {
        self.last = (self.now)();
        self.steps += 1;
    }

    /// Everything since the last lap was `operation`.
    pub(crate) fn lap(&mut self, operation: Operation, work: Tally) {
        let now = (self.now)();
        let tally = &mut self.tallies[operation as usize];
        tally.nanoseconds += now.saturating_sub(self.last);
        tally.bytes += work.bytes;
        tally.integer_operations += work.integer_operations;
        tally.float_operations += work.float_operations;
        self.last = now;
    }

    /// Steps accounted for.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What one operation took, over all steps.
    pub fn tally(&self, operation: Operation) -> Tally {
        self.tallies[operation as usize]
    }
}
