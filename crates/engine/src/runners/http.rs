//! Requests by `curl`: its output is kept like that of every program, its settings go through standard input, so that
//! no secret stands in a process list.

use std::fmt::Write as _;
use std::time::Duration;

use pccl_deploy::classify::classify;
use pccl_deploy::compare::Comparison;
use pccl_deploy::file::{EnvValue, HttpAction, PrometheusAction};
use pccl_deploy::schedule::Cause;
use serde_json::Value;

use super::Context;

/// Longest time of one request.
const SECONDS: u32 = 30;
/// Most of an answer that is read.
const MOST_BYTES: u64 = 16 << 20;

/// An HTTP request whose answer must be right.
pub(crate) fn request(action: &HttpAction, context: &Context<'_>) -> Result<(), Cause> {
    let mut settings = Settings::new(&action.url);
    let body = action.body.as_ref().map(|body| match body {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    match &action.method {
        // Told by its name alone, curl waits for a body that does not come.
        Some(method) if method.eq_ignore_ascii_case("HEAD") => settings.flag("head"),
        Some(method) => settings.set("request", method),
        None => {}
    }
    if let Some(body) = &body {
        settings.set("data-raw", body);
        let has_type = action.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"));
        if !has_type && !matches!(action.body, Some(Value::String(_))) {
            settings.set("header", "Content-Type: application/json");
        }
    }
    settings.headers(context, &action.headers)?;
    let Answer { status, retry_after, body: answer } = settings.send(context)?;
    let expected =
        if action.status.is_empty() { (200..300).contains(&status) } else { action.status.contains(&status) };
    if !expected {
        return Err(refused(status, retry_after, &context.site.redacted(&answer)));
    }
    if let Some(text) = action.contains.as_ref().filter(|text| !answer.contains(text.as_str())) {
        return Err(Cause::Failed {
            what: format!("the answer does not contain `{text}`: {}", short(&context.site.redacted(&answer))),
        });
    }
    if action.json.is_empty() {
        return Ok(());
    }
    let tree: Value = serde_json::from_str(&answer).map_err(|e| Cause::Failed {
        what: format!("the answer is no JSON: {e}: {}", short(&context.site.redacted(&answer))),
    })?;
    for (pointer, expected) in &action.json {
        let found = tree.pointer(pointer).ok_or_else(|| Cause::Failed {
            what: format!(
                "the answer has nothing at `{pointer}`: {}",
                short(&context.site.redacted(&answer))
            ),
        })?;
        if !fits(found, expected) {
            return Err(Cause::Failed { what: format!("`{pointer}` is {found}, and should be {expected}") });
        }
    }
    Ok(())
}

/// A Prometheus query whose values must all be right.
pub(crate) fn query(action: &PrometheusAction, context: &Context<'_>) -> Result<(), Cause> {
    let expect = Comparison::parse(&action.expect)
        .ok_or_else(|| Cause::Impossible { what: format!("`{}` is no comparison", action.expect) })?;
    let mut settings = Settings::new(&format!("{}/api/v1/query", action.url.trim_end_matches('/')));
    settings.flag("get");
    settings.set("data-urlencode", &format!("query={}", action.query));
    settings.headers(context, &action.headers)?;
    let Answer { status, retry_after, body: answer } = settings.send(context)?;
    if status != 200 {
        return Err(refused(status, retry_after, &context.site.redacted(&answer)));
    }
    let tree: Value = serde_json::from_str(&answer).map_err(|e| Cause::Failed {
        what: format!("the answer is no JSON: {e}: {}", short(&context.site.redacted(&answer))),
    })?;
    let values = values(&tree["data"]);
    if values.is_empty() {
        return Err(Cause::Failed { what: format!("`{}` has no value", action.query) });
    }
    match values.iter().find(|value| !expect.holds(**value)) {
        Some(value) => {
            Err(Cause::Failed { what: format!("`{}` is {value}, and should be {expect}", action.query) })
        }
        None => Ok(()),
    }
}

/// The values of an instant vector or a scalar.
fn values(data: &Value) -> Vec<f64> {
    let number = |sample: &Value| sample.get(1).and_then(Value::as_str).and_then(|text| text.parse().ok());
    match data["resultType"].as_str() {
        Some("scalar") => number(&data["result"]).into_iter().collect(),
        _ => {
            data["result"].as_array().into_iter().flatten().filter_map(|one| number(&one["value"])).collect()
        }
    }
}

fn fits(found: &Value, expected: &Value) -> bool {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let number = found.as_f64().or_else(|| found.as_str().and_then(|text| text.parse().ok()));
    match (expected.as_str().and_then(Comparison::parse), number) {
        (Some(comparison), Some(number)) => comparison.holds(number),
        _ => text(found) == text(expected),
    }
}

fn refused(status: u16, retry_after: Option<Duration>, answer: &str) -> Cause {
    // AWS throttles with 503 and GCP with 403: the answer says it.
    let throttles = matches!(classify(answer, ""), Cause::Throttled { .. });
    match status {
        429 => Cause::Throttled { retry_after },
        400.. if throttles => Cause::Throttled { retry_after },
        500.. => Cause::Server { what: format!("HTTP {status}: {}", short(answer)) },
        _ => Cause::Failed { what: format!("HTTP {status}: {}", short(answer)) },
    }
}

fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// What a server said.
struct Answer {
    status: u16,
    /// What it asked to wait.
    retry_after: Option<Duration>,
    body: String,
}

/// Settings of `curl`, one a line.
struct Settings(String);

impl Settings {
    fn new(url: &str) -> Self {
        let mut this = Self(String::new());
        // As a browser sends it; the other letters that curl does not let through are wrong anyway.
        this.set("url", &url.replace(' ', "%20"));
        // Braces and brackets mean nothing here: they belong to queries.
        for flag in ["silent", "show-error", "location", "globoff"] {
            this.flag(flag);
        }
        this.set("max-time", &SECONDS.to_string());
        this.set("write-out", "\\n%{http_code} %header{retry-after}\\n");
        this
    }

    fn flag(&mut self, name: &str) {
        let _ = writeln!(self.0, "{name}");
    }

    fn set(&mut self, name: &str, value: &str) {
        let keeps_escapes = name == "write-out";
        let escaped = if keeps_escapes {
            value.to_owned()
        } else {
            value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r")
        };
        let _ = writeln!(self.0, "{name} = \"{escaped}\"");
    }

    fn headers(
        &mut self,
        context: &Context<'_>,
        headers: &std::collections::BTreeMap<String, EnvValue>,
    ) -> Result<(), Cause> {
        for (name, value) in context.values(headers)? {
            self.set("header", &format!("{name}: {value}"));
        }
        Ok(())
    }

    /// Asks, and reads the answer.
    fn send(self, context: &Context<'_>) -> Result<Answer, Cause> {
        let line = ["curl", "--config", "-"].map(str::to_owned).into();
        let mut program = context.program(line, None, &std::collections::BTreeMap::new())?;
        program.input = Some(self.0);
        let running = super::process::start(&program, context.mark, context.log, context.control)
            .map_err(super::cause)?;
        (context.started)(running.pid());
        let finished =
            running.wait().map_err(|e| Cause::Server { what: format!("failed to wait for curl: {e}") })?;
        let output = finished.last(MOST_BYTES);
        if !finished.success() {
            context.interrupted()?;
            // What it says itself, and neither a part of an answer nor the status that it did not get.
            let said = |line: &&str| line.starts_with("curl: ");
            let output = output.lines().rev().find(said).unwrap_or_default().to_owned();
            let Cause::Failed { what } = classify(&output, &finished.how()) else {
                return Err(classify(&output, &finished.how()));
            };
            // Nobody answered: that may change.
            return Err(Cause::Server { what });
        }
        let trimmed = output.trim_end();
        let (body, last) = trimmed.rsplit_once('\n').unwrap_or(("", trimmed));
        let (status, asked) = last.trim().split_once(' ').unwrap_or((last.trim(), ""));
        let status = status.parse().map_err(|_| Cause::Server { what: "curl told no status".to_owned() })?;
        // An older curl does not know the header's name, and a date instead of seconds is not read.
        let retry_after = asked.trim().parse().ok().map(Duration::from_secs);
        Ok(Answer { status, retry_after, body: body.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_answers_are_compared() {
        assert!(fits(&json!("0x8a"), &json!("0x8a")));
        assert!(fits(&json!(48), &json!(">= 32")));
        assert!(!fits(&json!("31"), &json!(">= 32")));
        assert!(fits(&json!(true), &json!(true)));
        let vector =
            json!({ "resultType": "vector", "result": [{ "value": [1, "3"] }, { "value": [1, "4"] }] });
        assert_eq!(values(&vector), [3.0, 4.0]);
        assert_eq!(values(&json!({ "resultType": "scalar", "result": [1, "7"] })), [7.0]);
    }

    #[test]
    fn throttling_has_other_statuses_elsewhere() {
        let label = |status, answer| refused(status, None, answer).label();
        assert_eq!(label(503, "<Code>RequestLimitExceeded</Code>"), "throttled");
        assert_eq!(label(403, "{ \"reason\": \"rateLimitExceeded\" }"), "throttled");
        assert_eq!(label(503, "no leader"), "server");
        assert_eq!(label(404, "nothing"), "failed");
    }

    #[test]
    fn settings_are_escaped() {
        let mut settings = Settings(String::new());
        settings.set("header", "A: \"x\\y\"\nB");
        assert_eq!(settings.0, "header = \"A: \\\"x\\\\y\\\"\\nB\"\n");
    }
}
