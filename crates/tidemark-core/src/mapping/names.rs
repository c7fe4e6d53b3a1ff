//! Names in the file that the source does not have: tables, patterns and columns, each with what may
//! have been meant.

use super::rules::{ColumnPattern, Rules, TableRule};
use crate::catalogue::codes;
use crate::config::problem::{Located, Problem, Problems, suggestion};
use crate::schema::{ColumnDefault, NotCarried, SourceSchema, TableName, TableSchema};
use crate::selection::{Glob, Pattern};

/// Looks at every name that the rules speak of.
pub(super) fn check(rules: &Rules, schema: &SourceSchema, problems: &mut Problems) {
    for (index, pattern) in rules.selection.include.iter().enumerate() {
        if !schema
            .tables
            .iter()
            .any(|table| pattern.matches(&table.name))
        {
            let place = rules.include_places.get(index).cloned().flatten();
            problems.push(not_found(rules, schema, pattern).at(place));
        }
    }
    for rule in &rules.tables {
        let pattern = &rule.source.value;
        let tables: Vec<&TableSchema> = schema
            .tables
            .iter()
            .filter(|table| pattern.matches(&table.name))
            .collect();
        if tables.is_empty() {
            problems.push(not_found(rules, schema, pattern).at(rule.source.place.clone()));
        } else {
            check_columns(rule, &tables, problems);
        }
    }
    for pattern in rules.masks.iter().flat_map(|rule| &rule.columns) {
        check_mask(pattern, schema, problems);
    }
}

/// Why a pattern is for no table that is carried.
fn not_found(rules: &Rules, schema: &SourceSchema, pattern: &Pattern) -> Problem {
    let Some(name) = pattern.exact() else {
        let message = format!("no table matches `{pattern}`");
        if let Some(left) = matching_alone(schema, pattern) {
            let label = format!("{} is there and cannot be copied: {}", left.name, left.note);
            return Problem::new(codes::MAPPING_NO_TABLE, message).label(label);
        }
        let others = schema
            .unselected
            .iter()
            .chain(schema.tables.iter().map(|table| &table.name));
        let schemas: Vec<&str> = others.map(|name| name.schema.as_str()).collect();
        let label = match &pattern.schema {
            Glob::Name(written) if !schemas.contains(&written.as_str()) => {
                match suggestion(written, schemas.iter().copied()) {
                    Some(near) => format!("did you mean schema `{near}`?"),
                    None => format!("the source has no schema `{written}` with tables in it"),
                }
            }
            _ => "names mind upper and lower case".to_owned(),
        };
        return Problem::new(codes::MAPPING_NO_TABLE, message).label(label);
    };
    if let Some(left) = schema
        .not_carried
        .iter()
        .find(|left| left.name == name.unquoted())
    {
        let article = if left.kind.starts_with(['a', 'e', 'i', 'o', 'u']) {
            "an"
        } else {
            "a"
        };
        let message = format!("{name} is {article} {} and cannot be copied", left.kind);
        return Problem::new(codes::MAPPING_NOT_A_TABLE, message).label(left.note.clone());
    }
    if schema.unselected.contains(&name) {
        let message = format!("{name} is not among the selected tables");
        let is_excluded = rules
            .selection
            .exclude
            .iter()
            .any(|pattern| pattern.matches(&name));
        let label = if is_excluded {
            "`tables.exclude` leaves it out"
        } else {
            "add it to `tables.include`"
        };
        return Problem::new(codes::MAPPING_NO_TABLE, message).label(label);
    }
    if is_selected_elsewhere(rules, &name) {
        // It matches the selection and is no table of its own: a partition, most likely.
        let message = format!("the source has no table {name} of its own");
        let label = "a partition is copied with its partitioned table";
        if schema.tables.iter().any(|table| table.is_partitioned) {
            return Problem::new(codes::MAPPING_NO_TABLE, message)
                .label(label)
                .help(near(schema, &name));
        }
    }
    Problem::new(
        codes::MAPPING_NO_TABLE,
        format!("the source has no table {name}"),
    )
    .label(near(schema, &name))
}

/// A relation of which a table is made on the target, and that the pattern matches, but that cannot be copied.
fn matching_alone<'a>(schema: &'a SourceSchema, pattern: &Pattern) -> Option<&'a NotCarried> {
    schema.not_carried.iter().find(|left| {
        let name = left.name.split_once('.');
        let name = name.map(|(schema, name)| TableName::new(schema, name));
        left.kind.ends_with("table") && name.is_some_and(|name| pattern.matches(&name))
    })
}

fn is_selected_elsewhere(rules: &Rules, name: &TableName) -> bool {
    rules
        .selection
        .include
        .iter()
        .any(|pattern| pattern.exact().is_none() && pattern.matches(name))
}

fn near(schema: &SourceSchema, name: &TableName) -> String {
    let names: Vec<String> = schema
        .tables
        .iter()
        .map(|table| &table.name)
        .chain(&schema.unselected)
        .map(TableName::to_string)
        .collect();
    match suggestion(&name.to_string(), names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "names mind upper and lower case".to_owned(),
    }
}

/// Columns that a `[[table]]` names: at least one of its tables must have each.
fn check_columns(rule: &TableRule, tables: &[&TableSchema], problems: &mut Problems) {
    let renamed = rule.rename.iter().map(|(source, _)| source);
    for name in renamed.chain(&rule.drop_columns) {
        let found = tables.iter().find_map(|table| {
            table
                .columns
                .iter()
                .find(|column| column.name == name.value)
        });
        match found {
            Some(column) if matches!(column.default, ColumnDefault::Generated(_)) => {
                let is_renamed = rule
                    .rename
                    .iter()
                    .any(|(source, _)| source.value == name.value);
                if is_renamed {
                    let message = format!(
                        "column `{}` is generated and has no values to carry",
                        name.value
                    );
                    problems.push(
                        Problem::new(codes::MAPPING_NO_COLUMN, message)
                            .at(name.place.clone())
                            .label("it cannot be renamed"),
                    );
                }
            }
            Some(_) => {}
            None => problems.push(no_column(&name.value, tables).at(name.place.clone())),
        }
    }
}

fn no_column(name: &str, tables: &[&TableSchema]) -> Problem {
    let columns = tables
        .iter()
        .flat_map(|table| &table.columns)
        .map(|column| column.name.as_str());
    let label = match suggestion(name, columns) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "names mind upper and lower case".to_owned(),
    };
    let message = match tables {
        [table] => format!("{} has no column `{name}`", table.name),
        _ => format!("none of these tables has a column `{name}`"),
    };
    Problem::new(codes::MAPPING_NO_COLUMN, message).label(label)
}

/// A mask that fits nothing protects nothing, which nobody meant.
fn check_mask(pattern: &Located<ColumnPattern>, schema: &SourceSchema, problems: &mut Problems) {
    let tables: Vec<&TableSchema> = schema
        .tables
        .iter()
        .filter(|table| pattern.value.table.matches(&table.name))
        .collect();
    let is_column = |table: &&TableSchema| {
        table
            .columns
            .iter()
            .any(|column| pattern.value.column.matches(&column.name))
    };
    if tables.iter().any(is_column) {
        return;
    }
    let problem = match (&pattern.value.column, tables.as_slice()) {
        (_, []) => {
            let message = format!("this mask is for no table: `{}`", pattern.value.table);
            let label = pattern.value.table.exact().map_or_else(
                || "names mind upper and lower case".to_owned(),
                |name| near(schema, &name),
            );
            Problem::new(codes::MAPPING_NO_TABLE, message).label(label)
        }
        (Glob::Name(name), tables) => no_column(name, tables),
        (Glob::Wild(_), _) => {
            let message = format!("no column matches `{}`", pattern.value);
            Problem::new(codes::MAPPING_NO_COLUMN, message).label("names mind upper and lower case")
        }
    };
    problems.push(problem.at(pattern.place.clone()));
}
