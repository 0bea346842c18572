//! A small HTTP server on a thread of its own: it answers questions, and nothing waits for it.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;

use axum::Router;

use crate::failure::DeployError;

/// `ADDRESS:PORT` or `:PORT`, which is on loopback: what is served here asks nobody who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpAddress {
    host: String,
    port: u16,
}

impl FromStr for TcpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is no address: write `:9091`, `127.0.0.1:9091` or `0.0.0.0:9091`");
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().map_err(|_| refuse())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Self { host: if host.is_empty() { "127.0.0.1".to_owned() } else { host.to_owned() }, port })
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A port that is ours already.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: TcpListener,
    pub(crate) addr: SocketAddr,
}

impl Listener {
    pub(crate) fn bind(address: &TcpAddress) -> Result<Self, DeployError> {
        let bound = (address.host.as_str(), address.port)
            .to_socket_addrs()
            .and_then(|found| TcpListener::bind(&found.collect::<Vec<_>>()[..]))
            .and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(Self { addr: listener.local_addr()?, listener })
            });
        bound.map_err(|error| DeployError::Listen { address: address.to_string(), why: error.to_string() })
    }

    /// Whether others than this machine can ask.
    pub(crate) fn is_open(&self) -> bool {
        match self.addr.ip() {
            IpAddr::V4(ip) => !ip.is_loopback(),
            IpAddr::V6(ip) => !ip.is_loopback(),
        }
    }

    /// Answers until the process ends.
    pub(crate) fn run(self, routes: Router) -> Result<(), DeployError> {
        let fail = |e: std::io::Error| DeployError::System(format!("failed to serve on {}: {e}", self.addr));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener).map_err(fail)?;
            axum::serve(listener, routes).await.map_err(fail)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_on_loopback_unless_they_say_otherwise() {
        let parsed = |text: &str| text.parse::<TcpAddress>().map(|address| address.to_string());
        assert_eq!(parsed(":9091").unwrap(), "127.0.0.1:9091");
        assert_eq!(parsed("0.0.0.0:0").unwrap(), "0.0.0.0:0");
        assert_eq!(parsed("[::1]:80").unwrap(), "::1:80");
        assert!(parsed("9091").unwrap_err().contains("`:9091`"));
    }
}
