//! Go's ways of writing things down, as far as etcdctl's output shows them: `%q`, `--hex`, durations and
//! byte counts. Each function takes a value and gives the text.

use std::{fmt::Write, time::Duration};

/// `%q`: a double-quoted Go string literal. Bytes that are not UTF-8 become `\xNN`.
pub fn quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0b' => out.push_str("\\v"),
                low if low < ' ' || low == '\x7f' => push(&mut out, format_args!("\\x{:02x}", low as u32)),
                char => out.push(char),
            }
        }
        for byte in chunk.invalid() {
            push(&mut out, format_args!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

/// `--hex`: every byte as `\xNN`.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 4);
    for byte in bytes {
        push(&mut out, format_args!("\\x{byte:02x}"));
    }
    out
}

/// `strconv.Unquote` of a double-quoted literal, without the escapes that nobody types (octal, `\u`).
pub fn unquoted(literal: &str) -> Option<Vec<u8>> {
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = Vec::new();
    let mut rest = inner.chars();
    while let Some(char) = rest.next() {
        let plain = match char {
            '\\' => match rest.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'a' => '\x07',
                'b' => '\x08',
                'f' => '\x0c',
                'v' => '\x0b',
                'x' => {
                    let digits: String = rest.by_ref().take(2).collect();
                    out.push(u8::from_str_radix(&digits, 16).ok()?);
                    continue;
                }
                same @ ('\\' | '"') => same,
                _ => return None,
            },
            '"' => return None,
            char => char,
        };
        out.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(out)
}

/// Go's `time.Duration` text: `1.18815ms`, `2.5s`, `1m0s`.
pub fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let with_unit = |unit_nanos: u128, unit: &str| {
        let fraction = format!("{:0width$}", nanos % unit_nanos, width = unit_nanos.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() || unit_nanos == 1 {
            ""
        } else {
            "."
        };
        let fraction = if unit_nanos == 1 { "" } else { fraction };
        format!("{}{dot}{fraction}{unit}", nanos / unit_nanos)
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => with_unit(1, "ns"),
        1_000..1_000_000 => with_unit(1_000, "µs"),
        1_000_000..1_000_000_000 => with_unit(1_000_000, "ms"),
        1_000_000_000..60_000_000_000 => with_unit(1_000_000_000, "s"),
        _ => {
            let seconds = duration.as_secs();
            format!("{}m{}s", seconds / 60, seconds % 60)
        }
    }
}

/// Byte counts in powers of 1000, as go-humanize prints them: `25 kB`, `1.5 MB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    if count < 10 {
        return format!("{count} {unit}");
    }
    for larger in units {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    // go-humanize rounds half up to one decimal before it chooses how many to print.
    let rounded = (value * 10.0 + 0.5).floor() / 10.0;
    if rounded < 10.0 {
        format!("{rounded:.1} {unit}")
    } else {
        format!("{rounded:.0} {unit}")
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_it() {
        assert_eq!(quoted(b"\xff\x01\"<\n"), "\"\\xff\\x01\\\"<\\n\"");
        assert_eq!(hex(b"a1"), "\\x61\\x31");
        assert_eq!(duration(Duration::from_nanos(1_188_150)), "1.18815ms");
        assert_eq!(duration(Duration::from_nanos(999)), "999ns");
        assert_eq!(duration(Duration::from_micros(10)), "10µs");
        assert_eq!(duration(Duration::from_millis(2500)), "2.5s");
        assert_eq!(duration(Duration::from_secs(61)), "1m1s");
        assert_eq!(bytes(24_576), "25 kB");
        assert_eq!(bytes(1_234_567), "1.2 MB");
        assert_eq!(bytes(7), "7 B");
    }

    #[test]
    fn a_literal_comes_back() {
        assert_eq!(unquoted(&quoted(b"a\xff\"\n\x01")).unwrap(), b"a\xff\"\n\x01");
        assert_eq!(unquoted("a"), None);
        assert_eq!(unquoted("\"\\q\""), None);
    }
}
