//! Node keys: a number on the curve secp256k1. The public key is the node's name in the peer-to-peer network, the last
//! 20 bytes of its Keccak-256 hash are its address as a validator.

use std::fmt;

use k256::SecretKey;
use k256::elliptic_curve::sec1::ToSec1Point;
use sha3::{Digest, Keccak256};
use zeroize::{Zeroize, Zeroizing};

/// Length of an address in bytes.
pub const ADDRESS_BYTES: usize = 20;

/// Where an account or a validator lives: 20 bytes, shown as `0x…` in lower case, which is how Besu prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub [u8; ADDRESS_BYTES]);

/// The private key of a node. Never printed: `Debug` shows the address. Wiped when dropped.
#[derive(Clone)]
pub struct NodeKey {
    secret: SecretKey,
}

impl NodeKey {
    /// The key with these 32 bytes as its number, or `None` if the curve has no such key (zero, or not below the order
    /// of the curve: less than one in 2¹²⁷ of all numbers).
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        SecretKey::from_slice(bytes).ok().map(|secret| Self { secret })
    }

    /// Draws until the curve has such a key. `entropy` must give 32 bytes that nobody can guess.
    pub fn draw<E>(entropy: &mut impl FnMut(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Zeroizing::new([0; 32]);
        loop {
            entropy(&mut bytes)?;
            if let Some(key) = Self::from_bytes(&bytes) {
                return Ok(key);
            }
        }
    }

    /// The public key without its leading 4: x and y, 64 bytes.
    pub fn public(&self) -> [u8; 64] {
        let point = self.secret.public_key().to_sec1_point(false);
        let mut bytes = [0; 64];
        // An uncompressed point is 0x04, x, y.
        bytes.copy_from_slice(&point.as_bytes()[1..65]);
        bytes
    }

    /// The address of the validator with this key.
    pub fn address(&self) -> Address {
        let hash = Keccak256::digest(self.public());
        let mut address = [0; ADDRESS_BYTES];
        address.copy_from_slice(&hash[12..]);
        Address(address)
    }

    /// How peers name the node: `enode://<public key>@<host>:<port>`.
    pub fn enode(&self, host: &str, port: u16) -> String {
        format!("enode://{}@{host}:{port}", hex(&self.public()))
    }

    /// The private key as Besu reads it from `--node-private-key-file`: 64 hexadecimal digits.
    pub fn to_file(&self) -> Zeroizing<String> {
        let mut bytes = self.secret.to_bytes();
        let text = Zeroizing::new(format!("0x{}", hex(&bytes)));
        bytes.zeroize();
        text
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex(&self.0))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes as hexadecimal digits in lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap();
        }
        bytes
    }

    /// The test accounts that Besu's documentation publishes with their keys.
    #[test]
    fn addresses_are_those_of_besus_documentation() {
        let published = [
            (
                "8f2a55949038a9610f50fb23b5883af3b4ecb3c3bb792cbcefbd1542c692be63",
                "0xfe3b557e8fb62b89f4916b721be55ceb828dbd73",
            ),
            (
                "c87509a1c067bbde78beb793e6fa76530b6382a4c0241e5e4a9ec0a0f44dc0d3",
                "0x627306090abab3a6e1400e9345bc60c78a8bef57",
            ),
            (
                "ae6ae8e5ccbfb04590405997ee2d52d2b330726137b875053c36d94e974d162f",
                "0xf17f52151ebef6c7334fad080c5704d77216b732",
            ),
        ];
        for (key, address) in published {
            assert_eq!(NodeKey::from_bytes(&bytes(key)).unwrap().address().to_string(), address);
        }
    }

    /// The generator of the curve is the public key of 1: its coordinates are in SEC 2, section 2.4.1.
    #[test]
    fn the_public_key_of_one_is_the_generator() {
        let mut one = [0; 32];
        one[31] = 1;
        let enode = NodeKey::from_bytes(&one).unwrap().enode("host", 30303);
        let expected = "enode://79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798\
                        483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8@host:30303";
        assert_eq!(enode, expected);
    }

    #[test]
    fn numbers_that_are_no_key_are_drawn_again() {
        let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        let mut draws = [[0; 32], bytes(order), [7; 32]].into_iter();
        let mut entropy = |out: &mut [u8; 32]| {
            *out = draws.next().ok_or("no more")?;
            Ok::<_, &str>(())
        };
        let key = NodeKey::draw(&mut entropy).unwrap();
        assert_eq!(key.to_file().as_str(), format!("0x{}", "07".repeat(32)));
        assert_eq!(NodeKey::draw(&mut entropy).unwrap_err(), "no more");
    }

    #[test]
    fn the_private_key_is_not_in_its_debug_text() {
        let key = NodeKey::from_bytes(&[7; 32]).unwrap();
        let text = format!("{key:?}");
        assert!(text.contains("address: 0x") && !text.contains("0707"), "{text}");
    }
}
