//! The row that every system's program prints for one measurement, one JSON object on a line.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// One measurement of one system. Fields that are not named here are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    /// World size.
    pub(super) peers: u32,
    /// Size of one peer's buffer.
    pub(super) bytes: u64,
    /// What the program says it ran.
    #[serde(default)]
    pub(super) algorithm: String,
    /// Timed calls.
    pub(super) iters: u64,
    /// Median time of a call.
    pub(super) median_s: f64,
    /// 99th percentile of the calls.
    pub p99_s: f64,
    /// Elements of the result that were not the sum.
    pub(super) wrong: u64,
    /// The largest peer's peak memory.
    #[serde(default)]
    pub(super) max_rss_bytes: u64,
}

/// The rows among a program's output lines; a line that does not start with `{` is a log line.
pub(super) fn parse(output: &str) -> Result<Vec<Row>> {
    output
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with('{'))
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("cannot read this result row: {line}"))
        })
        .collect()
}

/// One row out of those of `expected` processes. An operation is as slow as its slowest peer.
pub(super) fn fold(rows: &[Row], peers: u32, bytes: u64, expected: usize) -> Result<Row> {
    let mine: Vec<&Row> = rows.iter().filter(|row| row.peers == peers && row.bytes == bytes).collect();
    let Some((first, others)) = mine.split_first() else {
        bail!("printed no result row for {peers} peers and {bytes} bytes");
    };
    ensure!(mine.len() == expected, "printed {} result rows where {expected} were expected", mine.len());
    let mut folded = (*first).clone();
    for row in others {
        folded.median_s = folded.median_s.max(row.median_s);
        folded.p99_s = folded.p99_s.max(row.p99_s);
        folded.wrong += row.wrong;
        folded.max_rss_bytes = folded.max_rss_bytes.max(row.max_rss_bytes);
    }
    ensure!(
        folded.median_s.is_finite() && folded.median_s > 0.0,
        "printed a median of {} s, which is no time",
        folded.median_s
    );
    Ok(folded)
}

/// The middle of `values`, or the mean of the two in the middle; `None` when there are none.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"peers":2,"bytes":4096,"dtype":"f32","op":"sum","algorithm":"direct","iters":10,
        "median_s":0.001,"p99_s":0.002,"algbw_gbs":1.0,"busbw_gbs":1.0,"wrong":0,"max_rss_bytes":4096,"new":[1]}"#;

    fn line() -> String {
        LINE.replace('\n', "")
    }

    #[test]
    fn reads_rows_between_log_lines_and_ignores_new_fields() {
        let output = format!("[WARN] {{not a row}}\n{}\n\n  {}\n", line(), line());
        let rows = parse(&output).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].algorithm, "direct");
        assert_eq!(rows[0].max_rss_bytes, 4096);
    }

    #[test]
    fn a_row_without_a_verdict_on_its_result_is_an_error_that_shows_the_line() {
        let error = parse(&line().replace("\"wrong\":0,", "")).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("wrong") && text.contains("median_s"), "{text}");
    }

    #[test]
    fn folds_to_the_slowest_peer_and_adds_wrong_elements() {
        let slow = line().replace("0.001", "0.003").replace("\"wrong\":0", "\"wrong\":7");
        let rows = parse(&format!("{}\n{slow}", line())).unwrap();
        let row = fold(&rows, 2, 4096, 2).unwrap();
        assert!((row.median_s - 0.003).abs() < 1e-12);
        assert_eq!(row.wrong, 7);
    }

    #[test]
    fn a_missing_row_is_an_error() {
        let rows = parse(&line()).unwrap();
        assert!(fold(&rows, 2, 4096, 2).unwrap_err().to_string().contains("1 result rows where 2"));
        assert!(fold(&rows, 4, 4096, 1).unwrap_err().to_string().contains("no result row for 4 peers"));
    }

    #[test]
    fn a_time_of_zero_is_no_time() {
        let rows = parse(&line().replace("0.001", "0")).unwrap();
        assert!(fold(&rows, 2, 4096, 1).is_err());
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
