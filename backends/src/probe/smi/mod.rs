//! Telemetry by the vendors' commands, where their libraries are not to be had.
//!
//! Invariant: each value's source is the command with its arguments. A command answers slowly (up
//! to some seconds where there are many devices), so it is asked once a second, and one that hangs
//! is ended. What it does not do: energy counters, which none of the commands prints.

mod cnmon;
mod npu_smi;
mod nvidia_smi;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::acl::Toolkit;
use super::{
    Kind, OpenError, Places, Probe, Quantity, Readings, SampleError, Scope, Selection, Unit,
    UnitSample, Vendor, Wanted, share_power,
};
use super::{command, dcmi};
use crate::clock::monotonic_now_ns;

/// Of one call; `npu-smi` takes about two seconds on a server with eight cards.
const LIMIT: Duration = Duration::from_secs(5);

/// A device as a command prints it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    /// As `--probe` takes it.
    pub(super) index: u32,
    /// The vendor's name.
    pub(super) name: String,
    /// PCI address or UUID.
    pub(super) id: Option<String>,
    /// Number of the card, if its power is that of all chips on it.
    pub(super) card: Option<u32>,
    /// What was printed.
    pub(super) readings: Readings,
}

/// One vendor's command.
pub(super) struct SmiProbe {
    kind: Kind,
    program: PathBuf,
    units: Vec<Unit>,
    /// Of each unit, the card to ask for its power by itself.
    card_power: Vec<Option<u32>>,
}

impl SmiProbe {
    pub(super) fn open(
        kind: Kind,
        selection: &Selection,
        places: &Places,
    ) -> Result<Self, OpenError> {
        let program = places.command(kind)?;
        let place = program.display().to_string();
        let rows = rows(kind, &program).map_err(|reason| OpenError::Broken {
            place: place.clone(),
            reason,
        })?;
        let rows = selection.choose(rows, |row| row.index, &place)?;
        let shared: Vec<Option<u32>> = rows.iter().map(|row| row.card).collect();
        let card_power = rows.iter().map(|row| {
            let has_none = row.readings.get(Quantity::Power).is_none();
            let card = row.card.filter(|_| kind == Kind::NpuSmi && has_none)?;
            card_power(&program, card).is_ok().then_some(card)
        });
        let card_power = card_power.collect();
        let toolkit = Toolkit::new(places);
        let cann = dcmi::cann_version(places).map(|version| ("cann", version));
        let unit = |row: Row| Unit {
            vendor: vendor(kind),
            index: row.index,
            id: row.id,
            scope: Scope::Chip,
            power_at: None,
            facts: match kind {
                Kind::NpuSmi => {
                    let soc = dcmi::soc_of(&row.name, &toolkit);
                    soc.into_iter().chain(cann.clone()).collect()
                }
                _ => Vec::new(),
            },
            name: row.name,
        };
        let mut units: Vec<Unit> = rows.into_iter().map(unit).collect();
        share_power(&mut units, &shared);
        Ok(Self {
            kind,
            program,
            units,
            card_power,
        })
    }
}

fn vendor(kind: Kind) -> Vendor {
    match kind {
        Kind::NpuSmi => Vendor::Ascend,
        Kind::Cnmon => Vendor::Cambricon,
        _ => Vendor::Nvidia,
    }
}

impl Probe for SmiProbe {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn units(&self) -> &[Unit] {
        &self.units
    }

    fn sample(&mut self, _: Wanted) -> Result<Vec<UnitSample>, SampleError> {
        let before = monotonic_now_ns();
        let rows = rows(self.kind, &self.program).map_err(SampleError)?;
        let at_ns = u64::midpoint(before, monotonic_now_ns());
        let sample = |(unit, card): (&Unit, &Option<u32>)| {
            let row = rows.iter().find(|row| row.index == unit.index);
            let mut readings = row.map(|row| row.readings.clone()).unwrap_or_default();
            let mut at_ns = at_ns;
            if row.is_none() {
                readings.unavailable(Quantity::Power, "the device is no longer listed");
            } else if let Some(other) = unit.power_at {
                let why = format!("shared with device {other}, and counted there");
                readings.unavailable(Quantity::Power, why);
            } else if let Some(card) = *card {
                let before = monotonic_now_ns();
                let watts = card_power(&self.program, card);
                at_ns = u64::midpoint(before, monotonic_now_ns());
                let source = format!("npu-smi info -t power -i {card}");
                readings.take(Quantity::Power, source, watts);
            }
            UnitSample { at_ns, readings }
        };
        Ok(self
            .units
            .iter()
            .zip(&self.card_power)
            .map(sample)
            .collect())
    }
}

/// What the command lists now.
fn rows(kind: Kind, program: &Path) -> Result<Vec<Row>, String> {
    let run = |arguments: &[&str]| {
        let text = command::run(program, arguments, LIMIT);
        text.map_err(|error| format!("`{} {}` {error}", kind.name(), arguments.join(" ")))
    };
    match kind {
        Kind::NpuSmi => npu_smi::table(&run(&["info"])?),
        Kind::Cnmon => match run(&[]).and_then(|text| cnmon::table(&text)) {
            Ok(rows) if !rows.is_empty() => Ok(rows),
            // Its longer form changes less from version to version.
            table => match run(&["info"]).and_then(|text| cnmon::info(&text)) {
                Ok(rows) if !rows.is_empty() => Ok(rows),
                info => table.and(info),
            },
        },
        _ => nvidia_smi::csv(&run(&nvidia_smi::ARGUMENTS)?),
    }
}

/// Power of a card whose chips have none, by its microcontroller.
fn card_power(program: &Path, card: u32) -> Result<f64, String> {
    let card = card.to_string();
    let text = command::run(program, &["info", "-t", "power", "-i", &card], LIMIT);
    let text = text.map_err(|error| format!("`npu-smi info -t power` {error}"))?;
    npu_smi::card_power(&text)
}

/// Cells of a row of a table drawn with `|`; `None` for rulers and text.
fn cells(line: &str) -> Option<Vec<&str>> {
    let line = line.trim();
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    let is_ruler = inner.chars().all(|c| "=-+ ".contains(c));
    (!is_ruler).then(|| inner.split('|').map(str::trim).collect())
}

/// A number as it is printed, or why there is none.
fn printed(text: &str, source: &str) -> Result<f64, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("{source} printed `{}`", text.trim()))
}
