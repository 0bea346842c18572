//! The simulator: real protocol code over a seeded network, clock and store. Not shipped.
