//! Bytes from people who mean no good.
