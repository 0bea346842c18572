//! The journal of a team, in PostgreSQL.
//!
//! The lock is an advisory one of the session: it goes with the connection, so a killed engine leaves none behind. What
//! keeps two writers apart in any case is the fence, which every statement checks that writes. A connection that is lost
//! is made again, with the same lock and the same fence; a write whose outcome is unknown is repeated, which changes
//! nothing if it was done: only this session writes these numbers. Not for poolers in transaction mode, where a lock
//! belongs to nobody.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Backend, RunRow};
use crate::failure::DeployError;

/// For one statement, and for a new connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long a session does without its journal before it gives up.
const OUTAGE: Duration = Duration::from_secs(60);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);
/// Operators that start at the same time make the tables one after the other.
const SCHEMA_LOCK: i64 = 0x7063_636c_6470;

/// Tables of version 1.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS pccl_deploy_runs (deployment text NOT NULL, id bigint NOT NULL, created_ms bigint NOT NULL,
    file text NOT NULL, text text NOT NULL, choices text NOT NULL, PRIMARY KEY (deployment, id));
CREATE TABLE IF NOT EXISTS pccl_deploy_records (deployment text NOT NULL, run bigint NOT NULL, seq bigint NOT NULL,
    body text NOT NULL, PRIMARY KEY (deployment, run, seq));
CREATE TABLE IF NOT EXISTS pccl_deploy_session (deployment text PRIMARY KEY, fence bigint NOT NULL,
    operator text NOT NULL, since_ms bigint NOT NULL);
CREATE TABLE IF NOT EXISTS pccl_deploy_live (deployment text PRIMARY KEY, body text NOT NULL);
";

pub(super) struct Postgres {
    shown: String,
    deployment: String,
    durable: bool,
    config: Config,
    tls: Option<MakeRustlsConnect>,
    runtime: Runtime,
    session: Option<Session>,
    /// The fence of this session, once it holds the lock.
    fence: Option<u64>,
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

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("url", &self.shown).finish_non_exhaustive()
    }
}

/// Why a statement has no answer.
enum Trouble {
    /// The connection, or the server: another try may help.
    Lost(String),
    /// The server is about to answer.
    Starting(String),
    /// The server refuses: it says the same the next time.
    Refused(String),
    /// Another session has taken over.
    Fenced,
}

impl Trouble {
    fn of(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let why = std::error::Error::source(error);
            return Self::Lost(why.map_or_else(|| error.to_string(), |why| format!("{error}: {why}")));
        };
        let text = format!("{} ({})", db.message(), db.code().code());
        if *db.code() == SqlState::CANNOT_CONNECT_NOW {
            return Self::Starting(text);
        }
        // Connections that end, servers that stop or start, too many connections.
        let passes = ["08", "57", "53"].iter().any(|class| db.code().code().starts_with(class));
        if passes { Self::Lost(text) } else { Self::Refused(text) }
    }
}

impl Postgres {
    pub(super) fn open(url: &str, shown: &str, deployment: &str, durable: bool) -> Result<Self, DeployError> {
        let fail = |why: String| DeployError::Journal(format!("{shown}: {why}"));
        let (plain, root) = split_root(url);
        // What the parser says names the parameter, not its value.
        let mut config: Config = plain.parse().map_err(|e: tokio_postgres::Error| fail(e.to_string()))?;
        config.application_name("pccl-deploy").connect_timeout(PATIENCE);
        config.tcp_user_timeout(PATIENCE).keepalives_idle(Duration::from_secs(5));
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(tls(root.as_deref()).map_err(fail)?),
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| fail(e.to_string()))?;
        let (shown, deployment) = (shown.to_owned(), deployment.to_owned());
        let mut this = Self { shown, deployment, durable, config, tls, runtime, session: None, fence: None };
        let begun = Instant::now();
        loop {
            match this.connect() {
                Ok(()) => return Ok(this),
                Err(Trouble::Starting(_)) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                // Whoever starts wants to know at once that nobody answers.
                Err(Trouble::Lost(why) | Trouble::Starting(why) | Trouble::Refused(why)) => {
                    return Err(this.failed(&why));
                }
                Err(Trouble::Fenced) => return Err(DeployError::Fenced),
            }
        }
    }

    fn failed(&self, why: &str) -> DeployError {
        DeployError::Journal(format!("{}: {why}", self.shown))
    }

    /// Connects if need be, and takes the lock again if it was held.
    fn connect(&mut self) -> Result<(), Trouble> {
        if self.session.as_ref().is_some_and(|s| !s.client.is_closed() && !s.driver.is_finished()) {
            return Ok(());
        }
        self.session = None;
        let (config, tls, durable) = (&self.config, self.tls.clone(), self.durable);
        let (held, deployment) = (self.fence, &self.deployment);
        let session = self.runtime.block_on(async {
            let session = in_time(connect(config, tls)).await?;
            // A host that is gone is noticed within seconds, and its lock is free.
            let mut settings = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; \
                                SET tcp_keepalives_count = 3; SET client_min_messages = warning;"
                .to_owned();
            if !durable {
                settings.push_str("SET synchronous_commit = off;");
            }
            in_time(session.client.batch_execute(&settings)).await?;
            let made = format!("BEGIN; SELECT pg_advisory_xact_lock({SCHEMA_LOCK}); {SCHEMA} COMMIT;");
            in_time(session.client.batch_execute(&made)).await?;
            if let Some(ours) = held
                && !in_time(try_lock(&session.client, deployment)).await?
            {
                let sql = "SELECT fence FROM pccl_deploy_session WHERE deployment = $1";
                let row = in_time(session.client.query_one(sql, &[deployment])).await?;
                if row.try_get::<_, i64>(0).ok() != Some(ours.cast_signed()) {
                    return Err(Trouble::Fenced);
                }
                // The server may not have noticed yet that our old connection is gone.
                return Err(Trouble::Lost("the lock is still held by an older connection".to_owned()));
            }
            Ok(session)
        })?;
        self.session = Some(session);
        Ok(())
    }

    /// Runs a statement that may be repeated. While the server is away it is tried again, for some time.
    fn ask<T>(
        &mut self,
        work: &impl AsyncFn(&Client, &str) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, DeployError> {
        let begun = Instant::now();
        loop {
            let done = self.connect().and_then(|()| {
                let Some(session) = &self.session else {
                    return Err(Trouble::Lost("no connection".to_owned()));
                };
                self.runtime.block_on(in_time(work(&session.client, &self.deployment)))
            });
            match done {
                Ok(done) => return Ok(done),
                Err(Trouble::Lost(why) | Trouble::Starting(why)) => {
                    // What is left on the connection must not be taken for an answer.
                    self.session = None;
                    let patience = if self.fence.is_some() { OUTAGE } else { PATIENCE };
                    if begun.elapsed() > patience {
                        return Err(self.failed(&why));
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(Trouble::Refused(why)) => return Err(self.failed(&why)),
                Err(Trouble::Fenced) => return Err(DeployError::Fenced),
            }
        }
    }
}

async fn try_lock(client: &Client, deployment: &str) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT pg_try_advisory_lock(hashtextextended('pccl deploy ' || $1, 0))";
    client.query_one(sql, &[&deployment]).await?.try_get(0)
}

async fn in_time<T>(work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done.map_err(|e| Trouble::of(&e)),
        Err(_) => Err(Trouble::Lost(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}

async fn connect(config: &Config, tls: Option<MakeRustlsConnect>) -> Result<Session, tokio_postgres::Error> {
    match tls {
        None => {
            let (client, connection) = config.connect(NoTls).await?;
            Ok(Session { client, driver: tokio::spawn(async move { drop(connection.await) }) })
        }
        Some(tls) => {
            let (client, connection) = config.connect(tls).await?;
            Ok(Session { client, driver: tokio::spawn(async move { drop(connection.await) }) })
        }
    }
}

/// A URL without its `sslrootcert`, which the library does not know, and that.
fn split_root(url: &str) -> (String, Option<String>) {
    let Some((head, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let root = query.split('&').find_map(|pair| pair.strip_prefix("sslrootcert="));
    let rest: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("sslrootcert=")).collect();
    let plain = if rest.is_empty() { head.to_owned() } else { format!("{head}?{}", rest.join("&")) };
    (plain, root.map(|path| path.replace("%2F", "/")))
}

/// TLS that trusts the authorities of a file, or those of the system. The server's name is checked.
fn tls(root: Option<&str>) -> Result<MakeRustlsConnect, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = root {
        let certificates =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for certificate in certificates.map_err(|e| format!("sslrootcert {path} cannot be used: {e}"))? {
            roots.add(certificate).map_err(|e| format!("sslrootcert {path}: {e}"))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn run_row(row: &Row) -> Result<RunRow, tokio_postgres::Error> {
    Ok(RunRow {
        id: row.try_get(0)?,
        created_ms: row.try_get::<_, i64>(1)?.cast_unsigned(),
        file: row.try_get(2)?,
        text: row.try_get(3)?,
        choices: row.try_get(4)?,
    })
}

impl Backend for Postgres {
    fn lock(&mut self, operator: &str, now_ms: u64) -> Result<u64, DeployError> {
        let since = now_ms.cast_signed();
        let taken = self.ask(&async |client, deployment| {
            if !try_lock(client, deployment).await? {
                let sql = "SELECT operator, since_ms FROM pccl_deploy_session WHERE deployment = $1";
                let row = client.query_opt(sql, &[&deployment]).await?;
                let holder = row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()?;
                return Ok(Err(holder));
            }
            let sql = "INSERT INTO pccl_deploy_session AS s (deployment, fence, operator, since_ms) VALUES ($1, 1, $2, $3)
                       ON CONFLICT (deployment) DO UPDATE SET fence = s.fence + 1, operator = $2, since_ms = $3
                       RETURNING fence";
            client.query_one(sql, &[&deployment, &operator, &since]).await?.try_get::<_, i64>(0).map(Ok)
        })?;
        match taken {
            Ok(fence) => {
                self.fence = Some(fence.cast_unsigned());
                Ok(fence.cast_unsigned())
            }
            Err(holder) => {
                let (operator, since): (String, i64) =
                    holder.unwrap_or_else(|| ("somebody".to_owned(), since));
                Err(DeployError::Locked { operator, since_ms: since.cast_unsigned() })
            }
        }
    }

    fn create(&mut self, run: &RunRow) -> Result<i64, DeployError> {
        // The number is chosen before it is written, so that repeating it makes no second run.
        let newest = self.run(None)?.map_or(0, |newest| newest.id);
        let (id, created) = (newest + 1, run.created_ms.cast_signed());
        self.ask(&async |client, deployment| {
            let sql = "INSERT INTO pccl_deploy_runs (deployment, id, created_ms, file, text, choices)
                       VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
            let values: [&(dyn ToSql + Sync); 6] =
                [&deployment, &id, &created, &run.file, &run.text, &run.choices];
            client.execute(sql, &values).await
        })?;
        Ok(id)
    }

    fn append(&mut self, run: i64, fence: u64, first: i64, bodies: &[String]) -> Result<(), DeployError> {
        let fence = fence.cast_signed();
        let is_ours = self.ask(&async |client, deployment| {
            let sql = "WITH session AS (SELECT 1 FROM pccl_deploy_session WHERE deployment = $1 AND fence = $2 FOR SHARE),
                       written AS (INSERT INTO pccl_deploy_records (deployment, run, seq, body)
                           SELECT $1, $3, $4 + place - 1, body
                           FROM session, unnest($5::text[]) WITH ORDINALITY AS new (body, place)
                           ON CONFLICT DO NOTHING)
                       SELECT EXISTS (SELECT 1 FROM session)";
            client.query_one(sql, &[&deployment, &fence, &run, &first, &bodies]).await?.try_get(0)
        })?;
        if is_ours { Ok(()) } else { Err(DeployError::Fenced) }
    }

    fn run(&mut self, id: Option<i64>) -> Result<Option<RunRow>, DeployError> {
        self.ask(&async |client, deployment| {
            let sql = "SELECT id, created_ms, file, text, choices FROM pccl_deploy_runs
                       WHERE deployment = $1 AND (id = $2 OR $2 IS NULL) ORDER BY id DESC LIMIT 1";
            let row = client.query_opt(sql, &[&deployment, &id]).await?;
            row.as_ref().map(run_row).transpose()
        })
    }

    fn runs(&mut self, most: u32) -> Result<Vec<i64>, DeployError> {
        let most = i64::from(most);
        self.ask(&async |client, deployment| {
            let sql = "SELECT id FROM pccl_deploy_runs WHERE deployment = $1 ORDER BY id DESC LIMIT $2";
            let rows = client.query(sql, &[&deployment, &most]).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })
    }

    fn records(&mut self, run: i64, from: i64) -> Result<Vec<(i64, String)>, DeployError> {
        self.ask(&async |client, deployment| {
            let sql = "SELECT seq, body FROM pccl_deploy_records
                       WHERE deployment = $1 AND run = $2 AND seq >= $3 ORDER BY seq";
            let rows = client.query(sql, &[&deployment, &run, &from]).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        })
    }

    fn publish(&mut self, fence: u64, body: &str) -> Result<(), DeployError> {
        let fence = fence.cast_signed();
        self.ask(&async |client, deployment| {
            let sql = "INSERT INTO pccl_deploy_live (deployment, body)
                       SELECT $1, $3 FROM pccl_deploy_session WHERE deployment = $1 AND fence = $2
                       ON CONFLICT (deployment) DO UPDATE SET body = excluded.body";
            client.execute(sql, &[&deployment, &fence, &body]).await
        })?;
        Ok(())
    }

    fn live(&mut self) -> Result<Option<String>, DeployError> {
        self.ask(&async |client, deployment| {
            let sql = "SELECT body FROM pccl_deploy_live WHERE deployment = $1";
            client.query_opt(sql, &[&deployment]).await?.map(|row| row.try_get(0)).transpose()
        })
    }
}
