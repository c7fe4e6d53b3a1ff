//! What a test says when the machine lacks what it needs: never silently.
//!
//! The line `skipped: NAME: why` is what `make test` collects, counts and shows; where the thing
//! can be had (`STRICT=1`, CI) it makes of it a failure. A test says it and returns.

use crate::installation::Installation;
use crate::server::{PostgresServer, PostgresServerBuilder};

/// Says that a test was skipped, and why.
#[expect(
    clippy::print_stdout,
    reason = "the test harness collects what a test prints"
)]
pub fn skipped(test: &str, why: &str) {
    println!("skipped: {test}: {why}");
}

/// A server of this major version, or `None` after saying that the test was skipped.
pub fn major_or_skip(test: &str, major: u32) -> Option<PostgresServerBuilder> {
    match Installation::of_major(major) {
        Ok(installation) => Some(PostgresServer::builder().installation(installation)),
        Err(error) => {
            skipped(test, &error.to_string());
            None
        }
    }
}
