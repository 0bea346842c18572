//! `extraData` of a QBFT block: RLP of vanity, validators, vote, round and seals.
//!
//! In the genesis block that is `RLP([32 bytes vanity, [validators], [], 0, []])`, as Besu's documentation defines it
//! ("Configure QBFT consensus", extra data).

use alloy_rlp::{Decodable, Encodable, Header};

use crate::key::{ADDRESS_BYTES, Address};

/// Length of the vanity in bytes.
const VANITY_BYTES: usize = 32;

/// Why bytes are no `extraData` of a genesis block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtraDataError {
    /// It is not RLP.
    #[error("it is not RLP: {0}")]
    Rlp(alloy_rlp::Error),
    /// It is RLP of something else.
    #[error("{0}")]
    Shape(&'static str),
}

impl From<alloy_rlp::Error> for ExtraDataError {
    fn from(error: alloy_rlp::Error) -> Self {
        Self::Rlp(error)
    }
}

/// What the genesis block says of its validators, in the order given; Besu asks for the ascending one.
pub fn extra_data(validators: &[Address]) -> Vec<u8> {
    let mut list = Vec::with_capacity(validators.len() * (ADDRESS_BYTES + 1));
    for Address(address) in validators {
        address.as_slice().encode(&mut list);
    }
    let mut payload = Vec::new();
    [0_u8; VANITY_BYTES].as_slice().encode(&mut payload);
    push_list(&list, &mut payload);
    push_list(&[], &mut payload);
    0_u8.encode(&mut payload);
    push_list(&[], &mut payload);
    let mut out = Vec::with_capacity(payload.len() + 4);
    push_list(&payload, &mut out);
    out
}

/// The validators in the `extraData` of a genesis block.
pub fn validators(extra_data: &[u8]) -> Result<Vec<Address>, ExtraDataError> {
    let mut rest = extra_data;
    let mut body = Header::decode_bytes(&mut rest, true)?;
    let vanity = Header::decode_bytes(&mut body, false)?;
    if vanity.len() != VANITY_BYTES {
        return Err(ExtraDataError::Shape("the vanity is not 32 bytes long"));
    }
    let mut list = Header::decode_bytes(&mut body, true)?;
    let mut found = Vec::new();
    while !list.is_empty() {
        let address = Header::decode_bytes(&mut list, false)?;
        let address =
            address.try_into().map_err(|_| ExtraDataError::Shape("an address is not 20 bytes long"))?;
        found.push(Address(address));
    }
    let vote = Header::decode_bytes(&mut body, true)?;
    let round = u64::decode(&mut body)?;
    let seals = Header::decode_bytes(&mut body, true)?;
    if !vote.is_empty() || round != 0 || !seals.is_empty() {
        return Err(ExtraDataError::Shape("a genesis block has no vote, no round and no seal"));
    }
    if !body.is_empty() || !rest.is_empty() {
        return Err(ExtraDataError::Shape("something follows the seals"));
    }
    Ok(found)
}

fn push_list(payload: &[u8], out: &mut Vec<u8>) {
    Header { list: true, payload_length: payload.len() }.encode(out);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::hex;

    fn address(text: &str) -> Address {
        let mut bytes = [0; ADDRESS_BYTES];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap();
        }
        Address(bytes)
    }

    /// Besu's documentation, "Configure QBFT consensus": the example genesis file with four validators.
    #[test]
    fn four_validators_are_encoded_as_in_besus_documentation() {
        let four = [
            "64a702e6263b7297a96638cac6ae65e6541f4169",
            "3923390ad55e90c237593b3b0e401f3b08a03185",
            "aefdb9a738c9f433e5b6b212a6d62f6370c2f692",
            "c7eeb9a4e00ce683cf93039b212648e01c6c6b78",
        ]
        .map(address);
        let published = "f87aa00000000000000000000000000000000000000000000000000000000000000000f8549464a702e6263b7297\
                         a96638cac6ae65e6541f4169943923390ad55e90c237593b3b0e401f3b08a0318594aefdb9a738c9f433e5b6b212\
                         a6d62f6370c2f69294c7eeb9a4e00ce683cf93039b212648e01c6c6b78c080c0";
        assert_eq!(hex(&extra_data(&four)), published);
        assert_eq!(validators(&bytes(published)).unwrap(), four);
    }

    /// Besu's own test of `besu rlp encode --type=QBFT_EXTRA_DATA`, and the documented one without validators.
    #[test]
    fn two_validators_and_none_are_encoded_as_besu_does() {
        let two = [
            address("be068f726a13c8d46c44be6ce9d275600e1735a4"),
            address("5ff6f4b66a46a2b2310a6f3a93aaddc0d9a1c193"),
        ];
        let expected = "f84fa00000000000000000000000000000000000000000000000000000000000000000ea94be068f726a13c8d46c44\
                        be6ce9d275600e1735a4945ff6f4b66a46a2b2310a6f3a93aaddc0d9a1c193c080c0";
        assert_eq!(hex(&extra_data(&two)), expected);
        let none = "e5a00000000000000000000000000000000000000000000000000000000000000000c0c080c0";
        assert_eq!(hex(&extra_data(&[])), none);
    }

    #[test]
    fn forty_eight_validators_take_1050_bytes_and_are_read_back_in_order() {
        let many: Vec<_> = (0..48).map(|n| Address([n; ADDRESS_BYTES])).collect();
        let bytes = extra_data(&many);
        assert_eq!(bytes.len(), 1050);
        assert_eq!(validators(&bytes).unwrap(), many);
    }

    #[test]
    fn broken_bytes_are_refused_and_never_panic() {
        let good = extra_data(&[Address([1; ADDRESS_BYTES]), Address([2; ADDRESS_BYTES])]);
        for length in 0..good.len() {
            assert!(validators(&good[..length]).is_err(), "{length} of {} bytes", good.len());
        }
        let longer = [good.as_slice(), &[0]].concat();
        assert_eq!(validators(&longer), Err(ExtraDataError::Shape("something follows the seals")));
        for at in 0..good.len() {
            let mut bent = good.clone();
            bent[at] ^= 0xff;
            let _ = validators(&bent);
        }
        // What IBFT 2.0 writes is something else: four bytes of round.
        let ibft = "f83ea00000000000000000000000000000000000000000000000000000000000000000d594\
                    c2ab482b506de561668e07f04547232a72897daf808400000000c0";
        assert!(validators(&bytes(ibft)).is_err());
    }

    fn bytes(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap()).collect()
    }
}
