//! Everything random comes from `(seed, stream)`.
//!
//! Invariant: a stream's values depend on the seed, the stream's purpose and its index alone:
//! `ChaCha8` is value-stable, and our own logarithms and exponentials come from `libm`, not from
//! the platform. What is left to the platform are the logarithms inside `rand_distr`'s gamma
//! sampler and in the tails of its normal and exponential; a difference in their last bit would
//! have to survive rounding to whole nanoseconds and tokens to show in the schedule's hash.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream is for; two purposes never share values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Session arrivals.
    Arrivals = 1,
    /// Lengths, turns and think times of a session.
    Session = 2,
    /// Text of a session.
    Text = 3,
    /// Text that sessions share: system prompt, personas.
    SharedText = 4,
    /// Slow change of the rate.
    Drift = 5,
    /// Where spikes are.
    Spikes = 6,
    /// Content of a block of a trace.
    Block = 7,
    /// What a trace leaves open: instants within its step, think times.
    Trace = 8,
    /// Randomised tests of a schedule.
    Check = 9,
    /// Seeds of served requests that bring none.
    ServedSeed = 10,
    /// Order of the runs of a gate.
    GateOrder = 12,
    /// Answers of the mock server.
    Mock = 16,
}

/// The stream of one purpose and index.
pub fn stream(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(((purpose as u64) << 48) ^ index);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_differ_and_repeat() {
        let draw = |purpose, index| stream(7, purpose, index).random::<u64>();
        assert_eq!(draw(Purpose::Session, 3), draw(Purpose::Session, 3));
        assert_ne!(draw(Purpose::Session, 3), draw(Purpose::Session, 4));
        assert_ne!(draw(Purpose::Session, 3), draw(Purpose::Text, 3));
    }
}
