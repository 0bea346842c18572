//! Byte sizes as people write them: `64MiB`, `4KiB`, `4096`.

use std::{fmt, str::FromStr};

/// A number of bytes, read and written with binary units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ByteSize(pub u64);

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text[digits.len()..].trim();
        let factor = match UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
            Some((_, factor)) => *factor,
            None if unit.is_empty() || unit == "B" => 1,
            None => {
                return Err(format!("unknown unit `{unit}`: use KiB, MiB, GiB, or a plain number of bytes"));
            }
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| format!("`{text}` is no size: expected a whole number and a unit, such as 64MiB"))?;
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("`{text}` is more than fits into 64 bits"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in UNITS {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{name}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units_and_plain_bytes() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("4KiB", 4096),
            ("1GiB", 1 << 30),
            ("4096", 4096),
            ("12B", 12),
            ("4 kib", 4096),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_mean() {
        for (text, hint) in [
            ("64MB", "KiB, MiB, GiB"),
            ("", "such as 64MiB"),
            ("MiB", "such as 64MiB"),
            ("1.5MiB", "such as 64MiB"),
            ("-4", "such as 64MiB"),
            ("99999999999GiB", "64 bits"),
        ] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["64MiB", "4KiB", "1GiB", "1000B", "1025KiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }
}
