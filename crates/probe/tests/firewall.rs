//! The rules of a firewall, applied by the programs that they are for.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use pccl_link::{Network, NetworkOptions};
use pccl_probe::firewall::{Dialect, Rules};

fn firewall(dialect: Dialect, metrics_port: Option<u16>, networks: &[&str]) -> String {
    let networks = networks.iter().map(|network| (*network).to_owned()).collect();
    let rules = Rules { master_port: 7117, p2p_ports: 7118..=7150, metrics_port, networks };
    rules.lines(dialect).join("\n") + "\n"
}

/// Gives a program its input.
fn fed(mut command: Command, input: &str) -> io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    child.wait_with_output()
}

/// Whether a connection from a host is accepted; not accepted means not answered.
fn connects(network: &Network, from: usize, to: SocketAddr) -> bool {
    let connected =
        network.on(from, || TcpStream::connect_timeout(&to, Duration::from_secs(3))).expect("a host");
    match connected {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            false
        }
    }
}

fn holds(program: &str, dialect: Dialect) {
    let network = Network::new(&NetworkOptions { hosts: 3, ..NetworkOptions::default() }).expect("a network");
    let guarded = network.address(1);
    let listen =
        |port: u16| network.on(1, || TcpListener::bind((guarded, port))).expect("a host").expect("a port");
    let _listeners = [7117, 7118, 7150, 9090, 8080].map(listen);
    let heartbeats = network.on(1, || UdpSocket::bind((guarded, 7117))).expect("a host").expect("a port");
    heartbeats.set_read_timeout(Some(Duration::from_secs(1))).expect("a limit");
    let fleet = format!("{}/32", network.address(0));
    let rules = firewall(dialect, Some(9090), &[&fleet]);
    // Twice: what is there already is replaced.
    for _ in 0..2 {
        let mut command = network.command(1, program);
        if program == "nft" {
            command.args(["-f", "-"]);
        }
        let applied = fed(command, &rules).expect("cannot be started: run `cargo xtask tools` first");
        assert!(applied.status.success(), "{}\n{rules}", String::from_utf8_lossy(&applied.stderr));
    }
    for port in [7117, 7118, 7150, 9090] {
        assert!(connects(&network, 0, (guarded, port).into()), "port {port} is closed to who may connect");
        assert!(!connects(&network, 2, (guarded, port).into()), "port {port} is open to others");
        // A host speaks with itself.
        assert!(connects(&network, 1, (guarded, port).into()), "port {port} is closed to its own host");
    }
    assert!(connects(&network, 2, (guarded, 8080).into()), "a port that is none of pccl's is closed");
    let hears = |from: usize| {
        let socket = network
            .on(from, || UdpSocket::bind((network.address(from), 0)))
            .expect("a host")
            .expect("a port");
        socket.send_to(b"beat", (guarded, 7117)).expect("sent");
        heartbeats.recv_from(&mut [0; 8]).is_ok()
    };
    assert!(hears(0) && !hears(2) && hears(0));
}

#[test]
fn iptables_lets_the_fleet_through_and_nobody_else() {
    holds("sh", Dialect::Iptables);
}

#[test]
fn nftables_lets_the_fleet_through_and_nobody_else() {
    holds("nft", Dialect::Nftables);
}

/// A program that `cargo xtask tools` has installed, or that is on the PATH.
fn tool(path: &str) -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools").join(path);
    if ours.exists() { ours } else { PathBuf::from(ours.file_name().unwrap_or_default()) }
}

/// A server that speaks like AWS.
struct Moto {
    child: Child,
    url: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    fn start() -> Self {
        // The port is free now, and somebody may take it before the server does: then another one.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
            let mut command = Command::new(tool("venv/bin/moto_server"));
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let child =
                command.spawn().expect("moto_server cannot be started: run `cargo xtask tools` first");
            let mut moto = Self { child, url: format!("http://127.0.0.1:{port}") };
            while moto.child.try_wait().expect("its state").is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return moto;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        panic!("moto_server ends at once, on any port");
    }

    /// A shell whose `aws` speaks with it, and with nobody else.
    fn shell(&self, script: &str) -> String {
        let aws = tool("aws/bin/aws");
        let folder = aws.parent().unwrap_or(Path::new("")).display().to_string();
        let mut shell = Command::new("sh");
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", if folder.is_empty() { path } else { format!("{folder}:{path}") });
        shell.env("AWS_ENDPOINT_URL", &self.url).env("AWS_DEFAULT_REGION", "eu-central-1");
        shell.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env("AWS_PAGER", "");
        let output = fed(shell, script).expect("a shell");
        assert!(output.status.success(), "{}\n{script}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

#[test]
fn the_command_line_of_aws_takes_the_rules() {
    let moto = Moto::start();
    let made =
        "aws ec2 create-security-group --group-name fleet --description fleet --query GroupId --output text";
    let group = moto.shell(made);
    let rules = firewall(Dialect::Aws, None, &["10.1.0.0/16", "fd00::/8"]);
    moto.shell(&format!("export GROUP_ID={}\n{rules}", group.trim()));
    let query = "SecurityGroups[0].IpPermissions[].[IpProtocol,FromPort,ToPort,IpRanges[0].CidrIp,Ipv6Ranges[0].CidrIpv6]";
    let described = moto.shell(&format!(
        "aws ec2 describe-security-groups --group-ids {} --output text --query '{query}'",
        group.trim()
    ));
    let mut rows: Vec<Vec<&str>> = described.lines().map(|line| line.split_whitespace().collect()).collect();
    rows.sort_unstable();
    assert_eq!(
        rows,
        [
            ["tcp", "7117", "7117", "10.1.0.0/16", "fd00::/8"],
            ["tcp", "7118", "7150", "10.1.0.0/16", "fd00::/8"],
            ["udp", "7117", "7117", "10.1.0.0/16", "fd00::/8"],
        ],
        "{described}"
    );
}
