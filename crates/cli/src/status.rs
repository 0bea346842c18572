//! `pccl status`: who is in the run, and who waits for whom.

use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use clap::Args;
use pccl::Security;
use pccl_config::HostPort;
use pccl_doctor::status_lines;
use pccl_master::{StatusError, query_status};
use pccl_proto::message::{Role, Status};

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;
use crate::peer;
use crate::settings::{self, ConfigArgs};
use pccl_observe::table::Table;

/// Where a master listens unless told otherwise.
const DEFAULT_PORT: u16 = 7117;

/// Options of `pccl status`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("who is there", "pccl status --master master.example.com:7117"),
    ("which of several masters leads", "pccl status --master a.example.com,b.example.com"),
    ("for a program", "pccl status --master 10.0.0.7 --json"),
]))]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The master, or all of them with commas between [default: network.master_host]
    #[arg(long, value_name = "HOST:PORT", env = "PCCL_MASTER", value_delimiter = ',')]
    master: Vec<String>,

    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,

    /// Longest wait for an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// A master, and what it says.
struct Asked {
    name: String,
    answer: Result<Status, CliError>,
}

/// Asks and prints.
pub(crate) fn run(args: &StatusArgs) -> Result<Exit, CliError> {
    let timeout = Duration::from_secs(args.timeout);
    let config = args.config.load()?;
    let (security, names) = (settings::security(&config)?, peer::masters(&args.master, &config)?);
    let ask = |name: &String| {
        let addresses = resolve(name)?;
        if let (Some(security), Ok(at)) = (&security, HostPort::parse(name)) {
            for addr in &addresses {
                security.name_master(*addr, &at.host);
            }
        }
        ask(&addresses, timeout, security.as_ref())
    };
    let mut asked: Vec<Asked> = thread::scope(|scope| {
        let all: Vec<_> = names.iter().map(|name| (name, scope.spawn(move || ask(name)))).collect();
        let answer = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(CliError::new(Exit::System, "failed to ask: a thread panicked")))
        };
        all.into_iter().map(|(name, thread)| Asked { name: name.clone(), answer: answer(thread) }).collect()
    });
    let Some(leader) =
        (0..asked.len()).max_by_key(|i| weight(&asked[*i])).filter(|i| asked[*i].answer.is_ok())
    else {
        return asked.swap_remove(0).answer.map(|_| Exit::Success);
    };
    let masters = if asked.len() > 1 { Some(masters(&asked)) } else { None };
    let rows: Vec<serde_json::Value> = asked.iter().map(row).collect();
    let status = asked.swap_remove(leader).answer?;
    if args.json {
        let mut object =
            serde_json::to_value(&status).map_err(|error| CliError::new(Exit::System, error.to_string()))?;
        object["masters"] = rows.into();
        output::print(&[object.to_string()]);
    } else {
        let mut text = masters.unwrap_or_default();
        text.extend(status_lines(&status));
        output::print(&text);
    }
    Ok(Exit::Success)
}

/// Whose status tells most: the newest term's, and there the one that leads.
fn weight(asked: &Asked) -> Option<(u64, bool, bool)> {
    let status = asked.answer.as_ref().ok()?;
    Some((status.term, status.role != Role::Standby, status.role == Role::Active))
}

fn masters(asked: &[Asked]) -> Vec<String> {
    let mut table = Table::new(&["<master", "<role", "term", "lease left", "<store"]);
    for one in asked {
        table.push(match &one.answer {
            Ok(status) => [
                one.name.clone(),
                status.role.to_string(),
                status.term.to_string(),
                status.lease_left_ms.map_or_else(|| "-".to_owned(), |left| format!("{left} ms")),
                status.store_trouble.as_ref().map_or_else(|| "answers".to_owned(), |(why, _)| why.clone()),
            ],
            Err(_) => [one.name.as_str(), "does not answer", "-", "-", "-"].map(str::to_owned),
        });
    }
    let mut lines = table.lines();
    lines.push(String::new());
    lines
}

fn row(one: &Asked) -> serde_json::Value {
    match &one.answer {
        Ok(status) => serde_json::json!({
            "master": one.name, "role": status.role, "term": status.term, "lease_left_ms": status.lease_left_ms,
        }),
        Err(error) => serde_json::json!({ "master": one.name, "error": error.to_string() }),
    }
}

/// The first of the addresses that answers; if none does, what the first one said.
fn ask(addresses: &[SocketAddr], timeout: Duration, security: Option<&Security>) -> Result<Status, CliError> {
    let mut first_error = None;
    for addr in addresses {
        match query_status(*addr, timeout, security) {
            Ok(status) => return Ok(status),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(match first_error {
        Some(error) => not_asked(&error),
        None => CliError::new(Exit::Connect, "failed to ask the master: it has no address"),
    })
}

/// Why a master cannot be asked.
pub(crate) fn not_asked(error: &StatusError) -> CliError {
    CliError::new(Exit::Connect, error.to_string()).hint(error.hint())
}

pub(crate) fn resolve(master: &str) -> Result<Vec<SocketAddr>, CliError> {
    let fail = |why: String| {
        CliError::new(Exit::Connect, format!("failed to find the master `{master}`: {why}"))
            .hint("give a name or an address, with or without a port: 10.0.0.7:7117")
    };
    let at = HostPort::parse(master).map_err(fail)?;
    let found = (at.host.as_str(), at.port.unwrap_or(DEFAULT_PORT)).to_socket_addrs();
    let addresses: Vec<SocketAddr> = found.map_err(|error| fail(error.to_string()))?.collect();
    if addresses.is_empty() {
        return Err(fail("it has no address".to_owned()));
    }
    Ok(addresses)
}
