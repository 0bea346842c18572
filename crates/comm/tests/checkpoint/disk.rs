//! In a directory.

use std::fs;
use std::path::Path;

use pccl::{CheckpointError, CheckpointOptions, Checkpoints, Strategy};
use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::crew::{State, master, members, step, together};

/// Enough for several blocks per peer and for a tensor that is cut.
const WEIGHTS: usize = 20_002;

fn place() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().join("kept/here").display().to_string();
    (dir, url)
}

fn revisions(checkpoints: &Checkpoints) -> Vec<u64> {
    checkpoints.list().unwrap().iter().map(|c| c.revision).collect()
}

#[test]
fn what_is_due_is_written_and_can_be_had_again() {
    let (_dir, url) = place();
    let master = master();
    let options = CheckpointOptions::new(&url).interval_steps(2).keep(2);
    let peers = members(&master, 3, &options);
    for revision in 1..=7 {
        step(&peers, WEIGHTS, revision);
    }
    let checkpoints = Checkpoints::open(&url).unwrap();
    // 2, 4 and 6 were due; two are kept.
    assert_eq!(revisions(&checkpoints), [6, 4]);
    for revision in [None, Some(4)] {
        let info = checkpoints.get(0, revision).unwrap();
        let mut state = State::zero(WEIGHTS);
        let expected = State::at(WEIGHTS, info.revision);
        assert_eq!(checkpoints.verify(&info).unwrap(), 4 * WEIGHTS as u64 + 8 * 3 + 1001);
        let mut shared = state.shared(0);
        let notes = checkpoints.restore(&info, &mut shared).unwrap();
        assert_eq!(
            (shared.revision, notes["step"].as_str()),
            (info.revision, &*(info.revision * 10).to_string())
        );
        assert_eq!(state, expected);
    }
    let error = checkpoints.get(0, Some(2)).unwrap_err();
    assert!(error.to_string().contains("no complete one of revision 2"), "{error}");
    assert_eq!(checkpoints.find(1, None).unwrap(), None);
    drop(peers);
}

#[test]
fn one_more_is_written_on_demand() {
    let (_dir, url) = place();
    let master = master();
    let peers = members(&master, 2, &CheckpointOptions::new(&url).interval_steps(0));
    step(&peers, WEIGHTS, 1);
    together(&peers, |comm| {
        let mut state = State::at(WEIGHTS, 2);
        let mut shared = state.shared(2).checkpoint(true);
        comm.synchronize(&mut shared, Strategy::EnforcePopular).unwrap();
        assert!(comm.finish_checkpoint(crate::crew::HANG));
    });
    assert_eq!(revisions(&Checkpoints::open(&url).unwrap()), [2]);
}

#[test]
fn when_every_peer_has_died_new_ones_go_on_from_the_newest() {
    let (_dir, url) = place();
    let master = master();
    let options = CheckpointOptions::new(&url).interval_steps(10);
    let peers = members(&master, 2, &options);
    // The run goes on behind its checkpoint, and is lost.
    for revision in 10..=13 {
        step(&peers, WEIGHTS, revision);
    }
    drop(peers);
    let peers = members(&master, 3, &options);
    let infos = together(&peers, |comm| {
        let mut state = State::zero(WEIGHTS);
        let mut shared = state.shared(0);
        let checkpoints = Checkpoints::open(&url).unwrap();
        checkpoints.restore(&checkpoints.get(0, None).unwrap(), &mut shared).unwrap();
        shared.revision += 1;
        let info = comm.synchronize(&mut shared, Strategy::EnforcePopular).unwrap();
        assert_eq!(state, State::at(WEIGHTS, 10));
        info
    });
    assert!(infos.iter().all(|i| i.revision == 11 && i.changed.is_empty()), "{infos:?}");
    // The same master, the same rules: from here it is a run like any other.
    assert_eq!(step(&peers, WEIGHTS, 12)[0].revision, 12);
}

#[test]
fn shards_and_export_are_safetensors_files_with_names_and_shapes() {
    let (dir, url) = place();
    let master = master();
    let peers = members(&master, 3, &CheckpointOptions::new(&url).interval_steps(1));
    step(&peers, WEIGHTS, 5);
    let checkpoints = Checkpoints::open(&url).unwrap();
    let info = checkpoints.get(0, None).unwrap();
    let mut names = Vec::new();
    let mut sizes = Vec::new();
    for rank in 0..3 {
        let path = Path::new(&url).join(&info.name).join(format!("shard-{rank:04}-of-0003.safetensors"));
        let bytes = fs::read(path).unwrap();
        sizes.push(bytes.len());
        names.extend(SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(str::to_owned));
    }
    assert!(
        names.contains(&"odd".to_owned()) && names.iter().any(|n| n.starts_with("weights[")),
        "{names:?}"
    );
    assert!(sizes.iter().all(|n| *n < 4 * WEIGHTS / 2), "not everybody writes everything: {sizes:?}");
    let file = dir.path().join("model.safetensors");
    let written = checkpoints.export(&info, &file).unwrap();
    let bytes = fs::read(&file).unwrap();
    assert_eq!(written, bytes.len() as u64);
    let model = SafeTensors::deserialize(&bytes).unwrap();
    let weights = model.tensor("weights").unwrap();
    assert_eq!(weights.shape(), [2, WEIGHTS / 2]);
    let expected: Vec<u8> = State::at(WEIGHTS, 5).weights.iter().flat_map(|v| v.to_le_bytes()).collect();
    assert!(weights.data() == expected, "the weights are those of the revision");
    let tensors = checkpoints.tensors(&info).unwrap();
    assert_eq!(tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["odd", "steps", "weights"]);
}

#[test]
fn damage_anywhere_is_found_and_named() {
    let (_dir, url) = place();
    let master = master();
    let peers = members(&master, 2, &CheckpointOptions::new(&url).interval_steps(1));
    step(&peers, WEIGHTS, 1);
    drop(peers);
    let checkpoints = Checkpoints::open(&url).unwrap();
    let info = checkpoints.get(0, None).unwrap();
    let folder = Path::new(&url).join(&info.name);
    checkpoints.verify(&info).unwrap();
    let is_damaged = |what: &str| {
        let error = checkpoints.verify(&info).unwrap_err();
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{what}: {error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
    };
    let spoil = |file: &str, change: &dyn Fn(&mut Vec<u8>), what: &str| {
        let path = folder.join(file);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        is_damaged(what);
        fs::write(&path, whole).unwrap();
    };
    let shard = "shard-0001-of-0002.safetensors";
    spoil(shard, &|b| *b.last_mut().unwrap() ^= 1, "tensor \"weights\" is not what was written");
    spoil(shard, &|b| b.truncate(b.len() - 1), "shard-0001-of-0002.safetensors has");
    let replaced = |from: &'static str, to: &'static str| {
        move |b: &mut Vec<u8>| *b = String::from_utf8(b.clone()).unwrap().replacen(from, to, 1).into_bytes()
    };
    spoil("manifest.json", &replaced("\"weights\"", "\"weight5\""), "another checksum");
    spoil("manifest.json", &replaced("10001", "10002"), "another checksum");
    spoil("manifest.json", &|b| b.truncate(b.len() / 2), "cannot be parsed");
    fs::remove_file(folder.join(shard)).unwrap();
    is_damaged("is missing");
    // Other tensors than those here are refused before anything is read.
    let mut state = State::zero(WEIGHTS - 2);
    let error = checkpoints.restore(&info, &mut state.shared(0)).unwrap_err();
    assert!(matches!(error, CheckpointError::Unfit { .. }), "{error}");
    assert!(error.to_string().contains("tensor \"weights\" has 80008 bytes"), "{error}");
}

#[test]
fn a_place_that_cannot_be_written_is_refused_at_once() {
    let master = master();
    let options = pccl::Options::new(master.addr().to_string())
        .ports(pccl::Ports::Any)
        .checkpoints(CheckpointOptions::new("/proc/nowhere"));
    let error = pccl::Communicator::connect(&options).err().unwrap();
    assert!(error.to_string().contains("/proc/nowhere"), "{error}");
}
