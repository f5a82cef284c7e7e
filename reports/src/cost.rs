//! What a query and a million tokens cost, at prices whose sources are stated.
//!
//! Invariant: the bill is the price of the hardware for the measured window, and every figure
//! divides it by what was *served* in it: requests that finished within the SLO. Requests that
//! failed, were late or were given up are paid for and not counted. The shares of input and output
//! tokens add up to the bill. Every figure carries the interval that the ranges of the prices and
//! the interval of the measured rate give it together; where the rate has none, neither has the
//! figure, and `null_reasons` says why.
//!
//! Two sets of figures: *at this load*, as if the hardware were switched off outside the window;
//! and *over the day*, for hardware that is bought for the peak of a day's load and idles off it.
//!
//! # Layout
//! - [`quantity`]: figures with source and range; draws.
//! - [`sheet`]: price sheets; `hour`: what an hour costs; `split`: input against output.
//! - `api`: list prices of services beside it.
//!
//! What it does not do: staff, space, tax, or the price of a user who left.

pub mod quantity;
pub mod sheet;

mod api;
mod hour;
mod split;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{DeviceTime, Energy, Rate, Report, Served, Summary};

pub use api::ApiBill;
pub use hour::{CostError, MeasuredPower, Priced};
pub use quantity::{Confidence, Estimate, Quantity};
pub use sheet::{Per, Sheet, SheetError};
pub use split::{Split, SplitMethod, TokenTimes, Unsolvable, solve};

use quantity::World;
use split::Basis;

/// What the measured load cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// The price sheet.
    pub sheet: String,
    /// The sheet's id of the device.
    pub device: String,
    /// What is paid for, in words.
    pub what: String,
    /// Devices or vCPUs, as `per` says.
    pub units: u32,
    /// What one unit is.
    pub per: Per,
    /// The least of the figures that the hour is computed from.
    pub confidence: Confidence,
    /// Power in watts as measured, where a sensor gave it and the sheet needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_power_w: Option<f64>,
    /// The figures of the sheet that were used.
    pub inputs: BTreeMap<String, Quantity>,
    /// The parts of an hour of all units, in US dollars.
    pub hour: Vec<HourPart>,
    /// Their sum.
    pub usd_per_hour: Estimate,
    /// The measured window.
    pub usd_window: Estimate,
    /// What was served in it.
    pub served: Option<Served>,
    /// Requests that were to be served in it: all but those that users gave up as planned.
    pub offered: u64,
    /// How the bill is shared.
    pub split: Option<Split>,
    /// Of `usd_window`, the part of input tokens.
    pub input_usd: Option<f64>,
    /// Of `usd_window`, the rest.
    pub output_usd: Option<f64>,
    /// Figures at this load.
    pub at_this_load: Figures,
    /// The same for hardware that is bought for the peak of a day; absent where the measured load
    /// is itself a whole day.
    pub over_the_day: Option<OverTheDay>,
    /// List prices of services for the same traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ApiBill>,
    /// Why a figure is null, by its name; under `interval`, why no figure has one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub null_reasons: BTreeMap<String, String>,
}

/// A part of an hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HourPart {
    /// `rental`, `capital`, `network`, `maintenance`, `power` or `hosting`.
    pub name: String,
    /// For all units.
    pub usd: Estimate,
}

/// Cost of one of each, in US dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Figures {
    /// A served request.
    pub usd_per_query: Option<Estimate>,
    /// Input part over input tokens, cached ones among them, per million.
    pub usd_per_million_input_tokens: Option<Estimate>,
    /// Input tokens that no cache held, per million.
    pub usd_per_million_uncached_input_tokens: Option<Estimate>,
    /// Input tokens found in a prefix cache, per million; measured splits give them no device time.
    pub usd_per_million_cached_input_tokens: Option<Estimate>,
    /// Output part over output tokens, per million.
    pub usd_per_million_output_tokens: Option<Estimate>,
    /// Whole bill over all tokens, per million.
    pub usd_per_million_total_tokens: Option<Estimate>,
    /// Whole bill over output tokens alone, per million: what tools print that do not split.
    pub usd_per_million_output_tokens_whole_cost: Option<Estimate>,
    /// Whole bill over the characters of all tokens, per million.
    pub usd_per_million_chinese_characters: Option<Estimate>,
    /// A monthly active user for a month, at the usage the sheet gives.
    pub usd_per_mau_month: Option<Estimate>,
}

impl Figures {
    /// Each with its key.
    pub fn by_key(&self) -> [(&'static str, Option<Estimate>); FIGURES] {
        [
            ("usd_per_query", self.usd_per_query),
            (
                "usd_per_million_input_tokens",
                self.usd_per_million_input_tokens,
            ),
            (
                "usd_per_million_uncached_input_tokens",
                self.usd_per_million_uncached_input_tokens,
            ),
            (
                "usd_per_million_cached_input_tokens",
                self.usd_per_million_cached_input_tokens,
            ),
            (
                "usd_per_million_output_tokens",
                self.usd_per_million_output_tokens,
            ),
            (
                "usd_per_million_total_tokens",
                self.usd_per_million_total_tokens,
            ),
            (
                "usd_per_million_output_tokens_whole_cost",
                self.usd_per_million_output_tokens_whole_cost,
            ),
            (
                "usd_per_million_chinese_characters",
                self.usd_per_million_chinese_characters,
            ),
            ("usd_per_mau_month", self.usd_per_mau_month),
        ]
    }
}

/// Figures for hardware that is bought for the peak of a day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OverTheDay {
    /// Mean over peak of the load.
    pub utilisation: Quantity,
    /// The figures.
    pub figures: Figures,
}

/// What was measured, as far as it decides the cost.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// The figures of the run.
    pub summary: &'a Summary,
    /// Energy, where a sensor gave it.
    pub energy: Option<&'a Energy>,
    /// Device time, where the engine gave it.
    pub device_time: Option<&'a DeviceTime>,
    /// Device time of a token, solved from several runs.
    pub solved: Option<TokenTimes>,
    /// Characters of the workload's text for a token of the model, where it is Chinese text.
    pub characters_per_token: Option<f64>,
    /// The load is that of the chatbot whose usage the sheet gives.
    pub chatbot: bool,
    /// The window holds a whole day's rise and fall.
    pub whole_day: bool,
}

impl<'a> Measured<'a> {
    /// What a report says.
    pub fn of(report: &'a Report) -> Self {
        Self {
            summary: &report.summary,
            energy: report.energy.as_ref(),
            device_time: report.device_time.as_ref(),
            solved: None,
            characters_per_token: report.workload.realised.characters_per_token,
            chatbot: report.workload.chatbot,
            whole_day: report.workload.whole_day,
        }
    }
}

/// Input tokens that no cache held, output tokens and seconds of a run, for [`solve`].
pub fn tokens_and_seconds(summary: &Summary) -> (f64, f64, f64) {
    let fresh = summary.input_tokens - summary.cached_input_tokens.unwrap_or(0);
    (fresh as f64, summary.output_tokens as f64, summary.window_s)
}

/// Prices a run.
pub fn price(measured: &Measured<'_>, priced: &Priced) -> Result<Cost, CostError> {
    let summary = measured.summary;
    let power = measured.energy.map_or(Ok(None), |energy| {
        MeasuredPower::new(energy, summary.window_s, priced)
    });
    let (power, not_its_power) = match power {
        Ok(power) => (power, None),
        Err(why) => (None, Some(why)),
    };
    let served = summary.served.filter(|served| served.requests > 0);
    let basis = Basis {
        device_time: measured.device_time,
        solved: measured.solved,
        output_weight: &priced.output_token_weight,
        cached_weight: &priced.cached_token_weight,
    };
    let rate = spread_rate(summary);
    let mut draws = Draws::default();
    for mut world in World::all() {
        draws.add(
            measured,
            priced,
            power.as_ref(),
            served.as_ref(),
            &basis,
            &mut world,
        )?;
    }
    let (hour, usd_per_hour) = draws.hour();
    let usd_window = usd_per_hour.times(summary.window_s / 3_600.0);
    let prices = priced.inputs(power.as_ref());
    let confidence = prices.values().map(|quantity| quantity.confidence).max();
    let inputs = with_usage(prices, measured, priced, &basis);
    let split = served.as_ref().map(|served| basis.describe(served));
    let input_usd = split
        .as_ref()
        .map(|split| split.input_share * usd_window.mid);
    let mut cost = Cost {
        sheet: priced.sheet.clone(),
        device: priced.device.id.clone(),
        what: priced.device.what.clone(),
        units: priced.units,
        per: priced.device.per,
        confidence: confidence.unwrap_or(Confidence::Unconfirmed),
        measured_power_w: power.map(|power| power.watts),
        inputs,
        hour,
        usd_per_hour,
        usd_window,
        served,
        offered: summary.requests.judged(),
        split,
        input_usd,
        output_usd: input_usd.map(|input| usd_window.mid - input),
        at_this_load: draws.at_this_load.figures(rate.is_some()),
        over_the_day: (!measured.whole_day && served.is_some()).then(|| OverTheDay {
            utilisation: priced.utilisation.clone(),
            figures: draws.over_the_day.figures(rate.is_some()),
        }),
        services: served.as_ref().map(api::bills).unwrap_or_default(),
        null_reasons: BTreeMap::new(),
    };
    cost.null_reasons = null_reasons(&cost, measured);
    let why = not_its_power.map(|why| ("measured_power_w".to_owned(), why));
    cost.null_reasons.extend(why);
    Ok(cost)
}

impl Cost {
    /// What a query costs, step by step: the parts of the hour over all requests that were offered,
    /// then what the unserved ones add, then what idle hours add. The steps add up to the last
    /// figure.
    pub fn waterfall(&self) -> Vec<(String, f64)> {
        let (Some(per_query), true) = (self.at_this_load.usd_per_query, self.offered > 0) else {
            return Vec::new();
        };
        let served = self.served.map_or(0, |served| served.requests);
        let window = self.usd_window.mid / self.usd_per_hour.mid;
        let offered = self.offered.max(served) as f64;
        let mut steps: Vec<(String, f64)> = self
            .hour
            .iter()
            .map(|part| (part.name.clone(), part.usd.mid * window / offered))
            .collect();
        let paid: f64 = steps.iter().map(|step| step.1).sum();
        // Equal sums of floats may differ in their last digits.
        let unserved = Some(per_query.mid - paid).filter(|usd| usd.abs() > 1e-9 * paid);
        steps.push(("failed or late".to_owned(), unserved.unwrap_or(0.0)));
        if let Some(day) = &self.over_the_day
            && let Some(whole) = day.figures.usd_per_query
        {
            steps.push((
                "idle hours of the day".to_owned(),
                whole.mid - per_query.mid,
            ));
        }
        steps
    }
}

/// Every figure in every world; the first world is the mid one.
#[derive(Debug, Default)]
struct Draws {
    parts: Vec<(&'static str, Vec<f64>)>,
    hours: Vec<f64>,
    at_this_load: FigureDraws,
    over_the_day: FigureDraws,
}

impl Draws {
    fn add(
        &mut self,
        measured: &Measured<'_>,
        priced: &Priced,
        power: Option<&MeasuredPower>,
        served: Option<&Served>,
        basis: &Basis<'_>,
        world: &mut World,
    ) -> Result<(), CostError> {
        let parts = priced.hour(world, power)?;
        let hour: f64 = parts.iter().map(|part| part.1).sum();
        self.hours.push(hour);
        if self.parts.is_empty() {
            self.parts = parts.iter().map(|&(name, _)| (name, Vec::new())).collect();
        }
        for (kept, (_, usd)) in self.parts.iter_mut().zip(parts) {
            kept.1.push(usd);
        }
        let Some(served) = served else { return Ok(()) };
        let rate = spread_rate(measured.summary);
        let factor = rate.map_or(1.0, |(rate, ends)| world.rate_factor(rate, ends));
        let (input_share, cached_price) = basis.shares(served, world);
        let bill = Bill {
            usd: hour * measured.summary.window_s / 3_600.0 / factor,
            input_share,
            cached_price,
            characters_per_token: measured.characters_per_token,
            requests_per_mau_month: measured
                .chatbot
                .then(|| world.value(&priced.requests_per_mau_month)),
        };
        let utilisation = world.value(&priced.utilisation);
        self.at_this_load.add(&bill.figures(served));
        let day = Bill {
            usd: bill.usd / utilisation,
            ..bill
        };
        self.over_the_day.add(&day.figures(served));
        Ok(())
    }

    fn hour(&mut self) -> (Vec<HourPart>, Estimate) {
        let estimate = |draws: Vec<f64>| Estimate::new(draws[0], draws);
        let parts = std::mem::take(&mut self.parts).into_iter();
        let parts = parts.map(|(name, draws)| HourPart {
            name: name.to_owned(),
            usd: estimate(draws),
        });
        (parts.collect(), estimate(std::mem::take(&mut self.hours)))
    }
}

/// The rate whose interval the figures inherit, with that interval; none where it is not known, or
/// reaches down to nothing: then no cost is too high.
fn spread_rate(summary: &Summary) -> Option<(f64, (f64, f64))> {
    let Rate { per_s, ci95 } = summary.goodput_rate.unwrap_or(summary.request_rate);
    let ends = ci95.filter(|&(low, _)| low > 0.0)?;
    (per_s > 0.0).then_some((per_s, ends))
}

/// A bill in one world.
#[derive(Clone, Copy)]
struct Bill {
    usd: f64,
    input_share: f64,
    cached_price: f64,
    characters_per_token: Option<f64>,
    requests_per_mau_month: Option<f64>,
}

/// Number of figures, in the order of the fields of [`Figures`].
pub const FIGURES: usize = 9;

impl Bill {
    fn figures(&self, served: &Served) -> [Option<f64>; FIGURES] {
        let over = |usd: f64, amount: f64| (amount > 0.0).then(|| usd / amount);
        let million = |usd: f64, amount: f64| over(1e6 * usd, amount);
        let (input, output) = (served.input_tokens as f64, served.output_tokens as f64);
        let input_usd = self.usd * self.input_share;
        let output_usd = self.usd - input_usd;
        let per_query = over(self.usd, served.requests as f64);
        let cached = served.cached_input_tokens.map(|tokens| tokens as f64);
        let fresh = input - cached.unwrap_or(0.0);
        let fresh_price = million(input_usd, fresh + self.cached_price * cached.unwrap_or(0.0));
        let characters = self
            .characters_per_token
            .map(|ratio| (input + output) * ratio);
        [
            per_query,
            million(input_usd, input),
            cached.and(fresh_price),
            cached
                .filter(|&tokens| tokens > 0.0)
                .and(fresh_price.map(|price| price * self.cached_price)),
            million(output_usd, output),
            million(self.usd, input + output),
            million(self.usd, output),
            characters.and_then(|characters| million(self.usd, characters)),
            per_query
                .zip(self.requests_per_mau_month)
                .map(|(usd, requests)| usd * requests),
        ]
    }
}

#[derive(Debug, Default)]
struct FigureDraws([Vec<f64>; FIGURES]);

impl FigureDraws {
    fn add(&mut self, figures: &[Option<f64>; FIGURES]) {
        for (draws, figure) in self.0.iter_mut().zip(figures) {
            draws.extend(figure);
        }
    }

    /// In the order of the fields, as [`Bill::figures`] has them.
    fn figures(&mut self, with_intervals: bool) -> Figures {
        let mut draws = std::mem::take(&mut self.0).into_iter();
        let mut next = || {
            let draws = draws.next()?;
            let figure = Estimate::new(*draws.first()?, draws);
            Some(if with_intervals {
                figure
            } else {
                figure.without_interval()
            })
        };
        Figures {
            usd_per_query: next(),
            usd_per_million_input_tokens: next(),
            usd_per_million_uncached_input_tokens: next(),
            usd_per_million_cached_input_tokens: next(),
            usd_per_million_output_tokens: next(),
            usd_per_million_total_tokens: next(),
            usd_per_million_output_tokens_whole_cost: next(),
            usd_per_million_chinese_characters: next(),
            usd_per_mau_month: next(),
        }
    }
}

/// The figures of the hour, and those of tokens and users where they are used.
fn with_usage(
    mut inputs: BTreeMap<String, Quantity>,
    measured: &Measured<'_>,
    priced: &Priced,
    basis: &Basis<'_>,
) -> BTreeMap<String, Quantity> {
    let mut put = |name: &str, quantity: &Quantity| {
        inputs.insert(name.to_owned(), quantity.clone());
    };
    if basis.method() == SplitMethod::Assumed {
        put("output_token_weight", &priced.output_token_weight);
        put("cached_token_weight", &priced.cached_token_weight);
    }
    if measured.chatbot {
        put("requests_per_mau_month", &priced.requests_per_mau_month);
    }
    inputs
}

/// Why no figure has an interval.
const NO_INTERVAL: &str = "the window holds too little for an interval of the rate of served \
    requests, by which every cost divides; run longer";

fn null_reasons(cost: &Cost, measured: &Measured<'_>) -> BTreeMap<String, String> {
    let nothing = match (measured.summary.served, measured.summary.goodput_rate) {
        (None, _) => "the report does not say what was served",
        (Some(_), Some(_)) => "no request met the SLO",
        (Some(_), None) => "no request of the window finished",
    };
    let reason = |key: &str| match key {
        _ if cost.served.is_none() => nothing,
        "usd_per_million_input_tokens" => "no input token was served",
        "usd_per_million_uncached_input_tokens" | "usd_per_million_cached_input_tokens" => {
            "nothing says how many tokens a cache held, or it held none"
        }
        "usd_per_million_output_tokens" | "usd_per_million_output_tokens_whole_cost" => {
            "no output token was served"
        }
        "usd_per_million_total_tokens" => "no token was served",
        "usd_per_million_chinese_characters" => "the load is not made of Chinese text",
        "usd_per_mau_month" => "the load is not that of the chatbot whose usage is known",
        _ => nothing,
    };
    let figures = cost.at_this_load.by_key().into_iter();
    let missing = figures.filter(|(_, figure)| figure.is_none());
    let no_interval = (cost.served.is_some() && spread_rate(measured.summary).is_none())
        .then_some(("interval", NO_INTERVAL));
    missing
        .map(|(key, _)| (key, reason(key)))
        .chain(no_interval)
        .map(|(key, why)| (key.to_owned(), why.to_owned()))
        .collect()
}
