//! The addresses of this machine's network interfaces.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

/// An interface's address cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// No interface has this name.
    #[error("this machine has no interface `{name}`; it has {}", found.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// What is there, as `eth0 (10.0.0.7)`.
        found: Vec<String>,
    },
    /// The interface is there, and has no address that others could connect to.
    #[error("the interface `{name}` has no IP address; see `ip address show {name}`")]
    NoAddress {
        /// The name.
        name: String,
    },
    /// The system does not tell.
    #[error("the system does not tell its interfaces: {0}")]
    System(#[from] io::Error),
}

/// The address of the interface `name` now: its first IPv4 address, else its first IPv6 address that needs no scope.
///
/// # Errors
/// There is no such interface, or it has no such address.
pub fn interface_ip(name: &str) -> Result<IpAddr, InterfaceError> {
    let all = interfaces()?;
    match all.get(name) {
        Some(addresses) => best(addresses).ok_or_else(|| InterfaceError::NoAddress { name: name.to_owned() }),
        None => {
            Err(InterfaceError::Unknown { name: name.to_owned(), found: all.iter().map(shown).collect() })
        }
    }
}

fn interfaces() -> Result<BTreeMap<String, Vec<IpAddr>>, InterfaceError> {
    let mut all: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for one in getifaddrs().map_err(io::Error::from)? {
        let addresses = all.entry(one.interface_name).or_default();
        let Some(address) = one.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            addresses.push(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.push(v6.ip().into());
        }
    }
    Ok(all)
}

fn best(addresses: &[IpAddr]) -> Option<IpAddr> {
    let usable = |ip: &&IpAddr| match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    addresses.iter().filter(usable).min_by_key(|ip| ip.is_ipv6()).copied()
}

fn shown((name, addresses): (&String, &Vec<IpAddr>)) -> String {
    best(addresses).map_or_else(|| name.clone(), |ip| format!("{name} ({ip})"))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn an_interface_has_an_address_and_a_missing_one_is_named() {
        let (name, addresses) = interfaces().unwrap().into_iter().find(|(_, a)| best(a).is_some()).unwrap();
        let ip = interface_ip(&name).unwrap();
        assert!(addresses.contains(&ip));
        std::net::TcpListener::bind((ip, 0)).unwrap();
        let error = interface_ip("none-such").unwrap_err().to_string();
        assert!(error.contains("`none-such`") && error.contains(&format!("{name} ({ip})")), "{error}");
    }

    #[test]
    fn addresses_that_need_no_scope_and_the_fourth_version_come_first() {
        let link_local: IpAddr = "fe80::1".parse().unwrap();
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(best(&[link_local]), None);
        assert_eq!(best(&[link_local, v6]), Some(v6));
        assert_eq!(best(&[v6, v4]), Some(v4));
    }
}
