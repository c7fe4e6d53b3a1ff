//! What makes a type of the target the source's, in place: labels and attributes that were added, renamed or
//! dropped there.
//!
//! Both lists are laid side by side at what they have in common. Between two common labels as many that
//! the target has alone as the source has are the same ones under other names: labels keep their
//! places and their names are all that ever changes. So it is with attributes of the same types. Where their
//! numbers differ nobody can tell which became which. A label that the source has no more does no harm: such
//! a type was made anew there, and its tables written anew. Where all that both have stands in another order,
//! they have exchanged their names. Where it is known what labels were called, nothing is guessed
//! ([`of_known_labels`]).
//!
//! This makes the types alike and says nothing of rows: by its text alone a label that was renamed cannot
//! always be told from one that came. Which tables are to be loaded anew is told by what was known of their
//! types' members (`pipeline::schema_change` of the core).
//!
//! What a domain demands is another matter: [`super::super::loosen`] and [`super::super::lacks`].

use std::collections::BTreeSet;

use tidemark_core::schema::TableName;
use tidemark_core::target::TypeChanges;

use super::super::names::quoted;
use super::{labels, wording};
use crate::wire::quote_literal;

/// What makes a type the source's.
#[derive(Debug, Default)]
pub(super) struct Alteration {
    /// None where nothing has to be done.
    pub(super) statements: Vec<String>,
    /// Whether members take each other's names. Values of tables that are not loaded anew then have
    /// another name than before, and mean what they meant only if the type is still the same one.
    pub(super) is_exchange: bool,
}

/// `None` where it cannot be done in place.
pub(super) fn between(
    name: &TableName,
    wanted: &str,
    found: &str,
    changes: TypeChanges,
) -> Option<Alteration> {
    if let (Some(wanted), Some(found)) = (base_of_domain(wanted), base_of_domain(found)) {
        let is_same = wording::quoted_throughout(wanted) == wording::quoted_throughout(found);
        return (is_same && changes >= TypeChanges::Demands).then(Alteration::default);
    }
    let mut alteration = match (labels(wanted), labels(found)) {
        (Some(wanted), Some(found)) => of_labels(&wanted, &found, changes)?,
        _ => of_attributes(&attributes(wanted)?, &attributes(found)?, changes)?,
    };
    let name = quoted(name);
    for statement in &mut alteration.statements {
        *statement = format!("ALTER TYPE {name} {statement}");
    }
    Some(alteration)
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

fn of_labels(wanted: &[String], found: &[String], changes: TypeChanges) -> Option<Alteration> {
    let may_rename = changes >= TypeChanges::Renames;
    let rename = |from: &str, to: &str| {
        let (from, to) = (quote_literal(from), quote_literal(to));
        format!("RENAME VALUE {from} TO {to}")
    };
    let Some(gaps) = gaps(wanted, found) else {
        if !may_rename {
            return None;
        }
        let common = |these: &[String], those: &[String]| {
            let common = these.iter().filter(|label| those.contains(label));
            common.cloned().collect::<Vec<_>>()
        };
        let (before, after) = (common(found, wanted), common(wanted, found));
        let pairs = before
            .iter()
            .map(String::as_str)
            .zip(after.iter().map(String::as_str));
        let mut statements = exchanged(&pairs, rename);
        let renamed = |label: &String| {
            let mut pairs = pairs.clone();
            let to = pairs.find_map(|(from, to)| (from == label).then_some(to));
            to.map_or_else(|| label.clone(), str::to_owned)
        };
        let found: Vec<String> = found.iter().map(renamed).collect();
        statements.extend(of_labels(wanted, &found, changes)?.statements);
        return Some(Alteration {
            statements,
            is_exchange: true,
        });
    };
    let mut renames = Vec::new();
    let mut named = found.to_vec();
    for gap in gaps {
        match (gap.wanted.len(), gap.found.len()) {
            (_, 0) => {}
            _ if !may_rename => return None,
            (0, _) => {}
            (new, old) if new == old => {
                for (from, to) in gap.found.iter().zip(gap.wanted) {
                    let place = named.iter().position(|label| label == from)?;
                    named[place].clone_from(to);
                    renames.push(rename(from, to));
                }
            }
            _ => return None,
        }
    }
    let mut statements = renames;
    statements.extend(additions(wanted, &named));
    Some(Alteration {
        statements,
        is_exchange: false,
    })
}

/// Adds the labels that are missing, each behind the one before it.
fn additions(wanted: &[String], named: &[String]) -> Vec<String> {
    let mut statements = Vec::new();
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
    statements
}

/// What members were called when they were last followed, in their order, and are called now.
type Called = Vec<(String, Option<String>)>;

/// The definition of a composite type of the source in which attributes that it has kept are of the types
/// that the target has them of. A source lets no attribute that rows have be of another type; but the type may
/// be called otherwise there.
pub(super) fn with_kept_types(wanted: &str, found: &str, known: &[Called]) -> String {
    let (Some(new), Some(old)) = (attributes(wanted), attributes(found)) else {
        return wanted.to_owned();
    };
    let list: Vec<String> = new
        .into_iter()
        .map(|attribute| with_kept_type(attribute, &old, known))
        .collect();
    let begin = wanted.find("} AS (").and_then(|at| wanted.get(..at));
    begin.map_or_else(
        || wanted.to_owned(),
        |begin| format!("{begin}}} AS ({})", list.join(", ")),
    )
}

fn with_kept_type(attribute: &str, found: &[&str], known: &[Called]) -> String {
    let is_it = |after: &Option<String>| {
        after
            .as_ref()
            .is_some_and(|it| wording::begins_with(attribute, it))
    };
    let was = |called: &Called| called.iter().find(|(_, after)| is_it(after)).cloned();
    // What only some have had may be another one in the place of theirs.
    let before: Option<Vec<_>> = known.iter().map(was).collect();
    let mut names = before.iter().flatten().map(|(before, _)| before);
    let there = names.find_map(|name| {
        let mut found = found.iter();
        found.find(|it| wording::begins_with(it, name))
    });
    let there = there.or_else(|| {
        let own = |it: &&&str| wording::first_name(it) == wording::first_name(attribute);
        found
            .iter()
            .find(own)
            .filter(|_| before.is_some() && !known.is_empty())
    });
    let kept = there.and_then(|there| {
        let name = wording::first_name(attribute)?;
        let type_name = there.get(wording::first_name(there)?.len()..)?;
        Some(format!("{name}{type_name}"))
    });
    kept.unwrap_or_else(|| attribute.to_owned())
}

/// What makes an enumeration the source's where it is known what its labels were called: each keeps its rows. `None` where the
/// labels that are there are others than any that are known, or have what is to be a name.
pub(super) fn of_known_labels(
    name: &TableName,
    wanted: &str,
    found: &str,
    (known, changes): (&[Called], TypeChanges),
) -> Option<Alteration> {
    let (wanted, found) = (labels(wanted)?, labels(found)?);
    if changes < TypeChanges::Renames {
        return None;
    }
    let mut alteration = known
        .iter()
        .find_map(|called| renamed(&wanted, &found, called))?;
    let name = quoted(name);
    for statement in &mut alteration.statements {
        *statement = format!("ALTER TYPE {name} {statement}");
    }
    Some(alteration)
}

fn renamed(wanted: &[String], found: &[String], called: &Called) -> Option<Alteration> {
    // Labels keep their places: the same names in another order are of another time.
    let mut there = found.iter();
    if !called
        .iter()
        .all(|(before, _)| there.any(|label| label == before))
    {
        return None;
    }
    let after = |label: &String| {
        let mut called = called.iter();
        let known = called.find(|(before, _)| before == label);
        let after = known.and_then(|(_, after)| after.clone());
        after.unwrap_or_else(|| label.clone())
    };
    let named: Vec<String> = found.iter().map(after).collect();
    let distinct: BTreeSet<&String> = named.iter().collect();
    if distinct.len() < named.len() {
        return None;
    }
    let rename = |from: &str, to: &str| {
        let (from, to) = (quote_literal(from), quote_literal(to));
        format!("RENAME VALUE {from} TO {to}")
    };
    let pairs = found.iter().map(String::as_str);
    let pairs = pairs.zip(named.iter().map(String::as_str));
    let others = pairs.filter(|(from, to)| from != to);
    let is_exchange = others
        .clone()
        .any(|(from, to)| wanted.iter().any(|it| it == from) || found.iter().any(|it| it == to));
    let mut statements = if is_exchange {
        exchanged(&others, rename)
    } else {
        others.map(|(from, to)| rename(from, to)).collect()
    };
    statements.extend(additions(wanted, &named));
    Some(Alteration {
        statements,
        is_exchange,
    })
}

/// Gives members each other's names, by way of names that none has.
fn exchanged<'a>(
    pairs: &(impl Iterator<Item = (&'a str, &'a str)> + Clone),
    rename: impl Fn(&str, &str) -> String,
) -> Vec<String> {
    let is_taken = |name: &str| pairs.clone().any(|(from, to)| from == name || to == name);
    let mut free = (1..).map(|n: u32| format!("tidemark_{n}"));
    let (mut away, mut back) = (Vec::new(), Vec::new());
    for (from, to) in pairs.clone().filter(|(from, to)| from != to) {
        let between = free.find(|name| !is_taken(name)).unwrap_or_default();
        away.push(rename(from, &between));
        back.push(rename(&between, to));
    }
    away.append(&mut back);
    away
}

/// Attributes are added behind all others.
fn of_attributes(wanted: &[&str], found: &[&str], changes: TypeChanges) -> Option<Alteration> {
    let (may_rename, may_drop) = (changes >= TypeChanges::Renames, changes == TypeChanges::All);
    let rename = |from: &str, to: &str| format!("RENAME ATTRIBUTE {from} TO {to}");
    let Some(gaps) = gaps(wanted, found) else {
        let may_exchange =
            may_rename && have_types_of(wanted, found) && wanted.len() == found.len();
        let pairs = found.iter().zip(wanted);
        let pairs: Vec<(&str, &str)> = pairs
            .map(|(from, to)| Some((wording::first_name(from)?, wording::first_name(to)?)))
            .collect::<Option<_>>()?;
        return may_exchange.then(|| Alteration {
            statements: exchanged(&pairs.into_iter(), rename),
            is_exchange: true,
        });
    };
    let last = gaps.len().checked_sub(1)?;
    let (mut renames, mut drops, mut adds) = (Vec::new(), Vec::new(), Vec::new());
    for (at, Gap { wanted, found }) in gaps.into_iter().enumerate() {
        let is_last = at == last;
        let mut new = wanted;
        if !found.is_empty()
            && have_types_of(wanted, found)
            && (is_last || wanted.len() == found.len())
        {
            if !may_rename {
                return None;
            }
            for (from, to) in found.iter().zip(wanted) {
                renames.push(rename(wording::first_name(from)?, wording::first_name(to)?));
            }
            new = &wanted[found.len()..];
        } else if !found.is_empty() {
            if !may_drop {
                return None;
            }
            for attribute in found {
                drops.push(format!(
                    "DROP ATTRIBUTE {}",
                    wording::first_name(attribute)?
                ));
            }
        }
        if !new.is_empty() && !is_last {
            return None;
        }
        adds.extend(
            new.iter()
                .map(|attribute| format!("ADD ATTRIBUTE {attribute}")),
        );
    }
    renames.append(&mut drops);
    renames.append(&mut adds);
    Some(Alteration {
        statements: renames,
        is_exchange: false,
    })
}

/// Whether the first of these attributes have the types of those.
fn have_types_of(wanted: &[&str], found: &[&str]) -> bool {
    let type_of = |attribute: &&str| {
        let name = wording::first_name(attribute)?;
        attribute
            .get(name.len()..)
            .map(str::trim)
            .map(str::to_owned)
    };
    let mut pairs = wanted.iter().zip(found);
    wanted.len() >= found.len() && pairs.all(|(one, other)| type_of(one) == type_of(other))
}

/// What a domain is of, without what it demands; `None` for another type.
fn base_of_domain(definition: &str) -> Option<&str> {
    let (_, rest) = definition.split_once("CREATE DOMAIN {name} AS ")?;
    let mut is_quoted = false;
    let end = rest.char_indices().find(|(at, sign)| {
        is_quoted ^= *sign == '"';
        let demands = [" DEFAULT ", " NOT NULL", " CONSTRAINT "];
        let begins = |demand: &&str| {
            rest.get(*at..)
                .is_some_and(|rest| rest.starts_with(*demand))
        };
        !is_quoted && demands.iter().any(begins)
    });
    rest.get(..end.map_or(rest.len(), |(at, _)| at))
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

    /// Statements on labels: `a=b` for a new name, `+c>b` and `+c<b` for one that comes.
    fn short_of_labels(Alteration { statements, .. }: Alteration) -> String {
        statements
            .join(";")
            .replace("RENAME VALUE ", "")
            .replace(" TO ", "=")
            .replace("ADD VALUE ", "+")
            .replace("AFTER ", ">")
            .replace("BEFORE ", "<")
            .replace('\'', "")
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
            ("b a", "a b", Additions, None),
            (
                "b a",
                "a b",
                Renames,
                Some("a=tidemark_1;b=tidemark_2;tidemark_1=b;tidemark_2=a"),
            ),
            (
                "c a d",
                "a b c d",
                Renames,
                Some("a=tidemark_1;c=tidemark_2;tidemark_1=c;tidemark_2=a"),
            ),
            (
                "b x a",
                "a b",
                Renames,
                Some("a=tidemark_1;b=tidemark_2;tidemark_1=b;tidemark_2=a;+x >b"),
            ),
            ("c x y a", "a b c", Renames, None),
            // Which one is the old one?
            ("a x y c", "a b c", Renames, None),
        ] {
            let told = of_labels(&list(wanted), &list(found), changes).map(short_of_labels);
            assert_eq!(told.as_deref(), expected, "{wanted} of {found}");
        }
    }

    #[test]
    fn labels_of_which_is_known_what_they_were_called_keep_their_rows() {
        let called = |text: &str| -> Called {
            let pairs = text.split_whitespace().map(|pair| {
                let (before, after) = pair.split_once('=').unwrap_or((pair, pair));
                let after = (!after.is_empty()).then(|| after.to_owned());
                (before.to_owned(), after)
            });
            pairs.collect()
        };
        for (wanted, found, known, expected) in [
            ("a x c", "a b c", "a b=x c", Some("b=x")),
            // One passes its name on, which by their texts looks like an exchange.
            (
                "s f a",
                "a f g",
                "a=s f g=a",
                Some("a=tidemark_1;g=tidemark_2;tidemark_1=s;tidemark_2=a"),
            ),
            // A new one takes it.
            (
                "a f w g",
                "a f g",
                "a f=w g",
                Some("f=tidemark_1;tidemark_1=w;+f >a"),
            ),
            // All the other way round, and back: it is done already.
            ("b a", "b a", "a=b b=a", None),
            // What is gone stays; what is there of it stands in the way.
            ("x c", "a b c", "a=x b= c", Some("a=x")),
            ("b c", "a b c", "a=b b= c", None),
            // Of another time.
            ("a x", "a b", "a c=x", None),
        ] {
            let told = renamed(&list(wanted), &list(found), &called(known)).map(short_of_labels);
            assert_eq!(told.as_deref(), expected, "{wanted} of {found}");
        }
    }

    #[test]
    fn attributes_that_are_kept_stay_of_the_type_that_they_have() {
        let whole = |list: &str| format!("CREATE TYPE {{name}} AS ({list})");
        let called = |pairs: &[(&str, &str)]| -> Called {
            let pairs = pairs.iter();
            let own =
                pairs.map(|(before, after)| ((*before).to_owned(), Some((*after).to_owned())));
            own.collect()
        };
        let same = called(&[("a", "a"), ("B b", "B b")]);
        let renamed = called(&[("a", "x"), ("B b", "B b")]);
        let anew = called(&[("B b", "B b")]);
        let (wanted, found) = (r#"a s.temper, "B b" integer"#, r#"a s.mood, "B b" integer"#);
        for (wanted, found, known, expected) in [
            (wanted, found, vec![same.clone()], found),
            (wanted, found, Vec::new(), wanted),
            // Another one in the place of the former, or for all that one table knows.
            (wanted, found, vec![anew.clone()], wanted),
            (wanted, found, vec![same.clone(), anew], wanted),
            (
                r#"x s.temper, "B b" integer, c text"#,
                found,
                vec![renamed.clone()],
                r#"x s.mood, "B b" integer, c text"#,
            ),
            // It has its new name already.
            ("x s.temper", "x s.mood", vec![renamed], "x s.mood"),
        ] {
            let kept = with_kept_types(&whole(wanted), &whole(found), &known);
            assert_eq!(kept, whole(expected), "{wanted} of {found}");
        }
        let of_enum = "CREATE TYPE {name} AS ENUM ('a')";
        assert_eq!(with_kept_types(of_enum, &whole(found), &[same]), of_enum);
    }

    #[test]
    fn attributes_come_at_the_end_keep_their_values_and_go_where_all_is_followed() {
        use TypeChanges::{All, Demands, Renames};
        for (wanted, found, changes, expected) in [
            ("a int,b text", "a int", Demands, Some("+b text")),
            ("b text", "a int,b text", All, Some("-a")),
            ("b text", "a int,b text", Renames, None),
            ("b text,a int", "a int,b text", All, None),
            ("c int,a int", "a int", All, None),
            ("a int,c int", "a int,b int", Renames, Some("b=c")),
            ("a int,c int", "a int,b int", Demands, None),
            (
                "x int,b int,c int",
                "a int,b int",
                Renames,
                Some("a=x;+c int"),
            ),
            ("b int,c text", "a int,b int", All, Some("-a;+c text")),
            ("a int,c text", "a int,b int", All, Some("-b;+c text")),
            (
                "b int,a int",
                "a int,b int",
                Renames,
                Some("a=tidemark_1;b=tidemark_2;tidemark_1=b;tidemark_2=a"),
            ),
        ] {
            let list = |text: &'static str| text.split(',').collect::<Vec<_>>();
            let statements = of_attributes(&list(wanted), &list(found), changes);
            let told = statements.map(|Alteration { statements, .. }| {
                let short = |statement: &String| {
                    statement
                        .replace("RENAME ATTRIBUTE ", "")
                        .replace(" TO ", "=")
                        .replace("ADD ATTRIBUTE ", "+")
                        .replace("DROP ATTRIBUTE ", "-")
                };
                statements.iter().map(short).collect::<Vec<_>>().join(";")
            });
            assert_eq!(told.as_deref(), expected, "{wanted} of {found}");
        }
    }

    #[test]
    fn a_domain_is_the_same_whatever_it_demands() {
        for (definition, base) in [
            ("CREATE DOMAIN {name} AS integer", Some("integer")),
            ("CREATE DOMAIN {name} AS a.b NOT NULL", Some("a.b")),
            (
                r#"CREATE DOMAIN {name} AS a."x DEFAULT y"[] DEFAULT 'a' CONSTRAINT c CHECK (true)"#,
                Some(r#"a."x DEFAULT y"[]"#),
            ),
            ("CREATE TYPE {name} AS ENUM ('a')", None),
        ] {
            assert_eq!(base_of_domain(definition), base, "{definition}");
        }
    }
}
