//! What TLS costs: the same cells with and without it in turns, and what the bare cipher needs for the same bytes.

use std::path::Path;
use std::thread;
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use pccl::{Security, SecurityOptions, TlsFiles};
use pccl_bench::median;
use serde::Serialize;

use crate::cert;
use crate::error::CliError;
use crate::exit::Exit;
use pccl_config::ByteSize;
use pccl_observe::table::seconds;

/// Whom the certificate of the fleet is for: its master.
const NAME: &str = "127.0.0.1";
/// Bytes of a full record (RFC 8446, 5.1).
const RECORD_BYTES: usize = 16 << 10;
/// Bytes by which a record proves what it is.
const TAG_BYTES: usize = 16;
/// How often each of the three is measured.
pub(super) const TURNS: usize = 5;

/// A cell with and without TLS.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct TlsRow {
    pub(super) peers: u32,
    pub(super) bytes: u64,
    /// Median time of a call without it.
    pub(super) plain_s: f64,
    /// The same under TLS.
    pub(super) tls_s: f64,
    /// What it takes all cores to encrypt and decrypt what the peers send each other for one call.
    pub(super) cipher_s: f64,
    /// What TLS adds, as a multiple of that.
    pub(super) ratio: f64,
}

impl TlsRow {
    /// `plain` and `tls` are the times of the turns.
    pub(super) fn new(
        peers: u32,
        bytes: ByteSize,
        mut plain: Vec<f64>,
        mut tls: Vec<f64>,
    ) -> Result<Self, CliError> {
        plain.sort_by(f64::total_cmp);
        tls.sort_by(f64::total_cmp);
        // Every peer sends 2(N-1)/N of the buffer.
        let sent_bytes = 2 * (u64::from(peers) - 1) * bytes.0;
        let mut cipher =
            (0..TURNS).map(|_| cipher(sent_bytes, bytes.0)).collect::<Result<Vec<f64>, CliError>>()?;
        cipher.sort_by(f64::total_cmp);
        let (plain_s, tls_s, cipher_s) = (median(&plain), median(&tls), median(&cipher));
        Ok(Self { peers, bytes: bytes.0, plain_s, tls_s, cipher_s, ratio: (tls_s - plain_s) / cipher_s })
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{} peers, {}: {} without TLS, {} with it; the cipher alone {}; TLS adds {:.2} times that",
            self.peers,
            ByteSize(self.bytes),
            seconds(self.plain_s),
            seconds(self.tls_s),
            seconds(self.cipher_s),
            self.ratio
        )
    }
}

/// Makes an authority and a certificate for a fleet on this machine.
pub(super) fn make(folder: &Path) -> Result<(), CliError> {
    cert::make_authority(folder, 1)?;
    cert::make_certificate(folder, &[NAME.to_owned()], 1).map(|_| ())
}

/// What guards a process of that fleet.
pub(crate) fn security(folder: &Path) -> Result<Security, CliError> {
    let file = |name: &str| folder.join(name);
    let tls = TlsFiles {
        cert: file(&format!("{NAME}.crt")),
        key: file(&format!("{NAME}.key")),
        ca: Some(file("ca.crt")),
    };
    Security::new(SecurityOptions { tls: Some(tls), ..SecurityOptions::default() })
        .map_err(|error| CliError::new(Exit::Input, error.to_string()))
}

/// Seconds in which all cores together encrypt and decrypt so many bytes, from memory to memory as an op does: a buffer
/// of `tensor` bytes again and again.
fn cipher(bytes: u64, tensor: u64) -> Result<f64, CliError> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let records = bytes.div_ceil((threads * RECORD_BYTES) as u64);
    let tensor_records = (tensor as usize / RECORD_BYTES / threads).max(1);
    let mut plain = vec![vec![7; tensor_records * RECORD_BYTES]; threads];
    let begun = Instant::now();
    let done = thread::scope(|scope| {
        let all: Vec<_> =
            plain.iter_mut().map(|part| scope.spawn(move || seal_and_open(records, part).is_ok())).collect();
        all.into_iter().all(|thread| thread.join().unwrap_or(false))
    });
    let time_s = begun.elapsed().as_secs_f64();
    if done { Ok(time_s) } else { Err(CliError::new(Exit::System, "failed to time the cipher")) }
}

/// Each record is encrypted out of the buffer and decrypted into it again.
fn seal_and_open(records: u64, plain: &mut [u8]) -> Result<(), Unspecified> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32])?);
    let mut sealed = vec![0_u8; RECORD_BYTES];
    let mut tag = [0; TAG_BYTES];
    let places = plain.len() / RECORD_BYTES;
    for number in 0..records {
        let nonce = || {
            let mut nonce = [0; NONCE_LEN];
            nonce[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
            Nonce::assume_unique_for_key(nonce)
        };
        let first = (number as usize % places) * RECORD_BYTES;
        let here = &mut plain[first..first + RECORD_BYTES];
        key.seal_out_of_place_scatter(nonce(), Aad::empty(), here, &mut sealed, &[], &mut tag)?;
        key.open_separate_gather(nonce(), Aad::empty(), &sealed, &tag, here)?;
    }
    Ok(())
}
