//! What an hour of hardware costs: rent, or capital, maintenance and power.
//!
//! Invariant: the parts add up to the hour, in US dollars, for all units together. Owned hardware:
//!
//! ```text
//! capital     = [P·CRF(r,n) − S·P·SFF(r,n)] / (8760·a)      P = purchase and host, S = residual
//! network     = f·P·CRF(r,n) / (8760·a)                      f = network share
//! maintenance = o·P / (8760·a)                               a = availability
//! power       = W/1000 · PUE · tariff     or     W/1000 · hosting / 730
//! CRF = r(1+r)^n/((1+r)^n − 1),   SFF = r/((1+r)^n − 1);   both with their limits at r = 0
//! ```
//!
//! `W` is what a sensor measured over the window, plus the host's share unless the sensor saw the
//! whole node; without a measurement, what the sheet says. What it does not do: tax, staff, space.

use std::collections::BTreeMap;

use super::quantity::{Quantity, World};
use super::sheet::{Device, Payment, Per, Sheet, Site, Terms};
use crate::schema::Energy;

/// Hours in a year, and in a twelfth of it.
const HOURS_A_YEAR: f64 = 8_760.0;
const HOURS_A_MONTH: f64 = HOURS_A_YEAR / 12.0;

/// Why something cannot be priced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// The sheet does not know the device.
    #[error("price sheet {sheet} has no device `{device}`; it has {known}")]
    NoDevice {
        /// The sheet.
        sheet: String,
        /// What was looked for.
        device: String,
        /// The ids it has.
        known: String,
    },
    /// The sheet knows the device and nobody's price for it.
    #[error(
        "price sheet {sheet} has no price for {device}: {why}\n\n\
         hint: `weighbridge prices show {sheet}` prints the sheet; copy it, put your price in, and \
         give it with --price"
    )]
    NoPrice {
        /// The sheet.
        sheet: String,
        /// The device.
        device: String,
        /// What the sheet says.
        why: String,
    },
    /// Owned hardware whose power is neither measured nor on the sheet.
    #[error(
        "the power of {device} was not measured, and price sheet {sheet} does not give it\n\n\
         hint: add `power_w` to the device, or measure with `--probe`"
    )]
    NoPower {
        /// The sheet.
        sheet: String,
        /// The device.
        device: String,
    },
}

/// Power that a sensor measured, of all units together.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredPower {
    /// Mean over the window.
    pub watts: f64,
    /// It saw hosts, fans and losses too.
    pub whole_node: bool,
}

impl MeasuredPower {
    /// The mean over a window; `None` where the telemetry gave no figure.
    ///
    /// # Errors
    /// Why the figure is not that of what is paid for.
    pub fn new(energy: &Energy, window_s: f64, priced: &Priced) -> Result<Option<Self>, String> {
        let Some(joules) = energy.joules.filter(|_| window_s > 0.0) else {
            return Ok(None);
        };
        let whole_node = energy.scope == "node";
        let of_processor = energy.source.starts_with(PROCESSOR);
        match priced.device.per {
            Per::Device if of_processor => {
                return Err("the power that was measured is the processor's".to_owned());
            }
            Per::Vcpu if !of_processor && !whole_node => {
                return Err("the power that was measured is not the processor's".to_owned());
            }
            Per::Device if !whole_node => {
                let all = energy.devices.len();
                let counted = energy.devices.iter();
                let counted = counted.filter(|device| device.joules.is_some()).count();
                // Two chips may share a sensor, so a card may be one or two of what is paid for.
                let units = priced.units as usize;
                let is_theirs = match priced.devices_per_unit as usize {
                    1 => [all, counted].contains(&units),
                    many => all == units * many,
                };
                if !is_theirs {
                    return Err(format!(
                        "the power of {all} devices was measured, and {} paid for: name those that \
                         serve (`--probe nvml:0,1`) or how many are paid for (`--price-units`)",
                        match priced.units {
                            1 => "1 is".to_owned(),
                            units => format!("{units} are"),
                        }
                    ));
                }
            }
            Per::Device | Per::Vcpu => {}
        }
        Ok(Some(Self {
            watts: joules / window_s,
            whole_node,
        }))
    }
}

/// How the name of the processor's own counters begins.
const PROCESSOR: &str = "rapl";

/// A device of a sheet, so many times.
#[derive(Debug, Clone, PartialEq)]
pub struct Priced {
    /// Name of the sheet.
    pub sheet: String,
    /// The device.
    pub device: Device,
    /// How many.
    pub units: u32,
    /// How many devices with a sensor one of them is.
    devices_per_unit: u32,
    pub(super) per_usd: BTreeMap<String, Quantity>,
    pub(super) site: Site,
    pub(super) terms: Terms,
    pub(super) output_token_weight: Quantity,
    pub(super) cached_token_weight: Quantity,
    pub(super) utilisation: Quantity,
    pub(super) requests_per_mau_month: Quantity,
}

impl Priced {
    /// Looks a device up by its id or its name in words.
    pub fn new(sheet: &Sheet, device: &str, units: u32) -> Result<Self, CostError> {
        let Some(found) = sheet.find(device) else {
            return Err(CostError::NoDevice {
                sheet: sheet.name.clone(),
                device: device.to_owned(),
                known: sheet.ids(),
            });
        };
        if let Payment::Unknown { why } = &found.payment {
            return Err(CostError::NoPrice {
                sheet: sheet.name.clone(),
                device: found.id.clone(),
                why: why.clone(),
            });
        }
        let defaults = Sheet::defaults();
        let own = |own: &Option<Quantity>, default: Option<Quantity>| {
            let default = default.expect("a test reads the defaults, which have it");
            own.clone().unwrap_or(default)
        };
        Ok(Self {
            sheet: sheet.name.clone(),
            device: found.clone(),
            units,
            devices_per_unit: 1,
            per_usd: sheet.per_usd.clone(),
            site: sheet.site.clone(),
            terms: sheet.terms.clone(),
            output_token_weight: own(&sheet.output_token_weight, defaults.output_token_weight),
            cached_token_weight: own(&sheet.cached_token_weight, defaults.cached_token_weight),
            utilisation: own(&sheet.utilisation, defaults.utilisation),
            requests_per_mau_month: own(
                &sheet.requests_per_mau_month,
                defaults.requests_per_mau_month,
            ),
        })
    }

    /// What is paid for as one is several devices, each with a sensor: a card with two, say.
    #[must_use]
    pub fn with_devices_per_unit(mut self, devices: u32) -> Self {
        self.devices_per_unit = devices;
        self
    }

    /// The figures that an hour is computed from, by name.
    pub(super) fn inputs(&self, measured: Option<&MeasuredPower>) -> BTreeMap<String, Quantity> {
        let mut inputs = BTreeMap::new();
        let mut put = |name: &str, quantity: Option<&Quantity>| {
            if let Some(quantity) = quantity {
                inputs.insert(name.to_owned(), quantity.clone());
            }
        };
        match &self.device.payment {
            Payment::Rented { per_hour } => put("rental_per_hour", Some(per_hour)),
            Payment::Owned { purchase, host, .. } => {
                put("purchase", Some(purchase));
                put("host", host.as_ref());
                let Terms {
                    life_years,
                    discount_rate,
                    residual,
                    maintenance_per_year,
                    availability,
                    network_share,
                } = &self.terms;
                put("life_years", life_years.as_ref());
                put("discount_rate", discount_rate.as_ref());
                put("residual", residual.as_ref());
                put("maintenance_per_year", maintenance_per_year.as_ref());
                put("availability", availability.as_ref());
                put("network_share", network_share.as_ref());
                let hosting = self.site.hosting_per_kw_month.as_ref();
                put("hosting_per_kw_month", hosting);
                if hosting.is_none() {
                    put("tariff_per_kwh", self.site.tariff_per_kwh.as_ref());
                    put("pue", self.site.pue.as_ref());
                }
                if measured.is_none() {
                    put("power_w", self.device.power_w.as_ref());
                }
                if measured.is_none_or(|power| !power.whole_node) {
                    put("host_power_w", self.device.host_power_w.as_ref());
                }
            }
            Payment::Unknown { .. } => {}
        }
        let used: Vec<String> = inputs
            .values()
            .filter_map(|quantity| quantity.currency.clone())
            .collect();
        for currency in used {
            if let Some(rate) = self.per_usd.get(&currency) {
                inputs.insert(format!("{currency}_per_usd"), rate.clone());
            }
        }
        inputs
    }

    /// The parts of an hour of all units, in US dollars, in one world.
    pub(super) fn hour(
        &self,
        world: &mut World,
        measured: Option<&MeasuredPower>,
    ) -> Result<Vec<(&'static str, f64)>, CostError> {
        let rates: BTreeMap<&str, f64> = self
            .per_usd
            .iter()
            .map(|(currency, rate)| (currency.as_str(), world.value(rate)))
            .collect();
        let usd = |world: &mut World, quantity: &Quantity| {
            let currency = quantity.currency.as_deref().unwrap_or("USD");
            world.value(quantity) / rates.get(currency).copied().unwrap_or(1.0)
        };
        let units = f64::from(self.units);
        let (purchase, devices, host) = match &self.device.payment {
            Payment::Rented { per_hour } => {
                return Ok(vec![("rental", usd(world, per_hour) * units)]);
            }
            Payment::Owned {
                purchase,
                devices,
                host,
            } => (purchase, *devices, host),
            Payment::Unknown { why } => {
                return Err(CostError::NoPrice {
                    sheet: self.sheet.clone(),
                    device: self.device.id.clone(),
                    why: why.clone(),
                });
            }
        };
        let paid = usd(world, purchase) / f64::from(devices);
        let paid = units * (paid + host.as_ref().map_or(0.0, |host| usd(world, host)));
        let mut term = |quantity: &Option<Quantity>, absent: f64| {
            quantity
                .as_ref()
                .map_or(absent, |quantity| world.value(quantity))
        };
        let years = term(&self.terms.life_years, 1.0);
        let recovery = Recovery::new(term(&self.terms.discount_rate, 0.0), years);
        let residual = term(&self.terms.residual, 0.0);
        let maintenance = term(&self.terms.maintenance_per_year, 0.0);
        let hours = HOURS_A_YEAR * term(&self.terms.availability, 1.0);
        let network = term(&self.terms.network_share, 0.0);
        let capital = paid * (recovery.capital - residual * recovery.sinking) / hours;
        let kilowatts = self.watts(world, measured)? / 1_000.0;
        let power = if let Some(hosting) = &self.site.hosting_per_kw_month {
            ("hosting", kilowatts * usd(world, hosting) / HOURS_A_MONTH)
        } else {
            let tariff = self.site.tariff_per_kwh.as_ref();
            let tariff = tariff.map_or(0.0, |price| usd(world, price));
            let pue = self.site.pue.as_ref().map_or(1.0, |pue| world.value(pue));
            ("power", kilowatts * pue * tariff)
        };
        Ok(vec![
            ("capital", capital),
            ("network", network * paid * recovery.capital / hours),
            ("maintenance", maintenance * paid / hours),
            power,
        ])
    }

    /// Of all units with their hosts.
    fn watts(&self, world: &mut World, measured: Option<&MeasuredPower>) -> Result<f64, CostError> {
        let units = f64::from(self.units);
        let device = match (measured, &self.device.power_w) {
            (Some(power), _) if power.whole_node => return Ok(power.watts),
            (Some(power), _) => power.watts,
            (None, Some(watts)) => world.value(watts) * units,
            (None, None) => {
                return Err(CostError::NoPower {
                    sheet: self.sheet.clone(),
                    device: self.device.id.clone(),
                });
            }
        };
        let host = self.device.host_power_w.as_ref();
        Ok(device + host.map_or(0.0, |watts| world.value(watts) * units))
    }
}

/// Yearly shares of a sum paid at the start, and of one got back at the end.
struct Recovery {
    capital: f64,
    sinking: f64,
}

impl Recovery {
    fn new(rate: f64, years: f64) -> Self {
        let growth = (years * rate.ln_1p()).exp_m1();
        if rate == 0.0 {
            return Self {
                capital: 1.0 / years,
                sinking: 1.0 / years,
            };
        }
        Self {
            capital: rate * (1.0 + growth) / growth,
            sinking: rate / growth,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_factors_are_those_of_the_tables() {
        // Textbook values: CRF(10 %, 4) = 0.315471, SFF = 0.215471; CRF(8 %, 10) = 0.149029.
        for (rate, years, capital) in [(0.10, 4.0, 0.315_471), (0.08, 10.0, 0.149_029)] {
            let recovery = Recovery::new(rate, years);
            assert!((recovery.capital - capital).abs() < 1e-6);
            assert!((recovery.capital - recovery.sinking - rate).abs() < 1e-12);
        }
        assert!((Recovery::new(0.0, 5.0).capital - 0.2).abs() < 1e-12);
        assert!((Recovery::new(1e-9, 5.0).capital - 0.2).abs() < 1e-6);
    }
}
