//! The table of keys as a JSON Schema: what editors use to complete and check a pipeline file.

use serde_json::{Map, Value, json};

use super::keys::{KEYS, Key, Kind, NameRule};
use super::value::default_json;

/// The schema of a pipeline file (JSON Schema 2020-12), for `config schema`.
pub fn schema() -> Value {
    let mut root = object();
    root.insert(
        "$schema".to_owned(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    root.insert("title".to_owned(), json!("Tidemark pipeline file"));
    let mut root = Value::Object(root);
    for key in KEYS.iter() {
        let (section, name) = key.path.rsplit_once('.').unwrap_or(("", &key.path));
        let section = section_of(&mut root, section);
        if key.is_required {
            require(section, name);
        }
        if let Some(properties) = section.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert(name.to_owned(), property(key));
        }
    }
    for section in ["pipeline", "source", "target", "tables"] {
        require(&mut root, section);
    }
    root
}

fn object() -> Map<String, Value> {
    let object = json!({ "type": "object", "additionalProperties": false, "properties": {} });
    object.as_object().cloned().unwrap_or_default()
}

fn require(section: &mut Value, name: &str) {
    if let Some(section) = section.as_object_mut() {
        let required = section.entry("required").or_insert_with(|| json!([]));
        if let Some(required) = required.as_array_mut()
            && !required.iter().any(|known| known == name)
        {
            required.push(json!(name));
        }
    }
}

/// The schema of a section, made if it is not there yet.
fn section_of<'a>(root: &'a mut Value, path: &str) -> &'a mut Value {
    let mut section = root;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, is_list) = part
            .strip_suffix("[]")
            .map_or((part, false), |name| (name, true));
        let empty = || {
            let object = Value::Object(object());
            if is_list {
                json!({ "type": "array", "items": object })
            } else {
                object
            }
        };
        let properties = &mut section["properties"];
        if properties.get(name).is_none() {
            properties[name] = empty();
        }
        section = &mut properties[name];
        if is_list {
            section = &mut section["items"];
        }
    }
    section
}

fn property(key: &Key) -> Value {
    let mut property = match &key.kind {
        Kind::Version => json!({ "const": 1 }),
        Kind::Text | Kind::Reference | Kind::Secret => json!({ "type": "string" }),
        Kind::Name(NameRule::Identifier) => json!({ "type": "string", "minLength": 1 }),
        Kind::Name(rule) => json!({ "type": "string", "pattern": format!("^{}$", rule.pattern()) }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Count { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Bytes { .. } => json!({
            "type": "string",
            "pattern": "^ *[0-9]+([.][0-9]+)? *([kKMGT]?B|[KMGT]iB) *$",
        }),
        Kind::Time { .. } => json!({
            "type": "string",
            "pattern": "^ *(0|([0-9]+([.][0-9]+)? *(us|ms|s|m|min|h|d) *)+) *$",
        }),
        Kind::List => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Map => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
    };
    property["description"] = json!(key.doc);
    if let Some(default) = key.default {
        property["default"] = default_json(default);
    }
    property
}
