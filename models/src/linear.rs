//! Matrices with candle's kernels behind them, applied to plain rows of f32.
//!
//! Matrices that read the same input are stacked into one when their formats agree: the input
//! is then quantised once and the threads meet once. Nothing is kept twice.

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{CpuStorage, Device, Module, Result, Storage, Tensor};
use candle_nn::Linear as Dense;
use std::borrow::Cow;
use std::sync::Arc;

/// One or more matrices that read the same input; their outputs lie side by side.
#[derive(Debug)]
pub(crate) struct Linear {
    parts: Vec<Part>,
    inputs: usize,
    outputs: usize,
}

#[derive(Debug)]
struct Part {
    matrix: Matrix,
    outputs: usize,
}

/// Weights in 16 or 32 bits go through candle-nn's layer, blocks through the quantised product.
#[derive(Debug)]
enum Matrix {
    Dense(Dense),
    Quantised(QMatMul),
}

impl Matrix {
    fn new(tensor: QTensor) -> Result<Self> {
        Ok(match tensor.dtype() {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                Self::Dense(Dense::new(tensor.dequantize(&Device::Cpu)?, None))
            }
            _ => Self::Quantised(QMatMul::from_qtensor(tensor)?),
        })
    }

    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(matrix) => matrix.forward(input),
            Self::Quantised(matrix) => matrix.forward(input),
        }
    }
}

impl Linear {
    /// Stacks `tensors`, each of shape `(outputs, inputs)`.
    pub(crate) fn stack(tensors: Vec<QTensor>) -> Result<Self> {
        let (_, inputs) = tensors[0].shape().dims2()?;
        let same = tensors
            .iter()
            .all(|tensor| tensor.dtype() == tensors[0].dtype());
        let tensors = if same && tensors.len() > 1 {
            vec![concat(&tensors)?]
        } else {
            tensors
        };
        let parts = tensors
            .into_iter()
            .map(|tensor| {
                let (outputs, _) = tensor.shape().dims2()?;
                Ok(Part {
                    matrix: Matrix::new(tensor)?,
                    outputs,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let outputs = parts.iter().map(|part| part.outputs).sum();
        Ok(Self {
            parts,
            inputs,
            outputs,
        })
    }

    /// A single matrix that is shared with the embedding.
    pub(crate) fn shared(matrix: QMatMul, outputs: usize, inputs: usize) -> Self {
        Self {
            parts: vec![Part {
                matrix: Matrix::Quantised(matrix),
                outputs,
            }],
            inputs,
            outputs,
        }
    }

    /// Outputs per row.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Applies the matrices to every row of `input`.
    pub(crate) fn forward(&self, input: Vec<f32>) -> Result<Vec<f32>> {
        let rows = input.len() / self.inputs;
        let input = Tensor::from_vec(input, (rows, self.inputs), &Device::Cpu)?;
        if let [part] = self.parts.as_slice() {
            return into_rows(&part.matrix.forward(&input)?);
        }
        let mut out = vec![0.0; rows * self.outputs];
        let mut offset = 0;
        for part in &self.parts {
            let result = into_rows(&part.matrix.forward(&input)?)?;
            let rows = out
                .chunks_exact_mut(self.outputs)
                .zip(result.chunks_exact(part.outputs));
            for (out, result) in rows {
                out[offset..offset + part.outputs].copy_from_slice(result);
            }
            offset += part.outputs;
        }
        Ok(out)
    }
}

/// The same tensor with f32 entries.
pub(crate) fn to_f32(tensor: &QTensor) -> Result<QTensor> {
    QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, GgmlDType::F32)
}

/// Rows of a table, without a dequantised copy of it.
pub(crate) fn gather(table: &QMatMul, ids: &[u32]) -> Result<Vec<f32>> {
    into_rows(&table.embedding(&Tensor::new(ids, &Device::Cpu)?)?)
}

/// A table that is only read by [`gather`].
pub(crate) fn table(tensor: QTensor) -> QMatMul {
    QMatMul::QTensor(Arc::new(tensor))
}

/// Quantised rows are self-contained, so stacking matrices is appending their bytes.
fn concat(tensors: &[QTensor]) -> Result<QTensor> {
    let (_, inputs) = tensors[0].shape().dims2()?;
    let dtype = tensors[0].dtype();
    let mut bytes = Vec::with_capacity(tensors.iter().map(QTensor::storage_size_in_bytes).sum());
    let mut outputs = 0;
    for tensor in tensors {
        bytes.extend_from_slice(&tensor.data()?);
        outputs += tensor.shape().dims2()?.0;
    }
    let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, dtype)?;
    QTensor::new(storage, (outputs, inputs))
}

fn into_rows(tensor: &Tensor) -> Result<Vec<f32>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) => Ok(data[start..end].to_vec()),
        _ => tensor.contiguous()?.flatten_all()?.to_vec1(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(outputs: usize, seed: usize, dtype: GgmlDType) -> QTensor {
        let data: Vec<f32> = (0..outputs * 64)
            .map(|i| ((i * 7 + seed) as f32).sin())
            .collect();
        let tensor = Tensor::from_vec(data, (outputs, 64), &Device::Cpu).unwrap();
        QTensor::quantize(&tensor, dtype).unwrap()
    }

    fn check(first: GgmlDType, second: GgmlDType, parts: usize) {
        let input: Vec<f32> = (0..3 * 64).map(|i| (i as f32 * 0.3).cos()).collect();
        let alone = |tensor| {
            Linear::stack(vec![tensor])
                .unwrap()
                .forward(input.clone())
                .unwrap()
        };
        let (a, b) = (alone(matrix(6, 1, first)), alone(matrix(5, 2, second)));
        let stacked = Linear::stack(vec![matrix(6, 1, first), matrix(5, 2, second)]).unwrap();
        assert_eq!((stacked.parts.len(), stacked.outputs()), (parts, 11));
        let both = stacked.forward(input.clone()).unwrap();
        for row in 0..3 {
            let (left, right) = both[row * 11..(row + 1) * 11].split_at(6);
            let expected = a[row * 6..(row + 1) * 6]
                .iter()
                .chain(&b[row * 5..(row + 1) * 5]);
            for (found, expected) in left.iter().chain(right).zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }

    #[test]
    fn stacked_matrices_give_what_each_gives_alone() {
        check(GgmlDType::Q4_1, GgmlDType::Q4_1, 1);
        check(GgmlDType::F32, GgmlDType::F32, 1);
        check(GgmlDType::F16, GgmlDType::F16, 1);
        check(GgmlDType::Q8_0, GgmlDType::Q4_0, 2);
    }
}
