//! `/metrics`, `/healthz` and `/readyz`, answered by a thread of its own.
//!
//! The thread runs a small `hyper` server: nothing here is on the way of an op. Strangers are bounded: so many
//! connections, so much header, so much time.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::metrics::Metrics;
use crate::text;

/// The environment variable that gives a program with the library an address for its metrics.
pub const ADDRESS_VARIABLE: &str = "PCCL_METRICS_ADDRESS";

/// Scrapers and probes are few; beyond that the oldest connection is closed, so that nobody keeps them out.
const MOST_CONNECTIONS: usize = 64;
/// How long a request's header may take to come, also the next one on the same connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const HEADER_BYTES: usize = 16 * 1024;

/// A listening address as users write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an address; none for all.
    pub host: Option<String>,
    /// The port; 0 for any free one.
    pub port: u16,
}

impl Address {
    /// From `:9090`, `host:9090`, `[::1]:9090`; none for `off` or nothing at all.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let text = text.trim();
        if text.is_empty() || text.eq_ignore_ascii_case("off") {
            return Ok(None);
        }
        let refuse = || format!("`{text}` is no address for metrics: write `:9090`, `host:9090` or `off`");
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().map_err(|_| refuse())?;
        Ok(Some(Self { host: (!host.is_empty()).then(|| host.to_owned()), port }))
    }
}

/// Metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The port is not free, or the address not ours.
    #[error(
        "failed to serve metrics on {address}: {source}; another process may use the port (see `ss -ltnp`)"
    )]
    Listen {
        /// What was asked for.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses a thread or an event queue.
    #[error("failed to serve metrics: {0}; check the limits of this process (`ulimit -a`)")]
    System(#[source] io::Error),
}

/// A server of metrics. It stops when it is dropped.
#[derive(Debug)]
pub struct Serving {
    addr: SocketAddr,
    socket: RawFd,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Serves `metrics` on a port (0 for any free one) of `host`, or of all addresses.
    pub fn start(host: Option<&str>, port: u16, metrics: Metrics) -> Result<Self, ServeError> {
        let listener = listen(host, port).map_err(|source| ServeError::Listen {
            address: format!("{}:{port}", host.unwrap_or_default()),
            source,
        })?;
        let addr = listener.local_addr().map_err(ServeError::System)?;
        let socket = listener.as_raw_fd();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(ServeError::System)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("pccl-metrics".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(listener, metrics) => {}
                        _ = stopped => {}
                    }
                });
            })
            .map_err(ServeError::System)?;
        Ok(Self { addr, socket, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been said on standard error; the program goes on without metrics.
            let _ = thread.join();
        }
    }
}

/// The metrics that this process serves on an address, for as long as it lives: all communicators of a program share
/// them. The first call listens. Metrics, address, and the listening socket, which stays open as long.
pub fn endpoint(host: Option<&str>, port: u16) -> Result<(Metrics, SocketAddr, RawFd), ServeError> {
    type Known = BTreeMap<(Option<String>, u16), (Metrics, Serving)>;
    static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (host.map(str::to_owned), port);
    if let Some((metrics, serving)) = known.get(&key) {
        return Ok((metrics.clone(), serving.addr(), serving.socket));
    }
    let metrics = Metrics::new();
    let serving = Serving::start(host, port, metrics.clone())?;
    let (addr, socket) = (serving.addr(), serving.socket);
    known.insert(key, (metrics.clone(), serving));
    Ok((metrics, addr, socket))
}

/// All addresses: of both families where the system has both.
fn listen(host: Option<&str>, port: u16) -> io::Result<TcpListener> {
    let listener = match host {
        None => {
            TcpListener::bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)).or_else(|error| {
                if error.kind() == io::ErrorKind::AddrInUse {
                    return Err(error);
                }
                TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
            })?
        }
        Some(host) => {
            let addresses: Vec<SocketAddr> =
                (host.trim_matches(['[', ']']), port).to_socket_addrs()?.collect();
            TcpListener::bind(&addresses[..])?
        }
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(listener: TcpListener, metrics: Metrics) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("failed to serve metrics: {error}");
            return;
        }
    };
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others need the processor to give some back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        while open.len() >= MOST_CONNECTIONS {
            if let Some(oldest) = open.pop_front() {
                oldest.abort();
            }
        }
        let metrics = metrics.clone();
        let connection = tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &metrics);
                async move { Ok::<_, Infallible>(response) }
            });
            // How a stranger's connection ended is of no interest.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(HEADER_BYTES)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        open.push_back(connection.abort_handle());
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<String> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => page(request, metrics),
        "/healthz" => alive(metrics),
        "/readyz" => ready(metrics),
        "/debug/flight" => plain(StatusCode::OK, crate::flight::text("asked over HTTP")),
        _ => plain(
            StatusCode::NOT_FOUND,
            "/metrics, /healthz, /readyz and /debug/flight are here\n".to_owned(),
        ),
    }
}

fn page(request: &Request<Incoming>, metrics: &Metrics) -> Response<String> {
    let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (kind, body) = match text::wanted(accept) {
        text::Format::OpenMetrics => (text::OPEN_METRICS, metrics.render()),
        text::Format::Prometheus => (text::PROMETHEUS, text::to_prometheus(&metrics.render())),
    };
    let mut response = plain(StatusCode::OK, body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn alive(metrics: &Metrics) -> Response<String> {
    let dead: Vec<String> = metrics.health().into_iter().filter_map(|health| health.alive.err()).collect();
    if dead.is_empty() {
        return plain(StatusCode::OK, "ok\n".to_owned());
    }
    plain(StatusCode::SERVICE_UNAVAILABLE, dead.join("\n") + "\n")
}

fn ready(metrics: &Metrics) -> Response<String> {
    let mut all = true;
    let mut body = String::new();
    let health = metrics.health();
    if health.is_empty() {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "not ready: nothing has started yet\n".to_owned());
    }
    for health in health {
        let line = match health.alive.and(health.ready) {
            Ok(how) => format!("ready: {how}"),
            Err(why) => {
                all = false;
                format!("not ready: {why}")
            }
        };
        let _ = writeln!(body, "{line}");
    }
    plain(if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

fn plain(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use std::sync::Arc;

    use super::*;
    use crate::source::{Health, PeerSample, Sample, Source};

    struct Peer(Health);

    impl Source for Peer {
        fn sample(&self) -> Option<Sample> {
            Some(Sample::Peer(PeerSample { peers: 4, backup_bytes: 7, ..PeerSample::default() }))
        }

        fn health(&self) -> Health {
            self.0.clone()
        }
    }

    fn ask(addr: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, addr.port())).unwrap();
        write!(stream, "{head}\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn serving(health: Health) -> (Serving, Arc<dyn Source>) {
        let metrics = Metrics::new();
        let source: Arc<dyn Source> = Arc::new(Peer(health));
        metrics.watch(Arc::downgrade(&source));
        (Serving::start(Some("127.0.0.1"), 0, metrics).unwrap(), source)
    }

    #[test]
    fn both_formats_are_served_as_asked() {
        let (serving, _source) =
            serving(Health { alive: Ok(()), ready: Ok("a member of epoch 1".to_owned()) });
        let prometheus = ask(serving.addr(), "GET /metrics HTTP/1.1");
        assert!(prometheus.contains("text/plain; version=0.0.4"), "{prometheus}");
        assert!(prometheus.contains("# TYPE pccl_recovery_total counter"), "{prometheus}");
        assert!(prometheus.contains("pccl_peer_count 4\n") || prometheus.contains("pccl_peer_count 4.0\n"));
        assert!(!prometheus.contains("# EOF"));
        let accept =
            "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        let open = ask(serving.addr(), accept);
        assert!(open.contains("application/openmetrics-text; version=1.0.0"), "{open}");
        assert!(
            open.contains("# TYPE pccl_recovery counter") && open.trim_end().ends_with("# EOF"),
            "{open}"
        );
    }

    #[test]
    fn health_tells_alive_from_ready_and_says_why_not() {
        let why = Err("no master answers".to_owned());
        let (serving, source) = serving(Health { alive: Ok(()), ready: why });
        assert!(ask(serving.addr(), "GET /healthz HTTP/1.1").starts_with("HTTP/1.1 200"));
        let ready = ask(serving.addr(), "GET /readyz HTTP/1.1");
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("no master answers"), "{ready}");
        drop(source);
        let gone = ask(serving.addr(), "GET /readyz HTTP/1.1");
        assert!(gone.contains("nothing has started yet"), "{gone}");
    }

    #[test]
    fn what_is_not_there_is_refused_and_the_port_is_free_afterwards() {
        let (serving, _source) = serving(Health { alive: Ok(()), ready: Ok(String::new()) });
        assert!(ask(serving.addr(), "GET / HTTP/1.1").starts_with("HTTP/1.1 404"));
        assert!(ask(serving.addr(), "POST /metrics HTTP/1.1").starts_with("HTTP/1.1 405"));
        let taken = Serving::start(Some("127.0.0.1"), serving.addr().port(), Metrics::new()).unwrap_err();
        assert!(taken.to_string().contains(&serving.addr().port().to_string()), "{taken}");
        let addr = serving.addr();
        drop(serving);
        assert!(Serving::start(Some("127.0.0.1"), addr.port(), Metrics::new()).is_ok());
    }

    #[test]
    fn silent_strangers_do_not_keep_a_scraper_out() {
        let (serving, _source) = serving(Health { alive: Ok(()), ready: Ok(String::new()) });
        let silent: Vec<_> =
            (0..3 * MOST_CONNECTIONS).map(|_| TcpStream::connect(serving.addr()).unwrap()).collect();
        assert!(ask(serving.addr(), "GET /healthz HTTP/1.1").starts_with("HTTP/1.1 200"));
        drop(silent);
    }
}
