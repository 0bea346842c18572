//! Metrics and logs, used by every program.
