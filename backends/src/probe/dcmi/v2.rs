//! The functions of DCMI that the 950 answers: one number for a device, no cards.
//!
//! What it does not do: names and addresses of devices, for which the facts at hand have no
//! function.

use super::super::block::Block;
use super::super::ffi::{Arguments, Fault, Foreign};
use super::super::{Quantity, Readings, Scope, Unit, Vendor};
use super::{Chip, MIB, MOST_CARDS, NOT_SUPPORTED, Power, explain, list_block, listed};

/// Is this the library of a 950, whose old functions gave `fault`?
pub(super) fn is_there(library: &Foreign, fault: &Fault) -> bool {
    let old_are_not = matches!(fault, Fault::Missing(_) | Fault::Status(_, NOT_SUPPORTED));
    old_are_not && library.has("dcmiv2_init")
}

/// Its devices.
pub(super) fn open(library: &Foreign) -> Result<Vec<(Unit, Chip, bool)>, Fault> {
    library.call("dcmiv2_init")?;
    // The list comes before the count here, and after it in the old function.
    let (mut list, mut count) = (list_block(), Block::new(4));
    let name = "dcmiv2_get_device_list";
    library.fill_list(name, &mut list, &mut count, MOST_CARDS)?;
    let devices = listed(&count, &list).into_iter();
    Ok(devices.map(device).collect())
}

fn device(id: i32) -> (Unit, Chip, bool) {
    let unit = Unit {
        vendor: Vendor::Ascend,
        index: id.unsigned_abs(),
        name: "Ascend 950 series".to_owned(),
        id: None,
        scope: Scope::Chip,
        power_at: None,
        facts: vec![("api", "dcmiv2".to_owned())],
    };
    let chip = Chip {
        card: id,
        device: id,
        power: Power::V2,
    };
    (unit, chip, false)
}

/// Everything but power.
pub(super) fn read(library: &Foreign, device: i32, readings: &mut Readings) {
    const AICORE: i32 = 2;
    let words = |fault: Fault| explain(&fault);
    let name = "dcmiv2_get_device_utilization_rate";
    let busy = library.fill(name, Arguments::IntIntOut(device, AICORE), 4);
    let busy = busy.map(|block| f64::from(block.u32(0)));
    readings.take(Quantity::Utilisation, name, busy.map_err(words));
    let name = "dcmiv2_get_device_temperature";
    let heat = library.fill(name, Arguments::IntOut(device), 4);
    let heat = heat.map(|block| f64::from(block.i32(0)));
    readings.take(Quantity::Temperature, name, heat.map_err(words));
    let name = "dcmiv2_get_device_hbm_info";
    let memory = library.fill(name, Arguments::IntOut(device), 32);
    let total = memory.as_ref().map(|block| block.u64(0) as f64 * MIB);
    let total = total.map_err(explain);
    let used = memory.as_ref().map(|block| block.u64(16) as f64 * MIB);
    let used = used.map_err(explain);
    readings.take(Quantity::MemoryTotal, name, total);
    readings.take(Quantity::MemoryUsed, name, used);
}
