//! Constraints that go on the source: the target would refuse rows for them that the source takes.
//!
//! No log tells of them, so both catalogs are compared. A constraint that the target has and the source
//! lacks has gone on the source, or a person has added it on the target; that one must stay. Only the
//! first kind was once seen on both sides. So each comparison records with the table what both sides have,
//! and what the source lacks of that the next time is taken off the target.
//!
//! Two constraints are the same if they demand the same, whatever their names. What they demand is compared
//! in the target's words ([`Constraint::definition`]), except that expressions name columns as the source
//! does. While the target still has other columns than the source, since the stream has not come that far,
//! the words of one constraint may differ; then one of the same name counts as the same.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use tidemark_core::mapping::{TableMapping, TargetType};
use tidemark_core::schema::{
    ColumnDefault, DomainRule, ForeignKey, Index, IndexKind, TableName, TableSchema,
};
use tidemark_core::target::{Loosened, Occasion};
use tidemark_core::{ErrorKind, Result};

use super::checkpoint::{self, Writer, from_json, json};
use super::foreign_keys::{self, proven};
use super::indexes;
use super::names::{Schemas, quoted};
use super::swap::{LOCK_WAIT, is_held};
use super::{catalog, create, wording};
use crate::schema::describe_these;
use crate::wire::{Connection, quote_ident, quote_literal, quote_qualified};

/// What a table demands of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Constraint {
    kind: Kind,
    /// Of a column that is not to be NULL its name.
    name: String,
    /// What is demanded, in words in which both sides say it alike; nothing of the name.
    definition: String,
    /// The domain whose it is, in the target's words; `None` where it is the table's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
}

/// In the order in which they are taken off: what points to a key before the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    ForeignKey,
    Check,
    NotNull,
    /// A unique index without a constraint.
    UniqueIndex,
    /// A constraint behind which is an index.
    Unique,
    PrimaryKey,
    /// Of a domain that columns rest on.
    Domain,
    /// Values of such a domain are not to be NULL.
    DomainNotNull,
    /// The default of such a domain: it refuses nothing, and goes with the source's all the same.
    DomainDefault,
}

/// One table on both sides.
struct Pair<'a> {
    mapping: &'a TableMapping,
    target: TableSchema,
    /// What both sides had when they were compared before; `None` where they never were.
    shared: Option<Vec<Constraint>>,
}

/// See [`tidemark_core::target::Target::loosen`].
pub(super) async fn loosen(
    connection: &mut Connection,
    writer: &Writer,
    tables: &[TableMapping],
    of: &[TableName],
    occasion: Occasion,
) -> Result<Loosened> {
    let pairs = pairs(connection, &writer.pipeline, tables, of).await?;
    let schemas = Schemas::of_tables(tables);
    let texts = pairs.iter().flat_map(|pair| create::texts(pair.mapping));
    let moved = catalog::moved(connection, &schemas, texts).await?;
    let mut gone = Vec::new();
    let mut shared = Vec::with_capacity(pairs.len());
    for (at, pair) in pairs.iter().enumerate() {
        let source = of_source(pair.mapping, tables, &moved);
        let (both, surplus) = pair.compare(&source, occasion);
        gone.extend(surplus.into_iter().map(|constraint| (at, constraint)));
        shared.push(both);
    }
    gone.sort_by_key(|(_, constraint)| constraint.kind);
    let mut loosened = Loosened::default();
    let mut dropped: HashSet<(Option<String>, Kind, String)> = HashSet::new();
    for (at, constraint) in gone {
        let mapping = pairs[at].mapping;
        // Several tables may rest on one domain.
        let (domain, name) = (constraint.domain.clone(), constraint.name.clone());
        let of_domain = (domain, constraint.kind, name);
        if constraint.domain.is_some() && !dropped.insert(of_domain) {
            continue;
        }
        match drop(connection, &mapping.target, &constraint).await {
            Ok(true) => {
                let told = (mapping.source().clone(), constraint.described());
                loosened.gone.push(told);
            }
            Ok(false) => {}
            Err(error) if occasion == Occasion::Look && is_held(&error) => {
                loosened.held.push(mapping.source().clone());
                shared[at].push(constraint);
            }
            Err(error) => return Err(error),
        }
    }
    let is_news = |(pair, shared): &(&Pair<'_>, _)| pair.shared.as_ref() != Some(shared);
    let mut news: Vec<_> = pairs.iter().zip(shared).filter(is_news).collect();
    // In the order in which others write to these rows ([`Writer::update`]).
    news.sort_by_key(|(pair, _)| pair.mapping.source());
    let constraints = |(pair, shared)| {
        let pair: &Pair<'_> = pair;
        writer.constraints(pair.mapping.source(), json(&shared))
    };
    let mut writes: Vec<_> = news.into_iter().map(constraints).collect();
    if !writes.is_empty() {
        writes.push(writer.advance(None));
        checkpoint::commit(connection, &writes).await?;
    }
    Ok(loosened)
}

/// The tables that are meant and are on the target, with what is recorded of them.
async fn pairs<'a>(
    connection: &mut Connection,
    pipeline: &str,
    tables: &'a [TableMapping],
    of: &[TableName],
) -> Result<Vec<Pair<'a>>> {
    let of: HashSet<&TableName> = of.iter().collect();
    let meant = tables.iter().filter(|table| of.contains(table.source()));
    let recorded = catalog::recorded(connection, pipeline, meant, "t.constraints::text").await?;
    let mut known = BTreeMap::new();
    for (oid, (mapping, shared)) in recorded {
        let shared = shared.as_deref().map(from_json).transpose()?;
        known.insert(oid, (mapping, shared));
    }
    let numbers = known
        .iter()
        .map(|(oid, (mapping, _))| (*oid, mapping.target.clone()));
    let described = describe_these(connection, numbers).await?;
    let pair = |target: TableSchema| {
        let (mapping, shared) = known.remove(&target.id)?;
        Some(Pair {
            mapping,
            target,
            shared,
        })
    };
    Ok(described.into_iter().filter_map(pair).collect())
}

impl Pair<'_> {
    /// What both sides have, and what is to be taken off the target.
    fn compare(
        &self,
        source: &[Constraint],
        occasion: Occasion,
    ) -> (Vec<Constraint>, Vec<Constraint>) {
        let says_alike = self.says_alike();
        let renamed = create::renamed(self.mapping);
        let is_there = |constraint: &Constraint| {
            let is_it = |other: &Constraint| {
                let (theirs, ours) = (&other.definition, &constraint.definition);
                let has_name = !says_alike && other.name == constraint.name;
                has_name || wording::say_the_same(theirs, ours, &renamed)
            };
            let mut source = source.iter().filter(|it| it.kind == constraint.kind);
            source.any(|other| constraint.is_same(other) || is_it(other))
        };
        let (mut both, mut surplus) = (Vec::new(), Vec::new());
        for constraint in of_target(&self.target) {
            let was_there = || {
                let mut shared = self.shared.iter().flatten();
                shared.any(|other| constraint.is_same(other))
            };
            if is_there(&constraint) {
                both.push(constraint);
            } else if was_there() {
                // Rows are found by it, and those that it refuses are another matter.
                if constraint.kind == Kind::PrimaryKey && occasion == Occasion::Look {
                    both.push(constraint);
                } else {
                    surplus.push(constraint);
                }
            }
        }
        (both, surplus)
    }

    /// Whether the target has the columns that the source has now, so that both speak of them alike.
    fn says_alike(&self) -> bool {
        let mapping = self.mapping;
        mapping.columns.iter().all(|column| {
            let source = &mapping.schema.columns[column.source];
            let mut there = self.target.columns.iter();
            there.any(|found| {
                let is_type =
                    column.target_type == TargetType::Text || found.type_name == source.type_name;
                found.name == column.target && is_type
            })
        })
    }
}

impl Constraint {
    fn is_same(&self, other: &Constraint) -> bool {
        self.kind == other.kind && self.definition == other.definition
    }

    fn described(&self) -> String {
        let what = match self.kind {
            Kind::NotNull => return format!("column {} may be NULL", self.name),
            Kind::DomainNotNull => {
                return format!(
                    "domain {} may be NULL",
                    self.domain.as_deref().unwrap_or_default()
                );
            }
            Kind::DomainDefault => {
                return format!(
                    "the default of domain {} is another, or none",
                    self.domain.as_deref().unwrap_or_default()
                );
            }
            Kind::UniqueIndex => "unique index",
            _ => "constraint",
        };
        let of = self
            .domain
            .as_ref()
            .map(|domain| format!(" of domain {domain}"));
        format!("{what} {}{} is gone", self.name, of.unwrap_or_default())
    }
}

/// What the source demands, as the target would say it. What is not carried demands nothing there.
fn of_source(
    mapping: &TableMapping,
    tables: &[TableMapping],
    moved: &BTreeMap<TableName, TableName>,
) -> Vec<Constraint> {
    let mut constraints = Vec::new();
    for column in &mapping.schema.columns {
        if column.is_not_null {
            constraints.push(not_null(indexes::target_name(mapping, &column.name)));
        }
    }
    for check in &mapping.schema.checks {
        let definition = wording::replace(&check.definition, moved);
        constraints.push(check_of(check.name.clone(), &definition));
    }
    let rules = mapping.schema.domains.iter();
    constraints.extend(rules.map(|rule| domain_rule(&wording::domain_rule(rule, moved))));
    let wanted = indexes::of_source(mapping, moved).into_iter();
    constraints.extend(
        wanted
            .flatten()
            .filter_map(|wanted| index_of(&wanted.index)),
    );
    for key in &mapping.schema.foreign_keys {
        if let Ok(key) = foreign_keys::translate(mapping, tables, key) {
            constraints.push(foreign_key_of(&key));
        }
    }
    constraints
}

fn of_target(table: &TableSchema) -> Vec<Constraint> {
    let mut constraints = Vec::new();
    for (at, column) in table.columns.iter().enumerate() {
        // These may not be NULL in any case.
        let is_bound = table.primary_key.contains(&at)
            || matches!(column.default, ColumnDefault::Identity { .. });
        if column.is_not_null && !is_bound {
            constraints.push(not_null(column.name.clone()));
        }
    }
    let checks = table.checks.iter();
    constraints.extend(checks.map(|check| check_of(check.name.clone(), &check.definition)));
    constraints.extend(table.indexes.iter().filter_map(index_of));
    constraints.extend(table.foreign_keys.iter().map(foreign_key_of));
    constraints.extend(table.domains.iter().map(domain_rule));
    constraints
}

fn domain_rule(rule: &DomainRule) -> Constraint {
    let definition = format!("{} {}", rule.type_name, rule.demand);
    Constraint {
        kind: match rule.name {
            Some(_) => Kind::Domain,
            None if rule.default().is_some() => Kind::DomainDefault,
            None => Kind::DomainNotNull,
        },
        name: rule.name.clone().unwrap_or_default(),
        definition: wording::quoted_throughout(&definition),
        domain: Some(rule.type_name.clone()),
    }
}

fn not_null(column: String) -> Constraint {
    Constraint {
        kind: Kind::NotNull,
        definition: quote_ident(&column),
        name: column,
        domain: None,
    }
}

fn check_of(name: String, definition: &str) -> Constraint {
    Constraint {
        kind: Kind::Check,
        name,
        definition: proven(&wording::quoted_throughout(definition)).to_owned(),
        domain: None,
    }
}

/// `None` for an index that demands nothing.
fn index_of(index: &Index) -> Option<Constraint> {
    let kind = match index.kind {
        IndexKind::PrimaryKey => Kind::PrimaryKey,
        IndexKind::UniqueConstraint | IndexKind::Exclusion => Kind::Unique,
        IndexKind::Unique => Kind::UniqueIndex,
        IndexKind::Plain => return None,
    };
    let bare = Index {
        parameters: String::new(),
        ..index.clone()
    };
    let definition = indexes::statement("t", &bare, "");
    Some(Constraint {
        kind,
        name: index.name.clone(),
        definition: wording::quoted_throughout(&definition),
        domain: None,
    })
}

fn foreign_key_of(key: &ForeignKey) -> Constraint {
    let nameless = ForeignKey {
        name: String::new(),
        ..key.clone()
    };
    let definition = foreign_keys::add(&TableName::new("", ""), &nameless);
    Constraint {
        kind: Kind::ForeignKey,
        name: key.name.clone(),
        definition: proven(definition.trim_end()).to_owned(),
        domain: None,
    }
}

/// Whether it could be taken off. Somebody else's may rest on it, or the table is not ours; it then
/// refuses rows as before, and the table says so.
async fn drop(
    connection: &mut Connection,
    table: &TableName,
    constraint: &Constraint,
) -> Result<bool> {
    let name = quote_ident(&constraint.name);
    let alter = format!("ALTER TABLE {}", quoted(table));
    let domain = constraint.domain.as_deref().unwrap_or_default();
    let change = match constraint.kind {
        Kind::Domain => format!("ALTER DOMAIN {domain} DROP CONSTRAINT IF EXISTS {name}"),
        Kind::DomainNotNull => format!("ALTER DOMAIN {domain} DROP NOT NULL"),
        Kind::DomainDefault => format!("ALTER DOMAIN {domain} DROP DEFAULT"),
        Kind::NotNull => format!("{alter} ALTER COLUMN {name} DROP NOT NULL"),
        Kind::UniqueIndex => {
            let index = quote_qualified(&table.schema, &constraint.name);
            format!("DROP INDEX {index}")
        }
        _ => format!("{alter} DROP CONSTRAINT {name}"),
    };
    match connection.run(&format!("{LOCK_WAIT}; {change}")).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Transient => Err(error),
        Err(error) => {
            let what = quote_literal(&constraint.name);
            tracing::warn!(
                table = %table, sqlstate = error.sqlstate_code(),
                "{what} is gone on the source and cannot be taken off the target: {error}"
            );
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, definition: &str) -> Constraint {
        check_of(name.to_owned(), definition)
    }

    #[test]
    fn what_is_demanded_counts_and_not_the_name_or_whether_it_was_proven() {
        let one = check("a", "CHECK ((v > 0)) NOT VALID");
        assert!(one.is_same(&check("b", "CHECK ((v > 0))")));
        assert!(!one.is_same(&check("a", "CHECK ((v > 1))")));
        assert!(!one.is_same(&not_null("v".to_owned())));
    }
}
