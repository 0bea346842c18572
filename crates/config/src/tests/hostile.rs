//! Texts that no friend wrote, and what must not be shown.

use proptest::prelude::*;

use super::*;

#[test]
fn secrets_are_never_shown() {
    let text = "auth: { secret: hunter2hunter2hunter2 }\nstore: { kind: postgres, url: 'postgres://u:hunter2@h/d' }\n";
    let config = read(text).unwrap();
    let shown = format!(
        "{config:?} {} {}",
        serde_json::to_string(&config).unwrap(),
        config.auth.secret.as_ref().unwrap()
    );
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("***"));
    for text in [
        "auth: { secret: hunter2, enabled: 3 }",
        "auth: { secret: hunter2 }",
        "auth: { secert: hunter2hunter2hunter2 }",
        "auth:\n  secert: hunter2hunter2hunter2\n",
        "auth: { enabled: yes, secret: hunter2hunter2hunter2 }",
        "auth: hunter2",
        "auth: [hunter2]",
        "auth: { secret: [hunter2] }",
        "auht: { secret: hunter2 }",
        "auth: { secret: hunter2, secret: hunter2 }",
        "auth: { secret: \"hunter2\" \"hunter2\" }",
        "auth:\n  secret: \"hunter2\n\n: }",
        "auth:\n  secret: hunter2: x\n",
        "{auth: {secret: \"hunter2\", enabled: maybe}}",
        "{\n auth: {\n  secert: hunter2}}",
        "auth: { secret: \"${X:-hunter2\" }",
        "auth: { secret: \"${X Y:-hunter2}\" }",
        "store: { kind: etcd, url: hunter2 }",
        "store: { url: hunter2 }",
        "store: { kind: postgres, url: 'postgres://u:hunter2@h', path: x }",
    ] {
        let error = read(text).unwrap_err();
        let shown = format!("{error}\n{error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let error =
        read_with("", &[("PCCL_AUTH_SECRET", "hunter2"), ("PCCL_AUTH__SECRET", "hunter2x")]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn yaml_that_we_do_not_read_is_refused_with_its_line() {
    for (text, reason) in [
        ("peer_group: 1\npeer_group: 2\n", "the key `peer_group` stands twice in one section"),
        ("peer_group: &a 1\nrole: *a\n", "YAML anchors are not read here"),
        ("peer_group: !!int 1\n", "YAML tags are not read here"),
        ("peer_group: 1\n---\npeer_group: 2\n", "a second YAML document begins here; only one is read"),
        ("? [a]\n: b\n", "a key must be one word"),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!(error.reason(), reason);
        assert!(matches!(error.origin(), Origin::File { .. }), "{error}");
    }
    let error = read("peer_group: 1\nnetwork:\n  site: [a\nlogging: {}\n").unwrap_err();
    assert_eq!(error.kind(), ConfigErrorKind::Syntax, "{error}");
}

#[test]
fn hostile_texts_are_refused_quickly() {
    let nested = "[".repeat(100_000);
    let deep = format!("network: {}{}", "{a: ".repeat(5_000), "}".repeat(5_000));
    let long = "x".repeat(tree::MAX_BYTES + 1);
    let dashes = "- ".repeat(50_000);
    for text in
        [nested.as_str(), &deep, &long, &dashes, "{---", "a: \u{0}", "\u{1b}[31m: 1", "%YAML 9.9\n---\n"]
    {
        if let Err(error) = read(text) {
            let shown = error.to_string();
            assert!(shown.len() < 2_000 && !shown.contains('\u{1b}'), "{shown}");
        }
    }
    let wide = format!("network: {{ site: a, {}zzz: 1 }}", "y".repeat(5_000) + ": 1, ");
    assert!(read(&wide).unwrap_err().to_string().len() < 1_000);
}

fn piece() -> impl Strategy<Value = String> {
    const PARTS: &[&str] = &[
        "network",
        "tls",
        "auth",
        "secret",
        "store",
        "url",
        "master_port",
        ": ",
        ":",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\"",
        "'",
        "|",
        ">",
        "|+",
        "&a",
        "*a",
        "!!str ",
        "? ",
        "#",
        " #",
        "---",
        "...",
        "%YAML 1.2\n",
        "<<",
        "\t",
        "\r",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "${A}",
        "${",
        "7117",
        "true",
        "~",
        "\\",
        "\0",
        " ",
        "`",
        "@",
        "\u{1b}",
        "é",
    ];
    prop_oneof![prop::sample::select(PARTS).prop_map(str::to_owned), "\\PC{0,4}"]
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(parts in prop::collection::vec(piece(), 0..24)) {
        if let Err(error) = read_with(&parts.concat(), &[("A", "b")]) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
