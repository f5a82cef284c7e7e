//! Price sheets: what hardware, power and money cost at a place, who says so, and when.
//!
//! Invariant: a figure without source, date and confidence does not load; a device is either rented
//! or owned; no device is found by accident: the words of `match` must appear as whole words in its
//! name, so `H20` is not `H200`. Sheets that come with weighbridge hold cited figures; where none
//! can be cited, the entry says what the user must supply. What it does not do: fetch anything, or
//! look at the clock to see how old a price is.

mod read;

use std::collections::BTreeMap;

use serde::Serialize;

use super::quantity::Quantity;

pub use read::SheetError;

/// The sheets that come with weighbridge, by name.
pub const BUILTIN: [(&str, &str); 5] = [
    ("rental", include_str!("../../prices/rental.toml")),
    ("china", include_str!("../../prices/china.toml")),
    ("us", include_str!("../../prices/us.toml")),
    ("malaysia", include_str!("../../prices/malaysia.toml")),
    ("thailand", include_str!("../../prices/thailand.toml")),
];

/// What one price is for.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// One accelerator.
    #[default]
    Device,
    /// One virtual CPU.
    Vcpu,
}

impl Per {
    /// As in price sheets.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Vcpu => "vcpu",
        }
    }
}

/// A checked price sheet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sheet {
    /// Its name.
    pub name: String,
    /// In a sentence.
    pub about: String,
    /// Currency of amounts that name none.
    pub currency: String,
    /// Units of a currency for one US dollar.
    pub per_usd: BTreeMap<String, Quantity>,
    /// Of the place.
    pub site: Site,
    /// Of ownership.
    pub terms: Terms,
    /// In the order of the file.
    pub devices: Vec<Device>,
    /// How many input tokens one output token costs, where nothing was measured.
    pub output_token_weight: Option<Quantity>,
    /// What a token that a cache held costs, over what another input token costs; likewise.
    pub cached_token_weight: Option<Quantity>,
    /// Mean over peak of the load that the hardware is bought for.
    pub utilisation: Option<Quantity>,
    /// Requests of a monthly active user in a month.
    pub requests_per_mau_month: Option<Quantity>,
}

/// What power costs at a place.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Site {
    /// Price of a kilowatt-hour.
    pub tariff_per_kwh: Option<Quantity>,
    /// Facility power over IT power.
    pub pue: Option<Quantity>,
    /// Colocation, for a kilowatt of IT power and a month; power and cooling are in it.
    pub hosting_per_kw_month: Option<Quantity>,
}

/// How a purchase is spread over hours.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Terms {
    /// Years of use.
    pub life_years: Option<Quantity>,
    /// Cost of capital a year.
    pub discount_rate: Option<Quantity>,
    /// Value at the end over the purchase price.
    pub residual: Option<Quantity>,
    /// Maintenance a year over the purchase price.
    pub maintenance_per_year: Option<Quantity>,
    /// Hours in service over all hours.
    pub availability: Option<Quantity>,
    /// Network and racks over the purchase price.
    pub network_share: Option<Quantity>,
}

/// A device of a sheet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Device {
    /// Unique in its sheet.
    pub id: String,
    /// Names, any of which must appear in the device's name as whole words.
    pub matches: Vec<String>,
    /// What is paid for, in words.
    pub what: String,
    /// What the price is for.
    pub per: Per,
    /// How it is paid for.
    pub payment: Payment,
    /// Its power under load without its share of the host, where none was measured, in watts.
    pub power_w: Option<Quantity>,
    /// Its share of the host's power, in watts.
    pub host_power_w: Option<Quantity>,
}

/// How a device is paid for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Payment {
    /// By the hour.
    Rented {
        /// For one device or vCPU and an hour.
        per_hour: Quantity,
    },
    /// Once.
    Owned {
        /// The price.
        purchase: Quantity,
        /// Devices that it buys.
        devices: u32,
        /// A device's share of a host that is not in `purchase`.
        host: Option<Quantity>,
    },
    /// Nobody who can be cited says.
    Unknown {
        /// What is missing, and what to do.
        why: String,
    },
}

impl Sheet {
    /// A sheet that comes with weighbridge.
    pub fn builtin(name: &str) -> Option<Self> {
        let (name, text) = BUILTIN.into_iter().find(|(known, _)| *known == name)?;
        Some(Self::parse(text, name).expect("a test reads every built-in sheet"))
    }

    /// What holds where a sheet says nothing of usage and token weights.
    pub fn defaults() -> Self {
        let text = include_str!("../../prices/defaults.toml");
        Self::parse(text, "defaults").expect("a test reads the defaults")
    }

    /// Reads and checks a sheet's text; `file` is its name for messages.
    pub fn parse(text: &str, file: &str) -> Result<Self, SheetError> {
        read::sheet(text, file)
    }

    /// The first device that fits a name in words or an id.
    pub fn find(&self, device: &str) -> Option<&Device> {
        let name = words(device);
        let fits = |wanted: &String| {
            let wanted = words(wanted);
            name.windows(wanted.len()).any(|part| part == wanted)
        };
        let by_id = self.devices.iter().find(|entry| entry.id == device);
        by_id.or_else(|| {
            self.devices
                .iter()
                .find(|entry| entry.matches.iter().any(fits))
        })
    }

    /// All ids, for messages.
    pub fn ids(&self) -> String {
        let ids: Vec<&str> = self.devices.iter().map(|entry| entry.id.as_str()).collect();
        ids.join(", ")
    }
}

/// Lower-case runs of letters and digits.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}
