//! A store in PostgreSQL.
//!
//! One row, replaced by `UPDATE … WHERE version = …`: every request is one statement and one round trip, unnamed, so it
//! works through a connection pooler in transaction mode, which may give each statement another connection. A row is
//! enough because the state is small and has one writer.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StateStore;
use super::file::StoreError;
use super::register::{Register, RegisterStore};
use super::url::StoreUrl;

/// The name of the row: one run in a database (or a schema, by `options=-csearch_path…` or the user's own).
const ROW: &str = "default";
/// A request that has not ended by then has an unknown outcome, and the connection is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// For a new connection, TLS included.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// What the schema became with each version of it. Only ever appended to.
const MIGRATIONS: &[&str] = &["CREATE TABLE pccl_state (
    name text PRIMARY KEY,
    version bigint NOT NULL,
    value bytea NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now()
)"];
/// Masters that start at the same time migrate one after the other.
const MIGRATION_LOCK: i64 = 0x7063_636c;

/// Keeps the state in PostgreSQL.
pub struct PostgresStore(RegisterStore<Database>);

impl PostgresStore {
    /// Keeps it there: `postgres://user:password@host:port/database`, with `sslmode=disable|prefer|require` and
    /// `sslrootcert=FILE` as further parameters. Connects at the first request, again after every trouble, and makes its
    /// table if there is none.
    pub fn new(url: &StoreUrl) -> Result<Self, StoreError> {
        Self::named(url, ROW)
    }

    pub(super) fn named(url: &StoreUrl, row: &str) -> Result<Self, StoreError> {
        let fail = |why: String| StoreError::Url { url: url.to_string(), why };
        let (plain, root) = split_root(url.expose());
        // What the parser says names the parameter, not its value.
        let mut config: Config = plain.parse().map_err(|e: tokio_postgres::Error| fail(e.to_string()))?;
        config.application_name("pccl-master").connect_timeout(CONNECT_PATIENCE);
        config.tcp_user_timeout(Duration::from_secs(5)).keepalives_idle(Duration::from_secs(5));
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(tls(root.as_deref()).map_err(fail)?),
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| fail(e.to_string()))?;
        let row = row.to_owned();
        let database =
            Database { url: url.clone(), row, config, tls, runtime, session: None, migrated: false };
        Ok(Self(RegisterStore::new(database)))
    }
}

impl StateStore for PostgresStore {
    fn execute(&mut self, request: &pccl_proto::record::StoreRequest) -> pccl_proto::record::StoreReply {
        self.0.execute(request)
    }
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

struct Database {
    url: StoreUrl,
    row: String,
    config: Config,
    tls: Option<MakeRustlsConnect>,
    runtime: Runtime,
    session: Option<Session>,
    migrated: bool,
}

struct Session {
    client: Client,
    /// Reads and writes the socket.
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A URL without its `sslrootcert`, which the library does not know, and that.
fn split_root(url: &str) -> (String, Option<String>) {
    let Some((head, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let mut root = None;
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| match pair.strip_prefix("sslrootcert=") {
            Some(path) => {
                root = Some(path.replace("%2F", "/"));
                false
            }
            None => true,
        })
        .collect();
    let plain = if rest.is_empty() { head.to_owned() } else { format!("{head}?{}", rest.join("&")) };
    (plain, root)
}

/// TLS that trusts the authorities of a file, or those of the system. The server's name is checked.
fn tls(root: Option<&str>) -> Result<MakeRustlsConnect, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    match root {
        Some(path) => {
            let unusable =
                |e: rustls::pki_types::pem::Error| format!("sslrootcert {path} cannot be used: {e}");
            for certificate in CertificateDer::pem_file_iter(path).map_err(unusable)? {
                roots.add(certificate.map_err(unusable)?).map_err(|e| format!("sslrootcert {path}: {e}"))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// What went wrong, with its cause: a database error alone says "db error".
fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |why| format!("{error}: {why}")),
    }
}

async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(patience, work).await {
        Ok(done) => done.map_err(|e| words(&e)),
        Err(_) => Err(format!("no answer within {} ms", patience.as_millis())),
    }
}

async fn connect(config: &Config, tls: Option<MakeRustlsConnect>) -> Result<Session, String> {
    match tls {
        None => {
            let (client, connection) = in_time(CONNECT_PATIENCE, config.connect(NoTls)).await?;
            Ok(Session { client, driver: tokio::spawn(async move { drop(connection.await) }) })
        }
        Some(tls) => {
            let (client, connection) = in_time(CONNECT_PATIENCE, config.connect(tls)).await?;
            Ok(Session { client, driver: tokio::spawn(async move { drop(connection.await) }) })
        }
    }
}

/// Brings the schema to the newest version, in one transaction.
async fn migrate(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    // In the text of a simple query: a pooler in transaction mode keeps the transaction together.
    transaction.batch_execute(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")).await?;
    transaction.batch_execute("CREATE TABLE IF NOT EXISTS pccl_schema (version bigint PRIMARY KEY)").await?;
    let rows = transaction.query_typed("SELECT coalesce(max(version), 0) FROM pccl_schema", &[]).await?;
    let done = rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>(0))?;
    for (n, migration) in MIGRATIONS.iter().enumerate().skip(usize::try_from(done).unwrap_or(0)) {
        transaction.batch_execute(migration).await?;
        transaction.batch_execute(&format!("INSERT INTO pccl_schema VALUES ({})", n + 1)).await?;
    }
    transaction.commit().await
}

impl Database {
    /// Connects if need be.
    fn connect(&mut self) -> Result<(), String> {
        if self.session.as_ref().is_some_and(|s| s.client.is_closed() || s.driver.is_finished()) {
            self.session = None;
        }
        if self.session.is_some() {
            return Ok(());
        }
        let (config, tls, migrated) = (&self.config, self.tls.clone(), self.migrated);
        let session = self.runtime.block_on(async {
            let mut session = connect(config, tls).await?;
            if !migrated {
                in_time(CONNECT_PATIENCE, migrate(&mut session.client)).await?;
            }
            Ok::<_, String>(session)
        })?;
        self.session = Some(session);
        self.migrated = true;
        Ok(())
    }

    /// Runs a statement. After a failure the connection is given up: what is left on it must not be taken for an answer.
    fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, String> {
        self.connect()?;
        let Some(session) = &self.session else { return Err("no connection".into()) };
        let done = self.runtime.block_on(in_time(PATIENCE, work(&session.client)));
        if done.is_err() {
            self.session = None;
        }
        done
    }
}

impl Register for Database {
    fn load(&mut self) -> Result<Option<(Vec<u8>, i64)>, String> {
        let row = self.row.clone();
        self.run(async |client| {
            let query = "SELECT value, version FROM pccl_state WHERE name = $1";
            let row = client.query_typed_opt(query, &[(&row, Type::TEXT)]).await?;
            row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
        })
    }

    fn swap(&mut self, seen: Option<i64>, value: &[u8]) -> Result<Option<i64>, String> {
        let version = seen.unwrap_or(0) + 1;
        let row = self.row.clone();
        let rows = self.run(async |client| {
            let values: [(&(dyn ToSql + Sync), Type); 4] =
                [(&row, Type::TEXT), (&version, Type::INT8), (&value, Type::BYTEA), (&seen, Type::INT8)];
            // Without a version that was seen there is no row; `seen` is the last parameter for its sake.
            let (query, values) = if seen.is_some() {
                let query = "UPDATE pccl_state SET version = $2, value = $3, written_at = now() \
                             WHERE name = $1 AND version = $4";
                (query, &values[..])
            } else {
                let query = "INSERT INTO pccl_state (name, version, value) VALUES ($1, $2, $3) \
                             ON CONFLICT (name) DO NOTHING";
                (query, &values[..3])
            };
            client.execute_typed(query, values).await
        })?;
        Ok((rows == 1).then_some(version))
    }

    fn name(&self) -> String {
        self.url.to_string()
    }
}
