//! `pccl-cloud`: serves clusters on loopback until it is stopped. `cargo xtask cloud` starts it.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pccl_cloud::{kubernetes, limits};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Clusters and clouds to try deployments on, on this machine.
#[derive(Parser)]
#[command(name = "pccl-cloud", version)]
struct Arguments {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Kubernetes clusters with these names
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', requires = "kubeconfig")]
    kubernetes: Vec<String>,

    /// Write a kubeconfig here, with one context for each cluster
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    kubeconfig: Option<PathBuf>,

    /// Nodes of each cluster
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    nodes: usize,

    /// Time from one ready pod to the next in a rollout, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pod_ms: u64,

    /// Seconds of the clouds in one second here: what they refill, and how long they create
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = positive)]
    speed: f64,

    /// What the clouds' times of creation are drawn from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("it must be above 0".to_owned()) }
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: failed to serve: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> io::Result<()> {
    let listener = TcpListener::bind(arguments.listen).await?;
    let addr = listener.local_addr()?;
    let routes = kubernetes::routes(&kubernetes::Options {
        clusters: arguments.kubernetes.clone(),
        nodes: arguments.nodes,
        pod_time: Duration::from_millis(arguments.pod_ms),
    })
    .merge(limits::routes(limits::Options { speed: arguments.speed, seed: arguments.seed }));
    if let Some(path) = &arguments.kubeconfig {
        write_whole(path, &kubernetes::kubeconfig(addr, &arguments.kubernetes))?;
    }
    // The line that whoever starts us waits for.
    println!("listening on http://{addr}");
    io::stdout().flush()?;
    let (mut interrupted, mut ended) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Watches last for minutes: whoever stops us does not wait for them.
    tokio::select! {
        served = async { axum::serve(listener, routes).await } => served,
        _ = interrupted.recv() => Ok(()),
        _ = ended.recv() => Ok(()),
    }
}

/// Writes a file so that nobody reads half of it.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
