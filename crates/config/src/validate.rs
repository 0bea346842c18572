//! Reading the sections, and the rules between settings.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Config;
use super::error::{ConfigError, ConfigErrorKind as Kind, Problem};
use super::reader::Reader;
use super::sections::{
    AuthConfig, FaultToleranceConfig, LoggingConfig, NetworkConfig, PerformanceConfig, StoreConfig, TlsConfig,
};
use super::values::{BindAddress, HostPort, LogLevel, PortRange, Recovery, Secret, StoreKind};

/// The shortest shared secret, in bytes.
const MIN_SECRET: usize = 16;
/// The longest site name, in bytes.
const MAX_SITE: usize = 64;

impl NetworkConfig {
    pub(super) fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), ConfigError> {
        reader.list("network.master_host", &mut self.master_host, HostPort::parse)?;
        reader.number("network.master_port", &mut self.master_port)?;
        reader.number("network.heartbeat_interval_ms", &mut self.heartbeat_interval_ms)?;
        reader.number("network.heartbeat_timeout_ms", &mut self.heartbeat_timeout_ms)?;
        reader.number("network.master_timeout_ms", &mut self.master_timeout_ms)?;
        reader.text("network.p2p_ports", &mut self.p2p_ports, PortRange::parse)?;
        reader.text("network.advertise_address", &mut self.advertise_address, reachable)?;
        reader.text("network.bind_address", &mut self.bind_address, |text| {
            BindAddress::parse(text).map(Some)
        })?;
        reader.text("network.site", &mut self.site, name)?;
        reader.list("network.allowed_networks", &mut self.allowed_networks, network)?;
        self.tls.read(reader)
    }

    /// A timeout shorter than two intervals would end a peer for one lost datagram.
    fn check_heartbeat(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let (interval, timeout) = (self.heartbeat_interval_ms, self.heartbeat_timeout_ms);
        if timeout >= interval.saturating_mul(2) {
            return Ok(());
        }
        let message = format!(
            "network.heartbeat_timeout_ms ({timeout}) must be at least twice heartbeat_interval_ms ({interval})"
        );
        let problem = Problem::new(Kind::OutOfRange, message)
            .hint("one lost heartbeat must not end a peer; five intervals are usual");
        let (interval, timeout) = ("network.heartbeat_interval_ms", "network.heartbeat_timeout_ms");
        Err(reader.fail(if reader.is_given(timeout) { timeout } else { interval }, problem))
    }
}

/// An address, with or without a port, that others can connect to.
fn reachable(text: &str) -> Result<Option<HostPort>, String> {
    let at = HostPort::parse(text)?;
    match at.host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => {
            Err("must be one address: this one stands for all of a machine".into())
        }
        Ok(_) => Ok(Some(at)),
        Err(_) => Err("must be an IP address, with or without a port: names are not looked up here".into()),
    }
}

impl TlsConfig {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), ConfigError> {
        reader.text("network.tls.cert_file", &mut self.cert_file, path)?;
        reader.text("network.tls.key_file", &mut self.key_file, path)?;
        reader.text("network.tls.ca_file", &mut self.ca_file, path)?;
        reader.groups("network.tls.groups", &mut self.groups)?;
        self.enabled = self.cert_file.is_some();
        reader.boolean("network.tls.enabled", &mut self.enabled)
    }

    fn validate(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let asked = self.enabled && self.ca_file.is_some();
        if !self.groups.0.is_empty() && !asked {
            let what = if self.enabled { "network.tls.ca_file is not given" } else { "TLS is off" };
            let message = format!(
                "network.tls.groups goes by the certificates that peers show, and none is asked for: {what}"
            );
            let problem = Problem::new(Kind::Missing, message)
                .hint("give cert_file, key_file and ca_file (`pccl cert init` makes an authority), or leave groups out");
            return Err(reader.fail("network.tls.groups", problem));
        }
        if !self.enabled {
            // Whoever gives a part of it, and has not said no, takes the fleet to be guarded.
            let parts = [("network.tls.ca_file", &self.ca_file), ("network.tls.key_file", &self.key_file)];
            let part = parts.iter().find(|(_, part)| part.is_some());
            return match part.filter(|_| !reader.is_given("network.tls.enabled")) {
                None => Ok(()),
                Some((key, _)) => {
                    let message = format!("{key} is given, and TLS is off without network.tls.cert_file");
                    let problem = Problem::new(Kind::Missing, message).hint(
                        "give cert_file and key_file too (`pccl cert issue` makes them), or `enabled: false`",
                    );
                    Err(reader.fail(key, problem))
                }
            };
        }
        let needed = [("network.tls.cert_file", &self.cert_file), ("network.tls.key_file", &self.key_file)];
        for (key, value) in needed {
            if value.is_none() {
                let problem = Problem::new(Kind::Missing, format!("TLS is on and {key} is not given"))
                    .hint("every process listens, so each needs a certificate and its key");
                return Err(missing(reader, key, "network.tls.enabled", "network.tls.cert_file", problem));
            }
        }
        Ok(())
    }
}

impl AuthConfig {
    pub(super) fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), ConfigError> {
        reader.text("auth.secret", &mut self.secret, |text| {
            let long = text.len() >= MIN_SECRET;
            if long {
                Ok(Some(Secret::new(text)))
            } else {
                Err(format!("must have at least {MIN_SECRET} bytes; `openssl rand -hex 32` makes a good one"))
            }
        })?;
        reader.text("auth.secret_file", &mut self.secret_file, path)?;
        self.enabled = self.secret.is_some() || self.secret_file.is_some();
        reader.boolean("auth.enabled", &mut self.enabled)
    }

    fn validate(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        if self.secret.is_some() && self.secret_file.is_some() {
            let problem = Problem::new(Kind::Conflict, "auth.secret and auth.secret_file are both given")
                .hint("give one of them");
            return Err(reader.fail("auth.secret_file", problem));
        }
        if self.enabled && self.secret.is_none() && self.secret_file.is_none() {
            let problem = Problem::new(Kind::Missing, "authentication is on and auth.secret is not given")
                .hint("set PCCL_AUTH_SECRET, or auth.secret_file, to the same secret in every process of the run");
            return Err(missing(reader, "auth.secret", "auth.enabled", "auth.enabled", problem));
        }
        Ok(())
    }
}

impl FaultToleranceConfig {
    pub(super) fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), ConfigError> {
        reader.boolean("fault_tolerance.enable_buffer_backup", &mut self.enable_buffer_backup)?;
        reader.number("fault_tolerance.checkpoint_interval_steps", &mut self.checkpoint_interval_steps)?;
        reader.text("fault_tolerance.checkpoint_url", &mut self.checkpoint_url, path)?;
        reader.number("fault_tolerance.checkpoint_keep", &mut self.checkpoint_keep)?;
        reader.number("fault_tolerance.max_recovery_attempts", &mut self.max_recovery_attempts)?;
        reader.choice("fault_tolerance.recovery", &mut self.recovery, Recovery::from_name)?;
        reader.number("fault_tolerance.op_timeout_ms", &mut self.op_timeout_ms)
    }
}

impl PerformanceConfig {
    pub(super) fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), ConfigError> {
        reader.number("performance.ring_chunk_size", &mut self.ring_chunk_size)?;
        reader.number("performance.num_io_threads", &mut self.num_io_threads)?;
        reader.boolean("performance.enable_compression", &mut self.enable_compression)
    }
}

impl LoggingConfig {
    pub(super) fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), ConfigError> {
        reader.choice("logging.level", &mut self.level, LogLevel::from_name)?;
        reader.levels("logging.levels", &mut self.levels)?;
        reader.text("logging.file", &mut self.file, path)?;
        reader.number("logging.max_size_mb", &mut self.max_size_mb)
    }
}

impl StoreConfig {
    pub(super) fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), ConfigError> {
        reader.choice("store.kind", &mut self.kind, StoreKind::from_name)?;
        reader.text("store.url", &mut self.url, |text| Ok(Some(Secret::new(text.trim()))))?;
        reader.text("store.path", &mut self.path, path)?;
        reader.number("store.lease_ms", &mut self.lease_ms)
    }

    /// Each kind has the address that belongs to it and no other.
    fn validate(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let kind = self.kind;
        let schemes: &[&str] = match kind {
            StoreKind::Memory | StoreKind::Embedded => &[],
            StoreKind::Postgres => &["postgres://", "postgresql://"],
            StoreKind::Etcd => &["http://", "https://"],
        };
        if self.path.is_some() && kind != StoreKind::Embedded {
            let problem =
                Problem::new(Kind::Conflict, format!("store.path is for the embedded store, not for {kind}"));
            return Err(reader.fail("store.path", problem));
        }
        match &self.url {
            Some(_) if schemes.is_empty() => {
                let problem =
                    Problem::new(Kind::Conflict, format!("store.url does not belong to the {kind} store"))
                        .hint("set store.kind to postgres or etcd, or leave store.url out");
                Err(reader.fail("store.url", problem))
            }
            Some(url) if !is_url_list(url.expose(), schemes, kind == StoreKind::Etcd) => {
                let message =
                    format!("store.url of the {kind} store must begin with {}", schemes.join(" or "));
                Err(reader.fail("store.url", Problem::new(Kind::OutOfRange, message)))
            }
            None if !schemes.is_empty() => {
                let problem = Problem::new(Kind::Missing, format!("the {kind} store needs store.url"))
                    .hint(format!("for instance `url: {}…`, or PCCL_STORE__URL", schemes[0]));
                Err(missing(reader, "store.url", "store.kind", "store.kind", problem))
            }
            _ => Ok(()),
        }
    }
}

impl Config {
    pub(super) fn validate(&self, reader: &Reader<'_>) -> Result<(), ConfigError> {
        let network = &self.network;
        let timeout = "network.heartbeat_timeout_ms";
        network.check_heartbeat(reader)?;
        let chunk = self.performance.ring_chunk_size;
        if !chunk.is_multiple_of(8) {
            let message = format!("performance.ring_chunk_size ({chunk}) must be a multiple of 8 bytes");
            let problem = Problem::new(Kind::OutOfRange, message).hint("the largest elements have 8 bytes");
            return Err(reader.fail("performance.ring_chunk_size", problem));
        }
        if network.master_timeout_ms < network.heartbeat_timeout_ms {
            let message = format!(
                "network.master_timeout_ms ({}) must not be shorter than heartbeat_timeout_ms ({})",
                network.master_timeout_ms, network.heartbeat_timeout_ms
            );
            let key = "network.master_timeout_ms";
            let key = if reader.is_given(key) { key } else { timeout };
            return Err(reader.fail(key, Problem::new(Kind::OutOfRange, message)));
        }
        network.tls.validate(reader)?;
        self.auth.validate(reader)?;
        if network.tls.enabled && network.tls.ca_file.is_none() && !self.auth.enabled {
            let message = "TLS is on, and nothing says which peers belong to the run: network.tls.ca_file is not given, \
                           and authentication is off";
            let problem = Problem::new(Kind::Missing, message)
                .hint("give ca_file (`pccl cert init` makes one), or a secret in PCCL_AUTH_SECRET");
            let (because, or) = ("network.tls.enabled", "network.tls.cert_file");
            return Err(missing(reader, "network.tls.ca_file", because, or, problem));
        }
        self.store.validate(reader)
    }
}

/// An error about `key`, which is not given, shown where `because` or else `or` is.
fn missing(reader: &Reader<'_>, key: &str, because: &str, or: &str, problem: Problem) -> ConfigError {
    reader.fail(if reader.is_given(because) { because } else { or }, problem).about(key)
}

fn is_url_list(text: &str, schemes: &[&str], many: bool) -> bool {
    let good = |url: &str| {
        schemes.iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
    };
    if many { text.split(',').all(|url| good(url.trim())) } else { good(text) }
}

/// `10.0.0.0/8`, `2001:db8::/32`, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let one = |_| text.parse::<core::net::IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or_else(one);
    net.map(|net| net.trunc()).map_err(|_| "must be networks such as 10.0.0.0/8 or 2001:db8::/32".to_owned())
}

/// The name of a site or an interface.
fn name(text: &str) -> Result<Option<String>, String> {
    if text.len() > MAX_SITE {
        Err(format!("must not be longer than {MAX_SITE} bytes"))
    } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Err("must not contain blanks".to_owned())
    } else {
        Ok(Some(text.to_owned()))
    }
}

fn path(text: &str) -> Result<Option<String>, String> {
    if text.contains('\0') {
        Err("must not contain a zero byte".to_owned())
    } else {
        Ok(Some(text.to_owned()))
    }
}
