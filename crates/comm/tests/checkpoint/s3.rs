//! In an object store: a real server that speaks S3, from PyPI.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pccl::{CheckpointOptions, Checkpoints};

use crate::crew::{State, master, members, step, until};

/// More than one part of a multipart upload, for each of two peers.
const WEIGHTS: usize = 5 << 20;
const BUCKET: &str = "pccl-test";

/// `moto_server`: where `cargo xtask tools` put it, or on the PATH.
fn program() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/venv/bin/moto_server");
    if ours.exists() { ours } else { PathBuf::from("moto_server") }
}

struct S3 {
    child: Child,
    addr: SocketAddr,
}

impl S3 {
    fn start() -> Self {
        // The port is free now, and somebody may take it before the server does: then another one.
        for _ in 0..20 {
            let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let child = Command::new(program())
                .args(["-H", "127.0.0.1", "-p", &addr.port().to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|e| {
                    panic!("moto_server cannot be started: {e}; run `cargo xtask tools` first")
                });
            let mut s3 = Self { child, addr };
            let mut ended = false;
            until("the S3 server", || {
                ended = s3.child.try_wait().unwrap().is_some();
                ended
                    || s3.put(&format!("/{BUCKET}")).is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
            });
            if !ended {
                return s3;
            }
        }
        panic!("moto_server ends at once, on any port");
    }

    fn put(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.addr).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n",
            self.addr
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a process of its own: the address of the server is an environment variable.
#[test]
fn checkpoints_in_an_object_store() {
    const INSIDE: &str = "PCCL_TEST_INSIDE_S3";
    if std::env::var_os(INSIDE).is_some() {
        return write_and_restore();
    }
    let s3 = S3::start();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["s3::checkpoints_in_an_object_store", "--exact", "--nocapture"])
        .envs([
            (INSIDE, "1".to_owned()),
            ("AWS_ENDPOINT", format!("http://{}", s3.addr)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ])
        .status()
        .unwrap();
    assert!(status.success());
}

fn write_and_restore() {
    let url = format!("s3://{BUCKET}/runs/one");
    let master = master();
    let peers = members(&master, 2, &CheckpointOptions::new(&url).interval_steps(1).keep(2));
    for revision in 1..=3 {
        step(&peers, WEIGHTS, revision);
    }
    drop(peers);
    let checkpoints = Checkpoints::open(&url).unwrap();
    let list = checkpoints.list().unwrap();
    assert_eq!(list.iter().map(|c| c.revision).collect::<Vec<_>>(), [3, 2], "{list:?}");
    checkpoints.verify(&list[1]).unwrap();
    let mut state = State::zero(WEIGHTS);
    checkpoints.restore(&list[0], &mut state.shared(0)).unwrap();
    assert!(state == State::at(WEIGHTS, 3));
    // Next to it is nothing, which is no error; a bucket that does not exist is one, and it is named.
    assert_eq!(Checkpoints::open(&format!("s3://{BUCKET}/runs/two")).unwrap().list().unwrap(), []);
    let error = Checkpoints::open("s3://no-such-bucket/x").unwrap().list().unwrap_err().to_string();
    assert!(error.contains("s3://no-such-bucket/x"), "{error}");
}
