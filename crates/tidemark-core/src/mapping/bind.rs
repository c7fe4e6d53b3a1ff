//! Rules and the source's catalog together: which table goes where, with which columns.
//!
//! [`Rules::mappings`] looks at all of it and collects every problem, with its place in the file.
//! [`Rules::map_table`] does the same for one table whose shape changed on the way; there a rule that
//! speaks of a column that is gone by now is no mistake of the file.

use std::collections::HashMap;

use super::rules::{MaskWith, Rules, TableRule};
use super::{ColumnMapping, TableMapping, TargetType};
use crate::catalogue::{Code, codes};
use crate::config::filter_problem;
use crate::config::problem::{Place, Problem, Problems};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::mask::{Mask, redacted};
use crate::quarantine::OnRowError;
use crate::schema::{
    Column, ColumnDefault, ReplicaIdentity, SourceSchema, TableName, TableSchema, ValueClass,
};
use crate::selection::{Pattern, Selection};

/// PostgreSQL cuts longer names off without an error (documentation 15, 4.1.1).
const NAME_BYTES_MAX: usize = 63;

impl Rules {
    /// Which tables.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The mappings of all selected tables, or all that is wrong with them, as one error.
    pub fn map(&self, schema: &SourceSchema) -> Result<Vec<TableMapping>> {
        self.mappings(schema).map_err(Problems::into_error)
    }

    /// The mappings of all selected tables, or all that is wrong with them.
    pub fn mappings(&self, schema: &SourceSchema) -> Result<Vec<TableMapping>, Problems> {
        let mut problems = self.unknown_names(schema);
        let mappings: Vec<TableMapping> = schema
            .tables
            .iter()
            .filter_map(|table| self.bind(table, &mut problems))
            .collect();
        problems.append(self.problems_of_targets(&mappings));
        problems.into_result(mappings)
    }

    /// Names in the file that this source does not have.
    pub(crate) fn unknown_names(&self, schema: &SourceSchema) -> Problems {
        let mut problems = Problems::new();
        super::names::check(self, schema, &mut problems);
        problems
    }

    /// All that is wrong with one table.
    pub(crate) fn problems_of(&self, table: &TableSchema) -> Problems {
        let mut problems = Problems::new();
        self.bind(table, &mut problems);
        problems
    }

    /// The mapping of one table as it is now. What is wrong is an error about this table's data:
    /// others can go on.
    pub fn map_table(&self, table: &TableSchema) -> Result<TableMapping> {
        let mut problems = Problems::new();
        let mapping = self.bind(table, &mut problems);
        match mapping {
            Some(mapping) if problems.is_empty() => Ok(mapping),
            _ => {
                let problem = problems.iter().next();
                let code = problem.map_or(codes::INTERNAL, |problem| problem.code);
                let words = problem.map_or_else(String::new, |problem| {
                    format!("{}: {}", problem.message, problem.label)
                });
                Err(Error::data(code, words).table(table.name.to_string()))
            }
        }
    }

    /// About how many bytes a chunk of a table should have: its rule's `chunk_rows` at the table's
    /// average row, else `default_bytes`.
    pub fn chunk_bytes(&self, table: &TableSchema, default_bytes: u64) -> u64 {
        let rows = self
            .rule_for(&table.name)
            .ok()
            .flatten()
            .and_then(|rule| rule.chunk_rows);
        match (rows, table.rows) {
            (Some(wanted), Some(rows)) if rows > 0 => {
                let bytes = u128::from(table.bytes) * u128::from(wanted) / u128::from(rows);
                u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
            }
            _ => default_bytes,
        }
    }

    /// The rule of a table: one that names it goes before one with wildcards, of which only one may
    /// fit; the error has the two that do.
    fn rule_for(&self, name: &TableName) -> Result<Option<&TableRule>, (&TableRule, &TableRule)> {
        let exact = |rule: &&TableRule| rule.source.value.exact().as_ref() == Some(name);
        if let Some(rule) = self.tables.iter().find(exact) {
            return Ok(Some(rule));
        }
        let mut fitting = self
            .tables
            .iter()
            .filter(|rule| rule.source.value.matches(name));
        match (fitting.next(), fitting.next()) {
            (Some(first), Some(second)) => Err((first, second)),
            (first, _) => Ok(first),
        }
    }

    fn bind(&self, table: &TableSchema, problems: &mut Problems) -> Option<TableMapping> {
        let rule = match self.rule_for(&table.name) {
            Ok(rule) => rule,
            Err((first, second)) => {
                let message = format!("two [[table]] are for {}", table.name);
                let label = format!(
                    "`{}` is too; write one for this table alone",
                    first.source.value
                );
                let problem = Problem::new(codes::CONFIG_CONFLICT, message).label(label);
                problems.push(problem.at(second.source.place.clone()));
                return None;
            }
        };
        let before = problems.len();
        let mut binder = Binder {
            rules: self,
            table,
            rule,
            problems,
        };
        let target = binder.target();
        let columns = binder.columns();
        let key = binder.key(&columns);
        let filter = binder.filter();
        (problems.len() == before).then(|| TableMapping {
            schema: table.clone(),
            target,
            columns,
            key,
            filter,
            on_row_error: rule
                .and_then(|rule| rule.on_row_error)
                .unwrap_or(self.on_row_error),
        })
    }

    /// What becomes of a row of this table that the target refuses.
    pub(crate) fn row_error_policy(&self, table: &TableName) -> OnRowError {
        let rule = self.rule_for(table).ok().flatten();
        rule.and_then(|rule| rule.on_row_error)
            .unwrap_or(self.on_row_error)
    }

    /// No two tables to one, and none onto itself.
    pub(crate) fn problems_of_targets<'a>(
        &self,
        mappings: impl IntoIterator<Item = &'a TableMapping>,
    ) -> Problems {
        let mut problems = Problems::new();
        let mut taken: HashMap<&TableName, &TableName> = HashMap::new();
        for mapping in mappings {
            let place = self.target_place(mapping.source());
            if self.is_same_database && mapping.target == mapping.schema.name {
                let message = format!("{} would be copied onto itself", mapping.target);
                let label = "source and target are one database; give the target another schema";
                problems.push(
                    Problem::new(codes::CONFIG_CONFLICT, message)
                        .at(place)
                        .label(label),
                );
                continue;
            }
            if let Some(other) = taken.insert(&mapping.target, mapping.source()) {
                let message = format!("two tables would go to {}", mapping.target);
                let label = format!("{other} and {} both do", mapping.source());
                problems.push(
                    Problem::new(codes::MAPPING_COLLISION, message)
                        .at(place)
                        .label(label),
                );
            }
        }
        problems
    }

    /// Where in the file a table's name on the target comes from.
    fn target_place(&self, table: &TableName) -> Option<Place> {
        let rule = self.rule_for(table).ok().flatten();
        rule.and_then(|rule| rule.target.as_ref())
            .and_then(|target| target.place.clone())
            .or_else(|| self.target_schema.as_ref()?.place.clone())
            .or_else(|| self.include_place(table))
    }

    fn include_place(&self, table: &TableName) -> Option<Place> {
        let index = self
            .selection
            .include
            .iter()
            .position(|pattern| pattern.matches(table))?;
        self.include_places.get(index)?.clone()
    }
}

/// One table being bound.
struct Binder<'a> {
    rules: &'a Rules,
    table: &'a TableSchema,
    rule: Option<&'a TableRule>,
    problems: &'a mut Problems,
}

impl Binder<'_> {
    fn problem(
        &mut self,
        code: Code,
        message: String,
        place: Option<Place>,
        label: impl Into<String>,
    ) {
        self.problems
            .push(Problem::new(code, message).at(place).label(label));
    }

    fn target(&mut self) -> TableName {
        let name = &self.table.name;
        let filled = |text: &str| fill(text, name);
        let written = self.rule.and_then(|rule| rule.target.as_ref());
        let target = match (written, &self.rules.target_schema) {
            (Some(written), _) => {
                let Some(parts) = Pattern::parse(&written.value)
                    .ok()
                    .and_then(|pattern| pattern.exact())
                else {
                    let message = format!("`{}` does not name a table", written.value);
                    let label =
                        "write it as schema.table; {schema} and {table} stand for the source's";
                    self.problem(codes::CONFIG_NAME, message, written.place.clone(), label);
                    return name.clone();
                };
                TableName::new(filled(&parts.schema), filled(&parts.name))
            }
            (None, Some(schema)) => TableName::new(filled(&schema.value), &name.name),
            (None, None) => name.clone(),
        };
        for part in [&target.schema, &target.name] {
            self.check_length(part, &format!("{target}"), self.rules.target_place(name));
        }
        target
    }

    fn check_length(&mut self, name: &str, whole: &str, place: Option<Place>) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let message = format!("`{whole}` is not a name that the target can have");
            let label = format!(
                "each part has 1 to {NAME_BYTES_MAX} bytes, and this one has {}",
                name.len()
            );
            self.problem(codes::MAPPING_NAME_LENGTH, message, place, label);
        }
    }

    fn columns(&mut self) -> Vec<ColumnMapping> {
        let mut columns: Vec<ColumnMapping> = Vec::new();
        for (source, column) in self.table.columns.iter().enumerate() {
            let is_generated = matches!(column.default, ColumnDefault::Generated(_));
            if is_generated || self.is_dropped(&column.name) {
                continue;
            }
            let (target, place) = self.column_target(column);
            self.check_length(&target, &target, place.clone());
            if let Some(other) = columns.iter().find(|other| other.target == target) {
                let other = &self.table.columns[other.source].name;
                let message = format!(
                    "two columns of {} would be called `{target}`",
                    self.table.name
                );
                let label = format!("`{other}` and `{}` both would", column.name);
                self.problem(codes::MAPPING_COLLISION, message, place, label);
            }
            let (mask, target_type) = self.mask(source, column);
            columns.push(ColumnMapping {
                source,
                target,
                mask,
                target_type,
            });
        }
        columns
    }

    fn is_dropped(&self, column: &str) -> bool {
        self.rule.is_some_and(|rule| {
            rule.drop_columns
                .iter()
                .any(|dropped| dropped.value == column)
        })
    }

    fn column_target(&self, column: &Column) -> (String, Option<Place>) {
        let renamed = self.rule.and_then(|rule| {
            rule.rename
                .iter()
                .find(|(source, _)| source.value == column.name)
        });
        renamed.map_or_else(
            || {
                let place = self.rule.and_then(|rule| rule.source.place.clone());
                (column.name.clone(), place)
            },
            |(_, target)| (target.value.clone(), target.place.clone()),
        )
    }

    /// By which columns the source names old rows, and the target finds them.
    fn identifying(&self) -> &[usize] {
        match &self.table.identity {
            ReplicaIdentity::Key(key) => key,
            ReplicaIdentity::Full | ReplicaIdentity::Nothing => &self.table.primary_key,
        }
    }

    fn key(&mut self, columns: &[ColumnMapping]) -> Vec<usize> {
        let mut key = Vec::new();
        for source in self.identifying().to_vec() {
            if let Some(position) = columns.iter().position(|column| column.source == source) {
                key.push(position);
                continue;
            }
            let name = &self.table.columns[source].name;
            let message = format!("`{name}` is part of the key of {}", self.table.name);
            let dropped = self.rule.and_then(|rule| {
                rule.drop_columns
                    .iter()
                    .find(|dropped| dropped.value == *name)
            });
            let (place, label) = match dropped {
                Some(dropped) => (dropped.place.clone(), "it cannot be left out"),
                None => (
                    self.rules.include_place(&self.table.name),
                    "it is generated, and the log does not have it; give the table REPLICA IDENTITY FULL and no such key",
                ),
            };
            self.problem(codes::MAPPING_KEY_COLUMN, message, place, label);
        }
        key
    }

    fn filter(&mut self) -> Option<Filter> {
        let text = self.rule?.filter.as_ref()?;
        match Filter::bind(&text.value, self.table) {
            Ok(filter) => Some(filter),
            Err(found) => {
                self.problems.extend(
                    found
                        .into_iter()
                        .map(|problem| filter_problem(text, problem)),
                );
                None
            }
        }
    }

    /// The first mask that fits a column, and the type that its values have then.
    fn mask(&mut self, source: usize, column: &Column) -> (Option<Mask>, TargetType) {
        let name = &self.table.name;
        let fitting = self.rules.masks.iter().find_map(|rule| {
            let pattern = rule
                .columns
                .iter()
                .find(|pattern| pattern.value.matches(name, &column.name))?;
            Some((rule, pattern))
        });
        let Some((rule, pattern)) = fitting else {
            return (None, TargetType::AsSource);
        };
        let word = rule.with.word();
        let is_key =
            self.identifying().contains(&source) || self.table.primary_key.contains(&source);
        if is_key && !matches!(rule.with, MaskWith::Hash { .. }) {
            let message = format!(
                "`{}` is part of the key of {name} and cannot be masked with \"{word}\"",
                column.name
            );
            let label = "many rows would become one; \"hash\" keeps different keys different";
            self.problem(
                codes::MAPPING_KEY_COLUMN,
                message,
                pattern.place.clone(),
                label,
            );
            return (None, TargetType::AsSource);
        }
        match mask_of(&rule.with, column) {
            Ok(mask) => {
                let target_type = target_type(&mask, column);
                (Some(mask), target_type)
            }
            Err(why) => {
                let message = format!(
                    "{name}.{} is of type {} and cannot be masked with \"{word}\"",
                    column.name, column.type_name
                );
                self.problem(codes::MAPPING_MASK, message, pattern.place.clone(), why);
                (None, TargetType::AsSource)
            }
        }
    }
}

/// Puts the source's names in the place of `{schema}` and `{table}`; what they hold is not looked at
/// again.
fn fill(template: &str, name: &TableName) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let (part, behind) = match (after.strip_prefix("schema}"), after.strip_prefix("table}")) {
            (Some(behind), _) => (name.schema.as_str(), behind),
            (_, Some(behind)) => (name.name.as_str(), behind),
            _ => ("{", after),
        };
        filled.push_str(part);
        rest = behind;
    }
    filled + rest
}

/// A mask for a column of a known type; the error says why there is none.
fn mask_of(with: &MaskWith, column: &Column) -> Result<Mask, String> {
    match with {
        MaskWith::Hash { salt } => Ok(Mask::Hash { salt: salt.clone() }),
        MaskWith::Null => Ok(Mask::Null),
        MaskWith::Redact => match redacted(column.class) {
            Some(constant) => Ok(Mask::Redact { constant }),
            None => Err(
                "there is no constant for this type; use \"null\", \"hash\" or \"fixed\""
                    .to_owned(),
            ),
        },
        MaskWith::Partial if column.class == ValueClass::Text => Ok(Mask::Partial),
        MaskWith::Partial => Err("only text has parts to keep".to_owned()),
        MaskWith::Fixed { value } => {
            let value = Filter::column_value(column, value)
                .map_err(|why| format!("the value does not fit: {why}"))?;
            match text_limit(column) {
                Some(limit) if value.chars().count() > limit => {
                    Err(format!("the value has more than {limit} characters"))
                }
                _ => Ok(Mask::Fixed { value }),
            }
        }
    }
}

/// Masks that make text of a value need a column that can hold it.
fn target_type(mask: &Mask, column: &Column) -> TargetType {
    let makes_text = match mask {
        Mask::Hash { .. } | Mask::Partial => true,
        Mask::Redact { .. } => column.class == ValueClass::Text,
        Mask::Null | Mask::Fixed { .. } => false,
    };
    let is_text = matches!(column.type_name.as_str(), "text" | "character varying");
    if makes_text && !is_text {
        TargetType::Text
    } else {
        TargetType::AsSource
    }
}

/// How many characters a text column holds, from `character varying(20)`.
fn text_limit(column: &Column) -> Option<usize> {
    let (name, rest) = column.type_name.split_once('(')?;
    let is_text = matches!(name, "character" | "character varying");
    is_text.then(|| rest.trim_end_matches(')').parse().ok())?
}
