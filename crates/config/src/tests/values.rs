//! What single settings and pairs of them may be.

use super::*;

#[test]
fn wrong_types_name_the_line() {
    use ConfigErrorKind::WrongType;
    let number = "network.master_port must be a whole number from 1 to 65535, found";
    let error = refused("\nnetwork:\n  master_port: soon\n", WrongType, &format!("{number} `soon`"));
    assert_eq!(line(&error), 3);
    refused("network: { master_port: 71.5 }", WrongType, &format!("{number} `71.5`"));
    refused("network: { master_port: [1] }", WrongType, &format!("{number} a list"));
    refused("network: { master_port: {} }", WrongType, &format!("{number} a section"));
    refused("network: { master_port: }", WrongType, &format!("{number} nothing"));
    let error = refused("network: { master_port: '7117' }", WrongType, &format!("{number} the text `7117`"));
    assert_eq!(error.hint(), Some("write it without quotes"));
    refused(
        "performance: { enable_compression: yes }",
        WrongType,
        "performance.enable_compression must be true or false, found `yes`",
    );
    refused("network: 5", WrongType, "`network` must be a section of `key: value` lines");
    refused("- a", WrongType, "the file must be a section of `key: value` lines");
}

#[test]
fn ranges_are_checked() {
    use ConfigErrorKind::OutOfRange;
    let bad = |text: &str| assert_eq!(read(text).unwrap_err().kind(), OutOfRange, "{text}");
    refused(
        "network: { heartbeat_interval_ms: 5 }",
        OutOfRange,
        "network.heartbeat_interval_ms must be a whole number from 10 to 60000 ms, found `5`",
    );
    for port in ["0", "-1", "65536", "99999999999999999999999"] {
        bad(&format!("network: {{ master_port: {port} }}"));
    }
    for ports in ["0-5", "7150-7118", "a-b", "1-70000", "''", "7118-"] {
        bad(&format!("network: {{ p2p_ports: {ports} }}"));
    }
    bad("performance: { ring_chunk_size: 1024 }");
    bad("performance: { ring_chunk_size: 4097 }");
    bad("performance: { num_io_threads: 0 }");
    bad("logging: { max_size_mb: 0 }");
    bad("network: { site: 'a b' }");
    bad("network: { heartbeat_timeout_ms: 70000 }");
    bad("auth: { secret: short }");
    bad("metrics: { address: nine }");
    assert!(read("network: { heartbeat_interval_ms: 250 }").is_ok());
}

#[test]
fn the_heartbeat_timeout_is_at_least_two_intervals() {
    let text = "network:\n  heartbeat_timeout_ms: 199\n";
    let error = read(text).unwrap_err();
    assert_eq!(line(&error), 2);
    assert_eq!(error.key(), Some("network.heartbeat_timeout_ms"));
    let error = read("network: { heartbeat_interval_ms: 251 }").unwrap_err();
    assert_eq!(error.key(), Some("network.heartbeat_interval_ms"));
}

#[test]
fn hosts_may_be_one_or_many() {
    let masters = |text: &str| read(text).unwrap().network.masters();
    let pair = |host: &str, port| (host.to_owned(), port);
    assert_eq!(masters("network: { master_host: a, master_port: 9 }"), [pair("a", 9)]);
    assert_eq!(
        masters("network: { master_host: [a, 'b:8', '::1'] }"),
        [pair("a", 7117), pair("b", 8), pair("::1", 7117)]
    );
    assert_eq!(masters("network: { master_host: '[::1]:8, c' }"), [pair("::1", 8), pair("c", 7117)]);
    for host in
        ["''", "[]", "[a, '']", "'a b'", "'http://a'", "'a:0'", "'a:b'", "'[::1'", "'[::1]x'", "'a/b'", "','"]
    {
        let error = read(&format!("network: {{ master_host: {host} }}")).unwrap_err();
        assert_eq!(error.kind(), ConfigErrorKind::OutOfRange, "{error}");
    }
    let advertised = read("network: { advertise_address: '203.0.113.9:7200' }").unwrap();
    assert_eq!(advertised.network.advertise_address.unwrap().to_string(), "203.0.113.9:7200");
}

#[test]
fn names_of_choices_are_read_in_any_case() {
    assert_eq!(read("logging: { level: debug }").unwrap().logging.level, LogLevel::Debug);
    assert_eq!(
        read("fault_tolerance: { recovery: by_caller }").unwrap().fault_tolerance.recovery,
        Recovery::ByCaller
    );
    let error = refused(
        "logging: { level: warning }",
        ConfigErrorKind::OutOfRange,
        "logging.level must be one of ERROR, WARN, INFO, DEBUG, TRACE, found `warning`",
    );
    assert_eq!(error.hint(), Some("did you mean `WARN`?"));
}

#[test]
fn metrics_may_be_unset_off_or_somewhere() {
    let metrics = |text: &str| read(text).unwrap().metrics.address;
    let port = |at: Option<ListenAddress>| at.map(|at| at.to_string());
    assert_eq!(port(metrics("").for_program()), Some(":9090".into()));
    assert_eq!(port(metrics("").for_library()), None);
    assert_eq!(port(metrics("metrics: { address: 'off' }").for_program()), None);
    for given in [":9090", "127.0.0.1:0", "[::1]:9091", ":0"] {
        let at = metrics(&format!("metrics: {{ address: '{given}' }}"));
        assert_eq!(port(at.for_library()), Some(given.into()));
        assert_eq!(at.for_library(), at.for_program());
    }
}

#[test]
fn networks_are_one_or_a_list() {
    let networks = |text: &str| {
        let config = read(&format!("network: {{ allowed_networks: {text} }}"));
        config.map(|c| c.network.allowed_networks.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(networks("10.1.2.3/8").unwrap(), ["10.0.0.0/8"]);
    assert_eq!(networks("['10.0.0.7', '2001:db8::/32']").unwrap(), ["10.0.0.7/32", "2001:db8::/32"]);
    for bad in ["everywhere", "10.0.0.0/33", "10.0.0.0/8/8"] {
        assert_eq!(networks(bad).unwrap_err().kind(), ConfigErrorKind::OutOfRange, "{bad}");
    }
}

#[test]
fn security_is_on_when_its_material_is_given() {
    assert!(read_with("", &[("PCCL_AUTH_SECRET", "correct horse battery")]).unwrap().auth.enabled);
    assert!(!read("auth: { enabled: false, secret: correct-horse-battery }").unwrap().auth.enabled);
    let error = refused(
        "auth:\n  enabled: true\n",
        ConfigErrorKind::Missing,
        "authentication is on and auth.secret is not given",
    );
    assert_eq!((line(&error), error.key()), (2, Some("auth.secret")));
    assert!(read("auth: { secret_file: s }").unwrap().auth.enabled);
    let error = read("auth: { secret_file: s, secret: correct-horse-battery }").unwrap_err();
    assert_eq!((error.kind(), error.key()), (ConfigErrorKind::Conflict, Some("auth.secret_file")));
    let tls = |more: &str| format!("network: {{ tls: {{ cert_file: c, key_file: k }} }}{more}");
    // Without authorities it is the secret that says who belongs to the run.
    assert!(read(&tls("\nauth: { secret_file: s }")).unwrap().network.tls.enabled);
    let error = read(&tls("")).unwrap_err();
    assert_eq!((error.kind(), error.key()), (ConfigErrorKind::Missing, Some("network.tls.ca_file")));
    let text = "network: { tls: { cert_file: c, key_file: k, ca_file: a } }";
    assert!(read(text).unwrap().network.tls.enabled);
    let error = read("network: { tls: { cert_file: c } }").unwrap_err();
    assert_eq!((error.kind(), error.key()), (ConfigErrorKind::Missing, Some("network.tls.key_file")));
    assert_eq!(read("network: { tls: { enabled: true } }").unwrap_err().key(), Some("network.tls.cert_file"));
}

#[test]
fn a_store_has_the_address_of_its_kind() {
    let kind = |text: &str| read(text).map(|config| config.store.kind).map_err(|error| error.kind());
    assert_eq!(kind("store: { path: /var/lib/pccl }"), Ok(StoreKind::Embedded));
    assert_eq!(kind("store: { kind: postgres, url: 'postgres://u:p@h/d' }"), Ok(StoreKind::Postgres));
    assert_eq!(kind("store: { kind: etcd, url: 'http://a:2379, http://b:2379' }"), Ok(StoreKind::Etcd));
    assert_eq!(kind("store: { kind: postgres }"), Err(ConfigErrorKind::Missing));
    assert_eq!(kind("store: { kind: postgres, url: 'mysql://h' }"), Err(ConfigErrorKind::OutOfRange));
    assert_eq!(kind("store: { kind: etcd, url: 'http://' }"), Err(ConfigErrorKind::OutOfRange));
    assert_eq!(kind("store: { url: 'postgres://h' }"), Err(ConfigErrorKind::Conflict));
    assert_eq!(kind("store: { kind: memory, path: x }"), Err(ConfigErrorKind::Conflict));
    assert_eq!(kind("store: { kind: file }"), Err(ConfigErrorKind::OutOfRange));
    assert_eq!(read("").unwrap().store.lease().as_millis(), 1500);
}

#[test]
fn single_modules_have_levels_of_their_own() {
    use ConfigErrorKind::{OutOfRange, UnknownKey, WrongType};
    let levels = |config: Result<Config, ConfigError>| config.unwrap().logging.directives();
    assert_eq!(levels(read("")), "info");
    let both = "info,pccl_net=debug,pccl::security=warn";
    assert_eq!(levels(read("logging: { levels: { net: DEBUG, security: warn } }")), both);
    assert_eq!(levels(read("logging: { levels: 'security=WARN, net=debug' }")), both);
    let variable = [("PCCL_LOGGING__LEVELS", "master=trace")];
    let config = read_with("logging: { level: ERROR, levels: { net: DEBUG } }", &variable).unwrap();
    assert_eq!(config.logging.directives(), "error,pccl::master=trace,pccl_master=trace");
    assert_eq!(
        serde_json::to_value(&config).unwrap()["logging"]["levels"],
        serde_json::json!("master=TRACE")
    );
    let error = refused(
        "logging:\n  levels:\n    nett: DEBUG\n",
        UnknownKey,
        "logging.levels must name modules out of checkpoint, flight, master, metrics, net, peer, security, \
         found `nett`",
    );
    assert_eq!(line(&error), 3);
    let names = "must be one of ERROR, WARN, INFO, DEBUG, TRACE";
    let of_net = format!("logging.levels of `net` {names}, found `LOUD`");
    refused("logging: { levels: { net: LOUD } }", OutOfRange, &of_net);
    refused("logging: { levels: [net] }", WrongType, &format!("logging.levels {names}, found a list"));
}

#[test]
fn differences_name_the_keys_and_look_into_secrets() {
    let secret = |text: &str| read_with("auth: { secret: \"${S}\" }", &[("S", text)]).unwrap();
    let names = |one: &Config, other: &Config| -> Vec<&str> {
        one.differences(other).iter().map(|key| key.path).collect()
    };
    let (one, other) = (secret("0123456789abcdef"), secret("0123456789abcdeX"));
    assert_eq!(names(&one, &one.clone()), Vec::<&str>::new());
    assert_eq!(names(&one, &other), ["auth.secret"]);
    let other = read("network: { site: x }\nlogging: { levels: { net: TRACE } }").unwrap();
    let expected = ["network.site", "auth.enabled", "auth.secret", "logging.levels"];
    assert_eq!(names(&one, &other), expected);
}

#[test]
fn groups_go_by_names_of_certificates() {
    use ConfigErrorKind::{Missing, OutOfRange, WrongType};
    let files = "cert_file: c, key_file: k, ca_file: a";
    let tls = |more: &str| format!("network: {{ tls: {{ {files}, groups: {more} }} }}");
    let groups = |config: Result<Config, ConfigError>| {
        serde_json::to_value(config.unwrap()).unwrap()["network"]["tls"]["groups"].clone()
    };
    assert_eq!(groups(read("")), serde_json::Value::Null);
    let all = "*.team-b.example.com=2;10.0.0.7=4;2001:db8::7=5;team-a.example.com=0,1";
    let text = "{ Team-A.example.com: [1, 0], '*.team-b.example.com': 2, 10.0.0.7: [4], '2001:DB8::7': 5 }";
    assert_eq!(groups(read(&tls(text))), all);
    assert_eq!(groups(read(&tls(&format!("'{all}'")))), all);
    let variable = [("PCCL_NETWORK__TLS__GROUPS", "x.example.com = 7, 8 ;")];
    assert_eq!(groups(read_with(&tls(text), &variable)), "x.example.com=7,8");

    let of = |what: &str| format!("network.tls.groups {what}");
    let names = "must have DNS names (`*` only for the whole first label) or IP addresses of certificates";
    for bad in ["a.*.com", "*", "w*.a.com", "a..b", "10.0.0.300", "*.0.0.7", "a b"] {
        refused(&tls(&format!("{{ '{bad}': [0] }}")), OutOfRange, &of(&format!("{names}, found `{bad}`")));
    }
    for bad in ["-1", "4294967296", "one", "+1"] {
        let why = format!("of `a.b` must be peer groups from 0 to 4294967295, found `{bad}`");
        refused(&tls(&format!("{{ a.b: [{bad}] }}")), OutOfRange, &of(&why));
    }
    for none in ["{ a.b: [] }", "a.b", "a.b="] {
        refused(&tls(none), OutOfRange, &of("of `a.b` must have a peer group or a list of them"));
    }
    refused(&tls("{ a.b: 1, A.b: 2 }"), OutOfRange, &of("has `a.b` twice"));
    refused(&tls("{}"), OutOfRange, &of("must not be empty"));
    assert_eq!(read(&tls("[a.b]")).unwrap_err().kind(), WrongType);
    assert_eq!(read(&tls("{ a.b: { c: 1 } }")).unwrap_err().kind(), WrongType);

    // A fence that would not stand.
    for (text, why) in [
        ("groups: { a.b: 1 }", "TLS is off"),
        ("enabled: false, cert_file: c, key_file: k, ca_file: a, groups: { a.b: 1 }", "TLS is off"),
        ("cert_file: c, key_file: k, groups: { a.b: 1 }", "network.tls.ca_file is not given"),
    ] {
        let error =
            read(&format!("auth: {{ secret_file: s }}\nnetwork: {{ tls: {{ {text} }} }}")).unwrap_err();
        assert_eq!((error.kind(), error.key()), (Missing, Some("network.tls.groups")), "{text}");
        assert!(error.reason().ends_with(why) && error.to_string().contains("ca_file"), "{error}");
    }
}

#[test]
fn addresses_are_ones_that_can_be_used() {
    use ConfigErrorKind::OutOfRange;
    let network = |text: &str| format!("network: {{ {text} }}");
    for good in [
        "bind_address: 10.0.0.7",
        "bind_address: '::1'",
        "bind_address: eth0.100",
        "advertise_address: '[::1]:7118'",
    ] {
        read(&network(good)).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    for (key, value, why) in [
        (
            "bind_address",
            "10.0.0.300",
            "must be an IP address of this machine or the name of one of its interfaces, see `ip address`",
        ),
        (
            "bind_address",
            "master.example.com",
            "must be an IP address of this machine or the name of one of its interfaces, see `ip address`",
        ),
        (
            "advertise_address",
            "host.example.com:7118",
            "must be an IP address, with or without a port: names are not looked up here",
        ),
        ("advertise_address", "0.0.0.0", "must be one address: this one stands for all of a machine"),
    ] {
        let reason = format!("network.{key} {why}, found the text `{value}`");
        refused(&network(&format!("{key}: '{value}'")), OutOfRange, &reason);
    }
}

#[test]
fn half_of_what_tls_needs_does_not_leave_it_off() {
    for (part, key) in [("ca_file: c", "network.tls.ca_file"), ("key_file: k", "network.tls.key_file")] {
        let error = read(&format!("network: {{ tls: {{ {part} }} }}")).unwrap_err();
        assert_eq!((error.kind(), error.key()), (ConfigErrorKind::Missing, Some(key)));
        assert!(error.reason().contains("TLS is off") && error.to_string().contains("cert_file"), "{error}");
        read(&format!("network: {{ tls: {{ enabled: false, {part} }} }}")).unwrap();
    }
}
