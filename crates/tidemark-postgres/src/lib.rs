//! PostgreSQL as source and target.

pub mod browse;
pub mod check;
pub mod config;
pub mod connect;
pub mod cutover;
pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod schema;
mod shown;
pub mod source;
pub mod target;
pub mod tls;
pub mod view;
pub mod wire;
