//! What `cnmon` prints: its table, and the longer `cnmon info`.
//!
//! Invariant: a share of `N/A` or a missing field is unavailable; a card that does not exist is an
//! error, though the command ends well.

use super::{Quantity, Readings, Row, cells, printed};

const MIB: f64 = 1_048_576.0;

/// Cards in the table: two lines each.
pub(super) fn table(text: &str) -> Result<Vec<Row>, String> {
    let source = "cnmon";
    let mut rows = Vec::new();
    let mut upper: Option<Vec<&str>> = None;
    let mut has_head = false;
    for line in text.lines() {
        let Some(cells) = cells(line).filter(|cells| cells.len() == 3) else {
            continue;
        };
        if line.contains("Pwr:Usage") {
            (has_head, upper) = (true, None);
        } else if has_head {
            match upper.take() {
                None => upper = Some(cells),
                Some(above) => rows.extend(row(&above, &cells, source)),
            }
        }
    }
    if !has_head {
        let first = text.lines().find(|line| !line.trim().is_empty());
        let first = first.unwrap_or_default().trim();
        return Err(format!("`cnmon` printed no table, but `{first}`"));
    }
    Ok(rows)
}

fn row(above: &[&str], below: &[&str], source: &'static str) -> Option<Row> {
    let words: Vec<&str> = above[0]
        .split_whitespace()
        .filter(|word| *word != "/")
        .collect();
    let (index, name) = match words[..] {
        [index, name, ..] => (index.parse().ok()?, name),
        _ => return None,
    };
    let mut readings = Readings::default();
    let mut take = |what, text: &str, scale: f64| {
        let value = printed(text, source);
        readings.take(what, source, value.map(|value| value * scale));
    };
    let busy = above[2].split_whitespace().next().unwrap_or_default();
    take(Quantity::Utilisation, busy.trim_end_matches('%'), 1.0);
    let (before, limit) = below[0].split_once('/').unwrap_or((below[0], ""));
    let words: Vec<&str> = before.split_whitespace().collect();
    let heat = words.iter().find_map(|word| word.strip_suffix('C'));
    take(Quantity::Temperature, heat.unwrap_or("nothing"), 1.0);
    let watts = before.trim_end().strip_suffix('W').map(str::trim_end);
    let watts = watts.and_then(|text| text.split_whitespace().next_back());
    take(Quantity::Power, watts.unwrap_or("nothing"), 1.0);
    take(
        Quantity::PowerLimit,
        limit.trim().trim_end_matches('W'),
        1.0,
    );
    let (used, total) = below[1].split_once('/').unwrap_or((below[1], ""));
    take(
        Quantity::MemoryUsed,
        used.trim().trim_end_matches("MiB"),
        MIB,
    );
    take(
        Quantity::MemoryTotal,
        total.trim().trim_end_matches("MiB"),
        MIB,
    );
    Some(Row {
        index,
        name: name.to_owned(),
        id: (!above[1].is_empty()).then(|| above[1].to_owned()),
        card: None,
        readings,
    })
}

/// Cards in `cnmon info`: `key : value` in sections, whose names stand alone on their lines.
pub(super) fn info(text: &str) -> Result<Vec<Row>, String> {
    const SOURCE: &str = "cnmon info";
    if let Some(line) = text.lines().find(|line| line.contains("not existed")) {
        return Err(format!("`{SOURCE}` printed `{}`", line.trim()));
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut section = String::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            let word = line.trim();
            match word
                .strip_prefix("Card ")
                .and_then(|index| index.parse().ok())
            {
                Some(index) => rows.push(Row {
                    index,
                    name: "Cambricon MLU".to_owned(),
                    ..Row::default()
                }),
                None => word.clone_into(&mut section),
            }
            continue;
        };
        let Some(row) = rows.last_mut() else { continue };
        let (key, value) = (key.trim(), value.trim());
        let number = value.split_whitespace().next().unwrap_or_default();
        let mut take = |what, scale: f64| {
            let value = printed(number, SOURCE);
            row.readings
                .take(what, SOURCE, value.map(|value| value * scale));
        };
        match (section.as_str(), key) {
            (_, "Product Name") => value.clone_into(&mut row.name),
            (_, "UUID") => row.id = Some(value.to_owned()),
            ("Utilization", "MLU Average") => take(Quantity::Utilisation, 1.0),
            ("Temperature", "Chip") => take(Quantity::Temperature, 1.0),
            ("Physical Memory Usage", "Total") => take(Quantity::MemoryTotal, MIB),
            ("Physical Memory Usage", "Used") => take(Quantity::MemoryUsed, MIB),
            ("Power", "Usage") => take(Quantity::Power, 1.0),
            ("Power", "Cap") => take(Quantity::PowerLimit, 1.0),
            _ => {}
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "
Thu Dec 19 22:05:42 2024
+------------------------------------------------------------------------------+
| CNMON v5.10.31                                               Driver v5.10.31 |
+-------------------------------+----------------------+-----------------------+
| Card  VF  Name       Firmware |               Bus-Id | Util        Ecc-Error |
| Fan   Temp      Pwr:Usage/Cap |         Memory-Usage | Mode     Compute-Mode |
|===============================+======================+=======================|
| 0     /   MLU370-X8    v1.1.6 |         0000:13:00.0 | 0%                  0 |
|  0%   28C        107 W/ 250 W |     0 MiB/ 20638 MiB | FULL          Default |
+-------------------------------+----------------------+-----------------------+
";

    const INFO: &str = "
================CNMON v5.10.22================
Card 0
    Product Name                   : MLU370-X4
    UUID                           : 41fd5e1a-0000-0000-0000-000000000000
    Firmware                       : v1.1.6
    Driver                         : v5.10.22
    Utilization
        MLU Average                : 66 %
        MLU 0-3                    : 70 % 60 %
    Temperature
        Board                      : 40 C
        Chip                       : 64 C
    Physical Memory Usage
        Total                      : 24576 MiB
        Used                       : 1024 MiB
        Free                       : 23552 MiB
    Power
        Usage                      : 44 W
        Cap                        : 150 W
";

    fn short(row: &Row) -> String {
        let show = |what, scale: f64| {
            let value = row.readings.get(what);
            value.map_or("none".to_owned(), |value| format!("{}", value / scale))
        };
        format!(
            "{} {} {} W of {}, {} C {} % {}/{}",
            row.index,
            row.name,
            show(Quantity::Power, 1.0),
            show(Quantity::PowerLimit, 1.0),
            show(Quantity::Temperature, 1.0),
            show(Quantity::Utilisation, 1.0),
            show(Quantity::MemoryUsed, MIB),
            show(Quantity::MemoryTotal, MIB),
        )
    }

    #[test]
    fn every_variant_is_read() {
        let older = TABLE
            .replace("Mode     Compute", "SR-IOV   Compute")
            .replace("0%                  0 |", "N/A               N/A |");
        let newer = TABLE
            .replace("MLU370-X8    v1.1.6", "MLU590-M9    v1.5.0")
            .replace(
                "107 W/ 250 W |     0 MiB/ 20638 MiB",
                "85 W/ 550 W | 12345 MiB/ 98304 MiB",
            );
        for (text, expected) in [
            (TABLE, "0 MLU370-X8 107 W of 250, 28 C 0 % 0/20638"),
            (&older, "0 MLU370-X8 107 W of 250, 28 C none % 0/20638"),
            (&newer, "0 MLU590-M9 85 W of 550, 28 C 0 % 12345/98304"),
        ] {
            let rows = table(text).expect("a table");
            assert_eq!(rows.iter().map(short).collect::<Vec<_>>(), [expected]);
        }
        let rows = info(INFO).expect("cards");
        assert_eq!(
            short(&rows[0]),
            "0 MLU370-X4 44 W of 150, 64 C 66 % 1024/24576"
        );
        assert!(
            rows[0]
                .id
                .as_deref()
                .is_some_and(|id| id.starts_with("41fd5e1a"))
        );
    }

    #[test]
    fn what_is_not_a_table_is_refused() {
        for garbage in ["", "cnmon: command failed", "\u{fffd}"] {
            assert!(table(garbage).is_err(), "{garbage}");
        }
        assert!(info("Error: Card 9 is not existed").is_err());
        assert_eq!(info("nothing").expect("no card"), Vec::new());
    }
}
