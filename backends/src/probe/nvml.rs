//! NVIDIA through NVML, by `nvml-wrapper`.
//!
//! The energy counter (millijoules since the driver was loaded) is in Volta and later; the power is
//! an average over about a second on most of those, so the counter is the better source. Invariant:
//! a device is slowed down when a reason says so that is not idleness or a setting.

use std::path::Path;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::{
    Kind, OpenError, Places, Probe, Quantity, Readings, SampleError, Scope, Selection, Unit,
    UnitSample, Vendor, Wanted,
};
use crate::clock::monotonic_now_ns;

/// GPUs of one library.
pub(super) struct NvmlProbe {
    library: Nvml,
    units: Vec<Unit>,
}

impl NvmlProbe {
    pub(super) fn open(selection: &Selection, places: &Places) -> Result<Self, OpenError> {
        let (library, place) = places.library(Kind::Nvml, load)?;
        let broken = |error: NvmlError| OpenError::Broken {
            place: place.clone(),
            reason: error.to_string(),
        };
        let count = library.device_count().map_err(broken)?;
        let driver = library.sys_driver_version().ok();
        let chosen = selection.choose((0..count).collect(), |index| *index, &place)?;
        let unit = |index| match library.device_by_index(index) {
            Ok(device) => unit_of(index, &device, driver.as_ref()),
            // One that is lost has no values, and keeps no other from being watched.
            Err(_) => nameless(index),
        };
        let units = chosen.into_iter().map(unit).collect();
        Ok(Self { library, units })
    }
}

fn load(path: &Path) -> Result<(Nvml, String), String> {
    let library = Nvml::builder().lib_path(path.as_os_str()).init();
    let library = library.map_err(|error| match error {
        NvmlError::LibloadingError(error) => super::ffi::loader_message(&error),
        other => other.to_string(),
    })?;
    Ok((library, path.display().to_string()))
}

fn unit_of(index: u32, device: &Device<'_>, driver: Option<&String>) -> Unit {
    let mut facts = Vec::new();
    facts.extend(driver.map(|driver| ("driver", driver.clone())));
    facts.extend(device.pci_info().ok().map(|pci| ("pci", pci.bus_id)));
    let unit = nameless(index);
    Unit {
        name: device.name().unwrap_or(unit.name),
        id: device.uuid().ok(),
        facts,
        ..unit
    }
}

fn nameless(index: u32) -> Unit {
    Unit {
        vendor: Vendor::Nvidia,
        index,
        name: "NVIDIA GPU".to_owned(),
        id: None,
        scope: Scope::Chip,
        power_at: None,
        facts: Vec::new(),
    }
}

impl Probe for NvmlProbe {
    fn kind(&self) -> Kind {
        Kind::Nvml
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn sample(&mut self, wanted: Wanted) -> Result<Vec<UnitSample>, SampleError> {
        let sample = |unit: &Unit| match self.library.device_by_index(unit.index) {
            Ok(device) => Ok(sample(&device, wanted)),
            Err(error) => Err(error.to_string()),
        };
        let samples: Vec<Result<UnitSample, String>> = self.units.iter().map(sample).collect();
        if let Some(Err(error)) = samples.first()
            && samples.iter().all(Result::is_err)
        {
            return Err(SampleError(format!("NVML: {error}")));
        }
        Ok(samples
            .into_iter()
            .map(|one| one.unwrap_or_else(|why| UnitSample::missing(&why)))
            .collect())
    }
}

fn sample(device: &Device<'_>, wanted: Wanted) -> UnitSample {
    let mut readings = Readings::default();
    let before = monotonic_now_ns();
    let energy = device.total_energy_consumption();
    let power = device.power_usage();
    let at_ns = u64::midpoint(before, monotonic_now_ns());
    let mut take = |what, name: &'static str, result: Result<f64, NvmlError>| {
        let result = result.map_err(|error| format!("{name}: {error}"));
        readings.take(what, name, result);
    };
    let name = "nvmlDeviceGetTotalEnergyConsumption";
    take(Quantity::Energy, name, energy.map(|mj| mj as f64 / 1e3));
    let name = "nvmlDeviceGetPowerUsage";
    take(Quantity::Power, name, power.map(|mw| f64::from(mw) / 1e3));
    if wanted == Wanted::Everything {
        let name = "nvmlDeviceGetEnforcedPowerLimit";
        let limit = device.enforced_power_limit();
        take(
            Quantity::PowerLimit,
            name,
            limit.map(|mw| f64::from(mw) / 1e3),
        );
        let name = "nvmlDeviceGetUtilizationRates";
        let busy = device.utilization_rates();
        take(
            Quantity::Utilisation,
            name,
            busy.map(|busy| f64::from(busy.gpu)),
        );
        let name = "nvmlDeviceGetMemoryInfo";
        // An error cannot be told twice, so it is asked twice.
        let memory = || device.memory_info();
        let used = memory().map(|memory| memory.used as f64);
        take(Quantity::MemoryUsed, name, used);
        let total = memory().map(|memory| memory.total as f64);
        take(Quantity::MemoryTotal, name, total);
        let name = "nvmlDeviceGetTemperature";
        let heat = device.temperature(TemperatureSensor::Gpu);
        take(Quantity::Temperature, name, heat.map(f64::from));
        let clock = device.clock_info(Clock::SM);
        take(
            Quantity::Clock,
            "nvmlDeviceGetClockInfo",
            clock.map(f64::from),
        );
        let name = "nvmlDeviceGetCurrentClocksThrottleReasons";
        let reasons = device.current_throttle_reasons();
        take(
            Quantity::Throttled,
            name,
            reasons.map(|reasons| f64::from(is_slowed(reasons))),
        );
    }
    UnitSample { at_ns, readings }
}

fn is_slowed(reasons: ThrottleReasons) -> bool {
    reasons.intersects(
        ThrottleReasons::SW_POWER_CAP
            | ThrottleReasons::HW_SLOWDOWN
            | ThrottleReasons::SW_THERMAL_SLOWDOWN
            | ThrottleReasons::HW_THERMAL_SLOWDOWN
            | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idleness_and_settings_do_not_slow_a_device_down() {
        for (reasons, slowed) in [
            (ThrottleReasons::NONE, false),
            (ThrottleReasons::GPU_IDLE, false),
            (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, false),
            (ThrottleReasons::SW_POWER_CAP, true),
            (
                ThrottleReasons::GPU_IDLE | ThrottleReasons::HW_THERMAL_SLOWDOWN,
                true,
            ),
        ] {
            assert_eq!(is_slowed(reasons), slowed, "{reasons:?}");
        }
    }
}
