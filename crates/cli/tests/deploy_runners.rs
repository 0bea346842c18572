//! Runners against servers: HTTP checks and kubectl against a cluster that throttles, charts by the real Helm, queries of a
//! real Prometheus.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::site::Site;
use common::{Running, objects, succeeded, text, until};
use pccl_cloud::{Background, kubernetes};
use serde_json::Value;

const FAILED: i32 = 1;

fn cluster() -> Background {
    let pod_time = Duration::from_millis(20);
    Background::start(&kubernetes::Options { clusters: vec!["eu".to_owned()], nodes: 1, pod_time })
        .expect("a free port")
}

fn order(cluster: &Background, fault: &str) {
    let url = format!("{}/faults/eu", cluster.url());
    let curl = Command::new("curl").args(["--silent", "--fail", "--json", fault, &url]).status();
    assert!(curl.expect("curl starts").success());
}

/// How the attempts of a task ended, by the journal's records.
fn outcomes(records: &[Value], task: &str) -> Vec<Value> {
    let ended = records.iter().filter(|record| record["record"] == "ended" && record["task"] == task);
    ended.map(|record| record["outcome"].clone()).collect()
}

#[test]
fn an_api_that_asks_to_wait_is_asked_again_after_that_time() {
    let cluster = cluster();
    let url = cluster.url();
    let site = Site::new(&format!(
        "name: checks\nphases:\n  - name: version\n    run: {{ http: {{ url: '{url}/clusters/eu/version', json: {{ /minor: '32' }} }} }}\n  \
         - name: namespace\n    after: [version]\n    run: {{ kubectl: {{ kubeconfig: kubeconfig, apply: [namespace.yaml] }} }}\n  \
         - name: seen\n    after: [namespace]\n    run: {{ http: {{ url: '{url}/clusters/eu/api/v1/namespaces/fleet', contains: fleet }} }}\n  \
         - name: missing\n    after: [seen]\n    retry: {{ attempts: 1 }}\n    run: {{ http: {{ url: '{url}/clusters/eu/api/v1/namespaces/none' }} }}\n"
    ));
    fs::write(site.path("kubeconfig"), cluster.kubeconfig()).unwrap();
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: { name: fleet }\n";
    fs::write(site.path("namespace.yaml"), namespace).unwrap();
    order(&cluster, r#"{ "fault": "throttle", "requests": 1, "retry_after_s": 1 }"#);
    let mut run = site.command(&["run", "--json", "--skip", "missing"]);
    let output = run.env("KUBECACHEDIR", site.path("cache")).output().unwrap();
    succeeded(&output);
    let records = objects(&output);
    let version = outcomes(&records, "version");
    assert_eq!(version.len(), 2, "{version:?}");
    assert_eq!(version[0]["failed"]["throttled"]["retry_after"]["secs"], 1, "{version:?}");
    assert_eq!(version[1], "success");
    let times: Vec<u64> = records
        .iter()
        .filter(|record| record["record"] == "intent" && record["task"] == "version")
        .filter_map(|record| record["at_ms"].as_u64())
        .collect();
    assert!(times[1] - times[0] >= 1000, "it asked again {} ms later", times[1] - times[0]);
    for task in ["namespace", "seen"] {
        assert_eq!(outcomes(&records, task), ["success"]);
    }
    let output = site.run(&["run", "--only", "missing"]);
    assert_eq!(output.status.code(), Some(FAILED), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("404"), "{}", text(&output.stdout));
}

#[test]
fn a_chart_is_installed_fails_with_the_reason_is_retried_upgraded_and_undone() {
    let (cluster, here) = (cluster(), Path::new(env!("CARGO_MANIFEST_DIR")));
    let chart = here.join("tests/helm/chart").display().to_string();
    let site = Site::new(&include_str!("helm/deploy.yaml").replace("CHART", &chart));
    fs::write(site.path("kubeconfig"), cluster.kubeconfig()).unwrap();
    // Of `cargo xtask tools`.
    let tools = here.join("../../target/tools/helm").display().to_string();
    let path = format!("{tools}:{}", std::env::var("PATH").unwrap());
    let deploy = |args: &[&str], values: &str| {
        fs::write(site.path("mine.yaml"), values).unwrap();
        let own = [("PATH", path.as_str()), ("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config")];
        site.command(args).envs(own).output().unwrap()
    };
    let get = |api: &str, path: &str| {
        let url = format!("{}/clusters/eu/{api}/namespaces/shop/{path}", cluster.url());
        serde_json::from_slice::<Value>(&Command::new("curl").args(["-s", &url]).output().unwrap().stdout)
            .unwrap()
    };
    let output = deploy(&["run"], "{}");
    assert_eq!(output.status.code(), Some(FAILED), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("[0].image: Required value"), "{}", text(&output.stdout));
    succeeded(&deploy(&["retry"], "image: 'web:1'"));
    assert_eq!(get("apis/apps/v1", "deployments/web")["status"]["readyReplicas"], 2, "Helm has waited");
    assert_eq!(get("api/v1", "configmaps/web")["data"]["greeting"], "hello");
    assert_eq!(get("api/v1", "secrets/web")["data"]["key"], "SEVMTE8=");
    // What an upgrade says of one container leaves the other as it is.
    succeeded(&deploy(&["run"], "{ image: 'web:2', replicas: 3 }"));
    let web = get("apis/apps/v1", "deployments/web");
    assert_eq!(web["status"]["readyReplicas"], 3);
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["image"], "web:2");
    assert_eq!(web["spec"]["template"]["spec"]["containers"][1]["image"], "log:1");
    succeeded(&deploy(&["down"], "{}"));
    for kind in ["configmaps", "secrets", "services", "pods"] {
        assert_eq!(
            get("api/v1", kind)["items"],
            Value::Array(Vec::new()),
            "also Helm's own records are gone"
        );
    }
}

#[test]
fn a_query_of_a_real_prometheus_decides() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("prometheus.yml");
    fs::write(&config, "scrape_configs: []\n").unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/debian/usr/bin/prometheus");
    assert!(program.exists(), "{} is not there: run `cargo xtask tools`", program.display());
    let log = folder.path().join("log");
    let mut command = Command::new(&program);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .args(["--web.listen-address=127.0.0.1:0", "--log.level=info"]);
    // It says on standard error where it listens.
    let mut line = Command::new("sh");
    line.args(["-c", "exec \"$0\" \"$@\" 2> \"$LOG\""])
        .arg(program)
        .args(command.get_args())
        .env("LOG", &log);
    let _prometheus = Running::start(line);
    let address = until("Prometheus listens", || {
        let said = fs::read_to_string(&log).ok()?;
        let line = said.lines().find(|line| line.contains("Listening on"))?.to_owned();
        Some(line.split("address=").nth(1)?.split_whitespace().next()?.trim_matches('"').to_owned())
    });
    let phase = |name: &str, query: &str, expect: &str| {
        format!(
            "  - name: {name}\n    retry: {{ attempts: 1 }}\n    run: {{ prometheus: {{ url: 'http://{address}', query: '{query}', \
             expect: '{expect}', within: 60s, every: 100ms }} }}\n"
        )
    };
    let few = phase("few", "vector(31)", ">= 32").replace("within: 60s, ", "within: 300ms, ");
    let none = phase("none", "up{job=\"besu\"}", "> 0").replace("within: 60s, ", "within: 300ms, ");
    let site =
        Site::new(&format!("name: queries\nphases:\n{}{few}{none}", phase("enough", "vector(32)", ">= 32")));
    let output = site.run(&["run", "--only", "enough"]);
    succeeded(&output);
    let output = site.run(&["run", "--skip", "enough"]);
    assert_eq!(output.status.code(), Some(FAILED), "{}", text(&output.stdout));
    let said = text(&output.stdout);
    assert!(said.contains("FAILED   few: ") && said.contains("31"), "{said}");
    assert!(said.contains("FAILED   none: "), "{said}");
}
