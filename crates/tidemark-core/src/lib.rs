//! Nouns, traits and the pipeline: the line a row travels. Knows no driver, no HTTP, no files.
//!
//! ```text
//!   source ──► snapshot (chunks) ──┐
//!                                  ├──► transform ──► apply ──► target
//!   source ──► change stream ──────┘                    └─ checkpoint, in the same commit
//! ```

pub mod batch;
pub mod board;
pub mod catalogue;
pub mod checkpoint;
pub mod clock;
pub mod compact;
pub mod config;
pub mod control;
pub mod error;
pub mod event;
pub mod failpoint;
pub mod filter;
pub mod finding;
pub mod mapping;
pub mod mask;
pub mod pipeline;
pub mod position;
pub mod quarantine;
pub mod schedule;
pub mod schema;
pub mod selection;
pub mod source;
pub mod standing;
pub mod status;
pub mod target;
pub mod tidemark;
pub mod verify;
pub mod words;

pub use error::{Context, Error, ErrorKind, Result};
