//! `pccl-cloud-create`: creates one resource in the simulated Azure as a provider of Terraform does, alone.
//!
//! It looks whether the resource is there, creates it, asks how the operation stands as often as the answer allows, and
//! reads what it has created. Refused with 429 it sleeps for `Retry-After` and tries again; it knows nothing of others
//! who do the same. `cargo xtask bench deploy` starts many of them, by different tools.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use ureq::http::Response;
use ureq::{Agent, Body};

/// Create one resource in the simulated Azure, and wait until it is there.
#[derive(Parser)]
#[command(name = "pccl-cloud-create", version)]
struct Arguments {
    /// Where `pccl-cloud` listens: `http://127.0.0.1:1234`
    url: String,
    /// The region that the resource is in
    region: String,
    /// Its name
    name: String,
    /// A call that is answered neither by success nor by a refusal is tried so often
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    tries: u32,
}

/// Why the resource is not there.
#[derive(Debug, thiserror::Error)]
enum CreateError {
    #[error("failed to call {url}: {why}")]
    Call { url: String, why: String },
    #[error("failed to create: {url} answered {status}")]
    Refused { url: String, status: u16 },
    #[error("failed to create: the answer names no operation")]
    NoOperation,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match create(&arguments) {
        Ok(refused) => {
            println!("{}/{} is there; refused {refused} times", arguments.region, arguments.name);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One who calls, and how often it was refused.
struct Caller {
    agent: Agent,
    tries: u32,
    refused: u32,
}

fn create(arguments: &Arguments) -> Result<u32, CreateError> {
    let agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .new_agent();
    let mut caller = Caller { agent, tries: arguments.tries.max(1), refused: 0 };
    let Arguments { url, region, name, .. } = arguments;
    let resource = format!(
        "{url}/azure/subscriptions/bench/resourceGroups/{region}/providers/Microsoft.Storage/storageAccounts/{name}"
    );
    caller.call(&resource, None, &[200, 404])?;
    let created = caller.call(&resource, Some(region), &[200, 201, 202])?;
    let header = |name: &str| created.headers().get(name)?.to_str().ok().map(str::to_owned);
    let operation = header("azure-asyncoperation").ok_or(CreateError::NoOperation)?;
    let mut wait = seconds(&created).unwrap_or(1);
    loop {
        thread::sleep(Duration::from_secs(wait));
        let mut answer = caller.call(&operation, None, &[200])?;
        wait = seconds(&answer).unwrap_or(1);
        let why = |error: ureq::Error| CreateError::Call { url: operation.clone(), why: error.to_string() };
        if answer.body_mut().read_to_string().map_err(why)?.contains("Succeeded") {
            break;
        }
    }
    caller.call(&resource, None, &[200])?;
    Ok(caller.refused)
}

/// What `Retry-After` says.
fn seconds(answer: &Response<Body>) -> Option<u64> {
    answer.headers().get("retry-after")?.to_str().ok()?.parse().ok()
}

impl Caller {
    /// A call that goes on until it is answered by one of these: PUT if it is to be created in a region, else GET.
    fn call(&mut self, url: &str, region: Option<&str>, good: &[u16]) -> Result<Response<Body>, CreateError> {
        let mut tries = 0;
        loop {
            let sent = match region {
                Some(region) => self.agent.put(url).send(json!({ "location": region }).to_string()),
                None => self.agent.get(url).call(),
            };
            let answer =
                sent.map_err(|error| CreateError::Call { url: url.to_owned(), why: error.to_string() })?;
            let status = answer.status().as_u16();
            if good.contains(&status) {
                return Ok(answer);
            }
            if status == 429 {
                self.refused += 1;
                thread::sleep(Duration::from_secs(seconds(&answer).unwrap_or(1)));
                continue;
            }
            tries += 1;
            if tries >= self.tries {
                return Err(CreateError::Refused { url: url.to_owned(), status });
            }
            thread::sleep(Duration::from_secs(1));
        }
    }
}
