//! The trace format that Perfetto and chrome://tracing read.

use serde_json::json;

use super::Picture;

/// One process for each phase, one thread for each task, one slice for each attempt. Times are microseconds.
pub fn trace(picture: &Picture) -> String {
    let mut events = Vec::new();
    for (phase, name) in picture.phases.iter().enumerate() {
        events.push(json!({ "ph": "M", "name": "process_name", "pid": phase, "args": { "name": name } }));
    }
    for (at, row) in picture.rows.iter().enumerate() {
        events.push(json!({
            "ph": "M", "name": "thread_name", "pid": row.phase, "tid": at, "args": { "name": row.name },
        }));
        for (number, (start, end, failed)) in row.attempts.iter().enumerate() {
            events.push(json!({
                "ph": "X",
                "name": row.name,
                "cat": if failed.is_some() { "failed" } else { "done" },
                "pid": row.phase,
                "tid": at,
                "ts": start.as_micros() as u64,
                "dur": end.saturating_sub(*start).as_micros() as u64,
                "args": { "attempt": number + 1, "cause": failed, "critical": row.critical },
            }));
        }
    }
    for (at, scope, limit) in &picture.throttled {
        events.push(json!({
            "ph": "C", "name": format!("slots of {scope}"), "pid": 0, "ts": at.as_micros() as u64,
            "args": { "slots": limit },
        }));
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events }).to_string()
}
