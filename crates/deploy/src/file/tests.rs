//! Files that are read, and files that are refused with place, reason and fix.

use super::*;
use crate::error::FileErrorKind;

const FULL: &str = include_str!("../../examples/full.yaml");

fn read(text: &str) -> Deployment {
    Deployment::from_yaml(text, "deploy.yaml").unwrap_or_else(|error| panic!("{error}"))
}

fn refused(text: &str) -> FileError {
    Deployment::from_yaml(text, "deploy.yaml").expect_err("this file should be refused")
}

const SMALL: &str = "
name: small
targets: [a, b]
phases:
  - name: one
    for_each: targets
    run: { command: { run: [echo, '{{ target.name }}'] } }
";

#[test]
fn the_full_example_is_read_and_its_defaults_are_there() {
    let file = read(FULL);
    assert_eq!(file.mode, Mode::Auto);
    assert_eq!(file.targets.len(), 24);
    assert_eq!(file.phase("infrastructure").unwrap().1.slots, 12);
    assert_eq!(file.phases[0].retry.throttled, 20);
    assert_eq!(file.limits[0].all_buckets()["write"].burst, 200);
}

#[test]
fn what_is_read_can_be_written_and_read_again() {
    let file = read(FULL);
    let json = serde_json::to_value(&file).unwrap();
    assert_eq!(serde_json::from_value::<Deployment>(json).unwrap(), file);
}

#[test]
fn a_small_file_is_enough() {
    let file = read(SMALL);
    assert_eq!(file.phases[0].timeout, Time::from_secs(3600));
    assert_eq!(file.failures, Failures { max: None, strict: false });
}

#[test]
fn errors_have_place_reason_snippet_and_fix() {
    let error = refused(&SMALL.replace("for_each", "foreach"));
    assert_eq!(error.kind(), FileErrorKind::UnknownKey);
    assert_eq!(
        error.to_string(),
        "deploy.yaml:6:5: unknown key `foreach`\n  |\n6 |     foreach: targets\n  |     ^^^^^^^\n  \
         = hint: did you mean `for_each`?"
    );
}

#[test]
fn each_mistake_is_found_where_it_stands() {
    let cases: &[(&str, &str, FileErrorKind, usize, &str)] = &[
        ("name: small", "name: 'a/b'", FileErrorKind::Value, 2, "cannot be a name"),
        ("[a, b]", "[a, a]", FileErrorKind::Conflict, 3, "stands here twice"),
        ("targets\n", "validators\n", FileErrorKind::UnknownName, 6, "there is no list `validators`"),
        ("target.name", "target.nam", FileErrorKind::Template, 7, "(for a)"),
        ("command:", "comand:", FileErrorKind::Value, 7, "unknown value `comand`"),
        ("run: [echo,", "run: [[echo],", FileErrorKind::Value, 7, "expected text, found a list"),
        ("run: [echo, '{{ target.name }}']", "dir: x", FileErrorKind::Missing, 7, "`run` is missing"),
        ("for_each: targets", "timeout: 5", FileErrorKind::Value, 6, "a time needs a unit"),
        ("for_each: targets", "after: [two]", FileErrorKind::UnknownName, 6, "no phase `two`"),
        ("for_each: targets", "after: [one]", FileErrorKind::Conflict, 6, "does not stand above"),
        ("for_each: targets", "slots: 0", FileErrorKind::Value, 6, "at least 1"),
        (
            "for_each: targets",
            "slots: many",
            FileErrorKind::Value,
            6,
            "expected a whole number, found `many`",
        ),
        (
            "for_each: targets",
            "calls: [{ scope: arm, kind: read }]",
            FileErrorKind::UnknownName,
            6,
            "no scope",
        ),
        ("targets: [a, b]", "targets: [a, b", FileErrorKind::Syntax, 4, "not valid YAML"),
        ("run: {", "verify: {", FileErrorKind::Missing, 5, "`run` is missing here"),
        ("[echo,", "[*x,", FileErrorKind::Syntax, 7, "not valid YAML"),
        ("name: small", "name: small\nmode: fast", FileErrorKind::Value, 3, "unknown value `fast`"),
        ("name: small", "name: small\nname: big", FileErrorKind::Conflict, 3, "stands twice"),
    ];
    for (old, new, kind, line, words) in cases {
        assert!(SMALL.contains(old), "{old}");
        let error = refused(&SMALL.replacen(old, new, 1));
        assert!(error.to_string().contains(words), "{old} -> {new}: {error}");
        assert_eq!((error.kind(), error.place().0), (*kind, *line), "{old} -> {new}: {error}");
    }
}

#[test]
fn secrets_are_references_and_reach_tasks_by_the_environment_only() {
    let with = |tail: &str| format!("{SMALL}secrets: {{ token: {{ env: TOKEN }} }}\n{tail}");
    let text = with("").replace("run: [echo,", "env: { T: { secret: token } }, run: [echo,");
    assert!(matches!(&read(&text).phases[0].run, Action::Command(c) if c.env.len() == 1));
    let error = refused(&text.replace("secret: token", "secret: tokem"));
    assert_eq!(error.hint(), Some("did you mean `token`?"));
    let error = refused(&with("").replace("target.name", "secrets.token"));
    assert!(error.hint().unwrap().contains("secrets go through `env`"), "{error}");
}

#[test]
fn an_invariant_that_could_never_hold_is_refused() {
    let tail = "lists: { v: { per_target: 2, name: '{{ target.name }}-{{ index }}' } }\n\
                invariants: [{ name: quorum, of: v, min_up: 3, disrupted_by: [one] }]\n";
    let error = refused(&format!("{SMALL}{tail}"));
    assert!(error.reason().contains("at least 3 of 4 v must be up, and one task takes down 2"), "{error}");
    read(&format!("{SMALL}{}", tail.replace("min_up: 3", "min_up: 2")));
}

const SERVICE: &str = "
name: served
vars: { port: 7117, version: '1.0', fast: true, names: [a] }
phases:
  - name: web
    run: { service: { run: [serve, '--port={{ vars.port }}'] } }
    verify: { http: { url: 'http://127.0.0.1:{{ vars.port }}/' } }
";

#[test]
fn a_service_is_a_program_with_a_check_and_stands_in_run_alone() {
    let Action::Service(service) = &read(SERVICE).phases[0].run else { panic!("it is a service") };
    assert_eq!((service.grace, service.every), (Time::from_secs(10), Time::from_millis(200)));
    read(&SERVICE.replace("    verify", "    undo: { service: { stop: true } }\n    verify"));
    let cases = [
        ("    verify: { http: { url: 'http://127.0.0.1:{{ vars.port }}/' } }\n", "", "needs `verify`", 5),
        ("{{ vars.port }}/'", "{{ vars.port }}/', within: 1m", "`within` has no place", 7),
        ("http: { url: 'http://127.0.0.1:{{ vars.port }}/' }", "service: { run: [x] }", "is no check", 7),
        ("run: [serve, '--port={{ vars.port }}']", "grace: 1s", "names no program", 6),
        ("    verify", "    undo: { service: { run: [x] } }\n    verify", "cannot start a service", 7),
        ("service: { run", "command: { run", "", 0),
    ];
    for (from, to, said, line) in cases {
        let text = SERVICE.replace(from, to);
        assert_ne!(text, SERVICE, "{from}");
        if line == 0 {
            let undo = text.replace("    verify", "    undo: { service: { stop: true } }\n    verify");
            assert!(refused(&undo).reason().contains("there is nothing to stop"));
            continue;
        }
        let error = refused(&text);
        assert!(error.reason().contains(said), "{error}");
        assert_eq!(error.place().0, line, "{error}");
    }
}

#[test]
fn variables_are_given_other_values_of_their_kind() {
    let with = |given: &[(&str, &str)]| {
        let given: Vec<_> = given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Deployment::from_yaml_with(SERVICE, "deploy.yaml", &given)
    };
    let file = with(&[("port", "0"), ("version", "1.10"), ("fast", "false"), ("names", "[\"b\"]")]).unwrap();
    let vars: Vec<String> = ["port", "version", "fast", "names"].map(|n| file.vars[n].to_string()).into();
    assert_eq!(vars, ["0", "\"1.10\"", "false", "[\"b\"]"]);
    for (name, value, said) in [
        ("prot", "1", "there is no variable `prot`"),
        ("port", "x", "`x` is no value for `port`"),
        ("fast", "1", "`1` is no value for `fast`"),
    ] {
        let error = with(&[(name, value)]).unwrap_err();
        assert!(error.reason().contains(said), "{error}");
        assert_eq!(error.place().0, 3, "{error}");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("port")
                || hint.contains("boolean")
                || hint.contains("number")),
            "{error}"
        );
    }
}

#[test]
fn how_many_there_are_in_a_target_may_be_a_variable() {
    let of = |count: &str, given: &[(String, String)]| {
        let text = format!(
            "{SMALL}vars: {{ n: 2 }}\nlists: {{ v: {{ per_target: {count}, name: '{{{{ target.name }}}}-{{{{ index }}}}' }} }}\n"
        );
        let file = Deployment::from_yaml_with(&text, "deploy.yaml", given)?;
        let catalog = crate::template::Catalog::new(&file).unwrap_or_else(|error| panic!("{error}"));
        Ok::<usize, FileError>(catalog.lists["v"].len())
    };
    let three = [("n".to_owned(), "3".to_owned())];
    assert_eq!(of("'{{ vars.n }}'", &[]).unwrap(), 4);
    assert_eq!(of("'{{ vars.n }}'", &three).unwrap(), 6);
    assert_eq!(of("2", &three).unwrap(), 4);
    let error = of("'{{ vars.n }}x'", &[]).unwrap_err();
    assert!(error.reason().contains("`2x` is no number of entries"), "{error}");
}

#[test]
fn a_share_of_a_limit_is_a_part_of_it() {
    let with = |share: &str| format!("{SMALL}limits: [{{ scope: arm, preset: aws-ec2{share} }}]\n");
    let [usual, half, all] =
        ["", ", share: 0.5", ", share: 1"].map(|share| read(&with(share)).limits[0].share);
    assert!(half < usual && usual < all, "{half}, {usual}, {all}");
    for wrong in ["0", "-1", "1.5", "90%"] {
        let error = refused(&with(&format!(", share: {wrong}")));
        assert_eq!((error.kind(), error.place().0), (FileErrorKind::Value, 8), "{wrong}: {error}");
    }
}

#[test]
fn waves_need_one_rule() {
    let with = |waves: &str| format!("{SMALL}waves: {waves}\n");
    read(&with("{ sizes: [1], max_failures: 10% }"));
    refused(&with("{ sizes: [1], fan_out: 3 }"));
    refused(&with("{}"));
    refused(&with("{ groups: [[a], [c]] }"));
    refused(&with("{ groups: [[a], [a]] }"));
}

#[test]
fn units_are_read_and_shown() {
    for (text, shown) in
        [("90s", "1m30s"), ("1h30m", "1h30m"), ("12m", "12m"), ("250ms", "250ms"), ("0", "0ms")]
    {
        assert_eq!(Time::parse(text).unwrap().to_string(), shown);
    }
    for text in ["", "5", "m", "5x", "-3s", "1h x"] {
        assert!(Time::parse(text).is_err(), "{text}");
    }
    for (text, per_second) in [("10/s", 10.0), ("500/min", 500.0 / 60.0), ("1000/5min", 1000.0 / 300.0)] {
        let rate = Rate::parse(text).unwrap();
        assert!((rate.per_second() - per_second).abs() < 1e-9, "{text}");
        assert_eq!(Rate::parse(&rate.to_string()).unwrap(), rate);
    }
    assert!(Rate::parse("0/s").is_err() && Rate::parse("3").is_err());
}

#[test]
fn every_preset_has_its_buckets() {
    assert_eq!(Preset::AzureResourceManager.buckets().len(), 3);
    assert!((Preset::AwsEc2.buckets()["run"].refill.per_second() - 2.0).abs() < 1e-9);
    for preset in [Preset::AzureNetwork, Preset::AzureCompute, Preset::AzureAks, Preset::GcpCompute] {
        assert!(!preset.buckets().is_empty());
    }
}

#[test]
fn the_schema_names_every_key_with_its_meaning() {
    let schema = schema();
    let properties = schema["properties"].as_object().unwrap();
    for key in ["name", "mode", "targets", "phases", "limits", "waves", "failures", "invariants"] {
        assert!(properties[key]["description"].is_string() || properties[key]["$ref"].is_string(), "{key}");
    }
    assert!(schema["$defs"]["TerraformAction"]["properties"]["replace_unfinished"].is_object());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*") {
        let _ = Deployment::from_yaml(&text, "x");
    }

    #[test]
    fn no_cut_of_a_good_file_makes_the_reader_panic(at in 0..FULL.len()) {
        let text: String = FULL.chars().take(at).collect();
        if let Err(error) = Deployment::from_yaml(&text, "x") {
            proptest::prop_assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn a_time_for_ever_is_refused() {
    for text in ["99999999999h", "9".repeat(400).as_str(), "11000d"] {
        let unit = if text.ends_with(['h', 'd']) { "" } else { "s" };
        let error = Time::parse(&format!("{text}{unit}")).unwrap_err();
        assert!(error.contains("longer than ten years"), "{error}");
    }
    assert_eq!(Time::parse("3650d").unwrap().0.as_secs(), 10 * 365 * 86_400);
}

#[test]
fn what_cannot_be_deployed_is_told_before_it_fills_anything() {
    let refusal = |text: &str| Deployment::from_yaml(text, "d.yaml").unwrap_err().to_string();
    let phase = "phases: [{ name: a, for_each: l, run: { command: { run: [x] } } }]\n";
    let error = refusal(&format!("name: d\nlists: {{ l: [] }}\n{phase}"));
    assert!(
        error.contains("no phase has anything to do") && error.contains("`for_each` is empty"),
        "{error}"
    );
    let many = "targets: [t]\nlists: { l: { per_target: 4000000000, name: 'n{{ index }}' } }\n";
    let error = refusal(&format!("name: d\n{many}{phase}"));
    assert!(error.contains("d.yaml:3:27: a list of more than 1000000 entries"), "{error}");
    let error = refusal(&format!("name: {}\n{phase}", "n".repeat(101)));
    assert!(error.contains("a name of 101 letters") && error.contains("at most 100"), "{error}");
}
