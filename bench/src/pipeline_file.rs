//! The pipeline file of a measurement: all defaults, but no verification, which no peer does.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::stage::{Database, Stage};

/// See the module's text.
pub(crate) struct PipelineFile<'a> {
    pub(crate) name: &'a str,
    pub(crate) mode: &'a str,
    pub(crate) source: &'a Database<'a>,
    pub(crate) target: &'a Database<'a>,
}

impl PipelineFile<'_> {
    /// Writes it and tells where.
    pub(crate) fn write(&self, stage: &Stage) -> Result<PathBuf> {
        self.write_with(stage, &self.source.url())
    }

    /// The same with a source that is reached by way of `proxy`.
    pub(crate) fn write_through(&self, stage: &Stage, proxy: SocketAddr) -> Result<PathBuf> {
        let source = self.source.server.url_through(proxy, self.source.name);
        self.write_with(stage, &source)
    }

    fn write_with(&self, stage: &Stage, source: &str) -> Result<PathBuf> {
        let path = stage.file(&format!("{}.toml", self.name));
        let target = self.target.url();
        let text = format!(
            r#"version = 1

[pipeline]
name = "{name}"
mode = "{mode}"

[source]
type = "postgres"
url = "{source}"

[target]
type = "postgres"
url = "{target}"

[tables]
include = ["public.*"]

[verify]
after_load = "off"
"#,
            name = self.name,
            mode = self.mode,
        );
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// The name of the slot that Tidemark makes for it.
    pub(crate) fn slot(&self) -> String {
        format!("tidemark_{}", self.name)
    }
}
