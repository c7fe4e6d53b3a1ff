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
            "if" => {
                let applies = valid(root, rule, value, at).is_ok();
                if applies && let Some(then) = rules.get("then") {
                    valid(root, then, value, at)?;
                }
                true
            }
            "allOf" => {
                for one in rule.as_array().unwrap() {
                    valid(root, one, value, at)?;
                }
                true
            }
            "$schema" | "$id" | "$defs" | "title" | "description" | "required" | "then" => true,
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

/// The patterns of the schema: a code, the path of a problem, a log position.
fn matches(pattern: &str, text: &str) -> bool {
    let is_code = |text: &str| {
        text.strip_prefix("TM")
            .is_some_and(|rest| rest.len() == 4 && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    match pattern {
        "^TM[0-9]{4}$" => is_code(text),
        "^/problems/TM[0-9]{4}$" => text.strip_prefix("/problems/").is_some_and(is_code),
        "^[0-9A-F]{1,8}/[0-9A-F]{1,8}$" => text.split_once('/').is_some_and(|(high, low)| {
            [high, low].iter().all(|part| {
                let is_hex = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
                (1..=8).contains(&part.len()) && part.bytes().all(is_hex)
            })
        }),
        other => panic!("this check does not know the pattern {other}"),
    }
}

#[test]
fn the_check_finds_what_breaks_the_schema() {
    let good = serde_json::json!({
        "schema": "tidemark/v1", "command": "x", "ok": true, "data": {}, "notices": [], "error": null
    });
    let root = published();
    assert_eq!(valid(&root, &root, &good, "$"), Ok(()));
    let mut bad = good.clone();
    bad["command"] = "stop".into();
    assert!(
        valid(&root, &root, &bad, "$").is_err(),
        "the data of a known command"
    );
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
