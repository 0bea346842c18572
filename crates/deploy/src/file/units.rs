//! Times, rates and shares as people write them.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time: `500ms`, `90s`, `12m`, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// Longest time that makes sense: ten years. Sums of many of them are still times.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// So many seconds as a time, however many: what never happens happens in a hundred thousand years.
pub(crate) fn saturating(seconds: f64) -> Duration {
    const MOST: Duration = Duration::from_secs(100_000 * 365 * 86_400);
    Duration::try_from_secs_f64(seconds.max(0.0)).map_or(MOST, |time| time.min(MOST))
}

/// So many per time: `10/s`, `500/min`, `1000/5min`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How many.
    pub count: f64,
    /// In which time.
    pub per: Duration,
}

/// A count, or a part of a whole: `3`, `10%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Count(u32),
    /// Percent of the whole.
    Percent(u32),
}

impl Time {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// Reads `1h30m`; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a time such as `90s`, `12m` or `1h30m`, found `{text}`");
        let mut rest = text.trim();
        let mut total = 0.0;
        if rest.is_empty() || rest == "0" {
            return if rest == "0" { Ok(Self::default()) } else { Err(wrong()) };
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(|| {
                format!("a time needs a unit, found `{text}`; write `{text}s`, `{text}m` or `{text}h`")
            })?;
            let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            total += number * unit_seconds(&rest[..letters]).ok_or_else(wrong)?;
            rest = rest[letters..].trim_start();
        }
        let time = saturating(total);
        if time > LONGEST {
            return Err(format!("`{text}` is longer than ten years, and no time to wait for"));
        }
        Ok(Self(time))
    }
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ms" => 0.001,
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    })
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (secs, rest) = (millis / 1000, millis % 1000);
        let (hours, minutes, seconds) = (secs / 3600, secs / 60 % 60, secs % 60);
        match (hours, minutes, seconds, rest) {
            (0, 0, 0, _) => write!(f, "{rest}ms"),
            (0, 0, _, 0) => write!(f, "{seconds}s"),
            (0, 0, _, _) => write!(f, "{:.1}s", self.0.as_secs_f64()),
            (0, _, 0, _) => write!(f, "{minutes}m"),
            (0, _, _, _) => write!(f, "{minutes}m{seconds:02}s"),
            (_, 0, 0, _) => write!(f, "{hours}h"),
            _ => write!(f, "{hours}h{minutes:02}m"),
        }
    }
}

impl Rate {
    /// So many each second.
    pub fn per_second(&self) -> f64 {
        self.count / self.per.as_secs_f64()
    }

    /// Reads `10/s`, `500/min`, `1000/5min`; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a rate such as `10/s` or `500/min`, found `{text}`");
        let (count, per) = text.split_once('/').ok_or_else(wrong)?;
        let count: f64 = count.trim().parse().map_err(|_| wrong())?;
        let per = per.trim();
        let per =
            if per.starts_with(|c: char| c.is_ascii_digit()) { per.to_owned() } else { format!("1{per}") };
        let per = Time::parse(&per).map_err(|_| wrong())?.0;
        if count <= 0.0 || !count.is_finite() || per.is_zero() {
            return Err(wrong());
        }
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per.as_secs() {
            1 => write!(f, "{}/s", self.count),
            60 => write!(f, "{}/min", self.count),
            _ => write!(f, "{}/{}", self.count, Time(self.per)),
        }
    }
}

impl Share {
    /// How many that are of `whole`, rounded down.
    pub fn of(self, whole: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percent(percent) => whole * percent as usize / 100,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a count such as `3` or a share such as `10%`, found `{text}`");
        match text.strip_suffix('%') {
            Some(percent) => {
                percent.trim().parse().ok().filter(|p| *p <= 100).map(Self::Percent).ok_or_else(wrong)
            }
            None => text.parse().map(Self::Count).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Reads and writes a unit as its text.
macro_rules! as_text {
    ($name:ident, $expected:literal, $pattern:literal, $example:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                }
                from.deserialize_str(Text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "description": $expected,
                    "type": ["string", "integer"],
                    "pattern": $pattern,
                    "examples": [$example],
                })
            }
        }
    };
}

as_text!(Time, "a time such as `90s` or `1h30m`", "^(0|([0-9.]+ *(ms|s|sec|m|min|h|d) *)+)$", "12m");
as_text!(Rate, "a rate such as `10/s`", "^[0-9.]+ */ *[0-9.]* *(ms|s|sec|m|min|h|d)$", "10/s");
as_text!(Share, "a count such as `3`, or a share such as `10%`", "^[0-9]+%?$", "10%");
