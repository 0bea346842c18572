//! The coordination service: the master and its store.
