//! `weighbridge prices`: the price sheets that come with it, and a check of the user's own.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use reports::cost::Sheet;
use reports::cost::sheet::{BUILTIN, Payment};

use super::{Ending, print, print_json};
use crate::prices;

#[derive(Debug, Args)]
pub(super) struct PricesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The built-in sheets
    List {
        /// Print them whole, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a built-in sheet, as a start for one of your own
    Show {
        /// Its name
        sheet: String,
    },
    /// Check a sheet and say what it prices
    Check {
        /// A file, or the name of a built-in sheet
        sheet: PathBuf,
        /// Print it as it was read, as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: &PricesArgs) -> Result<Ending> {
    let text = match &args.action {
        Action::List { json } => {
            let sheets = BUILTIN.iter().filter_map(|(name, _)| Sheet::builtin(name));
            if *json {
                print_json(&sheets.collect::<Vec<_>>())?;
                return Ok(Ending::Done);
            }
            let line =
                |sheet: Sheet| format!("{:<10} {}; {}\n", sheet.name, sheet.about, sheet.ids());
            sheets.map(line).collect::<Vec<_>>().concat()
        }
        Action::Show { sheet } => {
            let found = BUILTIN.iter().find(|(name, _)| name == sheet);
            let names: Vec<&str> = BUILTIN.iter().map(|sheet| sheet.0).collect();
            let known = names.join(", ");
            let found = found.with_context(|| format!("`{sheet}` is none of {known}"))?;
            found.1.to_owned()
        }
        Action::Check { sheet, json: true } => {
            print_json(&prices::load(sheet)?)?;
            return Ok(Ending::Done);
        }
        Action::Check { sheet, json: false } => describe(&prices::load(sheet)?),
    };
    print(&text)?;
    Ok(Ending::Done)
}

fn describe(sheet: &Sheet) -> String {
    let mut text = format!("{}: {}\n", sheet.name, sheet.about);
    for device in &sheet.devices {
        let price = match &device.payment {
            Payment::Rented { per_hour } => (per_hour, "an hour".to_owned()),
            Payment::Owned {
                purchase, devices, ..
            } => (purchase, format!("for {devices}")),
            Payment::Unknown { why } => {
                text.push_str(&format!("  {:<28} no price: {why}\n", device.id));
                continue;
            }
        };
        let (quantity, of) = price;
        let range = if quantity.low < quantity.high {
            format!(" [{}, {}]", quantity.low, quantity.high)
        } else {
            String::new()
        };
        let currency = quantity.currency.as_deref().unwrap_or("USD");
        text.push_str(&format!(
            "  {:<28} {}{range} {currency} {of} ({}, {}, confidence {})\n",
            device.id,
            quantity.mid,
            device.what,
            quantity.date,
            quantity.confidence.name()
        ));
    }
    text
}
