//! What the end-to-end tests share: running the program, and waiting for conditions instead of times.
#![allow(dead_code, reason = "every test file uses a part of it")]

pub(crate) mod postgres;
pub(crate) mod site;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// So long a condition may take on a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program, without what the caller's environment says to it.
pub(crate) fn pccl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pccl"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PCCL_") {
            command.env_remove(name);
        }
    }
    // The port of metrics is one for the whole machine.
    command.env("PCCL_METRICS_ADDRESS", "off");
    command.args(args).current_dir(std::env::temp_dir()).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    pccl(args).output().expect("pccl starts")
}

/// What it printed, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output as JSON objects, one a line.
pub(crate) fn objects(output: &Output) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text(&output.stdout).lines().map(parse).collect()
}

/// Asserts a good end.
pub(crate) fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
}

/// Asserts one clear error: exit code, one `error:`, a hint, all of `words`, and nothing on standard output.
pub(crate) fn refused(output: &Output, code: i32, words: &[&str]) {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    assert!(stderr.contains("hint: "), "{stderr}");
    assert_eq!(stdout, "");
    for word in words {
        assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
}

/// Waits until `condition` gives something.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} does not happen");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A program that runs until the test ends.
pub(crate) struct Running {
    /// The process.
    pub(crate) child: Child,
    lines: Receiver<String>,
    complaints: Arc<Mutex<Vec<u8>>>,
}

impl Running {
    /// Starts it with standard output to read from. A thread reads it all the time: who prints must never wait for us.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pccl starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let complaints = Arc::new(Mutex::new(Vec::new()));
        keep(child.stderr.take().expect("a pipe"), complaints.clone());
        let (said, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).all(|line| said.send(line).is_ok()));
        Self { child, lines, complaints }
    }

    /// The next line that contains `word`.
    pub(crate) fn line_with(&mut self, word: &str) -> String {
        let line = self.lines.iter().find(|line| line.contains(word));
        line.unwrap_or_else(|| panic!("it ended without saying `{word}`"))
    }

    /// Where a master says that it listens.
    pub(crate) fn listening(&mut self) -> String {
        let line = self.line_with("listening on ");
        line.trim_start_matches("listening on ").split(',').next().unwrap_or_default().to_owned()
    }

    /// All it prints until its end.
    pub(crate) fn rest(&mut self) -> String {
        self.lines.iter().map(|line| line + "\n").collect()
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let said = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("what process {} wrote to standard error:\n{}", self.child.id(), text(&said));
        }
    }
}

/// Reads all that comes, so that nobody waits for us, into `kept`.
fn keep(mut from: impl Read + Send + 'static, kept: Arc<Mutex<Vec<u8>>>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..n]);
        }
    });
}

/// A master with its state in memory on a free port, with its address.
pub(crate) fn master() -> (Running, String) {
    let mut command = pccl(&["master", "--listen", "127.0.0.1:0"]);
    command.env("PCCL_STORE__KIND", "memory").env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
    let mut master = Running::start(command);
    let addr = master.listening();
    (master, addr)
}

/// Sends a signal by name: `KILL`, `STOP`, `INT`.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill runs").success());
}

/// The processes that `parent` has started.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether a process runs, or is stopped; one that only waits to be reaped does not.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name is in brackets and may contain anything; the state follows the last of them.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// A safetensors file with one f32 tensor per name, each of `count` values.
pub(crate) fn write_model(path: &Path, names: &[&str], count: usize) {
    use safetensors::tensor::{Dtype, TensorView};
    let data: Vec<u8> = (0..count).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let view = || TensorView::new(Dtype::F32, vec![count], &data).expect("a tensor");
    let views = names.iter().map(|name| (*name, view()));
    std::fs::write(path, safetensors::serialize(views, None).expect("a file")).expect("a writable folder");
}
