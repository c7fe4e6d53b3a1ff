//! The command line as a contract: help, exit codes, forms of output, errors.
//!
//! Nothing here needs a database server; what does is in `tests/e2e`.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without ends it")]

mod config;
mod contract;
mod program;
mod schema;
mod shells;
mod terminal;
