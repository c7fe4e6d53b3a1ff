//! Checks an envelope against the schema that `tidemark config schema --of answer` publishes.
//!
//! Only the words of JSON Schema that our schema uses are known; an unknown word fails the test, so
//! that none is passed over.

use serde_json::Value;

/// The published schema.
fn published() -> Value {
    serde_json::from_str(include_str!("../../schema/answer.schema.json")).expect("valid JSON")
}

/// Panics with the place where the value breaks the schema.
pub(crate) fn check(value: &Value) {
    let root = published();
    if let Err(problem) = valid(&root, &root, value, "$") {
        panic!("{problem}\nin {value:#}");
    }
}

fn valid(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let rules = schema
        .as_object()
        .ok_or_else(|| format!("{at}: a schema is an object"))?;
    for (word, rule) in rules {
        let holds = match word.as_str() {
            "$schema" | "$id" | "$defs" | "title" | "description" | "required" => true,
            "type" => match rule {
                Value::Array(types) => types.iter().any(|name| is_type(name, value)),
                name => is_type(name, value),
            },
            "const" => value == rule,
            "enum" => rule.as_array().is_some_and(|all| all.contains(value)),
            "minLength" => value
                .as_str()
                .is_none_or(|text| text.len() as u64 >= rule.as_u64().unwrap()),
            "pattern" => value
                .as_str()
                .is_none_or(|text| matches(rule.as_str().unwrap(), text)),
            "$ref" => {
                let path = rule.as_str().unwrap().trim_start_matches('#');
                let target = root
                    .pointer(path)
                    .ok_or_else(|| format!("{at}: no {path}"))?;
                return valid(root, target, value, at);
            }
            "anyOf" => rule
                .as_array()
                .unwrap()
                .iter()
                .any(|one| valid(root, one, value, at).is_ok()),
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    valid(root, rule, item, &format!("{at}[{index}]"))?;
                }
                true
            }
            "properties" => {
                for (name, rule) in rule.as_object().unwrap() {
                    if let Some(member) = value.get(name) {
                        valid(root, rule, member, &format!("{at}.{name}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = rules.get("properties").and_then(Value::as_object);
                let unknown = value.as_object().into_iter().flatten().find(|(name, _)| {
                    rule == &Value::Bool(false)
                        && known.is_none_or(|known| !known.contains_key(*name))
                });
                if let Some((name, _)) = unknown {
                    return Err(format!("{at}: `{name}` is not in the schema"));
                }
                true
            }
            other => return Err(format!("{at}: this check does not know `{other}`")),
        };
        if !holds {
            return Err(format!("{at}: breaks {word} {rule}: {value}"));
        }
    }
    for name in rules
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    Ok(())
}

fn is_type(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("null") => value.is_null(),
        _ => false,
    }
}

/// The patterns of the schema: literal text, `^`, `$`, and `[0-9]{4}` for digits.
fn matches(pattern: &str, text: &str) -> bool {
    let body = pattern.trim_start_matches('^').trim_end_matches('$');
    let (literal, digits) = body
        .split_once("[0-9]")
        .expect("our patterns end in digits");
    let count: usize = digits
        .trim_matches(['{', '}'])
        .parse()
        .expect("a number of digits");
    text.strip_prefix(literal)
        .is_some_and(|rest| rest.len() == count && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

#[test]
fn the_check_finds_what_breaks_the_schema() {
    let good = serde_json::json!({
        "schema": "tidemark/v1", "command": "x", "ok": true, "data": {}, "notices": [], "error": null
    });
    let root = published();
    assert_eq!(valid(&root, &root, &good, "$"), Ok(()));
    for (member, value) in [
        ("schema", Value::from("tidemark/v2")),
        ("ok", Value::from("yes")),
        ("command", Value::from("")),
        ("notices", serde_json::json!([{ "text": "x" }])),
        ("error", serde_json::json!({ "code": "TM1" })),
        ("more", Value::from(1)),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        assert!(valid(&root, &root, &bad, "$").is_err(), "{member}");
    }
}
