//! Indexes and constraints that the source has by now and a loaded table lacks, and what fills its columns
//! ([`fills`]).
//!
//! Columns and tables are followed; an index or a constraint that comes later is not: it may take hours to
//! make, and refuse rows that are on their way. So a person is told, with the statement that makes it.
//! (What goes on the source is taken off by [`super::loosen`].)
//!
//! They are compared by what they do, in the target's names, and not by how they are called. What cannot
//! hold on the target is not lacking ([`tidemark_core::mapping`] knows why), nor what speaks of columns that
//! the table does not have, nor anything of a table whose rows are still to come: it gets its own then.
//! Where the stream has still to bring a table to the shape that the source has by now, definitions speak of
//! other columns or types: there one of the same kind and name counts as the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tidemark_core::Result;
use tidemark_core::checkpoint::{LoadPhase, TableState};
use tidemark_core::mapping::{TableMapping, TargetType};
use tidemark_core::schema::{
    Check, DomainRule, ForeignKey, Index, IndexKind, TableName, TableSchema,
};
use tidemark_core::target::Lacking;

use super::checkpoint::from_word;
use super::foreign_keys::{self, proven};
use super::indexes::{self, Wanted};
use super::metadata::{self, Found};
use super::names::{Schemas, quoted};
use super::{catalog, create, wording};
use crate::schema::describe_these;
use crate::wire::{Connection, Row, quote_ident};
use fills::Filled;

mod fills;

pub(super) const PRIMARY_KEY: &str = "primary key";

const DOMAIN: &str = "constraint of a domain";

/// A loaded table as it is there, and what it lacks; often nothing.
pub(super) struct Compared {
    pub(super) have: TableSchema,
    /// Whether the pipeline has loaded its rows. One that was there with its rows is somebody's work, who
    /// may have left out on purpose what it lacks.
    pub(super) is_loaded_here: bool,
    pub(super) lacks: Vec<Lacking>,
}

/// Compares the tables that are loaded. Those that are to have what others point to come first, so that the
/// statements can be run in this order.
pub(super) async fn compare(
    connection: &mut Connection,
    pipeline: &str,
    tables: &[TableMapping],
) -> Result<Vec<Compared>> {
    if metadata::find(connection).await? == Found::Nothing
        || !is_loaded(connection, pipeline).await?
    {
        return Ok(Vec::new());
    }
    let (mappings, mut there) = loaded(connection, pipeline, tables).await?;
    let schemas = Schemas::of_tables(tables);
    let texts = mappings.values().flat_map(|mapping| create::texts(mapping));
    let moved = catalog::moved(connection, &schemas, texts).await?;
    let mut found = Vec::new();
    for (name, mapping) in mappings {
        let pair = Pair {
            mapping,
            tables,
            have: &there[name],
            there: &there,
            moved: &moved,
            renamed: create::renamed(mapping),
        };
        let items = pair.items();
        found.push((pair, items));
    }
    let names: Vec<TableName> = found
        .iter()
        .flat_map(|(pair, items)| items.iter().filter_map(|item| pair.relation(item)))
        .collect();
    let taken = catalog::taken(connection, &names).await?;
    let here = loaded_here(connection, pipeline).await?;
    let points = |item: &Item<'_>| matches!(item, Item::ForeignKey(_));
    found.sort_by_key(|(_, items)| items.iter().any(points));
    let lacking = found.iter().map(|(pair, items)| {
        let lacks = items.iter().map(|item| pair.lacking(item, &taken));
        let is_loaded_here = here.contains(pair.mapping.source());
        (pair.have.name.clone(), is_loaded_here, lacks.collect())
    });
    let mut lacking: Vec<(TableName, bool, Vec<Lacking>)> = lacking.collect();
    // Several tables may rest on one domain.
    let mut of_domains = HashSet::new();
    for (_, _, lacks) in &mut lacking {
        lacks.retain(|it| it.kind != DOMAIN || of_domains.insert(it.sql.clone()));
    }
    let compared = lacking
        .into_iter()
        .filter_map(|(name, is_loaded_here, lacks)| {
            Some(Compared {
                have: there.remove(&name)?,
                is_loaded_here,
                lacks,
            })
        });
    Ok(compared.collect())
}

/// Before that foreign keys are still to come.
async fn is_loaded(connection: &mut Connection, pipeline: &str) -> Result<bool> {
    let sql = "SELECT phase FROM tidemark.checkpoint WHERE pipeline = $1 AND phase IS NOT NULL";
    let found = connection.query(sql, &[Some(pipeline)]).await?;
    let phase = found.rows.first().map(|row| from_word(row.get_str(0)?));
    Ok(phase.transpose()? == Some(LoadPhase::Loaded))
}

/// Tables whose rows the pipeline has brought: a unit that was found in has none counted, and no tidemark.
async fn loaded_here(connection: &mut Connection, pipeline: &str) -> Result<HashSet<TableName>> {
    let sql = "SELECT DISTINCT source_schema, source_name FROM tidemark.unit \
               WHERE pipeline = $1 AND (rows > 0 OR tidemark IS NOT NULL)";
    let found = connection.query(sql, &[Some(pipeline)]).await?;
    let name = |row: &Row| Ok(TableName::new(row.get_str(0)?, row.get_str(1)?));
    found.rows.iter().map(name).collect()
}

type Loaded<'a> = (
    BTreeMap<&'a TableName, &'a TableMapping>,
    HashMap<TableName, TableSchema>,
);

/// Tables that have their rows, by their names on the target: as they are carried, and as they are there.
async fn loaded<'a>(
    connection: &mut Connection,
    pipeline: &str,
    tables: &'a [TableMapping],
) -> Result<Loaded<'a>> {
    let recorded = catalog::recorded(connection, pipeline, tables.iter(), "t.state").await?;
    let (mut mappings, mut oids) = (BTreeMap::new(), Vec::new());
    for (oid, (mapping, state)) in recorded {
        let state: Option<TableState> = state.as_deref().map(from_word).transpose()?;
        if state.is_some_and(TableState::has_rows) {
            mappings.insert(&mapping.target, mapping);
            oids.push((oid, mapping.target.clone()));
        }
    }
    let described = describe_these(connection, oids.into_iter()).await?;
    let there: HashMap<TableName, TableSchema> = described
        .into_iter()
        .map(|table| (table.name.clone(), table))
        .collect();
    mappings.retain(|name, _| there.contains_key(*name));
    Ok((mappings, there))
}

/// One table on both sides.
struct Pair<'a> {
    mapping: &'a TableMapping,
    /// All of the pipeline.
    tables: &'a [TableMapping],
    have: &'a TableSchema,
    /// All that are loaded.
    there: &'a HashMap<TableName, TableSchema>,
    moved: &'a BTreeMap<TableName, TableName>,
    renamed: Vec<(String, String)>,
}

/// Something that a table lacks, columns by their target names.
enum Item<'a> {
    /// Under the name of the source, as which kind it is known there.
    Index(IndexKind, Box<Wanted>),
    /// Of this column.
    NotNull(&'a str),
    Filled(Filled),
    Check(&'a Check),
    ForeignKey(ForeignKey),
    /// In the target's words.
    Domain(DomainRule),
}

impl<'a> Pair<'a> {
    /// In an order in which they can be made.
    fn items(&self) -> Vec<Item<'a>> {
        let is_current = self.is_current();
        let mut items = Vec::new();
        let indexes: Vec<(IndexKind, Wanted)> = self.indexes(is_current).collect();
        let keys = indexes
            .iter()
            .filter(|(_, wanted)| wanted.index.kind == IndexKind::PrimaryKey);
        let bound: BTreeSet<String> = keys
            .flat_map(|(_, wanted)| &wanted.index.columns)
            .filter_map(|key| key.column.clone())
            .collect();
        let indexes = indexes.into_iter();
        items.extend(indexes.map(|(kind, wanted)| Item::Index(kind, Box::new(wanted))));
        let may_be_null = |name: &str| {
            let mut have = self.have.columns.iter();
            have.any(|column| column.name == name && !column.is_not_null)
        };
        for column in &self.mapping.columns {
            let name = column.target.as_str();
            // The primary key brings it.
            if self.mapping.is_not_null(column) && !bound.contains(name) && may_be_null(name) {
                items.push(Item::NotNull(name));
            }
        }
        items.extend(self.filled().map(Item::Filled));
        items.extend(self.checks(is_current).map(Item::Check));
        items.extend(self.foreign_keys(is_current).map(Item::ForeignKey));
        items.extend(self.domain_rules().map(Item::Domain));
        items
    }

    /// Whether the target has the columns and types that the source has now.
    fn is_current(&self) -> bool {
        self.mapping.columns.iter().all(|column| {
            let type_name = create::type_name(self.mapping, column, self.moved);
            let mut have = self.have.columns.iter();
            have.any(|found| {
                found.name == column.target
                    && wording::say_the_same(&type_name, &found.type_name, &[])
            })
        })
    }

    fn has_column(&self, name: &str) -> bool {
        has_column(self.have, name)
    }

    /// Columns that both have.
    fn filled(&self) -> impl Iterator<Item = Filled> {
        self.mapping.columns.iter().flat_map(move |column| {
            let mut have = self.have.columns.iter();
            let at = have.position(|found| found.name == column.target);
            let differing = |at: usize| {
                let is_bound = self.have.primary_key.contains(&at);
                let found = &self.have.columns[at];
                fills::differing(self.mapping, column, found, is_bound, self.moved)
            };
            at.map(differing).unwrap_or_default()
        })
    }

    fn say_the_same(&self, source: &str, target: &str) -> bool {
        wording::say_the_same(source, target, &self.renamed)
    }

    fn indexes(&self, is_current: bool) -> impl Iterator<Item = (IndexKind, Wanted)> {
        let of_source = indexes::of_source(self.mapping, self.moved).into_iter();
        of_source.flatten().filter_map(move |mut wanted| {
            let kind = wanted.index.kind;
            let mut have = self.have.indexes.iter();
            let is_key = |found: &Index| found.kind == IndexKind::PrimaryKey;
            if kind == IndexKind::PrimaryKey && have.any(is_key) {
                // A table has one at most: what it tells apart can be told apart beside it.
                wanted.index.kind = IndexKind::UniqueConstraint;
            }
            let index = &wanted.index;
            let named = index.columns.iter().filter_map(|key| key.column.as_ref());
            let can_be = named.chain(&index.included).all(|it| self.has_column(it));
            let is_there = |found: &Index| {
                self.does_the_same(index, found)
                    || (!is_current && found.kind == kind && found.name == index.name)
            };
            let is_lacking = can_be && !self.have.indexes.iter().any(is_there);
            is_lacking.then_some((kind, wanted))
        })
    }

    /// Whether an index of the target tells apart the rows that this one of the source does, and finds them
    /// as well.
    fn does_the_same(&self, source: &Index, target: &Index) -> bool {
        use IndexKind::{Exclusion, Plain, PrimaryKey, Unique, UniqueConstraint};
        let same_text = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => self.say_the_same(one, other),
            _ => false,
        };
        let mut keys = source.columns.iter().zip(&target.columns);
        let has_keys = source.columns.len() == target.columns.len()
            && keys.all(|(one, other)| {
                one.column == other.column
                    && same_text(&one.expression, &other.expression)
                    && self.say_the_same(&one.options, &other.options)
            });
        let is_alike = has_keys
            && source.method == target.method
            && source.included == target.included
            && same_text(&source.predicate, &target.predicate)
            && same_text(&source.exclusion, &target.exclusion);
        let is_at_once = source.deferral == target.deferral;
        let treats_null = source.is_nulls_not_distinct == target.is_nulls_not_distinct;
        match (source.kind, target.kind) {
            (Plain, Plain | Unique | UniqueConstraint | PrimaryKey) | (Exclusion, Exclusion) => {
                is_alike
            }
            // Which columns come along in a key does not tell rows apart.
            (UniqueConstraint, PrimaryKey) if source.included.is_empty() => has_keys && is_at_once,
            (Unique | UniqueConstraint, PrimaryKey) => is_alike && is_at_once,
            (Unique | UniqueConstraint, Unique | UniqueConstraint) => {
                is_alike && is_at_once && treats_null
            }
            _ => false,
        }
    }

    fn checks(&self, is_current: bool) -> impl Iterator<Item = &'a Check> {
        let checks = self.mapping.schema.checks.iter();
        checks.filter(move |check| {
            let mut columns = check.columns.iter();
            let can_be = self.mapping.check_obstacle(check).is_none()
                && columns.all(|name| self.has_column(&indexes::target_name(self.mapping, name)));
            let wanted = self.definition(check);
            let is_there = |found: &Check| {
                self.say_the_same(proven(&wanted), proven(&found.definition))
                    || (!is_current && found.name == check.name)
            };
            can_be && !self.have.checks.iter().any(is_there)
        })
    }

    fn definition(&self, check: &Check) -> String {
        wording::replace(&check.definition, self.moved)
    }

    fn foreign_keys(&self, is_current: bool) -> impl Iterator<Item = ForeignKey> {
        let keys = self.mapping.schema.foreign_keys.iter();
        keys.filter_map(move |key| {
            let wanted = foreign_keys::translate(self.mapping, self.tables, key).ok()?;
            let referenced = self.there.get(&wanted.references)?;
            let mut columns = wanted.columns.iter();
            let can_be = columns.all(|name| self.has_column(name))
                && wanted
                    .referenced_columns
                    .iter()
                    .all(|name| has_column(referenced, name));
            let is_there = |found: &ForeignKey| {
                (found.columns == wanted.columns
                    && found.references == wanted.references
                    && found.referenced_columns == wanted.referenced_columns
                    && self.say_the_same(proven(&wanted.options), proven(&found.options)))
                    || (!is_current && found.name == wanted.name)
            };
            (can_be && !self.have.foreign_keys.iter().any(is_there)).then_some(wanted)
        })
    }

    /// Of domains that columns of the target rest on too.
    fn domain_rules(&self) -> impl Iterator<Item = DomainRule> {
        let is_carried = |name: &String| {
            let mut columns = self.mapping.columns.iter();
            let found = columns.find(|column| self.mapping.source_column(column) == name);
            found.is_some_and(|it| it.target_type == TargetType::AsSource)
        };
        let rules = self.mapping.schema.domains.iter();
        rules.filter_map(move |rule| {
            let wanted = wording::domain_rule(rule, self.moved);
            let says_it = |found: &DomainRule| {
                wording::say_the_same(&wanted.type_name, &found.type_name, &[])
                    && wording::say_the_same(&wanted.demand, &found.demand, &[])
            };
            let is_there = self.have.domains.iter().any(says_it);
            (rule.columns.iter().any(is_carried) && !is_there).then_some(wanted)
        })
    }

    /// The relation that comes with it.
    fn relation(&self, item: &Item<'_>) -> Option<TableName> {
        match item {
            Item::Index(_, wanted) => Some(self.in_schema(&wanted.index.name)),
            _ => None,
        }
    }

    fn in_schema(&self, name: &str) -> TableName {
        TableName::new(&self.have.name.schema, name)
    }

    /// `taken`: names of the target that something else has.
    fn lacking(&self, item: &Item<'_>, taken: &HashSet<TableName>) -> Lacking {
        let table = quoted(&self.have.name);
        let in_source_names = |statement: &str| {
            create::in_source_names(self.mapping, self.have, &table, statement).join(";\n")
        };
        let (kind, name, sql) = match item {
            Item::Index(kind, wanted) => {
                let name = &wanted.index.name;
                let free = self.free(name, taken.contains(&self.in_schema(name)));
                let sql = match &wanted.in_source_words {
                    Some(index) => in_source_names(&indexes::statement(&table, index, &free)),
                    None => indexes::statement(&table, &wanted.index, &free),
                };
                (kind_of(*kind), name.clone(), sql)
            }
            Item::NotNull(column) => {
                let name = quote_ident(column);
                let sql = format!("ALTER TABLE {table} ALTER COLUMN {name} SET NOT NULL");
                (fills::NOT_NULL, (*column).to_owned(), sql)
            }
            Item::Filled(filled) => (filled.kind, filled.column.clone(), filled.sql(&table)),
            Item::Check(check) => {
                let free = quote_ident(&self.free_constraint(&check.name));
                let definition = self.definition(check);
                let sql = format!("ALTER TABLE {table} ADD CONSTRAINT {free} {definition}");
                let mut renamed = self.renamed.iter();
                let sql = if renamed.any(|(source, _)| check.columns.contains(source)) {
                    in_source_names(&sql)
                } else {
                    sql
                };
                ("check constraint", check.name.clone(), sql)
            }
            Item::ForeignKey(key) => {
                let named = ForeignKey {
                    name: self.free_constraint(&key.name),
                    ..key.clone()
                };
                let sql = foreign_keys::add(&self.have.name, &named);
                ("foreign key", key.name.clone(), sql.trim_end().to_owned())
            }
            Item::Domain(rule) => {
                let (domain, demand) = (&rule.type_name, &rule.demand);
                let sql = match &rule.name {
                    Some(name) => {
                        let name = quote_ident(&self.free_in_domain(domain, name));
                        format!("ALTER DOMAIN {domain} ADD CONSTRAINT {name} {demand}")
                    }
                    None => format!("ALTER DOMAIN {domain} SET {demand}"),
                };
                let name = rule.name.as_deref().unwrap_or(demand);
                (DOMAIN, format!("{name} of {domain}"), sql)
            }
        };
        Lacking {
            table: self.have.name.clone(),
            kind,
            name,
            is_surplus: matches!(item, Item::Filled(filled) if filled.is_surplus),
            sql,
        }
    }

    fn free_constraint(&self, name: &str) -> String {
        let have = self.have;
        let indexes = have.indexes.iter().map(|index| &index.name);
        let checks = have.checks.iter().map(|check| &check.name);
        let keys = have.foreign_keys.iter().map(|key| &key.name);
        let is_taken = indexes.chain(checks).chain(keys).any(|taken| taken == name);
        self.free(name, is_taken)
    }

    fn free_in_domain(&self, domain: &str, name: &str) -> String {
        let mut there = self.have.domains.iter();
        let is_taken = there.any(|it| {
            it.name.as_deref() == Some(name) && wording::say_the_same(domain, &it.type_name, &[])
        });
        self.free(name, is_taken)
    }

    fn free(&self, name: &str, is_taken: bool) -> String {
        if is_taken {
            indexes::other_name(&self.have.name, name)
        } else {
            name.to_owned()
        }
    }
}

fn has_column(table: &TableSchema, name: &str) -> bool {
    table.columns.iter().any(|column| column.name == name)
}

fn kind_of(kind: IndexKind) -> &'static str {
    match kind {
        IndexKind::PrimaryKey => PRIMARY_KEY,
        IndexKind::UniqueConstraint => "unique constraint",
        IndexKind::Unique => "unique index",
        IndexKind::Exclusion => "exclusion constraint",
        IndexKind::Plain => "index",
    }
}
