//! What there is on this host, by every way that there is to find out.
//!
//! Invariant: each way that was tried is in the result with what came of it, so that a host on
//! which nothing is found says where it was looked. What it does not do: change anything, or print.

use super::pci::{self, PciDevice};
use super::{
    Kind, OpenError, Places, Quantity, Readings, Selection, Unit, Vendor, Wanted, guarded,
    open_here,
};

/// A device and what it says at present.
#[derive(Debug, Clone)]
pub struct Found {
    /// Through what.
    pub kind: Kind,
    /// Which.
    pub unit: Unit,
    /// All that the interface gives.
    pub readings: Readings,
}

/// What came of one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This many devices.
    Devices(usize),
    /// Not on this host; where it was looked for.
    Absent(Vec<String>),
    /// There, and of no use; why.
    Broken(String),
    /// Not tried, since a better way works.
    NotNeeded,
}

/// One way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Of whose devices.
    pub vendor: Vendor,
    /// Which.
    pub kind: Kind,
    /// What came of it.
    pub outcome: Outcome,
}

/// All that was found out.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// By vendor and index.
    pub devices: Vec<Found>,
    /// In the order in which they were tried.
    pub attempts: Vec<Attempt>,
    /// Accelerators on the bus, whether or not their vendor's software is there.
    pub pci: Vec<PciDevice>,
}

/// Looks for everything.
pub fn discover(places: &Places) -> Discovery {
    let mut found = Discovery {
        pci: pci::scan(places),
        ..Discovery::default()
    };
    for vendor in [
        Vendor::Nvidia,
        Vendor::Ascend,
        Vendor::Cambricon,
        Vendor::Cpu,
    ] {
        let mut is_found = false;
        for &kind in vendor.kinds() {
            let outcome = if is_found {
                Outcome::NotNeeded
            } else {
                look(kind, places, &mut found.devices)
            };
            is_found |= matches!(outcome, Outcome::Devices(_));
            found.attempts.push(Attempt {
                vendor,
                kind,
                outcome,
            });
        }
    }
    found
}

fn look(kind: Kind, places: &Places, devices: &mut Vec<Found>) -> Outcome {
    let places = places.clone();
    let looked = guarded(kind, move || {
        let mut probe = open_here(kind, &Selection::All, &places)?;
        let units = probe.units().to_vec();
        Ok((units, probe.sample(Wanted::Everything)))
    });
    let (units, samples) = match looked {
        Ok(found) => found,
        Err(OpenError::Absent { looked }) => return Outcome::Absent(looked),
        Err(error) => return Outcome::Broken(error.to_string()),
    };
    let readings = match samples {
        Ok(samples) => samples.into_iter().map(|sample| sample.readings).collect(),
        Err(error) => {
            let mut none = Readings::default();
            none.unavailable(Quantity::Power, error.to_string());
            vec![none; units.len()]
        }
    };
    let count = units.len();
    let both = units.into_iter().zip(readings);
    devices.extend(both.map(|(unit, readings)| Found {
        kind,
        unit,
        readings,
    }));
    Outcome::Devices(count)
}
