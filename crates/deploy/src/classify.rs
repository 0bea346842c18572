//! What a tool's output says about why it failed.
//!
//! The order matters: "429" with "another operation" is a lock and no throttling, `RequestLimitExceeded` is throttling
//! and no quota.

use std::time::Duration;

use crate::schedule::Cause;

const LOCKED: &[&str] = &[
    "retryableerrorduetoanotheroperation",
    "anotheroperationinprogress",
    "another operation is in progress",
    "another operation in progress",
    "another operation (install/upgrade/rollback) is in progress",
    "cannot acquire exclusive lock",
    "error acquiring the state lock",
    "operationpreempted",
];
const THROTTLED: &[&str] = &[
    "toomanyrequests",
    "too many requests",
    "requestlimitexceeded",
    "ratelimitexceeded",
    "rate limit exceeded",
    "throttlingexception",
    "throttling:",
    "subscriptionrequeststhrottled",
    "status code 429",
    "status: 429",
    "statuscode=429",
    "http 429",
    "error 429",
];
const QUOTA: &[&str] = &[
    "quotaexceeded",
    "quota exceeded",
    "exceeded quota",
    "exceeding approved",
    "insufficientquota",
    "vcpulimitexceeded",
    "skunotavailable",
    "allocationfailed",
];
const SERVER: &[&str] = &[
    "internalservererror",
    "internal server error",
    "bad gateway",
    "service unavailable",
    "serviceunavailable",
    "gateway timeout",
    "gatewaytimeout",
    "connection reset",
    "connection refused",
    "tls handshake timeout",
    "i/o timeout",
    "unexpected eof",
    "etcdserver: leader changed",
];

/// The cause of a failure, from the end of the output and how the process ended.
pub fn classify(output: &str, ended: &str) -> Cause {
    let lower = output.to_ascii_lowercase();
    let find = |signs: &[&str]| signs.iter().filter_map(|sign| lower.rfind(sign)).max();
    if let Some(at) = find(LOCKED) {
        return Cause::Locked { what: line_at(output, at) + &lock_hint(output) };
    }
    if find(THROTTLED).is_some() {
        return Cause::Throttled { retry_after: retry_after(&lower) };
    }
    if let Some(at) = find(QUOTA) {
        return Cause::Quota { what: line_at(output, at) };
    }
    if let Some(at) = find(SERVER) {
        return Cause::Server { what: line_at(output, at) };
    }
    let last = output.lines().rev().map(str::trim).find(|line| !line.is_empty());
    Cause::Failed {
        what: last.map_or_else(|| ended.to_owned(), |line| format!("{ended}: {}", clipped(line))),
    }
}

/// The line of a text around a place.
fn line_at(text: &str, at: usize) -> String {
    let begin = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let end = text[at..].find('\n').map_or(text.len(), |n| at + n);
    clipped(text[begin..end].trim())
}

fn clipped(line: &str) -> String {
    let clean: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
    clean.trim_start_matches(['│', '╷', '╵', ' ']).to_owned()
}

/// What Terraform tells about who holds a state, and how to break a lock whose holder is gone.
fn lock_hint(output: &str) -> String {
    let field = |name: &str| {
        let value = output.lines().find_map(|line| {
            line.trim_start_matches(['│', ' '])
                .strip_prefix(name)
                .map(|v| v.trim().trim_start_matches(':').trim())
        });
        value.map(clipped)
    };
    match (field("ID:"), field("Who:"), field("Created:")) {
        (Some(id), Some(who), Some(created)) => format!(
            "; the state is held by {who} since {created}; if that process is gone: terraform force-unlock {id}"
        ),
        _ => String::new(),
    }
}

/// Seconds behind the last `Retry-After`.
fn retry_after(lower: &str) -> Option<Duration> {
    let at = lower.rfind("retry-after").or_else(|| lower.rfind("retry after"))?;
    let rest = &lower[at + "retry-after".len()..];
    let digits = rest.find(|c: char| c.is_ascii_digit()).filter(|at| *at <= 16)?;
    let number: String = rest[digits..].chars().take_while(char::is_ascii_digit).collect();
    number.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_apart() {
        let cases = [
            ("Error: 429 TooManyRequests\nRetry-After: 17\n", "throttled"),
            ("{\"code\":\"RequestLimitExceeded\"}", "throttled"),
            ("googleapi: Error 403: rateLimitExceeded", "throttled"),
            ("StatusCode=429 Code=\"RetryableErrorDueToAnotherOperation\"", "locked"),
            ("cannot acquire exclusive lock on VNet", "locked"),
            (
                "Operation could not be completed as it results in exceeding approved Total Regional Cores quota",
                "quota",
            ),
            ("HTTP 502 Bad Gateway", "server"),
            ("dial tcp: i/o timeout", "server"),
            ("no such file\n\n", "failed"),
            ("", "failed"),
        ];
        for (output, label) in cases {
            assert_eq!(classify(output, "exit status 1").label(), label, "{output}");
        }
    }

    #[test]
    fn what_the_api_asks_to_wait_is_read() {
        let after = |text: &str| match classify(text, "") {
            Cause::Throttled { retry_after } => retry_after.map(|after| after.as_secs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(after("Too Many Requests\nRetry-After: 17"), Some(17));
        assert_eq!(after("too many requests, please retry after 5 seconds"), Some(5));
        assert_eq!(after("429 Too Many Requests"), None);
    }

    #[test]
    fn a_state_lock_names_its_holder_and_the_way_out() {
        let output = "│ Error: Error acquiring the state lock\n│ Lock Info:\n│   ID:        1234\n│   Who:       ada@here\n\
                      │   Created:   2026-01-02\n";
        let Cause::Locked { what } = classify(output, "exit status 1") else { panic!("a lock") };
        assert!(what.contains("held by ada@here since 2026-01-02"), "{what}");
        assert!(what.contains("terraform force-unlock 1234"), "{what}");
    }

    #[test]
    fn the_last_line_says_what_failed() {
        assert_eq!(
            classify("a\nboom\n\n", "exit status 2"),
            Cause::Failed { what: "exit status 2: boom".into() }
        );
    }
}
