//! What a configuration file and the `PCCL_*` variables say, for programs that are not `pccl` itself.

use std::net::{IpAddr, SocketAddr};

use pccl_config::{BindAddress, Config, HostPort, Recovery as ConfigRecovery, StoreKind};

use crate::options::{Options, Ports};
use crate::{Expectations, Recovery, RunSettings};

/// A configuration that asks for something that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to apply the configuration: {origin}: {why}")]
pub struct ConfiguredError {
    origin: String,
    why: String,
}

pub(crate) fn refuse(config: &Config, key: &str, why: String) -> ConfiguredError {
    ConfiguredError { origin: config.origin(key).to_string(), why }
}

/// Refuses what somebody asked for and would not get: that would be worse than an error.
pub fn check_configuration(config: &Config) -> Result<(), ConfiguredError> {
    match config.store.kind {
        StoreKind::Postgres | StoreKind::Etcd => {
            let key = "store.kind";
            let why = format!("this library cannot do what `{key}` asks for; leave the key out");
            Err(refuse(config, key, why))
        }
        _ => Ok(()),
    }
}

/// The settings of the run that a configuration asks for.
pub fn run_settings(config: &Config) -> RunSettings {
    let (network, faults) = (&config.network, &config.fault_tolerance);
    RunSettings {
        heartbeat_interval_ms: network.heartbeat_interval_ms,
        heartbeat_timeout_ms: network.heartbeat_timeout_ms,
        master_timeout_ms: network.master_timeout_ms,
        enable_buffer_backup: faults.enable_buffer_backup,
        max_recovery_attempts: faults.max_recovery_attempts,
        recovery: match faults.recovery {
            ConfigRecovery::InsideCall => Recovery::InsideCall,
            ConfigRecovery::ByCaller => Recovery::ByCaller,
        },
        ring_chunk_size: config.performance.ring_chunk_size,
        enable_compression: config.performance.enable_compression,
        op_timeout_ms: faults.op_timeout_ms,
        ..RunSettings::default()
    }
}

/// What a peer's configuration says of the run's settings: only what somebody gave.
fn expectations(config: &Config) -> Expectations {
    let run = run_settings(config);
    let (network, faults) = ("network", "fault_tolerance");
    let given = |section: &str, key: &str| config.is_given(&format!("{section}.{key}"));
    Expectations {
        heartbeat_interval_ms: given(network, "heartbeat_interval_ms").then_some(run.heartbeat_interval_ms),
        heartbeat_timeout_ms: given(network, "heartbeat_timeout_ms").then_some(run.heartbeat_timeout_ms),
        enable_buffer_backup: given(faults, "enable_buffer_backup").then_some(run.enable_buffer_backup),
        max_recovery_attempts: given(faults, "max_recovery_attempts").then_some(run.max_recovery_attempts),
        recovery: given(faults, "recovery").then_some(run.recovery),
        ring_chunk_size: given("performance", "ring_chunk_size").then_some(run.ring_chunk_size),
        enable_compression: given("performance", "enable_compression").then_some(run.enable_compression),
    }
}

/// The address that `network.bind_address` stands for now; an interface's is looked up.
///
/// # Errors
/// This machine has no such interface, or the interface has no address.
pub fn bind_ip(config: &Config) -> Result<Option<IpAddr>, ConfiguredError> {
    match &config.network.bind_address {
        None => Ok(None),
        Some(BindAddress::Ip(ip)) => Ok(Some(*ip)),
        Some(BindAddress::Interface(name)) => {
            let key = "network.bind_address";
            pccl_net::interface_ip(name).map(Some).map_err(|why| refuse(config, key, format!("{key}: {why}")))
        }
    }
}

impl Options {
    /// What the configuration says of a peer. `master` (`host:port`) and `group` go before it, if they are given.
    pub fn configured(
        config: &Config,
        master: Option<String>,
        group: Option<u32>,
    ) -> Result<Self, ConfiguredError> {
        check_configuration(config)?;
        let network = &config.network;
        let host_port = |(host, port)| HostPort { host, port: Some(port) }.to_string();
        let masters = match master {
            Some(master) => vec![master],
            None => network.masters().into_iter().map(host_port).collect(),
        };
        let ports = Ports::Range(network.p2p_ports.first..=network.p2p_ports.last);
        let mut options = Self::masters(masters)
            .group(group.unwrap_or(config.peer_group))
            .expects(expectations(config))
            .ports(ports);
        if let Some(site) = &network.site {
            options = options.site(site);
        }
        if let Some(ip) = bind_ip(config)? {
            options = options.bind(ip);
        }
        if let Some(at) = &network.advertise_address {
            let key = "network.advertise_address";
            let why = || refuse(config, key, format!("{key} is `{at}`, which is no IP address"));
            let ip = at.host.parse::<IpAddr>().map_err(|_| why())?;
            options = options.advertise(SocketAddr::new(ip, at.port.unwrap_or_default()));
        }
        if let Some(security) = crate::security::security(config)? {
            options = options.security(security);
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn config(yaml: &str) -> Config {
        Config::from_yaml(yaml, "test.yaml", &|_| None).unwrap()
    }

    #[test]
    fn an_interface_stands_for_its_address() {
        let bound = |text: &str| bind_ip(&config(&format!("network: {{ bind_address: '{text}' }}")));
        assert_eq!(bind_ip(&Config::default()), Ok(None));
        assert_eq!(bound("::1"), Ok(Some(Ipv6Addr::LOCALHOST.into())));
        let name = if cfg!(target_os = "linux") { "lo" } else { "lo0" };
        assert_eq!(bound(name), Ok(Some(Ipv4Addr::LOCALHOST.into())));
        let error = bound("none-such").unwrap_err().to_string();
        assert!(error.contains("test.yaml:1") && error.contains("no interface `none-such`"), "{error}");
    }

    #[test]
    fn what_nobody_gave_is_not_expected() {
        let options = Options::configured(&Config::default(), Some("h:1".into()), None).unwrap();
        assert_eq!(options.expects, Expectations::default());
        let options = Options::configured(
            &config("peer_group: 3\nnetwork: { master_host: [a, 'b:9'], site: x }\nfault_tolerance: { recovery: by_caller }"),
            None,
            None,
        )
        .unwrap();
        assert_eq!(options.masters, ["a:7117", "b:9"]);
        assert_eq!((options.group, options.site.as_str()), (3, "x"));
        assert_eq!(options.expects.recovery, Some(Recovery::ByCaller));
        assert_eq!(options.expects.heartbeat_timeout_ms, None);
        assert_eq!(options.expects.enable_compression, None);
        let compressed = config("performance: { enable_compression: true }");
        assert!(run_settings(&compressed).enable_compression);
        let options = Options::configured(&compressed, None, None).unwrap();
        assert_eq!(options.expects.enable_compression, Some(true));
    }

    #[test]
    fn an_advertised_address_may_leave_the_port_to_the_listener() {
        for (text, port) in [("10.0.0.7", 0), ("10.0.0.7:9000", 9000), ("'2001:db8::7'", 0)] {
            let yaml = format!("network: {{ advertise_address: {text} }}");
            let options = Options::configured(&config(&yaml), Some("h:1".into()), None).unwrap();
            assert_eq!(options.advertise.map(|addr| addr.port()), Some(port), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_its_place() {
        let yaml = "store: { kind: etcd, url: 'http://h:2379' }";
        let refused = Options::configured(&config(yaml), None, None).unwrap_err().to_string();
        assert!(refused.contains("test.yaml"), "{refused}");
    }
}
