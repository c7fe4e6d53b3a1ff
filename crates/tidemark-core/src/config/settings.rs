//! Settings: what was said, by path, each checked against the table of keys and with its origin.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::{Key, Kind};
use super::problem::{Located, Place};
use super::secret::Secret;
use super::unit;

/// A value of the kind that its key takes.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Secret(Secret),
    Flag(bool),
    Count(u64),
    Bytes(u64),
    Time(Duration),
    List(Vec<Located<String>>),
    Map(Vec<(Located<String>, Located<String>)>),
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line.
    Flag(String),
    /// An environment variable.
    Environment(String),
    /// A line of a file: name and number.
    File(String, usize),
    /// Nobody said it.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Flag(flag) => f.write_str(flag),
            Origin::Environment(name) => f.write_str(name),
            Origin::File(path, line) => write!(f, "{path}:{line}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// One value with its place and origin.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) value: Value,
    pub(crate) place: Option<Place>,
    /// Where its key stands; a better place for "these two contradict each other".
    pub(crate) key_place: Option<Place>,
    pub(crate) origin: Origin,
}

/// All that was said, by path. Sections of lists are numbered: `table[0].source`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) by_path: BTreeMap<String, Setting>,
    /// How many sections each list has, and where each begins.
    pub(crate) lists: BTreeMap<String, Vec<Place>>,
    /// Where sections begin.
    pub(crate) sections: BTreeMap<String, Place>,
    /// Keys that are there with a value that is not: they are not missing too.
    pub(crate) misread: Vec<String>,
    /// The end of the file, where a missing section would go; `None` where the file could not be
    /// read as a whole, so that nothing can be said of what is missing.
    pub(crate) end: Option<Place>,
}

impl Settings {
    pub(crate) fn get(&self, path: &str) -> Option<&Setting> {
        self.by_path.get(path)
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }

    /// Whether anything was said of a section.
    pub(crate) fn has_section(&self, section: &str) -> bool {
        let prefix = format!("{section}.");
        self.sections.contains_key(section)
            || self.by_path.keys().any(|path| path.starts_with(&prefix))
    }

    /// How many sections a list has.
    pub(crate) fn count(&self, list: &str) -> usize {
        self.lists.get(list).map_or(0, Vec::len)
    }

    pub(crate) fn text(&self, path: &str) -> Option<Located<String>> {
        let setting = self.get(path)?;
        match &setting.value {
            Value::Text(text) => Some(Located {
                value: text.clone(),
                place: setting.place.clone(),
            }),
            _ => None,
        }
    }

    pub(crate) fn secret(&self, path: &str) -> Option<Located<Secret>> {
        let setting = self.get(path)?;
        match &setting.value {
            Value::Secret(secret) => Some(Located {
                value: secret.clone(),
                place: setting.place.clone(),
            }),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, path: &str) -> Option<bool> {
        match self.get(path)?.value {
            Value::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        match self.get(path)?.value {
            Value::Count(number) | Value::Bytes(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn time(&self, path: &str) -> Option<Duration> {
        match self.get(path)?.value {
            Value::Time(time) => Some(time),
            _ => None,
        }
    }

    pub(crate) fn list(&self, path: &str) -> Vec<Located<String>> {
        match self.get(path).map(|setting| &setting.value) {
            Some(Value::List(list)) => list.clone(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn map(&self, path: &str) -> Vec<(Located<String>, Located<String>)> {
        match self.get(path).map(|setting| &setting.value) {
            Some(Value::Map(map)) => map.clone(),
            _ => Vec::new(),
        }
    }
}

/// One key as it is in effect, for `config lint --show-origin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The key's path.
    pub path: String,
    /// Its value as a file would say it; a secret is `***`.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Settings {
    /// Every key that has a value, in the order of the table of keys.
    pub(crate) fn effective(&self, keys: &[Key]) -> Vec<Effective> {
        let mut found = Vec::new();
        for key in keys {
            match key.path.split_once("[].") {
                None => found.extend(self.effective_at(&key.path, &key.kind)),
                Some((list, name)) => {
                    let paths =
                        (0..self.count(list)).map(|index| format!("{list}[{index}].{name}"));
                    found.extend(paths.filter_map(|path| self.effective_at(&path, &key.kind)));
                }
            }
        }
        found
    }

    fn effective_at(&self, path: &str, kind: &Kind) -> Option<Effective> {
        let setting = self.get(path)?;
        Some(Effective {
            path: path.to_owned(),
            value: match kind {
                Kind::Secret => "***".to_owned(),
                _ => shown(&setting.value),
            },
            origin: setting.origin.clone(),
        })
    }
}

fn shown(value: &Value) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    match value {
        Value::Text(text) => quoted(text),
        Value::Secret(_) => "***".to_owned(),
        Value::Flag(flag) => flag.to_string(),
        Value::Count(count) => count.to_string(),
        Value::Bytes(bytes) => quoted(&unit::show_bytes(*bytes)),
        Value::Time(time) => quoted(&unit::show_duration(*time)),
        Value::List(list) => {
            let items: Vec<String> = list.iter().map(|item| quoted(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let items: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{} = {}", quoted(&key.value), quoted(&value.value)))
                .collect();
            format!("{{ {} }}", items.join(", "))
        }
    }
}
