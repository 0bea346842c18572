//! Files that people write: the configuration and the deployment.

use pccl_config::Config;
use pccl_deploy::file::Deployment;

use crate::input::Input;

/// Parts of such files, so that an input need not find the keys by itself.
const PARTS: &[&str] = &[
    "network:",
    "\n  ",
    "\n- ",
    "master_host: ",
    "heartbeat_timeout_ms: ",
    "tls: { enabled: ",
    "auth: { secret: \"${",
    "fault_tolerance:",
    "performance: { ring_chunk_size: ",
    "logging: { level: ",
    "targets:",
    "phases:",
    "for_each: ",
    "run: { command: [",
    "after: [",
    "limits:",
    "waves: [8, 16]",
    "retry: { attempts: ",
    "{{ target.",
    "&a ",
    "*a",
    "<<: ",
    "!!",
    "|\n",
    "\"",
    "}",
    "]",
    ": ",
];

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let which = input.byte();
    let mut text = String::new();
    while !input.is_empty() && text.len() < 4096 {
        let part = input.byte();
        match PARTS.get(usize::from(part)) {
            Some(part) => text.push_str(part),
            None => text.push_str(&String::from_utf8_lossy(input.bytes(usize::from(part) % 16))),
        }
    }
    if which.is_multiple_of(2) {
        let outcome = Config::from_yaml(&text, "fuzz.yaml", &|name| (name == "A").then(|| text.clone()));
        // An error is for people: it must be possible to show it.
        drop(outcome.map_err(|e| e.to_string()));
    } else {
        drop(Deployment::from_yaml(&text, "fuzz.yaml").map_err(|e| e.to_string()));
    }
}
