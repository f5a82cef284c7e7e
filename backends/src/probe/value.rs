//! What is read of a device, and where each value is from.
//!
//! Invariant: a number without a source cannot be made, and a number that cannot be true (a power
//! of zero, a share of 255 %) is unavailable with what was read in the reason.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// What can be read of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// Power at present, watts.
    Power,
    /// Energy counter, joules since some instant.
    Energy,
    /// Where the counter begins again from zero, joules.
    EnergyRange,
    /// Power limit, watts.
    PowerLimit,
    /// Busy share of the compute units, percent.
    Utilisation,
    /// Device memory in use, bytes.
    MemoryUsed,
    /// Device memory, bytes.
    MemoryTotal,
    /// Temperature, degrees Celsius.
    Temperature,
    /// Clock of the compute units, MHz.
    Clock,
    /// 1 while the device is slower than asked for, to keep its limits; else 0.
    Throttled,
    /// 0 is healthy; what else there is, the vendor's documents say.
    Health,
}

impl Quantity {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 11] = [
        Self::Power,
        Self::Energy,
        Self::EnergyRange,
        Self::PowerLimit,
        Self::Utilisation,
        Self::MemoryUsed,
        Self::MemoryTotal,
        Self::Temperature,
        Self::Clock,
        Self::Throttled,
        Self::Health,
    ];

    /// Its key in JSON, with the unit.
    pub fn name(self) -> &'static str {
        match self {
            Self::Power => "power_w",
            Self::Energy => "energy_j",
            Self::EnergyRange => "energy_range_j",
            Self::PowerLimit => "power_limit_w",
            Self::Utilisation => "utilisation_percent",
            Self::MemoryUsed => "memory_used_bytes",
            Self::MemoryTotal => "memory_total_bytes",
            Self::Temperature => "temperature_c",
            Self::Clock => "clock_mhz",
            Self::Throttled => "throttled",
            Self::Health => "health",
        }
    }

    /// What can be true of it.
    fn plausible(self) -> std::ops::RangeInclusive<f64> {
        match self {
            // No device that runs draws nothing; no chip or card draws 100 kW.
            Self::Power | Self::PowerLimit => 0.001..=100_000.0,
            Self::Energy | Self::MemoryUsed => 0.0..=1e18,
            Self::EnergyRange | Self::MemoryTotal => 1.0..=1e18,
            Self::Utilisation => 0.0..=100.0,
            Self::Temperature => -60.0..=250.0,
            Self::Clock => 1.0..=100_000.0,
            Self::Throttled => 0.0..=1.0,
            Self::Health => 0.0..=1e6,
        }
    }
}

/// A value and where it is from, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Read.
    Read {
        /// The number.
        value: f64,
        /// Function, file, field or line it was read from.
        source: Cow<'static, str>,
    },
    /// Not to be had.
    Unavailable(String),
}

/// What one device said at one instant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings(BTreeMap<Quantity, Value>);

impl Readings {
    /// Takes a number, or says why it cannot be one.
    pub fn read(&mut self, what: Quantity, value: f64, source: impl Into<Cow<'static, str>>) {
        let source = source.into();
        let value = if what.plausible().contains(&value) {
            Value::Read { value, source }
        } else {
            Value::Unavailable(format!("{source} gave {value}"))
        };
        self.0.insert(what, value);
    }

    /// There is none.
    pub fn unavailable(&mut self, what: Quantity, why: impl Into<String>) {
        self.0.insert(what, Value::Unavailable(why.into()));
    }

    /// Takes what a call gave.
    pub fn take<E: ToString>(
        &mut self,
        what: Quantity,
        source: impl Into<Cow<'static, str>>,
        result: Result<f64, E>,
    ) {
        match result {
            Ok(value) => self.read(what, value, source),
            Err(error) => self.unavailable(what, error.to_string()),
        }
    }

    /// The number, if there is one.
    pub fn get(&self, what: Quantity) -> Option<f64> {
        match self.0.get(&what)? {
            Value::Read { value, .. } => Some(*value),
            Value::Unavailable(_) => None,
        }
    }

    /// Number or reason; `None` where the interface was not asked.
    pub fn value(&self, what: Quantity) -> Option<&Value> {
        self.0.get(&what)
    }

    /// All that was asked.
    pub fn iter(&self) -> impl Iterator<Item = (Quantity, &Value)> {
        self.0.iter().map(|(what, value)| (*what, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_true_is_unavailable() {
        for (what, value, fine) in [
            (Quantity::Power, 90.4, true),
            (Quantity::Power, 0.0, false),
            (Quantity::Power, -5.0, false),
            (Quantity::Power, f64::NAN, false),
            (Quantity::Power, 9_223_372_036_854_775_794.0, false),
            (Quantity::Utilisation, 0.0, true),
            (Quantity::Utilisation, 255.0, false),
            (Quantity::Energy, 0.0, true),
            (Quantity::Clock, 0.0, false),
        ] {
            let mut readings = Readings::default();
            readings.read(what, value, "here");
            assert_eq!(readings.get(what).is_some(), fine, "{what:?} {value}");
            if !fine {
                let Some(Value::Unavailable(why)) = readings.value(what) else {
                    panic!("{what:?} must be unavailable");
                };
                assert!(why.starts_with("here gave"), "{why}");
            }
        }
    }
}
