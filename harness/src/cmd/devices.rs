//! `weighbridge devices`: what accelerators this host has, through what each was found, and what
//! telemetry each gives.
//!
//! Invariant: a value that is not to be had shows as `–` and its reason below, never as a zero; a
//! host with nothing says what was looked for, where, and what to install. What is known of a
//! device from elsewhere stands apart from what it says itself, and is marked where it is not
//! confirmed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use backends::devices::{self, DeviceFacts, unit_of};
use backends::probe::{
    Attempt, Discovery, Found, Outcome, PciDevice, Places, Quantity, Value, Vendor, discover,
};
use clap::Args;
use serde_json::{Map, json};

use super::{Ending, print, print_json};
use crate::host::host_info;
use crate::units::show_bytes;

#[derive(Debug, Args)]
pub(super) struct DevicesArgs {
    /// What is known of devices from published sources, of all or of one, instead of this host's
    #[arg(long, value_name = "ID", num_args = 0..=1, default_missing_value = "")]
    facts: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DevicesArgs) -> Result<Ending> {
    if let Some(id) = &args.facts {
        return facts(id, args.json);
    }
    let found = discover(&Places::of_this_host());
    if args.json {
        print_json(&as_json(&found))?;
    } else {
        print(&as_text(&found))?;
    }
    Ok(Ending::Done)
}

fn as_text(found: &Discovery) -> String {
    let host = host_info();
    let mut text = format!(
        "Host: {}, {} logical CPUs, {}\n\n",
        host.cpu,
        host.logical_cpus,
        show_bytes(host.memory_bytes)
    );
    if found.devices.is_empty() {
        text.push_str("No device with telemetry was found.\n");
    } else {
        text.push_str(&table(&found.devices));
    }
    text.push_str(&about(&found.devices));
    text.push_str(&missing_reasons(&found.devices));
    text.push_str(&known(&found.devices));
    text.push_str(&on_the_bus(found));
    text.push_str("\nLooked for:\n");
    for attempt in &found.attempts {
        let _ = writeln!(text, "  {:<14} {}", attempt.kind, outcome(&attempt.outcome));
    }
    text.push_str(&hints(found));
    text
}

const COLUMNS: [(&str, Quantity); 6] = [
    ("power", Quantity::Power),
    ("energy", Quantity::Energy),
    ("busy", Quantity::Utilisation),
    ("memory used", Quantity::MemoryUsed),
    ("heat", Quantity::Temperature),
    ("clock", Quantity::Clock),
];

fn table(devices: &[Found]) -> String {
    let heads = ["probe", "device", "covers"].into_iter();
    let heads = heads.chain(COLUMNS.map(|(head, _)| head));
    let mut rows: Vec<Vec<String>> = vec![heads.map(str::to_owned).collect()];
    for device in devices {
        let unit = &device.unit;
        let mut row = vec![
            format!("{}:{}", device.kind, unit.index),
            unit.name.clone(),
            unit.scope.name().to_owned(),
        ];
        row.extend(COLUMNS.map(|(_, what)| match device.readings.get(what) {
            Some(value) => show(what, value),
            None => "–".to_owned(),
        }));
        rows.push(row);
    }
    aligned(&rows)
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn show(what: Quantity, value: f64) -> String {
    match what {
        Quantity::Power | Quantity::PowerLimit => format!("{value:.1} W"),
        Quantity::Energy | Quantity::EnergyRange => format!("{value:.0} J"),
        Quantity::Utilisation => format!("{value:.0} %"),
        Quantity::MemoryUsed | Quantity::MemoryTotal => show_bytes(value as u64),
        Quantity::Temperature => format!("{value:.0} °C"),
        Quantity::Clock => format!("{value:.0} MHz"),
        Quantity::Throttled | Quantity::Health => format!("{value}"),
    }
}

/// Chip, versions and the like, each combination once.
fn about(devices: &[Found]) -> String {
    let mut about: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for device in devices
        .iter()
        .filter(|device| !device.unit.facts.is_empty())
    {
        let facts = device.unit.facts.iter();
        let facts: Vec<String> = facts
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let name = format!("{}:{}", device.kind, device.unit.index);
        about.entry(facts.join(", ")).or_default().push(name);
    }
    if about.is_empty() {
        return String::new();
    }
    let mut text = "\nAbout them:\n".to_owned();
    for (facts, devices) in about {
        let _ = writeln!(text, "  {}: {facts}", devices.join(", "));
    }
    text
}

/// Why the table has dashes, each reason once.
fn missing_reasons(devices: &[Found]) -> String {
    let mut reasons: BTreeMap<(String, Quantity), Vec<String>> = BTreeMap::new();
    for device in devices {
        for (_, what) in COLUMNS {
            let why = match device.readings.value(what) {
                Some(Value::Unavailable(why)) => why.clone(),
                None => format!("{} does not give it", device.kind),
                Some(Value::Read { .. }) => continue,
            };
            let name = format!("{}:{}", device.kind, device.unit.index);
            reasons.entry((why, what)).or_default().push(name);
        }
    }
    if reasons.is_empty() {
        return String::new();
    }
    let mut text = "\nNot available:\n".to_owned();
    for ((why, what), devices) in reasons {
        let _ = writeln!(text, "  {} of {}: {why}", what.name(), devices.join(", "));
    }
    text
}

/// What is known of the models that are here.
fn known(devices: &[Found]) -> String {
    let mut models: BTreeMap<String, DeviceFacts> = BTreeMap::new();
    let cpu = host_info().cpu;
    let names = devices.iter().map(|device| device.unit.name.as_str());
    for name in names.chain([cpu.as_str()]) {
        models.extend(devices::recognise(name).map(|facts| (facts.id.clone(), facts)));
    }
    if models.is_empty() {
        return String::new();
    }
    let mut text = "\nPublished figures (`--facts ID` has the sources):\n".to_owned();
    for (id, facts) in models {
        let figure = |name: &str| {
            let fact = facts.fact(name);
            fact.map_or("unknown".to_owned(), |fact| fact.show(unit_of(name)))
        };
        let _ = writeln!(
            text,
            "  {id}{}: BF16 {}, memory {} at {}, TDP {}",
            match facts.devices_per_unit {
                1 => String::new(),
                many => format!(" (a {} of {many} devices)", facts.unit),
            },
            figure("bf16_tflops"),
            figure("memory_gb"),
            figure("memory_gb_per_s"),
            figure("tdp_w")
        );
    }
    text
}

/// Accelerators whose vendor's software gave nothing.
fn on_the_bus(found: &Discovery) -> String {
    let silent: Vec<&PciDevice> = silent(found);
    if silent.is_empty() {
        return String::new();
    }
    let mut text = "\nOn the PCI bus, but not to be asked:\n".to_owned();
    for device in silent {
        let name = device.name.unwrap_or("not known by its number");
        let _ = writeln!(
            text,
            "  {} {} {:#06x} ({name})",
            device.address,
            device.vendor.name(),
            device.device
        );
    }
    text
}

fn silent(found: &Discovery) -> Vec<&PciDevice> {
    let speaks = |vendor: Vendor| {
        let mut devices = found.devices.iter();
        devices.any(|device| device.unit.vendor == vendor)
    };
    let devices = found.pci.iter();
    devices.filter(|device| !speaks(device.vendor)).collect()
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Devices(count) => format!("{count} devices"),
        Outcome::Absent(looked) => format!("not found: {}", looked.join(", ")),
        Outcome::Broken(why) => format!("does not work: {why}"),
        Outcome::NotNeeded => "not tried: a better way works".to_owned(),
    }
}

/// What to install, where there is nothing or where something is silent.
fn hints(found: &Discovery) -> String {
    let silent: Vec<Vendor> = silent(found).iter().map(|device| device.vendor).collect();
    let accelerators = found.devices.iter();
    let has_none = accelerators
        .filter(|found| found.unit.vendor != Vendor::Cpu)
        .count()
        == 0;
    let mut text = String::new();
    for (vendor, hint) in [
        (
            Vendor::Nvidia,
            "NVIDIA: the driver brings libnvidia-ml.so.1 and nvidia-smi; a container needs the \
             NVIDIA container toolkit",
        ),
        (
            Vendor::Ascend,
            "Ascend: the driver brings libdcmi.so and npu-smi; a container needs \
             /usr/local/dcmi, /usr/local/Ascend/driver and /dev/davinci_manager mounted",
        ),
        (
            Vendor::Cambricon,
            "Cambricon: the driver brings libcndev.so and cnmon; a container needs \
             /dev/cambricon_ctl and the library mounted",
        ),
    ] {
        if has_none || silent.contains(&vendor) {
            let _ = writeln!(text, "hint: {hint}");
        }
    }
    if has_none {
        let _ = writeln!(
            text,
            "hint: WEIGHBRIDGE_NVML_LIB, WEIGHBRIDGE_DCMI_LIB and WEIGHBRIDGE_CNDEV_LIB name a \
             library that is elsewhere"
        );
    }
    if text.is_empty() {
        return text;
    }
    format!("\n{text}")
}

fn as_json(found: &Discovery) -> serde_json::Value {
    let host = host_info();
    let devices: Vec<_> = found.devices.iter().map(device_json).collect();
    let attempts: Vec<_> = found.attempts.iter().map(attempt_json).collect();
    let pci: Vec<_> = found.pci.iter().map(pci_json).collect();
    json!({
        "host": {
            "cpu": host.cpu,
            "logical_cpus": host.logical_cpus,
            "memory_bytes": host.memory_bytes,
        },
        "devices": devices,
        "pci": pci,
        "looked_for": attempts,
    })
}

fn device_json(device: &Found) -> serde_json::Value {
    let unit = &device.unit;
    let readings = device.readings.iter().map(|(what, value)| {
        let value = match value {
            Value::Read { value, source } => json!({"value": value, "source": source}),
            Value::Unavailable(why) => json!({"value": null, "unavailable": why}),
        };
        (what.name().to_owned(), value)
    });
    let facts = unit.facts.iter();
    let facts = facts.map(|(name, value)| ((*name).to_owned(), json!(value)));
    json!({
        "probe": device.kind.name(),
        "index": unit.index,
        "vendor": unit.vendor.name(),
        "name": unit.name,
        "id": unit.id,
        "power_scope": unit.scope.name(),
        "power_counted_at": unit.power_at,
        "facts": facts.collect::<Map<_, _>>(),
        "readings": readings.collect::<Map<_, _>>(),
        "published_as": devices::recognise(&unit.name).map(|facts| facts.id),
    })
}

fn attempt_json(attempt: &Attempt) -> serde_json::Value {
    json!({
        "vendor": attempt.vendor.name(),
        "probe": attempt.kind.name(),
        "outcome": outcome(&attempt.outcome),
    })
}

fn pci_json(device: &PciDevice) -> serde_json::Value {
    json!({
        "address": device.address,
        "vendor": device.vendor.name(),
        "device": format!("{:#06x}", device.device),
        "name": device.name,
    })
}

/// The published figures of one device, or a line for each.
fn facts(id: &str, json: bool) -> Result<Ending> {
    let known = devices::known();
    let ids: Vec<String> = known
        .iter()
        .map(|device| format!("`{}`", device.id))
        .collect();
    let chosen: Vec<&DeviceFacts> = known
        .iter()
        .filter(|device| id.is_empty() || device.id == id)
        .collect();
    anyhow::ensure!(
        !chosen.is_empty(),
        "`--facts` is `{id}`; accepted are {}",
        ids.join(", ")
    );
    let mut text = String::new();
    if json {
        let all: Vec<_> = chosen.into_iter().map(facts_json).collect();
        text = serde_json::to_string_pretty(&all)? + "\n";
    } else {
        for device in chosen {
            let _ = writeln!(
                text,
                "{}: {} (sources looked at in {})",
                device.id, device.name, device.checked
            );
            for (name, fact) in &device.facts {
                let _ = writeln!(text, "  {name:<20} {}", fact.show_whole(unit_of(name)));
            }
            for note in &device.notes {
                let _ = writeln!(text, "  note: {note}");
            }
        }
    }
    print(&text)?;
    Ok(Ending::Done)
}

fn facts_json(device: &DeviceFacts) -> serde_json::Value {
    let facts = device.facts.iter().map(|(name, fact)| {
        let fact = json!({
            "value": fact.value,
            "range": fact.range,
            "source": fact.source,
            "date": fact.date,
            "confidence": fact.confidence.name(),
            "note": fact.note,
        });
        (name.clone(), fact)
    });
    json!({
        "id": device.id,
        "name": device.name,
        "vendor": device.vendor,
        "unit": device.unit,
        "devices_per_unit": device.devices_per_unit,
        "checked": device.checked,
        "facts": facts.collect::<Map<_, _>>(),
        "notes": device.notes,
    })
}
