//! Whether an answer has the shape that the document promises.

use serde_json::Value;

/// What of an answer is not as its schema says; the first thing found, with its place. A field that the
/// document does not name is one that was forgotten there.
pub(super) fn differs(document: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let named = names(document, schema);
    let forgotten = value.as_object().filter(|_| !named.is_empty());
    let mut forgotten = forgotten
        .into_iter()
        .flat_map(|fields| fields.keys())
        .filter(|name| !named.contains(&name.as_str()));
    if let Some(name) = forgotten.next() {
        return Some(format!("{at}.{name}: the document does not have it"));
    }
    misshapen(document, schema, value, at)
}

/// Fields that a schema names, itself or by what it is made of.
fn names<'a>(document: &'a Value, schema: &'a Value) -> Vec<&'a str> {
    let referred = schema["$ref"]
        .as_str()
        .and_then(|name| name.strip_prefix('#'));
    let referred = referred.and_then(|place| document.pointer(place));
    let parts = schema["allOf"].as_array().into_iter().flatten();
    let own = schema["properties"].as_object();
    let own = own.into_iter().flat_map(|fields| fields.keys());
    let of_parts = referred.into_iter().chain(parts);
    of_parts
        .flat_map(|part| names(document, part))
        .chain(own.map(String::as_str))
        .collect()
}

fn misshapen(document: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let place = name.strip_prefix('#').unwrap_or(name);
        let found = document.pointer(place);
        let Some(found) = found else {
            return Some(format!("{at}: the document has no {name}"));
        };
        return misshapen(document, found, value, at);
    }
    for several in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[several].as_array() {
            let differ = |choice: &Value| differs(document, choice, value, at);
            let why: Vec<String> = choices.iter().filter_map(differ).collect();
            let fits = why.len() < choices.len();
            return (!fits).then(|| why.join(" and "));
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let mut differ = parts
            .iter()
            .map(|part| misshapen(document, part, value, at));
        if let Some(why) = differ.find_map(|why| why) {
            return Some(why);
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|kind| is_of(kind, value)) {
        return Some(format!("{at}: {value} is not {}", types.join(" or ")));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return Some(format!("{at}: {value} is none of {allowed:?}"));
    }
    if let (Some(fields), Some(wanted)) = (value.as_object(), schema["required"].as_array()) {
        let missing = wanted
            .iter()
            .filter_map(Value::as_str)
            .find(|name| !fields.contains_key(*name));
        if let Some(name) = missing {
            return Some(format!("{at}: {name} is missing"));
        }
    }
    if let (Some(fields), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
        let mut differ = known.iter().filter_map(|(name, schema)| {
            let field = fields.get(name)?;
            differs(document, schema, field, &format!("{at}.{name}"))
        });
        if let Some(why) = differ.next() {
            return Some(why);
        }
    }
    if let (Some(items), Some(schema)) = (value.as_array(), schema.get("items")) {
        let mut differ = items
            .iter()
            .enumerate()
            .map(|(number, item)| differs(document, schema, item, &format!("{at}[{number}]")));
        return differ.find_map(|why| why);
    }
    None
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[test]
fn what_is_missing_wrong_or_not_named_is_found() {
    let document = serde_json::json!({ "components": { "schemas": { "Row": {
        "type": "object", "required": ["id", "lag"],
        "properties": { "id": { "type": "string" }, "lag": { "type": ["integer", "null"] } },
    } } } });
    let rows =
        serde_json::json!({ "type": "array", "items": { "$ref": "#/components/schemas/Row" } });
    let why = |value: Value| differs(&document, &rows, &value, "rows");
    assert_eq!(why(serde_json::json!([{ "id": "a", "lag": null }])), None);
    for (value, expected) in [
        (
            serde_json::json!([{ "id": "a" }]),
            "rows[0]: lag is missing",
        ),
        (
            serde_json::json!([{ "id": 1, "lag": 1 }]),
            "rows[0].id: 1 is not string",
        ),
        (
            serde_json::json!([{ "id": "a", "lag": 0.5 }]),
            "rows[0].lag: 0.5 is not integer or null",
        ),
        (
            serde_json::json!([{ "id": "a", "lag": 1, "more": 1 }]),
            "rows[0].more: the document does not have it",
        ),
    ] {
        assert_eq!(why(value).as_deref(), Some(expected));
    }
}
