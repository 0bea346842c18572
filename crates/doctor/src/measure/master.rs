//! A master: its name, its addresses, its answers.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use pccl_master::{StatusError, query_status};
use pccl_net::knock;

use super::sockets::{self, ms};
use super::{ExamineOptions, MasterName, certificate};
use crate::observed::{AddressSeen, Answer, MasterSeen, Udp};

/// Longest wait for a datagram: the round trip of a bad network, and then some.
const UDP_PATIENCE: Duration = Duration::from_millis(1500);

pub(super) fn look(master: &MasterName, options: &ExamineOptions) -> MasterSeen {
    let found = (master.host.as_str(), master.port).to_socket_addrs();
    let (addresses, unresolved) = match found.map(Iterator::collect::<Vec<SocketAddr>>) {
        Ok(all) if all.is_empty() => (all, Some("the name has no address".to_owned())),
        Ok(all) => (all, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let addresses = addresses.into_iter().map(|addr| address(addr, &master.host, options)).collect();
    MasterSeen { name: master.text.clone(), unresolved, addresses }
}

fn address(addr: SocketAddr, host: &str, options: &ExamineOptions) -> AddressSeen {
    let (connect, stream) = sockets::connect(addr, options.timeout);
    let mut seen =
        AddressSeen { addr, connect, answer: None, certificate: None, udp: Udp::NotTried, holder: None };
    let Some(stream) = stream else { return seen };
    // The connection that was tried is not the one that is asked: it has said nothing, as a port scan does.
    drop(stream);
    if let Some(security) = &options.security {
        security.name_master(addr, host);
    }
    let begun = Instant::now();
    let asked = query_status(addr, options.timeout, options.security.as_ref());
    let took = ms(begun.elapsed());
    seen.answer = Some(match asked {
        Ok(status) => Answer::Status { status: Box::new(status), ms: took },
        Err(StatusError::Version { theirs, .. }) => Answer::Version { theirs },
        Err(StatusError::NotAMaster { what, .. }) => Answer::NotAMaster { what },
        Err(StatusError::Distrust { reason, why, .. }) => Answer::Distrust { reason, why },
        Err(StatusError::Closed { .. }) => Answer::Closed,
        Err(StatusError::TimedOut { .. }) => Answer::Silent { ms: took },
        Err(error) => Answer::Other { why: error.to_string() },
    });
    if matches!(seen.answer, Some(Answer::Distrust { .. } | Answer::Closed)) {
        seen.certificate = certificate::shown(addr, host, options.timeout);
    }
    seen.udp = match knock(addr, UDP_PATIENCE.min(options.timeout)) {
        Ok(rtt) => Udp::Answers { ms: ms(rtt) },
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Udp::Refused,
        Err(_) => Udp::Silent,
    };
    if !matches!(seen.answer, Some(Answer::Status { .. })) && sockets::is_here(addr.ip()) {
        seen.holder = sockets::holder_of(&options.roots, addr.port());
    }
    seen
}
