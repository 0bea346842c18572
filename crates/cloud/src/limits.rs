//! Clouds that count calls: the shapes of Azure Resource Manager, EC2 and Google Compute Engine over the models of
//! [`pccl_deploy::clouds`], for tools that speak HTTP.
//!
//! | path | who | refuses by |
//! | --- | --- | --- |
//! | `/azure/subscriptions/…` | Azure Resource Manager and its providers | 429, `Retry-After`, what is left in `x-ms-ratelimit-…` |
//! | `/aws/<region>/` | EC2's query API | 503 `RequestLimitExceeded` |
//! | `/gcp/compute/v1/projects/<project>/…` | Compute Engine | 403 `rateLimitExceeded` |
//!
//! What is created takes time: Azure and Google answer with an operation that is to be polled, and polls are calls too.
//! `speed` makes a second of the caller several of the cloud.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use pccl_deploy::clouds::{self, Meter};
use pccl_deploy::file::Preset;
use pccl_deploy::random::Random;
use serde_json::{Value, json};

/// Mean time until something small is created, in seconds.
const CREATION_S: f64 = 20.0;

/// How the clouds behave.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seconds of the clouds in a second of the caller.
    pub speed: f64,
    /// What the times of creation are drawn from.
    pub seed: u64,
}

/// The clouds.
struct Clouds {
    start: Instant,
    speed: f64,
    ledger: Mutex<Ledger>,
}

/// What they count and remember.
struct Ledger {
    meters: BTreeMap<(Preset, String), BTreeMap<String, Meter>>,
    /// Resources by path: what was asked for, and when it is there.
    resources: BTreeMap<String, (Value, Duration)>,
    /// Operations by name: when they end.
    operations: Vec<Duration>,
    random: Random,
}

/// A call that is refused.
struct Refused {
    wait: Duration,
}

impl Clouds {
    /// Time of the clouds.
    fn now(&self) -> Duration {
        self.start.elapsed().mul_f64(self.speed)
    }

    /// A time of the clouds in whole seconds of the caller, as headers have it.
    fn seconds(&self, time: Duration) -> u64 {
        (time.as_secs_f64() / self.speed).ceil().max(1.0) as u64
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// One call, counted in every scope that it falls into. Tells what is left in the first.
    fn call(&mut self, scopes: &[(Preset, String)], kind: &str, now: Duration) -> Result<u32, Refused> {
        let mut left = None;
        for (preset, key) in scopes {
            let meters = self
                .meters
                .entry((*preset, key.clone()))
                .or_insert_with(|| clouds::meters(Some(*preset), &preset.buckets()));
            let Some(meter) = meters.get_mut(kind) else { continue };
            meter.call(now).map_err(|wait| Refused { wait })?;
            left.get_or_insert(meter.left());
        }
        Ok(left.unwrap_or(u32::MAX))
    }

    /// Begins an operation and names it.
    fn begin(&mut self, now: Duration, is_cluster: bool) -> (String, Duration) {
        let takes = if is_cluster {
            clouds::aks_creation(&mut self.random)
        } else {
            Duration::from_secs_f64(self.random.lognormal(CREATION_S, 0.5))
        };
        self.operations.push(now + takes);
        (format!("operation-{}", self.operations.len()), now + takes)
    }

    fn is_done(&self, operation: &str, now: Duration) -> Option<bool> {
        let number: usize = operation.strip_prefix("operation-")?.parse().ok()?;
        self.operations.get(number.checked_sub(1)?).map(|end| *end <= now)
    }

    /// Calls served and refused, by scope and kind.
    fn counts(&self) -> Value {
        let meters = self.meters.iter().flat_map(|((preset, key), meters)| {
            meters.iter().map(move |(kind, meter)| {
                let (served, refused) = meter.counts();
                json!({ "scope": preset, "key": key, "kind": kind, "served": served, "refused": refused })
            })
        });
        meters.collect()
    }
}

/// The clouds as routes, with `/limits` for what was served and refused.
pub fn routes(options: Options) -> Router {
    let ledger = Ledger {
        meters: BTreeMap::new(),
        resources: BTreeMap::new(),
        operations: Vec::new(),
        random: Random::new(options.seed),
    };
    let clouds = Clouds { start: Instant::now(), speed: options.speed, ledger: Mutex::new(ledger) };
    Router::new()
        .route("/azure/{*path}", any(azure))
        .route("/aws/{region}", any(aws))
        .route("/aws/{region}/", any(aws))
        .route("/gcp/compute/v1/projects/{project}/{*path}", any(gcp))
        .route("/limits", axum::routing::get(count))
        .with_state(Arc::new(clouds))
}

async fn count(State(clouds): State<Arc<Clouds>>) -> Json<Value> {
    Json(clouds.ledger().counts())
}

/// The scopes of a call to Azure: the principal in its subscription, and the provider's own limits.
fn azure_scopes(parts: &[&str], principal: &str, location: &str) -> Vec<(Preset, String)> {
    let subscription = parts.get(1).copied().unwrap_or_default();
    let mut scopes = vec![(Preset::AzureResourceManager, format!("{subscription}/{principal}"))];
    let here = format!("{subscription}/{location}");
    match parts.iter().position(|part| *part == "providers").and_then(|at| parts.get(at + 1)) {
        Some(&"Microsoft.Network") => scopes.push((Preset::AzureNetwork, here)),
        Some(&"Microsoft.Compute") => scopes.push((Preset::AzureCompute, here)),
        Some(&"Microsoft.ContainerService") => scopes.push((Preset::AzureAks, here)),
        _ => {}
    }
    scopes
}

async fn azure(
    State(clouds): State<Arc<Clouds>>,
    Path(path): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (principal, host) = (text(header::AUTHORIZATION), text(header::HOST));
    let asked: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let location = asked["location"].as_str().unwrap_or("global");
    let parts: Vec<_> = path.split('/').collect();
    let kind = match method.as_str() {
        "GET" | "HEAD" => "read",
        "DELETE" => "delete",
        _ => "write",
    };
    let now = clouds.now();
    let mut ledger = clouds.ledger();
    let called = ledger.call(&azure_scopes(&parts, principal, location), kind, now);
    let mut response = match &called {
        Err(Refused { wait }) => azure_refusal(clouds.seconds(*wait)),
        Ok(_) => match kind {
            "read" => azure_read(&clouds, &ledger, &path, now),
            "delete" => {
                ledger.resources.remove(&path);
                let (operation, _) = ledger.begin(now, false);
                azure_operation(&clouds, StatusCode::ACCEPTED, host, &parts, &operation, &Value::Null)
            }
            _ => {
                let (operation, there) = ledger.begin(now, path.contains("/managedClusters/"));
                let mut resource = asked.clone();
                resource["id"] = json!(format!("/{path}"));
                resource["name"] = json!(parts.last());
                resource["properties"]["provisioningState"] = json!("Creating");
                ledger.resources.insert(path.clone(), (resource.clone(), there));
                azure_operation(&clouds, StatusCode::CREATED, host, &parts, &operation, &resource)
            }
        },
    };
    let name = match kind {
        "read" => "x-ms-ratelimit-remaining-subscription-reads",
        "delete" => "x-ms-ratelimit-remaining-subscription-deletes",
        _ => "x-ms-ratelimit-remaining-subscription-writes",
    };
    response.headers_mut().insert(HeaderName::from_static(name), called.unwrap_or(0).into());
    response
}

fn azure_refusal(seconds: u64) -> Response {
    let message = format!("The request was throttled. Please try again after '{seconds}' seconds.");
    let body = json!({ "error": { "code": "TooManyRequests", "message": message } });
    (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds.to_string())], Json(body)).into_response()
}

/// A resource, or how an operation stands.
fn azure_read(clouds: &Clouds, ledger: &Ledger, path: &str, now: Duration) -> Response {
    if let Some(done) = path.rsplit('/').next().and_then(|name| ledger.is_done(name, now)) {
        if done {
            return Json(json!({ "status": "Succeeded" })).into_response();
        }
        let wait = clouds.seconds(Duration::from_secs(10)).to_string();
        return ([(header::RETRY_AFTER, wait)], Json(json!({ "status": "InProgress" }))).into_response();
    }
    let Some((resource, there)) = ledger.resources.get(path) else {
        let message = format!("The resource '/{path}' was not found.");
        let body = json!({ "error": { "code": "ResourceNotFound", "message": message } });
        return (StatusCode::NOT_FOUND, Json(body)).into_response();
    };
    let mut resource = resource.clone();
    if *there <= now {
        resource["properties"]["provisioningState"] = json!("Succeeded");
    }
    Json(resource).into_response()
}

/// The answer to what takes time: where to ask how it stands, and not before when.
fn azure_operation(
    clouds: &Clouds,
    code: StatusCode,
    host: &str,
    parts: &[&str],
    operation: &str,
    body: &Value,
) -> Response {
    let subscription = parts.get(1).copied().unwrap_or_default();
    let at = format!("http://{host}/azure/subscriptions/{subscription}/operations/{operation}");
    let mut response = (code, Json(body)).into_response();
    if let Ok(at) = HeaderValue::from_str(&at) {
        response.headers_mut().insert(HeaderName::from_static("azure-asyncoperation"), at.clone());
        response.headers_mut().insert(header::LOCATION, at);
    }
    response.headers_mut().insert(header::RETRY_AFTER, clouds.seconds(Duration::from_secs(10)).into());
    response
}

async fn aws(State(clouds): State<Arc<Clouds>>, Path(region): Path<String>, body: String) -> Response {
    let action = body.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or("Unknown");
    let action: String = action.chars().filter(char::is_ascii_alphanumeric).collect();
    let kind = match action.as_str() {
        "RunInstances" => "run",
        name if name.starts_with("Describe") || name.starts_with("Get") => "read",
        _ => "write",
    };
    let called = clouds.ledger().call(&[(Preset::AwsEc2, region)], kind, clouds.now());
    let (code, text) = if called.is_ok() {
        let served = "<requestId>1</requestId><return>true</return>";
        (StatusCode::OK, format!("<{action}Response>{served}</{action}Response>"))
    } else {
        let (code, name) = clouds::refusal(Preset::AwsEc2);
        let error = format!("<Error><Code>{name}</Code><Message>Request limit exceeded.</Message></Error>");
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        (code, format!("<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>"))
    };
    (code, [(header::CONTENT_TYPE, "text/xml")], text).into_response()
}

async fn gcp(
    State(clouds): State<Arc<Clouds>>,
    Path((project, path)): Path<(String, String)>,
    method: Method,
) -> Response {
    let kind = if method == Method::GET { "read" } else { "write" };
    let now = clouds.now();
    let mut ledger = clouds.ledger();
    if ledger.call(&[(Preset::GcpCompute, project.clone())], kind, now).is_err() {
        let (code, reason) = clouds::refusal(Preset::GcpCompute);
        let message = format!("Quota exceeded for quota metric '{kind} requests' of project '{project}'.");
        let why = json!([{ "domain": "usageLimits", "reason": reason, "message": message }]);
        let body = json!({ "error": { "code": code, "message": message, "errors": why } });
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::FORBIDDEN);
        return (code, Json(body)).into_response();
    }
    if kind == "write" {
        let (operation, there) = ledger.begin(now, path.ends_with("/clusters"));
        ledger.resources.insert(path, (Value::Null, there));
        let body = json!({ "kind": "compute#operation", "name": operation, "status": "RUNNING" });
        return Json(body).into_response();
    }
    match path
        .rsplit('/')
        .next()
        .and_then(|name| ledger.is_done(name, now).map(|done| (name.to_owned(), done)))
    {
        Some((name, done)) => {
            let status = if done { "DONE" } else { "RUNNING" };
            Json(json!({ "kind": "compute#operation", "name": name, "status": status })).into_response()
        }
        None => Json(json!({ "items": [] })).into_response(),
    }
}
