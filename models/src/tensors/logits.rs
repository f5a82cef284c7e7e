//! Logits on a device, and the tokens that follow from them.
//!
//! **Invariant.** The host sees whole rows only where chance or a forbidden token decides; of other
//! rows it sees the token. Reading either waits for the device, and so ends the step.

use crate::batch::ForwardError;
use crate::sampler::{Draw, sample};
use candle_core::{D, Tensor};

/// Logits of the steps that asked for them, in batch order: `[rows, vocab]`, if there are any.
#[derive(Debug)]
pub struct TensorLogits(pub(super) Option<Tensor>);

impl TensorLogits {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.0.as_ref().map_or(0, |logits| logits.dims()[0])
    }

    /// All rows, one logit per token of the vocabulary, on the host.
    pub fn to_rows(&self) -> Result<Vec<Vec<f32>>, ForwardError> {
        let rows = self.0.as_ref().map(Tensor::to_vec2);
        Ok(rows.transpose()?.unwrap_or_default())
    }

    /// Chooses a token for every row, as [`crate::sample`] does among the tokens that may be drawn;
    /// which of two equal logits is the larger is the device's choice.
    ///
    /// # Panics
    /// If there are not as many draws as rows.
    pub fn sample(&self, draws: &[Draw<'_>]) -> Result<Vec<u32>, ForwardError> {
        assert_eq!(draws.len(), self.rows(), "each row has its draw");
        let Some(logits) = &self.0 else {
            return Ok(Vec::new());
        };
        let mut tokens = if draws.iter().any(|draw| draw.params.is_greedy()) {
            logits.argmax(D::Minus1)?.to_vec1::<u32>()?
        } else {
            vec![0; draws.len()]
        };
        // the most probable token is rarely one of the forbidden ones
        let on_host: Vec<u32> = (0_u32..)
            .zip(draws)
            .filter(|(row, draw)| {
                !draw.params.is_greedy() || draw.forbidden.contains(&tokens[*row as usize])
            })
            .map(|(row, _)| row)
            .collect();
        if !on_host.is_empty() {
            let index = Tensor::from_slice(&on_host, on_host.len(), logits.device())?;
            let rows = logits.index_select(&index, 0)?.to_vec2::<f32>()?;
            for (row, mut logits) in on_host.into_iter().zip(rows) {
                let draw = &draws[row as usize];
                for id in draw.forbidden {
                    if let Some(logit) = logits.get_mut(*id as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
                tokens[row as usize] = sample(&logits, &draw.params, draw.output_index);
            }
        }
        Ok(tokens)
    }
}
