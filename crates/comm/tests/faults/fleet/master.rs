//! The master as a process.

use std::io::BufRead;
use std::time::Duration;

use pccl::RunSettings;
use pccl_master::{Server, ServerOptions, StoreChoice, StoreUrl};

/// Serves until its standard input ends.
pub(crate) fn run(
    addr: &str,
    (timeout_ms, patience_ms, lease_ms): (&str, &str, &str),
    (retries, compression): (&str, &str),
    store: &str,
) {
    super::peer::log_to_stderr();
    let mut options = ServerOptions::new(addr.parse().unwrap());
    options.settings = RunSettings {
        heartbeat_timeout_ms: timeout_ms.parse().unwrap(),
        master_timeout_ms: patience_ms.parse().unwrap(),
        max_recovery_attempts: retries.parse().unwrap(),
        enable_compression: compression.parse().unwrap(),
        ..RunSettings::default()
    };
    options.link_timeout = Duration::from_secs(30);
    options.lease_ms = lease_ms.parse().unwrap();
    options.store = match store.split_once("://") {
        Some(("postgres", _)) => StoreChoice::Postgres(StoreUrl::new(store)),
        Some(_) => StoreChoice::Etcd(StoreUrl::new(store)),
        None if store == "-" => StoreChoice::Memory,
        None => StoreChoice::Embedded(store.into()),
    };
    let server = Server::start(options).unwrap();
    println!("\n: ready {}", server.addr());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            // As SIGTERM does.
            None if line == "stop" => {
                server.stop();
                println!("= ok");
            }
            Some(("arm", fault)) => println!("= ok armed={}", pccl_master::arm_fault(fault)),
            _ => println!("= error text=what is {line}?"),
        }
    }
}
