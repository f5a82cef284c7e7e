//! What a run found: the report schema, statistics, cost, verdict and rendering.
//!
//! Everything here is a pure function of values: no async, no clock, no network and no files.
//! [`Accumulator`] folds [`RequestRecord`]s as they finish; [`Report`] is the product, and the
//! Markdown, the HTML page and the terminal summary are functions of it alone.
//!
//! # Layout
//! - [`record`] holds one request as measured, the line of `requests.jsonl`.
//! - [`schema`] holds `report.json`.
//! - [`accumulate`] turns records into histograms and per-second series.
//! - [`histogram`] holds HDR histograms of latencies, their encoding and the interval log.
//! - [`stats`] holds nearest-rank quantiles and block-bootstrap intervals.
//! - [`capacity`] searches for the highest load within the SLO.
//! - [`cost`] holds price sheets and what a query and a million tokens cost.
//! - [`energy`] turns samples of power into the energy of the window.
//! - [`server_metrics`] sums up what a server told about itself.
//! - [`drift`] says whether a window is steady.
//! - [`dialect`] says a run in the definitions of other tools.
//! - [`gate`] says whether one side of a comparison is worse than the other.
//! - [`compare`] holds subjects side by side; [`subject`] is one side, [`import`] reads other
//!   tools' results as subjects.
//! - [`export`] writes a run as other tools do.
//! - [`goodness`] tests whether a sample fits a law; [`fit`] is what such tests found.
//! - [`lengths`] holds how long prompts and answers were.
//! - [`load_curve`] holds runs at several loads.
//! - [`preflight`] holds the client's own error against the figures.
//! - [`validity`] says VALID or INVALID, and why.
//! - [`render`] writes the terminal summary, Markdown and HTML.

pub mod accumulate;
pub mod capacity;
pub mod compare;
pub mod cost;
pub mod dialect;
pub mod drift;
pub mod energy;
pub mod export;
pub mod fit;
pub mod gate;
pub mod goodness;
pub mod histogram;
pub mod import;
pub mod lengths;
pub mod load_curve;
pub mod preflight;
pub mod record;
pub mod render;
pub mod schema;
pub mod server_metrics;
pub mod stats;
pub mod subject;
pub mod validity;

pub use accumulate::{Accumulator, Measurements, MetricDrift, Window};
pub use record::{Finish, Outcome, RequestRecord, TokenCountSource};
pub use schema::Report;
