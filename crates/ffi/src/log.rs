//! The log of a program that uses the library: errors and warnings on standard error, by `PCCL_LOG_LEVEL` more or less.

use pccl_observe::LogSettings;

/// PCCL's names for what others name otherwise.
fn level(variable: &str) -> String {
    match variable.to_ascii_uppercase().as_str() {
        "ERR" | "FATAL" | "BUG" => "error".to_owned(),
        "NONE" => "off".to_owned(),
        _ => variable.to_owned(),
    }
}

/// Starts it, unless the program has one.
pub(crate) fn start() {
    let settings = LogSettings { level: "warn".to_owned(), ..LogSettings::default() };
    let variable = std::env::var(pccl_observe::LEVEL_VARIABLE).ok().map(|v| level(&v));
    let log = |variable: Option<&str>| {
        pccl_observe::subscriber(&settings, variable, Some(std::io::stderr as fn() -> std::io::Stderr))
    };
    // A level that nobody understands must not end the caller's program.
    if let Ok(subscriber) = log(variable.as_deref()).or_else(|_| log(None)) {
        // A program that has a subscriber of its own keeps it.
        let _ = tracing::subscriber::set_global_default(subscriber);
    }
}
