//! Starting the log of a process.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;

use tracing::Subscriber;
use tracing::subscriber::SetGlobalDefaultError;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, fmt, reload};

use crate::level::{LevelError, Levels};
use crate::rotate::RotatingFile;

/// The environment variable that overrides [`LogSettings::level`].
pub const LEVEL_VARIABLE: &str = "PCCL_LOG_LEVEL";

/// What is logged, and where to: the `logging` section of a configuration.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// A level, or a level with others for single modules: `info,pccl_net=debug`.
    pub level: String,
    /// Where JSON lines go. Without a file, text goes to standard error.
    pub file: Option<PathBuf>,
    /// The size at which the file is moved aside and started anew; 0 for never.
    pub max_size_mb: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), file: None, max_size_mb: 100 }
    }
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// `logging.level` is not understood.
    #[error("failed to start logging: `logging.level`: {0}")]
    Level(#[source] LevelError),
    /// `PCCL_LOG_LEVEL` is not understood.
    #[error("failed to start logging: environment variable {LEVEL_VARIABLE}: {0}")]
    LevelVariable(#[source] LevelError),
    /// The log file cannot be written.
    #[error(
        "failed to start logging: cannot open `{}`: {source}; \
         name a file that this user may write in `logging.file`, or leave it out to log to standard error",
        path.display()
    )]
    File {
        /// The file that `logging.file` names.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The process logs already.
    #[error(
        "failed to start logging: this process has a `tracing` subscriber already; call `init` once, and not from a library"
    )]
    AlreadyStarted(#[source] SetGlobalDefaultError),
}

/// Starts the log of this process: call it once, in `main`.
///
/// Text goes to standard error if that is a terminal or if no file is set; JSON lines go to the file if one is set.
pub fn init(settings: &LogSettings) -> Result<(), LogError> {
    let variable = std::env::var(LEVEL_VARIABLE).ok();
    let text = settings.file.is_none() || io::stderr().is_terminal();
    let subscriber =
        subscriber(settings, variable.as_deref(), text.then_some(io::stderr as fn() -> io::Stderr))?;
    tracing::subscriber::set_global_default(subscriber).map_err(LogError::AlreadyStarted)
}

/// The levels of a log that runs.
#[derive(Clone, Debug)]
pub struct LogHandle(reload::Handle<Targets, Registry>);

impl LogHandle {
    /// From here on these count: `info,pccl_net=debug`.
    ///
    /// # Errors
    /// A level that nobody can follow; then all stays as it was.
    pub fn set(&self, levels: &str) -> Result<(), LevelError> {
        let levels: Levels = levels.parse()?;
        if let Err(error) = self.0.reload(levels.targets()) {
            tracing::warn!("the levels of the log stay as they were: {error}");
        }
        Ok(())
    }
}

/// As [`init`], but the settings have the last word, also over [`LEVEL_VARIABLE`], and the levels can be changed later.
///
/// # Errors
/// As `init`.
pub fn init_changeable(settings: &LogSettings) -> Result<LogHandle, LogError> {
    let levels = settings.level.parse::<Levels>().map_err(LogError::Level)?;
    let text = settings.file.is_none() || io::stderr().is_terminal();
    let text = text.then_some(io::stderr as fn() -> io::Stderr);
    let (filter, handle) = reload::Layer::new(levels.targets());
    let subscriber = Registry::default().with(filter).with(text_layer(text)).with(json_layer(settings)?);
    tracing::subscriber::set_global_default(subscriber).map_err(LogError::AlreadyStarted)?;
    Ok(LogHandle(handle))
}

/// Lines for people.
fn text_layer<S, W>(writer: Option<W>) -> Option<impl Layer<S>>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    writer.map(|writer| fmt::layer().with_writer(writer).with_ansi(wants_color()))
}

/// Lines of JSON in a file.
fn json_layer<S>(settings: &LogSettings) -> Result<Option<impl Layer<S> + use<S>>, LogError>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    let Some(path) = &settings.file else { return Ok(None) };
    let file = RotatingFile::open(path, settings.max_size_mb.saturating_mul(1_000_000))
        .map_err(|source| LogError::File { path: path.clone(), source })?;
    Ok(Some(fmt::layer().json().flatten_event(true).with_writer(Arc::new(file))))
}

/// What [`init`] installs, for a program (or a test) that wants to place it itself.
///
/// `level_variable` is the value of [`LEVEL_VARIABLE`], if set; `text` receives lines for people, if given.
pub fn subscriber<W>(
    settings: &LogSettings,
    level_variable: Option<&str>,
    text: Option<W>,
) -> Result<impl Subscriber + Send + Sync + use<W>, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let levels = match level_variable.map(str::trim).filter(|value| !value.is_empty()) {
        Some(value) => value.parse::<Levels>().map_err(LogError::LevelVariable)?,
        None => settings.level.parse::<Levels>().map_err(LogError::Level)?,
    };
    Ok(Registry::default().with(text_layer(text)).with(json_layer(settings)?).with(levels.targets()))
}

/// Colour is for a person at a terminal that has it, who has not said no to it (<https://no-color.org>).
fn wants_color() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    io::stderr().is_terminal() && !dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn run(settings: &LogSettings, variable: Option<&str>, program: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = subscriber(settings, variable, Some(move || writer.clone())).unwrap();
        tracing::subscriber::with_default(subscriber, program);
        memory.text()
    }

    fn settings(level: &str, file: Option<&Path>) -> LogSettings {
        LogSettings { level: level.to_owned(), file: file.map(Path::to_owned), max_size_mb: 1 }
    }

    fn say_both() {
        tracing::info!("the info");
        tracing::debug!("the debug");
    }

    fn refused(settings: &LogSettings, variable: Option<&str>) -> LogError {
        match subscriber(settings, variable, None::<fn() -> io::Stderr>) {
            Ok(_) => panic!("{settings:?} was accepted"),
            Err(error) => error,
        }
    }

    #[test]
    fn the_level_decides_and_the_variable_wins() {
        let info = settings("INFO", None);
        let text = run(&info, None, say_both);
        assert!(text.contains("the info") && !text.contains("the debug"), "{text}");
        let text = run(&info, Some("warn"), say_both);
        assert_eq!(text, "");
        let text = run(&info, Some("warn,pccl_observe=debug"), say_both);
        assert!(text.contains("the info") && text.contains("the debug"), "{text}");
        let text = run(&info, Some("  "), say_both);
        assert!(text.contains("the info"), "an empty variable counts as none: {text}");
    }

    #[test]
    fn the_file_gets_one_json_object_a_line_beside_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/worker.log");
        let text = run(&settings("info", Some(&path)), None, || {
            tracing::warn!(peer = 3, why = "silent for 500 ms", "peer expelled");
            say_both();
        });
        assert!(text.contains("peer expelled"), "{text}");
        let lines: Vec<serde_json::Value> = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["message"], "peer expelled");
        assert_eq!(lines[0]["peer"], 3);
        assert_eq!(lines[0]["why"], "silent for 500 ms");
        assert_eq!(lines[1]["message"], "the info");
    }

    #[test]
    fn a_long_log_rotates_and_every_file_is_whole_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.log");
        run(&settings("info", Some(&path)), None, || {
            let filler = "x".repeat(900);
            for n in 0..2_500 {
                tracing::info!(n, filler, "line");
            }
        });
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder.path()).unwrap() {
            let file = entry.unwrap().path();
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.len() <= 1_000_000, "{} is {} bytes long", file.display(), text.len());
            for line in text.lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                numbers.push(line["n"].as_u64().unwrap());
            }
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..2_500).collect::<Vec<_>>());
        assert!(folder.path().join("worker.log.2").exists());
        assert!(!folder.path().join("worker.log.3").exists());
    }

    #[test]
    fn errors_name_the_setting_the_value_and_a_way_out() {
        let message = refused(&settings("loud", None), None).to_string();
        assert!(message.contains("`logging.level`") && message.contains("`loud`"), "{message}");
        let message = refused(&settings("info", None), Some("pccl_net=loud")).to_string();
        assert!(message.contains(LEVEL_VARIABLE) && message.contains("`pccl_net=loud`"), "{message}");
        let folder = tempfile::tempdir().unwrap();
        let message = refused(&settings("info", Some(folder.path())), None).to_string();
        assert!(message.contains("logging.file"), "{message}");
        assert!(message.contains(&folder.path().display().to_string()), "{message}");
    }
}
