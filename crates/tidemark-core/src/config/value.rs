//! One value against what its key takes.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::keys::{Key, Kind, LATER_SYSTEMS, NameRule};
use super::problem::{Located, Place, Problem, suggestion};
use super::secret::{self, Surroundings};
use super::settings::Value;
use super::unit;
use crate::catalogue::{Code, codes};

type Checked = Result<Value, Vec<Problem>>;

/// Reads a value of a file.
pub(crate) fn from_toml(
    key: &Key,
    written: &Spanned<DeValue<'_>>,
    place: &Place,
    surroundings: &dyn Surroundings,
) -> Checked {
    let checker = Checker {
        key,
        place,
        surroundings,
    };
    match (&key.kind, written.get_ref()) {
        (Kind::Version, DeValue::Integer(number)) => {
            checker.version(i64::from_str_radix(number.as_str(), number.radix()).ok())
        }
        (Kind::Version, _) => checker.version(None),
        (Kind::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
        (Kind::Count { .. }, DeValue::Integer(number)) => {
            checker.count(i128::from_str_radix(number.as_str(), number.radix()).ok())
        }
        (Kind::List, DeValue::Array(items)) => checker.list(items),
        (Kind::Map, DeValue::Table(table)) => checker.map(table),
        (Kind::Flag | Kind::Count { .. } | Kind::List | Kind::Map, other) => {
            Err(vec![checker.wrong_type(other)])
        }
        (_, DeValue::String(text)) => checker.text(text),
        (_, other) => Err(vec![checker.wrong_type(other)]),
    }
}

/// Reads a value that was given as plain text: by a flag, or by an environment variable.
pub(crate) fn from_text(
    key: &Key,
    text: &str,
    place: &Place,
    surroundings: &dyn Surroundings,
) -> Checked {
    let checker = Checker {
        key,
        place,
        surroundings,
    };
    match &key.kind {
        Kind::Version => checker.version(text.parse().ok()),
        Kind::Flag => match text {
            "true" | "1" | "yes" | "on" => Ok(Value::Flag(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Flag(false)),
            _ => Err(vec![checker.problem(
                codes::CONFIG_VALUE,
                "must be true or false",
                "",
            )]),
        },
        Kind::Count { .. } => match text.replace('_', "").parse() {
            Ok(number) => checker.count(Some(number)),
            Err(_) => Err(vec![checker.problem(
                codes::CONFIG_TYPE,
                "must be a whole number",
                "",
            )]),
        },
        Kind::List => Ok(Value::List(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Located {
                    value: item.to_owned(),
                    place: Some(place.clone()),
                })
                .collect(),
        )),
        Kind::Map => Err(vec![checker.problem(
            codes::CONFIG_TYPE,
            "can only be given in the file",
            "",
        )]),
        _ => checker.text(text),
    }
}

struct Checker<'a> {
    key: &'a Key,
    place: &'a Place,
    surroundings: &'a dyn Surroundings,
}

impl Checker<'_> {
    /// `key must …`, with what was found or meant under the caret.
    fn problem(&self, code: Code, must: &str, label: impl Into<String>) -> Problem {
        let name = self.key.path.replace("[]", "");
        Problem::new(code, format!("`{name}` {must}"))
            .at(self.place.clone())
            .label(label)
    }

    fn wrong_type(&self, found: &DeValue<'_>) -> Problem {
        let found_words = match found {
            DeValue::String(_) => "a text in quotes",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a section",
        };
        let (must, hint) = match &self.key.kind {
            Kind::Flag => ("must be true or false", "without quotes"),
            Kind::Count { .. } | Kind::Version => (
                "must be a whole number",
                "without quotes and without a fraction",
            ),
            Kind::List => ("must be a list of texts", "such as [\"public.orders\"]"),
            Kind::Map => ("must be a table of names", "such as { qty = \"quantity\" }"),
            Kind::Bytes { .. } => ("must be a size", "such as \"16 MB\""),
            Kind::Time { .. } => ("must be a duration", "such as \"200 ms\""),
            _ => ("must be a text", "in double quotes"),
        };
        self.problem(
            codes::CONFIG_TYPE,
            must,
            format!("this is {found_words}; write it {hint}").replace("write it such", "write it"),
        )
    }

    fn version(&self, found: Option<i64>) -> Checked {
        match found {
            Some(1) => Ok(Value::Count(1)),
            Some(other) => Err(vec![self.problem(
                codes::CONFIG_VERSION,
                "must be 1",
                format!("this version of Tidemark does not know format {other}"),
            )]),
            None => Err(vec![self.problem(
                codes::CONFIG_VERSION,
                "must be 1",
                "write `version = 1`, without quotes",
            )]),
        }
    }

    fn count(&self, found: Option<i128>) -> Checked {
        let Kind::Count { min, max } = self.key.kind else {
            return Ok(Value::Count(0));
        };
        match found.and_then(|number| u64::try_from(number).ok()) {
            Some(number) if (min..=max).contains(&number) => Ok(Value::Count(number)),
            _ => Err(vec![self.problem(
                codes::CONFIG_VALUE,
                "is out of range",
                format!("from {} to {}", grouped(min), grouped(max)),
            )]),
        }
    }

    fn text(&self, text: &str) -> Checked {
        match &self.key.kind {
            Kind::Secret => self.resolved(text).map(Value::Secret),
            Kind::Reference => self
                .resolved(text)
                .map(|value| Value::Text(value.expose().to_owned())),
            Kind::Name(rule) => self.name(*rule, text),
            Kind::Choice(words) => self.choice(words, text),
            Kind::Bytes { min, max } => match unit::bytes(text) {
                Ok(value) if (*min..=*max).contains(&value) => Ok(Value::Bytes(value)),
                Ok(_) => {
                    Err(vec![self.out_of_range(
                        &unit::show_bytes(*min),
                        &unit::show_bytes(*max),
                    )])
                }
                Err(why) => Err(vec![self.problem(
                    codes::CONFIG_VALUE,
                    "is not a size",
                    why,
                )]),
            },
            Kind::Time { min, max } => self.time(text, *min, *max),
            _ => Ok(Value::Text(text.to_owned())),
        }
    }

    fn time(&self, text: &str, min: Duration, max: Duration) -> Checked {
        // Nothing is nothing in any unit.
        let found = if text.trim() == "0" {
            Ok(Duration::ZERO)
        } else {
            unit::duration(text)
        };
        match found {
            Ok(value) if (min..=max).contains(&value) => Ok(Value::Time(value)),
            Ok(_) => {
                Err(vec![self.out_of_range(
                    &unit::show_duration(min),
                    &unit::show_duration(max),
                )])
            }
            Err(why) => Err(vec![self.problem(
                codes::CONFIG_VALUE,
                "is not a duration",
                why,
            )]),
        }
    }

    fn out_of_range(&self, min: &str, max: &str) -> Problem {
        self.problem(
            codes::CONFIG_VALUE,
            "is out of range",
            format!("from \"{min}\" to \"{max}\""),
        )
    }

    fn resolved(&self, text: &str) -> Result<secret::Secret, Vec<Problem>> {
        secret::resolve(text, self.surroundings).map_err(|missing| {
            missing
                .into_iter()
                .map(|why| self.problem(codes::CONFIG_SECRET, "cannot be resolved", why))
                .collect()
        })
    }

    fn name(&self, rule: NameRule, text: &str) -> Checked {
        if rule.allows(text) {
            return Ok(Value::Text(text.to_owned()));
        }
        let label = match rule {
            NameRule::Pipeline => "1 to 40 lower-case letters, digits, `_` and `-`",
            NameRule::Slot => "1 to 63 lower-case letters, digits and `_`",
            NameRule::Identifier => "1 to 63 bytes, no control characters",
        };
        Err(vec![self.problem(
            codes::CONFIG_NAME,
            "is not a name that is allowed",
            label,
        )])
    }

    fn choice(&self, words: &[&'static str], text: &str) -> Checked {
        if words.contains(&text) {
            return Ok(Value::Text(text.to_owned()));
        }
        let list = words.join(", ");
        if self.key.name() == "type" && LATER_SYSTEMS.contains(&text) {
            let label = format!("this version knows: {list}");
            return Err(vec![self.problem(
                codes::CONFIG_LATER,
                "is not in this version",
                label,
            )]);
        }
        let label = match suggestion(text, words.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"? Allowed: {list}"),
            None => format!("allowed: {list}"),
        };
        Err(vec![self.problem(
            codes::CONFIG_VALUE,
            "has a value that it does not know",
            label,
        )])
    }

    fn list(&self, items: &[Spanned<DeValue<'_>>]) -> Checked {
        let mut list = Vec::new();
        let mut problems = Vec::new();
        for item in items {
            let place = Place {
                document: std::sync::Arc::clone(&self.place.document),
                span: item.span(),
            };
            match item.get_ref() {
                DeValue::String(text) => list.push(Located {
                    value: text.clone().into_owned(),
                    place: Some(place),
                }),
                _ => problems.push(
                    self.problem(
                        codes::CONFIG_TYPE,
                        "must be a list of texts",
                        "put it in double quotes",
                    )
                    .at(place),
                ),
            }
        }
        if problems.is_empty() {
            Ok(Value::List(list))
        } else {
            Err(problems)
        }
    }

    fn map(&self, table: &toml::de::DeTable<'_>) -> Checked {
        let mut map = Vec::new();
        let mut problems = Vec::new();
        let place = |span| Place {
            document: std::sync::Arc::clone(&self.place.document),
            span,
        };
        for (name, value) in table {
            match value.get_ref() {
                DeValue::String(text) => map.push((
                    Located {
                        value: name.get_ref().clone().into_owned(),
                        place: Some(place(name.span())),
                    },
                    Located {
                        value: text.clone().into_owned(),
                        place: Some(place(value.span())),
                    },
                )),
                _ => problems.push(
                    self.problem(
                        codes::CONFIG_TYPE,
                        "must be a table of names",
                        "put it in double quotes",
                    )
                    .at(place(value.span())),
                ),
            }
        }
        if problems.is_empty() {
            Ok(Value::Map(map))
        } else {
            Err(problems)
        }
    }
}

/// A default as JSON; sizes, durations and words are texts.
pub(crate) fn default_json(default: &str) -> serde_json::Value {
    let value = DeValue::parse(default).map(Spanned::into_inner);
    match value {
        Ok(DeValue::Boolean(flag)) => serde_json::Value::Bool(flag),
        Ok(DeValue::Integer(number)) => number
            .as_str()
            .parse::<u64>()
            .map_or(serde_json::Value::Null, Into::into),
        Ok(DeValue::String(text)) => serde_json::Value::String(text.into_owned()),
        Ok(DeValue::Array(_)) => serde_json::Value::Array(Vec::new()),
        _ => serde_json::Value::Null,
    }
}

/// A number as the file may have it, a long one with `_` between groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if digits.len() > 5 && index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push('_');
        }
        shown.push(digit);
    }
    shown
}
