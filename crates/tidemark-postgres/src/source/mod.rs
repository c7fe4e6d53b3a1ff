//! PostgreSQL as a source.

mod assemble;
mod chunks;
mod decode;
mod frames;
mod replay;
pub(crate) mod select;
mod snapshot;
mod spool;
mod xids;

pub use snapshot::PgSnapshot;
