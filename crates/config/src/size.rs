//! Byte sizes as people write them: `64MiB`, `4KiB`, `4096`; lists and doubling ranges of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes, read and written with binary units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text[digits.len()..].trim();
        let factor = match UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
            Some((_, factor)) => *factor,
            None if unit.is_empty() || unit.eq_ignore_ascii_case("b") => 1,
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
        let exact = UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let text = match exact {
            Some((name, factor)) => format!("{}{name}", self.0 / factor),
            None => format!("{}B", self.0),
        };
        f.pad(&text)
    }
}

/// Sizes on a command line: `4KiB,64MiB`, or every doubling in `4KiB..256MiB`, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteSizes(pub Vec<ByteSize>);

impl FromStr for ByteSizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut sizes = Vec::new();
        for part in text.split(',') {
            match part.split_once("..") {
                Some((from, to)) => sizes.extend(doublings(from.parse()?, to.parse()?)?),
                None => sizes.push(part.parse()?),
            }
        }
        Ok(Self(sizes))
    }
}

fn doublings(from: ByteSize, to: ByteSize) -> Result<Vec<ByteSize>, String> {
    if from.0 == 0 || from > to {
        return Err(format!(
            "`{from}..{to}` has no sizes: it must begin above zero and not end before it begins"
        ));
    }
    let next = |size: &u64| size.checked_mul(2).filter(|next| *next <= to.0);
    Ok(std::iter::successors(Some(from.0), next).map(ByteSize).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units_and_plain_bytes() {
        let sizes = [
            ("64MiB", 64 << 20),
            ("4KiB", 4096),
            ("1GiB", 1 << 30),
            ("4096", 4096),
            ("12B", 12),
            ("4 kib", 4096),
        ];
        for (text, bytes) in sizes {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_mean() {
        let refused = [
            ("64MB", "KiB, MiB, GiB"),
            ("", "such as 64MiB"),
            ("MiB", "such as 64MiB"),
            ("1.5MiB", "such as 64MiB"),
            ("-4", "such as 64MiB"),
            ("99999999999GiB", "64 bits"),
        ];
        for (text, hint) in refused {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["64MiB", "4KiB", "1GiB", "1000B", "1025KiB", "0B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_range_doubles() {
        let texts = |list: &str| -> Vec<String> {
            let sizes: ByteSizes = list.parse().unwrap();
            sizes.0.iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts("4KiB..32KiB"), ["4KiB", "8KiB", "16KiB", "32KiB"]);
        assert_eq!(texts("3KiB..7KiB,1MiB"), ["3KiB", "6KiB", "1MiB"]);
        assert!("8KiB..4KiB".parse::<ByteSizes>().unwrap_err().contains("8KiB..4KiB"));
        assert!("0..4KiB".parse::<ByteSizes>().is_err());
    }
}
