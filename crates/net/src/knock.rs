//! Whether datagrams reach the port of heartbeats: a question that everybody may ask, below all security.
//!
//! ```text
//! magic 2, question or answer 1, what the asking side chose 8
//! ```
//!
//! The answer is as long as the question and is never itself answered, so nobody gains by a forged address. It tells
//! nothing but that somebody listens, as accepting a connection does.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const MAGIC: [u8; 2] = [0xa7, 0x7e];
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
const BYTES: usize = 11;
/// How often the question is asked: one datagram may be lost.
const TIMES: u32 = 4;

/// The answer, if this is the question.
pub(crate) fn answer(datagram: &[u8]) -> Option<[u8; BYTES]> {
    let mut out: [u8; BYTES] = datagram.try_into().ok()?;
    if !out.starts_with(&MAGIC) || out[2] != QUESTION {
        return None;
    }
    out[2] = ANSWER;
    Some(out)
}

/// Whether it is the question.
pub(crate) fn is_question(datagram: &[u8]) -> bool {
    answer(datagram).is_some()
}

/// Asks the port of heartbeats at `addr` whether datagrams come there and back, several times within `patience`: the
/// shortest round trip. Blocks.
///
/// # Errors
/// `ConnectionRefused`: that host says that nobody listens; `TimedOut`: nobody said anything.
pub fn knock(addr: SocketAddr, patience: Duration) -> io::Result<Duration> {
    let any: SocketAddr = if addr.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(addr)?;
    let begun = Instant::now();
    let mut best: Option<Duration> = None;
    for turn in 1..=TIMES {
        let sent = Instant::now();
        let mut question = [0; BYTES];
        question[..2].copy_from_slice(&MAGIC);
        question[2] = QUESTION;
        question[3..].copy_from_slice(&u64::from(turn).to_be_bytes());
        socket.send(&question)?;
        let until = patience * turn / TIMES;
        while let Some(left) = until.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            let mut got = [0; 64];
            match socket.recv(&mut got) {
                Ok(n) if is_answer(&question, &got[..n]) => {
                    let took = sent.elapsed();
                    best = Some(best.map_or(took, |best| best.min(took)));
                    break;
                }
                // Another datagram, or a signal.
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                Err(e) => return Err(e),
            }
        }
    }
    best.ok_or_else(|| io::Error::new(io::ErrorKind::TimedOut, "no answer"))
}

fn is_answer(question: &[u8; BYTES], got: &[u8]) -> bool {
    answer(question).is_some_and(|expected| got == expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_never_answered_and_no_longer_than_the_question() {
        let mut question = [0; BYTES];
        question[..2].copy_from_slice(&MAGIC);
        question[2] = QUESTION;
        let said = answer(&question).unwrap();
        assert_eq!((said.len(), answer(&said)), (question.len(), None));
        assert_eq!(answer(&question[..10]), None);
        assert_eq!(answer(b""), None);
    }

    #[test]
    fn nobody_and_somebody_silent_are_told_apart() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let said = knock(silent.local_addr().unwrap(), Duration::from_millis(40)).unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::TimedOut);
        let addr = silent.local_addr().unwrap();
        drop(silent);
        let said = knock(addr, Duration::from_millis(400)).unwrap_err();
        assert_eq!(said.kind(), io::ErrorKind::ConnectionRefused);
    }
}
