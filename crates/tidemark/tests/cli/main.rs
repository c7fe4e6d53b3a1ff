//! The command line as a contract: help, exit codes, forms of output, errors.
//!
//! Only `demo`, `databases` and `verbs` need servers; what the engine does to data is in `tests/e2e`.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without ends it")]

mod config;
mod contexts;
mod contract;
mod databases;
mod demo;
mod program;
mod schema;
mod screens;
mod shells;
mod stage;
mod terminal;
mod verbs;
