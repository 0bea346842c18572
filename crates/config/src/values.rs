//! The types of single settings.

use core::net::{IpAddr, Ipv6Addr};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// The longest name of a network interface, in bytes (`IFNAMSIZ` of Linux, less its final zero).
const MAX_INTERFACE: usize = 15;

/// A value that must not be seen: `Debug`, `Display` and `Serialize` print `***`.
///
/// It has no `PartialEq`, so that no authentication check can be written with a comparison that leaks time.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for those who need it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A part of the program whose log has a level of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogModule {
    /// What the configuration calls it.
    pub name: &'static str,
    /// What it says in the log.
    pub about: &'static str,
    /// What its events call themselves.
    targets: &'static [&'static str],
}

/// The parts, in order.
pub const LOG_MODULES: &[LogModule] = &[
    LogModule {
        name: "checkpoint",
        about: "writing, reading and removing checkpoints",
        targets: &["pccl::checkpoint"],
    },
    LogModule { name: "flight", about: "where flight records were written", targets: &["pccl::flight"] },
    LogModule {
        name: "master",
        about: "membership, leadership, what a master decides and why",
        targets: &["pccl::master", "pccl_master"],
    },
    LogModule { name: "metrics", about: "where metrics are served", targets: &["pccl::metrics"] },
    LogModule { name: "net", about: "connections and their faults", targets: &["pccl_net"] },
    LogModule { name: "peer", about: "what a peer joins, loses and waits for", targets: &["pccl::peer"] },
    LogModule {
        name: "security",
        about: "who was refused and why; new certificates",
        targets: &["pccl::security"],
    },
];

impl LogModule {
    /// The part with this name; the error says what there is.
    pub(crate) fn find(name: &str) -> Result<&'static Self, String> {
        let lower = name.to_ascii_lowercase();
        if let Some(module) = LOG_MODULES.iter().find(|module| module.name == lower) {
            return Ok(module);
        }
        let names: Vec<_> = LOG_MODULES.iter().map(|module| module.name).collect();
        Err(format!("must name modules out of {}", names.join(", ")))
    }
}

/// Levels of modules, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogLevels(pub BTreeMap<&'static str, LogLevel>);

/// As its variable has it: `net=DEBUG,security=WARN`; none without any.
impl Serialize for LogLevels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all: Vec<_> = self.0.iter().map(|(name, level)| format!("{name}={level}")).collect();
        (!all.is_empty()).then(|| all.join(",")).serialize(serializer)
    }
}

/// Peer groups by the names of certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedGroups(pub BTreeMap<String, BTreeSet<u32>>);

/// As its variable has it: `a.example.com=0,1;*.b.example.com=2`; none without any.
impl Serialize for NamedGroups {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let list =
            |groups: &BTreeSet<u32>| groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let all: Vec<_> = self.0.iter().map(|(name, groups)| format!("{name}={}", list(groups))).collect();
        (!all.is_empty()).then(|| all.join(";")).serialize(serializer)
    }
}

/// The name of a certificate, as names are compared: a DNS name in lower case, the first label of which may be `*`, or an
/// IP address. The error says what is wrong with it.
pub(crate) fn certificate_name(name: &str) -> Result<String, &'static str> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let rest = name.strip_prefix("*.").unwrap_or(name);
    // Four numbers that are no address are no name either.
    let numeric = rest.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if rest.len() <= 253 && !numeric && rest.split('.').all(label) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err("must have DNS names (`*` only for the whole first label) or IP addresses of certificates")
    }
}

impl LogLevels {
    /// As `tracing` understands it, behind the level of all others: `info,pccl_net=debug`.
    pub fn directives(&self, level: LogLevel) -> String {
        let mut all = vec![level.name().to_ascii_lowercase()];
        for (name, level) in &self.0 {
            let module = LOG_MODULES.iter().find(|module| module.name == *name);
            let level = level.name().to_ascii_lowercase();
            let targets = module.map_or(&[][..], |module| module.targets);
            all.extend(targets.iter().map(|target| format!("{target}={level}")));
        }
        all.join(",")
    }
}

/// A host name or address with a port that may be left out: `master`, `10.0.0.7:7117`, `::1`, `[::1]:7117`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// TCP or UDP port, where one is given.
    pub port: Option<u16>,
}

/// The local address to use, or the interface that has it: `10.0.0.7`, `eth0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindAddress {
    /// This address.
    Ip(IpAddr),
    /// The address that the interface has when it is used.
    Interface(String),
}

/// TCP ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// The ports in rising order.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

/// Where to listen: `:9090` is every address of the machine; port 0 lets the system choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// One address or name, or none for all.
    pub host: Option<String>,
    /// TCP port.
    pub port: u16,
}

/// Where metrics are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MetricsAddress {
    /// Not given: [`ListenAddress::METRICS`] in `pccl master` and `pccl worker`, off in a user's program.
    #[default]
    Unset,
    /// `off`: nowhere.
    Off,
    /// Given.
    At(ListenAddress),
}

impl ListenAddress {
    /// The port where `pccl master` and `pccl worker` serve metrics unless told otherwise: `:9090`.
    pub const METRICS: Self = Self { host: None, port: 9090 };
}

impl MetricsAddress {
    /// Where `pccl master` and `pccl worker` serve metrics.
    pub fn for_program(&self) -> Option<ListenAddress> {
        match self {
            Self::Unset => Some(ListenAddress::METRICS),
            Self::Off => None,
            Self::At(address) => Some(address.clone()),
        }
    }

    /// Where the library in a user's program serves metrics: only where the user said so.
    pub fn for_library(&self) -> Option<ListenAddress> {
        match self {
            Self::Unset | Self::Off => None,
            Self::At(address) => Some(address.clone()),
        }
    }
}

/// Declares an enum whose values have names in the configuration.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// The names that the configuration knows, in order.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The value with this name; upper and lower case are alike.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $(_ if name.eq_ignore_ascii_case($text) => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name that the configuration uses.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

choice! {
    /// What a process is.
    Role {
        /// The coordination service.
        Master = "master",
        /// A master that waits for the lease.
        Standby = "standby",
        /// A peer.
        Worker = "worker",
    }
}

choice! {
    /// Who starts an op again that lost a peer.
    Recovery {
        /// The call itself, up to `max_recovery_attempts` times.
        InsideCall = "in_call",
        /// The caller: the call returns an error with the input restored.
        ByCaller = "by_caller",
    }
}

choice! {
    /// How much is logged: this level and all graver ones.
    LogLevel {
        /// What somebody must look at.
        Error = "ERROR",
        /// What somebody should know.
        Warn = "WARN",
        /// What an operator follows.
        Info = "INFO",
        /// What a developer follows.
        Debug = "DEBUG",
        /// Everything.
        Trace = "TRACE",
    }
}

choice! {
    /// Where the master keeps its state.
    StoreKind {
        /// In memory only: a restart of the master ends the run.
        Memory = "memory",
        /// In a file of its own.
        Embedded = "embedded",
        /// In a PostgreSQL database.
        Postgres = "postgres",
        /// In an etcd cluster.
        Etcd = "etcd",
    }
}

impl HostPort {
    /// A name that a certificate is for, as others would call its holder: a host without a port, `*.` before it or not.
    ///
    /// # Errors
    /// Nobody could call a host so; the text completes "failed to understand the name".
    pub fn certificate_name(text: &str) -> Result<String, String> {
        let (any, host) = text.strip_prefix("*.").map_or(("", text), |host| ("*.", host));
        match Self::parse(host) {
            Err(why) => Err(format!("`{text}`: it {why}")),
            Ok(at) if at.port.is_some() => Err(format!("`{text}`: it has a port")),
            Ok(at) => Ok(format!("{any}{}", at.host)),
        }
    }

    /// Reads `host`, `host:port`, an IPv6 address, or `[address]:port`; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix('[') {
            let (host, tail) = rest.split_once(']').ok_or("has `[` without `]`")?;
            host.parse::<Ipv6Addr>().map_err(|_| "has no IPv6 address between `[` and `]`")?;
            let port = match tail.strip_prefix(':') {
                Some(port) => Some(parse_port(port)?),
                None if tail.is_empty() => None,
                None => return Err("has something other than a port after `]`".to_owned()),
            };
            return Ok(Self { host: host.to_owned(), port });
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(Self { host: text.to_owned(), port: None });
        }
        if text.contains("://") {
            return Err("must be a host, not a URL".to_owned());
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        check_host(host)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.contains(':'), self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
            (false, Some(port)) => write!(f, "{}:{port}", self.host),
            (_, None) => f.write_str(&self.host),
        }
    }
}

impl PortRange {
    /// Reads `7118-7150` or one port; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (parse_port(first.trim())?, parse_port(last.trim())?);
        if first > last {
            return Err("must not end below its beginning".to_owned());
        }
        Ok(Self { first, last })
    }
}

impl BindAddress {
    /// Reads an IP address or the name of an interface; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        // Addresses with a slip of the pen shall not pass for names.
        let is_name = text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '/' | ':'))
            && text.chars().any(|c| c.is_ascii_alphabetic());
        if is_name && text.len() <= MAX_INTERFACE {
            Ok(Self::Interface(text.to_owned()))
        } else {
            Err("must be an IP address of this machine or the name of one of its interfaces, see `ip address`".into())
        }
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl ListenAddress {
    /// Reads `:port`, `host:port` or `[address]:port`; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(port) = text.strip_prefix(':') {
            if let Ok(port) = port.parse() {
                return Ok(Self { host: None, port });
            }
        } else if let Some(host) = text.strip_suffix(":0") {
            if let HostPort { host, port: None } = HostPort::parse(host)? {
                return Ok(Self { host: Some(host), port: 0 });
            }
        } else if let HostPort { host, port: Some(port) } = HostPort::parse(text)? {
            return Ok(Self { host: Some(host), port });
        }
        Err("must be `:port` or `host:port`".to_owned())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{}", HostPort { host: host.clone(), port: Some(self.port) }),
            None => write!(f, ":{}", self.port),
        }
    }
}

impl MetricsAddress {
    /// Reads `off` or a [`ListenAddress`]; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        ListenAddress::parse(text).map(Self::At).map_err(|why| format!("{why}, or `off`"))
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => write!(f, "{}", ListenAddress::METRICS),
            Self::Off => f.write_str("off"),
            Self::At(address) => write!(f, "{address}"),
        }
    }
}

macro_rules! serialize_as_text {
    ($($name:ident),+) => { $(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+ };
}
serialize_as_text!(BindAddress, HostPort, PortRange, ListenAddress, MetricsAddress);

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err("must have ports from 1 to 65535".to_owned()),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '%');
    if host.is_empty() {
        Err("must not be empty".to_owned())
    } else if host.len() > 253 {
        Err("is longer than a host name can be (253 bytes)".to_owned())
    } else if !host.chars().all(allowed) {
        Err("has characters that no host name has".to_owned())
    } else {
        Ok(())
    }
}
