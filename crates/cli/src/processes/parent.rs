//! The child's side of a parent: its orders, its reports, and its end.

use std::io::{self, BufRead, Write};
use std::thread;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::Exit;

/// Has the kernel kill this process, also a stopped one, when its parent has ended.
pub(crate) fn die_with_parent() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        // Where the kernel refuses, the end of standard input still ends us.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
    }
}

/// Hands every order of the parent to `handle`, on a thread of its own. When the orders end, this process ends: nobody
/// is left to report to.
pub(crate) fn follow<T: DeserializeOwned>(mut handle: impl FnMut(T) + Send + 'static) {
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str(&line) {
                Ok(order) => handle(order),
                Err(error) => {
                    eprintln!("error: failed to understand the order `{line}`: {error}");
                    std::process::exit(Exit::Usage.code().into());
                }
            }
        }
        std::process::exit(Exit::Success.code().into());
    });
}

/// Reports one event on standard output. Without a reader this process has no purpose, and ends.
pub(crate) fn say(event: &impl Serialize) {
    let line = serde_json::to_string(event).unwrap_or_else(|error| format!("\"{error}\""));
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(Exit::System.code().into());
    }
}
