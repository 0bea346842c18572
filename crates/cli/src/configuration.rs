//! `pccl config`: what the configuration says, where each value comes from, and what every key means.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use pccl_config::{Key, KeyKind, LOG_MODULES, Role, reference, schema, template};
use serde_json::{Map, Value, json};

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;
use crate::settings::{self, ConfigArgs};
use pccl_observe::table::Table;

/// Options of `pccl config`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("a file to begin with", "pccl config init --role master"),
    ("is the file sound?", "pccl config check --config pccl_config.yaml"),
    ("what holds here, and who says so", "pccl config show"),
    ("every key, for an editor", "pccl config schema"),
]))]
pub(crate) struct ConfigurationArgs {
    #[command(subcommand)]
    command: ConfigurationCommand,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
enum ConfigurationCommand {
    /// Writes a file to begin with: every key with its meaning and its default
    Init(InitArgs),
    /// Reads the file and the environment, and says what is wrong with them
    Check(ConfigArgs),
    /// Every setting with its value and where that comes from; secrets are hidden
    Show(ShowArgs),
    /// The JSON Schema of the file
    Schema,
    /// Every key, what it may hold and what overrides it, as docs/config.md has it
    Reference,
}

/// Options of `pccl config init`.
#[derive(Args, Clone, Debug)]
struct InitArgs {
    /// Where to; a file that is there is never written over
    #[arg(value_name = "FILE", default_value = "pccl_config.yaml")]
    file: PathBuf,

    /// What the process is that will read it
    #[arg(long, value_name = "ROLE", default_value = "worker", value_parser = role)]
    role: Role,
}

fn role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| format!("must be one of {}", Role::NAMES.join(", ")))
}

fn init(args: &InitArgs) -> Result<(), CliError> {
    let file = args.file.display();
    let written =
        File::create_new(&args.file).and_then(|mut to| to.write_all(template(args.role).as_bytes()));
    written.map_err(|error| {
        CliError::new(Exit::Input, format!("failed to write {file}: {error}"))
            .hint("name another file; one that is there is never written over")
    })?;
    output::print(&[format!(
        "{file}: set what stands without `#`, then `pccl config check --config {file}`"
    )]);
    Ok(())
}

/// Options of `pccl config show`.
#[derive(Args, Clone, Debug)]
struct ShowArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Reads and tells.
pub(crate) fn run(args: &ConfigurationArgs) -> Result<Exit, CliError> {
    match &args.command {
        ConfigurationCommand::Init(args) => init(args)?,
        ConfigurationCommand::Reference => output::print(&[reference().trim_end().to_owned()]),
        ConfigurationCommand::Check(args) => {
            let config = args.load()?;
            // Certificates, keys and secret are part of it: better here than when it is started.
            settings::security(&config)?;
            let given = schema().iter().filter(|key| config.is_given(key.path)).count();
            output::print(&[format!(
                "the configuration is sound: {given} settings given, the others by default"
            )]);
        }
        ConfigurationCommand::Show(args) => show(args)?,
        ConfigurationCommand::Schema => output::print(&[pretty(&json_schema())?]),
    }
    Ok(Exit::Success)
}

fn pretty(value: &Value) -> Result<String, CliError> {
    serde_json::to_string_pretty(value).map_err(|error| CliError::new(Exit::System, error.to_string()))
}

fn show(args: &ShowArgs) -> Result<(), CliError> {
    let config = args.config.load()?;
    let values = serde_json::to_value(&config).map_err(|e| CliError::new(Exit::System, e.to_string()))?;
    if args.json {
        let entry = |key: &Key| {
            let value = value_of(&values, key);
            (key.path.to_owned(), json!({ "value": value, "from": config.origin(key.path).to_string() }))
        };
        let all: Map<String, Value> = schema().iter().map(entry).collect();
        output::print(&[pretty(&Value::Object(all))?]);
        return Ok(());
    }
    let mut table = Table::new(&["<key", "<value", "<from"]);
    for key in schema() {
        let value = match value_of(&values, key) {
            Value::Null => "-".to_owned(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        table.push([key.path.to_owned(), value, config.origin(key.path).to_string()]);
    }
    output::print(&table.lines());
    Ok(())
}

/// A setting in the serialized configuration, which hides secrets by itself; here nothing of one is looked at at all.
fn value_of(values: &Value, key: &Key) -> Value {
    let pointer = format!("/{}", key.path.replace('.', "/"));
    match values.pointer(&pointer) {
        Some(Value::Null) | None => Value::Null,
        Some(_) if key.is_secret() => Value::String("***".to_owned()),
        Some(value) => value.clone(),
    }
}

/// The file's keys as JSON Schema (<https://json-schema.org/draft/2020-12>), for editors that know YAML.
fn json_schema() -> Value {
    let mut root = section();
    for key in schema() {
        let (sections, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        let mut at = &mut root;
        for name in sections.split('.').filter(|name| !name.is_empty()) {
            at = &mut at["properties"][name];
            if at.is_null() {
                *at = section();
            }
        }
        at["properties"][name] = property(key);
    }
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("PCCL configuration");
    root
}

fn section() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": {} })
}

fn property(key: &Key) -> Value {
    let mut about = key.about.to_owned();
    if let Some(unit) = key.unit {
        let _ = write!(about, " Unit: {unit}.");
    }
    if !key.default.is_empty() {
        let _ = write!(about, " Default: {}.", key.default);
    }
    if key.run_wide {
        about.push_str(" Set at the master, for every peer of the run.");
    }
    let _ = write!(about, " Variables: {}.", key.variables().join(", "));
    // `${NAME}` may stand for any value, so text is allowed beside each type.
    let mut property = match key.kind {
        KeyKind::Number { min, max } => {
            json!({ "anyOf": [{ "type": "integer", "minimum": min, "maximum": max }, variable()] })
        }
        KeyKind::Bool => json!({ "anyOf": [{ "type": "boolean" }, variable()] }),
        KeyKind::Choice(names) => json!({ "anyOf": [{ "enum": either_case(names) }, variable()] }),
        KeyKind::Hosts | KeyKind::Networks => {
            json!({ "type": ["string", "array"], "items": { "type": "string" } })
        }
        KeyKind::Ports => json!({ "type": ["string", "integer"] }),
        KeyKind::Groups => {
            let group = json!({ "type": ["integer", "string"] });
            let groups = json!({ "anyOf": [group, { "type": "array", "items": group }] });
            json!({ "anyOf": [{ "type": "object", "additionalProperties": groups }, { "type": "string" }] })
        }
        KeyKind::Levels(names) => json!({ "anyOf": [levels(names), { "type": "string" }] }),
        _ => json!({ "type": "string" }),
    };
    property["description"] = json!(about);
    property
}

fn levels(names: &[&str]) -> Value {
    let one = json!({ "enum": either_case(names) });
    let all: Map<String, Value> =
        LOG_MODULES.iter().map(|module| (module.name.to_owned(), one.clone())).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": all })
}

fn variable() -> Value {
    json!({ "type": "string", "pattern": "\\$\\{.+\\}" })
}

/// Names are read in any case; the two that people write are offered.
fn either_case(names: &[&str]) -> Vec<String> {
    let mut all: Vec<String> =
        names.iter().flat_map(|name| [name.to_ascii_lowercase(), name.to_ascii_uppercase()]).collect();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use pccl_config::Config;

    use super::*;

    #[test]
    fn the_schema_has_every_key_with_its_meaning() {
        let root = json_schema();
        for key in schema() {
            let pointer = format!("/properties/{}", key.path.replace('.', "/properties/"));
            let property = root.pointer(&pointer).unwrap_or_else(|| panic!("{pointer} is missing"));
            let about = property["description"].as_str().unwrap_or_default();
            assert!(about.starts_with(key.about) && about.contains(&key.variable()), "{about}");
        }
        assert_eq!(root["properties"]["network"]["additionalProperties"], json!(false));
    }

    #[test]
    fn every_key_has_a_value_and_no_secret_is_one() {
        let secret = "do not show me 7f3a";
        let env = |name: &str| match name {
            "PCCL_AUTH_SECRET" => Some(secret.to_owned()),
            "PCCL_STORE__KIND" => Some("postgres".to_owned()),
            "PCCL_STORE__URL" => Some(format!("postgres://user:{}@host/db", secret.replace(' ', "-"))),
            _ => None,
        };
        let Ok(config) = Config::from_env(&env) else { panic!("a sound configuration") };
        let values = serde_json::to_value(&config).unwrap_or_default();
        for key in schema() {
            let shown = value_of(&values, key).to_string();
            assert!(!shown.contains("7f3a"), "{}: {shown}", key.path);
        }
        let of = |path: &str| schema().iter().find(|key| key.path == path).map(|key| value_of(&values, key));
        assert_eq!(of("auth.secret"), Some(json!("***")));
        assert_eq!(of("network.master_port"), Some(json!(7117)));
    }
}
