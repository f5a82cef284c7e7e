//! What `npu-smi` prints.
//!
//! Columns move between versions and parts, so cells are told by the table's bars and by the words
//! of its head, never by their offset. Invariant: `-`, `NA` and anything else that is not a number
//! is unavailable; the table of processes below is never read as devices.

use super::{Quantity, Readings, Row, cells, printed};

const SOURCE: &str = "npu-smi info";
const MIB: f64 = 1_048_576.0;

/// Devices in the table of `npu-smi info`: two lines for each chip.
pub(super) fn table(text: &str) -> Result<Vec<Row>, String> {
    let mut found: Vec<(u32, Row)> = Vec::new();
    let mut head = None;
    let mut upper: Option<Vec<&str>> = None;
    for line in text.lines() {
        let Some(cells) = cells(line) else { continue };
        if line.contains("Process id") {
            break;
        }
        if line.contains("Bus-Id") {
            head = Some(line.contains("HBM-Usage"));
            upper = None;
            continue;
        }
        let Some(has_hbm) = head else { continue };
        if cells.len() != 3 {
            continue;
        }
        match upper.take() {
            None => upper = Some(cells),
            Some(above) => {
                let ordinal = found.len() as u32;
                found.extend(row(&above, &cells, has_hbm, ordinal));
            }
        }
    }
    if head.is_none() && !text.contains("There is no NPU") {
        let first = text.lines().find(|line| !line.trim().is_empty());
        let first = first.unwrap_or_default().trim();
        return Err(format!("`{SOURCE}` printed no table, but `{first}`"));
    }
    Ok(with_cards(found))
}

/// Chips of one card have its power between them.
fn with_cards(found: Vec<(u32, Row)>) -> Vec<Row> {
    let cards: Vec<u32> = found.iter().map(|(card, _)| *card).collect();
    let several = |card: u32| cards.iter().filter(|other| **other == card).count() > 1;
    let rows = found.into_iter().map(|(card, mut row)| {
        let is_310p = row.name.starts_with("310");
        row.card = (several(card) || is_310p).then_some(card);
        row
    });
    rows.collect()
}

/// One chip and the number of its card.
fn row(above: &[&str], below: &[&str], has_hbm: bool, ordinal: u32) -> Option<(u32, Row)> {
    let (card, name) = above[0].split_once(char::is_whitespace)?;
    let card: u32 = card.parse().ok()?;
    let numbers = |cell: &str| -> Vec<String> {
        let spaced = cell.replace('/', " ");
        spaced.split_whitespace().map(str::to_owned).collect()
    };
    let mut readings = Readings::default();
    let upper = numbers(above[2]);
    let mut take = |what, text: Option<&String>, scale: f64| {
        let value = printed(text.map_or("nothing", String::as_str), SOURCE);
        readings.take(what, SOURCE, value.map(|value| value * scale));
    };
    take(Quantity::Power, upper.first(), 1.0);
    take(Quantity::Temperature, upper.get(1), 1.0);
    let lower = numbers(below[2]);
    take(Quantity::Utilisation, lower.first(), 1.0);
    // With a column of HBM the one before it is of the host's kind of memory, and empty.
    let at = if has_hbm { 3 } else { 1 };
    take(Quantity::MemoryUsed, lower.get(at), MIB);
    take(Quantity::MemoryTotal, lower.get(at + 1), MIB);
    if above[1] == "OK" {
        readings.read(Quantity::Health, 0.0, SOURCE);
    } else {
        readings.unavailable(Quantity::Health, format!("{SOURCE} printed `{}`", above[1]));
    }
    let ids: Vec<u32> = below[0]
        .split_whitespace()
        .filter_map(|id| id.parse().ok())
        .collect();
    let index = match ids[..] {
        [_, device, ..] => device,
        [0] | [] => card,
        [_] => ordinal,
    };
    let row = Row {
        index,
        name: name.trim().to_owned(),
        id: (!below[1].is_empty()).then(|| below[1].to_lowercase()),
        card: None,
        readings,
    };
    Some((card, row))
}

/// Watts in `npu-smi info -t power -i CARD`. The name of a block stands below its values.
pub(super) fn card_power(text: &str) -> Result<f64, String> {
    let source = "npu-smi info -t power";
    let mut last = None;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        let is_power = matches!(
            key.trim(),
            "NPU Real-time Power(W)" | "Power Dissipation(W)"
        );
        last = if is_power { Some(value) } else { last };
    }
    match last {
        Some(value) => printed(value, source),
        None => Err(format!("`{source}` printed no power")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A2: &str = "
+------------------------------------------------------------------------------------------------+
| npu-smi 25.5.2                   Version: 25.5.2                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 90.4        32                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          41697/ 65536         |
+===========================+===============+====================================================+
| 5     910B3               | Warning       | 101.3       35                0    / 0             |
| 0                         | 0000:01:00.0  | 87          0    / 0          3430 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| No running processes found in NPU 0                                                            |
+===========================+===============+====================================================+
[WARNING]The driver package may not be completely installed
";

    const A3: &str = "
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 1     Ascend910           | OK            | 165.4       35                0    / 0             |
| 0     2                   | 0000:9D:00.0  | 3           0    / 0          3129 / 65536         |
+------------------------------------------------------------------------------------------------+
| 1     Ascend910           | OK            | -           36                0    / 0             |
| 1     3                   | 0000:9F:00.0  | 0           0    / 0          2867/65536           |
+===========================+===============+====================================================+
";

    const DUO: &str = "
| NPU     Name              | Health        | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device            | Bus-Id        | AICore(%)    Memory-Usage(MB)                        |
+=========================+===============+====================================================+
| 2       310P3             | OK            | NA           43                0     / 0             |
| 0       0                 | 0000:82:00.0  | 0            994  / 21534                            |
+-------------------------+---------------+----------------------------------------------------+
| 2       310P3             | OK            | NA           41                0     / 0             |
| 1       1                 | 0000:82:00.0  | 0            994  / 21534                            |
+=========================+===============+====================================================+
";

    /// A chip in a few words: index, card it shares, power, temperature, busy, MiB used and all.
    fn short(row: &Row) -> String {
        let show = |what, scale: f64| {
            let value = row.readings.get(what);
            value.map_or("none".to_owned(), |value| format!("{}", value / scale))
        };
        format!(
            "{} {} {:?} {} W {} C {} % {}/{} {:?}",
            row.index,
            row.name,
            row.card,
            show(Quantity::Power, 1.0),
            show(Quantity::Temperature, 1.0),
            show(Quantity::Utilisation, 1.0),
            show(Quantity::MemoryUsed, MIB),
            show(Quantity::MemoryTotal, MIB),
            row.id.as_deref().unwrap_or_default(),
        )
    }

    #[test]
    fn every_variant_of_the_table_is_read() {
        for (text, expected) in [
            (
                A2,
                [
                    "0 910B3 None 90.4 W 32 C 0 % 41697/65536 \"0000:c1:00.0\"",
                    "5 910B3 None 101.3 W 35 C 87 % 3430/65536 \"0000:01:00.0\"",
                ],
            ),
            (
                A3,
                [
                    "2 Ascend910 Some(1) 165.4 W 35 C 3 % 3129/65536 \"0000:9d:00.0\"",
                    "3 Ascend910 Some(1) none W 36 C 0 % 2867/65536 \"0000:9f:00.0\"",
                ],
            ),
            (
                DUO,
                [
                    "0 310P3 Some(2) none W 43 C 0 % 994/21534 \"0000:82:00.0\"",
                    "1 310P3 Some(2) none W 41 C 0 % 994/21534 \"0000:82:00.0\"",
                ],
            ),
        ] {
            let rows = table(text).expect("a table");
            assert_eq!(rows.iter().map(short).collect::<Vec<_>>(), expected);
        }
        let rows = table(A2).expect("a table");
        assert_eq!(rows[0].readings.get(Quantity::Health), Some(0.0));
        assert_eq!(rows[1].readings.get(Quantity::Health), None);
    }

    #[test]
    fn a_chip_without_a_number_has_its_card_s() {
        let text = A2.replace(
            "| 0                         | 0000",
            "|                           | 0000",
        );
        let rows = table(&text).expect("a table");
        let indexes: Vec<u32> = rows.iter().map(|row| row.index).collect();
        assert_eq!(indexes, [0, 5]);
    }

    #[test]
    fn an_empty_host_has_none_and_garbage_is_refused() {
        let none = table("There is no NPU card on this server.\n").expect("it says so");
        assert!(none.is_empty());
        for garbage in [
            "",
            "\u{fffd}\u{fffd}|x|",
            "dcmi module initialize failed. ret is -8005",
        ] {
            let error = table(garbage).expect_err(garbage);
            assert!(error.contains("printed no table"), "{error}");
        }
        // Cut off in the middle of a chip.
        let cut = &A2[..A2.find("| 0                         |").expect("there")];
        assert_eq!(table(cut).expect("a head"), Vec::new());
    }

    #[test]
    fn the_card_s_power_is_in_its_own_block() {
        let one = "\tNPU ID                         : 0\n\tChip Count                     : 1\n\n\
                   \tNPU Real-time Power(W)         : 103.5\n\tChip ID                        : 0\n";
        assert_eq!(card_power(one), Ok(103.5));
        let duo =
            "\tNPU ID : 2\n\tChip Count : 2\n\n\tPower Dissipation(W) : 40.6\n\tChip Name : mcu\n";
        assert_eq!(card_power(duo), Ok(40.6));
        for text in [
            "This device does not support querying power.",
            "\tRated Power Dissipation(W) : 12.8\n\tChip ID : 0\n",
            "\tPower Dissipation(W) : NA\n",
        ] {
            assert!(card_power(text).is_err(), "{text}");
        }
    }
}
