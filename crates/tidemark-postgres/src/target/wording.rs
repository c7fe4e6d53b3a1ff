//! Definitions in the source's words, made to mean the same on the target.
//!
//! Types, defaults and expressions come as the source's server prints them, every name outside
//! `pg_catalog` qualified. Where a schema goes by another name on the target, the names of what went
//! with it must be replaced: in `"Mood"[]` as well as in `nextval('public.t_id_seq'::regclass)`.
//! That takes just enough of SQL's lexical rules to tell names from literals (PostgreSQL 15, 4.1);
//! columns are never touched here, since a bare name cannot be told from a keyword or a type.

use std::collections::BTreeMap;

use tidemark_core::schema::{DomainRule, TableName};

use crate::wire::{quote_literal, quote_qualified};

/// What a piece of SQL is, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece<'a> {
    /// `a.b`, quoted or not, as it is written and as it is meant.
    Pair(&'a str, TableName),
    /// `'a.b'` cast to one of the types that look names up.
    NameLiteral(&'a str, TableName),
    Other(&'a str),
}

/// The qualified names in a definition.
pub(super) fn names(sql: &str) -> impl Iterator<Item = TableName> {
    pieces(sql).into_iter().filter_map(|piece| match piece {
        Piece::Pair(_, name) | Piece::NameLiteral(_, name) => Some(name),
        Piece::Other(_) => None,
    })
}

/// A domain's rule in the target's words.
pub(super) fn domain_rule(
    rule: &DomainRule,
    renames: &BTreeMap<TableName, TableName>,
) -> DomainRule {
    DomainRule {
        type_name: replace(&rule.type_name, renames),
        demand: replace(&rule.demand, renames),
        ..rule.clone()
    }
}

/// The definition with other names in it.
pub(super) fn replace(sql: &str, renames: &BTreeMap<TableName, TableName>) -> String {
    if renames.is_empty() {
        return sql.to_owned();
    }
    let mut out = String::with_capacity(sql.len());
    for piece in pieces(sql) {
        match piece {
            Piece::Other(text) => out.push_str(text),
            Piece::Pair(text, name) => match renames.get(&name) {
                Some(name) => out.push_str(&quote_qualified(&name.schema, &name.name)),
                None => out.push_str(text),
            },
            Piece::NameLiteral(text, name) => match renames.get(&name) {
                Some(name) => {
                    let name = quote_qualified(&name.schema, &name.name);
                    out.push_str(&quote_literal(&name));
                }
                None => out.push_str(text),
            },
        }
    }
    out
}

/// The definition with all its qualified names in quotes, for comparing definitions of two servers.
pub(super) fn quoted_throughout(sql: &str) -> String {
    let same = names(sql).map(|name| (name.clone(), name)).collect();
    replace(sql, &same)
}

/// Whether a definition of the source and one of the target say the same, where columns are renamed: by their
/// names on the source and on the target. How names are quoted does not matter.
pub(super) fn say_the_same(source: &str, target: &str, renamed: &[(String, String)]) -> bool {
    let name = |text: &str| identifier(text).filter(|(len, _)| *len == text.len());
    let is_same = |(source, target): (Piece<'_>, Piece<'_>)| match (source, target) {
        (Piece::Pair(_, one), Piece::Pair(_, other))
        | (Piece::NameLiteral(_, one), Piece::NameLiteral(_, other)) => one == other,
        (Piece::Other(one), Piece::Other(other)) => match (name(one), name(other)) {
            (Some((_, one)), Some((_, other))) => {
                let is_renamed = renamed
                    .iter()
                    .any(|(from, to)| *from == one && *to == other);
                // A name that columns exchange is that of another column there; a keyword or a type is not.
                let is_anothers = renamed.iter().any(|(from, _)| *from == one)
                    && renamed.iter().any(|(_, to)| *to == one);
                is_renamed || (one == other && !is_anothers)
            }
            _ => one == other,
        },
        _ => false,
    };
    let (source, target) = (pieces(source), pieces(target));
    source.len() == target.len() && source.into_iter().zip(target).all(is_same)
}

/// The name with which a piece of a definition begins, as it is written.
pub(super) fn first_name(sql: &str) -> Option<&str> {
    let (len, _) = identifier(sql)?;
    sql.get(..len)
}

/// Whether a piece of a definition begins with this name, however it is written.
pub(super) fn begins_with(sql: &str, name: &str) -> bool {
    identifier(sql).is_some_and(|(_, found)| found == name)
}

/// The content of the string literals in a definition.
pub(super) fn literals(sql: &str) -> Vec<String> {
    let mut literals = Vec::new();
    let mut rest = sql;
    while !rest.is_empty() {
        let len = match literal(rest) {
            Some((text, content)) => {
                literals.push(content);
                text.len()
            }
            None => next(rest, false).1,
        };
        rest = rest.get(len..).unwrap_or_default();
    }
    literals
}

/// The members of a list, parted by commas that stand in no parentheses.
pub(super) fn members(list: &str) -> Vec<&str> {
    let (mut members, mut depth, mut start, mut at) = (Vec::new(), 0_usize, 0, 0);
    while let Some(rest) = list.get(at..).filter(|rest| !rest.is_empty()) {
        match rest.as_bytes() {
            [b'(', ..] => depth += 1,
            [b')', ..] => depth = depth.saturating_sub(1),
            [b',', ..] if depth == 0 => {
                members.extend(list.get(start..at).map(str::trim));
                start = at + 1;
            }
            _ => {}
        }
        at += next(rest, false).1;
    }
    members.extend(list.get(start..).map(str::trim));
    members
}

/// Casts after which a literal is a name (PostgreSQL 15, 8.19, without those of functions and
/// operators, whose form is another).
const NAME_CASTS: [&str; 3] = ["::regclass", "::regtype", "::regcollation"];

fn pieces(sql: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = sql;
    let mut after_dot = false;
    while !rest.is_empty() {
        let (piece, len) = next(rest, after_dot);
        let (taken, behind) = rest.split_at(len);
        after_dot = taken.ends_with('.');
        pieces.push(piece.unwrap_or(Piece::Other(taken)));
        rest = behind;
    }
    pieces
}

/// The piece at the front and its length in bytes.
fn next(sql: &str, after_dot: bool) -> (Option<Piece<'_>>, usize) {
    if let Some((text, content)) = literal(sql) {
        let behind = sql.get(text.len()..).unwrap_or_default();
        let is_name = NAME_CASTS.iter().any(|cast| behind.starts_with(cast));
        let piece = whole_pair(&content)
            .filter(|_| is_name)
            .map(|(schema, name)| Piece::NameLiteral(text, TableName::new(schema, name)));
        return (piece, text.len());
    }
    if let Some((first, schema)) = identifier(sql) {
        let behind = sql.get(first..).unwrap_or_default();
        if !after_dot && let Some((second, name)) = behind.strip_prefix('.').and_then(identifier) {
            let len = first + 1 + second;
            let (text, behind) = sql.split_at(len);
            let piece = Piece::Pair(text, TableName::new(schema, name));
            // `a.b.c` is no name of anything that moves.
            return ((!behind.starts_with('.')).then_some(piece), len);
        }
        return (None, first);
    }
    // A number swallows the letters behind it, so that `1e5` does not end in a name.
    let first = sql.chars().next().map_or(1, char::len_utf8);
    if sql.starts_with(|c: char| c.is_ascii_digit()) {
        let len = sql
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '.')
            .unwrap_or(sql.len());
        return (None, len);
    }
    (None, first)
}

/// `'…'` or `E'…'` at the front: as written, and its content. Servers write no other escape than
/// doubled backslashes.
fn literal(sql: &str) -> Option<(&str, String)> {
    let (prefix, escapes) = match sql.as_bytes() {
        [b'\'', ..] => (1, false),
        [b'E' | b'e', b'\'', ..] => (2, true),
        _ => return None,
    };
    let mut content = String::new();
    let mut characters = sql.char_indices().skip(prefix).peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' => {
                if characters.next_if(|(_, next)| *next == '\'').is_none() {
                    let text = sql.get(..=at)?;
                    return Some((text, content));
                }
                content.push('\'');
            }
            '\\' if escapes => content.extend(characters.next().map(|(_, escaped)| escaped)),
            other => content.push(other),
        }
    }
    // Not closed: no definition of a server. Left as it is.
    Some((sql, content))
}

/// `name` or `"na""me"` at the front: its length as written, and the name.
fn identifier(sql: &str) -> Option<(usize, String)> {
    if let Some(quoted) = sql.strip_prefix('"') {
        let mut name = String::new();
        let mut characters = quoted.char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            if character != '"' {
                name.push(character);
            } else if characters.next_if(|(_, next)| *next == '"').is_some() {
                name.push('"');
            } else {
                return Some((at + 2, name));
            }
        }
        return None;
    }
    let is_start = |c: char| c == '_' || c.is_ascii_alphabetic() || !c.is_ascii();
    let is_part = |c: char| is_start(c) || c == '$' || c.is_ascii_digit();
    sql.starts_with(is_start).then(|| {
        let len = sql.find(|c: char| !is_part(c)).unwrap_or(sql.len());
        (len, sql.get(..len).unwrap_or_default().to_lowercase())
    })
}

fn whole_pair(text: &str) -> Option<(String, String)> {
    let (first, schema) = identifier(text)?;
    let behind = text.get(first..)?.strip_prefix('.')?;
    let (second, name) = identifier(behind)?;
    (second == behind.len()).then_some((schema, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renames() -> BTreeMap<TableName, TableName> {
        [
            ("public", "mood", "dw", "mood"),
            ("public", "t_id_seq", "dw", "t_id_seq"),
            ("Odd \"x\"", "It's", "dw", "It's"),
        ]
        .map(|(a, b, c, d)| (TableName::new(a, b), TableName::new(c, d)))
        .into()
    }

    #[test]
    fn names_are_replaced_and_nothing_else() {
        for (sql, expected) in [
            ("public.mood[]", "\"dw\".\"mood\"[]"),
            ("'sad'::public.mood", "'sad'::\"dw\".\"mood\""),
            (
                "nextval('public.t_id_seq'::regclass)",
                "nextval('\"dw\".\"t_id_seq\"'::regclass)",
            ),
            (
                "nextval('\"Odd \"\"x\"\"\".\"It''s\"'::regclass)",
                "nextval('\"dw\".\"It''s\"'::regclass)",
            ),
            ("\"Odd \"\"x\"\"\".\"It's\"", "\"dw\".\"It's\""),
            ("'public.mood'::text", "'public.mood'::text"),
            ("'it''s public.mood'", "'it''s public.mood'"),
            (" E'a\\'public.mood'", " E'a\\'public.mood'"),
            ("x.public.mood", "x.public.mood"),
            ("public.mood.x", "public.mood.x"),
            ("public.other(1.5, 2e3)", "public.other(1.5, 2e3)"),
            ("(p).mood", "(p).mood"),
            ("PUBLIC.Mood", "\"dw\".\"mood\""),
            ("größe.x + public.mood", "größe.x + \"dw\".\"mood\""),
            ("'open", "'open"),
            ("\"open", "\"open"),
        ] {
            assert_eq!(replace(sql, &renames()), expected, "{sql}");
        }
    }

    #[test]
    fn definitions_say_the_same_where_columns_go_by_other_names() {
        let renamed = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = |(from, to): &(&str, &str)| ((*from).to_owned(), (*to).to_owned());
            pairs.iter().map(owned).collect()
        };
        let (none, moved) = (
            renamed(&[]),
            renamed(&[("x", "order"), ("date", "day"), ("a", "b"), ("b", "a")]),
        );
        for (source, target, renamed, expected) in [
            ("((x > 0))", "((x > 0))", &none, true),
            ("((x > 0))", "((x > 1))", &none, false),
            ("((x > 0))", "((x > 0) AND true)", &none, false),
            ("((x > 0))", "((y > 0))", &none, false),
            ("((x > 0))", "((\"x\" > 0))", &none, true),
            (
                "m <> 'sad'::\"dw\".mood",
                "m <> 'sad'::dw.mood",
                &none,
                true,
            ),
            ("m <> 'sad'::dw.mood", "m <> 'sad'::dw.mode", &none, false),
            ("((x > 0))", "((\"order\" > 0))", &moved, true),
            (
                "((x > 'x'::text))",
                "((\"order\" > 'order'::text))",
                &moved,
                false,
            ),
            (
                "((date > '2024-01-01'::date))",
                "((day > '2024-01-01'::date))",
                &moved,
                true,
            ),
            ("((a < b))", "((b < a))", &moved, true),
            ("((a < b))", "((a < b))", &moved, false),
        ] {
            let found = say_the_same(source, target, renamed);
            assert_eq!(found, expected, "{source} and {target}");
        }
    }

    #[test]
    fn literals_are_read() {
        let sql = "('a', 'it''s', E'back\\\\slash', '') \"'\" 'b'";
        assert_eq!(literals(sql), ["a", "it's", "back\\slash", "", "b"]);
    }

    #[test]
    fn qualified_names_are_found() {
        let found: Vec<String> = names("a.b + nextval('c.d'::regclass) || 'e.f' || \"G h\".i(1)")
            .map(|name| name.to_string())
            .collect();
        assert_eq!(found, ["a.b", "c.d", "G h.i"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived_and_kept(sql in "\\PC*") {
            let none = [(TableName::new("\u{1}", "x"), TableName::new("y", "z"))].into();
            proptest::prop_assert_eq!(replace(&sql, &none), sql);
        }
    }
}
