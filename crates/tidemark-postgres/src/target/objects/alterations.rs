//! What makes a type of the target the source's, in place: labels and attributes that were added, renamed or
//! dropped there.
//!
//! Both lists are laid side by side at what they have in common. Between two common labels as many that
//! the target has alone as the source has are the same ones under other names: labels keep their
//! places and their names are all that ever changes. Where their numbers differ nobody can tell which
//! became which. A label that the source has no more does no harm: such a type was made anew there, and
//! its tables written anew.

use tidemark_core::schema::TableName;
use tidemark_core::target::TypeChanges;

use super::super::names::quoted;
use super::{labels, wording};
use crate::wire::quote_literal;

/// The statements, none where nothing has to be done; `None` where it cannot be done in place.
pub(super) fn between(
    name: &TableName,
    wanted: &str,
    found: &str,
    changes: TypeChanges,
) -> Option<Vec<String>> {
    let statements = match (labels(wanted), labels(found)) {
        (Some(wanted), Some(found)) => of_labels(&wanted, &found, changes)?,
        _ => of_attributes(&attributes(wanted)?, &attributes(found)?, changes)?,
    };
    let name = quoted(name);
    let alter = |statement: String| format!("ALTER TYPE {name} {statement}");
    Some(statements.into_iter().map(alter).collect())
}

/// What stands between two neighbours that both lists have, in the one and in the other.
struct Gap<'a, T> {
    wanted: &'a [T],
    found: &'a [T],
}

/// Lays two lists side by side: the gap before each common member, and the last one. `None` where what
/// they have in common stands in another order.
fn gaps<'a, T: PartialEq>(wanted: &'a [T], found: &'a [T]) -> Option<Vec<Gap<'a, T>>> {
    let (mut gaps, mut rest, mut open) = (Vec::new(), found, 0);
    for (at, member) in wanted.iter().enumerate() {
        if !found.contains(member) {
            continue;
        }
        let place = rest.iter().position(|other| other == member)?;
        gaps.push(Gap {
            wanted: &wanted[open..at],
            found: &rest[..place],
        });
        (rest, open) = (&rest[place + 1..], at + 1);
    }
    gaps.push(Gap {
        wanted: &wanted[open..],
        found: rest,
    });
    Some(gaps)
}

fn of_labels(wanted: &[String], found: &[String], changes: TypeChanges) -> Option<Vec<String>> {
    let mut renames = Vec::new();
    let mut named = found.to_vec();
    for gap in gaps(wanted, found)? {
        match (gap.wanted.len(), gap.found.len()) {
            (_, 0) => {}
            _ if changes == TypeChanges::Additions => return None,
            (0, _) => {}
            (new, old) if new == old => {
                for (from, to) in gap.found.iter().zip(gap.wanted) {
                    let place = named.iter().position(|label| label == from)?;
                    named[place].clone_from(to);
                    let (from, to) = (quote_literal(from), quote_literal(to));
                    renames.push(format!("RENAME VALUE {from} TO {to}"));
                }
            }
            _ => return None,
        }
    }
    let mut statements = renames;
    let mut before: Option<&String> = None;
    for label in wanted {
        if !named.contains(label) {
            let place = match (before, named.first()) {
                (Some(before), _) => format!(" AFTER {}", quote_literal(before)),
                (None, Some(first)) => format!(" BEFORE {}", quote_literal(first)),
                (None, None) => String::new(),
            };
            statements.push(format!("ADD VALUE {}{place}", quote_literal(label)));
        }
        before = Some(label);
    }
    Some(statements)
}

/// Attributes are added behind all others. One under another name may be another one, so nothing is renamed.
fn of_attributes(wanted: &[&str], found: &[&str], changes: TypeChanges) -> Option<Vec<String>> {
    let gaps = gaps(wanted, found)?;
    let (last, others) = gaps.split_last()?;
    if others.iter().any(|gap| !gap.wanted.is_empty()) {
        return None;
    }
    let gone: Vec<&str> = gaps.iter().flat_map(|gap| gap.found).copied().collect();
    if !gone.is_empty() && (changes != TypeChanges::All || !last.wanted.is_empty()) {
        return None;
    }
    let mut statements = Vec::new();
    for attribute in gone {
        let name = wording::first_name(attribute)?;
        statements.push(format!("DROP ATTRIBUTE {name}"));
    }
    let added = last.wanted.iter();
    statements.extend(added.map(|attribute| format!("ADD ATTRIBUTE {attribute}")));
    Some(statements)
}

/// The attributes of a composite type, as they are written.
fn attributes(definition: &str) -> Option<Vec<&str>> {
    let (_, list) = definition.split_once("} AS (")?;
    Some(wording::members(list.strip_suffix(')')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(labels: &str) -> Vec<String> {
        labels.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn labels_are_added_and_renamed_where_they_stand() {
        use TypeChanges::{Additions, Renames};
        for (wanted, found, changes, expected) in [
            ("a b", "a b", Additions, Some("")),
            ("z a x b c", "a b", Additions, Some("+z <a;+x >a;+c >b")),
            ("a bb c", "a b c", Renames, Some("b=bb")),
            ("a bb c d", "a b c", Renames, Some("b=bb;+d >c")),
            ("z bb c", "a b c", Renames, Some("a=z;b=bb")),
            ("a c", "a b c", Renames, Some("")),
            ("a bb c", "a b c", Additions, None),
            ("a c", "a b c", Additions, None),
            ("b a", "a b", Renames, None),
            // Which one is the old one?
            ("a x y c", "a b c", Renames, None),
        ] {
            let statements = of_labels(&list(wanted), &list(found), changes);
            let told = statements.map(|statements| {
                let short = |statement: &String| {
                    statement
                        .replace("RENAME VALUE ", "")
                        .replace(" TO ", "=")
                        .replace("ADD VALUE ", "+")
                        .replace("AFTER ", ">")
                        .replace("BEFORE ", "<")
                        .replace('\'', "")
                };
                statements.iter().map(short).collect::<Vec<_>>().join(";")
            });
            assert_eq!(told.as_deref(), expected, "{wanted} of {found}");
        }
    }

    #[test]
    fn attributes_come_at_the_end_and_go_where_all_is_followed() {
        use TypeChanges::{All, Renames};
        for (wanted, found, changes, expected) in [
            (&["a int", "b text"][..], &["a int"][..], Renames, Some(1)),
            (&["b text"], &["a int", "b text"], All, Some(1)),
            (&["b text"], &["a int", "b text"], Renames, None),
            (&["b text", "a int"], &["a int", "b text"], All, None),
            (&["c int", "a int"], &["a int"], All, None),
            // Another one, or another name?
            (&["a int", "c int"], &["a int", "b int"], All, None),
        ] {
            let count = of_attributes(wanted, found, changes).map(|statements| statements.len());
            assert_eq!(count, expected, "{wanted:?} of {found:?}");
        }
    }
}
