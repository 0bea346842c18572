//! Peers that are killed while they write.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use pccl::{CheckpointOptions, Checkpoints, Strategy};

use crate::crew::{State, master, members, step, together, until};

const PLACE: &str = "PCCL_TEST_CHECKPOINTS";
/// Some seconds of writing for each of two peers, at the pace of the background.
const WEIGHTS: usize = 10 << 20;

/// The killed process: a master and two peers, with one complete checkpoint and one on its way.
pub(crate) fn play_role() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let master = master();
    let peers = members(&master, 2, &CheckpointOptions::new(place).interval_steps(1));
    step(&peers, WEIGHTS, 1);
    println!("\nwritten");
    together(&peers, |comm| {
        let mut state = State::at(WEIGHTS, 2);
        comm.synchronize(&mut state.shared(2), Strategy::EnforcePopular).unwrap();
    });
    println!("\nwriting");
    // Whoever started this process kills it; if that one has died, there is nothing to wait for.
    let _ = std::io::stdin().lines().count();
    std::process::exit(0);
}

struct Victim {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Victim {
    fn start(place: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["this_process_may_be_killed", "--exact", "--nocapture", "--test-threads=1"])
            .env(PLACE, place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn says(&mut self, word: &str) {
        assert!(self.lines.by_ref().map_while(Result::ok).any(|line| line == word), "it never said {word}");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes in files of an unfinished checkpoint of revision 2.
fn bytes_of_second(place: &Path) -> u64 {
    let Ok(sets) = fs::read_dir(place.join("group-0")) else { return 0 };
    let second =
        sets.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("r00000000000000000002"));
    let files = second.flat_map(|set| fs::read_dir(set.path()).into_iter().flatten().flatten());
    files.filter_map(|file| file.metadata().ok()).map(|m| m.len()).sum()
}

#[test]
fn a_kill_in_the_middle_leaves_the_one_before_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut victim = Victim::start(dir.path());
    victim.says("written");
    victim.says("writing");
    until("some of the second checkpoint", || bytes_of_second(dir.path()) >= 8 << 20);
    drop(victim);
    assert!(bytes_of_second(dir.path()) < 4 * WEIGHTS as u64, "it was killed in the middle");

    let checkpoints = Checkpoints::open(&dir.path().display().to_string()).unwrap();
    let newest = checkpoints.get(0, None).unwrap();
    assert_eq!(newest.revision, 1);
    checkpoints.verify(&newest).unwrap();
    // New peers, and a new master that knows nothing: they go on from there, and what is left over is swept away.
    let master = master();
    let options = CheckpointOptions::new(dir.path().display().to_string()).interval_steps(3);
    let peers = members(&master, 2, &options);
    let mut state = State::zero(WEIGHTS);
    let mut shared = state.shared(0);
    checkpoints.restore(&newest, &mut shared).unwrap();
    assert_eq!(shared.revision, 1);
    assert!(state == State::at(WEIGHTS, 1));
    assert_eq!(step(&peers, 1000, 2)[0].revision, 2);
    step(&peers, 1000, 3);
    let left: Vec<_> = checkpoints.list().unwrap();
    assert_eq!(left.iter().map(|c| c.revision).collect::<Vec<_>>(), [3, 1], "{left:?}");
}
