//! A page of metrics: fetched, and read.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant, SystemTime};

/// No page of metrics is as long.
const MOST_BYTES: u64 = 8 << 20;

/// The first address of `HOST:PORT`.
pub(crate) fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut all = address.to_socket_addrs().map_err(|error| error.to_string())?;
    all.next().ok_or_else(|| "it has no address".to_owned())
}

/// The body of an answer with status 200.
pub(crate) fn fetch(addr: SocketAddr, path: &str, patience: Duration) -> Result<String, String> {
    let say = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused: nobody serves metrics there".to_owned(),
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => {
            format!("no answer within {} ms", patience.as_millis())
        }
        _ => error.to_string(),
    };
    let deadline = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&addr, patience).map_err(say)?;
    stream.set_write_timeout(Some(patience)).map_err(say)?;
    // The older protocol ends its answer by closing, and has no chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: pccl\r\n\r\n").map_err(say)?;
    let mut bytes = Vec::new();
    let mut some = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no answer within {} ms", patience.as_millis()));
        }
        stream.set_read_timeout(Some(left)).map_err(say)?;
        match stream.read(&mut some).map_err(say)? {
            0 => break,
            n => bytes.extend_from_slice(&some[..n]),
        }
        if bytes.len() as u64 > MOST_BYTES {
            return Err("its answer has no end".to_owned());
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| "its answer is no text".to_owned())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("what answers speaks no HTTP")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(format!("it says `{}`", head.lines().next().unwrap_or_default())),
    }
}

/// A page at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// When the question was sent.
    pub(crate) at: Instant,
    /// Between question and answer.
    pub(crate) took: Duration,
    /// Time of day half-way between, seconds since 1970.
    pub(crate) middle_s: f64,
    series: Vec<Series>,
}

#[derive(Clone, Debug, PartialEq)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Page {
    pub(crate) fn fetch(addr: SocketAddr, patience: Duration) -> Result<Self, String> {
        let at = Instant::now();
        let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let body = fetch(addr, "/metrics", patience)?;
        let took = at.elapsed();
        let series: Vec<Series> = body.lines().filter_map(read_line).collect();
        if !series.iter().any(|one| one.name.starts_with("pccl_")) {
            return Err("it is no process of pccl: its page has nothing of ours".to_owned());
        }
        Ok(Self { at, took, middle_s: (before + took / 2).as_secs_f64(), series })
    }

    /// A value without labels, or the sum of those with labels.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        let mut all = self.of(name).map(|one| one.value).peekable();
        all.peek()?;
        Some(all.sum())
    }

    /// The largest value of a name.
    pub(crate) fn max(&self, name: &str) -> Option<f64> {
        self.of(name).map(|one| one.value).reduce(f64::max)
    }

    /// The smallest value of a name.
    pub(crate) fn min(&self, name: &str) -> Option<f64> {
        self.of(name).map(|one| one.value).reduce(f64::min)
    }

    /// Values by a label; those of other labels are added up.
    pub(crate) fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut all = BTreeMap::new();
        for one in self.of(name) {
            if let Some(key) = one.labels.get(label) {
                *all.entry(key.clone()).or_insert(0.0) += one.value;
            }
        }
        all
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |one| one.name == name)
    }
}

/// `name{label="value",…} 1.5`, as our own processes write it.
fn read_line(line: &str) -> Option<Series> {
    if line.starts_with('#') {
        return None;
    }
    let (name, labels, rest) = if let Some((name, rest)) = line.split_once('{') {
        let (labels, rest) = read_labels(rest)?;
        (name, labels, rest)
    } else {
        let (name, rest) = line.split_once(' ')?;
        (name, BTreeMap::new(), rest)
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Series { name: name.to_owned(), labels, value })
}

/// Labels up to the closing bracket, and what follows it.
fn read_labels(text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.trim_start_matches(',').split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_forms_are_read() {
        let one = read_line("pccl_link_up{group=\"0\",peer=\"[::1]:7118\"} 1.0").unwrap();
        assert_eq!((one.name.as_str(), one.labels["peer"].as_str()), ("pccl_link_up", "[::1]:7118"));
        assert!((one.value - 1.0).abs() < 1e-9);
        let odd = read_line("x{a=\"1,\\\"2}\",b=\"\"} 3e2 1700000000").unwrap();
        assert_eq!((odd.labels["a"].as_str(), odd.labels["b"].as_str()), ("1,\"2}", ""));
        assert!((odd.value - 300.0).abs() < 1e-9);
        assert!((read_line("pccl_recovery_total 7").unwrap().value - 7.0).abs() < 1e-9);
        for nonsense in ["# TYPE x gauge", "", "x", "x{a=\"1\" 3", "x{a} 3", "x y"] {
            assert_eq!(read_line(nonsense), None, "{nonsense}");
        }
    }
}
