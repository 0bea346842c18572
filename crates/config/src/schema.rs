//! Every key of the configuration, as data: what exists, what it may hold, which variable overrides it.

use super::values::{LogLevel, Recovery, Role, StoreKind};

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// A whole number.
    Number {
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// `true` or `false`.
    Bool,
    /// One of these names, in upper or lower case.
    Choice(&'static [&'static str]),
    /// Text.
    Text,
    /// The path of a file.
    Path,
    /// One host or a list, each with or without a port.
    Hosts,
    /// One host with or without a port.
    Host,
    /// One network or a list of them.
    Networks,
    /// `first-last`, or one port.
    Ports,
    /// `:port`, `host:port` or `off`.
    Address,
    /// Text that is never shown.
    Secret,
    /// Modules, each with one of these names: a section, or `module=name` with commas between.
    Levels(&'static [&'static str]),
    /// Names of certificates, each with peer groups: a section, or `name=0,1` with semicolons between.
    Groups,
}

/// One key of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Key {
    /// Dotted path: `network.tls.cert_file`.
    pub path: &'static str,
    /// What it may hold.
    pub kind: KeyKind,
    /// The unit of a number: `ms`, `bytes`, `steps`, `MB`.
    pub unit: Option<&'static str>,
    /// The default as it would stand in the file; empty for none.
    pub default: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// A second, shorter environment variable.
    pub short_variable: Option<&'static str>,
    /// True if it is set at the master and holds for every peer of the run.
    pub run_wide: bool,
    /// True if a running `pccl master` or `pccl worker` takes a new value when it gets SIGHUP.
    pub reloads: bool,
}

impl Key {
    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    const fn short(mut self, variable: &'static str) -> Self {
        self.short_variable = Some(variable);
        self
    }

    const fn run_wide(mut self) -> Self {
        self.run_wide = true;
        self
    }

    const fn reloads(mut self) -> Self {
        self.reloads = true;
        self
    }

    /// The environment variable that overrides it: `PCCL_NETWORK__TLS__CERT_FILE`.
    pub fn variable(&self) -> String {
        format!("PCCL_{}", self.path.replace('.', "__").to_ascii_uppercase())
    }

    /// All variables that override it, the long one first.
    pub fn variables(&self) -> Vec<String> {
        let long = self.variable();
        let short = self.short_variable.filter(|short| *short != long).map(str::to_owned);
        std::iter::once(long).chain(short).collect()
    }

    /// True if its value is never shown.
    pub fn is_secret(&self) -> bool {
        self.kind == KeyKind::Secret
    }
}

const fn key(path: &'static str, kind: KeyKind, default: &'static str, about: &'static str) -> Key {
    Key { path, kind, unit: None, default, about, short_variable: None, run_wide: false, reloads: false }
}

const fn number(path: &'static str, min: u64, max: u64, default: &'static str, about: &'static str) -> Key {
    key(path, KeyKind::Number { min, max }, default, about)
}

const fn flag(path: &'static str, default: &'static str, about: &'static str) -> Key {
    key(path, KeyKind::Bool, default, about)
}

const fn choice(
    path: &'static str,
    names: &'static [&'static str],
    default: &'static str,
    about: &'static str,
) -> Key {
    key(path, KeyKind::Choice(names), default, about)
}

/// One day.
const DAY_MS: u64 = 86_400_000;

static KEYS: &[Key] = &[
    choice("role", Role::NAMES, "", "What `pccl` is where the command line names no command.").short("PCCL_ROLE"),
    number("peer_group", 0, u32::MAX as u64, "0", "The peers that reduce together."),
    key("network.master_host", KeyKind::Hosts, "", "Where the masters are: one host or a list.")
        .short("PCCL_MASTER"),
    number(
        "network.master_port",
        1,
        65_535,
        "7117",
        "TCP and heartbeat port of a master; of a host in master_host unless it names its own.",
    ),
    number("network.heartbeat_interval_ms", 10, 60_000, "100", "Time between two heartbeats.")
        .unit("ms")
        .run_wide(),
    number(
        "network.heartbeat_timeout_ms",
        20,
        600_000,
        "500",
        "Silence after which a peer is dead; at least two intervals.",
    )
    .unit("ms")
    .run_wide(),
    number(
        "network.master_timeout_ms",
        100,
        DAY_MS,
        "60000",
        "How long a peer waits for a master before it settles.",
    )
    .unit("ms"),
    key(
        "network.p2p_ports",
        KeyKind::Ports,
        "7118-7150",
        "Peer-to-peer TCP ports; the first free one is taken.",
    ),
    key(
        "network.advertise_address",
        KeyKind::Host,
        "",
        "The IP address that others connect to (NAT, port mapping), with a port if it is another than here; of a master, what it tells other masters and peers.",
    ),
    key(
        "network.bind_address",
        KeyKind::Text,
        "",
        "The local IP address to use, or the name of the interface that has it (`eth0`), which may be the same on all machines.",
    ),
    key("network.site", KeyKind::Text, "", "The name of the place; peers of one site are near each other.")
        .short("PCCL_SITE"),
    key(
        "network.allowed_networks",
        KeyKind::Networks,
        "",
        "Networks that connections and heartbeats are taken from; everywhere if none is given.",
    )
    .reloads(),
    flag(
        "network.tls.enabled",
        "false",
        "TLS on every TCP connection; true if a certificate is given and this is not.",
    ),
    key("network.tls.cert_file", KeyKind::Path, "", "This process's certificate chain (PEM)."),
    key("network.tls.key_file", KeyKind::Path, "", "The certificate's private key (PEM)."),
    key(
        "network.tls.ca_file",
        KeyKind::Path,
        "",
        "Authorities that every other side's certificate must come from (PEM).",
    ),
    key(
        "network.tls.groups",
        KeyKind::Groups,
        "",
        "At a master: the peer groups that a certificate may join, by its DNS name (`*.` for one label) or IP address; every group if this is not given.",
    )
    .reloads(),
    flag(
        "auth.enabled",
        "false",
        "Authenticate every connection; true if a secret is given and this is not.",
    ),
    key("auth.secret", KeyKind::Secret, "", "The secret that all processes of the run share.")
        .short("PCCL_AUTH_SECRET"),
    key("auth.secret_file", KeyKind::Path, "", "A file that holds the secret, instead."),
    flag("fault_tolerance.enable_buffer_backup", "true", "Keep what restores an input until commit.")
        .run_wide(),
    number(
        "fault_tolerance.checkpoint_interval_steps",
        0,
        u32::MAX as u64,
        "100",
        "Steps between checkpoints; 0 = only those asked for.",
    )
    .unit("steps"),
    key(
        "fault_tolerance.checkpoint_url",
        KeyKind::Text,
        "",
        "Where checkpoints are written: a directory that all peers see, s3://…, az://… or gs://….",
    )
    .short("PCCL_CHECKPOINTS"),
    number(
        "fault_tolerance.checkpoint_keep",
        1,
        1_000_000,
        "3",
        "Complete checkpoints of a peer group that are kept.",
    ),
    number(
        "fault_tolerance.max_recovery_attempts",
        0,
        1000,
        "3",
        "How often an op that lost a peer is tried again.",
    )
    .run_wide(),
    choice(
        "fault_tolerance.recovery",
        Recovery::NAMES,
        "in_call",
        "Who starts an op again that lost a peer.",
    )
    .run_wide(),
    number(
        "fault_tolerance.op_timeout_ms",
        0,
        7 * DAY_MS,
        "0",
        "When an op that waits for living peers ends; 0 = never.",
    )
    .unit("ms")
    .run_wide(),
    number(
        "performance.ring_chunk_size",
        4096,
        1 << 28,
        "4194304",
        "Size of the pieces that run around a ring.",
    )
    .unit("bytes")
    .run_wide(),
    number("performance.num_io_threads", 1, 256, "4", "Threads that move bytes."),
    flag(
        "performance.enable_compression",
        "false",
        "Send sums and averages of floats of 1 MiB and more as int8 blocks, and what that takes away with the next op of the tag. Lossy. A call's own setting wins.",
    )
    .run_wide(),
    choice("logging.level", LogLevel::NAMES, "INFO", "What is logged: this level and all graver ones.")
        .short("PCCL_LOG_LEVEL")
        .reloads(),
    key(
        "logging.levels",
        KeyKind::Levels(LogLevel::NAMES),
        "",
        "Levels of single modules, for instance `{ net: DEBUG, security: WARN }`.",
    )
    .reloads(),
    key("logging.file", KeyKind::Path, "", "Log to this file as JSON lines too."),
    number("logging.max_size_mb", 1, 1_048_576, "100", "Size at which the log file is rotated.").unit("MB"),
    key(
        "metrics.address",
        KeyKind::Address,
        ":9090",
        "Where metrics and health are served; off in a program without it.",
    )
    .short("PCCL_METRICS_ADDRESS"),
    choice("store.kind", StoreKind::NAMES, "embedded", "Where the master keeps its state."),
    key("store.url", KeyKind::Secret, "", "Address of the postgres or etcd store, with its credentials."),
    key(
        "store.path",
        KeyKind::Path,
        "",
        "File of the embedded store; the master chooses one if it is not given.",
    ),
    number(
        "store.lease_ms",
        100,
        60_000,
        "1500",
        "How long the active master may act without renewing its lease.",
    )
    .unit("ms"),
];

/// Every key, in the order of the file.
pub fn schema() -> &'static [Key] {
    KEYS
}

/// The key with this path; the reader asks for existing ones only.
pub(super) fn find(path: &str) -> &'static Key {
    match KEYS.iter().find(|key| key.path == path) {
        Some(key) => key,
        None => unreachable!("{path} is not in the schema"),
    }
}

/// The names that may stand directly under `section` (empty for the top), in order and each once.
pub(super) fn names_in(section: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    for key in KEYS {
        let rest = match section {
            "" => Some(key.path),
            _ => key.path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')),
        };
        let name = rest.and_then(|rest| rest.split('.').next());
        if let Some(name) = name.filter(|name| !names.contains(name)) {
            names.push(name);
        }
    }
    names
}

/// True if `path` is a section, not a key.
pub(super) fn is_section(path: &str) -> bool {
    !names_in(path).is_empty()
}

/// True if `name` is at the top of the file and nothing under it is a secret.
pub(super) fn is_public_section(name: &str) -> bool {
    names_in("").contains(&name)
        && !KEYS.iter().any(|key| key.is_secret() && key.path.split('.').next() == Some(name))
}

/// What a person most likely meant by `name` in `section`.
pub(super) fn suggestion(section: &str, name: &str) -> String {
    let known = names_in(section);
    let lower = name.to_ascii_lowercase().replace('-', "_");
    let distance = |known: &str| strsim::osa_distance(known, &lower);
    let near = known.iter().map(|&known| (distance(known), known)).min();
    if let Some((_, known)) = near.filter(|&(distance, known)| distance <= (known.len() / 3).max(1)) {
        return format!("did you mean `{known}`?");
    }
    match KEYS.iter().find(|key| key.path.rsplit('.').next() == Some(lower.as_str())) {
        Some(key) => format!("did you mean `{}`?", key.path),
        None if section.is_empty() => format!("known at the top: {}", known.join(", ")),
        None => format!("known in `{section}`: {}", known.join(", ")),
    }
}
