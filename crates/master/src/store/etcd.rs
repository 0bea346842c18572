//! A store in etcd.
//!
//! One key, replaced by a transaction that compares its revision. Spoken to over HTTP, by the gateway that every etcd
//! since 3.4 serves beside gRPC: the clients for gRPC need a compiler of protocol buffers on every machine that builds
//! this program, and an asynchronous runtime in it.
//!
//! The lease of the active master is in the value, as in every store: a lease of etcd's lasts whole seconds, and at least
//! one and a half of its own election timeouts, which is longer than a master's.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use super::StateStore;
use super::file::StoreError;
use super::register::{Register, RegisterStore};
use super::url::StoreUrl;

/// One run in an etcd.
const KEY: &str = "/pccl/default/state";
/// A request that has not ended by then has an unknown outcome.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most bytes of an answer: etcd refuses values of more than a few MiB.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// Keeps the state in etcd.
pub struct EtcdStore(RegisterStore<Cluster>);

impl EtcdStore {
    /// Keeps it there: `http://host:2379`, or several with commas between, of which one that answers is asked. TLS for
    /// `https`, trusting the authorities of the system (`SSL_CERT_FILE` names others). With `user:password@` it logs in.
    pub fn new(url: &StoreUrl) -> Result<Self, StoreError> {
        Self::named(url, KEY)
    }

    pub(super) fn named(url: &StoreUrl, key: &str) -> Result<Self, StoreError> {
        let fail = |why: &str| StoreError::Url { url: url.to_string(), why: why.to_owned() };
        let mut endpoints = Vec::new();
        let mut login = None;
        for part in url.expose().split(',').map(str::trim) {
            let (scheme, rest) =
                part.split_once("://").ok_or_else(|| fail("it must begin with http:// or https://"))?;
            if !matches!(scheme, "http" | "https") || rest.is_empty() {
                return Err(fail("it must begin with http:// or https:// and name a host"));
            }
            let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
            if let Some((name, password)) = user.and_then(|user| user.split_once(':')) {
                login = Some((name.to_owned(), password.to_owned()));
            }
            endpoints.push(format!("{scheme}://{}", host.trim_end_matches('/')));
        }
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .tls_config(tls)
            .build();
        let agent = Agent::new_with_config(config);
        let cluster =
            Cluster { url: url.clone(), key: STANDARD.encode(key), endpoints, login, token: None, agent };
        Ok(Self(RegisterStore::new(cluster)))
    }
}

impl StateStore for EtcdStore {
    fn execute(&mut self, request: &pccl_proto::record::StoreRequest) -> pccl_proto::record::StoreReply {
        self.0.execute(request)
    }
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").finish_non_exhaustive()
    }
}

struct Cluster {
    url: StoreUrl,
    /// In Base64.
    key: String,
    /// The first one is asked.
    endpoints: Vec<String>,
    login: Option<(String, String)>,
    token: Option<String>,
    agent: Agent,
}

impl Cluster {
    /// Asks, and once more after a new login if the old one has run out, which etcd finds before it does anything.
    fn ask(&mut self, what: &str, question: &Value) -> Result<Value, String> {
        if self.login.is_some() && self.token.is_none() {
            self.log_in()?;
        }
        let asked = self.ask_once(what, question);
        match asked {
            Err(why) if self.login.is_some() && why.contains("auth token") => {
                self.log_in()?;
                self.ask_once(what, question)
            }
            // The next one may know more. What was asked here is not asked again: it may have been done.
            Err(why) => {
                self.endpoints.rotate_left(1);
                Err(why)
            }
            answered => answered,
        }
    }

    fn log_in(&mut self) -> Result<(), String> {
        let Some((name, password)) = self.login.clone() else { return Ok(()) };
        self.token = None;
        let answer = self.ask_once("auth/authenticate", &json!({ "name": name, "password": password }))?;
        self.token = answer["token"].as_str().map(str::to_owned);
        Ok(())
    }

    fn ask_once(&self, what: &str, question: &Value) -> Result<Value, String> {
        let endpoint = self.endpoints.first().ok_or("no address is given")?;
        let mut request = self.agent.post(format!("{endpoint}/v3/{what}"));
        if let Some(token) = &self.token {
            request = request.header("Authorization", token);
        }
        let failed = |why: ureq::Error| format!("{endpoint}: {why}");
        let mut answer = request.send(question.to_string()).map_err(failed)?;
        let status = answer.status();
        let text =
            answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string().map_err(failed)?;
        let parsed: Result<Value, _> = serde_json::from_str(&text);
        match parsed {
            Ok(value) if status.is_success() => Ok(value),
            Ok(value) => {
                let why = value["message"].as_str().or(value["error"].as_str()).unwrap_or("no reason given");
                Err(format!("{endpoint} answers {}: {why}", status.as_u16()))
            }
            Err(_) => Err(format!("{endpoint} answers {} and no JSON: is it etcd?", status.as_u16())),
        }
    }
}

/// 64-bit numbers are texts in this JSON.
fn number(value: &Value) -> Result<i64, String> {
    let parsed = value.as_str().and_then(|text| text.parse().ok()).or(value.as_i64());
    parsed.ok_or_else(|| format!("it answered {value} for a number"))
}

impl Register for Cluster {
    fn load(&mut self) -> Result<Option<(Vec<u8>, i64)>, String> {
        let answer = self.ask("kv/range", &json!({ "key": self.key }))?;
        let Some(found) = answer["kvs"].get(0) else { return Ok(None) };
        let value =
            STANDARD.decode(found["value"].as_str().unwrap_or_default()).map_err(|e| e.to_string())?;
        Ok(Some((value, number(&found["mod_revision"])?)))
    }

    fn swap(&mut self, seen: Option<i64>, value: &[u8]) -> Result<Option<i64>, String> {
        let key = self.key.clone();
        // A key that does not exist has revision 0.
        let seen = seen.unwrap_or(0).to_string();
        let question = json!({
            "compare": [{ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": seen }],
            "success": [{ "request_put": { "key": key, "value": STANDARD.encode(value) } }],
        });
        let answer = self.ask("kv/txn", &question)?;
        // What is false is left out.
        if answer["succeeded"].as_bool() == Some(true) {
            return number(&answer["header"]["revision"]).map(Some);
        }
        Ok(None)
    }

    fn name(&self) -> String {
        self.url.to_string()
    }
}
