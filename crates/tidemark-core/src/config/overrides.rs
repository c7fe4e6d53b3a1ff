//! What is said outside of the file: flags and variables over it, defaults below it.

use std::sync::Arc;

use toml::de::DeValue;

use super::keys::{Key, Kind};
use super::problem::{Document, Place, Problem, Problems, suggestion};
use super::secret::{Nothing, Surroundings};
use super::settings::{Origin, Setting, Settings};
use super::value;
use crate::catalogue::codes;

/// A value from outside of the file: a flag, or an environment variable.
#[derive(Clone, Debug)]
pub struct Override {
    /// The key's path.
    pub path: String,
    /// The value: texts without quotes, lists with commas.
    pub text: String,
    /// Who says so.
    pub origin: Origin,
}

/// Gives every key that nobody spoke of its default.
pub(crate) fn add_defaults(settings: &mut Settings, keys: &[Key]) {
    for key in keys {
        let Some(default) = key.default else {
            continue;
        };
        let paths = match key.path.split_once("[].") {
            None => vec![key.path.clone()],
            Some((list, name)) => (0..settings.count(list))
                .map(|index| format!("{list}[{index}].{name}"))
                .collect(),
        };
        for path in paths
            .into_iter()
            .filter(|path| !settings.has(path))
            .collect::<Vec<_>>()
        {
            settings.by_path.insert(path, default_setting(key, default));
        }
    }
}

fn default_setting(key: &Key, default: &str) -> Setting {
    let parsed = DeValue::parse(default).expect("defaults are TOML, checked by a test");
    let place = Place {
        document: Arc::new(Document::new("default", default)),
        span: 0..default.len(),
    };
    let value = value::from_toml(key, &parsed, &place, &Nothing)
        .expect("defaults are allowed by their keys, checked by a test");
    Setting {
        value,
        place: None,
        key_place: None,
        origin: Origin::Default,
    }
}

/// See [`super::overrides_of`].
pub(crate) fn overrides_of(
    variables: impl IntoIterator<Item = (String, String)>,
    keys: &[Key],
) -> Result<Vec<Override>, Problems> {
    let plain: Vec<&Key> = keys
        .iter()
        .filter(|key| key.path.contains('.') && !key.path.contains("[]"))
        .collect();
    let name_of = |key: &Key| format!("TIDEMARK_{}", key.path.replace('.', "_").to_uppercase());
    let mut overrides = Vec::new();
    let mut problems = Problems::new();
    for (name, text) in variables {
        if let Some(key) = plain.iter().find(|key| name_of(key) == name) {
            overrides.push(Override {
                path: key.path.clone(),
                text,
                origin: Origin::Environment(name),
            });
            continue;
        }
        let is_ours = plain.iter().any(|key| {
            let section = key
                .path
                .split('.')
                .next()
                .unwrap_or_default()
                .to_uppercase();
            name.starts_with(&format!("TIDEMARK_{section}_"))
        });
        if is_ours {
            let names: Vec<String> = plain.iter().map(|key| name_of(key)).collect();
            let mut problem = Problem::new(
                codes::CONFIG_UNKNOWN_KEY,
                format!("environment variable {name} is not one of a key"),
            );
            if let Some(near) = suggestion(&name, names.iter().map(String::as_str)) {
                problem = problem.label(format!("did you mean {near}?"));
            }
            problems.push(problem);
        }
    }
    problems.into_result(overrides)
}

/// Puts what was said outside of the file over it; a flag goes before a variable.
pub(crate) fn apply(
    settings: &mut Settings,
    overrides: &[Override],
    keys: &[Key],
    surroundings: &dyn Surroundings,
    problems: &mut Problems,
) {
    let is_flag = |over: &&Override| matches!(over.origin, Origin::Flag(_));
    let (flags, variables): (Vec<&Override>, Vec<&Override>) = overrides.iter().partition(is_flag);
    for over in variables.into_iter().chain(flags) {
        let known = keys
            .iter()
            .find(|key| key.path == over.path && !key.path.contains("[]"));
        let Some(key) = known else {
            problems.push(Problem::new(
                codes::CONFIG_UNKNOWN_KEY,
                format!("{}: there is no key `{}`", over.origin, over.path),
            ));
            continue;
        };
        let mut document = Document::new(over.origin.to_string(), over.text.clone());
        if key.kind == Kind::Secret {
            document.hide(0..over.text.len());
        }
        let place = Place {
            document: Arc::new(document),
            span: 0..over.text.len(),
        };
        match value::from_text(key, &over.text, &place, surroundings) {
            Ok(value) => {
                let setting = Setting {
                    value,
                    place: Some(place.clone()),
                    key_place: Some(place),
                    origin: over.origin.clone(),
                };
                settings.by_path.insert(over.path.clone(), setting);
            }
            Err(found) => problems.extend(found),
        }
    }
}
