//! Tables of text: columns as wide as their widest cell.

/// Rows of cells under a heading. Numbers stand to the right, words to the left.
pub struct Table {
    rows: Vec<Vec<String>>,
    left: Vec<bool>,
}

impl Table {
    /// A table with these column titles; a title that begins with `<` makes a column of words.
    pub fn new(titles: &[&str]) -> Self {
        Self {
            rows: vec![titles.iter().map(|title| title.trim_start_matches('<').to_owned()).collect()],
            left: titles.iter().map(|title| title.starts_with('<')).collect(),
        }
    }

    /// One more row.
    pub fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The whole table, a line each.
    pub fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.left.len()).map(width).collect();
        self.rows.iter().map(|row| aligned(row, &widths, &self.left)).collect()
    }
}

/// One row, its cells padded to `widths`.
fn aligned(row: &[String], widths: &[usize], left: &[bool]) -> String {
    let cells = row.iter().zip(widths).zip(left).map(|((cell, width), left)| {
        if *left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// A time with three figures: `12.3 µs`, `4.56 ms`, `1.20 s`.
pub fn seconds(value: f64) -> String {
    let (scaled, unit) = if value < 1e-3 {
        (value * 1e6, "µs")
    } else if value < 1.0 {
        (value * 1e3, "ms")
    } else {
        (value, "s")
    };
    let digits = if scaled < 10.0 { 2 } else { usize::from(scaled < 100.0) };
    format!("{scaled:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["size", "<name"]);
        table.push(["4KiB".to_owned(), "a".to_owned()]);
        table.push(["128MiB".to_owned(), "long".to_owned()]);
        assert_eq!(table.lines(), ["  size  name", "  4KiB  a", "128MiB  long"]);
    }

    #[test]
    fn times_have_three_figures() {
        let times = [(12.34e-6, "12.3 µs"), (4.561e-3, "4.56 ms"), (0.25, "250 ms"), (1.2, "1.20 s")];
        for (value, text) in times {
            assert_eq!(seconds(value), text);
        }
    }
}
