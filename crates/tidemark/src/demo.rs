//! The demo: two temporary servers, live traffic, a pipeline between them, and ways to break it.
//!
//! The pipeline runs in a process of its own, `tidemark run`, as a user would run it: so it can be
//! killed for real, and what is shown of it is what any other command would see. Everything lives in
//! the lab's temporary directories, which go away with us however we end.
//!
//! - [`stage`]: servers, data, pipeline file, traffic
//! - [`worker`]: the process that runs the pipeline
//! - [`orders`]: how `demo break` reaches a running demo
//! - [`around`]: how its server, and so a page, reaches it
//! - [`mark`]: how commands find it

pub(crate) mod around;
pub(crate) mod mark;
pub(crate) mod orders;
pub(crate) mod stage;
pub(crate) mod worker;

use tidemark_core::Error;
use tidemark_core::catalogue::codes;

/// What the lab could not do on this machine.
pub(crate) fn lab(err: &anyhow::Error) -> Error {
    Error::definite(codes::CLI_MACHINE, format!("{err:#}"))
}
