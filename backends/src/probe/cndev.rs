//! Cambricon through CNDEV (`libcndev.so`), in the three generations of its interface.
//!
//! The newest function that the library has is asked. Structures that carry a version are stamped
//! with the newest and, if that is refused (status 3), with older ones. Energy is field 71 where
//! the library has it. Invariant: only fields whose offsets all generations share, or whose
//! generation the function's name tells, are read; each structure gets 4 KiB of room, since newer
//! libraries write longer ones. Power is read in whole watts: the first generation has a field for
//! what is behind the point, of which nobody says in what unit.

use super::block::Block;
use super::ffi::{Arguments, Fault, Foreign};
use super::{
    Kind, OpenError, Places, Probe, Quantity, Readings, SampleError, Scope, Selection, Unit,
    UnitSample, Vendor, Wanted,
};
use crate::clock::monotonic_now_ns;

const ROOM: usize = 4096;
const MOST_CARDS: u32 = 64;
const REFUSED_VERSION: i32 = 3;
const VERSIONS: [i32; 6] = [6, 5, 4, 3, 2, 1];
const MIB: f64 = 1_048_576.0;
/// Total energy since the driver was loaded, in millijoules.
const FIELD_ENERGY: i32 = 71;

/// Cards of one library.
pub(super) struct CndevProbe {
    library: Foreign,
    units: Vec<Unit>,
    /// Or why a card has none.
    handles: Vec<Result<i32, String>>,
}

impl CndevProbe {
    pub(super) fn open(selection: &Selection, places: &Places) -> Result<Self, OpenError> {
        let library = places.foreign(Kind::Cndev)?;
        let place = library.path().display().to_string();
        let broken = |fault: Fault| OpenError::Broken {
            place: place.clone(),
            reason: explain(&fault),
        };
        library.call_int("cndevInit", 0).map_err(broken)?;
        let count = stamped(&library, "cndevGetDeviceCount", Arguments::Out);
        let count = count.map_err(broken)?.u32(4).min(MOST_CARDS);
        let all: Vec<(Unit, Result<i32, String>)> =
            (0..count).map(|index| device(&library, index)).collect();
        let chosen = selection.choose(all, |(unit, _)| unit.index, &place)?;
        let (units, handles) = chosen.into_iter().unzip();
        Ok(Self {
            library,
            units,
            handles,
        })
    }
}

impl Probe for CndevProbe {
    fn kind(&self) -> Kind {
        Kind::Cndev
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn sample(&mut self, wanted: Wanted) -> Result<Vec<UnitSample>, SampleError> {
        let sample = |handle: &Result<i32, String>| {
            let handle = match handle {
                Ok(handle) => *handle,
                Err(why) => return UnitSample::missing(why),
            };
            let mut readings = Readings::default();
            let before = monotonic_now_ns();
            let (name, watts) = power(&self.library, handle);
            let energy = energy(&self.library, handle);
            let at_ns = u64::midpoint(before, monotonic_now_ns());
            readings.take(
                Quantity::Power,
                name,
                watts.map_err(|fault| explain(&fault)),
            );
            readings.take(Quantity::Energy, "cndevDeviceGetFieldValues(71)", energy);
            if wanted == Wanted::Everything {
                read(&self.library, handle, &mut readings);
            }
            UnitSample { at_ns, readings }
        };
        Ok(self.handles.iter().map(sample).collect())
    }
}

fn device(library: &Foreign, index: u32) -> (Unit, Result<i32, String>) {
    let by_index = Arguments::IntOut(index.cast_signed());
    let handle = match library.fill("cndevGetDeviceHandleByIndex", by_index, 4) {
        Ok(block) => Ok(block.i32(0)),
        // The first generation has no handles: the number is one.
        Err(Fault::Missing(_)) => Ok(index.cast_signed()),
        Err(fault) => Err(explain(&fault)),
    };
    let name = handle.as_ref().ok().map(|&handle| {
        let name = library.text("cndevGetCardNameStringByDevId", handle);
        let uuid = stamped(library, "cndevGetUUID", Arguments::OutInt(handle));
        (
            name.ok(),
            uuid.map(|block| block.text(4, 37)).unwrap_or_default(),
        )
    });
    let (name, uuid) = name.unwrap_or_default();
    let unit = Unit {
        vendor: Vendor::Cambricon,
        index,
        name: name.unwrap_or_else(|| "Cambricon MLU".to_owned()),
        id: (!uuid.is_empty()).then_some(uuid),
        scope: Scope::Chip,
        power_at: None,
        facts: vec![("api", format!("CNDEV, generation {}", generation(library)))],
    };
    (unit, handle)
}

fn generation(library: &Foreign) -> u32 {
    if library.has("cndevGetDevicePowerInfo") {
        3
    } else if library.has("cndevGetPowerInfoV2") {
        2
    } else {
        1
    }
}

/// Watts, and which function gave them.
fn power(library: &Foreign, handle: i32) -> (&'static str, Result<f64, Fault>) {
    let device = Arguments::OutInt(handle);
    let watts = |block: Block, at: usize| f64::from(block.i32(at));
    match generation(library) {
        3 => {
            let name = "cndevGetDevicePowerInfo";
            (
                name,
                library
                    .fill(name, device, ROOM)
                    .map(|block| watts(block, 0)),
            )
        }
        2 => {
            let name = "cndevGetPowerInfoV2";
            (
                name,
                library
                    .fill(name, device, ROOM)
                    .map(|block| watts(block, 0)),
            )
        }
        _ => {
            let name = "cndevGetPowerInfo";
            (
                name,
                stamped(library, name, device).map(|block| watts(block, 4)),
            )
        }
    }
}

/// Joules since the driver was loaded.
fn energy(library: &Foreign, handle: i32) -> Result<f64, String> {
    const TYPE_U64: i32 = 3;
    let mut block = Block::new(ROOM);
    block.put_i32(0, FIELD_ENERGY);
    let name = "cndevDeviceGetFieldValues";
    let one = Arguments::IntIntOut(handle, 1);
    library
        .fill_block(name, one, &mut block)
        .map_err(|fault| explain(&fault))?;
    match (block.i32(4), block.i32(16)) {
        (0, TYPE_U64) => Ok(block.u64(8) as f64 / 1e3),
        (0, other) => Err(format!("{name}(71): its value is of type {other}, not u64")),
        (status, _) => Err(format!("{name}(71): {status} {}", meaning(status))),
    }
}

/// Everything but power and energy.
fn read(library: &Foreign, handle: i32, readings: &mut Readings) {
    let device = Arguments::OutInt(handle);
    let mut number = |what, name, at: usize| {
        let value = stamped(library, name, device).map(|block| f64::from(block.i32(at)));
        readings.take(what, name, value.map_err(|fault| explain(&fault)));
    };
    number(Quantity::Utilisation, "cndevGetDeviceUtilizationInfo", 4);
    number(Quantity::Temperature, "cndevGetTemperatureInfo", 120);
    number(Quantity::Clock, "cndevGetFrequencyInfo", 4);
    let name = "cndevGetMemoryUsageV2";
    let (name, memory) = if library.has(name) {
        let block = library.fill(name, device, ROOM);
        (name, block.map(|block| (block.i64(0), block.i64(8))))
    } else {
        let name = "cndevGetMemoryUsage";
        let block = stamped(library, name, device);
        (name, block.map(|block| (block.i64(8), block.i64(16))))
    };
    let memory = memory.map_err(|fault| explain(&fault));
    let part = |pick: fn((i64, i64)) -> i64| memory.clone().map(|both| pick(both) as f64 * MIB);
    readings.take(Quantity::MemoryTotal, name, part(|(total, _)| total));
    readings.take(Quantity::MemoryUsed, name, part(|(_, used)| used));
}

/// Fills a structure that begins with its version.
fn stamped(library: &Foreign, name: &'static str, arguments: Arguments) -> Result<Block, Fault> {
    let mut last = Fault::Missing(name);
    for version in VERSIONS {
        let mut block = Block::new(ROOM);
        block.put_i32(0, version);
        match library.fill_block(name, arguments, &mut block) {
            Ok(()) => return Ok(block),
            Err(fault) => {
                let refused = fault == Fault::Status(name, REFUSED_VERSION);
                last = fault;
                if !refused {
                    break;
                }
            }
        }
    }
    Err(last)
}

/// A fault in words.
fn explain(fault: &Fault) -> String {
    match *fault {
        Fault::Missing(name) => format!("{name}: the library has no such function"),
        Fault::Overrun(name) => format!("{name}: wrote more than 4 KiB"),
        Fault::Status(name, status) => format!("{name}: {status} {}", meaning(status)),
    }
}

fn meaning(status: i32) -> &'static str {
    match status {
        1 => "(no driver)",
        2 => "(driver too old)",
        REFUSED_VERSION => "(version of the interface not supported)",
        4 => "(not initialised)",
        5 => "(invalid argument)",
        6 => "(invalid device)",
        8 | 9 => "(memory)",
        10 => "(not supported)",
        12 => "(no devices)",
        13 => "(no permission)",
        14 => "(not found)",
        15 => "(in use)",
        17 => "(timeout)",
        18 => "(device has a problem)",
        _ => "(unknown error)",
    }
}
