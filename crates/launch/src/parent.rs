//! The child's side of a [`crew`](crate::crew): its orders, its reports, and its end.

use std::io::{self, BufRead, Write};
use std::thread;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why there are no more orders.
#[derive(Debug)]
pub enum NoOrders {
    /// The parent has ended, or wants this process to end: nobody is left to report to.
    Over,
    /// An order that this process does not understand, and why.
    NotUnderstood(String),
}

/// Has the kernel kill this process, also a stopped one, when its parent has ended.
pub fn die_with_parent() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        // Where the kernel refuses, the end of standard input still ends us.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
    }
}

/// Hands every order of the parent to `handle`, on a thread of its own, and then says by `end` why there are no more:
/// that should end this process.
pub fn follow<T: DeserializeOwned>(
    mut handle: impl FnMut(T) + Send + 'static,
    end: impl FnOnce(NoOrders) + Send + 'static,
) {
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str(&line) {
                Ok(order) => handle(order),
                Err(error) => {
                    let what = format!("failed to understand the order `{line}`: {error}");
                    return end(NoOrders::NotUnderstood(what));
                }
            }
        }
        end(NoOrders::Over);
    });
}

/// Reports one event on standard output. Without a reader it fails, and this process has no purpose any more.
pub fn say(event: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(event).unwrap_or_else(|error| format!("\"{error}\""));
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())
}
