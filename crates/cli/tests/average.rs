//! `pccl average`: several processes, each with a model of its own, end with the same one.

mod common;

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use common::{master, pccl, refused, succeeded};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

const INPUT: i32 = 6;

/// A model of three types: values that depend on the machine, and a mask that does not.
fn write_model(path: &Path, machine: u16, columns: usize) {
    let floats: Vec<u8> =
        (0..2 * columns).flat_map(|i| (i as f32 + f32::from(machine)).to_le_bytes()).collect();
    let steps: Vec<u8> = [i64::from(machine) * 10, -7].iter().flat_map(|v| v.to_le_bytes()).collect();
    let mask = vec![1_u8, 0, 1];
    let tensors = [
        ("layer.weight", TensorView::new(Dtype::F32, vec![2, columns], &floats).expect("a valid model")),
        ("mask", TensorView::new(Dtype::BOOL, vec![3], &mask).expect("a valid model")),
        ("steps", TensorView::new(Dtype::I64, vec![2], &steps).expect("a valid model")),
    ];
    fs::write(path, safetensors::serialize(tensors, None).expect("a valid model")).expect("a valid model");
}

/// One of so many, or of whoever comes.
fn start(master: &str, input: &Path, output: &Path, peers: Option<&str>) -> Child {
    let (input, output) = (input.display().to_string(), output.display().to_string());
    let mut command = pccl(&["average", "--master", master, &input, "-o", &output]);
    command.args(peers.map_or(["--wait", "5"], |peers| ["--peers", peers]));
    command.env("PCCL_NETWORK__P2P_PORTS", "24000-26999").stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("pccl starts")
}

fn outputs(children: Vec<Child>) -> Vec<Output> {
    children.into_iter().map(|c| c.wait_with_output().expect("its end")).collect()
}

#[test]
fn three_machines_end_with_the_same_averaged_model() {
    three_average(Some("3"));
}

#[test]
fn it_begins_with_whoever_has_come() {
    three_average(None);
}

fn three_average(peers: Option<&str>) {
    let folder = tempfile::tempdir().expect("a valid model");
    let path = |name: &str, i: u16| -> PathBuf { folder.path().join(format!("{name}{i}.safetensors")) };
    let (_master, addr) = master();
    for i in 0..3 {
        write_model(&path("in", i), i, 500);
    }
    let children = (0..3).map(|i| start(&addr, &path("in", i), &path("out", i), peers)).collect();
    for output in outputs(children) {
        succeeded(&output);
    }
    let results: Vec<Vec<u8>> = (0..3).map(|i| fs::read(path("out", i)).expect("a valid model")).collect();
    assert!(results.iter().all(|r| *r == results[0]), "all have the same bytes");
    let model = SafeTensors::deserialize(&results[0]).expect("a valid model");
    let weight = model.tensor("layer.weight").expect("a valid model");
    assert_eq!((weight.dtype(), weight.shape()), (Dtype::F32, &[2, 500][..]));
    for (i, value) in weight.data().chunks_exact(4).enumerate() {
        // The machines add 0, 1 and 2: one on average, exactly.
        assert_eq!(value, (i as f32 + 1.0).to_le_bytes());
    }
    let steps: Vec<i64> = model
        .tensor("steps")
        .expect("a valid model")
        .data()
        .chunks_exact(8)
        .map(|v| i64::from_le_bytes(v.try_into().expect("a valid model")))
        .collect();
    assert_eq!(steps, [10, -7]);
    assert_eq!(model.tensor("mask").expect("a valid model").data(), [1, 0, 1]);
}

#[test]
fn a_model_of_another_shape_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, i: u16| folder.path().join(format!("{name}{i}.safetensors"));
    let (_master, addr) = master();
    write_model(&path("in", 0), 0, 500);
    write_model(&path("in", 1), 1, 501);
    fs::write(path("out", 0), b"as it was").unwrap();
    let children = (0..2).map(|i| start(&addr, &path("in", i), &path("out", i), Some("2"))).collect();
    for output in outputs(children) {
        refused(&output, INPUT, &["failed to average", "names, types or shapes", "127.0.0.1:"]);
    }
    assert_eq!(fs::read(path("out", 0)).unwrap(), b"as it was");
    assert!(!path("out", 1).exists());
}

#[test]
fn a_cut_file_and_a_missing_folder_are_refused_before_anybody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.safetensors");
    let cut = folder.path().join("cut.safetensors");
    write_model(&whole, 0, 500);
    let bytes = fs::read(&whole).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 9]).unwrap();
    // Nobody listens there: it must not come to that.
    let nobody = "127.0.0.1:9";
    let output = outputs(vec![start(nobody, &cut, &folder.path().join("o"), Some("1"))]).remove(0);
    refused(&output, INPUT, &["cut.safetensors", "it is cut off"]);
    let output = outputs(vec![start(nobody, &whole, &folder.path().join("no/o"), Some("1"))]).remove(0);
    refused(&output, 2, &["is no folder"]);
    // What is no ordinary file stays what it is.
    let device = folder.path().join("device");
    let _socket = UnixListener::bind(&device).unwrap();
    let output = outputs(vec![start(nobody, &whole, &device, Some("1"))]).remove(0);
    refused(&output, 2, &["name an ordinary file"]);
    assert!(UnixStream::connect(&device).is_ok());
}
