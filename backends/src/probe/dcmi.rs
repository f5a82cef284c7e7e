//! Ascend through DCMI (`libdcmi.so`), which needs no device context.
//!
//! Structures and numbers are from the library's documentation. A card has up to four chips and
//! often a microcontroller, which counts as a device and is none: each device is asked what it is.
//! Invariant: power that several chips share (an A3's two dies, a 300I Duo's two chips) is read at
//! the first of them and is the card's. The library has no energy counter.
//!
//! The 950 answers the old functions with "not supported"; [`v2`] asks it by its new ones.

mod v2;

use std::path::Path;

use super::acl::Toolkit;
use super::ffi::{Arguments, Fault, Foreign};
use super::{
    Kind, OpenError, Places, Probe, Quantity, Readings, SampleError, Scope, Selection, Unit,
    UnitSample, Vendor, Wanted, share_power,
};
use crate::clock::monotonic_now_ns;

const NOT_SUPPORTED: i32 = -8255;
const MOST_CARDS: i32 = 64;
const MOST_DEVICES: i32 = 8;
const KIND_NPU: u32 = 0;
/// What the documentation calls MB is MiB: 65536 for a part of 64 GB.
const MIB: f64 = 1_048_576.0;
/// PCI device of the A3, whose two dies report the power of the package.
const PCI_A3: u32 = 0xd803;

/// Cards of one library.
pub(super) struct DcmiProbe {
    library: Foreign,
    units: Vec<Unit>,
    chips: Vec<Chip>,
}

/// Where the library keeps a chip, and how to ask for its power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chip {
    card: i32,
    device: i32,
    power: Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    /// Of this chip, or of its package.
    Own,
    /// Of the whole card, by its microcontroller.
    Card,
    /// By the functions of the 950.
    V2,
}

impl DcmiProbe {
    pub(super) fn open(selection: &Selection, places: &Places) -> Result<Self, OpenError> {
        let library = places.foreign(Kind::Dcmi)?;
        let place = library.path().display().to_string();
        let broken = |fault: Fault| OpenError::Broken {
            place: place.clone(),
            reason: explain(&fault),
        };
        let old = library.call("dcmi_init").and_then(|()| cards(&library));
        let all = match old {
            Ok(cards) => chips_of(&library, &cards),
            Err(fault) if v2::is_there(&library, &fault) => v2::open(&library).map_err(broken)?,
            Err(fault) => return Err(broken(fault)),
        };
        let mut chosen = selection.choose(all, |(unit, _, _)| unit.index, &place)?;
        let (versions, toolkit) = (versions(&library, places), Toolkit::new(places));
        for (unit, _, _) in &mut chosen {
            unit.facts.extend(soc_of(&unit.name, &toolkit));
            unit.facts.extend(versions.iter().cloned());
        }
        let shared: Vec<Option<i32>> = chosen
            .iter()
            .map(|(_, chip, shares)| shares.then_some(chip.card))
            .collect();
        let (mut units, mut chips) = (Vec::new(), Vec::new());
        for (unit, chip, _) in chosen {
            units.push(unit);
            chips.push(chip);
        }
        share_power(&mut units, &shared);
        Ok(Self {
            library,
            units,
            chips,
        })
    }
}

impl Probe for DcmiProbe {
    fn kind(&self) -> Kind {
        Kind::Dcmi
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn sample(&mut self, wanted: Wanted) -> Result<Vec<UnitSample>, SampleError> {
        let sample = |(unit, &chip): (&Unit, &Chip)| {
            let mut readings = Readings::default();
            let at_ns = read_power(&self.library, unit, chip, &mut readings);
            if wanted == Wanted::Everything {
                let why = "DCMI has no energy counter";
                readings.unavailable(Quantity::Energy, why);
                match chip.power {
                    Power::V2 => v2::read(&self.library, chip.device, &mut readings),
                    Power::Own | Power::Card => read(&self.library, chip, &mut readings),
                }
            }
            UnitSample { at_ns, readings }
        };
        Ok(self.units.iter().zip(&self.chips).map(sample).collect())
    }
}

/// The power, or where it is read instead; when.
fn read_power(library: &Foreign, unit: &Unit, chip: Chip, readings: &mut Readings) -> u64 {
    if let Some(other) = unit.power_at {
        let why = format!("shared with device {other}, and counted there");
        readings.unavailable(Quantity::Power, why);
        return monotonic_now_ns();
    }
    let (name, arguments) = match chip.power {
        Power::Own => (
            "dcmi_get_device_power_info",
            Arguments::IntIntOut(chip.card, chip.device),
        ),
        Power::Card => ("dcmi_mcu_get_power_info", Arguments::IntOut(chip.card)),
        Power::V2 => (
            "dcmiv2_get_device_power_info",
            Arguments::IntOut(chip.device),
        ),
    };
    let before = monotonic_now_ns();
    let block = library.fill(name, arguments, 4);
    let at_ns = u64::midpoint(before, monotonic_now_ns());
    let watts = block.map(|block| f64::from(block.i32(0)) / 10.0);
    readings.take(
        Quantity::Power,
        name,
        watts.map_err(|fault| explain(&fault)),
    );
    at_ns
}

/// Everything but power.
fn read(library: &Foreign, chip: Chip, readings: &mut Readings) {
    const AICORE: i32 = 2;
    const AICORE_MHZ_NOW: i32 = 7;
    let (card, device) = (chip.card, chip.device);
    let whole = Arguments::IntIntOut(card, device);
    let by = |what: i32| Arguments::IntIntIntOut(card, device, what);
    let mut number = |what, name, arguments, signed: bool| {
        let value = library.fill(name, arguments, 4).map(|block| {
            if signed {
                f64::from(block.i32(0))
            } else {
                f64::from(block.u32(0))
            }
        });
        readings.take(what, name, value.map_err(|fault| explain(&fault)));
    };
    let name = "dcmi_get_device_utilization_rate";
    number(Quantity::Utilisation, name, by(AICORE), false);
    let name = "dcmi_get_device_temperature";
    number(Quantity::Temperature, name, whole, true);
    let name = "dcmi_get_device_frequency";
    number(Quantity::Clock, name, by(AICORE_MHZ_NOW), false);
    number(Quantity::Health, "dcmi_get_device_health", whole, false);
    read_memory(library, whole, readings);
}

/// High-bandwidth memory; else that of parts with plain memory; else by the older function.
fn read_memory(library: &Foreign, whole: Arguments, readings: &mut Readings) {
    let name = "dcmi_get_device_hbm_info";
    let found = match library.fill(name, whole, 32) {
        Ok(block) if block.u64(0) > 0 => Ok((name, block.u64(0), block.u64(16), MIB)),
        first => {
            let name = "dcmi_get_device_memory_info_v3";
            let legacy = "dcmi_get_hbm_info";
            if let Ok(block) = library.fill(name, whole, 112)
                && block.u64(0) > 0
            {
                let used = block.u64(0).saturating_sub(block.u64(8));
                Ok((name, block.u64(0), used, MIB))
            } else if let Ok(block) = library.fill(legacy, whole, 32)
                && block.u64(0) > 0
            {
                Ok((legacy, block.u64(0), block.u64(16), 1024.0))
            } else {
                let said = first.err().map(|fault| explain(&fault));
                Err(said.unwrap_or_else(|| format!("{name}: no memory of either kind")))
            }
        }
    };
    match found {
        Ok((name, total, used, unit)) => {
            readings.read(Quantity::MemoryTotal, total as f64 * unit, name);
            readings.read(Quantity::MemoryUsed, used as f64 * unit, name);
        }
        Err(why) => {
            readings.unavailable(Quantity::MemoryTotal, why.clone());
            readings.unavailable(Quantity::MemoryUsed, why);
        }
    }
}

/// Numbers of the cards; they need not begin at 0 nor follow each other.
fn cards(library: &Foreign) -> Result<Vec<i32>, Fault> {
    let (mut count, mut list) = (super::block::Block::new(4), list_block());
    let name = if library.has("dcmi_get_card_list") {
        "dcmi_get_card_list"
    } else {
        "dcmi_get_card_num_list"
    };
    library.fill_list(name, &mut count, &mut list, MOST_CARDS)?;
    Ok(listed(&count, &list))
}

fn list_block() -> super::block::Block {
    super::block::Block::new(4 * MOST_CARDS as usize)
}

fn listed(count: &super::block::Block, list: &super::block::Block) -> Vec<i32> {
    let count = count.i32(0).clamp(0, MOST_CARDS) as usize;
    (0..count).map(|at| list.i32(4 * at)).collect()
}

/// The chips of all cards that are NPUs, and whether they share their card's power.
fn chips_of(library: &Foreign, cards: &[i32]) -> Vec<(Unit, Chip, bool)> {
    let mut found = Vec::new();
    for &card in cards {
        let npus = npus_of(library, card);
        let shares = npus.len() > 1;
        for device in npus {
            let ordinal = found.len() as u32;
            let power = power_of(library, card, device, shares);
            let chip = Chip {
                card,
                device,
                power,
            };
            found.push((
                unit_of(library, chip, ordinal),
                chip,
                shares && !is_single(power, library, chip),
            ));
        }
    }
    found
}

/// Does each chip of a card with several have a power of its own?
fn is_single(power: Power, library: &Foreign, chip: Chip) -> bool {
    power == Power::Own && !is_a3(library, chip.card, chip.device)
}

/// Devices of a card that are NPUs.
fn npus_of(library: &Foreign, card: i32) -> Vec<i32> {
    let count = library.fill("dcmi_get_device_num_in_card", Arguments::IntOut(card), 4);
    let count = count.map_or(1, |block| block.i32(0)).clamp(0, MOST_DEVICES);
    let is_npu = |&device: &i32| {
        let name = "dcmi_get_device_type";
        let kind = library.fill(name, Arguments::IntIntOut(card, device), 4);
        // A library too old to say what a device is counts NPUs only.
        kind.map_or(true, |block| block.u32(0) == KIND_NPU)
    };
    (0..count).filter(is_npu).collect()
}

/// Of a card with one chip, the chip's. Of an A3, the package's, by either die. Of other cards with
/// several, the card's, where its microcontroller gives it.
fn power_of(library: &Foreign, card: i32, device: i32, shares: bool) -> Power {
    let own = Arguments::IntIntOut(card, device);
    let has_own = library.fill("dcmi_get_device_power_info", own, 4).is_ok();
    let by_card = || {
        let whole = library.fill("dcmi_mcu_get_power_info", Arguments::IntOut(card), 4);
        whole.is_ok_and(|block| block.i32(0) > 0)
    };
    let is_enough = has_own && (!shares || is_a3(library, card, device));
    if !is_enough && by_card() {
        Power::Card
    } else {
        Power::Own
    }
}

fn is_a3(library: &Foreign, card: i32, device: i32) -> bool {
    let whole = Arguments::IntIntOut(card, device);
    let pci = library.fill("dcmi_get_device_pcie_info_v2", whole, 64);
    if pci.is_ok_and(|block| block.u32(8) == PCI_A3) {
        return true;
    }
    let name = chip_name(library, whole);
    name.is_some_and(|name| name == "Ascend910" || name.contains("910_93"))
}

fn chip_name(library: &Foreign, whole: Arguments) -> Option<String> {
    let v2 = library.fill("dcmi_get_device_chip_info_v2", whole, 132);
    let npu = v2
        .ok()
        .map(|block| block.text(100, 32))
        .filter(|name| !name.is_empty());
    npu.or_else(|| {
        let block = library.fill("dcmi_get_device_chip_info", whole, 100).ok()?;
        Some(block.text(32, 32)).filter(|name| !name.is_empty())
    })
}

fn unit_of(library: &Foreign, chip: Chip, ordinal: u32) -> Unit {
    let whole = Arguments::IntIntOut(chip.card, chip.device);
    let logic = Arguments::OutIntInt(chip.card, chip.device);
    let logic = library.fill("dcmi_get_device_logic_id", logic, 4).ok();
    let logic = logic.and_then(|block| u32::try_from(block.i32(0)).ok());
    let pci = library.fill("dcmi_get_device_pcie_info_v2", whole, 64).ok();
    let address = pci.map(|block| {
        let (domain, bus, device, function) =
            (block.i32(16), block.u32(20), block.u32(24), block.u32(28));
        format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    });
    let name = chip_name(library, whole);
    Unit {
        vendor: Vendor::Ascend,
        index: logic.unwrap_or(ordinal),
        name: name.unwrap_or_else(|| "Ascend NPU".to_owned()),
        id: address,
        scope: if chip.power == Power::Card {
            Scope::Card
        } else {
            Scope::Chip
        },
        power_at: None,
        facts: vec![("card", chip.card.to_string())],
    }
}

/// The chip's name as a system, from its own name where that tells it (`910B3`), else from the
/// toolkit.
pub(super) fn soc_of(name: &str, toolkit: &Toolkit<'_>) -> Option<(&'static str, String)> {
    let is_whole = name.starts_with(|c: char| c.is_ascii_digit());
    let soc = if is_whole {
        Some(format!("Ascend{name}"))
    } else {
        toolkit.soc()
    };
    soc.map(|soc| ("soc", soc))
}

fn versions(library: &Foreign, places: &Places) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for (fact, name) in [
        ("driver", "dcmi_get_driver_version"),
        ("dcmi", "dcmi_get_dcmi_version"),
    ] {
        const LENGTH: i32 = 256;
        let block = library.fill(name, Arguments::OutInt(LENGTH), LENGTH as usize);
        let text = block.map(|block| block.text(0, LENGTH as usize));
        found.extend(
            text.ok()
                .filter(|text| !text.is_empty())
                .map(|text| (fact, text)),
        );
    }
    found.extend(cann_version(places).map(|version| ("cann", version)));
    found
}

/// From the toolkit's own version file.
pub(super) fn cann_version(places: &Places) -> Option<String> {
    let files = [
        "version.info",
        "version.cfg",
        "share/info/runtime/version.info",
    ];
    let paths = places.ascend_toolkits().into_iter();
    let paths = paths.flat_map(|folder| files.map(|file| folder.join(file)));
    paths.into_iter().find_map(|path| version_in(&path))
}

fn version_in(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let version = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Version="))?;
    let version = version.trim();
    (!version.is_empty()).then(|| version.to_owned())
}

/// A fault in words.
fn explain(fault: &Fault) -> String {
    match *fault {
        Fault::Missing(name) => format!("{name}: the library has no such function"),
        Fault::Overrun(name) => {
            format!("{name}: wrote more than its structure has; the library is of another version")
        }
        Fault::Status(name, status) => format!("{name}: {status} {}", meaning(status)),
    }
}

fn meaning(status: i32) -> &'static str {
    match status {
        -8001 => "(parameter)",
        -8002 => "(no permission)",
        -8003 => "(memory)",
        -8005 => "(inner error)",
        -8006 => "(timeout)",
        -8007 => "(invalid id)",
        -8008 => "(does not exist)",
        -8011..=-8009 => "(driver does not answer)",
        -8012 => "(not ready)",
        -8013 => "(not in a container)",
        -8016 | -8015 => "(device resets)",
        -8017 => "(upgrading)",
        -8020 => "(resource occupied)",
        NOT_SUPPORTED => "(not supported)",
        _ => "(unknown error)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolkit_s_version_is_found() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("usr/local/Ascend/cann");
        std::fs::create_dir_all(&folder).expect("writable");
        let places = || {
            let path = root.path().as_os_str().to_owned();
            Places::of([("WEIGHBRIDGE_SYSROOT".to_owned(), path)].into())
        };
        assert_eq!(cann_version(&places()), None);
        std::fs::write(folder.join("version.info"), "Foo=1\nVersion=8.5.0\n").expect("writable");
        assert_eq!(cann_version(&places()), Some("8.5.0".to_owned()));
    }
}
