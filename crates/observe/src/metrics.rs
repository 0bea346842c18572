//! The figures of a process: what is recorded as it happens, and what sources say when they are asked.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::page::{Page, Sources};
use crate::process;
use crate::source::{Health, Source};
use crate::throughput::Throughput;

/// From a small all-reduce in one rack to gigabytes over the internet, three steps to each power of ten.
const LATENCY_BUCKETS_SECONDS: [f64; 20] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    25.0, 50.0, 100.0, 250.0,
];

/// A handle on the metrics of this process. Clones share the same figures.
///
/// Every method but [`render`](Self::render) is made for the hot path: an atomic operation, and for
/// [`record_op`](Self::record_op) a lock held for a few additions.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let metrics = pccl_observe::Metrics::new();
/// metrics.record_op(Duration::from_millis(12));
/// metrics.add_bytes(1 << 20, 1 << 20, Instant::now());
/// assert!(metrics.render().contains("pccl_collective_latency_count 1\n"));
/// ```
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

/// The parts of the program that have something to show. One that has been dropped is forgotten.
#[derive(Default)]
pub(crate) struct SourceList(Mutex<Vec<Weak<dyn Source>>>);

impl SourceList {
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<dyn Source>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, source: Weak<dyn Source>) {
        let mut all = self.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(source);
    }

    /// Asked without the lock: a source may take its time.
    fn alive(&self) -> Vec<Arc<dyn Source>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn page(&self) -> Page {
        Page::new(self.alive().iter().filter_map(|source| source.sample()))
    }
}

struct Shared {
    registry: Registry,
    sources: Arc<SourceList>,
    latency: Histogram,
    recoveries: Counter,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
    throughput: Throughput,
    throughput_gbps: Gauge<f64, AtomicU64>,
    time: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Metrics that all stand at zero.
    pub fn new() -> Self {
        let latency = Histogram::new(LATENCY_BUCKETS_SECONDS);
        let recoveries = Counter::default();
        let throughput_gbps = Gauge::default();
        let time = Gauge::default();
        let sources = Arc::new(SourceList::default());
        let mut registry = Registry::default();
        // Names are a promise to users' dashboards. No unit is registered with them, because the encoder would
        // append it to the name; a counter gets its `_total` from the encoder.
        registry.register_collector(Box::new(Sources(sources.clone())));
        registry.register_collector(Box::new(process::Own));
        registry.register("pccl_collective_latency", "Operation latency in seconds", latency.clone());
        registry.register(
            "pccl_recovery",
            "Operations that lost a peer and still completed",
            recoveries.clone(),
        );
        let refused = Family::default();
        registry.register(
            "pccl_refused",
            "Connections and heartbeats that were refused, by reason",
            Family::clone(&refused),
        );
        registry.register(
            "pccl_throughput_gbps",
            "Data sent and received by this process over the last 10 s, in 1e9 bits per second",
            throughput_gbps.clone(),
        );
        registry.register(
            "pccl_time_seconds",
            "Time of day on this machine, for finding clocks that are wrong",
            time.clone(),
        );
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("pccl_build", "What runs here", version);
        let throughput = Throughput::new(Instant::now());
        let shared =
            Shared { registry, sources, latency, recoveries, refused, throughput, throughput_gbps, time };
        Self { shared: Arc::new(shared) }
    }

    /// Counts one finished op and the time it took.
    pub fn record_op(&self, latency: Duration) {
        self.shared.latency.observe(latency.as_secs_f64());
    }

    /// Counts one recovery: an op that lost a peer and still completed.
    pub fn record_recovery(&self) {
        self.shared.recoveries.inc();
    }

    /// Counts connections or heartbeats that were refused. There are few reasons; zero makes one appear.
    pub fn add_refused(&self, reason: &'static str, n: u64) {
        self.shared.refused.get_or_create(&[("reason", reason)]).inc_by(n);
    }

    /// Counts bytes that went over the network at `now`. The caller passes the clock because it has just read it.
    pub fn add_bytes(&self, sent: u64, received: u64, now: Instant) {
        self.shared.throughput.add(sent.saturating_add(received), now);
    }

    /// From now on `source` is asked at each scrape, until it is dropped.
    pub fn watch(&self, source: Weak<dyn Source>) {
        self.shared.sources.add(source);
    }

    /// What all sources say of themselves.
    pub(crate) fn health(&self) -> Vec<Health> {
        self.shared.sources.alive().iter().map(|source| source.health()).collect()
    }

    /// The state of all metrics now, as OpenMetrics text.
    pub fn render(&self) -> String {
        self.render_at(Instant::now())
    }

    /// As [`render`](Self::render), with the throughput of the ten seconds before `now`.
    pub fn render_at(&self, now: Instant) -> String {
        self.shared.throughput_gbps.set(self.shared.throughput.gbps(now));
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.shared.time.set(time.as_secs_f64());
        let mut text = String::with_capacity(2048);
        if let Err(fmt::Error) = encode(&mut text, &self.shared.registry) {
            // Writing into a string does not fail. Should the encoder ever refuse a value, a page that ends early
            // is rejected by the scraper; half of it under a proper end would not be.
            text.clear();
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("recoveries", &self.shared.recoveries.get()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(page: &str, series: &str) -> f64 {
        let mut found =
            page.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok());
        let value = found.next().unwrap_or_else(|| panic!("no series `{series}` in:\n{page}"));
        assert_eq!(found.next(), None, "`{series}` appears twice");
        value
    }

    fn assert_near(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-9, "got {got}, want {want}");
    }

    #[test]
    fn all_five_are_there_before_anything_happened() {
        let page = Metrics::new().render();
        for series in [
            "pccl_peer_count",
            "pccl_collective_latency_sum",
            "pccl_collective_latency_count",
            "pccl_recovery_total",
            "pccl_throughput_gbps",
            "pccl_buffer_backup_size",
        ] {
            assert_near(value(&page, series), 0.0);
        }
        for line in [
            "# TYPE pccl_peer_count gauge",
            "# TYPE pccl_collective_latency histogram",
            "# TYPE pccl_recovery counter",
            "# TYPE pccl_throughput_gbps gauge",
            "# TYPE pccl_buffer_backup_size gauge",
        ] {
            assert!(page.lines().any(|l| l == line), "no `{line}` in:\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn latencies_fall_into_cumulative_buckets() {
        let metrics = Metrics::new();
        for ms in [2, 20, 20, 2000] {
            metrics.record_op(Duration::from_millis(ms));
        }
        let page = metrics.render();
        assert_near(value(&page, "pccl_collective_latency_count"), 4.0);
        assert_near(value(&page, "pccl_collective_latency_sum"), 2.042);
        assert_near(value(&page, "pccl_collective_latency_bucket{le=\"0.001\"}"), 0.0);
        assert_near(value(&page, "pccl_collective_latency_bucket{le=\"0.0025\"}"), 1.0);
        assert_near(value(&page, "pccl_collective_latency_bucket{le=\"0.025\"}"), 3.0);
        assert_near(value(&page, "pccl_collective_latency_bucket{le=\"+Inf\"}"), 4.0);
    }

    #[test]
    fn recoveries_are_counted_over_all_clones() {
        let metrics = Metrics::new();
        metrics.clone().record_recovery();
        metrics.record_recovery();
        assert_near(value(&metrics.render(), "pccl_recovery_total"), 2.0);
    }

    #[test]
    fn throughput_counts_both_ways_and_falls_back_to_zero() {
        let metrics = Metrics::new();
        let now = Instant::now() + Duration::from_secs(60);
        metrics.add_bytes(750_000_000, 500_000_000, now);
        assert_near(value(&metrics.render_at(now), "pccl_throughput_gbps"), 1.0);
        let later = now + Duration::from_secs(11);
        assert_near(value(&metrics.render_at(later), "pccl_throughput_gbps"), 0.0);
    }

    #[test]
    fn a_render_beside_four_busy_threads_loses_nothing() {
        let metrics = Metrics::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        metrics.record_op(Duration::from_micros(300));
                        metrics.record_recovery();
                    }
                });
            }
            for _ in 0..20 {
                assert!(metrics.render().ends_with("# EOF\n"));
            }
        });
        let page = metrics.render();
        assert_near(value(&page, "pccl_collective_latency_count"), 20_000.0);
        assert_near(value(&page, "pccl_recovery_total"), 20_000.0);
    }
}
