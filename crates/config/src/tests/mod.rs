use std::collections::BTreeMap;

use std::fmt::Write as _;

use super::*;

mod hostile;
mod values;

const DESIGN: &str = r#"
network:
  master_host: "master.example.com"     # one, or a list
  master_port: 7117
  heartbeat_interval_ms: 100
  heartbeat_timeout_ms: 500
  tls: { enabled: true, cert_file: /etc/pccl/server.crt, key_file: /etc/pccl/server.key, ca_file: /etc/pccl/ca.crt }
auth: { enabled: true, secret: "${PCCL_AUTH_SECRET}" }
fault_tolerance: { enable_buffer_backup: true, checkpoint_interval_steps: 100, max_recovery_attempts: 3 }
performance: { ring_chunk_size: 4194304, num_io_threads: 4, enable_compression: false }
logging: { level: "INFO", file: "/var/log/pccl/worker.log", max_size_mb: 100 }
"#;

fn read_with(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env: BTreeMap<&str, &str> = env.iter().copied().collect();
    Config::from_yaml(text, "pccl_config.yaml", &|name| env.get(name).map(|&value| value.to_owned()))
}

fn read(text: &str) -> Result<Config, ConfigError> {
    read_with(text, &[])
}

#[track_caller]
fn refused(text: &str, kind: ConfigErrorKind, reason: &str) -> ConfigError {
    let error = read(text).unwrap_err();
    assert_eq!((error.kind(), error.reason()), (kind, reason), "{error}");
    error
}

#[track_caller]
fn line(error: &ConfigError) -> usize {
    match error.origin() {
        Origin::File { line, .. } => *line,
        other => panic!("no line in {other:?}"),
    }
}

/// Every path of the serialized configuration with its value as text.
fn leaves(prefix: &str, value: &serde_json::Value, out: &mut BTreeMap<String, String>) {
    let Some(map) = value.as_object() else {
        let text = match value {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(list) if list.is_empty() => String::new(),
            other => other.to_string(),
        };
        out.insert(prefix.to_owned(), text);
        return;
    };
    for (name, value) in map {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        leaves(&path, value, out);
    }
}

#[test]
fn the_documented_file_is_read() {
    let config = read_with(DESIGN, &[("PCCL_AUTH_SECRET", "correct horse battery")]).unwrap();
    assert_eq!(config.network.masters(), [("master.example.com".to_owned(), 7117)]);
    assert_eq!(config.network.tls.ca_file.as_deref(), Some("/etc/pccl/ca.crt"));
    assert!(config.network.tls.enabled && config.auth.enabled);
    assert_eq!(config.auth.secret.as_ref().unwrap().expose(), "correct horse battery");
    assert_eq!(config.logging.file.as_deref(), Some("/var/log/pccl/worker.log"));
    assert_eq!(
        config.origin("network.master_port"),
        Origin::File { file: "pccl_config.yaml".into(), line: 4, column: 16 }
    );
    assert!(!config.is_given("network.site"));
}

#[test]
fn schema_and_structs_agree_on_keys_and_defaults() {
    let mut have = BTreeMap::new();
    leaves("", &serde_json::to_value(Config::default()).unwrap(), &mut have);
    let want: BTreeMap<_, _> =
        schema().iter().map(|key| (key.path.to_owned(), key.default.to_owned())).collect();
    assert_eq!(have, want);
}

#[test]
fn defaults_read_from_a_file_are_the_defaults() {
    let mut text = String::new();
    let mut section = String::new();
    for key in schema().iter().filter(|key| !key.default.is_empty() && !key.path.contains("tls")) {
        let Some((head, name)) = key.path.split_once('.') else {
            writeln!(text, "{}: {}", key.path, key.default).unwrap();
            continue;
        };
        if head != section {
            section = head.to_owned();
            writeln!(text, "{section}:").unwrap();
        }
        writeln!(text, "  {name}: {}", key.default).unwrap();
    }
    let config = read(&text).unwrap();
    assert_eq!(serde_json::to_value(&config).unwrap(), serde_json::to_value(Config::default()).unwrap());
}

#[test]
fn empty_texts_give_the_defaults() {
    for text in [
        "",
        "\n# nothing\n",
        "---\n",
        "network:\nauth: {}\n",
        "\u{feff}peer_group: 0\n",
        "network:\r\n  site: a\r\n",
    ] {
        let config = read(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(config.network.master_port, 7117);
    }
    assert_eq!(Config::from_env(&|_| None).unwrap().metrics.address, MetricsAddress::Unset);
}

#[test]
fn an_unknown_key_is_shown_with_its_place_and_the_nearest_key() {
    let error = read("# worker\nnetwork:\n  master_port: 7117\n  hearbeat_timeout_ms: 500\n").unwrap_err();
    let want = "\
pccl_config.yaml:4:3: unknown key `hearbeat_timeout_ms` in `network`
  |
4 |   hearbeat_timeout_ms: 500
  |   ^^^^^^^^^^^^^^^^^^^
  = hint: did you mean `heartbeat_timeout_ms`?";
    assert_eq!(error.to_string(), want);
    assert_eq!(error.key(), Some("network.hearbeat_timeout_ms"));
    assert_eq!(error.kind(), ConfigErrorKind::UnknownKey);
}

#[test]
fn other_unknown_keys_get_the_best_hint_there_is() {
    let hint = |text: &str| read(text).unwrap_err().hint().unwrap().to_owned();
    assert_eq!(hint("netwrok: {}"), "did you mean `network`?");
    assert_eq!(hint("network: { Master-Port: 1 }"), "did you mean `master_port`?");
    assert_eq!(hint("master_port: 1"), "did you mean `network.master_port`?");
    assert_eq!(
        hint("network: { tls: { cert: x } }"),
        "known in `network.tls`: enabled, cert_file, key_file, ca_file, groups"
    );
    assert_eq!(hint("metrics: { zzzz: 1 }"), "known in `metrics`: address");
    assert!(hint("zzzzzzzz: 1").starts_with("known at the top: role, peer_group, network"));
}

#[test]
fn variables_in_values_are_replaced() {
    let env = [("SITE", "oslo"), ("PORT", "9000"), ("EMPTY", ""), ("EVIL", "x, master_port: 1 ${SITE}")];
    let site =
        |value: &str| read_with(&format!("network: {{ site: \"{value}\" }}"), &env).unwrap().network.site;
    assert_eq!(site("${SITE}-1").as_deref(), Some("oslo-1"));
    assert_eq!(site("${NONE:-rack}$1").as_deref(), Some("rack$1"));
    assert_eq!(site("${EMPTY:-rack}").as_deref(), Some("rack"));
    assert_eq!(site("$${SITE}").as_deref(), Some("${SITE}"));
    assert_eq!(site("${NONE:-}"), None);
    let config = read_with("network:\n  master_port: ${PORT}\n  heartbeat_timeout_ms: \"${X:-900}\"\nperformance:\n  enable_compression: ${C:-true}\n", &env).unwrap();
    assert_eq!((config.network.master_port, config.network.heartbeat_timeout_ms), (9000, 900));
    assert!(config.performance.enable_compression);
    let config = read_with("logging: { file: \"${EVIL}\" }", &env).unwrap();
    assert_eq!(config.logging.file.as_deref(), Some("x, master_port: 1 ${SITE}"));
    assert_eq!(config.network.master_port, 7117);
}

#[test]
fn variables_that_cannot_be_replaced_are_errors() {
    let error = refused(
        "network:\n  site: ${SITE}\n",
        ConfigErrorKind::UnsetVariable,
        "the environment variable SITE is not set",
    );
    assert_eq!((line(&error), error.hint()), (2, Some("set it, or give a default: `${SITE:-…}`")));
    for value in ["${SITE", "${}", "${1A}", "${A B}", "${A:-${B}}", "${A-b}"] {
        let error = read(&format!("network: {{ site: \"{value}\" }}")).unwrap_err();
        assert_eq!(error.kind(), ConfigErrorKind::Syntax, "{error}");
    }
    // What the environment overrides is not looked at.
    let config = read_with("network: { site: '${SITE}' }", &[("PCCL_SITE", "oslo")]).unwrap();
    assert_eq!(config.network.site.as_deref(), Some("oslo"));
}

#[test]
fn the_environment_comes_before_the_file_and_the_file_before_the_defaults() {
    let text = "network: { master_port: 8000, heartbeat_timeout_ms: 700 }\nlogging: { level: ERROR }\n";
    let env = [
        ("PCCL_NETWORK__MASTER_PORT", "9000"),
        ("PCCL_NETWORK__TLS__CA_FILE", "/ca"),
        ("PCCL_NETWORK__TLS__CERT_FILE", "/crt"),
        ("PCCL_NETWORK__TLS__KEY_FILE", "/key"),
        ("PCCL_FAULT_TOLERANCE__ENABLE_BUFFER_BACKUP", "0"),
        ("PCCL_LOG_LEVEL", "trace"),
        ("PCCL_PEER_GROUP", " 7 "),
        ("PCCL_LOGGING__FILE", ""),
    ];
    let config = read_with(text, &env).unwrap();
    assert_eq!(config.network.master_port, 9000);
    assert_eq!(config.network.heartbeat_timeout_ms, 700);
    assert_eq!(config.network.heartbeat_interval_ms, 100);
    assert_eq!(config.network.tls.ca_file.as_deref(), Some("/ca"));
    assert!(!config.fault_tolerance.enable_buffer_backup);
    assert_eq!(config.logging.level, LogLevel::Trace);
    assert_eq!(config.peer_group, 7);
    assert_eq!(config.logging.file, None);
    assert_eq!(
        config.origin("network.master_port"),
        Origin::Env { variable: "PCCL_NETWORK__MASTER_PORT".into() }
    );
}

#[test]
fn short_variables_work() {
    let env = [
        ("PCCL_ROLE", "standby"),
        ("PCCL_SITE", "oslo"),
        ("PCCL_AUTH_SECRET", "correct horse battery"),
        ("PCCL_METRICS_ADDRESS", ":9191"),
        ("PCCL_MASTER", "a:7000,[::1]"),
    ];
    let config = read_with("", &env).unwrap();
    assert_eq!(config.role, Some(Role::Standby));
    assert_eq!(config.network.site.as_deref(), Some("oslo"));
    assert_eq!(config.auth.secret.unwrap().expose(), "correct horse battery");
    assert_eq!(config.metrics.address.to_string(), ":9191");
    let masters: Vec<String> = config.network.master_host.iter().map(ToString::to_string).collect();
    assert_eq!(masters, ["a:7000", "::1"]);
}

#[test]
fn a_wrong_variable_is_named() {
    let error = read_with("network: { master_port: 1 }", &[("PCCL_NETWORK__MASTER_PORT", "x")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "PCCL_NETWORK__MASTER_PORT: network.master_port must be a whole number from 1 to 65535, found `x`"
    );
    let both = [("PCCL_SITE", "a"), ("PCCL_NETWORK__SITE", "b")];
    assert_eq!(read_with("", &both).unwrap_err().kind(), ConfigErrorKind::Conflict);
    assert!(read_with("", &[("PCCL_SITE", "a"), ("PCCL_NETWORK__SITE", "a")]).is_ok());
}

#[test]
fn the_run_wide_keys_are_those_that_decide_an_outcome() {
    let keys: Vec<&str> = schema().iter().filter(|key| key.run_wide).map(|key| key.path).collect();
    assert_eq!(
        keys,
        [
            "network.heartbeat_interval_ms",
            "network.heartbeat_timeout_ms",
            "fault_tolerance.enable_buffer_backup",
            "fault_tolerance.max_recovery_attempts",
            "fault_tolerance.recovery",
            "fault_tolerance.op_timeout_ms",
            "performance.ring_chunk_size",
            "performance.enable_compression",
        ]
    );
}
