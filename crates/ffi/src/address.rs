//! Addresses.

use std::net::SocketAddr;

use crate::abi::ccoip_socket_address_t;
use crate::boundary::{Failure, Outcome};
use crate::convert::number;

pub(crate) fn socket_addr(address: &ccoip_socket_address_t) -> Outcome<SocketAddr> {
    match number(address.inet.protocol) {
        0 => Ok((address.inet.ipv4.data, address.port).into()),
        1 => Ok((address.inet.ipv6.data, address.port).into()),
        other => Err(Failure::argument(format!(
            "the address's protocol is {other}, neither inetIPv4 nor inetIPv6"
        ))),
    }
}
