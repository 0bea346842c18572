//! Why a master cannot be reached: each cause made for real.

mod common;

use std::ffi::OsStr;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{causes, examined, finds, master, pccl, pccl_on};
use pccl_link::{Network, NetworkOptions, Shape};

const SECRET: &str = "b7c1f0e2-the-secret-of-this-fleet";

fn doctor(symptom: &str, master: &str) -> Command {
    patient("20", symptom, master)
}

/// With so many seconds of patience: few where nobody will answer.
fn patient(seconds: &str, symptom: &str, master: &str) -> Command {
    pccl(&["doctor", symptom, "--master", master, "--timeout", seconds, "--watch-ms", "100"])
}

#[test]
fn a_port_where_nobody_listens_and_a_name_that_leads_nowhere() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let said = examined(doctor("cant-connect", &free.to_string()));
    finds(&said, "nobody_listens", &["refused", "ss -ltnp"]);
    // What was not measured is said.
    let unmeasured = said.1["unmeasured"].to_string();
    assert!(unmeasured.contains("no master gave its status"), "{unmeasured}");
    let said = examined(doctor("master-unreachable", "no-such-name.invalid:7117"));
    finds(&said, "name_unknown", &["no-such-name.invalid", "network.master_host"]);
    finds(
        &examined(pccl(&["doctor", "cant-connect", "--watch-ms", "100"])),
        "no_master_given",
        &["--master"],
    );
}

#[test]
fn another_program_on_the_port_and_one_that_says_nothing() {
    let chatty = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = chatty.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for mut stream in chatty.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n this is long enough for any header\r\n");
            thread::sleep(Duration::from_millis(200));
        }
    });
    finds(&examined(doctor("cant-connect", &addr)), "not_a_master", &["another program"]);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = silent.local_addr().expect("an address").to_string();
    let own = format!("process {} ", std::process::id());
    finds(&examined(patient("1", "cant-connect", &addr)), "master_silent", &["no byte within", &own]);
}

#[test]
fn a_master_that_is_well_and_one_that_is_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, addr, metrics) = master(folder.path(), &[]);
    let (code, said) = examined({
        let mut command = doctor("master-unreachable", &addr);
        command.args(["--metrics", &metrics]);
        command
    });
    assert_eq!((code, causes(&said).is_empty()), (0, true), "{said:#}");
    let healthy = said["healthy"].to_string();
    assert!(healthy.contains("active, term") && healthy.contains("UDP to"), "{said:#}");
    running.signal("STOP");
    let said = examined(patient("1", "master-unreachable", &addr));
    finds(&said, "master_stopped", &[&format!("kill -CONT {}", running.0.id())]);
    finds(&examined(patient("1", "high-latency", &addr)), "master_stopped", &["state T"]);
}

fn cert(folder: &Path, args: &[&str]) {
    let (first, rest) = args.split_first().expect("a command");
    let at = folder.to_str().expect("UTF-8");
    let output = pccl(&[&["cert", first, "--dir", at], rest].concat()).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The environment of a process with these certificates and the secret.
fn guarded(command: &mut Command, folder: &Path, name: &str) {
    command
        .env("PCCL_NETWORK__TLS__CERT_FILE", folder.join(format!("{name}.crt")))
        .env("PCCL_NETWORK__TLS__KEY_FILE", folder.join(format!("{name}.key")))
        .env("PCCL_NETWORK__TLS__CA_FILE", folder.join("ca.crt"))
        .env("PCCL_AUTH_SECRET", SECRET);
}

fn change(command: &mut Command, name: &str, value: impl AsRef<OsStr>) {
    command.env(name, value);
}

#[test]
fn secrets_and_certificates_that_do_not_fit() {
    let folder = tempfile::tempdir().expect("a folder");
    let certs = folder.path().join("certs");
    cert(&certs, &["init"]);
    cert(&certs, &["issue", "localhost"]);
    let (cert_file, key_file) = (certs.join("localhost.crt"), certs.join("localhost.key"));
    let ca_file = certs.join("ca.crt");
    let set = [
        ("PCCL_NETWORK__TLS__CERT_FILE", cert_file.as_os_str()),
        ("PCCL_NETWORK__TLS__KEY_FILE", key_file.as_os_str()),
        ("PCCL_NETWORK__TLS__CA_FILE", ca_file.as_os_str()),
        ("PCCL_AUTH_SECRET", SECRET.as_ref()),
    ];
    let (_running, addr, _) = master(folder.path(), &set);
    let named = addr.replace("127.0.0.1", "localhost");
    let ask = |master: &str, with: &dyn Fn(&mut Command)| {
        let mut command = doctor("cant-connect", master);
        guarded(&mut command, &certs, "localhost");
        with(&mut command);
        examined(command)
    };
    let (code, said) = ask(&named, &|_| {});
    assert_eq!(code, 0, "{said:#}");
    assert!(said["healthy"].to_string().contains("UDP to"), "{said:#}");
    let wrong = ask(&named, &|c| change(c, "PCCL_AUTH_SECRET", "another secret of that length"));
    finds(&wrong, "secret_differs", &["PCCL_AUTH_SECRET"]);
    assert!(!wrong.1.to_string().contains(SECRET));
    let plain = |c: &mut Command| {
        for key in ["CERT_FILE", "KEY_FILE", "CA_FILE"] {
            c.env_remove(format!("PCCL_NETWORK__TLS__{key}"));
        }
    };
    finds(&ask(&named, &plain), "tls_differs", &["TLS is off here and on there"]);
    finds(&ask(&addr, &|_| {}), "certificate_name", &["names localhost"]);

    let others = folder.path().join("others");
    cert(&others, &["init"]);
    let other_ca = |c: &mut Command| change(c, "PCCL_NETWORK__TLS__CA_FILE", others.join("ca.crt"));
    finds(&ask(&named, &other_ca), "certificate_unknown_authority", &["ca_file"]);

    expired(&certs);
    let said = ask(&named, &|c| guarded(c, &certs, "old"));
    finds(&said, "certificate_expired", &["expired ", " days ago", "pccl cert issue"]);
}

/// A certificate `old` of the authority in the folder whose time was over ten days ago.
fn expired(certs: &Path) {
    let read = |name: &str| std::fs::read_to_string(certs.join(name)).expect("a file");
    let authority_key = rcgen::KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.crt"), authority_key).expect("an authority");
    let mut wanted = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let now = time::OffsetDateTime::now_utc();
    (wanted.not_before, wanted.not_after) = (now - time::Duration::days(90), now - time::Duration::days(10));
    let key = rcgen::KeyPair::generate().expect("a key");
    let old = wanted.signed_by(&key, &issuer).expect("a certificate");
    std::fs::write(certs.join("old.crt"), old.pem()).expect("a file");
    std::fs::write(certs.join("old.key"), key.serialize_pem()).expect("a file");
}

#[test]
fn packets_that_vanish_and_datagrams_that_do() {
    let network = Network::new(&NetworkOptions { hosts: 2, shape: Shape::FREE, ..NetworkOptions::default() });
    let network = network.expect("a network");
    let at = network.address(0).to_string();
    let listen = format!("{at}:7117");
    let mut command = pccl_on(&network, 0, &["master", "--listen", &listen]);
    command.env("PCCL_STORE__KIND", "memory").env("PCCL_METRICS_ADDRESS", "off");
    let _running = common::Running::start(command, "listening on ");
    let doctor = |symptom: &str| {
        // Enough for two repetitions of a lost first packet.
        let line = ["doctor", symptom, "--master", &at, "--timeout", "4", "--watch-ms", "100"];
        examined(pccl_on(&network, 1, &line))
    };
    let (code, said) = doctor("master-unreachable");
    assert_eq!((code, causes(&said).len()), (0, 0), "{said:#}");
    // As a firewall on the way does.
    let swallow = |what: &str| {
        let words = format!("rule add pref 5 {what} blackhole");
        let output = network.command(0, "ip").args(words.split(' ')).output().expect("ip runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    swallow("ipproto udp");
    let (code, said) = doctor("cant-connect");
    assert_eq!((code, causes(&said).first().map(String::as_str)), (0, Some("udp_silent")), "{said:#}");
    assert!(said["findings"][0]["fix"].to_string().contains("7117"), "{said:#}");
    swallow("ipproto tcp sport 7117");
    finds(&doctor("master-unreachable"), "packets_vanish", &["no answer within", "pccl firewall"]);
}

#[test]
fn a_port_for_datagrams_that_is_not_there() {
    // Bytes of a master over TCP, and nobody for datagrams, as behind a forwarder of ports for TCP alone.
    let folder = tempfile::tempdir().expect("a folder");
    let (_running, addr, _) = master(folder.path(), &[]);
    let near = TcpListener::bind("127.0.0.1:0").expect("a port");
    let relayed = near.local_addr().expect("an address");
    thread::spawn(move || {
        for one in near.incoming().map_while(Result::ok) {
            let Ok(far) = std::net::TcpStream::connect(&addr) else { return };
            for (from, to) in [(&one, &far), (&far, &one)] {
                let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    let (_, said) = examined(doctor("frequent-recoveries", &relayed.to_string()));
    // By chance another process may have that port for datagrams, and not answer.
    assert!(causes(&said).iter().any(|cause| cause == "udp_refused" || cause == "udp_silent"), "{said:#}");
}
