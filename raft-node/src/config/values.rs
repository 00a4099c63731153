//! Numbers and durations as flags spell them, which is as Go spells them.
//!
//! Only the texts are judged here; which values go together is judged in `checks`.

use std::time::Duration;

/// Reads a whole number.
pub fn whole(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(number) => Ok(number),
        Err(_) if !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) => {
            Err("value out of range".to_owned())
        }
        Err(_) => Err("a whole number is needed".to_owned()),
    }
}

/// Reads a number of bytes that may be negative.
pub fn signed(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| "a whole number is needed, negative or not".to_owned())
}

/// Reads a duration such as `10m`, `1h30m`, `1.5s` or `100ms`; a bare `0` is zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration such as 10m, 1h30m or 500ms is needed".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        seconds += number * unit_seconds(unit).ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| "value out of range".to_owned())
}

/// Reads `--auto-compaction-retention`: without a unit the number counts hours; zero switches compaction off.
pub fn retention(text: &str) -> Result<Option<Duration>, String> {
    let retention = match text.parse::<u64>() {
        Ok(hours) => Duration::from_secs(hours.checked_mul(3600).ok_or("value out of range")?),
        Err(_) => duration(text)?,
    };
    Ok((!retention.is_zero()).then_some(retention))
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_reads_them() {
        let cases = [
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1500),
            ("100ms", 100),
            ("0", 0),
            ("0s", 0),
        ];
        for (text, ms) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "h", "1x", "-1s", "1h5", "1..5s", "1e400h", ".s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_retention_without_unit_counts_hours() {
        assert_eq!(retention("2"), Ok(Some(Duration::from_hours(2))));
        assert_eq!(retention("5m"), Ok(Some(Duration::from_mins(5))));
        assert_eq!(retention("0"), Ok(None));
        assert!(retention("soon").is_err());
        assert!(retention("18446744073709551615").is_err());
    }
}
