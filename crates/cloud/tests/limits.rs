//! The clouds over HTTP, as tools meet them: what is served, what is refused and how.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A server whose clouds stand still, so that nothing is refilled while a slow machine counts.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(speed: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pccl-cloud"))
            .args(["--speed", speed])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let url = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
        Self { child, url }
    }

    /// Calls with curl, which repeats what is in brackets: `?n=[1-300]`.
    fn curl(&self, path: &str, arguments: &[&str]) -> String {
        let output = Command::new("curl")
            .args(["--silent", "--show-error"])
            .args(arguments)
            .arg(format!("{}{path}", self.url))
            .output()
            .expect("curl starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// How often each status was answered to 300 calls.
    fn codes(&self, path: &str, arguments: &[&str]) -> (usize, Vec<String>) {
        let format = ["--output", "/dev/null", "--write-out", "%{http_code}\n"];
        let said = self.curl(&format!("{path}?n=[1-300]"), &[&format[..], arguments].concat());
        let codes: Vec<_> = said.lines().map(str::to_owned).collect();
        assert_eq!(codes.len(), 300);
        let good = codes.iter().filter(|code| code.starts_with('2')).count();
        (good, codes.into_iter().filter(|code| !code.starts_with('2')).collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const GROUP: &str = "/azure/subscriptions/s1/resourceGroups/g/providers";

#[test]
fn azure_refuses_with_429_and_says_when_to_come_back() {
    let server = Server::start("0.000001");
    let network = format!("{GROUP}/Microsoft.Network/virtualNetworks/v");
    let put = ["--request", "PUT", "--json", r#"{ "location": "ukwest" }"#];
    let (good, bad) = server.codes(&network, &put);
    assert_eq!((good, bad.len()), (200, 100), "a principal has 200 writes");
    assert!(bad.iter().all(|code| code == "429"));
    let said = server.curl(&network, &[&put[..], &["--include"]].concat());
    assert!(said.to_lowercase().contains("retry-after: ") && said.contains("TooManyRequests"), "{said}");
    assert!(said.contains("x-ms-ratelimit-remaining-subscription-writes: 0"), "{said}");
    // Reads are counted apart, and so are principals.
    let said = server.curl(&network, &["--include"]);
    assert!(said.contains("x-ms-ratelimit-remaining-subscription-reads: 249"), "{said}");
    let said =
        server.curl(&network, &[&put[..], &["--header", "Authorization: other", "--include"]].concat());
    assert!(said.contains("201 Created") && said.contains("writes: 199"), "{said}");
    let counts: Value = serde_json::from_str(&server.curl("/limits", &[])).unwrap();
    let arm =
        &counts.as_array().unwrap().iter().find(|one| one["key"] == "s1/" && one["kind"] == "write").unwrap();
    assert_eq!((&arm["served"], &arm["refused"]), (&200.into(), &101.into()));
}

#[test]
fn azure_creates_in_operations_that_are_polled() {
    // A day of the cloud is a moment here: everything that is begun is soon there.
    let server = Server::start("100000");
    let cluster = format!("{GROUP}/Microsoft.ContainerService/managedClusters/c");
    let said =
        server.curl(&cluster, &["--request", "PUT", "--json", r#"{ "location": "ukwest" }"#, "--include"]);
    assert!(said.contains("201 Created") && said.contains("\"Creating\""), "{said}");
    let line =
        said.lines().find_map(|line| line.strip_prefix("azure-asyncoperation: ")).expect("a place to ask");
    let path = line.trim().strip_prefix(&server.url).expect("a path of this server").to_owned();
    while !server.curl(&path, &[]).contains("Succeeded") {}
    assert!(server.curl(&cluster, &[]).contains("\"Succeeded\""));
    // One that has begun and takes its time is in progress.
    let server = Server::start("0.000001");
    server.curl(&cluster, &["--request", "PUT", "--json", "{}"]);
    assert!(server.curl("/azure/subscriptions/s1/operations/operation-1", &[]).contains("InProgress"));
    assert!(server.curl(&format!("{GROUP}/x/y/z"), &[]).contains("ResourceNotFound"));
}

#[test]
fn aws_refuses_with_503_and_gcp_with_403() {
    let server = Server::start("0.000001");
    let (good, bad) = server.codes("/aws/eu-west-2/", &["--data", "Action=DescribeInstances"]);
    assert_eq!((good, bad.len()), (100, 200));
    assert!(bad.iter().all(|code| code == "503"));
    let said = server.curl("/aws/eu-west-2/", &["--data", "Action=DescribeInstances"]);
    assert!(said.contains("<Code>RequestLimitExceeded</Code>"), "{said}");
    let path = "/gcp/compute/v1/projects/p/zones/z/instances";
    for _ in 0..5 {
        assert_eq!(server.codes(path, &["--request", "POST"]).0, 300);
    }
    let said = server.curl(path, &["--request", "POST", "--include"]);
    assert!(said.contains("403 Forbidden") && said.contains("rateLimitExceeded"), "{said}");
    assert!(server.curl("/gcp/compute/v1/projects/p/operations/operation-1", &[]).contains("RUNNING"));
}
