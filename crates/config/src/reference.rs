//! The schema as text for people: a file to begin with, and the reference of all keys.

use std::fmt::Write as _;

use super::schema::{Key, KeyKind, schema};
use super::values::{LOG_MODULES, Role};

/// A configuration file with every key: what a process of this role must say is set, all else stands behind `#` with its
/// default.
pub fn template(role: Role) -> String {
    let mut text = format!(
        "# pccl_config.yaml of a {role}. Keys behind `#` have the values that are shown; `pccl config check` reads it.\n"
    );
    let mut open: Vec<&str> = Vec::new();
    for key in schema() {
        let parts: Vec<&str> = key.path.split('.').collect();
        let (name, sections) = parts.split_last().unwrap_or((&"", &[]));
        let same = open.iter().zip(sections).take_while(|(a, b)| a == b).count();
        open.truncate(same);
        for section in &sections[same..] {
            if open.is_empty() {
                text.push('\n');
            }
            let _ = writeln!(text, "{}{section}:", indent(open.len()));
            open.push(section);
        }
        let space = indent(open.len());
        let unit = key.unit.map(|unit| format!(" Unit: {unit}.")).unwrap_or_default();
        let run_wide = if key.run_wide { " The master's holds for all." } else { "" };
        let _ = writeln!(text, "{space}# {}{unit}{run_wide}", key.about);
        match given(role, key) {
            Some(value) => {
                let _ = writeln!(text, "{space}{name}: {value}");
            }
            None => {
                let _ = writeln!(text, "{space}# {name}: {}", shown_default(key));
            }
        }
    }
    text
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

/// What nobody can leave out: where the others are, and the secret.
fn given(role: Role, key: &Key) -> Option<String> {
    let is_master = role != Role::Worker;
    match key.path {
        "role" => Some(role.name().to_owned()),
        "network.master_host" if !is_master => Some("master.example.com".to_owned()),
        "store.path" if is_master => Some("/var/lib/pccl/master.state".to_owned()),
        "auth.secret" => Some("\"${PCCL_AUTH_SECRET}\"".to_owned()),
        _ => None,
    }
}

/// The default as it would stand in a file, or a value to show the form.
fn shown_default(key: &Key) -> String {
    if !key.default.is_empty() {
        return if key.default.starts_with(':') {
            format!("\"{}\"", key.default)
        } else {
            key.default.to_owned()
        };
    }
    match (key.path, key.kind) {
        ("network.tls.cert_file", _) => "/etc/pccl/server.crt",
        ("network.tls.key_file", _) => "/etc/pccl/server.key",
        ("network.tls.ca_file", _) => "/etc/pccl/ca.crt",
        ("network.bind_address", _) => "eth0",
        ("network.advertise_address", _) => "203.0.113.7",
        ("fault_tolerance.checkpoint_url", _) => "s3://bucket/run-7",
        ("store.url", _) => "\"${PCCL_STORE_URL}\"",
        ("logging.file", _) => "/var/log/pccl/pccl.log",
        (_, KeyKind::Networks) => "[10.0.0.0/8]",
        (_, KeyKind::Levels(_)) => "{ net: DEBUG }",
        (_, KeyKind::Groups) => "{ \"worker.example.com\": [0] }",
        (_, KeyKind::Path) => "/etc/pccl/secret",
        _ => "name",
    }
    .to_owned()
}

/// `docs/config.md`: every key, what it may hold, its default and its variables.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         <!-- Made by `pccl config reference`; a test compares them. -->\n\n\
         One YAML file, `pccl_config.yaml` in the working directory or what `--config` names, for masters, workers and programs\n\
         with the library alike. `pccl config init` writes one to begin with, `check` says what is wrong with it, `show` says what\n\
         holds and who says so, `schema` is for editors.\n\n\
         A setting comes from the environment, else from the file, else it is the default. Every key has a variable: `PCCL_` and\n\
         its path in capitals, the parts joined by two underscores; an empty variable counts as not set. In values of the file\n\
         `${NAME}` and `${NAME:-default}` stand for variables. What is not understood is refused with its line: unknown keys,\n\
         wrong types, values out of range, settings that contradict each other; so is a variable with two underscores in a row\n\
         that belongs to no key.\n\n\
         **Run-wide** keys are set at the master and handed to every peer; a peer whose own configuration says otherwise is\n\
         refused, with both values named. **On SIGHUP** a running `pccl master` or `pccl worker` reads the file again and takes\n\
         the keys that are marked so; it names the others that have changed, which need a restart. Its environment cannot\n\
         change. Certificates, keys and authorities are read again by themselves when their files change. Where the process is\n\
         in the foreground of a terminal, SIGHUP means that this has been closed, and ends it.\n",
    );
    let mut section = None;
    for key in schema() {
        let (at, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if section != Some(at) {
            section = Some(at);
            let title = if at.is_empty() { "At the top".to_owned() } else { format!("`{at}`") };
            let _ = write!(text, "\n## {title}\n\n| key | holds | default | |\n| --- | --- | --- | --- |\n");
        }
        let default = match key.default {
            "" => "-".to_owned(),
            default => format!("`{default}`"),
        };
        let _ = writeln!(text, "| `{name}` | {} | {default} | {} |", holds(key), meaning(key));
    }
    text.push_str("\n## Modules of `logging.levels`\n\n| module | says |\n| --- | --- |\n");
    for module in LOG_MODULES {
        let _ = writeln!(text, "| `{}` | {} |", module.name, module.about);
    }
    text.push_str("\n`PCCL_LOG_LEVEL` is the level for all; modules go before it.\n");
    text
}

fn holds(key: &Key) -> String {
    let unit = key.unit.map(|unit| format!(" {unit}")).unwrap_or_default();
    let names = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match key.kind {
        KeyKind::Number { min, max } => format!("{min} to {max}{unit}"),
        KeyKind::Bool => "`true`, `false`".to_owned(),
        KeyKind::Choice(all) => names(all),
        KeyKind::Text => "text".to_owned(),
        KeyKind::Path => "path".to_owned(),
        KeyKind::Hosts => "host, `host:port`, or a list".to_owned(),
        KeyKind::Host => "address, `address:port`".to_owned(),
        KeyKind::Networks => "network (`10.0.0.0/8`), or a list".to_owned(),
        KeyKind::Ports => "`first-last`, or one port".to_owned(),
        KeyKind::Address => "`:port`, `host:port`, `off`".to_owned(),
        KeyKind::Secret => "text that is never shown".to_owned(),
        KeyKind::Groups => "names, each with a group or a list".to_owned(),
        KeyKind::Levels(all) => format!("modules, each {}", names(all)),
    }
}

fn meaning(key: &Key) -> String {
    let mut text = key.about.replace('|', "\\|");
    if key.run_wide {
        text.push_str(" **Run-wide.**");
    }
    if key.reloads {
        text.push_str(" **On SIGHUP.**");
    }
    let variables: Vec<_> = key.variables().iter().map(|name| format!("`{name}`")).collect();
    let _ = write!(text, " {}", variables.join(", "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn secret(name: &str) -> Option<String> {
        (name == "PCCL_AUTH_SECRET").then(|| "0123456789abcdef".to_owned())
    }

    #[test]
    fn a_template_is_sound_and_sets_only_what_must_be() {
        for role in [Role::Master, Role::Standby, Role::Worker] {
            let text = template(role);
            let config =
                Config::from_yaml(&text, "t.yaml", &secret).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(config.role, Some(role));
            let given: Vec<_> = schema().iter().filter(|key| config.is_given(key.path)).collect();
            assert_eq!(given.len(), 3, "{given:?}");
            for key in schema() {
                assert!(text.contains(key.about), "{}", key.path);
            }
        }
    }

    #[test]
    fn what_stands_behind_a_hash_is_the_default_and_can_be_uncommented() {
        // Contradictions between examples aside, one key at a time.
        let lines: Vec<String> = template(Role::Worker).lines().map(str::to_owned).collect();
        for (at, line) in lines.iter().enumerate() {
            let Some((space, rest)) = line.split_once("# ") else { continue };
            let Some(key) = schema().iter().find(|key| {
                let name = key.path.rsplit('.').next().unwrap_or_default();
                rest.starts_with(&format!("{name}: ")) && lines[at - 1].contains(key.about)
            }) else {
                continue;
            };
            let mut all = lines.clone();
            all[at] = format!("{space}{rest}");
            let result = Config::from_yaml(&all.join("\n"), "t.yaml", &|name| match name {
                "PCCL_STORE_URL" => Some("postgres://h/d".to_owned()),
                name => secret(name),
            });
            // Some need another one beside them; that must be what is said then.
            match result {
                Ok(config) => assert!(config.is_given(key.path), "{}", key.path),
                Err(error) => {
                    let needs = ["network.tls.", "store.", "auth.", "network.heartbeat"];
                    assert!(needs.iter().any(|start| key.path.starts_with(start)), "{}: {error}", key.path);
                }
            }
        }
    }

    #[test]
    fn the_reference_in_the_documentation_is_fresh() {
        let committed = include_str!("../../../docs/config.md");
        assert_eq!(committed, reference(), "run `pccl config reference > docs/config.md`");
    }
}
