//! Figures as people read them: three significant digits, a fitting unit, no exponents.
//!
//! Invariant: the ends of an interval are written in the unit of their figure.
//! What it does not do: decide what is shown where.

use crate::stats::thousands;

/// A unit of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    per_second: f64,
    name: &'static str,
}

const MICROSECONDS: Unit = Unit {
    per_second: 1e6,
    name: "µs",
};
const MILLISECONDS: Unit = Unit {
    per_second: 1e3,
    name: "ms",
};
const SECONDS: Unit = Unit {
    per_second: 1.0,
    name: "s",
};

impl Unit {
    /// The unit in which this many seconds read best.
    pub(super) fn for_seconds(value: f64) -> Self {
        match value.abs() {
            small if small < 0.000_999_5 => MICROSECONDS,
            middle if middle < 0.999_5 => MILLISECONDS,
            _ => SECONDS,
        }
    }

    /// The number alone.
    pub(super) fn number(self, seconds: f64) -> String {
        significant(seconds * self.per_second)
    }
}

/// `12.3 ms`.
pub(super) fn duration(seconds: f64) -> String {
    let unit = Unit::for_seconds(seconds);
    format!("{} {}", unit.number(seconds), unit.name)
}

/// `[11.9, 12.8]`, in the unit of `figure`.
pub(super) fn duration_interval(figure: f64, (low, high): (f64, f64)) -> String {
    let unit = Unit::for_seconds(figure);
    format!("[{}, {}]", unit.number(low), unit.number(high))
}

/// Three significant digits, or all digits of the integer part with thousands separators.
pub(super) fn significant(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if size >= 999.5 {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{}", thousands(size.round() as u64));
    }
    let mut decimals = (2 - size.log10().floor() as i32).clamp(0, 12);
    // 9.999 would otherwise become 10.00: one digit too many.
    if decimals > 0 && (size * 10_f64.powi(decimals)).round() >= 1_000.0 {
        decimals -= 1;
    }
    let decimals = decimals as usize;
    format!("{value:.decimals$}")
}

/// `[1,010, 1,085]`.
pub(super) fn interval((low, high): (f64, f64)) -> String {
    format!("[{}, {}]", significant(low), significant(high))
}

/// `$0.0123`.
pub(super) fn usd(value: f64) -> String {
    if value >= 100.0 {
        return format!("${}", significant(value));
    }
    let text = significant(value);
    match text.split_once('.') {
        Some((_, decimals)) if decimals.len() == 1 => format!("${text}0"),
        _ => format!("${text}"),
    }
}

/// `12.3 %`.
pub(super) fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value == 0.0 || value >= 99.95 {
        format!("{value:.0} %")
    } else {
        format!("{value:.1} %")
    }
}

/// `128 GiB`, `87.5 MiB`.
pub(super) fn bytes(value: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (name, size) in units {
        if value >= size {
            return format!("{} {name}", significant(value as f64 / size as f64));
        }
    }
    format!("{value} B")
}

/// `135 M`, `7.2 B`.
pub(super) fn parameters(value: u64) -> String {
    match value as f64 {
        billions if billions >= 1e9 => format!("{} B", significant(billions / 1e9)),
        millions => format!("{} M", significant(millions / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let texts = [
            0.000_000_512,
            0.000_052,
            0.009_996,
            0.01,
            0.9996,
            1.234,
            61.5,
            4_200.0,
        ];
        let expected = [
            "0.512 µs",
            "52.0 µs",
            "10.0 ms",
            "10.0 ms",
            "1.00 s",
            "1.23 s",
            "61.5 s",
            "4,200 s",
        ];
        assert_eq!(texts.map(duration), expected);
        assert_eq!(duration_interval(0.95, (0.8, 1.25)), "[800, 1,250]");
        let numbers = [
            0.0,
            0.001_234,
            9.999,
            99.96,
            999.4,
            1_045.4,
            -3.456,
            f64::NAN,
        ];
        let expected = ["0", "0.00123", "10.0", "100", "999", "1,045", "-3.46", "–"];
        assert_eq!(numbers.map(significant), expected);
        assert_eq!(
            [0.000_010_94, 0.5, 2.745, 12.5, 1e4].map(usd),
            ["$0.0000109", "$0.500", "$2.75", "$12.50", "$10,000"]
        );
        assert_eq!([0.0, 0.012_34, 1.0].map(percent), ["0 %", "1.2 %", "100 %"]);
        assert_eq!(
            [512, 91_727_040, 1 << 37].map(bytes),
            ["512 B", "87.5 MiB", "128 GiB"]
        );
        assert_eq!(
            [134_515_008, 7_240_000_000].map(parameters),
            ["135 M", "7.24 B"]
        );
    }
}
