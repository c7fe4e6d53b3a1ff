//! Changes of a definition: a patch on top of it, and secrets that come back as they were shown.

use serde_json::Value;
use tidemark_core::catalogue::codes;
use tidemark_core::config;

use super::bodies::shown;
use super::extract::to_toml;
use super::problem::Failure;

/// A definition with a patch applied (RFC 7396).
pub(super) fn merge(text: &str, patch: Value) -> Result<Value, Failure> {
    if !patch.is_object() {
        return Err(Failure::new(
            codes::API_MALFORMED,
            "expected an object at the top",
        ));
    }
    let mut merged = tree(text)?;
    apply(&mut merged, patch);
    put_back(&mut merged, &tree(&shown(text))?, &tree(text)?);
    refuse_masks(&to_toml(&merged)?)?;
    Ok(merged)
}

fn apply(value: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *value = patch;
        return;
    };
    if !value.is_object() {
        *value = Value::Object(serde_json::Map::new());
    }
    let Value::Object(object) = value else { return };
    for (name, part) in patch {
        if part.is_null() {
            object.shift_remove(&name);
        } else {
            apply(object.entry(name).or_insert(Value::Null), part);
        }
    }
}

/// A definition whose masked secrets are what they were in the old one. Where it can be, only its lines with
/// secrets are other than they came.
pub(super) fn unmask(text: &str, old: &str) -> Result<String, Failure> {
    if !config::has_masks(text) {
        return Ok(text.to_owned());
    }
    let mut new = tree(text)?;
    put_back(&mut new, &tree(&shown(old))?, &tree(old)?);
    let by_line = config::put_back(text, old);
    let text = match tree(&by_line) {
        Ok(same) if same == new => by_line,
        _ => to_toml(&new)?,
    };
    refuse_masks(&text)?;
    Ok(text)
}

/// Where the new value is what was shown of the old one, it is the old one.
fn put_back(new: &mut Value, shown: &Value, old: &Value) {
    match (new, shown, old) {
        (Value::Object(new), Value::Object(shown), Value::Object(old)) => {
            for (name, new) in new {
                if let (Some(shown), Some(old)) = (shown.get(name), old.get(name)) {
                    put_back(new, shown, old);
                }
            }
        }
        (Value::Array(new), Value::Array(shown), Value::Array(old)) => {
            for ((new, shown), old) in new.iter_mut().zip(shown).zip(old) {
                put_back(new, shown, old);
            }
        }
        (Value::String(new), Value::String(shown), Value::String(old)) if new == shown => {
            new.clone_from(old);
        }
        _ => {}
    }
}

/// Refuses a secret that nobody can know.
pub(super) fn refuse_masks(text: &str) -> Result<(), Failure> {
    if config::has_masks(text) {
        let text =
            "`***` stands where no secret was before; write the secret, or a reference to it";
        return Err(Failure::new(codes::CONFIG_SECRET, text));
    }
    Ok(())
}

/// A definition as JSON has it.
pub(super) fn tree(text: &str) -> Result<Value, Failure> {
    toml::from_str(text).map_err(|_| {
        // The parser's words may hold a piece of the text.
        Failure::new(codes::CONFIG_SYNTAX, "the definition is not TOML")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OLD: &str =
        "version = 1\n[source]\nurl = \"postgres://me:hunter2@db/x\"\npassword = \"s3cret\"\n";

    #[test]
    fn s06_secrets_that_come_back_masked_stay_what_they_were() {
        assert_eq!(unmask(&shown(OLD), OLD).unwrap(), OLD);
        let more = format!("# more\n{}[tables]\n", shown(OLD));
        assert_eq!(
            unmask(&more, OLD).unwrap(),
            format!("# more\n{OLD}[tables]\n")
        );
        // In another order they are found by their keys.
        let turned = "source.password = \"***\"\nsource.url = \"postgres://me:***@db/x\"\n";
        let back = unmask(turned, OLD).unwrap();
        assert_eq!(tree(&back).unwrap()["source"], tree(OLD).unwrap()["source"]);
        let other = shown(OLD).replace("@db/x", "@db/y");
        assert!(
            unmask(&other, OLD).is_err(),
            "for another address the secret must be said"
        );
        assert!(unmask("[target]\npassword = \"***\"", OLD).is_err());
        let text = "version = 1 # kept\n";
        assert_eq!(unmask(text, OLD).unwrap(), text);
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let patch = json!({ "source": { "password": null }, "stream": { "batch_rows": 7 } });
        let merged = merge(OLD, patch).unwrap();
        assert_eq!(
            merged["source"],
            json!({ "url": "postgres://me:hunter2@db/x" })
        );
        assert_eq!(merged["stream"]["batch_rows"], 7);
        assert!(merge(OLD, json!([])).is_err());
    }
}
