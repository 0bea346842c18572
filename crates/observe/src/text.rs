//! The two text formats that scrapers read.

use std::collections::BTreeSet;

/// Content type of OpenMetrics text.
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the older Prometheus text.
pub(crate) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    OpenMetrics,
    Prometheus,
}

/// The format that a scraper's `Accept` headers ask for: OpenMetrics if they name it with no less weight than plain
/// text, else the one that people and old scrapers can read.
pub(crate) fn wanted<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
    let (mut open, mut plain) = (0.0, 0.0);
    for range in accept.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f64>().ok()).unwrap_or(1.0);
        match kind.as_str() {
            "application/openmetrics-text" => open = weight,
            "text/plain" => plain = weight,
            _ => {}
        }
    }
    if open > 0.0 && open >= plain { Format::OpenMetrics } else { Format::Prometheus }
}

/// OpenMetrics text in the older form: a counter's family has the name of its series, units and the end are comments
/// that nobody knows.
pub(crate) fn to_prometheus(open: &str) -> String {
    let counters: BTreeSet<&str> =
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let infos: BTreeSet<&str> =
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" info")).collect();
    let mut out = String::with_capacity(open.len() + 256);
    for line in open.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let head = ["# HELP ", "# TYPE "].into_iter().find_map(|head| Some((head, line.strip_prefix(head)?)));
        match head.and_then(|(head, rest)| Some((head, rest.split_once(' ')?))) {
            Some((head, (name, rest))) if counters.contains(name) => {
                out.extend([head, name, "_total ", rest]);
            }
            Some((head, (name, rest))) if infos.contains(name) => {
                let rest = if head == "# TYPE " { "gauge" } else { rest };
                out.extend([head, name, "_info ", rest]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_is_asked_for() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.8,*/*;q=0.1",
                Format::Prometheus,
            ),
            (
                "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text;q=0", Format::Prometheus),
        ] {
            assert_eq!(wanted([accept].into_iter()), format, "{accept}");
        }
    }

    #[test]
    fn counters_and_infos_get_the_names_of_their_series() {
        let open = "# HELP a Things.\n# TYPE a counter\na_total 3\n# HELP b What.\n# TYPE b info\n\
                    b_info{v=\"1\"} 1\n# HELP c C.\n# TYPE c gauge\n# UNIT c seconds\nc 1\n# EOF\n";
        let text = "# HELP a_total Things.\n# TYPE a_total counter\na_total 3\n# HELP b_info What.\n\
                    # TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c C.\n# TYPE c gauge\nc 1\n";
        assert_eq!(to_prometheus(open), text);
    }
}
