//! Two channels whose bytes are carried by hand.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;
use crate::security::{Reason as R, SecurityOptions, SharedSecret, TlsFiles};

const ADDR: &str = "127.0.0.1:7117";

struct Authority(Issuer<'static, KeyPair>, String);

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Authority(Issuer::new(params, key), certificate.pem())
}

/// Files of a process: a certificate for `name`, valid for days from now, and the authority that it trusts.
fn files(folder: &Path, by: &Authority, trusts: Option<&Authority>, name: &str, days: i64) -> TlsFiles {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(days);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &by.0).unwrap();
    let number = std::fs::read_dir(folder).unwrap().count();
    let write = |what: &str, text: &str| {
        let path = folder.join(format!("{number}.{what}"));
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        cert: write("crt", &certificate.pem()),
        key: write("key", &key.serialize_pem()),
        ca: trusts.map(|ca| write("ca", &ca.1)),
    }
}

fn security(tls: Option<TlsFiles>, secret: Option<&str>) -> Security {
    let secret = secret.map(|s| SharedSecret::new(s.as_bytes()));
    Security::new(SecurityOptions { tls, secret, ..SecurityOptions::default() }).unwrap()
}

/// Carries what one has to say to the other, in pieces of `piece` bytes.
fn carry(from: &mut Channel, to: &mut Channel, piece: usize) -> Result<bool, Refused> {
    let mut bytes = Vec::new();
    while from.has_outgoing() {
        bytes.extend_from_slice(from.outgoing());
        let all = from.outgoing().len();
        assert!(all > 0);
        from.written(all);
    }
    let any = !bytes.is_empty();
    for part in bytes.chunks(piece) {
        let mut part = part;
        while !part.is_empty() {
            let room = to.room();
            let n = room.len().min(part.len());
            room[..n].copy_from_slice(&part[..n]);
            part = &part[n..];
            to.received(n)?;
        }
    }
    Ok(any)
}

/// A handshake: what each side says at the end of it.
fn meet(
    client: &mut Channel,
    server: &mut Channel,
    piece: usize,
) -> (Result<(), Refused>, Result<(), Refused>) {
    let (mut of_client, mut of_server) = (Ok(()), Ok(()));
    loop {
        let mut any = false;
        match carry(client, server, piece) {
            Ok(said) => any |= said,
            Err(refused) => of_server = Err(refused),
        }
        match carry(server, client, piece) {
            Ok(said) => any |= said,
            Err(refused) => of_client = Err(refused),
        }
        if !any {
            // An alert that came behind the handshake is seen when one reads.
            if of_client.is_ok() && client.is_open() {
                of_client = client.plain().map(|_| ());
            }
            return (of_client, of_server);
        }
    }
}

fn pair(client: &Security, server: &Security) -> (Channel, Channel) {
    let addr: SocketAddr = ADDR.parse().unwrap();
    (Channel::dialing(client, addr).unwrap(), Channel::accepting(server).unwrap())
}

/// Reads all that is there: records into memory of their own where they fit, and in place.
fn read(channel: &mut Channel) -> Result<Vec<u8>, Refused> {
    let mut all = Vec::new();
    let mut into = vec![0; 20_000];
    loop {
        let room = all.len() % 3 * 10_000;
        if let Some(n) = channel.open_into(&mut into[..room])? {
            all.extend_from_slice(&into[..n]);
            continue;
        }
        let plain = channel.plain()?;
        if plain.is_empty() {
            return Ok(all);
        }
        all.extend_from_slice(plain);
        let n = plain.len();
        channel.take(n);
    }
}

fn send(from: &mut Channel, to: &mut Channel, bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut sent = 0;
    let mut got = Vec::new();
    while sent < bytes.len() {
        let (first, second) = bytes[sent..].split_at((bytes.len() - sent).min(56));
        sent += from.seal(&[first, second]).unwrap();
        // What is read keeps the room small.
        carry(from, to, piece).unwrap();
        got.extend(read(to).unwrap());
    }
    got
}

fn works(client: &Security, server: &Security) {
    for piece in [1, 7, 5000, usize::MAX] {
        let (mut client, mut server) = pair(client, server);
        // The first words follow the last ones of the handshake at once.
        let met = meet(&mut client, &mut server, piece);
        assert_eq!(met, (Ok(()), Ok(())), "in pieces of {piece}");
        assert!(client.is_open() && server.is_open());
        let bytes: Vec<u8> = (0..600_000_u32).map(|n| (n / 3) as u8).collect();
        let bytes = if piece == 1 { &bytes[..40_000] } else { &bytes[..] };
        assert!(send(&mut client, &mut server, bytes, piece) == bytes);
        assert!(send(&mut server, &mut client, bytes, piece) == bytes);
        client.seal_close();
        carry(&mut client, &mut server, piece).unwrap();
        assert_eq!(read(&mut server), Ok(Vec::new()));
    }
}

#[test]
fn bytes_arrive_in_every_mode_and_in_any_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority();
    let fleet = || files(folder.path(), &ca, Some(&ca), "peer.example.com", 1);
    works(&security(Some(fleet()), None), &security(Some(fleet()), None));
    works(&security(Some(fleet()), Some("secret")), &security(Some(fleet()), Some("secret")));
    works(&security(None, Some("secret")), &security(None, Some("secret")));
    // Without an authority it is the secret that says who the other side is.
    let lone = || files(folder.path(), &ca, None, "peer.example.com", 1);
    works(&security(Some(lone()), Some("secret")), &security(Some(lone()), Some("secret")));
}

/// The reason that each side has.
fn reasons(client: &Security, server: &Security) -> (Option<Reason>, Option<Reason>) {
    let (mut client, mut server) = pair(client, server);
    let (of_client, of_server) = meet(&mut client, &mut server, usize::MAX);
    (of_client.err().map(|r| r.reason), of_server.err().map(|r| r.reason))
}

#[test]
fn whoever_does_not_belong_is_refused_and_both_sides_know_why() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (authority(), authority());
    let of = |by, trusts, days| files(folder.path(), by, Some(trusts), "peer.example.com", days);
    let good = security(Some(of(&ca, &ca, 1)), None);
    let expired = security(Some(of(&ca, &ca, -1)), None);
    let stranger = security(Some(of(&other, &ca, 1)), None);
    let plain_secret = security(None, Some("secret"));

    let wrong_secret = security(None, Some("Secret"));
    assert_eq!(reasons(&wrong_secret, &plain_secret), (Some(R::Secret), Some(R::Secret)));
    assert_eq!(reasons(&good, &expired), (Some(R::CertificateExpired), Some(R::CertificateExpired)));
    assert_eq!(reasons(&expired, &good), (Some(R::CertificateExpired), Some(R::CertificateExpired)));
    assert_eq!(reasons(&good, &stranger).0, Some(R::CertificateUnknownCa));
    assert_eq!(reasons(&stranger, &good), (Some(R::CertificateUnknownCa), Some(R::CertificateUnknownCa)));
    assert_eq!(reasons(&plain_secret, &good), (Some(R::PlainText), Some(R::PlainText)));
    assert_eq!(reasons(&good, &plain_secret).1, Some(R::PlainText));

    let named = security(Some(of(&ca, &ca, 1)), None);
    named.name_master(ADDR.parse().unwrap(), "master.example.com");
    assert_eq!(reasons(&named, &good).0, Some(R::CertificateName));
    named.name_master(ADDR.parse().unwrap(), "peer.example.com");
    assert_eq!(reasons(&named, &good), (None, None));
}

#[test]
fn who_stands_between_two_is_found_out_by_the_channel() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority();
    let secret = || security(Some(files(folder.path(), &ca, None, "peer.example.com", 1)), Some("secret"));
    let (mut client, mut to_client) = pair(&secret(), &secret());
    let (mut to_server, mut server) = pair(&secret(), &secret());
    // The one between has a certificate that both take, and passes on every byte of the challenge. It does not have the
    // secret: its own ends of TLS are all that is used of it.
    to_client.security = security(Some(files(folder.path(), &ca, None, "x.example.com", 1)), None);
    to_server.security = to_client.security.clone();
    let mut refused = Vec::new();
    for _ in 0..10 {
        for (near, far) in [(&mut client, &mut to_client), (&mut to_server, &mut server)] {
            refused.extend(carry(near, far, usize::MAX).err());
            refused.extend(carry(far, near, usize::MAX).err());
        }
        if to_client.is_open() && to_server.is_open() {
            let (asked, answered) = (read(&mut to_client), read(&mut to_server));
            for (bytes, to) in
                [(asked.unwrap_or_default(), &mut to_server), (answered.unwrap_or_default(), &mut to_client)]
            {
                if !bytes.is_empty() {
                    to.seal(&[&bytes]).unwrap();
                }
            }
        }
    }
    assert!(!refused.is_empty() && refused.iter().all(|r| r.reason == Reason::Secret), "{refused:?}");
    assert!(!client.is_open() && !server.is_open());
}

#[test]
fn keys_change_under_way_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority();
    let fleet = || security(Some(files(folder.path(), &ca, Some(&ca), "peer.example.com", 1)), None);
    let (mut client, mut server) = pair(&fleet(), &fleet());
    assert_eq!(meet(&mut client, &mut server, usize::MAX), (Ok(()), Ok(())));
    client.tls().unwrap().seal_at_most(5);
    server.tls().unwrap().seal_at_most(3);
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n / 5) as u8).collect();
    assert!(send(&mut client, &mut server, &bytes, 9000) == bytes);
    assert!(send(&mut server, &mut client, &bytes, 9000) == bytes);
}

#[test]
fn spoiled_bytes_end_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority();
    let tls = || security(Some(files(folder.path(), &ca, Some(&ca), "peer.example.com", 1)), None);
    let codes = || security(None, Some("secret"));
    for make in [&tls as &dyn Fn() -> Security, &codes] {
        for bit in [0, 9, 30, 70, 200, 700] {
            let (mut client, mut server) = pair(&make(), &make());
            assert_eq!(meet(&mut client, &mut server, usize::MAX), (Ok(()), Ok(())));
            client.seal(&[&[7; 100]]).unwrap();
            let mut sealed: Vec<u8> = client.outgoing().to_vec();
            sealed[bit / 8] ^= 1 << (bit % 8);
            sealed.resize(20_000, 0);
            let mut sealed = &sealed[..];
            while !sealed.is_empty() {
                let room = server.room();
                let (now, later) = sealed.split_at(room.len().min(sealed.len()));
                room[..now.len()].copy_from_slice(now);
                server.received(now.len()).unwrap();
                sealed = later;
            }
            assert!(read(&mut server).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn a_stranger_that_talks_without_end_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority();
    let server = security(Some(files(folder.path(), &ca, Some(&ca), "peer.example.com", 1)), None);
    let mut channel = Channel::accepting(&server).unwrap();
    // The beginning of a handshake message of 16 MiB.
    let mut record = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x4000, 0);
    let refused = (0..20).find_map(|_| {
        for part in record.chunks(1024) {
            let room = channel.room();
            let n = room.len().min(part.len());
            room[..n].copy_from_slice(&part[..n]);
            if let Err(refused) = channel.received(n) {
                return Some(refused);
            }
        }
        None
    });
    assert!(refused.is_some());
    assert!(channel.incoming.bytes.len() <= 2 * MAX_STRANGER_BYTES);
}
