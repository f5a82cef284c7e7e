//! From a sheet's TOML to a checked [`Sheet`].
//!
//! Invariant: every refusal names the file, the key and the value, and says what is accepted. What
//! it does not do: judge whether a price is plausible.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::super::quantity::{Confidence, Quantity};
use super::{Device, Payment, Per, Sheet, Site, Terms, words};

/// Why a price sheet was refused.
#[derive(Debug, thiserror::Error)]
pub enum SheetError {
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
        /// The key, with the device it belongs to.
        key: String,
        /// The value found.
        value: String,
        /// What would do.
        accepted: String,
    },
    /// Entries that are missing, or that exclude each other.
    #[error("{file}: {place}: {problem}\n\nhint: {hint}")]
    Entry {
        /// The file.
        file: String,
        /// The table.
        place: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        hint: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSheet {
    name: String,
    about: String,
    #[serde(default = "usd")]
    currency: String,
    #[serde(default)]
    per_usd: BTreeMap<String, RawQuantity>,
    #[serde(default)]
    site: BTreeMap<String, RawQuantity>,
    #[serde(default)]
    terms: BTreeMap<String, RawQuantity>,
    #[serde(default)]
    device: Vec<RawDevice>,
    output_token_weight: Option<RawQuantity>,
    cached_token_weight: Option<RawQuantity>,
    utilisation: Option<RawQuantity>,
    requests_per_mau_month: Option<RawQuantity>,
}

fn usd() -> String {
    "USD".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    id: String,
    #[serde(rename = "match")]
    matches: Vec<String>,
    what: String,
    #[serde(default)]
    per: Per,
    rental_per_hour: Option<RawQuantity>,
    purchase: Option<RawQuantity>,
    purchase_devices: Option<u32>,
    host: Option<RawQuantity>,
    power_w: Option<RawQuantity>,
    host_power_w: Option<RawQuantity>,
    missing: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuantity {
    low: Option<f64>,
    mid: Option<f64>,
    high: Option<f64>,
    currency: Option<String>,
    source: String,
    #[serde(deserialize_with = "date_text")]
    date: String,
    confidence: Confidence,
    note: Option<String>,
}

/// A year alone may be written as a number.
fn date_text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a date in quotes, such as \"2026-04\"")]
    enum Date {
        Text(String),
        Year(i64),
    }
    Ok(match Date::deserialize(from)? {
        Date::Text(text) => text,
        Date::Year(year) => year.to_string(),
    })
}

/// The values that a quantity may have.
#[derive(Clone, Copy)]
enum Accepts {
    /// An amount of money.
    Money,
    /// More than nothing.
    Positive,
    /// Between two ends, both included.
    Within(f64, f64),
}

/// Reads and checks.
pub(super) fn sheet(text: &str, file: &str) -> Result<Sheet, SheetError> {
    let raw: RawSheet = toml::from_str(text).map_err(|error| SheetError::Syntax {
        file: file.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })?;
    let mut rates = BTreeMap::new();
    for (currency, quantity) in raw.per_usd {
        let key = format!("per_usd.{currency}");
        check_currency(file, &key, &currency)?;
        rates.insert(
            currency,
            read(file, &key, quantity, Accepts::Positive, None)?,
        );
    }
    let reader = Reader {
        file,
        currency: &raw.currency,
        rates: &rates,
    };
    reader.known("currency", &raw.currency)?;
    let mut devices = Vec::new();
    let mut seen = BTreeSet::new();
    for device in raw.device {
        if !seen.insert(device.id.clone()) {
            return Err(invalid(
                file,
                "device.id",
                &device.id,
                "an id no other device has",
            ));
        }
        devices.push(reader.device(device)?);
    }
    let share = Accepts::Within(0.0, 1.0);
    let plain = |key: &str, quantity: Option<RawQuantity>, accepts| {
        quantity
            .map(|quantity| read(file, key, quantity, accepts, None))
            .transpose()
    };
    let sheet = Sheet {
        name: raw.name,
        about: raw.about,
        site: reader.site(raw.site)?,
        terms: reader.terms(raw.terms)?,
        output_token_weight: plain(
            "output_token_weight",
            raw.output_token_weight,
            Accepts::Positive,
        )?,
        cached_token_weight: plain("cached_token_weight", raw.cached_token_weight, share)?,
        utilisation: plain("utilisation", raw.utilisation, Accepts::Within(0.001, 1.0))?,
        requests_per_mau_month: plain(
            "requests_per_mau_month",
            raw.requests_per_mau_month,
            Accepts::Positive,
        )?,
        currency: raw.currency,
        per_usd: rates,
        devices,
    };
    for device in &sheet.devices {
        complete(file, &sheet, device)?;
    }
    Ok(sheet)
}

struct Reader<'a> {
    file: &'a str,
    currency: &'a str,
    rates: &'a BTreeMap<String, Quantity>,
}

impl Reader<'_> {
    /// A currency that can be turned into US dollars.
    fn known(&self, key: &str, currency: &str) -> Result<(), SheetError> {
        check_currency(self.file, key, currency)?;
        if currency == "USD" || self.rates.contains_key(currency) {
            return Ok(());
        }
        Err(SheetError::Entry {
            file: self.file.to_owned(),
            place: format!("{key} = \"{currency}\""),
            problem: format!("no rate for {currency} is given"),
            hint: format!(
                "add `[per_usd.{currency}]` with mid (or low and high), source, date and \
                 confidence: so many {currency} are one US dollar"
            ),
        })
    }

    fn quantity(
        &self,
        key: &str,
        raw: Option<RawQuantity>,
        accepts: Accepts,
    ) -> Result<Option<Quantity>, SheetError> {
        let Some(raw) = raw else { return Ok(None) };
        let quantity = read(self.file, key, raw, accepts, Some(self.currency))?;
        if let Some(currency) = &quantity.currency {
            self.known(&format!("{key}.currency"), currency)?;
        }
        Ok(Some(quantity))
    }

    fn site(&self, mut raw: BTreeMap<String, RawQuantity>) -> Result<Site, SheetError> {
        let mut take = |name: &str, accepts| {
            let key = format!("site.{name}");
            self.quantity(&key, raw.remove(name), accepts)
        };
        let site = Site {
            tariff_per_kwh: take("tariff_per_kwh", Accepts::Money)?,
            pue: take("pue", Accepts::Within(1.0, 5.0))?,
            hosting_per_kw_month: take("hosting_per_kw_month", Accepts::Money)?,
        };
        self.nothing_left("site", &raw, "tariff_per_kwh, pue, hosting_per_kw_month")?;
        Ok(site)
    }

    fn terms(&self, mut raw: BTreeMap<String, RawQuantity>) -> Result<Terms, SheetError> {
        let mut take = |name: &str, low, high| {
            let key = format!("terms.{name}");
            self.quantity(&key, raw.remove(name), Accepts::Within(low, high))
        };
        let terms = Terms {
            life_years: take("life_years", 0.25, 30.0)?,
            discount_rate: take("discount_rate", 0.0, 1.0)?,
            residual: take("residual", 0.0, 0.99)?,
            maintenance_per_year: take("maintenance_per_year", 0.0, 1.0)?,
            availability: take("availability", 0.01, 1.0)?,
            network_share: take("network_share", 0.0, 2.0)?,
        };
        let names = "life_years, discount_rate, residual, maintenance_per_year, availability, \
                     network_share";
        self.nothing_left("terms", &raw, names)?;
        Ok(terms)
    }

    fn nothing_left(
        &self,
        table: &str,
        left: &BTreeMap<String, RawQuantity>,
        accepted: &str,
    ) -> Result<(), SheetError> {
        match left.keys().next() {
            None => Ok(()),
            Some(key) => Err(invalid(self.file, table, key, accepted)),
        }
    }

    fn device(&self, raw: RawDevice) -> Result<Device, SheetError> {
        let key = |name: &str| format!("device[{}].{name}", raw.id);
        for (name, text, accepted) in [
            ("id", &raw.id, "a name"),
            ("what", &raw.what, "what is paid for, in words"),
        ] {
            if text.trim().is_empty() {
                return Err(invalid(self.file, &key(name), "\"\"", accepted));
            }
        }
        if raw.matches.is_empty() || raw.matches.iter().any(|name| words(name).is_empty()) {
            let value = format!("{:?}", raw.matches);
            return Err(invalid(
                self.file,
                &key("match"),
                &value,
                "a list of device names",
            ));
        }
        let rental = self.quantity(&key("rental_per_hour"), raw.rental_per_hour, Accepts::Money)?;
        let purchase = self.quantity(&key("purchase"), raw.purchase, Accepts::Money)?;
        let host = self.quantity(&key("host"), raw.host, Accepts::Money)?;
        let watts = Accepts::Within(0.0, 1e6);
        let power_w = self.quantity(&key("power_w"), raw.power_w, watts)?;
        let host_power_w = self.quantity(&key("host_power_w"), raw.host_power_w, watts)?;
        let payment = match (rental, purchase, raw.missing) {
            (Some(per_hour), None, None) => Payment::Rented { per_hour },
            (None, Some(purchase), None) => Payment::Owned {
                purchase,
                devices: raw.purchase_devices.unwrap_or(1),
                host,
            },
            (None, None, Some(why)) => Payment::Unknown { why },
            (None, None, None) => {
                return Err(self.entry(&raw.id, "it has no price", ONE_OF));
            }
            _ => return Err(self.entry(&raw.id, "its entries contradict each other", ONE_OF)),
        };
        if raw.purchase_devices == Some(0) {
            return Err(invalid(
                self.file,
                &key("purchase_devices"),
                "0",
                "1 or more",
            ));
        }
        Ok(Device {
            id: raw.id,
            matches: raw.matches,
            what: raw.what,
            per: raw.per,
            payment,
            power_w,
            host_power_w,
        })
    }

    fn entry(&self, id: &str, problem: &str, hint: &str) -> SheetError {
        entry(self.file, id, problem, hint)
    }
}

const ONE_OF: &str = "give either `rental_per_hour`, or `purchase` (with `purchase_devices`, and \
                      `host` where the price is of a bare card), or `missing` with the reason why \
                      there is no price";

fn entry(file: &str, id: &str, problem: &str, hint: &str) -> SheetError {
    SheetError::Entry {
        file: file.to_owned(),
        place: format!("device[{id}]"),
        problem: problem.to_owned(),
        hint: hint.to_owned(),
    }
}

/// What an owned device needs to be priced.
fn complete(file: &str, sheet: &Sheet, device: &Device) -> Result<(), SheetError> {
    if !matches!(device.payment, Payment::Owned { .. }) {
        return Ok(());
    }
    let Terms {
        life_years,
        discount_rate,
        ..
    } = &sheet.terms;
    for (name, present) in [
        ("terms.life_years", life_years.is_some()),
        ("terms.discount_rate", discount_rate.is_some()),
    ] {
        if !present {
            let problem = format!("it is owned, and `{name}` is missing");
            let hint =
                format!("add `[{name}]` with mid (or low and high), source, date, confidence");
            return Err(entry(file, &device.id, &problem, &hint));
        }
    }
    let hosted = sheet.site.hosting_per_kw_month.is_some();
    let powered = sheet.site.tariff_per_kwh.is_some() && sheet.site.pue.is_some();
    if hosted || powered {
        return Ok(());
    }
    Err(entry(
        file,
        &device.id,
        "it is owned, and nothing says what its power costs",
        "add `[site.tariff_per_kwh]` and `[site.pue]`, or `[site.hosting_per_kw_month]`",
    ))
}

fn read(
    file: &str,
    key: &str,
    raw: RawQuantity,
    accepts: Accepts,
    currency: Option<&str>,
) -> Result<Quantity, SheetError> {
    let (low, mid, high) = match (raw.low, raw.mid, raw.high) {
        (None, Some(mid), None) => (mid, mid, mid),
        (Some(low), None, Some(high)) => (low, f64::midpoint(low, high), high),
        (Some(low), Some(mid), Some(high)) => (low, mid, high),
        _ => {
            let accepted = "mid; or low and high, whose middle is used; or all three";
            return Err(invalid(file, key, "an incomplete range", accepted));
        }
    };
    for value in [low, mid, high] {
        let (right, accepted) = match accepts {
            Accepts::Money | Accepts::Positive => (value > 0.0, "a number over 0".to_owned()),
            Accepts::Within(least, most) => (
                (least..=most).contains(&value),
                format!("a number from {least} to {most}"),
            ),
        };
        if !(right && value.is_finite()) {
            return Err(invalid(file, key, &value.to_string(), &accepted));
        }
    }
    if !(low <= mid && mid <= high) {
        let value = format!("{low}, {mid}, {high}");
        return Err(invalid(file, key, &value, "low ≤ mid ≤ high"));
    }
    if raw.source.trim().is_empty() {
        let key = format!("{key}.source");
        return Err(invalid(file, &key, "\"\"", "where the figure comes from"));
    }
    if !is_date(&raw.date) {
        let key = format!("{key}.date");
        let value = format!("{:?}", raw.date);
        return Err(invalid(file, &key, &value, "YYYY-MM-DD, YYYY-MM or YYYY"));
    }
    let currency = match accepts {
        Accepts::Money => raw.currency.or_else(|| currency.map(str::to_owned)),
        _ => None,
    };
    Ok(Quantity {
        low,
        mid,
        high,
        currency,
        source: raw.source,
        date: raw.date,
        confidence: raw.confidence,
        note: raw.note,
    })
}

fn check_currency(file: &str, key: &str, currency: &str) -> Result<(), SheetError> {
    if currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(());
    }
    let value = format!("{currency:?}");
    Err(invalid(
        file,
        key,
        &value,
        "an ISO 4217 code such as USD, CNY, MYR, THB",
    ))
}

fn invalid(file: &str, key: &str, value: &str, accepted: &str) -> SheetError {
    SheetError::Value {
        file: file.to_owned(),
        key: key.to_owned(),
        value: value.to_owned(),
        accepted: accepted.to_owned(),
    }
}

fn is_date(text: &str) -> bool {
    let number = |part: &str, digits: usize| {
        let right = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        right.then(|| part.parse::<u32>().ok()).flatten()
    };
    let mut parts = text.split('-');
    let year = parts.next().and_then(|part| number(part, 4));
    let in_range = |part: Option<&str>, most: u32| {
        part.is_none_or(|part| number(part, 2).is_some_and(|value| (1..=most).contains(&value)))
    };
    let (month, day) = (parts.next(), parts.next());
    year.is_some_and(|year| year >= 1970)
        && in_range(month, 12)
        && in_range(day, 31)
        && parts.next().is_none()
}
