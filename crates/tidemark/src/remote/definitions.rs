//! Definitions that a server has: read, compared with a text, taken in.

use hyper::Method;
use hyper::header;
use serde::Deserialize;
use serde_json::Value;
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result};

use super::{Remote, There};
use crate::invocation::Invocation;

/// A definition as it is sent.
const TOML: &str = "application/toml";

/// What a text would change of a definition.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Compared {
    /// Lines of a unified diff; none where nothing changes.
    pub(crate) diff: Vec<String>,
    /// Whether the pipeline runs.
    pub(crate) running: bool,
    /// The file of the server that has it.
    pub(crate) file: Option<String>,
    etag: String,
}

impl Remote {
    /// The server that is meant, for a verb that speaks to servers alone.
    pub(crate) fn named(invocation: &Invocation) -> Result<Remote> {
        Remote::of(invocation)?
            .ok_or_else(|| Error::definite(codes::SERVER_NOT_NAMED, "which server is not said"))
    }

    /// What a new pipeline of this definition would do; refused where the definition is wrong.
    pub(crate) async fn plan_new(&self, text: &str) -> Result<Value> {
        let body = Some((TOML, text.to_owned()));
        let route = "/pipelines?dry_run=true";
        let answered = self.ask(Method::POST, route, &[], body).await?;
        serde_json::from_slice(&answered.body).map_err(|err| self.strange(&err))
    }

    /// Has the server take a new pipeline in.
    pub(crate) async fn create(&self, text: &str, starts: bool) -> Result<()> {
        let body = Some((TOML, text.to_owned()));
        let route = format!("/pipelines?start={starts}");
        self.ask(Method::POST, &route, &[], body).await.map(drop)
    }
}

impl There {
    /// What this text would change of it; `None` where there is no such pipeline.
    pub(crate) async fn compare(&self, text: &str) -> Result<Option<Compared>> {
        let body = Some((TOML, text.to_owned()));
        let route = self.route("/definition/changes");
        let answered = self.server.ask(Method::POST, &route, &[], body).await;
        match answered {
            Err(err) if err.code() == codes::API_NOT_FOUND => Ok(None),
            answered => serde_json::from_slice(&answered?.body)
                .map(Some)
                .map_err(|err| self.server.strange(&err)),
        }
    }

    /// What it would do with this definition.
    pub(crate) async fn plan_with(&self, text: &str, seen: &Compared) -> Result<Value> {
        let answered = self.put("?dry_run=true", text, seen).await?;
        serde_json::from_slice(&answered).map_err(|err| self.server.strange(&err))
    }

    /// Gives it this definition, unless it is not any more as it was seen.
    pub(crate) async fn redefine(&self, text: &str, seen: &Compared) -> Result<()> {
        self.put("", text, seen).await.map(drop)
    }

    async fn put(&self, query: &str, text: &str, seen: &Compared) -> Result<Vec<u8>> {
        let route = self.route(query);
        let as_seen = [(header::IF_MATCH, seen.etag.clone())];
        let body = Some((TOML, text.to_owned()));
        let answered = self.server.ask(Method::PUT, &route, &as_seen, body).await?;
        Ok(answered.body)
    }

    /// Its definition, secrets as `***`.
    pub(crate) async fn definition(&self) -> Result<String> {
        self.text("/definition").await
    }

    /// A report of the last hours, in one document.
    pub(crate) async fn report(&self, hours: u16) -> Result<String> {
        self.text(&format!("/report.html?hours={hours}")).await
    }

    async fn text(&self, what: &str) -> Result<String> {
        let route = self.route(what);
        let answered = match self.server.ask(Method::GET, &route, &[], None).await {
            Err(err) if err.code() == codes::API_NOT_FOUND => return Err(self.unknown().await),
            answered => answered?,
        };
        String::from_utf8(answered.body).map_err(|err| self.server.strange(&err))
    }
}
