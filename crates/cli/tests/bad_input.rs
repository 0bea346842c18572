//! Bad input: one clear error each, naming what, where and the fix, with its exit code.

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::thread;

use common::{pccl, refused, run, text, write_model};

const USAGE: i32 = 2;
const CONFIG: i32 = 3;
const CONNECT: i32 = 4;
const PORT: i32 = 5;
const INPUT: i32 = 6;
const SYSTEM: i32 = 8;

#[test]
fn a_configuration_key_that_does_not_exist() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.yaml");
    fs::write(&path, "network:\n  master_hots: somewhere\n").unwrap();
    for command in ["master", "worker"] {
        let output = run(&[command, "--config", path.to_str().unwrap()]);
        refused(
            &output,
            CONFIG,
            &["failed to ", "my.yaml:2:3", "master_hots", "did you mean `master_host`?"],
        );
    }
}

#[test]
fn a_key_that_is_missing_and_a_file_that_is_not_there() {
    refused(
        &run(&["worker"]),
        USAGE,
        &["failed to find a master", "--master", "PCCL_MASTER", "network.master_host"],
    );
    let output = run(&["worker", "--config", "/nowhere/pccl_config.yaml"]);
    refused(&output, CONFIG, &["failed to read", "/nowhere/pccl_config.yaml", "--config"]);
}

#[test]
fn security_that_cannot_be_had_is_not_ignored() {
    let output = pccl(&["master"]).env("PCCL_AUTH_SECRET", "0123456789").output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(CONFIG), "{stderr}");
    assert!(stderr.contains("PCCL_AUTH_SECRET") && stderr.contains("at least 16 bytes"), "{stderr}");
    assert!(!stderr.contains("0123456789"), "{stderr}");
    let output = pccl(&["master"]).env("PCCL_AUTH__SECRET_FILE", "/nowhere/secret").output().unwrap();
    refused(&output, CONFIG, &["/nowhere/secret", "PCCL_AUTH__SECRET_FILE"]);
    let output =
        pccl(&["config", "check"]).env("PCCL_AUTH__SECRET_FILE", "/nowhere/secret").output().unwrap();
    refused(&output, CONFIG, &["/nowhere/secret"]);
    let output = pccl(&["master"]).env("PCCL_AUTH_SECRTE", "0123456789abcdef").output().unwrap();
    refused(&output, CONFIG, &["PCCL_AUTH_SECRTE", "did you mean PCCL_AUTH_SECRET?"]);
    let output = run(&["master", "--listen", "127.0.0.1:0", "--heartbeat-timeout-ms", "150"]);
    refused(&output, USAGE, &["150", "two heartbeats (100 ms each)"]);
    let mut command = pccl(&["master"]);
    command
        .env("PCCL_NETWORK__TLS__CERT_FILE", "/nowhere/crt")
        .env("PCCL_NETWORK__TLS__KEY_FILE", "/nowhere/key");
    let output = command.env("PCCL_NETWORK__TLS__CA_FILE", "/nowhere/ca").output().unwrap();
    refused(&output, CONFIG, &["/nowhere/crt", "pccl cert"]);
}

#[test]
fn a_master_that_is_not_there() {
    // Bound and not listening: nobody else gets the port, and connections are refused.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    refused(&run(&["status", "--master", &addr]), CONNECT, &["failed to ask the master", &addr]);
    refused(
        &run(&["worker", "--bytes", "4KiB", "--master", &addr, "--connect-timeout", "2"]),
        CONNECT,
        &["failed to reach a master", &addr, "connection refused", "pccl master"],
    );
}

#[test]
fn something_else_where_the_master_should_be() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    refused(&run(&["status", "--master", &addr]), CONNECT, &["failed to ask the master", &addr]);
    refused(
        &run(&["worker", "--bytes", "4KiB", "--master", &addr, "--connect-timeout", "2"]),
        CONNECT,
        &["failed to reach a master", &addr, "another program"],
    );
}

/// It sends back what every frame begins with, but for the version in the fourth byte.
#[test]
fn a_master_of_another_version() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut prefix) = (stream.unwrap(), [0; 8]);
            if stream.read_exact(&mut prefix).is_ok() {
                prefix[3] += 1;
                let _ = stream.write_all(&prefix);
                // Until the other side closes: a reset could overtake the answer.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        }
    });
    refused(&run(&["status", "--master", &addr]), CONNECT, &["failed to ask the master", &addr, "version"]);
    let worker = run(&["worker", "--master", &addr, "--bytes", "4KiB", "--connect-timeout", "2"]);
    refused(&worker, CONNECT, &["failed to reach a master", &addr, "version"]);
}

#[test]
fn interfaces_that_are_not_there() {
    for command in
        [&["master"][..], &["worker", "--master", "127.0.0.1:1"], &["check", "--serve", "--hosts", "2"]]
    {
        let output = pccl(command).env("PCCL_NETWORK__BIND_ADDRESS", "no-such0").output().unwrap();
        refused(&output, CONFIG, &["no interface `no-such0`", "(127.0.0.1)", "PCCL_NETWORK__BIND_ADDRESS"]);
    }
}

#[test]
fn ports_that_are_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let output =
        pccl(&["master", "--listen", &addr.to_string()]).env("PCCL_STORE__KIND", "memory").output().unwrap();
    refused(&output, PORT, &["failed to ", &addr.to_string()]);
    let mut worker = pccl(&["worker", "--master", "127.0.0.1:1", "--bytes", "4KiB"]);
    worker.env("PCCL_NETWORK__P2P_PORTS", addr.port().to_string()).env("PCCL_NETWORK__BIND_ADDRESS", "lo");
    refused(&worker.output().unwrap(), PORT, &["failed to ", &addr.port().to_string(), "p2p_ports"]);
}

#[test]
fn a_model_that_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_model(&path, &["a"], 1000);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let path = path.to_str().unwrap();
    for command in [&["up", "--input", path][..], &["worker", "--master", "127.0.0.1:1", "--input", path]] {
        refused(&run(command), INPUT, &["failed to read", "model.safetensors", "it is cut off"]);
    }
    refused(
        &run(&["up", "--input", "/nowhere/m.safetensors"]),
        INPUT,
        &["failed to read /nowhere/m.safetensors"],
    );
}

#[test]
fn command_lines_without_sense() {
    let refused_sizes = [("64MB", "KiB, MiB, GiB"), ("7", "multiple of 4"), ("0", "multiple of 4")];
    for (size, word) in refused_sizes {
        let output = run(&["up", "--bytes", size]);
        assert_eq!(output.status.code(), Some(USAGE));
        assert!(text(&output.stderr).contains(word), "{}", text(&output.stderr));
    }
    refused(&run(&["up", "--workers", "1", "--chaos", "kill"]), USAGE, &["nobody survives", "--workers 2"]);
    refused(&run(&["bench", "--bytes", "6", "--peers", "2"]), USAGE, &["6B", "f32", "multiples of 4"]);
}

#[test]
fn output_that_gets_nowhere_is_no_success_and_no_panic() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = pccl(&["config", "schema"]).stdout(full()).output().unwrap();
    refused(&output, SYSTEM, &["failed to write standard output", "No space left"]);
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let status = pccl(&["status", "--master", "127.0.0.1:1"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(CONNECT));
    // A reader that has seen enough is no failure.
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let status = pccl(&["config", "schema"]).stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_role_of_the_configuration_decides_without_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.yaml");
    fs::write(&path, "role: worker\n").unwrap();
    let file = path.to_str().unwrap();
    refused(&run(&["--config", file]), USAGE, &["failed to find a master"]);
    let output = pccl(&["--config", file]).env("PCCL_ROLE", "boss").output().unwrap();
    assert_eq!(output.status.code(), Some(CONFIG));
    assert!(text(&output.stderr).contains("PCCL_ROLE: role must be one of master, standby, worker"));
}

#[test]
fn certificates_for_names_that_nobody_can_call() {
    let folder = tempfile::tempdir().unwrap();
    let issue = |name| run(&["cert", "issue", name, "--dir", folder.path().to_str().unwrap()]);
    assert!(run(&["cert", "init", "--dir", folder.path().to_str().unwrap()]).status.success());
    for name in ["", "a b", "../up", "host:7117", "https://host"] {
        refused(&issue(name), USAGE, &["failed to understand the name"]);
    }
    for name in ["*.team.example.com", "::1", "10.0.0.7"] {
        assert!(issue(name).status.success(), "{name}");
    }
}
