//! What comes in, read strictly: what is not understood is refused with a problem document.

use std::fmt;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use tidemark_core::catalogue::codes;
use tidemark_core::schema::TableName;
use tidemark_core::selection::Pattern;

use super::guard::read;
use super::problem::Failure;

/// Parts of the path.
pub(crate) struct Route<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Route<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Route<T>, Failure> {
        match Path::<T>::from_request_parts(parts, &()).await {
            Ok(Path(found)) => Ok(Route(found)),
            Err(wrong) => Err(Failure::new(codes::API_MALFORMED, wrong.body_text())),
        }
    }
}

/// Parameters of the query.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Params<T>, Failure> {
        match Query::<T>::from_request_parts(parts, &()).await {
            Ok(Query(found)) => Ok(Params(found)),
            Err(wrong) => {
                let text = wrong.body_text();
                let text = text.trim_start_matches("Failed to deserialize query string: ");
                let text = format!("the query is not as expected: {text}");
                Err(Failure::new(codes::API_MALFORMED, text))
            }
        }
    }
}

/// A JSON body; an empty one counts as `{}`.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Json<T>, Failure> {
        let kind = media_type(request.headers());
        let body = read(request.into_body()).await?;
        if body.is_empty() {
            return from_json(b"{}").map(Json);
        }
        match kind.as_deref() {
            Some("application/json") => from_json(&body).map(Json),
            _ => Err(other_form("application/json")),
        }
    }
}

/// What changes of something (RFC 7396), in which no object has a key twice. An empty body changes nothing.
pub(crate) struct Patch(pub(crate) Value);

impl<S: Send + Sync> FromRequest<S> for Patch {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Patch, Failure> {
        let kind = media_type(request.headers());
        let body = read(request.into_body()).await?;
        match kind.as_deref() {
            _ if body.is_empty() => Ok(Patch(Value::Object(Map::new()))),
            Some("application/merge-patch+json" | "application/json") => {
                from_json::<Once>(&body).map(|Once(patch)| Patch(patch))
            }
            _ => Err(other_form(
                "application/merge-patch+json or application/json",
            )),
        }
    }
}

/// A pipeline's definition, as the text of a file.
pub(crate) struct DefinitionText(pub(crate) String);

impl<S: Send + Sync> FromRequest<S> for DefinitionText {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<DefinitionText, Failure> {
        let kind = media_type(request.headers());
        let body = read(request.into_body()).await?;
        match kind.as_deref() {
            Some("application/json") => to_toml(&from_json::<Once>(&body)?.0).map(DefinitionText),
            Some("application/toml") => match String::from_utf8(body.to_vec()) {
                Ok(text) => Ok(DefinitionText(text)),
                Err(_) => Err(Failure::new(codes::API_MALFORMED, "the body is not UTF-8")),
            },
            _ => Err(other_form("application/json or application/toml")),
        }
    }
}

fn other_form(expected: &str) -> Failure {
    Failure::new(
        codes::API_MEDIA_TYPE,
        format!("the body must be {expected}"),
    )
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = value.split(';').next()?.trim();
    Some(kind.to_ascii_lowercase())
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|wrong| {
        Failure::new(
            codes::API_MALFORMED,
            format!("the body is not as expected: {wrong}"),
        )
    })
}

/// JSON in which no object has a key twice: which of them is meant cannot be told.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Once, D::Error> {
        from.deserialize_any(OnceVisitor).map(Once)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            found.push(item);
        }
        Ok(Value::Array(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some((name, Once(value))) = fields.next_entry::<String, Once>()? {
            if found.contains_key(&name) {
                return Err(A::Error::custom(format!("the key {name:?} is there twice")));
            }
            found.insert(name, value);
        }
        Ok(Value::Object(found))
    }
}

/// A word that is one of those that are known: one that is not would find nothing, as if nothing were there.
pub(crate) fn known_word(what: &str, word: Option<&String>, known: &[&str]) -> Result<(), Failure> {
    match word {
        Some(word) if !known.contains(&word.as_str()) => {
            let text = format!("{what} is one of {}", known.join(", "));
            Err(Failure::new(codes::API_MALFORMED, text))
        }
        _ => Ok(()),
    }
}

/// A definition as JSON has the keys of the file.
pub(crate) fn to_toml(value: &Value) -> Result<String, Failure> {
    if !value.is_object() {
        return Err(Failure::new(
            codes::API_MALFORMED,
            "expected an object at the top",
        ));
    }
    toml::to_string(value).map_err(|wrong| {
        let text = format!("a definition cannot hold this: {wrong}");
        Failure::new(codes::API_MALFORMED, text)
    })
}

/// A table of the source, as a pipeline file names it.
pub(crate) fn table_name(text: &str) -> Result<TableName, Failure> {
    let pattern = Pattern::parse(text)
        .ok()
        .and_then(|pattern| pattern.exact());
    pattern.ok_or_else(|| {
        Failure::new(
            codes::API_MALFORMED,
            "a table is named as schema.table, without * and ?; a part that holds a dot goes in \
             double quotes",
        )
    })
}

/// The same of several.
pub(crate) fn table_names(texts: &[String]) -> Result<Vec<TableName>, Failure> {
    texts.iter().map(|text| table_name(text)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn b05_a_definition_in_json_has_no_key_twice_and_is_the_same_otherwise() {
        let body = br#"{"a": [1, -2, 1.5, null, true, "\u00e9"], "b": {"c": {}, "d": []}}"#;
        let Ok(Once(read)) = from_json::<Once>(body) else {
            panic!("it is refused")
        };
        let expected = json!({"a": [1, -2, 1.5, null, true, "é"], "b": {"c": {}, "d": []}});
        assert_eq!(read, expected);
        for body in [
            r#"{"a": 1, "a": 2}"#,
            r#"{"b": [{"c": 1, "d": 2, "c": 1}]}"#,
        ] {
            assert!(from_json::<Once>(body.as_bytes()).is_err(), "{body}");
        }
    }
}
