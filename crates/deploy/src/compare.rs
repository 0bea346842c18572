//! Comparisons as checks write them: `">= 32"`.

use std::fmt;

/// An operator and a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    operator: Operator,
    number: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessEqual,
    Equal,
    NotEqual,
    GreaterEqual,
    Greater,
}

const OPERATORS: [(&str, Operator); 7] = [
    (">=", Operator::GreaterEqual),
    ("<=", Operator::LessEqual),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("=", Operator::Equal),
];

impl Comparison {
    /// Reads `>= 32`, `== 1`, `< 0.01`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (sign, operator) = OPERATORS.into_iter().find(|(sign, _)| text.starts_with(sign))?;
        let number = text[sign.len()..].trim().parse().ok()?;
        Some(Self { operator, number })
    }

    /// Whether it holds for a value. Nothing holds for a value that is no number.
    #[expect(clippy::float_cmp, reason = "the operator asks for exact equality, as PromQL's does")]
    pub fn holds(self, value: f64) -> bool {
        match self.operator {
            Operator::Less => value < self.number,
            Operator::LessEqual => value <= self.number,
            Operator::Equal => value == self.number,
            Operator::NotEqual => !value.is_nan() && value != self.number,
            Operator::GreaterEqual => value >= self.number,
            Operator::Greater => value > self.number,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign =
            OPERATORS.iter().find(|(_, operator)| *operator == self.operator).map_or("", |(sign, _)| sign);
        write!(f, "{sign} {}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_read_and_hold() {
        let holds = |text: &str, value| Comparison::parse(text).unwrap().holds(value);
        assert!(holds(">= 32", 32.0) && !holds(">= 32", 31.0));
        assert!(holds("==1", 1.0) && holds("!= 1", 2.0) && holds("<0.01", 0.0) && holds("> -1", 0.0));
        assert!(!holds("!= 1", f64::NAN) && !holds(">= 0", f64::NAN));
        assert_eq!(Comparison::parse("32"), None);
        assert_eq!(Comparison::parse(">= many"), None);
        assert_eq!(Comparison::parse(">=3").unwrap().to_string(), ">= 3");
    }
}
