//! Telemetry of accelerators and processors: who is there, and what they draw.
//!
//! A [`Probe`] watches devices of one kind through one interface: the vendor's library, its command
//! line, a Prometheus exporter, or sysfs. [`open`] makes one, [`Sampler`] reads it ten times a
//! second on a thread of its own, [`discover`] tries all of them.
//!
//! Invariants: every value says where it was read; what cannot be read is [`Value::Unavailable`]
//! with the reason, never a zero; power that several devices share is read at one of them only, so
//! that the sum over devices is never more than what was drawn. Nothing of a vendor is needed to
//! build. What it does not do: integrate power, or judge whether telemetry is good enough for a
//! report.

mod acl;
mod block;
mod cndev;
mod command;
mod dcmi;
mod discover;
mod exporter;
mod ffi;
mod nvml;
mod pci;
mod places;
mod rapl;
mod sampler;
mod smi;
mod value;

use std::fmt;
use std::sync::mpsc::channel;
use std::time::Duration;

pub use discover::{Attempt, Discovery, Found, Outcome, discover};
pub use pci::PciDevice;
pub use places::Places;
pub use sampler::{Sampled, Sampler, Telemetry, Watched};
pub use value::{Quantity, Readings, Value};

use crate::clock::monotonic_now_ns;

/// Who makes a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vendor {
    /// NVIDIA.
    Nvidia,
    /// Huawei Ascend.
    Ascend,
    /// Cambricon.
    Cambricon,
    /// The processor of this host, whoever makes it.
    Cpu,
}

impl Vendor {
    /// As it is written in JSON and device files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Ascend => "ascend",
            Self::Cambricon => "cambricon",
            Self::Cpu => "cpu",
        }
    }

    /// The ways to its devices, best first.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Nvidia => &[Kind::Nvml, Kind::NvidiaSmi, Kind::DcgmExporter],
            Self::Ascend => &[Kind::Dcmi, Kind::NpuSmi, Kind::NpuExporter],
            Self::Cambricon => &[Kind::Cndev, Kind::Cnmon, Kind::MluExporter],
            Self::Cpu => &[Kind::Rapl],
        }
    }
}

/// An interface that telemetry is read through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// NVIDIA's library.
    Nvml,
    /// Ascend's library.
    Dcmi,
    /// Cambricon's library.
    Cndev,
    /// Energy counters of the processor in sysfs.
    Rapl,
    /// NVIDIA's command.
    NvidiaSmi,
    /// Ascend's command.
    NpuSmi,
    /// Cambricon's command.
    Cnmon,
    /// NVIDIA's DCGM exporter.
    DcgmExporter,
    /// Ascend's `npu-exporter`.
    NpuExporter,
    /// Cambricon's `mlu-exporter`.
    MluExporter,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Nvml,
        Self::Dcmi,
        Self::Cndev,
        Self::Rapl,
        Self::NvidiaSmi,
        Self::NpuSmi,
        Self::Cnmon,
        Self::DcgmExporter,
        Self::NpuExporter,
        Self::MluExporter,
    ];

    /// As `--probe` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvml => "nvml",
            Self::Dcmi => "dcmi",
            Self::Cndev => "cndev",
            Self::Rapl => "rapl",
            Self::NvidiaSmi => "nvidia-smi",
            Self::NpuSmi => "npu-smi",
            Self::Cnmon => "cnmon",
            Self::DcgmExporter => "dcgm-exporter",
            Self::NpuExporter => "npu-exporter",
            Self::MluExporter => "mlu-exporter",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Time between two samples: a library is asked ten times a second. A command takes a good part
    /// of a second itself, and an exporter repeats what it last collected.
    pub fn period_ns(self) -> u64 {
        const MS: u64 = 1_000_000;
        match self {
            Self::Nvml | Self::Dcmi | Self::Cndev | Self::Rapl => 100 * MS,
            Self::NvidiaSmi
            | Self::NpuSmi
            | Self::Cnmon
            | Self::DcgmExporter
            | Self::NpuExporter
            | Self::MluExporter => 1000 * MS,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a power reading covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One device as the interface counts them, or a processor's package.
    Chip,
    /// A card with more than one chip on it.
    Card,
    /// The whole machine.
    Node,
}

impl Scope {
    /// As it is written in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chip => "chip",
            Self::Card => "card",
            Self::Node => "node",
        }
    }
}

/// A device that a probe watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Who makes it.
    pub vendor: Vendor,
    /// As the interface counts, and `--probe KIND:INDEX` takes it.
    pub index: u32,
    /// As the interface calls it.
    pub name: String,
    /// Stable identity: UUID or PCI address, where there is one.
    pub id: Option<String>,
    /// What its power reading covers.
    pub scope: Scope,
    /// Index of the device at which the power of both is read.
    pub power_at: Option<u32>,
    /// Versions and the like, by name.
    pub facts: Vec<(&'static str, String)>,
}

/// What of a device is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Power and energy: what is asked ten times a second.
    Power,
    /// All that the interface gives.
    Everything,
}

/// What one device said.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitSample {
    /// When its power was read, on the system's monotonic clock.
    pub at_ns: u64,
    /// What was read.
    pub readings: Readings,
}

impl UnitSample {
    /// Of a device that cannot be asked.
    fn missing(why: &str) -> Self {
        let mut readings = Readings::default();
        readings.unavailable(Quantity::Power, why);
        readings.unavailable(Quantity::Energy, why);
        Self {
            at_ns: monotonic_now_ns(),
            readings,
        }
    }
}

/// A way to the telemetry of some devices.
pub trait Probe: Send {
    /// Which way.
    fn kind(&self) -> Kind;

    /// The devices, fixed while the probe is open.
    fn units(&self) -> &[Unit];

    /// Reads all devices now, in the order of [`Probe::units`]. An error means that none could be
    /// asked; that one value is missing is not an error.
    fn sample(&mut self, wanted: Wanted) -> Result<Vec<UnitSample>, SampleError>;
}

/// None of a probe's devices could be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SampleError(pub String);

/// Why a probe cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The interface is not on this host.
    #[error("not found; looked for {}", .looked.join(", "))]
    Absent {
        /// Where.
        looked: Vec<String>,
    },
    /// It is there and does not work.
    #[error("{place}: {reason}")]
    Broken {
        /// What was found.
        place: String,
        /// What it said.
        reason: String,
    },
    /// It works, and there is nothing to watch.
    #[error("{place}: no device")]
    NoDevices {
        /// What was asked.
        place: String,
    },
    /// It has no device of this number.
    #[error("{place}: there is no device {index}; accepted are {}", list(.have))]
    NoSuchDevice {
        /// What was asked.
        place: String,
        /// Which.
        index: u32,
        /// Those that there are.
        have: Vec<u32>,
    },
}

fn list(indexes: &[u32]) -> String {
    let words: Vec<String> = indexes.iter().map(u32::to_string).collect();
    words.join(", ")
}

/// Which devices of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    #[default]
    All,
    /// These.
    Indexes(Vec<u32>),
}

impl Selection {
    /// The chosen ones of what there is.
    pub fn choose<T>(
        &self,
        all: Vec<T>,
        index: impl Fn(&T) -> u32,
        place: &str,
    ) -> Result<Vec<T>, OpenError> {
        if all.is_empty() {
            return Err(OpenError::NoDevices {
                place: place.to_owned(),
            });
        }
        let Self::Indexes(wanted) = self else {
            return Ok(all);
        };
        let have: Vec<u32> = all.iter().map(&index).collect();
        if let Some(&missing) = wanted.iter().find(|wanted| !have.contains(wanted)) {
            return Err(OpenError::NoSuchDevice {
                place: place.to_owned(),
                index: missing,
                have,
            });
        }
        let chosen = all.into_iter().filter(|one| wanted.contains(&index(one)));
        Ok(chosen.collect())
    }
}

/// How long a vendor's software may take to start; NVIDIA's takes seconds where no process keeps
/// its devices up.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// Opens a probe on this host. A library that hangs is given up, and its thread left behind.
pub fn open(
    kind: Kind,
    selection: &Selection,
    places: &Places,
) -> Result<Box<dyn Probe>, OpenError> {
    let (selection, places) = (selection.clone(), places.clone());
    guarded(kind, move || open_here(kind, &selection, &places))
}

/// What `work` with an interface gives. Commands, exporters and files have limits of their own for
/// each call; a library is given up when it hangs.
fn guarded<T: Send + 'static>(
    kind: Kind,
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    match kind {
        Kind::Nvml | Kind::Dcmi | Kind::Cndev => {
            within(OPEN_LIMIT, work).unwrap_or_else(|| Err(hung(kind)))
        }
        _ => work(),
    }
}

/// What `work` gives, unless it takes longer than `limit`.
fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = channel();
    let thread = std::thread::Builder::new().name("probe".into());
    let started = thread.spawn(move || drop(done.send(work())));
    started.expect("a thread can be started");
    result.recv_timeout(limit).ok()
}

fn hung(kind: Kind) -> OpenError {
    OpenError::Broken {
        place: kind.name().to_owned(),
        reason: format!("no answer in {} s", OPEN_LIMIT.as_secs()),
    }
}

fn open_here(
    kind: Kind,
    selection: &Selection,
    places: &Places,
) -> Result<Box<dyn Probe>, OpenError> {
    Ok(match kind {
        Kind::Nvml => Box::new(nvml::NvmlProbe::open(selection, places)?),
        Kind::Dcmi => Box::new(dcmi::DcmiProbe::open(selection, places)?),
        Kind::Cndev => Box::new(cndev::CndevProbe::open(selection, places)?),
        Kind::Rapl => Box::new(rapl::RaplProbe::open(selection, places)?),
        Kind::NvidiaSmi | Kind::NpuSmi | Kind::Cnmon => {
            Box::new(smi::SmiProbe::open(kind, selection, places)?)
        }
        Kind::DcgmExporter | Kind::NpuExporter | Kind::MluExporter => {
            Box::new(exporter::ExporterProbe::open(kind, selection, places)?)
        }
    })
}

/// Opens the best way to a vendor's devices that works here; else every way that was tried and why
/// it did not.
pub fn open_vendor(
    vendor: Vendor,
    selection: &Selection,
    places: &Places,
) -> Result<Box<dyn Probe>, Vec<(Kind, OpenError)>> {
    let mut tried = Vec::new();
    for &kind in vendor.kinds() {
        match open(kind, selection, places) {
            Ok(probe) => return Ok(probe),
            Err(error) => tried.push((kind, error)),
        }
    }
    Err(tried)
}

/// Gives the second and later devices of one source of power a pointer to the first that is
/// watched. `shared` says which devices have one source: equal keys do.
fn share_power<K: PartialEq>(units: &mut [Unit], shared: &[Option<K>]) {
    for at in 0..units.len() {
        let Some(key) = &shared[at] else { continue };
        let first = shared[..at]
            .iter()
            .position(|other| other.as_ref() == Some(key));
        units[at].power_at = first.map(|first| units[first].index);
        units[at].scope = Scope::Card;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_and_written() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.name()), Some(kind));
        }
        assert_eq!(Kind::parse("abacus"), None);
    }

    #[test]
    fn what_hangs_is_given_up() {
        let (_open, never) = channel::<()>();
        let hang = move || never.recv().is_ok();
        assert_eq!(within(Duration::from_millis(50), hang), None);
        assert_eq!(within(OPEN_LIMIT, || 7), Some(7));
        // One that ends without a result is not waited for.
        assert_eq!(
            within(OPEN_LIMIT, || -> u8 { panic!("a fault of ours") }),
            None
        );
        let said = hung(Kind::Dcmi).to_string();
        assert_eq!(said, "dcmi: no answer in 30 s");
    }

    #[test]
    fn a_selection_names_what_is_not_there() {
        let choose = |selection: Selection| selection.choose(vec![0_u32, 2, 5], |&n| n, "here");
        assert_eq!(choose(Selection::All), Ok(vec![0, 2, 5]));
        assert_eq!(choose(Selection::Indexes(vec![5, 0])), Ok(vec![0, 5]));
        let error = choose(Selection::Indexes(vec![1])).expect_err("there is no 1");
        assert_eq!(
            error.to_string(),
            "here: there is no device 1; accepted are 0, 2, 5"
        );
        let none = Selection::All.choose(Vec::<u32>::new(), |&n| n, "here");
        assert!(matches!(none, Err(OpenError::NoDevices { .. })));
    }
}
