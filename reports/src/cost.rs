//! What a query and a million tokens cost, at a price whose source is stated.
//!
//! Invariant: the cost of the measured window is `usd_per_hour × window`, and every figure divides
//! that by what was served in the window. The split between input and output tokens is additive:
//! the two parts add up to the whole. What it does not do: utilisation, energy or margins. It is
//! the cost at the measured load with the hardware rented for the whole window, and no more.

mod price_file;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{Rate, Summary};

pub use price_file::{Confidence, Per, Price, PriceError, PriceFile, ResolvedPrice, TokenWeight};

/// What the measured load cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// The price, with its source.
    pub price: Price,
    /// How many input tokens one output token costs, with its source.
    pub output_token_weight: TokenWeight,
    /// Devices or vCPUs, as `price.per` says.
    pub units: u32,
    /// All of them for an hour.
    pub usd_per_hour: f64,
    /// All of them for the measured window.
    pub usd_window: f64,
    /// Of `usd_window`, the part of input tokens.
    pub input_usd: Option<f64>,
    /// Of `usd_window`, the rest.
    pub output_usd: Option<f64>,
    /// Requests completed in the window.
    pub queries: u64,
    /// Cost of one completed request.
    pub per_query_usd: Option<f64>,
    /// Cost of one request within the SLO.
    pub per_goodput_query_usd: Option<f64>,
    /// Input part over input tokens, per million.
    pub usd_per_million_input_tokens: Option<f64>,
    /// Output part over output tokens, per million.
    pub usd_per_million_output_tokens: Option<f64>,
    /// Whole cost over all tokens, per million.
    pub usd_per_million_total_tokens: Option<f64>,
    /// Whole cost over output tokens alone, per million.
    pub usd_per_million_output_tokens_whole_cost: Option<f64>,
    /// 95 % interval of figures above, by name, carried over from the measured rates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ci95: BTreeMap<String, (f64, f64)>,
    /// Why a figure above is null, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub null_reasons: BTreeMap<String, String>,
}

/// Prices the measured window.
pub fn price(summary: &Summary, price: &ResolvedPrice) -> Cost {
    let usd_per_hour = price.price.usd_per_hour * f64::from(price.units);
    let usd_window = usd_per_hour * summary.window_s / 3_600.0;
    let (input, output) = (summary.input_tokens as f64, summary.output_tokens as f64);
    let weighted = input + price.weight.value * output;
    let queries = summary.completed();
    let mut cost = Cost {
        price: price.price.clone(),
        output_token_weight: price.weight.clone(),
        units: price.units,
        usd_per_hour,
        usd_window,
        input_usd: None,
        output_usd: None,
        queries,
        per_query_usd: None,
        per_goodput_query_usd: None,
        usd_per_million_input_tokens: None,
        usd_per_million_output_tokens: None,
        usd_per_million_total_tokens: None,
        usd_per_million_output_tokens_whole_cost: None,
        ci95: BTreeMap::new(),
        null_reasons: BTreeMap::new(),
    };
    if weighted > 0.0 {
        let input_usd = usd_window * (input / weighted);
        cost.input_usd = Some(input_usd);
        cost.output_usd = Some(usd_window - input_usd);
    }
    let unit_usd = |tokens: f64| Some(1e6 * usd_window / weighted).filter(|_| tokens > 0.0);
    cost.usd_per_million_input_tokens = unit_usd(input);
    cost.usd_per_million_output_tokens = unit_usd(output).map(|usd| usd * price.weight.value);
    let over = |amount: f64, scale: f64| (amount > 0.0).then(|| scale * usd_window / amount);
    cost.usd_per_million_total_tokens = over(input + output, 1e6);
    cost.usd_per_million_output_tokens_whole_cost = over(output, 1e6);
    cost.per_query_usd = over(queries as f64, 1.0);
    let good = summary
        .goodput_rate
        .map(|rate| rate.per_s * summary.window_s);
    cost.per_goodput_query_usd = good.and_then(|good| over(good.round(), 1.0));
    carry_intervals(&mut cost, summary);
    explain_nulls(&mut cost, summary);
    cost
}

/// The cost of one thing is a constant over its rate, so the ends of the interval change places.
fn carry_intervals(cost: &mut Cost, summary: &Summary) {
    let per_second = cost.usd_per_hour / 3_600.0;
    let mut carry = |key: &str, figure: Option<f64>, rate: Option<Rate>, scale: f64| {
        let Some((low, high)) = rate.and_then(|rate| rate.ci95) else {
            return;
        };
        if figure.is_some() && low > 0.0 {
            let ends = (scale * per_second / high, scale * per_second / low);
            cost.ci95.insert(key.to_owned(), ends);
        }
    };
    let tokens = Some(summary.output_tokens_per_s);
    carry(
        "per_query_usd",
        cost.per_query_usd,
        Some(summary.request_rate),
        1.0,
    );
    carry(
        "per_goodput_query_usd",
        cost.per_goodput_query_usd,
        summary.goodput_rate,
        1.0,
    );
    let whole = "usd_per_million_output_tokens_whole_cost";
    carry(
        whole,
        cost.usd_per_million_output_tokens_whole_cost,
        tokens,
        1e6,
    );
}

fn explain_nulls(cost: &mut Cost, summary: &Summary) {
    let no_good = if summary.goodput_rate.is_some() {
        "no request met the SLO"
    } else {
        "no SLO was given"
    };
    let no_input = "no first token fell in the measured window";
    let no_output = "no output token fell in the measured window";
    let no_query = "no request finished in the measured window";
    let neither = "no token fell in the measured window";
    let whole = cost.usd_per_million_output_tokens_whole_cost;
    let figures = [
        ("input_usd", cost.input_usd, neither),
        ("output_usd", cost.output_usd, neither),
        ("per_query_usd", cost.per_query_usd, no_query),
        ("per_goodput_query_usd", cost.per_goodput_query_usd, no_good),
        (
            "usd_per_million_input_tokens",
            cost.usd_per_million_input_tokens,
            no_input,
        ),
        (
            "usd_per_million_output_tokens",
            cost.usd_per_million_output_tokens,
            no_output,
        ),
        (
            "usd_per_million_total_tokens",
            cost.usd_per_million_total_tokens,
            neither,
        ),
        ("usd_per_million_output_tokens_whole_cost", whole, no_output),
    ];
    let missing = figures
        .into_iter()
        .filter(|(_, figure, _)| figure.is_none());
    cost.null_reasons = missing
        .map(|(key, _, why)| (key.to_owned(), why.to_owned()))
        .collect();
}
