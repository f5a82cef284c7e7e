//! Loads a backend and measures it.
//!
//! Data flows one way: flags and file ([`scenario`]) → a checked [`plan`] → sessions with their
//! text and instants ([`workload`], [`arrivals`]) → the [`driver`], which holds the conversations
//! on a backend ([`target`]) → one record for each request ([`recorder`]) → the report.
//!
//! [`serve`] puts the engine behind a server instead. [`gate`] compares runs. Only [`cmd`] prints.

pub mod arrivals;
pub mod cmd;
pub mod doctor;
pub mod driver;
pub mod gate;
pub mod host;
pub mod host_watch;
pub mod limits;
pub mod mock;
pub mod plan;
pub mod preflight;
pub mod prices;
pub mod progress;
pub mod random;
pub mod recorder;
pub mod scenario;
pub mod scrape;
pub mod serve;
pub mod subjects;
pub mod target;
pub mod telemetry;
pub mod units;
pub mod versioned;
pub mod warm_up;
pub mod workload;

/// Optional features that are compiled in.
pub fn compiled_features() -> Vec<&'static str> {
    let all = [
        ("cuda", cfg!(feature = "cuda")),
        ("flash-attn", cfg!(feature = "flash-attn")),
    ];
    let on = all.into_iter().filter(|feature| feature.1);
    on.map(|feature| feature.0).collect()
}
