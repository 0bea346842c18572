//! A fleet under TLS and a shared secret, and whoever does not belong to it.

mod common;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{Running, children, pccl, refused, run, signal, succeeded, text, until};

const SECRET: &str = "b7c1f0e2-the-secret-of-this-fleet";

/// A folder with an authority and the configuration of a fleet.
struct Fleet {
    folder: tempfile::TempDir,
}

/// A process, its log, and where it shows its metrics.
struct Part {
    running: Running,
    log: PathBuf,
    metrics: String,
}

impl Part {
    fn start(mut command: Command, log: PathBuf) -> Self {
        command.env("PCCL_METRICS_ADDRESS", "127.0.0.1:0").env("PCCL_LOGGING__FILE", &log);
        let running = Running::start(command);
        let metrics = until("an address of metrics", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            Some(text.split("http://").nth(1)?.split('/').next()?.to_owned())
        });
        Self { running, log, metrics }
    }

    fn page(&self) -> String {
        let mut stream = TcpStream::connect(&self.metrics).expect("metrics listen");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn refusals(&self, reason: &str) -> u64 {
        let series = format!("pccl_refused_total{{reason=\"{reason}\"}} ");
        let page = self.page();
        let line = page.lines().find_map(|line| line.strip_prefix(&series));
        line.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no {series} in {page}"))
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Lines of the log about refusals for a reason.
    fn said(&self, reason: &str) -> usize {
        let reason = format!("\"reason\":\"{reason}\"");
        self.log().lines().filter(|l| l.contains("pccl::security") && l.contains(&reason)).count()
    }

    /// Number and epoch of a round that begins after this call.
    fn round(&mut self, world: u32) -> String {
        self.running.line_with(&format!("world  {world}"))
    }
}

impl Fleet {
    fn new() -> Self {
        let fleet = Self { folder: tempfile::tempdir().expect("a folder") };
        fleet.cert(&["init"]);
        fleet.cert(&["issue", "localhost"]);
        fleet
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cert(&self, args: &[&str]) {
        self.cert_in("certs", args);
    }

    fn cert_in(&self, folder: &str, args: &[&str]) {
        let folder = self.path(folder);
        let (first, rest) = args.split_first().expect("a command");
        let folder = folder.to_str().expect("UTF-8");
        succeeded(&run(&[&["cert", first, "--dir", folder], rest].concat()));
    }

    /// A process with the fleet's certificates and secret.
    fn pccl(&self, args: &[&str]) -> Command {
        let mut command = pccl(args);
        let certs = self.path("certs");
        command
            .env("PCCL_NETWORK__TLS__CERT_FILE", certs.join("localhost.crt"))
            .env("PCCL_NETWORK__TLS__KEY_FILE", certs.join("localhost.key"))
            .env("PCCL_NETWORK__TLS__CA_FILE", certs.join("ca.crt"))
            .env("PCCL_AUTH_SECRET", SECRET)
            .env("PCCL_FLIGHT_DIR", self.folder.path())
            .env("PCCL_NETWORK__P2P_PORTS", "24000-26999");
        command
    }

    fn master(&self) -> (Part, String) {
        let mut command = self.pccl(&["master", "--listen", "127.0.0.1:0"]);
        command.env("PCCL_STORE__KIND", "memory").env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
        let mut master = Part::start(command, self.path("master.log"));
        let line = master.running.line_with("listening on ");
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(',').next());
        (master, format!("localhost:{}", port.expect("a port")))
    }

    fn worker(&self, master: &str, number: u32) -> Part {
        let command = self.pccl(&["worker", "--master", master, "--bytes", "64KiB", "--workers", "2"]);
        Part::start(command, self.path(&format!("worker{number}.log")))
    }

    /// What a worker says that is not let in.
    fn stranger(&self, master: &str, change: impl FnOnce(&mut Command)) -> std::process::Output {
        let args =
            ["worker", "--master", master, "--bytes", "64KiB", "--rounds", "1", "--connect-timeout", "1"];
        let mut command = self.pccl(&args);
        change(&mut command);
        command.output().expect("it runs")
    }
}

/// A round of each, none of which has lost anybody.
fn rounds(workers: &mut [Part], world: u32) {
    for worker in workers {
        let round = worker.round(world);
        assert!(round.contains("no recovery"), "{round}");
    }
}

fn use_certificate(command: &mut Command, folder: &Path, name: &str) {
    command
        .env("PCCL_NETWORK__TLS__CERT_FILE", folder.join(format!("{name}.crt")))
        .env("PCCL_NETWORK__TLS__KEY_FILE", folder.join(format!("{name}.key")));
}

fn set(command: &mut Command, name: &str, value: impl AsRef<OsStr>) {
    command.env(name, value);
}

fn without_secret(command: &mut Command) {
    command.env_remove("PCCL_AUTH_SECRET");
}

fn without_tls(command: &mut Command) {
    for key in ["CERT_FILE", "KEY_FILE", "CA_FILE"] {
        command.env_remove(format!("PCCL_NETWORK__TLS__{key}"));
    }
}

#[test]
fn a_guarded_fleet_survives_a_kill_and_shows_its_secret_nowhere() {
    let fleet = Fleet::new();
    let (master, addr) = fleet.master();
    let mut workers: Vec<Part> = (0..3).map(|n| fleet.worker(&addr, n)).collect();
    for worker in &mut workers {
        worker.round(3);
    }
    signal(workers[2].running.pid(), "KILL");
    for worker in &mut workers[..2] {
        worker.round(2);
    }
    for part in [&master, &workers[0], &workers[1]] {
        for reason in ["secret", "heartbeat", "heartbeat_replayed", "forged"] {
            assert_eq!(part.refusals(reason), 0, "{reason}");
        }
    }

    let mut seen = Vec::new();
    for part in [&master, &workers[0], &workers[1]] {
        let pid = part.running.pid();
        seen.push(("command line", text(&fs::read(format!("/proc/{pid}/cmdline")).expect("a command line"))));
        seen.push(("metrics", part.page()));
        signal(pid, "USR1");
    }
    until("three flight records", || {
        let names = fs::read_dir(fleet.folder.path()).expect("a folder").filter_map(Result::ok);
        let records = names.filter(|e| e.file_name().to_string_lossy().starts_with("pccl-flight-"));
        (records.count() >= 3).then_some(())
    });
    for entry in fs::read_dir(fleet.folder.path()).expect("a folder").filter_map(Result::ok) {
        if entry.path().is_file() {
            seen.push(("a log or a flight record", text(&fs::read(entry.path()).expect("a file"))));
        }
    }
    for args in [&["config", "show"][..], &["config", "show", "--json"], &["status", "--master", &addr]] {
        let output = fleet.pccl(args).output().expect("it runs");
        succeeded(&output);
        seen.push(("what is printed", text(&output.stdout) + &text(&output.stderr)));
    }
    assert!(seen.iter().any(|(_, text)| text.contains("auth.secret") && text.contains("***")), "{seen:?}");
    for (what, text) in &seen {
        assert!(!text.contains(SECRET), "{what}: {text}");
        assert!(!text.contains("PRIVATE KEY"), "{what}: {text}");
    }
}

#[test]
fn whoever_does_not_belong_is_refused_counted_and_said_once() {
    let fleet = Fleet::new();
    fleet.cert(&["issue", "expired.example.com", "--days", "0"]);
    fleet.cert_in("others", &["init"]);
    fleet.cert_in("others", &["issue", "localhost"]);
    let (master, addr) = fleet.master();
    let mut workers: Vec<Part> = (0..2).map(|n| fleet.worker(&addr, n)).collect();
    rounds(&mut workers, 2);
    let (certs, others) = (fleet.path("certs"), fleet.path("others"));

    let wrong = |c: &mut Command| set(c, "PCCL_AUTH_SECRET", "another secret of that length");
    refused_worker(&fleet.stranger(&addr, wrong), "different secrets");
    let expired = |c: &mut Command| use_certificate(c, &certs, "expired.example.com");
    refused_worker(&fleet.stranger(&addr, expired), "refuses our certificate: expired");
    let unknown = |c: &mut Command| use_certificate(c, &others, "localhost");
    refused_worker(&fleet.stranger(&addr, unknown), "refuses our certificate: unknown authority");
    let unknown = |c: &mut Command| set(c, "PCCL_NETWORK__TLS__CA_FILE", others.join("ca.crt"));
    let said = fleet.stranger(&addr, unknown);
    refused_worker(&said, "from an authority that is not in");
    assert!(text(&said.stderr).contains("others/ca.crt"), "{}", text(&said.stderr));
    let other_name = addr.replace("localhost", "127.0.0.1");
    refused_worker(&fleet.stranger(&other_name, |_| {}), "is for another name");
    let nothing = |c: &mut Command| {
        without_tls(c);
        without_secret(c);
    };
    refused_worker(&fleet.stranger(&addr, nothing), "network.tls is on at one end and off at the other");
    refused_worker(&fleet.stranger(&addr, without_tls), "speaks TLS");
    refused_worker(&fleet.stranger(&addr, without_secret), "authentication is on");
    let mut plain = pccl(&["status", "--master", &addr]);
    refused(&plain.output().expect("it runs"), 4, &["network.tls"]);
    let mut order = pccl(&["master", "step-down", "--master", &addr.replace("localhost", "127.0.0.1")]);
    refused(&order.output().expect("it runs"), 4, &["network.tls"]);
    let mut wrong_secret = fleet.pccl(&["status", "--master", &addr]);
    let output = wrong_secret.env("PCCL_AUTH_SECRET", "another secret of that length").output();
    refused(&output.expect("it runs"), 4, &["different secrets"]);

    for reason in
        ["secret", "certificate_expired", "certificate_unknown_ca", "plain_text", "not_authenticated"]
    {
        assert!(master.refusals(reason) > 0, "{reason}: {}", master.page());
        assert_eq!(master.said(reason), 1, "{reason}: {}", master.log());
    }
    // The fleet has not noticed.
    for worker in &mut workers {
        assert!(worker.round(2).contains("no recovery"));
        assert!(worker.page().contains("pccl_recovery_total 0\n"));
    }
    assert!(!master.log().contains("is out"), "{}", master.log());
}

fn refused_worker(output: &std::process::Output, word: &str) {
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    let stderr = text(&output.stderr);
    let error = stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(error.contains(word) && error.contains("localhost:") | error.contains("127.0.0.1:"), "{stderr}");
}

#[test]
fn a_secret_without_tls_guards_too() {
    let fleet = Fleet::new();
    let file = fleet.path("secret");
    fs::write(&file, format!("{SECRET}\n")).expect("a file");
    let plain = |command: &mut Command| {
        without_tls(command);
        command.env_remove("PCCL_AUTH_SECRET").env("PCCL_AUTH__SECRET_FILE", &file);
    };
    let mut command = fleet.pccl(&["master", "--listen", "127.0.0.1:0"]);
    plain(&mut command);
    command.env("PCCL_STORE__KIND", "memory").env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
    let mut master = Part::start(command, fleet.path("master.log"));
    let addr = master.running.listening();
    let mut workers: Vec<Part> = (0..2)
        .map(|n| {
            let mut command = fleet.pccl(&["worker", "--master", &addr, "--bytes", "1MiB", "--workers", "2"]);
            plain(&mut command);
            Part::start(command, fleet.path(&format!("worker{n}.log")))
        })
        .collect();
    rounds(&mut workers, 2);
    let nothing = |c: &mut Command| {
        without_tls(c);
        without_secret(c);
    };
    refused_worker(&fleet.stranger(&addr, nothing), "authentication is on at one end and off at the other");
    refused_worker(&fleet.stranger(&addr, |_| {}), "does not speak TLS");
    assert_eq!(master.said("not_authenticated"), 1, "{}", master.log());
    rounds(&mut workers, 2);
}

#[test]
fn keys_that_everybody_can_read_are_named() {
    let fleet = Fleet::new();
    let (master, _) = fleet.master();
    assert!(!master.log().contains("chmod"), "{}", master.log());
    let key = fleet.path("certs").join("localhost.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a key");
    let (master, _) = fleet.master();
    let said = format!("every user of this machine can read it (mode 0644): `chmod 600 {}`", key.display());
    assert!(master.log().contains(&said), "{}", master.log());
}

#[test]
fn only_allowed_networks_are_listened_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = |networks: &str, log: &str| {
        let mut command = pccl(&["master", "--listen", "127.0.0.1:0"]);
        command.env("PCCL_STORE__KIND", "memory").env("PCCL_NETWORK__ALLOWED_NETWORKS", networks);
        let mut master = Part::start(command, folder.path().join(log));
        let addr = master.running.listening();
        (master, addr)
    };
    let (_open, addr) = start("10.0.0.0/8,127.0.0.0/8", "open.log");
    let configured = pccl(&["status"]).env("PCCL_NETWORK__MASTER_HOST", &addr).output().expect("pccl runs");
    succeeded(&configured);
    let (shut, addr) = start("10.0.0.0/8, 2001:db8::/32", "shut.log");
    for _ in 0..3 {
        refused(&run(&["status", "--master", &addr]), 4, &[&addr]);
    }
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    udp.send_to(b"a beat", &addr).expect("sent");
    until("the refusals", || (shut.refusals("network") >= 4).then_some(()));
    assert_eq!(shut.said("network"), 1, "{}", shut.log());
}

/// Passes on what comes to a port, connections and datagrams; every datagram twice, and once with a bit spoiled.
fn relay(master_port: u16) -> u16 {
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("an address")) {
            break (tcp, udp);
        }
    };
    let port = tcp.local_addr().expect("an address").port();
    thread::spawn(move || {
        for near in tcp.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(("127.0.0.1", master_port)) else { return };
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    thread::spawn(move || {
        let udp = Arc::new(udp);
        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let mut answers = false;
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = udp.recv_from(&mut buffer) {
            let mut spoiled = buffer[..n].to_vec();
            spoiled[n / 2] ^= 4;
            for datagram in [&buffer[..n], &buffer[..n], &spoiled] {
                let _ = far.send_to(datagram, ("127.0.0.1", master_port));
            }
            if !std::mem::replace(&mut answers, true) {
                let (udp, far) = (Arc::clone(&udp), Arc::clone(&far));
                thread::spawn(move || {
                    let mut buffer = [0; 2048];
                    while let Ok(n) = far.recv(&mut buffer) {
                        let _ = udp.send_to(&buffer[..n], from);
                    }
                });
            }
        }
    });
    port
}

#[test]
fn heartbeats_that_are_replayed_or_forged_are_refused_and_nobody_dies_of_it() {
    let fleet = Fleet::new();
    let (master, addr) = fleet.master();
    let port: u16 = addr.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let relayed = format!("localhost:{}", relay(port));
    let mut one = fleet.worker(&relayed, 1);
    let mut two = fleet.worker(&addr, 2);
    one.round(2);
    two.round(2);
    until("replays and forgeries", || {
        (master.refusals("heartbeat_replayed") > 5 && master.refusals("heartbeat") > 5).then_some(())
    });
    assert_eq!((master.said("heartbeat_replayed"), master.said("heartbeat")), (1, 1), "{}", master.log());
    assert!(one.round(2).contains("no recovery") && two.round(2).contains("no recovery"));
    assert!(!master.log().contains("is out"), "{}", master.log());
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn ten_thousand_half_open_handshakes_do_no_harm() {
    const ALL: usize = 10_000;
    const AT_ONCE: usize = 500;
    let fleet = Fleet::new();
    let (master, addr) = fleet.master();
    let mut workers: Vec<Part> = (0..2).map(|n| fleet.worker(&addr, n)).collect();
    rounds(&mut workers, 2);
    let port: u16 = addr.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let before = resident_kib(master.running.pid());
    let mut open = VecDeque::new();
    for _ in 0..ALL {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        // The beginning of a handshake whose rest never comes; it may have been refused already.
        let _ = stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]);
        open.push_back(stream);
        if open.len() > AT_ONCE {
            open.pop_front();
        }
    }
    until("the refusals", || (master.refusals("too_many") as usize >= ALL - 2 * AT_ONCE).then_some(()));
    let after = resident_kib(master.running.pid());
    assert!(after < before + (64 << 10), "{before} KiB before, {after} KiB after");
    assert_eq!(master.said("too_many"), 1, "{}", master.log());
    // Who belongs to the fleet is let in meanwhile, and the others have not noticed.
    let mut third = fleet.worker(&addr, 3);
    third.round(3);
    for worker in &mut workers {
        assert!(worker.round(3).contains("no recovery"));
        assert!(worker.page().contains("pccl_recovery_total 0\n"));
    }
    assert!(!master.log().contains("is out"), "{}", master.log());
    drop(open);
}

#[test]
fn certificates_and_authorities_change_without_a_restart() {
    let fleet = Fleet::new();
    fleet.cert_in("next", &["init"]);
    fleet.cert_in("next", &["issue", "localhost"]);
    let (certs, next) = (fleet.path("certs"), fleet.path("next"));
    let read = |folder: &Path, name: &str| fs::read(folder.join(name)).expect("a file");
    let put = |name: &str, bytes: &[u8]| {
        // Put in place as one, as tools do that renew certificates.
        fs::write(certs.join("new"), bytes).expect("a file");
        fs::rename(certs.join("new"), certs.join(name)).expect("a file");
    };
    let (old_ca, new_ca) = (read(&certs, "ca.crt"), read(&next, "ca.crt"));
    let old = fleet.path("old");
    fs::create_dir(&old).expect("a folder");
    for name in ["ca.crt", "localhost.crt", "localhost.key"] {
        fs::write(old.join(name), read(&certs, name)).expect("a file");
    }

    let (master, addr) = fleet.master();
    let mut workers: Vec<Part> = (0..2).map(|n| fleet.worker(&addr, n)).collect();
    rounds(&mut workers, 2);
    let with_new = |c: &mut Command| {
        use_certificate(c, &next, "localhost");
    };
    refused_worker(&fleet.stranger(&addr, with_new), "refuses our certificate: unknown authority");

    // Both authorities, then new certificates, then only the new authority.
    put("ca.crt", &[old_ca, new_ca.clone()].concat());
    let asks = |folder: &Path, ca: &Path| {
        let mut command = fleet.pccl(&["status", "--master", &addr]);
        use_certificate(&mut command, folder, "localhost");
        command.env("PCCL_NETWORK__TLS__CA_FILE", ca.join("ca.crt"));
        command.output().expect("it runs").status.success()
    };
    until("the new authority counts", || asks(&next, &old).then_some(()));
    put("localhost.crt", &read(&next, "localhost.crt"));
    put("localhost.key", &read(&next, "localhost.key"));
    until("the new certificate is shown", || asks(&old, &next).then_some(()));
    put("ca.crt", &new_ca);
    until("the old authority does not count", || (!asks(&old, &next)).then_some(()));
    assert!(asks(&next, &next));

    // The links that stand go on, and a worker with the new files comes in.
    let mut third = fleet.worker(&addr, 3);
    third.round(3);
    rounds(&mut workers, 3);
    assert!(!master.log().contains("is out"), "{}", master.log());
}

#[test]
fn processes_that_pccl_starts_get_no_secret_that_is_not_theirs() {
    let mut command = pccl(&["up", "--workers", "2", "--bytes", "4KiB", "--rounds", "1000000"]);
    command.env("PCCL_AUTH_SECRET", SECRET).env("PCCL_STORE__URL", format!("postgres://u:{SECRET}@h/d"));
    let mut up = Running::start(command);
    up.line_with("round");
    let line_of = |pid: &u32| text(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    let all = until("a master and two workers", || {
        // Between fork and exec a process is still a copy of its parent.
        let all = children(up.pid());
        (all.len() == 3 && all.iter().all(|pid| line_of(pid).contains("--supervised"))).then_some(all)
    });
    for pid in all {
        let environment = text(&fs::read(format!("/proc/{pid}/environ")).expect("an environment"));
        assert!(environment.contains("PATH="), "{environment}");
        assert!(!environment.contains(SECRET), "{environment}");
        assert!(!line_of(&pid).contains(SECRET), "{}", line_of(&pid));
    }
}

#[test]
fn certificates_join_the_groups_of_their_names() {
    let fleet = Fleet::new();
    fleet.cert(&["issue", "team-a.example.com"]);
    fleet.cert(&["issue", "w1.team-b.example.com"]);
    let certs = fleet.path("certs");
    let log = fleet.path("master.log");
    let start = |listen: &str, groups: &str| {
        let mut command = fleet.pccl(&["master", "--listen", listen]);
        command
            .env("PCCL_STORE__PATH", fleet.path("master.state"))
            .env("PCCL_NETWORK__TLS__GROUPS", groups)
            .env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
        // What the one before has said is not what this one says.
        let _ = fs::remove_file(&log);
        let mut master = Part::start(command, log.clone());
        let line = master.running.line_with("listening on ");
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(',').next());
        (port.expect("a port").to_owned(), master)
    };
    let all = "team-a.example.com=0,1;*.team-b.example.com=2";
    let (port, master) = start("127.0.0.1:0", all);
    let addr = format!("localhost:{port}");
    let member = |name: &str, group: &str, number: u32| {
        let args = ["worker", "--master", &addr, "--bytes", "64KiB", "--workers", "2"];
        let mut command = fleet.pccl(&args);
        use_certificate(&mut command, &certs, name);
        command.env("PCCL_PEER_GROUP", group);
        Part::start(command, fleet.path(&format!("worker{number}.log")))
    };
    let mut of_a: Vec<Part> = (0..2).map(|n| member("team-a.example.com", "1", n)).collect();
    let mut of_b: Vec<Part> = (2..4).map(|n| member("w1.team-b.example.com", "2", n)).collect();
    rounds(&mut of_a, 2);
    rounds(&mut of_b, 2);

    for (name, group, may) in [
        ("team-a.example.com", "2", "it may join: 0, 1"),
        ("w1.team-b.example.com", "0", "it may join: 2"),
        ("localhost", "0", "it may join: none"),
    ] {
        let output = fleet.stranger(&addr, |c| {
            use_certificate(c, &certs, name);
            c.env("PCCL_PEER_GROUP", group);
        });
        assert!(!output.status.success(), "{}", text(&output.stderr));
        for word in [name, &format!("may not join peer group {group}"), may, "network.tls.groups"] {
            assert!(text(&output.stderr).contains(word), "`{word}`: {}", text(&output.stderr));
        }
    }
    assert_eq!((master.refusals("group"), master.said("group")), (3, 1), "{}", master.log());
    rounds(&mut of_a, 2);

    // Another start allows one team no more: its members do not come back, the others do.
    signal(master.running.pid(), "KILL");
    drop(master);
    let (_, master) = start(&format!("127.0.0.1:{port}"), "team-a.example.com=1");
    until("both are turned away", || (master.refusals("group") >= 2).then_some(()));
    for worker in &mut of_b {
        let status = worker.running.child.wait().expect("it ends");
        assert!(!status.success());
        assert!(worker.log().contains("may not join peer group 2"), "{}", worker.log());
    }
    rounds(&mut of_a, 2);
    assert_eq!(master.said("group"), 1, "{}", master.log());
}
