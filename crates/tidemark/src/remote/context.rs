//! Contexts: servers by name, in a file of the user's own.
//!
//! ```toml
//! current = "prod"              # the one that is asked where nothing else is said
//!
//! [context.prod]
//! server = "https://tidemark.example"
//! token_file = "prod.token"     # beside this file; or token_env = "PROD_TOKEN"
//! ```

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
    current: Option<String>,
    #[serde(default)]
    context: BTreeMap<String, Entry>,
}

/// What the file says of one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) server: String,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) token_env: Option<String>,
}

/// A server that is known by name.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) address: Address,
    directory: PathBuf,
    entry: Entry,
}

/// All contexts, and the name of the one that is asked where nothing else is said.
#[derive(Debug)]
pub(crate) struct Contexts {
    pub(crate) file: PathBuf,
    pub(crate) current: Option<String>,
    pub(crate) entries: BTreeMap<String, Entry>,
    text: String,
}

/// The context of this name.
pub(super) fn read(name: &str) -> Result<Context> {
    let known = Contexts::read()?;
    let entry = known.entry(name)?.clone();
    let shown = known.file.display();
    let address = Address::parse(&entry.server)
        .map_err(|why| wrong(format!("{shown}: server of context {name}: {why}")))?;
    Ok(Context {
        address,
        directory: known.file.parent().map(PathBuf::from).unwrap_or_default(),
        entry,
    })
}

/// The name of the context that is asked where nothing else is said.
pub(super) fn current() -> Result<Option<String>> {
    match place() {
        Some(file) if file.is_file() => Ok(Contexts::read()?.current),
        _ => Ok(None),
    }
}

impl Contexts {
    /// What the file says; nothing where there is none.
    pub(crate) fn read() -> Result<Contexts> {
        let file = place().ok_or_else(|| wrong("neither XDG_CONFIG_HOME nor HOME is set"))?;
        let shown = file.display();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(err) => return Err(wrong(format!("read the contexts in {shown}: {err}"))),
        };
        let known: File =
            toml::from_str(&text).map_err(|err| wrong(format!("{shown}: {}", err.message())))?;
        Ok(Contexts {
            current: known.current,
            entries: known.context,
            file,
            text,
        })
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let near = problem::suggestion(name, self.entries.keys().map(String::as_str));
            let err = wrong(format!("{} has no context `{name}`", self.file.display()));
            match near {
                Some(near) => err.first_action(format!("did you mean {near}?")),
                None => err,
            }
        })
    }

    /// Adds one at the end; what else is in the file stays as it is.
    pub(crate) fn add(&self, name: &str, entry: &Entry) -> Result<()> {
        if self.entries.contains_key(name) {
            let shown = self.file.display();
            return Err(wrong(format!("{shown} has a context `{name}` already"))
                .first_action("change it there, or choose another name"));
        }
        let mut table = toml::Table::new();
        table.insert("server".to_owned(), entry.server.clone().into());
        if let Some(file) = &entry.token_file {
            let file = file.display().to_string();
            table.insert("token_file".to_owned(), file.into());
        }
        if let Some(name) = &entry.token_env {
            table.insert("token_env".to_owned(), name.clone().into());
        }
        let gap = if self.text.is_empty() || self.text.ends_with("\n\n") {
            ""
        } else {
            "\n"
        };
        let name = toml::Value::from(name);
        self.write(&format!("{}{gap}[context.{name}]\n{table}", self.text))
    }

    /// Says which one is asked where nothing else is said.
    pub(crate) fn make_current(&self, name: Option<&str>) -> Result<()> {
        if let Some(name) = name {
            self.entry(name)?;
        }
        let is_table = |line: &&str| line.trim_start().starts_with('[');
        let is_current = |line: &str| {
            let key = line.split('=').next().unwrap_or_default();
            key.trim() == "current"
        };
        let head = self.text.lines().take_while(|line| !is_table(line));
        let head: Vec<&str> = head.collect();
        let rest = self.text.lines().skip(head.len());
        let current = name.map(|name| format!("current = {}", toml::Value::from(name)));
        let mut lines: Vec<&str> = current.as_deref().into_iter().collect();
        lines.extend(head.iter().filter(|line| !is_current(line)));
        lines.extend(rest);
        self.write(&format!("{}\n", lines.join("\n")))
    }

    /// As a whole or not at all.
    fn write(&self, text: &str) -> Result<()> {
        let shown = self.file.display();
        if let Err(err) = toml::from_str::<File>(text) {
            let text = format!("{shown} would not be readable: {}", err.message());
            return Err(wrong(text).first_action("change it by hand"));
        }
        let draft = self.file.with_extension("toml.new");
        let directory = self.file.parent().unwrap_or(Path::new(""));
        let written = std::fs::create_dir_all(directory).and_then(|()| {
            let mut options = std::fs::OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&draft)?.write_all(text.as_bytes())?;
            std::fs::rename(&draft, &self.file)
        });
        written.map_err(|err| {
            let text = format!("write {shown}: {err}");
            Error::definite(codes::CLI_MACHINE, text)
        })
    }
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
