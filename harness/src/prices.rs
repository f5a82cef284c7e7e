//! Price sheets on the command line, and which of a sheet's devices is meant.
//!
//! Invariant: a price that was asked for is found or the command fails; one that was not asked for
//! may be unknown, and then nothing is priced. What it does not do: compute anything.

use std::path::Path;

use anyhow::{Context, Result, bail};
use backends::devices;
use reports::Report;
use reports::cost::sheet::BUILTIN;
use reports::cost::{self, CostError, Measured, Priced, Sheet, TokenTimes};

/// A sheet by the name of a built-in one, or from a file.
pub fn load(named: &Path) -> Result<Sheet> {
    let name = named.to_string_lossy();
    if let Some(sheet) = Sheet::builtin(&name) {
        return Ok(sheet);
    }
    if !named.exists() {
        let known: Vec<&str> = BUILTIN.iter().map(|sheet| sheet.0).collect();
        bail!(
            "`--price` {name}: there is no such file and no such sheet; accepted is a file or one of \
             {}",
            known.join(", ")
        );
    }
    let text = std::fs::read_to_string(named).with_context(|| format!("price sheet `{name}`"))?;
    Ok(Sheet::parse(&text, &name)?)
}

/// Puts a bill into a report, with what is to be said of it in place of what was said before.
///
/// # Errors
/// Why there is none.
pub fn bill(
    report: &mut Report,
    priced: &Priced,
    solved: Option<TokenTimes>,
) -> Result<(), CostError> {
    const POWER: &str = "the bill goes by the sheet's power";
    let mut measured = Measured::of(report);
    if solved.is_some() {
        measured.device_time = None;
        measured.solved = solved;
    }
    let cost = cost::price(&measured, priced)?;
    report
        .warnings
        .retain(|text| !text.starts_with(NO_COST) && !text.starts_with(POWER));
    let why = cost.null_reasons.get("measured_power_w");
    report
        .warnings
        .extend(why.map(|why| format!("{POWER}: {why}")));
    report.cost = Some(cost);
    Ok(())
}

/// How a warning begins that says why there is no cost.
pub const NO_COST: &str = "no cost";

/// What is priced, as far as the user says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// `--price`.
    pub sheet: Option<&'a Path>,
    /// `--price-device`.
    pub device: Option<&'a str>,
    /// `--price-units`.
    pub units: Option<u32>,
}

/// The price of what was asked for, or else of the target's own device.
pub fn resolve(
    asked: Asked<'_>,
    own_device: Option<&str>,
    own_units: u32,
) -> Result<Option<Priced>> {
    let explicit = asked.sheet.is_some() || asked.device.is_some();
    let sheet = match asked.sheet {
        Some(named) => load(named)?,
        None => Sheet::builtin("rental").expect("it is built in"),
    };
    let Some(device) = asked.device.or(own_device) else {
        if explicit {
            bail!(
                "`--price` needs `--price-device` for a server: which device does it run on?\n\n\
                 hint: sheet {} has {}",
                sheet.name,
                sheet.ids()
            );
        }
        return Ok(None);
    };
    match Priced::new(&sheet, device, asked.units.unwrap_or(own_units)) {
        Ok(priced) => {
            let mut known = devices::known().into_iter();
            let facts = known.find(|facts| facts.id == priced.device.id);
            let devices = facts.map_or(1, |facts| facts.devices_per_unit);
            Ok(Some(priced.with_devices_per_unit(devices)))
        }
        Err(CostError::NoDevice { .. } | CostError::NoPrice { .. }) if !explicit => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The price of the devices that were found on this host, by the names their driver gives them:
/// `units` of them, or as many as the devices make up.
pub fn of_found(sheet: Option<&Path>, units: Option<u32>, names: &[&str]) -> Result<Priced> {
    let sheet = load(sheet.unwrap_or(Path::new("rental")))?;
    let (Some(name), true) = (names.first(), names.windows(2).all(|two| two[0] == two[1])) else {
        bail!("devices of several kinds, or none, are watched: which is to be paid for?");
    };
    let known = devices::recognise(name);
    let devices_per_unit = known.as_ref().map_or(1, |facts| facts.devices_per_unit);
    let units = units.unwrap_or((names.len() as u32).div_ceil(devices_per_unit));
    let ids = [Some((*name).to_owned()), known.map(|facts| facts.id)];
    let mut ids = ids.into_iter().flatten();
    let id = ids.find(|id| sheet.find(id).is_some());
    let priced = Priced::new(&sheet, id.as_deref().unwrap_or(name), units)?;
    Ok(priced.with_devices_per_unit(devices_per_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_paid_for_not_the_devices_on_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mine.toml");
        let device = |id: &str| {
            format!(
                "[[device]]\nid = '{id}'\nmatch = ['{id}']\nwhat = 'card'\n\
                 rental_per_hour = {{ mid = 1, source = 's', date = '2026', confidence = 'example' }}\n"
            )
        };
        let head = "name = 'mine'\nabout = 'a test'\ncurrency = 'USD'\n".to_owned();
        let devices = ["cambricon-mlu370-x8", "ascend-310p3", "nvidia-h20-sxm"].map(device);
        std::fs::write(&path, head + &devices.concat()).expect("writable");
        for (name, found, units) in [
            ("MLU370-X8", 4, 2),
            ("MLU370-X8", 1, 1),
            ("310P3", 2, 2),
            ("NVIDIA H20", 4, 4),
        ] {
            let priced = of_found(Some(&path), None, &vec![name; found]).expect("it has a price");
            assert_eq!(priced.units, units, "{found} × {name}");
        }
        let asked = of_found(Some(&path), Some(3), &["MLU370-X8"; 4]).expect("it has a price");
        assert_eq!(asked.units, 3);
    }
}
