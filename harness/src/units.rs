//! Values with units, as people write them on a command line: `60s`, `1GiB`, `ttft=2s,tpot=100ms`.
//!
//! Invariant: a value that is accepted has one meaning; everything else is an error that says what
//! is accepted.

use std::time::Duration;

use reports::schema::Slo;

/// `60s`, `1m 30s`, `500ms`; never negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| {
        format!("`{text}` is not a duration ({error}); accepted is a number with a unit, such as `60s`, `500ms` or `2m`")
    })
}

/// `10m..30m`, `..1h` or `30m..`, as seconds; the end is infinite where it is left open.
pub fn parse_window(text: &str) -> Result<(f64, f64), String> {
    let wrong = |why: &str| {
        format!("`{text}` is not a window{why}; accepted is FROM..TO, such as `10m..30m`")
    };
    let (from, to) = text.split_once("..").ok_or_else(|| wrong(""))?;
    let seconds = |text: &str, open: f64| match text.trim() {
        "" => Ok(open),
        text => parse_duration(text).map(|duration| duration.as_secs_f64()),
    };
    let window = (seconds(from, 0.0)?, seconds(to, f64::INFINITY)?);
    if window.0 < window.1 {
        Ok(window)
    } else {
        Err(wrong(" (it ends before it begins)"))
    }
}

/// `5%` or `0.05`, as a share; which shares are accepted is the caller's to say.
pub fn parse_share(text: &str) -> Option<f64> {
    match text.strip_suffix('%') {
        Some(percent) => Some(percent.trim().parse::<f64>().ok()? / 100.0),
        None => text.parse().ok(),
    }
}

/// `512MiB`, `2GiB`, `1.5GB`, or a plain number of bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 7] = [
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("B", 1.0),
    ];
    let text = text.trim();
    let unit = UNITS.iter().find(|(unit, _)| text.ends_with(unit));
    let (number, factor) = unit.map_or((text, 1.0), |(unit, factor)| {
        (text.trim_end_matches(unit), *factor)
    });
    let value: Option<f64> = number.trim().parse().ok();
    let value = value
        .map(|value| value * factor)
        .filter(|bytes| (1.0..1e15).contains(bytes));
    value.map(|bytes| bytes as u64).ok_or_else(|| {
        format!(
            "`{text}` is not a size; accepted is a number with a unit, such as `512MiB` or `2GB`"
        )
    })
}

/// `512MiB` and the like, for people.
pub fn show_bytes(bytes: u64) -> String {
    let mib = bytes as f64 / 1_048_576.0;
    if mib >= 1024.0 {
        format!("{:.1} GiB", mib / 1024.0)
    } else {
        format!("{mib:.0} MiB")
    }
}

/// `1.234 s` or `12.34 ms`, for people.
pub fn show_duration(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.2} ms", seconds * 1e3)
    } else {
        format!("{seconds:.3} s")
    }
}

/// `ttft=2s,tpot=100ms,e2e=30s`, or `none`.
pub fn parse_slo(text: &str) -> Result<Slo, String> {
    let mut slo = Slo {
        ttft_s: None,
        tpot_s: None,
        e2e_s: None,
    };
    if text == "none" {
        return Ok(slo);
    }
    for part in text.split(',') {
        let wrong = || {
            format!(
                "`{part}` is not a limit; accepted are `ttft=`, `tpot=` and `e2e=` with a duration, such as `ttft=2s,tpot=100ms`, or `none`"
            )
        };
        let (metric, limit) = part.trim().split_once('=').ok_or_else(wrong)?;
        let limit_s = Some(parse_duration(limit)?.as_secs_f64());
        match metric {
            "ttft" => slo.ttft_s = limit_s,
            "tpot" => slo.tpot_s = limit_s,
            "e2e" => slo.e2e_s = limit_s,
            _ => return Err(wrong()),
        }
    }
    Ok(slo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_values_are_read() {
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        for (text, bytes) in [
            ("512MiB", 536_870_912),
            ("1.5GB", 1_500_000_000),
            ("77", 77),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        assert_eq!(parse_window("10m..1h"), Ok((600.0, 3600.0)));
        assert_eq!(parse_window("..90s"), Ok((0.0, 90.0)));
        assert_eq!(parse_window("20h.."), Ok((72_000.0, f64::INFINITY)));
        let slo = Slo {
            ttft_s: Some(2.0),
            tpot_s: Some(0.1),
            e2e_s: None,
        };
        assert_eq!(parse_slo("ttft=2s,tpot=100ms"), Ok(slo));
        assert_eq!(show_bytes(1 << 30), "1.0 GiB");
    }

    #[test]
    fn bad_values_say_what_is_accepted() {
        for text in ["", "60", "-5s", "abc", "1 parsec"] {
            assert!(
                parse_duration(text).is_err_and(|error| error.contains("accepted")),
                "{text}"
            );
        }
        for text in ["", "10m", "30m..10m", "5..6", "a..b", "1s..1s"] {
            assert!(
                parse_window(text).is_err_and(|error| error.contains("accepted")),
                "{text}"
            );
        }
        for text in ["", "-1GiB", "12XB", "NaN", "1e40GiB"] {
            assert!(
                parse_bytes(text).is_err_and(|error| error.contains("accepted")),
                "{text}"
            );
        }
        for text in ["", "ttft", "ttft=2", "latency=2s", "ttft=-1s"] {
            assert!(
                parse_slo(text).is_err_and(|error| error.contains("accepted")),
                "{text}"
            );
        }
    }
}
