//! How the server of a demo asks it to break something: as `tidemark demo break` does, over the demo's
//! socket, but without waiting for the end, since the server may be what is killed.

use std::path::PathBuf;

use async_trait::async_trait;
use clap::ValueEnum;
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result};
use tidemark_server::demo::{Demo, Told};

use super::orders::{self, Break};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Around {
    /// Where the demo takes orders, once its first comparison is over.
    pub(crate) socket: PathBuf,
}

#[async_trait]
impl Demo for Around {
    async fn told(&self) -> Result<Told> {
        if !self.socket.exists() {
            return Ok(Told::default());
        }
        orders::told(&self.socket).await
    }

    async fn break_it(&self, what: &str) -> Result<()> {
        let what = Break::from_str(what, false)
            .map_err(|err| Error::definite(codes::CLI_REFUSED, format!("break {what}: {err}")))?;
        orders::begin(&self.socket, what).await
    }
}
