//! Who has the shared secret: a challenge both ways, below the protocol, before anything else is said.
//!
//! ```text
//! dialing side   ► hello   kind, nonce C
//! accepting side ◄ answer  kind, nonce S, HMAC(secret, "answer" C S binding)
//! dialing side   ► proof   kind, HMAC(secret, "proof" C S binding)
//! ```
//!
//! The binding is of the TLS channel, so that who stands between two connections cannot pass the answers on. Without TLS
//! it is empty, and the keys of the codes on all that follows are made from both nonces and the secret.

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use super::handshake::Binding;
use super::refused::{Reason, Refused};

/// The first bytes of each message, and the version of the challenge.
const MAGIC: [u8; 3] = [0xa7, 0x7c, 1];
const HELLO: u8 = 1;
const ANSWER: u8 = 2;
const PROOF: u8 = 3;
const REFUSED: u8 = 4;
const HEADER: usize = 4;
const NONCE: usize = 32;
const CODE: usize = 32;

type Nonce = [u8; NONCE];

/// The secret that all processes of a run share. It is never shown.
#[derive(Clone)]
pub struct SharedSecret(hmac::Key);

impl SharedSecret {
    /// From its bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// A key for one purpose and one random number.
    pub(super) fn derive(&self, purpose: &str, random: &[u8; 32]) -> [u8; 32] {
        let text = [b"pccl derived key 1: ", purpose.as_bytes(), &[0], random].concat();
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.0, &text).as_ref());
        out
    }
}

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedSecret(***)")
    }
}

/// A key that the two ends of one connection share, and nobody else.
pub(crate) struct SessionKey(hmac::Key);

impl SessionKey {
    pub(super) fn of_channel(binding: &Binding) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, binding))
    }

    /// A key for one purpose.
    pub(super) fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.0, purpose.as_bytes()).as_ref());
        out
    }
}

/// What comes next.
enum Step {
    /// We accepted: the other side's hello.
    Hello,
    /// We dialed: the answer to our hello.
    Answer { ours: Nonce },
    /// We accepted and answered: the proof.
    Proof { theirs: Nonce, ours: Nonce },
}

/// A challenge that goes on.
pub(super) struct Preamble {
    secret: SharedSecret,
    binding: Option<Binding>,
    step: Step,
}

impl Preamble {
    /// Of a connection that we dialed, with the first message.
    pub(super) fn dialing(
        secret: SharedSecret,
        binding: Option<Binding>,
    ) -> Result<(Self, Vec<u8>), Refused> {
        let ours = nonce()?;
        let hello = message(HELLO, &[&ours]);
        Ok((Self { secret, binding, step: Step::Answer { ours } }, hello))
    }

    /// Of a connection that we accepted.
    pub(super) fn accepting(secret: SharedSecret, binding: Option<Binding>) -> Self {
        Self { secret, binding, step: Step::Hello }
    }

    /// Bytes of the next message, as far as can be told from its beginning; an error if it is none.
    pub(super) fn wants(&self, beginning: &[u8]) -> Result<usize, Refused> {
        if matches!(beginning.first(), Some(20..=22)) && self.binding.is_none() {
            let why = "it speaks TLS, and TLS is off here; set network.tls to the same as there";
            return Err(Refused::new(Reason::PlainText, why));
        }
        if beginning.iter().zip(&MAGIC).any(|(have, want)| have != want) {
            return Err(Refused::new(
                Reason::NotAuthenticated,
                "it does not authenticate, and authentication is on here; set auth.secret there too, to the same secret",
            ));
        }
        let (kind, length) = match self.step {
            Step::Hello => (HELLO, HEADER + NONCE),
            Step::Answer { .. } => (ANSWER, HEADER + NONCE + CODE),
            Step::Proof { .. } => (PROOF, HEADER + CODE),
        };
        match beginning.get(MAGIC.len()) {
            Some(&REFUSED) => Err(Refused::new(Reason::Secret, format!("it says that {DIFFERENT}"))),
            Some(&got) if got != kind => {
                Err(Refused::new(Reason::NotAuthenticated, "it sent a part of the challenge out of turn"))
            }
            _ => Ok(length),
        }
    }

    /// Takes a whole message: the key of the session if this was the last, and what is to be sent.
    pub(super) fn take(&mut self, message: &[u8]) -> Result<(Option<SessionKey>, Vec<u8>), Refused> {
        let body = &message[HEADER..];
        match self.step {
            Step::Hello => {
                let mut theirs = Nonce::default();
                theirs.copy_from_slice(&body[..NONCE]);
                let ours = nonce()?;
                let answer = self.code("pccl authentication 1, answer", &theirs, &ours);
                self.step = Step::Proof { theirs, ours };
                Ok((None, self::message(ANSWER, &[&ours, answer.as_ref()])))
            }
            Step::Answer { ours } => {
                let (theirs, code) = body.split_at(NONCE);
                self.verify("pccl authentication 1, answer", &ours, theirs, code)?;
                let proof = self.code("pccl authentication 1, proof", &ours, theirs);
                Ok((Some(self.session(&ours, theirs)), self::message(PROOF, &[proof.as_ref()])))
            }
            Step::Proof { theirs, ours } => {
                self.verify("pccl authentication 1, proof", &theirs, &ours, body)?;
                Ok((Some(self.session(&theirs, &ours)), Vec::new()))
            }
        }
    }

    /// Tells the other side that its code is wrong.
    pub(super) fn refusal() -> Vec<u8> {
        // As long as any answer, so that whoever waits for one gets it.
        message(REFUSED, &[&[0; NONCE + CODE]])
    }

    fn text(&self, purpose: &str, dialing: &[u8], accepting: &[u8]) -> Vec<u8> {
        // Every part but the first has one length, and the first ends with a zero: no two texts are alike by accident.
        let binding = self.binding.as_ref().map_or(&[][..], |b| &b[..]);
        [purpose.as_bytes(), &[0], dialing, accepting, binding].concat()
    }

    fn code(&self, purpose: &str, dialing: &[u8], accepting: &[u8]) -> hmac::Tag {
        hmac::sign(&self.secret.0, &self.text(purpose, dialing, accepting))
    }

    /// In constant time.
    fn verify(&self, purpose: &str, dialing: &[u8], accepting: &[u8], code: &[u8]) -> Result<(), Refused> {
        hmac::verify(&self.secret.0, &self.text(purpose, dialing, accepting), code)
            .map_err(|_| Refused::new(Reason::Secret, DIFFERENT))
    }

    fn session(&self, dialing: &[u8], accepting: &[u8]) -> SessionKey {
        let code = self.code("pccl authentication 1, session", dialing, accepting);
        SessionKey(hmac::Key::new(hmac::HMAC_SHA256, code.as_ref()))
    }
}

const DIFFERENT: &str = "the two sides have different secrets, or somebody stands between them; see that auth.secret is \
                         the same in every process of the run";

fn nonce() -> Result<Nonce, Refused> {
    let mut nonce = Nonce::default();
    SystemRandom::new().fill(&mut nonce).map_err(|_| {
        Refused::new(Reason::NotAuthenticated, "the system gives no random numbers for a challenge")
    })?;
    Ok(nonce)
}

fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(kind);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a challenge: the keys of both ends, or what the first one that refuses says.
    fn challenge(
        client: (&str, Option<Binding>),
        server: (&str, Option<Binding>),
    ) -> Result<([u8; 32], [u8; 32]), Refused> {
        let (mut dialing, hello) = Preamble::dialing(SharedSecret::new(client.0.as_bytes()), client.1)?;
        let mut accepting = Preamble::accepting(SharedSecret::new(server.0.as_bytes()), server.1);
        assert_eq!(accepting.wants(&hello[..2])?, hello.len());
        let (_, answer) = accepting.take(&hello)?;
        assert_eq!(dialing.wants(&answer)?, answer.len());
        let (ours, proof) = dialing.take(&answer)?;
        assert_eq!(accepting.wants(&proof)?, proof.len());
        let (theirs, nothing) = accepting.take(&proof)?;
        assert!(nothing.is_empty());
        let (Some(ours), Some(theirs)) = (ours, theirs) else { panic!("no key at the end") };
        Ok((ours.derive("x"), theirs.derive("x")))
    }

    #[test]
    fn the_same_secret_gives_both_the_same_key_and_every_time_another() {
        let (ours, theirs) = challenge(("secret", None), ("secret", None)).unwrap();
        assert_eq!(ours, theirs);
        assert_ne!(challenge(("secret", None), ("secret", None)).unwrap().0, ours);
        challenge(("secret", Some([1; 32])), ("secret", Some([1; 32]))).unwrap();
    }

    #[test]
    fn another_secret_and_another_channel_are_refused() {
        for (client, server) in [
            (("secret", None), ("Secret", None)),
            (("secret", Some([1; 32])), ("secret", Some([2; 32]))),
            (("secret", Some([1; 32])), ("secret", None)),
        ] {
            assert_eq!(challenge(client, server).unwrap_err().reason, Reason::Secret);
        }
    }

    #[test]
    fn an_answer_cannot_be_turned_around_into_a_proof() {
        // Somebody without the secret sends our own code back to us.
        let secret = SharedSecret::new(b"secret");
        let mut accepting = Preamble::accepting(secret, None);
        let hello = message(HELLO, &[&[7; NONCE]]);
        let (_, answer) = accepting.take(&hello).unwrap();
        let stolen = message(PROOF, &[&answer[HEADER + NONCE..]]);
        assert_eq!(accepting.take(&stolen).map(|_| ()).unwrap_err().reason, Reason::Secret);
    }

    #[test]
    fn what_is_no_challenge_is_known_by_its_first_bytes() {
        let accepting = Preamble::accepting(SharedSecret::new(b"secret"), None);
        assert_eq!(accepting.wants(&[0xc1]).unwrap_err().reason, Reason::NotAuthenticated);
        assert_eq!(accepting.wants(&message(PROOF, &[])).unwrap_err().reason, Reason::NotAuthenticated);
        assert_eq!(accepting.wants(&Preamble::refusal()).unwrap_err().reason, Reason::Secret);
    }
}
