//! What the traffic that was served would have cost at the list prices of API services.
//!
//! Invariant: a price stands with its source, date and confidence. Token counts are those of the
//! run, in the model's own tokens. What it does not do: prices of prompts over 32,768 tokens, which
//! are tiered elsewhere; discounts; batch prices.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Confidence;
use crate::schema::Served;

const LIST: &str = include_str!("../../prices/api.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    per_usd: BTreeMap<String, f64>,
    per_usd_source: String,
    service: Vec<Service>,
}

/// Prices of a service, for a million tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    name: String,
    currency: String,
    input: f64,
    cached_input: Option<f64>,
    output: f64,
    /// Where answers of at most [`crate::schema::SHORT_ANSWER`] tokens have a price of their own.
    short_output: Option<f64>,
    source: String,
    date: String,
    confidence: Confidence,
}

/// What the served traffic costs at a list price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ApiBill {
    /// The service.
    pub service: String,
    /// Mean of the served requests.
    pub usd_per_query: f64,
    /// Whole bill over all tokens, per million.
    pub usd_per_million_total_tokens: f64,
    /// Its prices, in words and its own currency.
    pub prices: String,
    /// Who gives them.
    pub source: String,
    /// When.
    pub date: String,
    /// How far they can be relied on.
    pub confidence: Confidence,
}

/// The bills of all services; none where prompts were longer than the prices cover.
pub(super) fn bills(served: &Served) -> Vec<ApiBill> {
    let list: List = toml::from_str(LIST).expect("a test reads the list");
    let tokens = (served.input_tokens + served.output_tokens) as f64;
    if served.requests == 0 || tokens <= 0.0 || served.long_prompts > 0 {
        return Vec::new();
    }
    let bill = |service: &Service| {
        let per_usd = list.per_usd.get(&service.currency).copied().unwrap_or(1.0);
        let usd = service.amount(served) / 1e6 / per_usd;
        ApiBill {
            service: service.name.clone(),
            usd_per_query: usd / served.requests as f64,
            usd_per_million_total_tokens: 1e6 * usd / tokens,
            prices: service.words(&list.per_usd_source, per_usd),
            source: service.source.clone(),
            date: service.date.clone(),
            confidence: service.confidence,
        }
    };
    list.service.iter().map(bill).collect()
}

impl Service {
    /// Millionths of its currency.
    fn amount(&self, served: &Served) -> f64 {
        let cached = served.cached_input_tokens.unwrap_or(0) as f64;
        let fresh = served.input_tokens as f64 - cached;
        let short = self.short_output.map_or(0, |_| served.short_output_tokens) as f64;
        let output = served.output_tokens as f64 - short;
        fresh * self.input
            + cached * self.cached_input.unwrap_or(self.input)
            + output * self.output
            + short * self.short_output.unwrap_or(self.output)
    }

    fn words(&self, rate_source: &str, per_usd: f64) -> String {
        let currency = &self.currency;
        let mut words = format!("{} {currency} input", self.input);
        if let Some(cached) = self.cached_input {
            words.push_str(&format!(", {cached} cached"));
        }
        words.push_str(&format!(", {} output", self.output));
        if let Some(short) = self.short_output {
            words.push_str(&format!(" ({short} for answers of at most 200 tokens)"));
        }
        words.push_str(" for a million tokens");
        if currency != "USD" {
            words.push_str(&format!(
                "; {per_usd} {currency} to the dollar ({rate_source})"
            ));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_is_the_list_price_of_each_kind_of_token() {
        let served = Served {
            requests: 10,
            input_tokens: 2_000_000,
            cached_input_tokens: Some(500_000),
            output_tokens: 1_000_000,
            short_output_tokens: 400_000,
            long_prompts: 0,
        };
        let bills = bills(&served);
        let seed = bills
            .iter()
            .find(|bill| bill.service.contains("Seed-1.6 and"));
        let seed = seed.expect("the list has Seed-1.6");
        // 1.5·0.8 + 0.5·0.16 + 0.6·8 + 0.4·2 = 6.88 CNY over 10 requests at 7.2 to the dollar.
        assert!(
            (seed.usd_per_query - 6.88 / 7.2 / 10.0).abs() < 1e-12,
            "{seed:?}"
        );
        assert!((seed.usd_per_million_total_tokens - 6.88 / 7.2 / 3.0).abs() < 1e-12);
        let long = Served {
            long_prompts: 1,
            ..served
        };
        assert_eq!(super::bills(&long), []);
    }
}
