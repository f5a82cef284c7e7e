//! What `nvidia-smi --query-gpu` prints: one line of CSV for each GPU.
//!
//! Invariant: `[N/A]` and `[Not Supported]` are unavailable.

use super::{Quantity, Readings, Row, printed};

/// Of the command; the columns of [`csv`].
pub(super) const ARGUMENTS: [&str; 2] = [
    "--query-gpu=index,name,uuid,power.draw,power.limit,utilization.gpu,memory.used,memory.total,\
     temperature.gpu,clocks.sm",
    "--format=csv,noheader,nounits",
];
const SOURCE: &str = "nvidia-smi --query-gpu";
const MIB: f64 = 1_048_576.0;

/// The GPUs.
pub(super) fn csv(text: &str) -> Result<Vec<Row>, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(row).collect()
}

fn row(line: &str) -> Result<Row, String> {
    const NUMBERS: [(Quantity, f64); 7] = [
        (Quantity::Power, 1.0),
        (Quantity::PowerLimit, 1.0),
        (Quantity::Utilisation, 1.0),
        (Quantity::MemoryUsed, MIB),
        (Quantity::MemoryTotal, MIB),
        (Quantity::Temperature, 1.0),
        (Quantity::Clock, 1.0),
    ];
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let strange = || format!("`{SOURCE}` printed `{line}`");
    let [index, name, uuid, numbers @ ..] = &fields[..] else {
        return Err(strange());
    };
    if numbers.len() != NUMBERS.len() {
        return Err(strange());
    }
    let mut readings = Readings::default();
    for ((what, scale), text) in NUMBERS.into_iter().zip(numbers) {
        let value = printed(text, SOURCE).map(|value| value * scale);
        readings.take(what, SOURCE, value);
    }
    Ok(Row {
        index: index.parse().map_err(|_| strange())?,
        name: (*name).to_owned(),
        id: Some((*uuid).to_owned()),
        card: None,
        readings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_garbage_is_refused() {
        let text = "0, NVIDIA H20, GPU-1a, 115.42, 500.00, 3, 1024, 97871, 31, 1980\n\
                    1, NVIDIA A10, GPU-2b, [N/A], [Not Supported], 0, 0, 23028, 30, 210\n";
        let rows = csv(text).expect("two lines");
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].readings.get(Quantity::Power), Some(115.42));
        assert_eq!(
            rows[0].readings.get(Quantity::MemoryTotal),
            Some(97_871.0 * MIB)
        );
        assert_eq!(rows[1].readings.get(Quantity::Power), None);
        assert_eq!((rows[1].index, rows[1].name.as_str()), (1, "NVIDIA A10"));
        assert_eq!(csv("").expect("none"), Vec::new());
        for garbage in [
            "NVIDIA-SMI has failed",
            "x, a, b, 1, 2, 3, 4, 5, 6, 7",
            "\u{fffd}",
        ] {
            assert!(csv(garbage).is_err(), "{garbage}");
        }
    }
}
