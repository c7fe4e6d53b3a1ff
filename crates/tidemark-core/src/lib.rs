//! Nouns, traits and the pipeline: the line a row travels. Knows no driver, no HTTP, no files.

pub mod catalogue;
pub mod error;

pub use error::{Context, Error, ErrorKind, Result};
