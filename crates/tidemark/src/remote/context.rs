//! Contexts: servers by name, in a file of the user's own.
//!
//! ```toml
//! [context.prod]
//! server = "https://tidemark.example"
//! token_file = "prod.token"     # beside this file; or token_env = "PROD_TOKEN"
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use tidemark_core::catalogue::codes;
use tidemark_core::config::{Secret, problem};
use tidemark_core::{Error, Result};

use super::http::Address;
use crate::surroundings::env;

/// The file, in the user's place for configuration.
const FILE: &str = "tidemark/contexts.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    context: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    server: String,
    token_file: Option<PathBuf>,
    token_env: Option<String>,
}

/// A server that is known by name.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) address: Address,
    directory: PathBuf,
    entry: Entry,
}

/// The context of this name.
pub(super) fn read(name: &str) -> Result<Context> {
    let file = place().ok_or_else(|| wrong("neither XDG_CONFIG_HOME nor HOME is set"))?;
    let shown = file.display();
    let text = std::fs::read_to_string(&file)
        .map_err(|err| wrong(format!("read the contexts in {shown}: {err}")))?;
    let mut known: File =
        toml::from_str(&text).map_err(|err| wrong(format!("{shown}: {}", err.message())))?;
    let Some(entry) = known.context.remove(name) else {
        let near = problem::suggestion(name, known.context.keys().map(String::as_str));
        let err = wrong(format!("{shown} has no context `{name}`"));
        return Err(match near {
            Some(near) => err.first_action(format!("did you mean {near}?")),
            None => err,
        });
    };
    let address = Address::parse(&entry.server)
        .map_err(|why| wrong(format!("{shown}: server of context {name}: {why}")))?;
    Ok(Context {
        address,
        directory: file.parent().map(PathBuf::from).unwrap_or_default(),
        entry,
    })
}

impl Context {
    /// The token that it refers to.
    pub(super) fn token(&self) -> Result<Option<Secret>> {
        if let Some(file) = &self.entry.token_file {
            return super::read_token(&self.directory.join(file)).map(Some);
        }
        let Some(name) = &self.entry.token_env else {
            return Ok(None);
        };
        let value = env(name).ok_or_else(|| wrong(format!("the variable {name} is not set")))?;
        Ok(Some(Secret::new(value)))
    }
}

fn place() -> Option<PathBuf> {
    let of_user = env("XDG_CONFIG_HOME").map(PathBuf::from);
    let of_user = of_user.or_else(|| Some(PathBuf::from(env("HOME")?).join(".config")));
    of_user.map(|place| place.join(FILE))
}

fn wrong(text: impl Into<String>) -> Error {
    Error::definite(codes::SERVER_CONTEXT, text)
}
