//! A master on real sockets, and what the world does to it.

mod client;
mod hostile;
mod life;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::{Server, ServerOptions, StoreChoice};

/// Any port of this machine.
fn options() -> ServerOptions {
    ServerOptions::new(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))
}

fn start() -> Server {
    Server::start(options()).unwrap()
}

/// As [`options`], with the state in a file of `dir`.
fn embedded(dir: &Path) -> ServerOptions {
    ServerOptions { store: StoreChoice::Embedded(dir.join("master.state")), ..options() }
}
