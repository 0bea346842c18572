//! The whole network by path, as it is written to a folder.

use std::fmt;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::genesis;
use crate::key::{NodeKey, hex};
use crate::manifests;
use crate::network::{Network, NetworkError, Validator};
use crate::options::{self, Places};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Anybody.
    Public,
    /// Anybody may also run it.
    Program,
    /// Its owner alone: it holds a private key.
    Secret,
}

/// A file of the network.
pub struct File {
    /// Its path below the network's folder, with `/` between the parts.
    pub path: String,
    /// Who may read it.
    pub visibility: Visibility,
    /// What it holds; wiped when dropped.
    pub content: Zeroizing<String>,
}

impl fmt::Debug for File {
    /// Without the content, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, visibility, bytes) = (&self.path, self.visibility, self.content.len());
        write!(f, "File({path}, {visibility:?}, {bytes} bytes)")
    }
}

/// Why a network was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError<E> {
    /// What was asked for is no network.
    #[error("failed to make the network: {0}")]
    Network(#[from] NetworkError),
    /// The source of entropy failed.
    #[error("failed to draw a key: {0}")]
    Entropy(E),
    /// An object could not be written as YAML: a fault of this program.
    #[error("failed to write {path} as YAML: {why}")]
    Yaml {
        /// The file.
        path: String,
        /// What the library said.
        why: String,
    },
}

/// Makes the network: draws a key for every validator from `entropy`, 32 bytes that nobody can guess each, and returns
/// every file. Equal bytes give equal files.
pub fn generate<E>(
    network: &Network,
    entropy: &mut impl FnMut(&mut [u8; 32]) -> Result<(), E>,
) -> Result<Vec<File>, GenerateError<E>> {
    network.check()?;
    let validators = draw(network, entropy).map_err(GenerateError::Entropy)?;
    let addresses: Vec<_> = validators.iter().map(|validator| validator.address).collect();
    let genesis = pretty(&genesis::genesis(network, &addresses));
    let static_nodes = pretty(&static_nodes(network, &validators));
    let mut files = Vec::new();
    for region in &network.regions {
        let path = format!("kubernetes/{region}/region.yaml");
        files.push(yaml(path, Visibility::Public, &manifests::region(network, &genesis, &static_nodes))?);
    }
    for validator in &validators {
        let Validator { name, region, .. } = validator;
        let path = format!("kubernetes/{region}/{name}.yaml");
        files.push(yaml(path, Visibility::Public, &manifests::validator(network, validator))?);
        let path = format!("kubernetes/{region}/{name}.secret.yaml");
        files.push(yaml(path, Visibility::Secret, &[manifests::secret(network, validator)])?);
        files.push(File {
            path: format!("validators/{name}/nodekey"),
            visibility: Visibility::Secret,
            content: validator.key.to_file(),
        });
        files.push(public(
            format!("validators/{name}/start.sh"),
            Visibility::Program,
            start_script(network, validator),
        ));
    }
    files.push(public("validators.json".to_owned(), Visibility::Public, pretty(&list(network, &validators))));
    files.push(public("genesis.json".to_owned(), Visibility::Public, genesis));
    files.push(public("static-nodes.json".to_owned(), Visibility::Public, static_nodes));
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

fn draw<E>(
    network: &Network,
    entropy: &mut impl FnMut(&mut [u8; 32]) -> Result<(), E>,
) -> Result<Vec<Validator>, E> {
    let mut validators = Vec::with_capacity(network.validators());
    for region in &network.regions {
        for number in 0..network.validators_per_region {
            let key = NodeKey::draw(entropy)?;
            let (name, host) = network.place(region, number);
            let address = key.address();
            validators.push(Validator { name, region: region.clone(), host, key, address });
        }
    }
    Ok(validators)
}

fn static_nodes(network: &Network, validators: &[Validator]) -> Value {
    validators.iter().map(|validator| validator.key.enode(&validator.host, network.p2p_port)).collect()
}

/// What others may know of the validators: what deployment files and checks are made from.
fn list(network: &Network, validators: &[Validator]) -> Value {
    let one = |validator: &Validator| {
        json!({
            "name": validator.name,
            "region": validator.region,
            "host": validator.host,
            "address": validator.address.to_string(),
            "publicKey": format!("0x{}", hex(&validator.key.public())),
            "object": manifests::object_name(validator),
        })
    };
    json!({
        "chainId": network.chain_id,
        "namespace": network.namespace,
        "quorum": network.quorum(),
        "validators": validators.iter().map(one).collect::<Vec<_>>(),
    })
}

/// Starts the validator without Kubernetes. More options may follow, for instance `--p2p-host`.
fn start_script(network: &Network, validator: &Validator) -> String {
    let places = Places {
        data: "data".to_owned(),
        genesis: "../../genesis.json".to_owned(),
        static_nodes: "../../static-nodes.json".to_owned(),
        key: "nodekey".to_owned(),
    };
    let arguments: Vec<_> = options::arguments(&options::options(network, &places))
        .iter()
        .map(|argument| format!("    '{}' \\\n", argument.replace('\'', r"'\''")))
        .collect();
    format!(
        "#!/bin/sh\n# Starts the validator {} ({}) from this folder.\nset -eu\ncd \"$(dirname \"$0\")\"\nexec besu \\\n{}    \"$@\"\n",
        validator.name,
        validator.address,
        arguments.concat()
    )
}

fn public(path: String, visibility: Visibility, content: String) -> File {
    File { path, visibility, content: Zeroizing::new(content) }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Objects as the documents of one YAML file.
fn yaml<E>(path: String, visibility: Visibility, objects: &[Value]) -> Result<File, GenerateError<E>> {
    let mut text = Zeroizing::new(String::new());
    for object in objects {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        match serde_saphyr::to_string(object).map(Zeroizing::new) {
            Ok(document) => text.push_str(&document),
            Err(error) => return Err(GenerateError::Yaml { path, why: error.to_string() }),
        }
    }
    Ok(File { path, visibility, content: text })
}
