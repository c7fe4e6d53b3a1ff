//! The command line as a contract: help, exit codes, forms of output, errors.
//!
//! Nothing here needs a database server; what does is in `tests/e2e`.

mod contract;
mod program;
mod schema;
mod shells;
mod terminal;
