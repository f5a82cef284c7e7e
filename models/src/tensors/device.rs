//! Devices of the tensor library: how one is opened, what it says of itself, why it cannot be had.
//!
//! **Invariant.** What a device does not tell is not guessed. A GPU has a queue of work for each
//! host thread: what is handed from one thread to another has been waited for, as weights and
//! caches are when they are made. Telemetry is not its affair.

use candle_core::Device;
use std::fmt;

/// Where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorDevice {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number; needs a build with the feature `cuda`.
    Cuda(usize),
}

/// What a device says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// As its driver calls it.
    pub name: String,
    /// What its instructions can do, such as `9.0`.
    pub compute_capability: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// Of that, what nobody holds at present.
    pub free_bytes: u64,
}

/// A device cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device `{device}`: {reason}")]
pub struct NoDevice {
    device: TensorDevice,
    reason: String,
}

impl TensorDevice {
    /// Threads of candle's own pool on the CPU: the environment says how many, not the caller.
    pub fn cpu_threads() -> usize {
        candle_core::utils::get_num_threads()
    }

    /// What the device says of itself; of the processor candle knows nothing.
    pub fn facts(self) -> Result<Option<DeviceFacts>, NoDevice> {
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda(ordinal) => match cuda::facts(ordinal) {
                Ok(facts) => Ok(Some(facts)),
                Err(reason) => Err(self.missing(reason)),
            },
        }
    }

    pub(crate) fn open(self) -> Result<Device, NoDevice> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => {
                self.facts()?;
                Device::new_cuda(ordinal).map_err(|error| self.missing(error.to_string()))
            }
        }
    }

    fn missing(self, reason: String) -> NoDevice {
        let device = self;
        NoDevice { device, reason }
    }
}

impl fmt::Display for TensorDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(ordinal) => write!(formatter, "cuda:{ordinal}"),
        }
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::DeviceFacts;
    use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError};

    pub(super) fn facts(ordinal: usize) -> Result<DeviceFacts, String> {
        let count = CudaContext::device_count().map_err(|error| {
            format!(
                "the NVIDIA driver gives no GPU: {error:?}\n\nhint: `nvidia-smi` lists the GPUs that \
                 the driver has, and says what is wrong where it has none"
            )
        })?;
        if usize::try_from(count).is_ok_and(|count| ordinal < count) {
            read(ordinal).map_err(|error| format!("the NVIDIA driver says {error:?}"))
        } else {
            Err(format!("this host has {count} NVIDIA GPUs, from `cuda:0`"))
        }
    }

    fn read(ordinal: usize) -> Result<DeviceFacts, DriverError> {
        let context = CudaContext::new(ordinal)?;
        let (major, minor) = context.compute_capability()?;
        let (free, total) = context.mem_get_info()?;
        Ok(DeviceFacts {
            name: context.name()?,
            compute_capability: format!("{major}.{minor}"),
            memory_bytes: total as u64,
            free_bytes: free as u64,
        })
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::DeviceFacts;

    pub(super) fn facts(_ordinal: usize) -> Result<DeviceFacts, String> {
        Err("built without `cuda`; rebuild with `--features cuda`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_named_with_the_reason() {
        let error = TensorDevice::Cuda(4096).facts().unwrap_err().to_string();
        assert!(error.starts_with("device `cuda:4096`: "), "{error}");
        let reason = if cfg!(feature = "cuda") {
            "NVIDIA"
        } else {
            "rebuild with `--features cuda`"
        };
        assert!(error.contains(reason), "{error}");
        assert_eq!(
            TensorDevice::Cuda(4096).open().unwrap_err().to_string(),
            error
        );
        assert_eq!(TensorDevice::Cpu.facts(), Ok(None));
    }
}
