//! The security that a configuration asks for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pccl_config::Config;
use pccl_net::{CertificateGroups, Security, SecurityOptions, SharedSecret, TlsFiles};

use crate::configured::{ConfiguredError, refuse};

/// The shortest shared secret, in bytes: whoever reaches a port can try guesses at home.
const MIN_SECRET_BYTES: usize = 16;

/// What guards connections and heartbeats as the configuration asks for it; nothing if it asks for nothing. Reads
/// certificates, keys and the secret's file.
pub fn security(config: &Config) -> Result<Option<Security>, ConfiguredError> {
    let (tls, auth) = (&config.network.tls, &config.auth);
    let files = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) if tls.enabled => Some(TlsFiles {
            cert: PathBuf::from(cert),
            key: PathBuf::from(key),
            ca: tls.ca_file.as_ref().map(PathBuf::from),
        }),
        _ => None,
    };
    if let Some(files) = &files {
        warn_if_open(&files.key, "a private key");
    }
    let secret = match (&auth.secret, &auth.secret_file) {
        _ if !auth.enabled => None,
        (Some(secret), _) => Some(SharedSecret::new(secret.expose().as_bytes())),
        (None, Some(path)) => Some(secret_of(config, path)?),
        (None, None) => None,
    };
    let allowed_networks = config.network.allowed_networks.clone();
    if files.is_none() && secret.is_none() && allowed_networks.is_empty() {
        return Ok(None);
    }
    let security = Security::new(SecurityOptions {
        tls: files,
        secret,
        allowed_networks,
        groups: certificate_groups(config),
    });
    security.map(Some).map_err(|error| refuse(config, "network.tls.cert_file", error.to_string()))
}

/// Which peer groups certificates may join, as the configuration says it; none: all.
pub fn certificate_groups(config: &Config) -> Option<CertificateGroups> {
    let groups = &config.network.tls.groups.0;
    let all = groups.iter().map(|(name, groups)| (name.as_str(), groups.iter().copied()));
    (!groups.is_empty()).then(|| all.collect())
}

fn secret_of(config: &Config, path: &str) -> Result<SharedSecret, ConfiguredError> {
    let fail = |why: String| refuse(config, "auth.secret_file", format!("the secret's file {path} {why}"));
    let text = fs::read_to_string(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
    // Editors and `echo` leave an end of line behind.
    let secret = text.trim();
    if secret.len() < MIN_SECRET_BYTES {
        return Err(fail(format!(
            "must hold at least {MIN_SECRET_BYTES} bytes; `openssl rand -hex 32` makes a good one"
        )));
    }
    warn_if_open(Path::new(path), "the shared secret");
    Ok(SharedSecret::new(secret.as_bytes()))
}

/// Says so when every user of this machine could read what must be secret. It is no error: in a container there may be
/// nobody else.
fn warn_if_open(path: &Path, what: &str) {
    // A file that cannot be looked at cannot be read either, and that is said elsewhere.
    let Ok(mode) = fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o7777) else { return };
    if mode & 0o004 != 0 {
        let path = path.display();
        tracing::warn!(
            target: "pccl::security",
            "{path} holds {what}, and every user of this machine can read it (mode {mode:04o}): `chmod 600 {path}`"
        );
    }
}
