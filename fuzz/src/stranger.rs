//! The two ends of one guarded connection: an input says how its bytes are cut, spoiled and mixed with others.
//!
//! What one end gives out as the other's words must be the other's words, from the first on, whatever lay between them.

use std::net::SocketAddr;
use std::sync::OnceLock;

use pccl_net::{Channel, Security, SecurityOptions, SharedSecret, TlsFiles};

use crate::input::Input;

struct End {
    channel: Channel,
    /// What it has sealed.
    said: Vec<u8>,
    /// How much of what the other one sealed it has opened.
    heard: usize,
    /// On its way here.
    bytes: Vec<u8>,
    refused: bool,
}

fn ends() -> &'static [Security; 3] {
    static ENDS: OnceLock<[Security; 3]> = OnceLock::new();
    ENDS.get_or_init(|| {
        let secret = || Some(SharedSecret::new(b"a secret of the targets"));
        let tls = || Some(certificate());
        let made = [(None, secret()), (tls(), None), (tls(), secret())].map(|(tls, secret)| {
            Security::new(SecurityOptions { tls, secret, ..SecurityOptions::default() })
        });
        made.map(|security| security.expect("the files have just been written"))
    })
}

fn certificate() -> TlsFiles {
    let folder = tempfile::tempdir().expect("a folder for a certificate").keep();
    let made = rcgen::generate_simple_self_signed(vec!["10.0.0.1".to_owned()]).expect("a certificate");
    let (cert, key) = (folder.join("own.crt"), folder.join("own.key"));
    std::fs::write(&cert, made.cert.pem()).expect("a place for the certificate");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a place for its key");
    TlsFiles { ca: Some(cert.clone()), cert, key }
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let security = &ends()[input.below(3)];
    let addr: SocketAddr = ([10, 0, 0, 1], 7117).into();
    let (Ok(dialing), Ok(accepting)) = (Channel::dialing(security, addr), Channel::accepting(security))
    else {
        return;
    };
    let end = |channel| End { channel, said: Vec::new(), heard: 0, bytes: Vec::new(), refused: false };
    let mut ends = [end(dialing), end(accepting)];
    while !input.is_empty() {
        let side = input.below(2);
        match input.byte() % 8 {
            0..=2 => carry(&mut ends, side, usize::from(input.short()).max(1)),
            3 => {
                let bytes = input.some_bytes();
                ends[side].bytes.extend_from_slice(bytes);
            }
            4 => {
                let (at, with) = (usize::from(input.short()), input.byte());
                let here = &mut ends[side].bytes;
                if let Some(byte) = here.len().checked_sub(1).map(|last| &mut here[at % (last + 1)]) {
                    *byte ^= with;
                }
            }
            5 => drop(ends[side].bytes.pop()),
            6 => say(&mut ends[side], input.some_bytes()),
            _ => ends[side].channel.seal_close(),
        }
    }
    for _ in 0..20 {
        carry(&mut ends, 0, usize::MAX);
        carry(&mut ends, 1, usize::MAX);
    }
}

fn say(end: &mut End, bytes: &[u8]) {
    if end.channel.is_open() && !bytes.is_empty() && !end.refused {
        let n = end.channel.seal(&[bytes]).expect("an open channel seals");
        end.said.extend_from_slice(&bytes[..n]);
    }
}

/// What the other end wants to write is on its way, and some of it arrives at `side`.
fn carry(ends: &mut [End; 2], side: usize, most: usize) {
    while ends[1 - side].channel.has_outgoing() {
        let other = &mut ends[1 - side].channel;
        let written: Vec<u8> = other.outgoing().to_vec();
        other.written(written.len());
        ends[side].bytes.extend_from_slice(&written);
    }
    let mut left = most.min(ends[side].bytes.len());
    while left > 0 && !ends[side].refused {
        let end = &mut ends[side];
        let room = end.channel.room();
        assert!(!room.is_empty(), "there is always room for more");
        let n = left.min(room.len());
        room[..n].copy_from_slice(&end.bytes[..n]);
        end.bytes.drain(..n);
        left -= n;
        end.refused = end.channel.received(n).is_err();
        hear(ends, side);
    }
}

/// Takes what can be opened.
fn hear(ends: &mut [End; 2], side: usize) {
    let (first, second) = ends.split_at_mut(1);
    let (end, other) = if side == 0 { (&mut first[0], &second[0]) } else { (&mut second[0], &first[0]) };
    let mut memory = vec![0; 20 << 10];
    while !end.refused && end.channel.is_open() {
        // Straight into memory where that is large enough, in place where it is not.
        let room = end.heard % 3 * (10 << 10);
        match end.channel.open_into(&mut memory[..room]) {
            Ok(None) => {}
            Ok(Some(n)) => {
                let theirs = other.said.get(end.heard..end.heard + n);
                assert_eq!(theirs, Some(&memory[..n]), "words that the other end has not said");
                end.heard += n;
                continue;
            }
            Err(_) => {
                end.refused = true;
                return;
            }
        }
        match end.channel.plain() {
            Ok([]) => return,
            Ok(plain) => {
                let n = plain.len();
                let theirs = other.said.get(end.heard..end.heard + n);
                assert_eq!(theirs, Some(plain), "words that the other end has not said");
                end.heard += n;
                end.channel.take(n);
            }
            Err(_) => end.refused = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise every input would look at handshakes that fail.
    #[test]
    fn ends_that_nobody_disturbs_hear_each_other() {
        for security in ends() {
            let addr: SocketAddr = ([10, 0, 0, 1], 7117).into();
            let channels = [Channel::dialing(security, addr), Channel::accepting(security)];
            let mut ends = channels.map(|channel| End {
                channel: channel.unwrap_or_else(|why| panic!("{why}")),
                said: Vec::new(),
                heard: 0,
                bytes: Vec::new(),
                refused: false,
            });
            for round in 0..20 {
                carry(&mut ends, 0, usize::MAX);
                carry(&mut ends, 1, usize::MAX);
                if round == 10 {
                    say(&mut ends[0], b"from the one that dials");
                    say(&mut ends[1], b"from the other one");
                }
            }
            assert_eq!((ends[0].heard, ends[1].heard), (18, 23));
        }
    }
}
