//! Price files: what hardware costs an hour, who says so, and when.
//!
//! Invariant: a price without a source and a date does not load, and no price is found by accident:
//! words of `device` must appear as whole words in the name of the device, so `H20` is not `H200`.
//! What it does not do: convert currencies or fetch anything.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The prices that come with weighbridge.
const BUILTIN: &str = include_str!("../../prices/builtin.toml");

/// Why a price file was refused.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// Not TOML, a key unknown, missing or of another type.
    #[error("{file}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says, with the line.
        message: String,
    },
    /// A value that cannot be.
    #[error("{file}: {key} = {value}: accepted is {accepted}")]
    Value {
        /// The file.
        file: String,
        /// The key, with the price it belongs to.
        key: String,
        /// The value found.
        value: String,
        /// What would do.
        accepted: &'static str,
    },
}

/// How far a price can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Read at its source.
    High,
    /// From a single or an indirect source.
    Medium,
    /// Rough.
    Low,
    /// Nobody has checked it.
    Unconfirmed,
    /// Made up, to show how it works.
    Example,
}

impl Confidence {
    /// As in price files.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
            Self::Unconfirmed => "unconfirmed",
            Self::Example => "example",
        }
    }
}

/// What one price is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// One accelerator.
    #[default]
    Device,
    /// One virtual CPU.
    Vcpu,
}

impl Per {
    /// As in price files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Vcpu => "vcpu",
        }
    }
}

/// One price: an entry of a price file, echoed in reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Unique in its file.
    pub id: String,
    /// Names of the device, any of which must appear in the device's name as whole words.
    #[serde(deserialize_with = "one_or_many")]
    pub device: Vec<String>,
    /// US dollars for an hour of one device or vCPU.
    pub usd_per_hour: f64,
    /// Lowest and highest price seen, where the source gives a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_per_hour_range: Option<(f64, f64)>,
    /// What the price is for.
    #[serde(default)]
    pub per: Per,
    /// In words: on demand, contract, owned.
    pub what: String,
    /// Who says so.
    pub source: String,
    /// `YYYY-MM-DD` or `YYYY-MM`.
    pub date: String,
    /// How far it can be relied on.
    pub confidence: Confidence,
    /// Anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How many input tokens one output token costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenWeight {
    /// The ratio.
    pub value: f64,
    /// Who says so.
    pub source: String,
    /// `YYYY-MM-DD` or `YYYY-MM`.
    pub date: String,
}

/// A price for a given number of devices or vCPUs.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedPrice {
    /// The price of one.
    pub price: Price,
    /// How many.
    pub units: u32,
    /// The split between input and output tokens.
    pub weight: TokenWeight,
}

/// A checked price file.
#[derive(Debug, Clone, PartialEq)]
pub struct PriceFile {
    /// In the order of the file.
    pub prices: Vec<Price>,
    /// The file's own, else the built-in one.
    pub weight: TokenWeight,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    price: Vec<Price>,
    output_token_weight: Option<TokenWeight>,
}

impl PriceFile {
    /// The prices that come with weighbridge.
    pub fn builtin() -> Self {
        let raw: RawFile = toml::from_str(BUILTIN).expect("a test reads the built-in prices");
        let weight = raw
            .output_token_weight
            .expect("a test reads the built-in weight");
        Self {
            prices: raw.price,
            weight,
        }
    }

    /// Reads and checks a file's text; `file` is its name for messages.
    pub fn parse(text: &str, file: &str) -> Result<Self, PriceError> {
        let raw: RawFile = toml::from_str(text).map_err(|error| PriceError::Syntax {
            file: file.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        let mut seen = std::collections::BTreeSet::new();
        for price in &raw.price {
            check_price(price, file)?;
            if !seen.insert(price.id.as_str()) {
                return Err(invalid(
                    file,
                    "price.id",
                    &price.id,
                    "an id no other price has",
                ));
            }
        }
        if let Some(weight) = &raw.output_token_weight {
            let key = |name: &str| format!("output_token_weight.{name}");
            check_positive(file, &key("value"), weight.value)?;
            check_source(file, &key, &weight.source, &weight.date)?;
        }
        let weight = raw
            .output_token_weight
            .unwrap_or_else(|| Self::builtin().weight);
        Ok(Self {
            prices: raw.price,
            weight,
        })
    }

    /// The first price for a device, by its name in words or its id.
    pub fn find(&self, device: &str) -> Option<&Price> {
        let name = words(device);
        let matches = |wanted: &String| {
            let wanted = words(wanted);
            name.windows(wanted.len()).any(|part| part == wanted)
        };
        self.prices
            .iter()
            .find(|price| price.device.iter().any(matches))
    }

    /// The price with an id.
    pub fn by_id(&self, id: &str) -> Option<&Price> {
        self.prices.iter().find(|price| price.id == id)
    }

    /// The first price for a device, times `units`.
    pub fn resolve(&self, device: &str, units: u32) -> Option<ResolvedPrice> {
        let price = self.find(device)?.clone();
        Some(ResolvedPrice {
            price,
            units,
            weight: self.weight.clone(),
        })
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a device name or a list of them")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(name) => vec![name],
        OneOrMany::Many(names) => names,
    })
}

/// Lower-case runs of letters and digits.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn invalid(file: &str, key: &str, value: &str, accepted: &'static str) -> PriceError {
    PriceError::Value {
        file: file.to_owned(),
        key: key.to_owned(),
        value: value.to_owned(),
        accepted,
    }
}

fn check_price(price: &Price, file: &str) -> Result<(), PriceError> {
    let key = |name: &str| format!("price[{}].{name}", price.id);
    if price.id.trim().is_empty() {
        return Err(invalid(file, "price.id", "\"\"", "a name"));
    }
    if price.device.is_empty() || price.device.iter().any(|name| words(name).is_empty()) {
        let value = format!("{:?}", price.device);
        return Err(invalid(
            file,
            &key("device"),
            &value,
            "a device name or a list of them",
        ));
    }
    if price.what.trim().is_empty() {
        return Err(invalid(
            file,
            &key("what"),
            "\"\"",
            "what is paid for, in words",
        ));
    }
    check_positive(file, &key("usd_per_hour"), price.usd_per_hour)?;
    if let Some((low, high)) = price.usd_per_hour_range {
        check_positive(file, &key("usd_per_hour_range"), low)?;
        check_positive(file, &key("usd_per_hour_range"), high)?;
        if !(low..=high).contains(&price.usd_per_hour) {
            let value = format!("[{low}, {high}]");
            let accepted = "[low, high] around usd_per_hour";
            return Err(invalid(file, &key("usd_per_hour_range"), &value, accepted));
        }
    }
    check_source(file, &key, &price.source, &price.date)
}

fn check_positive(file: &str, key: &str, value: f64) -> Result<(), PriceError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(invalid(file, key, &value.to_string(), "a number over 0"))
}

fn check_source(
    file: &str,
    key: &impl Fn(&str) -> String,
    source: &str,
    date: &str,
) -> Result<(), PriceError> {
    if source.trim().is_empty() {
        return Err(invalid(
            file,
            &key("source"),
            "\"\"",
            "where the figure comes from",
        ));
    }
    if !is_date(date) {
        let value = format!("{date:?}");
        return Err(invalid(file, &key("date"), &value, "YYYY-MM-DD or YYYY-MM"));
    }
    Ok(())
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |part: &str, digits: usize| {
        let right = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        right.then(|| part.parse::<u32>().ok()).flatten()
    };
    let year_month = |year: &str, month: &str| {
        let month = number(month, 2).is_some_and(|month| (1..=12).contains(&month));
        number(year, 4).is_some_and(|year| year >= 1970) && month
    };
    match parts.as_slice() {
        [year, month] => year_month(year, month),
        [year, month, day] => {
            let day = number(day, 2).is_some_and(|day| (1..=31).contains(&day));
            year_month(year, month) && day
        }
        _ => false,
    }
}
