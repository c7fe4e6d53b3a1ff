//! Whether rows of the source can be written to a table that is there already.
//!
//! All that is wrong is found at once. Being generous would be wrong here: a type that takes the
//! values but says them otherwise (`json` in `jsonb`, a local time as an instant) makes a copy that
//! is not one. So a column fits if its type is the source's, a wider one of the same family, or
//! unlimited text, which holds what the value says.
//!
//! Type numbers and modifiers: PostgreSQL 15, `pg_type.dat`; `numerictypmodin`, `varchartypmodin`,
//! `anytime_typmodin`. Modifiers of character types count 4 bytes more than they say.

use std::collections::HashMap;
use std::fmt;

use tidemark_core::mapping::{ColumnMapping, TableMapping, TargetType};
use tidemark_core::schema::{Column, ColumnDefault, TableSchema};
use tidemark_core::source::RowFormat;

const BOOL: u32 = 16;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const CIDR: u32 = 650;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const INET: u32 = 869;
const BPCHAR: u32 = 1042;
const VARCHAR: u32 = 1043;
const TIME: u32 = 1083;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const TIMETZ: u32 = 1266;
const VARBIT: u32 = 1562;
const NUMERIC: u32 = 1700;

/// Arrays and their elements, as far as elements have modifiers.
const ARRAYS: [(u32, u32); 7] = [
    (1231, NUMERIC),
    (1015, VARCHAR),
    (1563, VARBIT),
    (1183, TIME),
    (1270, TIMETZ),
    (1115, TIMESTAMP),
    (1185, TIMESTAMPTZ),
];

/// Numbers of the target's types for the source's type names, for those that are not the same
/// everywhere.
pub(super) type TypeNumbers = HashMap<String, u32>;

/// How a column of the target takes the values of the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// As they are.
    Same,
    /// By their text form.
    Wider,
    /// Not all of them.
    No,
}

/// What keeps a table that is there from taking every row.
#[derive(Debug)]
pub(super) enum Problem<'a> {
    Missing(&'a ColumnMapping),
    /// The target computes it.
    Generated(&'a ColumnMapping),
    OtherType {
        column: &'a ColumnMapping,
        found: &'a Column,
        wanted: &'a str,
    },
    /// The source allows NULL in it.
    RefusesNull(&'a ColumnMapping),
    /// Only the target has it, and it must have a value.
    Alone(&'a Column),
    /// The source computes it, so that no value of it comes, and the target does not.
    NotGenerated(&'a Column),
}

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing(column) => write!(f, "column {} is missing", column.target),
            Problem::Generated(column) => write!(
                f,
                "column {} is generated and cannot be written",
                column.target
            ),
            Problem::OtherType {
                column,
                found,
                wanted,
            } => write!(
                f,
                "column {} is {}, but the source has {wanted}",
                column.target, found.type_name
            ),
            Problem::RefusesNull(column) => write!(
                f,
                "column {} refuses NULL, which the source allows",
                column.target
            ),
            Problem::Alone(column) => write!(
                f,
                "column {} refuses NULL, has no default, and the source has no such column",
                column.name
            ),
            Problem::NotGenerated(column) => write!(
                f,
                "column {} is generated on the source and not here, so that nothing would give it values",
                column.name
            ),
        }
    }
}

/// What is wrong with `have`; empty if every row fits.
pub(super) fn problems<'a>(
    mapping: &'a TableMapping,
    numbers: &TypeNumbers,
    have: &'a TableSchema,
) -> Vec<Problem<'a>> {
    let mut problems = Vec::new();
    for column in &mapping.columns {
        let source = &mapping.schema.columns[column.source];
        let mut there = have.columns.iter();
        let Some(found) = there.find(|found| found.name == column.target) else {
            problems.push(Problem::Missing(column));
            continue;
        };
        if matches!(found.default, ColumnDefault::Generated(_)) {
            problems.push(Problem::Generated(column));
        }
        if fit(column, source, numbers, found) == Fit::No {
            let wanted = match column.target_type {
                TargetType::AsSource => source.type_name.as_str(),
                TargetType::Text => "a mask that makes text",
            };
            problems.push(Problem::OtherType {
                column,
                found,
                wanted,
            });
        }
        if found.is_not_null && !mapping.is_not_null(column) {
            problems.push(Problem::RefusesNull(column));
        }
    }
    for found in &have.columns {
        let is_carried = mapping.columns.iter().any(|c| c.target == found.name);
        if !is_carried && found.is_not_null && found.default == ColumnDefault::None {
            problems.push(Problem::Alone(found));
        }
    }
    problems
}

/// Columns of `have` that would stay without values. Not among [`problems`]: every row fits, and who has
/// loaded such a table goes on.
pub(super) fn left_empty<'a>(
    mapping: &'a TableMapping,
    have: &'a TableSchema,
) -> impl Iterator<Item = Problem<'a>> {
    let is_generated = |column: &Column| matches!(column.default, ColumnDefault::Generated(_));
    let names = mapping.schema.columns.iter();
    let names = names.filter(move |column| is_generated(column));
    let found = names.filter_map(|column| have.columns.iter().find(|it| it.name == column.name));
    found
        .filter(move |found| !is_generated(found))
        .filter(|found| mapping.columns.iter().all(|it| it.target != found.name))
        .map(Problem::NotGenerated)
}

/// All of them in one sentence.
pub(super) fn told(problems: &[Problem<'_>]) -> String {
    let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
    told.join("; ")
}

/// In which format rows are wanted by a table that fits.
pub(super) fn format(
    mapping: &TableMapping,
    numbers: &TypeNumbers,
    have: &TableSchema,
) -> RowFormat {
    let as_is = |column: &ColumnMapping| {
        let source = &mapping.schema.columns[column.source];
        let found = have
            .columns
            .iter()
            .find(|found| found.name == column.target);
        let is_same = found.is_some_and(|found| fit(column, source, numbers, found) == Fit::Same);
        let is_portable = match column.target_type {
            TargetType::AsSource => source.is_binary_portable,
            TargetType::Text => true,
        };
        is_same && is_portable
    };
    if mapping.columns.iter().all(as_is) {
        RowFormat::PgCopyBinary
    } else {
        RowFormat::PgCopyText
    }
}

fn fit(column: &ColumnMapping, source: &Column, numbers: &TypeNumbers, found: &Column) -> Fit {
    let (type_id, modifier) = match column.target_type {
        TargetType::AsSource => {
            let number = numbers.get(&source.type_name);
            (*number.unwrap_or(&source.type_id), source.type_modifier)
        }
        TargetType::Text => (TEXT, -1),
    };
    let type_fit = fit_type((type_id, modifier), (found.type_id, found.type_modifier));
    match type_fit {
        // Text without a limit; but not for types whose cast to text says something else than COPY.
        Fit::No
            if matches!(found.type_id, TEXT | VARCHAR)
                && found.type_modifier == -1
                && !matches!(type_id, BOOL | BPCHAR | CIDR | INET) =>
        {
            Fit::Wider
        }
        other => other,
    }
}

fn fit_type(want: (u32, i32), have: (u32, i32)) -> Fit {
    if want == have {
        return Fit::Same;
    }
    if want.0 == have.0 {
        return fit_modifier(want.0, want.1, have.1);
    }
    let digits = match want.0 {
        INT2 => 5,
        INT4 => 10,
        INT8 => 19,
        _ => 0,
    };
    match (want.0, have.0) {
        (INT2, INT4 | INT8) | (INT4, INT8) | (FLOAT4, FLOAT8) => Fit::Wider,
        (INT2 | INT4 | INT8, NUMERIC) if have.1 == -1 => Fit::Wider,
        (INT2 | INT4 | INT8, NUMERIC) => {
            let (precision, scale) = numeric(have.1);
            if precision - scale >= digits && scale == 0 {
                Fit::Wider
            } else {
                Fit::No
            }
        }
        _ => Fit::No,
    }
}

/// The same type with another modifier.
fn fit_modifier(type_id: u32, want: i32, have: i32) -> Fit {
    // An interval without precision still has fields, but none of any kind is all of them.
    if have == -1 {
        // Unlimited `bpchar` keeps blanks that `char(n)` has, so it says the same.
        return Fit::Same;
    }
    if want == -1 {
        return Fit::No;
    }
    let element = ARRAYS
        .iter()
        .find(|(array, _)| *array == type_id)
        .map_or(type_id, |(_, element)| *element);
    let is_wider = match element {
        NUMERIC => {
            let ((want_digits, want_scale), (digits, scale)) = (numeric(want), numeric(have));
            // Another scale says 1.50 as 1.500.
            scale == want_scale && digits >= want_digits
        }
        VARCHAR | VARBIT | TIME | TIMETZ | TIMESTAMP | TIMESTAMPTZ => have >= want,
        _ => false,
    };
    if is_wider { Fit::Same } else { Fit::No }
}

/// Precision and scale of a numeric's modifier; the scale is 11 bits with sign since PostgreSQL 15,
/// and fits in them before.
fn numeric(modifier: i32) -> (i32, i32) {
    let packed = modifier - 4;
    let scale = packed & 0x7ff;
    ((packed >> 16) & 0xffff, (scale ^ 1024) - 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric_modifier(precision: i32, scale: i32) -> i32 {
        ((precision << 16) | (scale & 0x7ff)) + 4
    }

    #[test]
    fn only_wider_types_of_the_same_family_fit() {
        use Fit::{No, Same, Wider};
        let narrow = numeric_modifier(8, 2);
        for (want, have, expected) in [
            ((INT4, -1), (INT4, -1), Same),
            ((INT4, -1), (INT8, -1), Wider),
            ((INT8, -1), (INT4, -1), No),
            ((INT8, -1), (NUMERIC, numeric_modifier(19, 0)), Wider),
            ((INT8, -1), (NUMERIC, numeric_modifier(18, 0)), No),
            ((INT2, -1), (NUMERIC, numeric_modifier(7, 2)), No),
            ((NUMERIC, narrow), (NUMERIC, -1), Same),
            ((NUMERIC, -1), (NUMERIC, narrow), No),
            ((NUMERIC, narrow), (NUMERIC, numeric_modifier(12, 2)), Same),
            ((NUMERIC, narrow), (NUMERIC, numeric_modifier(12, 3)), No),
            ((NUMERIC, narrow), (NUMERIC, numeric_modifier(7, 2)), No),
            (
                (NUMERIC, numeric_modifier(3, -2)),
                (NUMERIC, numeric_modifier(4, -2)),
                Same,
            ),
            ((1231, narrow), (1231, numeric_modifier(7, 2)), No),
            ((VARCHAR, 14), (VARCHAR, 24), Same),
            ((VARCHAR, 24), (VARCHAR, 14), No),
            ((BPCHAR, 14), (BPCHAR, 24), No),
            ((TIMESTAMPTZ, 0), (TIMESTAMPTZ, 3), Same),
            ((TIMESTAMPTZ, -1), (TIMESTAMPTZ, 3), No),
            ((TIMESTAMP, -1), (TIMESTAMPTZ, -1), No),
            ((FLOAT4, -1), (FLOAT8, -1), Wider),
            ((FLOAT8, -1), (FLOAT4, -1), No),
            ((114, -1), (3802, -1), No),
        ] {
            assert_eq!(fit_type(want, have), expected, "{want:?} in {have:?}");
        }
    }
}
