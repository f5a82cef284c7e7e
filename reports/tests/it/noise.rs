//! Noise of machines, made up: what a gate must not take for a difference.
//!
//! One value is the logarithm of one run's figure over its true value. Values come in the order of
//! the runs, one slot of time each, since what goes on beside the runs lasts longer than one.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// What goes on beside the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noise {
    /// Slow drift of the machine (AR(1), 4 %), 2 % of each run's own, one run in ten 8 % slower.
    Machine,
    /// The same with a drift that forgets half in every run.
    FastDrift,
    /// 2 % of each run's own, and nothing else.
    Quiet,
    /// Student's t with 2 degrees of freedom, scaled by 2 %: its variance is infinite.
    HeavyTails,
    /// Every run slower than the one before, 20 % over the whole; 2 % of each run's own.
    Ramp,
    /// A neighbour who comes and goes: 15 % slower, for 5 runs on average, a third of the time.
    Neighbour,
    /// 6 % up and down with a period of four runs, in step with the pairs; 1 % of each run's own.
    Beat,
}

impl Noise {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Machine,
        Self::FastDrift,
        Self::Quiet,
        Self::HeavyTails,
        Self::Ramp,
        Self::Neighbour,
        Self::Beat,
    ];

    /// In words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Machine => "drift 4 %, noise 2 %, 1 in 10 +8 %",
            Self::FastDrift => "the same, drift forgets by half",
            Self::Quiet => "noise 2 %",
            Self::HeavyTails => "t with 2 degrees, 2 %",
            Self::Ramp => "ramp of 20 %, noise 2 %",
            Self::Neighbour => "neighbour comes and goes, +15 %",
            Self::Beat => "beat of 4 runs, 6 %, noise 1 %",
        }
    }

    /// The values of so many runs, one after the other.
    pub(crate) fn runs(self, count: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let mut drift = Drift::new(self, rng);
        (0..count)
            .map(|slot| self.own(rng) + drift.at(slot, count, rng))
            .collect()
    }

    /// What a gate with so many pairs in random order finds of equal programs: the logarithms of
    /// B over A.
    pub(crate) fn pairs(self, count: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let runs = self.runs(2 * count, rng);
        let pair = |runs: &[f64]| {
            let change = runs[1] - runs[0];
            if rng.random::<bool>() {
                change
            } else {
                -change
            }
        };
        runs.chunks(2).map(pair).collect()
    }

    fn own(self, rng: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Machine | Self::FastDrift => {
                let hit = if rng.random::<f64>() < 0.1 {
                    1.08_f64.ln()
                } else {
                    0.0
                };
                0.02 * normal(rng) + hit
            }
            Self::Quiet | Self::Ramp | Self::Neighbour => 0.02 * normal(rng),
            Self::HeavyTails => {
                let exponential = -(1.0 - rng.random::<f64>()).ln();
                0.02 * normal(rng) / exponential.sqrt()
            }
            Self::Beat => 0.01 * normal(rng),
        }
    }
}

/// What lasts longer than a run.
struct Drift {
    noise: Noise,
    level: f64,
}

impl Drift {
    fn new(noise: Noise, rng: &mut ChaCha8Rng) -> Self {
        let level = match noise {
            Noise::Machine | Noise::FastDrift => 0.04 * normal(rng),
            Noise::Neighbour if rng.random::<f64>() < 1.0 / 3.0 => 0.15,
            Noise::Beat => (4.0 * rng.random::<f64>()).floor(),
            _ => 0.0,
        };
        Self { noise, level }
    }

    fn at(&mut self, slot: usize, count: usize, rng: &mut ChaCha8Rng) -> f64 {
        let kept: f64 = if self.noise == Noise::Machine {
            0.9
        } else {
            0.5
        };
        match self.noise {
            Noise::Machine | Noise::FastDrift => {
                let step = 0.04 * (1.0 - kept * kept).sqrt() * normal(rng);
                self.level = kept * self.level + step;
                self.level
            }
            Noise::Neighbour => {
                // Comes after 10 runs, goes after 5, on average.
                let (chance, other) = if self.level > 0.0 {
                    (0.2, 0.0)
                } else {
                    (0.1, 0.15)
                };
                if rng.random::<f64>() < chance {
                    self.level = other;
                }
                self.level
            }
            Noise::Ramp => 0.2 * slot as f64 / count as f64,
            Noise::Beat => {
                let phase = (slot + self.level as usize) % 4;
                if phase < 2 { 0.06 } else { -0.06 }
            }
            Noise::Quiet | Noise::HeavyTails => 0.0,
        }
    }
}

/// Standard normal, by Box and Muller.
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// A stream of its own for each trial.
pub(crate) fn rng(trial: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(0x6761_7465);
    rng.set_stream(trial);
    rng
}
