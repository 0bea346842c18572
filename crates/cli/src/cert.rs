//! `pccl cert`: a private authority, and certificates of a fleet.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use pccl_config::HostPort;

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;

/// The authority's files in the folder.
const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
/// How long before now a certificate is valid: clocks differ.
const GRACE: Duration = Duration::hours(1);

/// Options of `pccl cert`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("a private authority, in ./certs", "pccl cert init"),
    ("the master's certificate, for the names that peers know it by", "pccl cert issue master.example.com 10.0.0.7"),
    ("a certificate for the workers", "pccl cert issue worker.example.com"),
]))]
pub(crate) struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

/// What to make.
#[derive(Subcommand, Clone, Debug)]
enum CertCommand {
    /// A private authority: ca.crt for every process, ca.key for nobody but you
    Init(InitArgs),
    /// A certificate of that authority and its key, for a master or a worker
    Issue(IssueArgs),
}

/// Options of `pccl cert init`.
#[derive(Args, Clone, Debug)]
struct InitArgs {
    /// Folder for the files
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,

    /// How long it is valid
    #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

/// Options of `pccl cert issue`.
#[derive(Args, Clone, Debug)]
struct IssueArgs {
    /// Names and addresses that it is for; the first one names the files
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,

    /// Folder with the authority's files, and for the new ones
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,

    /// How long it is valid; 0 makes one that has expired, to try what happens then
    #[arg(long, value_name = "DAYS", default_value_t = 397, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    days: u32,
}

/// Makes what is asked for.
pub(crate) fn run(args: &CertArgs) -> Result<Exit, CliError> {
    match &args.command {
        CertCommand::Init(args) => init(args)?,
        CertCommand::Issue(args) => issue(args)?,
    }
    Ok(Exit::Success)
}

fn failed(why: impl std::fmt::Display) -> CliError {
    CliError::new(Exit::System, format!("failed to make a certificate: {why}"))
}

fn init(args: &InitArgs) -> Result<(), CliError> {
    let (cert_path, key_path) = make_authority(&args.dir, args.days)?;
    output::print(&[
        format!("{}: the authority, network.tls.ca_file of every process", cert_path.display()),
        format!("{}: its key; keep it where no process of the fleet can read it", key_path.display()),
    ]);
    Ok(())
}

/// Makes an authority in a folder: its certificate and its key.
pub(crate) fn make_authority(dir: &Path, days: u32) -> Result<(PathBuf, PathBuf), CliError> {
    // Two authorities must not look alike.
    let number = getrandom::u32().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("PCCL fleet {number:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, days);
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    fs::create_dir_all(dir).map_err(|error| unwritable(dir, &error))?;
    let (cert_path, key_path) = (dir.join(CA_CERT), dir.join(CA_KEY));
    write_pair((&cert_path, &certificate.pem()), (&key_path, &key.serialize_pem()))?;
    Ok((cert_path, key_path))
}

fn issue(args: &IssueArgs) -> Result<(), CliError> {
    let (cert_path, key_path) = make_certificate(&args.dir, &args.names, args.days)?;
    let show = |path: &Path| path.display().to_string();
    output::print(&[
        "network:".to_owned(),
        "  tls:".to_owned(),
        format!("    cert_file: {}", show(&cert_path)),
        format!("    key_file: {}", show(&key_path)),
        format!("    ca_file: {}", show(&args.dir.join(CA_CERT))),
    ]);
    Ok(())
}

/// Makes a certificate for these names by the authority in a folder, into the same folder: it and its key.
pub(crate) fn make_certificate(
    dir: &Path,
    names: &[String],
    days: u32,
) -> Result<(PathBuf, PathBuf), CliError> {
    let (ca_cert, ca_key) = (read(&dir.join(CA_CERT))?, read(&dir.join(CA_KEY))?);
    let unusable = |error: rcgen::Error| {
        CliError::new(Exit::Input, format!("failed to use the authority in {}: {error}", dir.display()))
            .hint("`pccl cert init` makes another one, in another folder")
    };
    let issuer = KeyPair::from_pem(&ca_key).and_then(|key| Issuer::from_ca_cert_pem(&ca_cert, key));
    let issuer = issuer.map_err(unusable)?;
    let first = names.first().map_or("", String::as_str);
    let wrong = |why: &dyn std::fmt::Display| {
        CliError::new(Exit::Usage, format!("failed to understand the name {why}"))
            .hint("give DNS names and IP addresses, one argument each, without ports")
    };
    let known = names.iter().map(|name| HostPort::certificate_name(name)).collect::<Result<Vec<_>, _>>();
    let params = CertificateParams::new(known.map_err(|why| wrong(&why))?);
    let mut params = params.map_err(|why| wrong(&format_args!("`{}`: {why}", names.join(", "))))?;
    params.distinguished_name.push(DnType::CommonName, first);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Every process listens and connects.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, days);
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    let stem = first.replace(['/', ':', '*'], "_");
    let (cert_path, key_path) = (dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.key")));
    write_pair((&cert_path, &certificate.pem()), (&key_path, &key.serialize_pem()))?;
    Ok((cert_path, key_path))
}

fn valid(params: &mut CertificateParams, days: u32) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - 2 * GRACE;
    params.not_after = if days == 0 { now - GRACE } else { now + Duration::days(days.into()) };
}

fn read(path: &Path) -> Result<String, CliError> {
    fs::read_to_string(path).map_err(|error| {
        CliError::input(path, error).hint("`pccl cert init` makes an authority; --dir names its folder")
    })
}

/// Writes certificate and key, or neither: nothing is written over.
fn write_pair(cert: (&Path, &str), key: (&Path, &str)) -> Result<(), CliError> {
    for path in [cert.0, key.0] {
        if path.exists() {
            return Err(CliError::new(
                Exit::Input,
                format!("failed to write {}: it is there already", path.display()),
            )
            .hint("move it away first, or name another folder by --dir"));
        }
    }
    let write = |path: &Path, text: &str, mode: u32| {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| unwritable(path, &error))
    };
    let written = write(key.0, key.1, 0o600).and_then(|()| write(cert.0, cert.1, 0o644));
    if written.is_err() {
        // Neither was there before.
        let _ = (fs::remove_file(key.0), fs::remove_file(cert.0));
    }
    written
}

fn unwritable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::new(Exit::Input, format!("failed to write {}: {error}", path.display()))
        .hint("name a folder that you may write to by --dir")
}
