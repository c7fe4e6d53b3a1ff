//! Which ranges of a file hold secrets and must never be shown, whatever is wrong beside them.
//!
//! Values of secret keys are found in the tree. What cannot be parsed, or stands under a misspelt
//! key, is found by its looks: rather too much is hidden than too little. References such as
//! `${env:NAME}` are shown, since they hold nothing.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, Kind};
use super::problem::Document;

/// Parts of key names that promise a secret.
const WORDS: [&str; 8] = [
    "pass",
    "pwd",
    "secret",
    "salt",
    "token",
    "access_key",
    "credential",
    "url",
];

/// What stands in the place of a secret.
pub(super) const MASK: &str = "***";

/// A pipeline file with `***` in the place of what is secret in it; references stay.
pub fn masked(text: &str) -> String {
    let mut document = Document::new("", text);
    let (tree, _) = DeTable::parse_recoverable(text);
    hide_secrets(&mut document, tree.get_ref(), &KEYS);
    document.masked()
}

/// Whether `***` stands where a secret belongs: the text was shown to somebody and comes back.
pub fn has_masks(text: &str) -> bool {
    let (tree, _) = DeTable::parse_recoverable(text);
    let mut found = Vec::new();
    in_table(tree.get_ref(), &KEYS, &mut found);
    let is_mask = |span: &Range<usize>| {
        let value = text.get(span.clone()).unwrap_or_default();
        let value = value.trim_matches(['"', '\'']).trim();
        value == MASK || (value.contains("://") && value.contains(MASK))
    };
    found.iter().any(is_mask)
}

pub(super) fn hide_secrets(document: &mut Document, tree: &DeTable<'_>, keys: &[Key]) {
    let mut found = Vec::new();
    in_table(tree, keys, &mut found);
    let text = document.text();
    found.retain(|span| {
        text.get(span.clone())
            .is_some_and(|text| !is_reference(text))
    });
    by_looks(text, &mut found);
    let mut passwords: Vec<Range<usize>> = Vec::new();
    for span in found {
        passwords.extend(hidden_part(text, span.clone()));
        passwords.extend(password_parameter(text, span));
    }
    for span in passwords {
        document.hide(span);
    }
}

/// Whether a quoted value is nothing but references.
fn is_reference(text: &str) -> bool {
    let inner = text.trim_matches(['"', '\'']);
    inner.starts_with("${")
        && inner.ends_with('}')
        && inner.matches("${").count() == inner.matches('}').count()
}

fn in_table(table: &DeTable<'_>, keys: &[Key], found: &mut Vec<Range<usize>>) {
    for (name, value) in table {
        let is_secret = keys
            .iter()
            .any(|key| key.kind == Kind::Secret && key.name() == name.get_ref())
            || promises_secret(name.get_ref());
        in_value(value.get_ref(), is_secret, &value.span(), keys, found);
    }
}

fn in_value(
    value: &DeValue<'_>,
    is_secret: bool,
    span: &Range<usize>,
    keys: &[Key],
    found: &mut Vec<Range<usize>>,
) {
    match value {
        DeValue::Table(table) => in_table(table, keys, found),
        DeValue::Array(items) => {
            for item in items {
                in_value(item.get_ref(), is_secret, &item.span(), keys, found);
            }
        }
        _ if is_secret => found.push(span.clone()),
        DeValue::String(text) if text.contains("://") => found.push(span.clone()),
        _ => {}
    }
}

fn promises_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// Lines that begin like a secret's, or hold an address: for what did not come through the parser.
fn by_looks(text: &str, found: &mut Vec<Range<usize>>) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.trim_end().len();
        if let Some((name, value)) = line.split_once('=') {
            let value_start = start + name.len() + 1;
            let value = value.trim();
            let known = found
                .iter()
                .filter(|span| span.start >= value_start && span.start < end)
                .map(|span| span.end)
                .max();
            let is_secret = promises_secret(name.rsplit(['{', ',']).next().unwrap_or(name));
            match known {
                None if is_secret && !is_reference(value) => found.push(value_start..end),
                // A value that is none any more where another begins: the second may be the secret.
                Some(known) if is_secret && goes_on(text.get(known..end)) => found.push(known..end),
                _ => {}
            }
        }
        start += line.len();
    }
}

/// Whether something stands behind a value that does not belong there.
fn goes_on(rest: Option<&str>) -> bool {
    let rest = rest.unwrap_or_default().trim_start();
    !rest.is_empty() && !rest.starts_with(['#', ',', '}', ']'])
}

/// Everything behind `password=` in an address.
fn password_parameter(text: &str, span: Range<usize>) -> Option<Range<usize>> {
    let value = text.get(span.clone())?;
    let (before, _) = value.split_once("password=")?;
    Some(span.start + before.len() + "password=".len()..span.end)
}

/// Of an address only what stands between user and host, and of one of HTTP what follows the host: whoever
/// knows it may often send there. Of anything else all but the quotes.
fn hidden_part(text: &str, span: Range<usize>) -> Option<Range<usize>> {
    let value = text.get(span.clone())?;
    if let Some((scheme, rest)) = value.split_once("://") {
        if scheme.ends_with("http") || scheme.ends_with("https") {
            let begin = rest
                .find('@')
                .map_or_else(|| rest.find(['/', '?']), |_| Some(0))?;
            let from = span.start + scheme.len() + 3 + begin;
            let to = span.start + value.trim_end_matches(['"', '\'']).len();
            return (from < to).then_some(from..to);
        }
        let (user_info, _) = rest.rsplit_once('@')?;
        let (user, _) = user_info.split_once(':')?;
        let from = span.start + scheme.len() + 3 + user.len() + 1;
        return Some(from..span.start + scheme.len() + 3 + user_info.len());
    }
    let body = value.trim_start();
    let lead = value.len() - body.len();
    let inner = body.trim_start_matches(['"', '\'']);
    let from = span.start + lead + (body.len() - inner.len());
    let to = from + inner.trim_end_matches(['"', '\'']).len();
    (from < to).then_some(from..to)
}

#[cfg(test)]
mod tests {
    use super::{has_masks, masked};

    #[test]
    fn what_is_secret_is_masked_and_nothing_else() {
        let text = "version = 1\n[source]\nurl = \"postgres://me:hunter2@db/x\"\n\
                    password = 'hunter2'\n[target]\npassword = \"${env:PW}\"\n\
                    [[mask]]\nsalt = \"hunter2\"\n";
        let expected = "version = 1\n[source]\nurl = \"postgres://me:***@db/x\"\n\
                    password = '***'\n[target]\npassword = \"${env:PW}\"\n\
                    [[mask]]\nsalt = \"***\"\n";
        assert_eq!(masked(text), expected);
        let hook = "url = \"https://hooks.example/T0/hunter2\"\nurl = \"http://hunter2@a\"";
        let expected = "url = \"https://hooks.example***\"\nurl = \"http://***\"";
        assert_eq!(masked(hook), expected);
        assert!(!masked("[source\npassword = \"hunter2").contains("hunter2"));
        for text in [text, hook] {
            assert!(!has_masks(text) && has_masks(&masked(text)), "{text}");
        }
        assert!(!has_masks(
            "[[mask]]\nrule = { fixed = \"***\" } # not ***\n"
        ));
    }
}
