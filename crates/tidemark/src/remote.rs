//! A server instead of databases: the same questions, put to its API.
//!
//! Which server, and with which token, is said by flags, variables, or a context of the contexts file.
//! A token is never an argument: those are seen by everybody on the machine.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use hyper::header::{self, HeaderName};
use serde::Deserialize;
use serde_json::Value;
use tidemark_core::catalogue::{Code, codes};
use tidemark_core::config::{self, Secret};
use tidemark_core::standing::Standing;
use tidemark_core::{Error, Result};

use crate::invocation::Invocation;
use crate::surroundings::env;

mod context;
mod definitions;
mod http;

pub(crate) use context::{Contexts, Entry};
pub(crate) use definitions::Compared;
pub(crate) use http::Address;

/// The server, or the context, where no flag says one.
const SERVER: &str = "TIDEMARK_SERVER";
const CONTEXT: &str = "TIDEMARK_CONTEXT";
/// The token as text, where it is not in a file.
const TOKEN: &str = "TIDEMARK_TOKEN";

/// How often it is looked whether an action has come to its end.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A server, and who we are to it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    address: Address,
    token: Option<Secret>,
    /// Whether a flag of this command says so.
    is_asked_for: bool,
}

/// A pipeline of a server.
#[derive(Clone, Debug)]
pub(crate) struct There {
    pub(crate) server: Remote,
    pub(crate) name: String,
}

/// What was asked of a pipeline, and what came of it.
#[derive(Deserialize)]
pub(crate) struct Operation {
    id: String,
    state: String,
    text: Option<String>,
    code: Option<String>,
    /// For a program, where there is more to say; while it runs, what came so far.
    #[serde(default)]
    pub(crate) data: Value,
}

impl Operation {
    pub(crate) fn is_over(&self) -> bool {
        self.state != "running"
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == "succeeded"
    }

    /// Why it came to nothing.
    pub(crate) fn refusal(&self) -> Error {
        let code = self.code.as_deref().and_then(Code::parse);
        let text = self.text.clone().unwrap_or_default();
        Error::definite(code.unwrap_or(codes::CLI_REFUSED), text)
    }
}

/// What came of something that was asked of a pipeline.
pub(crate) struct Done {
    /// In a sentence.
    pub(crate) text: String,
    /// For a program, where there is more to say.
    pub(crate) data: Value,
}

impl Remote {
    /// The server that is meant, if one is.
    pub(crate) fn of(invocation: &Invocation) -> Result<Option<Remote>> {
        let everywhere = &invocation.everywhere;
        let token = match (&everywhere.token_file, env(TOKEN)) {
            (Some(file), _) => Some(read_token(file)?),
            (None, text) => text.map(Secret::new),
        };
        let (address, context) = match (&everywhere.server, &everywhere.context) {
            (Some(address), _) => (Some(address.clone()), None),
            (None, Some(context)) => (None, Some(context.clone())),
            (None, None) => match (address_of_environment()?, env(CONTEXT)) {
                (None, None) => (None, context::current()?),
                said => said,
            },
        };
        let is_asked_for = everywhere.server.is_some() || everywhere.context.is_some();
        if let Some(address) = address {
            return Ok(Some(Remote {
                address,
                token,
                is_asked_for,
            }));
        }
        let Some(name) = context else {
            return Ok(None);
        };
        let known = context::read(&name)?;
        let token = match token {
            Some(token) => Some(token),
            None => known.token()?,
        };
        Ok(Some(Remote {
            address: known.address,
            token,
            is_asked_for,
        }))
    }

    /// Whether it is meant by this command alone, and not whenever nothing else is said.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.is_asked_for
    }

    /// Where it is, for a person.
    pub(crate) fn shown(&self) -> &str {
        self.address.shown()
    }

    pub(crate) fn pipeline(&self, name: &str) -> There {
        There {
            server: self.clone(),
            name: name.to_owned(),
        }
    }

    /// The names of its pipelines; of those with a tag, and of those that may have it.
    pub(crate) async fn names(&self, tag: Option<&str>) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            pipelines: Vec<Item>,
            /// A server that is older than tags has none.
            #[serde(default)]
            not_known: Vec<String>,
            next_cursor: Option<String>,
        }
        #[derive(Deserialize)]
        struct Item {
            id: String,
        }
        let mut names = Vec::new();
        let mut cursor = None;
        loop {
            let more = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
            let only = tag.map_or_else(String::new, |tag| format!("&tag={}", encoded(tag)));
            let page = self
                .get(&format!("/pipelines?limit=500{only}{more}"))
                .await?;
            let page: Page = serde_json::from_value(page).map_err(|err| self.strange(&err))?;
            names.extend(page.pipelines.into_iter().map(|item| item.id));
            let Some(next) = page.next_cursor else {
                names.extend(page.not_known);
                return Ok(names);
            };
            cursor = Some(next);
        }
    }

    /// All pages of a list: what stands under this name in each of them; what else is said as the last one says it.
    pub(crate) async fn every_page(&self, route: &str, name: &str) -> Result<Value> {
        let (mut all, mut more) = (Vec::new(), String::new());
        loop {
            let mut page = self.get(&format!("{route}?limit=500{more}")).await?;
            if let Some(Value::Array(rows)) = page.get_mut(name).map(Value::take) {
                all.extend(rows);
            }
            let Some(next) = page["next_cursor"].as_str() else {
                page[name] = Value::Array(all);
                return Ok(page);
            };
            more = format!("&cursor={}", encoded(next));
        }
    }

    /// A GET of JSON.
    pub(crate) async fn get(&self, route: &str) -> Result<Value> {
        let answered = self.ask(Method::GET, route, &[], None).await?;
        serde_json::from_slice(&answered.body).map_err(|err| self.strange(&err))
    }

    /// Any request; what is not a success is the server's own error.
    async fn ask(
        &self,
        method: Method,
        route: &str,
        headers: &[(HeaderName, String)],
        body: Option<(&str, String)>,
    ) -> Result<http::Answered> {
        let mut headers = headers.to_vec();
        if let Some(token) = &self.token {
            let value = format!("Bearer {}", token.expose().trim());
            headers.push((header::AUTHORIZATION, value));
        }
        let body = match body {
            Some((kind, body)) => {
                headers.push((header::CONTENT_TYPE, kind.to_owned()));
                body
            }
            None => String::new(),
        };
        let asked = http::Asked {
            method,
            target: format!("/api/v1{route}"),
            headers,
            body,
        };
        let answered = self.address.ask(asked).await?;
        if answered.status.is_success() {
            return Ok(answered);
        }
        Err(self.refused(&answered))
    }

    /// The server's own words (RFC 9457).
    fn refused(&self, answered: &http::Answered) -> Error {
        #[derive(Deserialize)]
        struct Problem {
            code: String,
            detail: String,
            #[serde(default)]
            retryable: bool,
            #[serde(default)]
            table: Option<String>,
            #[serde(default)]
            fix: Vec<Fix>,
            #[serde(default)]
            errors: Vec<Fault>,
        }
        #[derive(Deserialize)]
        struct Fix {
            text: String,
        }
        #[derive(Deserialize)]
        struct Fault {
            pointer: Option<String>,
            detail: String,
        }
        let kind = answered.headers.get(header::CONTENT_TYPE);
        let is_problem = kind.is_some_and(|kind| kind == "application/problem+json");
        let problem: Option<Problem> = is_problem
            .then(|| serde_json::from_slice(&answered.body).ok())
            .flatten();
        let known = problem.and_then(|problem| Some((Code::parse(&problem.code)?, problem)));
        let Some((code, problem)) = known else {
            return self.strange(&format!("it answers {}", answered.status));
        };
        let mut text = problem.detail;
        if problem.errors.len() > 1 {
            for fault in problem.errors {
                let place = fault
                    .pointer
                    .map_or_else(String::new, |at| format!("{at}: "));
                text = format!("{text}\n{place}{}", fault.detail);
            }
        }
        let mut err = if problem.retryable {
            Error::transient(code, text)
        } else {
            Error::definite(code, text)
        };
        if code == codes::API_NO_TOKEN {
            let action = format!(
                "give a token of {}: {TOKEN}, or --token-file FILE",
                self.shown()
            );
            return err.first_action(action);
        }
        if let Some(table) = problem.table {
            err = err.table(table);
        }
        match problem.fix.into_iter().next() {
            Some(fix) => err.first_action(fix.text),
            None => err,
        }
    }

    /// A POST of JSON.
    pub(crate) async fn post(&self, route: &str, body: &Value) -> Result<Value> {
        let body = Some(("application/json", body.to_string()));
        let answered = self.ask(Method::POST, route, &[], body).await?;
        serde_json::from_slice(&answered.body).map_err(|err| self.strange(&err))
    }

    /// A DELETE that is answered with JSON.
    pub(crate) async fn delete(&self, route: &str) -> Result<Value> {
        let answered = self.ask(Method::DELETE, route, &[], None).await?;
        serde_json::from_slice(&answered.body).map_err(|err| self.strange(&err))
    }

    /// An operation as it is now.
    pub(crate) async fn now(&self, operation: &str) -> Result<Operation> {
        let route = format!("/operations/{}", encoded(operation));
        let now = self.get(&route).await?;
        serde_json::from_value(now).map_err(|err| self.strange(&err))
    }

    /// The end of an operation.
    pub(crate) async fn over(&self, operation: &str) -> Result<Operation> {
        loop {
            let now = self.now(operation).await?;
            if now.is_over() {
                return Ok(now);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Has an operation given up; one that is over, or past that, goes on as it is.
    pub(crate) async fn cancel(&self, operation: &str) -> Result<()> {
        let route = format!("/operations/{}/cancel", encoded(operation));
        match self.ask(Method::POST, &route, &[], None).await {
            Err(err) if err.code() == codes::API_CONFLICT => Ok(()),
            answered => answered.map(drop),
        }
    }

    /// Agrees to what an operation asks.
    pub(crate) async fn agree(&self, operation: &str, name: &str) -> Result<()> {
        let route = format!("/operations/{}/confirm", encoded(operation));
        let body = serde_json::json!({ "confirm": name }).to_string();
        let body = Some(("application/json", body));
        self.ask(Method::POST, &route, &[], body).await.map(drop)
    }

    pub(crate) fn strange(&self, what: &dyn std::fmt::Display) -> Error {
        let text = format!("{}: {what}", self.shown());
        Error::definite(codes::SERVER_STRANGE, text)
    }
}

impl There {
    /// How it stands.
    pub(crate) async fn look(&self) -> Result<Standing> {
        let data = self.get("/status").await?;
        Standing::of_data(data).map_err(|err| self.server.strange(&err))
    }

    /// Has it do something, and waits for the end of it.
    pub(crate) async fn act(&self, action: &str, body: &Value) -> Result<Done> {
        let operation = self.begin(action, body).await?;
        let over = self.server.over(&operation).await?;
        if !over.is_done() {
            return Err(over.refusal());
        }
        Ok(Done {
            text: over.text.unwrap_or_default(),
            data: over.data,
        })
    }

    /// The same without waiting; gives the operation's id.
    pub(crate) async fn begin(&self, action: &str, body: &Value) -> Result<String> {
        Ok(self.operation(&self.ask(action, body).await?)?.id)
    }

    /// What an action would do, where the body says `dry_run`.
    pub(crate) async fn tell(&self, action: &str, body: &Value) -> Result<Value> {
        let told = self.ask(action, body).await?;
        serde_json::from_slice(&told.body).map_err(|err| self.server.strange(&err))
    }

    async fn ask(&self, action: &str, body: &Value) -> Result<http::Answered> {
        let route = self.route(&format!("/actions/{action}"));
        let body = Some(("application/json", body.to_string()));
        match self.server.ask(Method::POST, &route, &[], body).await {
            Err(err) if err.code() == codes::API_NOT_FOUND => Err(self.unknown().await),
            answered => answered,
        }
    }

    fn operation(&self, answered: &http::Answered) -> Result<Operation> {
        serde_json::from_slice(&answered.body).map_err(|err| self.server.strange(&err))
    }

    /// Has something of it removed.
    pub(crate) async fn delete(&self, what: &str) -> Result<()> {
        let route = self.route(what);
        let asked = self.server.ask(Method::DELETE, &route, &[], None);
        asked.await.map(drop)
    }

    /// A GET of something of it.
    pub(crate) async fn get(&self, what: &str) -> Result<Value> {
        match self.server.get(&self.route(what)).await {
            Err(err) if err.code() == codes::API_NOT_FOUND => Err(self.unknown().await),
            other => other,
        }
    }

    /// A GET of something of it that may not be there.
    pub(crate) async fn find(&self, what: &str) -> Result<Option<Value>> {
        match self.server.get(&self.route(what)).await {
            Err(err) if err.code() == codes::API_NOT_FOUND => Ok(None),
            other => other.map(Some),
        }
    }

    fn route(&self, what: &str) -> String {
        format!("/pipelines/{}{what}", encoded(&self.name))
    }

    /// There is no such pipeline; perhaps there is one of nearly this name.
    async fn unknown(&self) -> Error {
        let (name, place) = (&self.name, self.server.shown());
        let err = Error::definite(
            codes::CLI_NO_PIPELINE,
            format!("there is no pipeline `{name}` on {place}"),
        );
        let names = self.server.names(None).await.unwrap_or_default();
        let near = config::problem::suggestion(name, names.iter().map(String::as_str));
        match near {
            Some(near) => err.first_action(format!("did you mean {near}?")),
            None => err.first_action("see which there are: tidemark status"),
        }
    }
}

/// A part of a path (RFC 3986, 2.1): what is not plain is written in bytes.
pub(crate) fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let mut out = String::new();
    for byte in text.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            crate::output::put!(out, "%{byte:02X}");
        }
    }
    out
}

fn address_of_environment() -> Result<Option<Address>> {
    let Some(text) = env(SERVER) else {
        return Ok(None);
    };
    let address = Address::parse(&text)
        .map_err(|why| Error::definite(codes::SERVER_CONTEXT, format!("{SERVER}: {why}")))?;
    Ok(Some(address))
}

fn read_token(file: &Path) -> Result<Secret> {
    let text = std::fs::read_to_string(file).map_err(|err| {
        let text = format!("read the token in {}: {err}", file.display());
        Error::definite(codes::SERVER_CONTEXT, text)
    })?;
    Ok(Secret::new(text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s31_names_are_parts_of_a_path() {
        assert_eq!(encoded("shop-1_a.b"), "shop-1_a.b");
        assert_eq!(encoded("a/b?c %é"), "a%2Fb%3Fc%20%25%C3%A9");
    }
}
