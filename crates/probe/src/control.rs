//! What the hosts of a check say to each other over TCP: length and JSON.

use std::io::{self, ErrorKind, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bandwidth::Carried;
use crate::counters::Moved;
use crate::mtu::Fitting;
use crate::plan::{Settings, Task};
use crate::ports::Reached;
use crate::probing::Probed;
use crate::report::Report;

/// Of this form and of the datagrams.
pub(crate) const VERSION: u32 = 1;
/// A host's word.
pub(crate) const MOST_FROM_HOST: usize = 256 << 10;
/// The word of the place to meet: the report of many hosts.
pub(crate) const MOST_TO_HOST: usize = 32 << 20;

/// A host to the place to meet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromHost {
    Hello { version: u32, host: Described },
    Done { found: Vec<Found>, moved: Vec<Moved> },
}

/// The place to meet to a host.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToHost {
    /// Everybody is there.
    Begin {
        me: usize,
        random: [u8; 32],
        hosts: Vec<Described>,
        settings: Settings,
    },
    /// The next round. `loss_percent`: of the link whose bandwidth is measured.
    Do {
        task: Task,
        loss_percent: f64,
    },
    End {
        report: Box<Report>,
    },
    /// Why nothing comes of it.
    Refuse {
        why: String,
    },
}

/// A host as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Described {
    pub(crate) name: String,
    /// Where others reach it; empty: where its connection comes from, or goes to.
    pub(crate) address: String,
    pub(crate) udp_port: u16,
    /// Ports that it listens on for this check.
    pub(crate) listening: Vec<u16>,
    /// Ports that another program has.
    pub(crate) busy: Vec<u16>,
    /// It stands beside a running fleet.
    pub(crate) running: bool,
}

/// Something measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Found {
    Ports(Reached),
    Probed(Probed),
    ByTcp { to: usize, ms: Option<f64> },
    Mtu(Fitting),
    Bandwidth(Carried),
}

pub(crate) fn say(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    stream.write_all(&bytes)
}

/// The next word of at most `most` bytes.
pub(crate) fn hear<T: DeserializeOwned>(stream: &mut impl Read, most: usize) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(said_no_more)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > most {
        let why = format!("it announces {length} bytes, where {most} are the most: it is no `pccl check`");
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    // Memory is taken as bytes come, not as they are announced.
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(said_no_more(ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&body).map_err(|error| {
        io::Error::new(
            ErrorKind::InvalidData,
            format!("what it says makes no sense ({error}); use the same version of pccl"),
        )
    })
}

/// An end in the middle, in words.
fn said_no_more(error: io::Error) -> io::Error {
    if error.kind() != ErrorKind::UnexpectedEof {
        return error;
    }
    io::Error::new(error.kind(), "it closed the connection: see there why `pccl check` has ended")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let mut bytes = Vec::new();
        say(&mut bytes, &FromHost::Hello { version: VERSION, host: Described::default() }).unwrap();
        let heard: FromHost = hear(&mut &bytes[..], MOST_FROM_HOST).unwrap();
        assert!(matches!(heard, FromHost::Hello { version: VERSION, .. }));
        let cut = hear::<FromHost>(&mut &bytes[..bytes.len() - 1], MOST_FROM_HOST).unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(hear::<FromHost>(&mut &bytes[..], MOST_FROM_HOST).is_err());
        }
    }

    #[test]
    fn a_length_is_no_reason_to_take_memory() {
        let error = hear::<FromHost>(&mut &[0xff_u8; 100][..], MOST_FROM_HOST).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
