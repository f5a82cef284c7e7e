//! Weights on a device, each with the product that candle has for its format.
//!
//! **Invariant.** Activations are f32 on both sides; formats of 16 bits are multiplied in their
//! own precision, quantised ones as candle sees fit. Nothing is expanded that can be used as it is.

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::Linear;

/// A matrix, or a table of rows.
#[derive(Clone, Debug)]
pub(super) enum Matrix {
    Quantised(QMatMul),
    Dense(Linear),
}

impl Matrix {
    /// Brings a tensor to the device in `format`: its own, or f32.
    pub(super) fn new(tensor: QTensor, format: GgmlDType, device: &Device) -> Result<Self> {
        let dense = match format {
            GgmlDType::F32 => DType::F32,
            GgmlDType::F16 => DType::F16,
            GgmlDType::BF16 => DType::BF16,
            _ => {
                let tensor = if device.is_cpu() {
                    tensor
                } else {
                    let storage = QStorage::from_data(tensor.data()?, device, tensor.dtype())?;
                    QTensor::new(storage, tensor.shape())?
                };
                return Ok(Self::Quantised(QMatMul::from_qtensor(tensor)?));
            }
        };
        let tensor = tensor.dequantize(&Device::Cpu)?.to_dtype(dense)?;
        Ok(Self::Dense(Linear::new(tensor.to_device(device)?, None)))
    }

    /// The product with every row of `input`.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        match self {
            Self::Quantised(matrix) => matrix.forward(input),
            Self::Dense(linear) => {
                let input = input.to_dtype(linear.weight().dtype())?;
                linear.forward(&input)?.to_dtype(DType::F32)
            }
        }
    }

    /// Rows of the table.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Quantised(table) => table.embedding(ids),
            Self::Dense(table) => table.weight().index_select(ids, 0)?.to_dtype(DType::F32),
        }
    }
}
