//! What is known of devices: `backends/devices/*.toml`, each figure with source, date and
//! confidence.
//!
//! Invariant: a figure is shown through [`Fact::show`] only, which marks one that is not confirmed,
//! and one that nobody has published is unknown, not left out. What it does not do: measure; what a
//! device says of itself is in [`crate::probe`], and beats what is written here.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFacts {
    /// As price sheets call it.
    pub id: String,
    /// In words.
    pub name: String,
    /// As [`crate::probe::Vendor::name`] has it.
    pub vendor: String,
    /// What one of it is: `gpu`, `npu`, `card`, `socket`.
    pub unit: String,
    /// How many devices its own interface counts in one of it.
    #[serde(default = "one")]
    pub devices_per_unit: u32,
    /// When the sources were last looked at, as a month: the date of a figure without its own.
    pub checked: String,
    /// Words by which its own interface calls it.
    pub names: Vec<String>,
    /// What a reader should know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Figures by name, with the unit at the name's end.
    pub facts: BTreeMap<String, Fact>,
    /// What `sim:NAME` needs beside the facts.
    pub simulation: Option<Simulation>,
}

fn one() -> u32 {
    1
}

/// A figure and where it is from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// The figure; none where nobody has published one.
    pub value: Option<f64>,
    /// Lowest and highest, where it is not one number.
    pub range: Option<(f64, f64)>,
    /// Where it is from, or why there is none.
    pub source: String,
    /// Of the newest source, where known.
    pub date: Option<String>,
    /// How sure it is.
    pub confidence: Confidence,
    /// What else there is to know.
    pub note: Option<String>,
}

/// How sure a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// A vendor's or maintainer's source, or several that agree.
    High,
    /// One good secondary source.
    Medium,
    /// One weak source, or a derivation.
    Low,
    /// Sources contradict each other, or there is none.
    Unconfirmed,
    /// Nobody's figure: a round number to begin with.
    Assumption,
}

impl Confidence {
    /// As in the files.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
            Self::Unconfirmed => "unconfirmed",
            Self::Assumption => "assumption",
        }
    }
}

/// What a simulation assumes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulation {
    /// As `--target sim:NAME` calls it.
    pub name: String,
    /// Share of the arithmetic peak that serving reaches.
    pub compute_efficiency: Fact,
    /// Share of the bandwidth peak that serving reaches.
    pub memory_efficiency: Fact,
    /// Fixed time of a step: launches, scheduling, sampling.
    pub step_overhead_us: Fact,
}

const FILES: [&str; 20] = [
    include_str!("../devices/nvidia-h100-sxm.toml"),
    include_str!("../devices/nvidia-h200-sxm.toml"),
    include_str!("../devices/nvidia-h800-sxm.toml"),
    include_str!("../devices/nvidia-h20-sxm.toml"),
    include_str!("../devices/nvidia-a800-sxm.toml"),
    include_str!("../devices/nvidia-l20.toml"),
    include_str!("../devices/nvidia-l40s.toml"),
    include_str!("../devices/nvidia-a10.toml"),
    include_str!("../devices/nvidia-rtx-4090d.toml"),
    include_str!("../devices/ascend-910b1.toml"),
    include_str!("../devices/ascend-910b2.toml"),
    include_str!("../devices/ascend-910b3.toml"),
    include_str!("../devices/ascend-910b4.toml"),
    include_str!("../devices/ascend-910c-die.toml"),
    include_str!("../devices/ascend-910c.toml"),
    include_str!("../devices/ascend-310p3.toml"),
    include_str!("../devices/cambricon-mlu370-x8.toml"),
    include_str!("../devices/cambricon-mlu590.toml"),
    include_str!("../devices/cpu-xeon-8480plus.toml"),
    include_str!("../devices/cpu-epyc-9654.toml"),
];

/// All devices of which something is known.
pub fn known() -> Vec<DeviceFacts> {
    let read = |text: &&str| toml::from_str(text).expect("the device files are tested");
    FILES.iter().map(read).collect()
}

/// The device that calls itself `name`: the one with the longest of its names in it, word for word.
pub fn recognise(name: &str) -> Option<DeviceFacts> {
    let said = words(name);
    let fit = |device: &DeviceFacts| {
        let fitting = device
            .names
            .iter()
            .filter(|known| holds(&said, &words(known)));
        fitting.map(String::len).max()
    };
    let fitting = known()
        .into_iter()
        .filter_map(|device| Some((fit(&device)?, device)));
    fitting
        .max_by_key(|(length, _)| *length)
        .map(|(_, device)| device)
}

/// `H20` is in `NVIDIA H20`, not in `NVIDIA H200`; `Ascend910B3` and `910B3` are one word.
fn words(name: &str) -> Vec<String> {
    let split = name.split(|c: char| !c.is_alphanumeric());
    let lower = split.filter(|word| !word.is_empty()).map(str::to_lowercase);
    lower
        .map(|word| match word.strip_prefix("ascend") {
            Some(number) if number.starts_with(|c: char| c.is_ascii_digit()) => number.to_owned(),
            _ => word,
        })
        .collect()
}

fn holds(said: &[String], known: &[String]) -> bool {
    !known.is_empty() && said.windows(known.len()).any(|part| part == known)
}

impl DeviceFacts {
    /// A figure by its name.
    pub fn fact(&self, name: &str) -> Option<&Fact> {
        self.facts.get(name)
    }
}

impl Fact {
    /// The figure with its unit, marked where it is not confirmed.
    pub fn show(&self, unit: &str) -> String {
        let figure = match (self.value, self.range) {
            (Some(value), _) => format!("{value} {unit}"),
            (None, Some((low, high))) => format!("{low} to {high} {unit}"),
            (None, None) => "unknown".to_owned(),
        };
        let figure = figure.trim_end();
        match self.confidence {
            Confidence::Unconfirmed => format!("{figure} (unconfirmed)"),
            Confidence::Assumption => format!("{figure} (assumption)"),
            Confidence::High | Confidence::Medium | Confidence::Low => figure.to_owned(),
        }
    }

    /// The same with source, date and confidence.
    pub fn show_whole(&self, unit: &str) -> String {
        let date = self.date.as_ref().map(|date| format!(", {date}"));
        let note = self.note.as_ref().map(|note| format!("; {note}"));
        format!(
            "{} ({}; {}{}{})",
            self.show(unit),
            self.confidence.name(),
            self.source,
            date.unwrap_or_default(),
            note.unwrap_or_default()
        )
    }
}

/// The unit of a figure, from its name.
pub fn unit_of(fact: &str) -> &'static str {
    const UNITS: [(&str, &str); 9] = [
        ("_gb_per_s", "GB/s"),
        ("_tflops", "TFLOPS"),
        ("_tops", "TOPS"),
        ("_gb", "GB"),
        ("_kw", "kW"),
        ("_w", "W"),
        ("_mhz", "MHz"),
        ("_us", "µs"),
        ("_efficiency", ""),
    ];
    let known = UNITS.iter().find(|(ending, _)| fact.ends_with(ending));
    known.map_or("", |(_, unit)| unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_a_source_and_the_usual_ones_are_there() {
        let known = known();
        for device in &known {
            let id = &device.id;
            for name in [
                "bf16_tflops",
                "fp16_tflops",
                "int8_tops",
                "memory_gb",
                "memory_gb_per_s",
                "link_gb_per_s",
                "tdp_w",
            ] {
                assert!(device.fact(name).is_some(), "{id}: {name}");
            }
            let month = device.checked.split_once('-').expect("a year and a month");
            assert!(month.0.starts_with("20") && month.1.len() == 2, "{id}");
            for (name, fact) in &device.facts {
                assert!(fact.source.len() > 2, "{id}: {name}");
                assert!(fact.value.is_none_or(|value| value > 0.0), "{id}: {name}");
                let year = |date: &String| date.starts_with("20");
                assert!(fact.date.as_ref().is_none_or(year), "{id}: {name}");
            }
        }
        let mut ids: Vec<&String> = known.iter().map(|device| &device.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), FILES.len());
    }

    #[test]
    fn what_is_not_confirmed_is_never_shown_without_the_mark() {
        for device in known() {
            for (name, fact) in &device.facts {
                let marked = fact.show(unit_of(name)).contains("(unconfirmed)");
                let is = fact.confidence == Confidence::Unconfirmed;
                assert_eq!(marked, is, "{}: {name}", device.id);
            }
        }
        let h20 = recognise("NVIDIA H20").expect("it is known");
        let tdp = h20.fact("tdp_w").expect("quoted");
        assert_eq!(tdp.show("W"), "400 W (unconfirmed)");
        assert!(
            tdp.show_whole("W").contains("says 550"),
            "{}",
            tdp.show_whole("W")
        );
        let mlu = recognise("MLU590-M9").expect("it is known");
        assert_eq!(
            mlu.fact("tdp_w").expect("asked").show("W"),
            "unknown (unconfirmed)"
        );
    }

    #[test]
    fn names_are_told_word_for_word() {
        for (said, id) in [
            ("NVIDIA H20", Some("nvidia-h20-sxm")),
            ("NVIDIA H200", Some("nvidia-h200-sxm")),
            ("NVIDIA H100 80GB HBM3", Some("nvidia-h100-sxm")),
            ("NVIDIA H100 PCIe", None),
            ("NVIDIA A10", Some("nvidia-a10")),
            ("NVIDIA A100-SXM4-80GB", None),
            ("910B3", Some("ascend-910b3")),
            ("Ascend910B4-1", Some("ascend-910b4")),
            ("910B4-1", Some("ascend-910b4")),
            ("Ascend910", Some("ascend-910c-die")),
            ("MLU370-X8", Some("cambricon-mlu370-x8")),
            ("AMD EPYC 9654 96-Core Processor", Some("cpu-epyc-9654")),
            ("abacus", None),
            ("", None),
        ] {
            let found = recognise(said).map(|device| device.id);
            assert_eq!(found.as_deref(), id, "{said}");
        }
    }
}
