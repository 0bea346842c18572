//! What was measured, as tables.

use std::fmt;

/// One comparison.
#[derive(Debug)]
pub(super) struct Part {
    title: String,
    rows: Vec<(String, f64, String)>,
    bars: Vec<Bar>,
    notes: Vec<String>,
}

/// A figure, and what it may be at most.
#[derive(Debug)]
struct Bar {
    what: String,
    value: f64,
    most: f64,
    unit: &'static str,
}

impl Bar {
    fn holds(&self) -> bool {
        self.value <= self.most
    }
}

impl Part {
    pub(super) fn new(title: String) -> Self {
        Self { title, rows: Vec::new(), bars: Vec::new(), notes: Vec::new() }
    }

    /// A system, its median time, and what else is to be said.
    pub(super) fn row(&mut self, system: &str, seconds: f64, more: &str) {
        self.rows.push((system.to_owned(), seconds, more.to_owned()));
    }

    /// A figure that is promised.
    pub(super) fn bar(&mut self, what: &str, value: f64, most: f64, unit: &'static str) {
        self.bars.push(Bar { what: what.to_owned(), value, most, unit });
    }

    /// A line below.
    pub(super) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Whether every promise is kept.
    pub(super) fn holds(&self) -> bool {
        self.bars.iter().all(Bar::holds)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}", self.title)?;
        let widest = self.rows.iter().map(|(system, ..)| system.len()).max().unwrap_or(0);
        for (system, seconds, more) in &self.rows {
            writeln!(f, "{}", format!("  {system:<widest$}  {seconds:>8.2} s  {more}").trim_end())?;
        }
        for bar in &self.bars {
            let verdict = if bar.holds() { "ok    " } else { "MISSED" };
            let Bar { what, value, most, unit } = bar;
            writeln!(f, "  {verdict} {what}: {value:.2} {unit} (at most {most} {unit})")?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_that_is_broken_is_seen() {
        let mut part = Part::new("work".to_owned());
        part.row("xargs", 2.0, "");
        part.row("pccl deploy", 2.5, "12 refused");
        part.bar("pccl / xargs", 1.25, 1.5, "x");
        assert!(part.holds());
        part.bar("memory", 301.0, 300.0, "MiB");
        assert!(!part.holds());
        let text = part.to_string();
        assert!(text.contains("pccl deploy      2.50 s  12 refused\n"), "{text}");
        assert!(text.contains("ok     pccl / xargs: 1.25 x (at most 1.5 x)\n"), "{text}");
        assert!(text.contains("MISSED memory: 301.00 MiB (at most 300 MiB)\n"), "{text}");
    }
}
