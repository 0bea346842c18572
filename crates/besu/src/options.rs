//! The options of a validator, by the names of Besu's command line, which are those of its TOML file too.

use std::fmt::Write as _;

use crate::network::Network;

/// Peers beyond the other validators: room for nodes that only follow the chain.
const FOLLOWERS: usize = 16;

/// Where a validator finds its files, and which address it tells others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The database.
    pub data: String,
    /// `genesis.json`.
    pub genesis: String,
    /// `static-nodes.json`.
    pub static_nodes: String,
    /// The private key.
    pub key: String,
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Text: a path, a name.
    Text(String),
    /// A list of texts.
    List(&'static [&'static str]),
    /// A number.
    Number(u64),
    /// On or off.
    Switch(bool),
}

/// What a validator is started with, in the order of Besu's documentation.
///
/// Discovery is off, because the validators are a closed circle: they find each other by `static-nodes.json`, whose
/// names are resolved again when an address changes. Every validator speaks with every other, so the default of 25
/// peers would break the network at 48.
pub fn options(network: &Network, places: &Places) -> Vec<(&'static str, Setting)> {
    use Setting::{List, Number, Switch, Text};
    vec![
        ("data-path", Text(places.data.clone())),
        ("data-storage-format", Text("BONSAI".to_owned())),
        ("genesis-file", Text(places.genesis.clone())),
        ("node-private-key-file", Text(places.key.clone())),
        ("sync-mode", Text("FULL".to_owned())),
        ("discovery-enabled", Switch(false)),
        ("static-nodes-file", Text(places.static_nodes.clone())),
        ("Xdns-enabled", Switch(true)),
        ("Xdns-update-enabled", Switch(true)),
        ("p2p-port", Number(network.p2p_port.into())),
        ("max-peers", Number((network.validators() - 1 + FOLLOWERS) as u64)),
        ("remote-connections-limit-enabled", Switch(false)),
        ("min-gas-price", Number(0)),
        ("rpc-http-enabled", Switch(true)),
        ("rpc-http-host", Text("0.0.0.0".to_owned())),
        ("rpc-http-port", Number(network.rpc_port.into())),
        ("rpc-http-api", List(&["ETH", "NET", "QBFT", "WEB3"])),
        ("host-allowlist", List(&["*"])),
        ("metrics-enabled", Switch(true)),
        ("metrics-host", Text("0.0.0.0".to_owned())),
        ("metrics-port", Number(network.metrics_port.into())),
        ("logging", Text("INFO".to_owned())),
    ]
}

/// The options as Besu's `--config-file` reads them.
pub fn toml(options: &[(&str, Setting)]) -> String {
    options.iter().fold(String::new(), |mut text, (name, value)| {
        let value = match value {
            Setting::Text(value) => quoted(value),
            Setting::List(values) => {
                let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
                format!("[{}]", values.join(", "))
            }
            Setting::Number(value) => value.to_string(),
            Setting::Switch(value) => value.to_string(),
        };
        let _ = writeln!(text, "{name}={value}");
        text
    })
}

/// The options as arguments of `besu`.
pub fn arguments(options: &[(&str, Setting)]) -> Vec<String> {
    let argument = |(name, value): &(&str, Setting)| {
        let value = match value {
            Setting::Text(value) => value.clone(),
            Setting::List(values) => values.join(","),
            Setting::Number(value) => value.to_string(),
            Setting::Switch(value) => value.to_string(),
        };
        format!("--{name}={value}")
    };
    options.iter().map(argument).collect()
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let escape = |out: String, c: char| match c {
        '"' | '\\' => format!("{out}\\{c}"),
        c if c.is_control() => format!("{out}\\u{:04X}", c as u32),
        c => out + c.encode_utf8(&mut [0; 4]),
    };
    format!("\"{}\"", text.chars().fold(String::new(), escape))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let place = |name: &str| format!("/besu/{name}");
        Places {
            data: place("data"),
            genesis: place("genesis.json"),
            static_nodes: place("static-nodes.json"),
            key: place("nodekey"),
        }
    }

    #[test]
    fn the_same_options_are_a_file_and_a_command_line() {
        let options = options(&Network::default(), &places());
        let (toml, line) = (toml(&options), arguments(&options));
        assert!(toml.contains("genesis-file=\"/besu/genesis.json\"\n"), "{toml}");
        assert!(toml.contains("rpc-http-api=[\"ETH\", \"NET\", \"QBFT\", \"WEB3\"]\n"), "{toml}");
        assert!(toml.contains("max-peers=63\n") && toml.contains("discovery-enabled=false\n"), "{toml}");
        assert!(line.contains(&"--genesis-file=/besu/genesis.json".to_owned()), "{line:?}");
        assert!(line.contains(&"--rpc-http-api=ETH,NET,QBFT,WEB3".to_owned()), "{line:?}");
        assert_eq!(toml.lines().count(), line.len());
    }

    #[test]
    fn quotes_do_not_end_a_text_of_toml() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000A\"");
    }
}
