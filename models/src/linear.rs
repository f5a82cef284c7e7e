//! The matrices of a layer, packed into the memory of the model.
//!
//! Matrices that read the same input are stacked into one where their formats agree: the threads
//! then meet once. **Invariant.** Weights are in memory once, packed; the most they can need is
//! planned before the first tensor is read.

use crate::config::TensorSpec;
use crate::cpu::Tally;
use crate::cpu::input::{Forms, Input};
use crate::cpu::memory::Memory;
use crate::cpu::pack::{Format, Matrix};
use crate::cpu::pool::{Pool, Shared};
use crate::cpu::product::{Ending, Output, multiply};
use crate::cpu::simd::{Level, ROWS};
use crate::llama::BuildError;
use candle_core::quantized::QTensor;

/// What will be packed: the tensors of one [`Linear`].
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    parts: Vec<PlannedPart<'a>>,
    interleave: bool,
}

#[derive(Debug)]
struct PlannedPart<'a> {
    specs: Vec<&'a TensorSpec>,
    format: Format,
}

impl PlannedPart<'_> {
    fn most_bytes(&self) -> usize {
        let bytes =
            |spec: &&TensorSpec| Matrix::most_bytes(self.format, spec.shape[0], spec.shape[1]);
        self.specs.iter().map(bytes).sum()
    }
}

impl<'a> Plan<'a> {
    /// Matrices whose outputs lie side by side.
    pub(crate) fn stack(specs: &[(&'a TensorSpec, Format)]) -> Self {
        let mut parts: Vec<PlannedPart<'a>> = Vec::new();
        for (spec, format) in specs {
            match parts.last_mut() {
                // whole panels: rows of the next tensor begin where its panel does
                Some(part)
                    if part.format == *format
                        && part.specs.iter().all(|spec| spec.shape[0] % ROWS == 0) =>
                {
                    part.specs.push(spec);
                }
                _ => parts.push(PlannedPart {
                    specs: vec![spec],
                    format: *format,
                }),
            }
        }
        Self {
            parts,
            interleave: false,
        }
    }

    /// Gate and up, of one shape, whose panels alternate. If their formats differ both are
    /// expanded to f32: rare, right, and slow.
    pub(crate) fn gate(gate: (&'a TensorSpec, Format), up: (&'a TensorSpec, Format)) -> Self {
        let format = if gate.1 == up.1 { gate.1 } else { Format::F32 };
        Self {
            parts: vec![PlannedPart {
                specs: vec![gate.0, up.0],
                format,
            }],
            interleave: true,
        }
    }

    /// The memory it needs at most, one span each.
    pub(crate) fn spans(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().map(PlannedPart::most_bytes)
    }

    /// Reads the tensors, in their order, and packs them.
    pub(crate) fn pack<E: From<BuildError>>(
        &self,
        memory: &mut Memory,
        mut read: impl FnMut(&TensorSpec) -> Result<QTensor, E>,
    ) -> Result<Linear, E> {
        let mut parts = Vec::new();
        for part in &self.parts {
            let tensors: Vec<_> = part
                .specs
                .iter()
                .map(|spec| read(spec))
                .collect::<Result<_, E>>()?;
            let matrix = Matrix::pack(&tensors, part.format, self.interleave, memory);
            parts.push(matrix.map_err(BuildError::Tensor)?);
        }
        Ok(Linear {
            parts,
            gate: self.interleave,
        })
    }
}

/// One or more matrices that read the same input.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    parts: Vec<Matrix>,
    gate: bool,
}

impl Linear {
    /// Outputs per row.
    pub(crate) fn outputs(&self) -> usize {
        let rows: usize = self.parts.iter().map(|matrix| matrix.rows).sum();
        if self.gate { rows / 2 } else { rows }
    }

    /// The form its input must have.
    pub(crate) fn forms(&self, level: Level) -> Forms {
        Forms::of(self.parts.iter().map(|matrix| matrix.format), level)
    }

    /// Stores the product, `outputs` elements per row; of gate and up, `silu(gate) * up`.
    pub(crate) fn store(
        &self,
        (pool, level): (&mut Pool, Level),
        memory: &Memory,
        input: &Input,
        out: &mut Vec<f32>,
    ) {
        let ending = if self.gate {
            Ending::Gate
        } else {
            Ending::Store
        };
        out.resize(input.rows() * self.outputs(), 0.0);
        self.multiply((pool, level), memory, input, out, ending);
    }

    /// Adds the product to what is there.
    pub(crate) fn add(
        &self,
        (pool, level): (&mut Pool, Level),
        memory: &Memory,
        input: &Input,
        out: &mut [f32],
    ) {
        self.multiply((pool, level), memory, input, out, Ending::Add);
    }

    fn multiply(
        &self,
        (pool, level): (&mut Pool, Level),
        memory: &Memory,
        input: &Input,
        out: &mut [f32],
        ending: Ending,
    ) {
        let data = Shared::new(out);
        let stride = self.outputs();
        let mut first = 0;
        for matrix in &self.parts {
            let output = Output {
                data,
                stride,
                first,
                ending,
            };
            multiply(
                pool,
                level,
                matrix,
                memory.bytes(matrix.span),
                input,
                output,
            );
            first += matrix.rows;
        }
    }

    /// One row of a table.
    pub(crate) fn row(&self, memory: &Memory, row: usize, out: &mut [f32]) {
        let [table] = self.parts.as_slice() else {
            unreachable!("a table is one matrix")
        };
        table.row(memory.bytes(table.span), row, out);
    }

    /// What a product with `rows` rows does.
    pub(crate) fn work(&self, rows: usize) -> Tally {
        let mut work = Tally::default();
        for matrix in &self.parts {
            let operations = (2 * rows * matrix.rows * matrix.columns) as u64;
            work.bytes += matrix.span.bytes() as u64;
            if matrix.format.is_integer() {
                work.integer_operations += operations;
            } else {
                work.float_operations += operations;
            }
        }
        work
    }
}
