//! Names become columns, literals take their column's type, and what the stream could not evaluate
//! exactly as the source does is refused, with the reason.

use std::ops::Range;

use super::compare::{self, Constant, Kind};
use super::datetime;
use super::number::{self, FloatWidth};
use super::parse::{Node, Operand as Side, OperandKind};
use super::{
    Column, CompareOp, Expr, Filter, FilterProblem, LikePattern, Literal, LiteralForm, Operand,
};
use crate::config::problem::suggestion;
use crate::schema::{Column as SchemaColumn, ColumnDefault, TableSchema, ValueClass};

pub(super) fn bind(
    text: &str,
    node: &Node,
    table: &TableSchema,
) -> Result<Filter, Vec<FilterProblem>> {
    let mut binder = Binder {
        table,
        columns: Vec::new(),
        problems: Vec::new(),
    };
    let expr = binder.node(node);
    match expr {
        Some(expr) if binder.problems.is_empty() => Ok(Filter {
            text: text.to_owned(),
            expr,
            columns: binder.columns,
        }),
        _ => Err(binder.problems),
    }
}

struct Binder<'a> {
    table: &'a TableSchema,
    columns: Vec<usize>,
    problems: Vec<FilterProblem>,
}

impl Binder<'_> {
    /// `None` where a problem was recorded.
    fn node(&mut self, node: &Node) -> Option<Expr> {
        match node {
            Node::And(terms) => self.terms(terms).map(Expr::And),
            Node::Or(terms) => self.terms(terms).map(Expr::Or),
            Node::Not(inner) => Some(Expr::Not(Box::new(self.node(inner)?))),
            Node::Bare(operand) => self.bare(operand),
            Node::IsNull { operand, negated } => Some(Expr::IsNull {
                column: self.column(operand)?,
                negated: *negated,
            }),
            Node::Compare { op, left, right } => self.compare(*op, left, right),
            Node::Distinct {
                left,
                right,
                negated,
            } => {
                let (column, with, _) = self.sides(CompareOp::Eq, left, right)?;
                Some(Expr::Distinct {
                    column,
                    with,
                    negated: *negated,
                })
            }
            Node::In {
                operand,
                list,
                negated,
            } => self.list(operand, list, *negated),
            Node::Between {
                operand,
                low,
                high,
                negated,
            } => {
                let low = self.compare(CompareOp::Ge, operand, low);
                let high = self.compare(CompareOp::Le, operand, high);
                let both = Expr::And(vec![low?, high?]);
                Some(if *negated {
                    Expr::Not(Box::new(both))
                } else {
                    both
                })
            }
            Node::Like {
                operand,
                pattern,
                negated,
            } => self.like(operand, pattern, *negated),
        }
    }

    /// All of them are looked at, so that all problems are found.
    fn terms(&mut self, terms: &[Node]) -> Option<Vec<Expr>> {
        let bound: Vec<Option<Expr>> = terms.iter().map(|term| self.node(term)).collect();
        bound.into_iter().collect()
    }

    fn refuse<T>(&mut self, problem: FilterProblem) -> Option<T> {
        self.problems.push(problem);
        None
    }

    fn column(&mut self, operand: &Side) -> Option<Column> {
        let OperandKind::Column(name) = &operand.kind else {
            return self.refuse(
                FilterProblem::new(operand.span.clone(), "expected a column here")
                    .help("a literal by itself says nothing about a row"),
            );
        };
        let Some(index) = self
            .table
            .columns
            .iter()
            .position(|column| column.name == *name)
        else {
            return self.refuse(no_column(self.table, name, operand.span.clone()));
        };
        if matches!(
            self.table.columns[index].default,
            ColumnDefault::Generated(_)
        ) {
            let message = format!("`{name}` is generated, and the log does not hold it");
            return self.refuse(FilterProblem::new(operand.span.clone(), message));
        }
        let known = self.columns.iter().position(|known| *known == index);
        let slot = known.unwrap_or_else(|| {
            self.columns.push(index);
            self.columns.len() - 1
        });
        let kind = kind(&self.table.columns[index]).unwrap_or(Kind::Opaque);
        Some(Column { index, slot, kind })
    }

    /// A column of which more is asked than whether it is NULL.
    fn comparable(&mut self, operand: &Side) -> Option<Column> {
        let column = self.column(operand)?;
        match kind(&self.table.columns[column.index]) {
            Ok(_) => Some(column),
            Err(why) => {
                let schema = &self.table.columns[column.index];
                let message = format!("`{}` is of type {}, {why}", schema.name, schema.type_name);
                self.refuse(
                    FilterProblem::new(operand.span.clone(), message)
                        .help("only IS NULL and IS NOT NULL are possible"),
                )
            }
        }
    }

    fn bare(&mut self, operand: &Side) -> Option<Expr> {
        match &operand.kind {
            OperandKind::Boolean(value) => Some(Expr::Constant(Some(*value))),
            OperandKind::Null => Some(Expr::Constant(None)),
            OperandKind::Column(_) => {
                let column = self.comparable(operand)?;
                if column.kind == Kind::Boolean {
                    return Some(Expr::Flag(column));
                }
                self.refuse(FilterProblem::new(
                    operand.span.clone(),
                    "only a boolean column can stand by itself; compare it with something",
                ))
            }
            OperandKind::Number(_) | OperandKind::Text(_) => self.refuse(FilterProblem::new(
                operand.span.clone(),
                "a literal by itself is not a condition",
            )),
        }
    }

    fn compare(&mut self, op: CompareOp, left: &Side, right: &Side) -> Option<Expr> {
        for side in [left, right] {
            if side.kind == OperandKind::Null {
                return self.refuse(
                    FilterProblem::new(side.span.clone(), "a comparison with NULL is never true")
                        .help("write IS NULL or IS NOT NULL"),
                );
            }
        }
        let (column, with, op) = self.sides(op, left, right)?;
        Some(Expr::Compare { column, op, with })
    }

    /// Column first, literal or second column behind it.
    fn sides(
        &mut self,
        op: CompareOp,
        left: &Side,
        right: &Side,
    ) -> Option<(Column, Operand, CompareOp)> {
        let is_column = |side: &Side| matches!(side.kind, OperandKind::Column(_));
        match (is_column(left), is_column(right)) {
            (true, true) => {
                let first = self.comparable(left);
                let second = self.comparable(right);
                let (first, second) = (first?, second?);
                self.columns_fit(first, second, op, right.span.clone())?;
                Some((first, Operand::Column(second), op))
            }
            (true, false) => {
                let column = self.comparable(left)?;
                let literal = self.literal(column, op, right)?;
                Some((column, Operand::Literal(literal), op))
            }
            (false, true) => {
                let column = self.comparable(right)?;
                let literal = self.literal(column, op, left)?;
                Some((column, Operand::Literal(literal), op.flipped()))
            }
            (false, false) => self.refuse(FilterProblem::new(
                left.span.start..right.span.end,
                "one side of a comparison must be a column",
            )),
        }
    }

    fn columns_fit(
        &mut self,
        first: Column,
        second: Column,
        op: CompareOp,
        span: Range<usize>,
    ) -> Option<()> {
        let is_number = |kind| matches!(kind, Kind::Integer | Kind::Decimal);
        let (a, b) = (
            &self.table.columns[first.index],
            &self.table.columns[second.index],
        );
        let same_enum = first.kind != Kind::Enum || a.type_id == b.type_id;
        let fit = (first.kind == second.kind && same_enum && a.collation == b.collation)
            || (is_number(first.kind) && is_number(second.kind));
        if !fit {
            let message = format!(
                "`{}` is of type {} and `{}` of type {}: they cannot be compared exactly here",
                a.name, a.type_name, b.name, b.type_name
            );
            return self.refuse(FilterProblem::new(span, message));
        }
        if op.needs_order() && matches!(first.kind, Kind::Text { .. } | Kind::Enum) {
            return self.refuse(FilterProblem::new(
                span,
                "two columns of this type can only be compared with = and <>",
            ));
        }
        Some(())
    }

    fn list(&mut self, operand: &Side, list: &[Side], negated: bool) -> Option<Expr> {
        let column = self.comparable(operand)?;
        let literals: Vec<Option<Literal>> = list
            .iter()
            .map(|item| {
                if let OperandKind::Column(_) = item.kind {
                    let message = "a list holds literals only";
                    return self.refuse(FilterProblem::new(item.span.clone(), message));
                }
                let literal = self.literal(column, CompareOp::Eq, item)?;
                in_list(literal, column.kind, list.len()).or_else(|| {
                    let message = "this number is out of the range of real";
                    self.refuse(FilterProblem::new(item.span.clone(), message))
                })
            })
            .collect();
        Some(Expr::In {
            column,
            list: literals.into_iter().collect::<Option<_>>()?,
            negated,
        })
    }

    fn like(&mut self, operand: &Side, pattern: &Side, negated: bool) -> Option<Expr> {
        let column = self.comparable(operand)?;
        if !matches!(column.kind, Kind::Text { .. }) {
            return self.refuse(FilterProblem::new(
                operand.span.clone(),
                "LIKE is for text columns",
            ));
        }
        let OperandKind::Text(text) = &pattern.kind else {
            return self.refuse(FilterProblem::new(
                pattern.span.clone(),
                "expected a pattern in single quotes",
            ));
        };
        match LikePattern::new(text) {
            Some(pattern) => Some(Expr::Like {
                column,
                pattern,
                negated,
            }),
            None => self.refuse(FilterProblem::new(
                pattern.span.clone(),
                "a pattern cannot end with a backslash",
            )),
        }
    }

    fn literal(&mut self, column: Column, op: CompareOp, side: &Side) -> Option<Literal> {
        let schema = &self.table.columns[column.index];
        match literal(column.kind, schema, op, &side.kind) {
            Ok(literal) => Some(literal),
            Err(Refusal { message, help }) => {
                self.refuse(FilterProblem::new(side.span.clone(), message).help(help))
            }
        }
    }
}

/// Of several values in a list and their column, PostgreSQL finds one type (documentation 15, 10.5),
/// which for a `real` is `real`; a single value is as with `=`, where a number keeps its own type.
fn in_list(mut literal: Literal, kind: Kind, count: usize) -> Option<Literal> {
    if let (LiteralForm::Number(number), Kind::Float(FloatWidth::Real), 2..) =
        (&literal.form, kind, count)
    {
        literal.constant = Constant::Float(quoted_float(number, FloatWidth::Real)?);
    }
    Some(literal)
}

fn no_column(table: &TableSchema, name: &str, span: Range<usize>) -> FilterProblem {
    let names = table.columns.iter().map(|column| column.name.as_str());
    let problem = FilterProblem::new(span, format!("{} has no column `{name}`", table.name));
    match suggestion(name, names) {
        Some(near) if near.to_lowercase() == name.to_lowercase() => problem.help(format!(
            "write \"{near}\" in double quotes: a name without quotes is lower case in SQL"
        )),
        Some(near) => problem.help(format!("did you mean `{near}`?")),
        None => problem.help(
            "there are no other tables and no functions in a filter; text goes in single quotes",
        ),
    }
}

/// By which rules a column's values are compared; the error ends a sentence that begins with type.
fn kind(column: &SchemaColumn) -> Result<Kind, &'static str> {
    let type_name = column.type_name.as_str();
    match column.class {
        ValueClass::Integer => match type_name {
            "smallint" | "integer" | "bigint" => Ok(Kind::Integer),
            _ => Err("whose comparison is not that of whole numbers"),
        },
        ValueClass::Decimal if type_name.starts_with("numeric") => Ok(Kind::Decimal),
        ValueClass::Float => match type_name {
            "real" => Ok(Kind::Float(FloatWidth::Real)),
            "double precision" => Ok(Kind::Float(FloatWidth::Double)),
            _ => Err("whose width is not known here"),
        },
        ValueClass::Boolean => Ok(Kind::Boolean),
        ValueClass::Text => text_kind(column),
        ValueClass::Date => Ok(Kind::Date),
        ValueClass::Timestamp => Ok(Kind::Timestamp),
        ValueClass::TimestampTz => Ok(Kind::TimestampTz),
        ValueClass::Uuid => Ok(Kind::Uuid),
        ValueClass::Bytes => Ok(Kind::Bytes),
        ValueClass::Enum => Ok(Kind::Enum),
        ValueClass::Decimal | ValueClass::Json | ValueClass::Other => {
            Err("whose equal values can have different texts")
        }
    }
}

fn text_kind(column: &SchemaColumn) -> Result<Kind, &'static str> {
    let type_name = column.type_name.as_str();
    let is_padded = type_name.starts_with("character(") || type_name == "bpchar";
    let is_known = is_padded
        || matches!(type_name, "text" | "character varying" | "name")
        || type_name.starts_with("character varying(");
    if !is_known {
        return Err("whose comparison is its own");
    }
    match column.collation.as_deref().map(bare_name) {
        None => Ok(Kind::Text { is_padded }),
        Some(collation) if is_deterministic(collation) => Ok(Kind::Text { is_padded }),
        Some(_) => Err("and its collation may find different texts equal"),
    }
}

/// The last part of a name, without quotes.
fn bare_name(name: &str) -> &str {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.trim_matches('"')
}

/// Collations that come with the server are deterministic (PostgreSQL 15, 24.2.2.4); they are known
/// by the form of their names, as only others can be made under other names.
fn is_deterministic(collation: &str) -> bool {
    let is_locale = || {
        let language = collation
            .split(['_', '-', '.', '@'])
            .next()
            .unwrap_or_default();
        matches!(language.len(), 2 | 3)
            && language.bytes().all(|byte| byte.is_ascii_lowercase())
            && collation.contains(['_', '-'])
    };
    orders_by_bytes(collation)
        || collation == "default"
        || collation.ends_with("-x-icu")
        || is_locale()
}

fn orders_by_bytes(collation: &str) -> bool {
    matches!(collation, "C" | "POSIX" | "ucs_basic")
}

/// See [`Filter::column_value`].
pub(super) fn column_value(column: &SchemaColumn, text: &str) -> Result<String, String> {
    let Ok(kind) = kind(column) else {
        return Ok(text.to_owned());
    };
    match quoted(kind, column, CompareOp::Eq, text) {
        Ok((LiteralForm::Text(canonical), _)) => Ok(canonical),
        Ok(_) => Ok(text.to_owned()),
        Err(refusal) if refusal.help.is_empty() => Err(refusal.message),
        Err(refusal) => Err(refusal.help),
    }
}

/// Why a literal does not fit its column.
struct Refusal {
    message: String,
    help: String,
}

impl Refusal {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Refusal {
        Refusal {
            message: message.into(),
            help: help.into(),
        }
    }
}

fn literal(
    kind: Kind,
    column: &SchemaColumn,
    op: CompareOp,
    written: &OperandKind,
) -> Result<Literal, Refusal> {
    let (form, constant) = match written {
        OperandKind::Null => (LiteralForm::Null, Constant::Null),
        OperandKind::Number(number) => (
            LiteralForm::Number(number.clone()),
            unquoted(kind, column, number)?,
        ),
        OperandKind::Boolean(value) if kind == Kind::Boolean => {
            (LiteralForm::Boolean(*value), Constant::Boolean(*value))
        }
        OperandKind::Text(text) => quoted(kind, column, op, text)?,
        OperandKind::Boolean(_) => {
            return Err(wrong_type(column, "TRUE and FALSE are for boolean columns"));
        }
        OperandKind::Column(_) => return Err(wrong_type(column, "a literal is needed here")),
    };
    Ok(Literal { form, constant })
}

fn wrong_type(column: &SchemaColumn, help: &str) -> Refusal {
    Refusal::new(
        format!(
            "this does not fit `{}`, which is of type {}",
            column.name, column.type_name
        ),
        help,
    )
}

/// A number without quotes.
fn unquoted(kind: Kind, column: &SchemaColumn, number: &str) -> Result<Constant, Refusal> {
    let plain = number::plain_decimal(number)
        .ok_or_else(|| Refusal::new("this number is out of the range of numeric", ""))?;
    match kind {
        Kind::Integer => Ok(plain
            .parse()
            .map_or(Constant::Decimal(plain), Constant::Integer)),
        Kind::Decimal => Ok(Constant::Decimal(plain)),
        Kind::Float(_) => {
            let value: f64 = plain.parse().map_err(|_| wrong_type(column, ""))?;
            if value.is_infinite() || (value == 0.0 && plain != "0" && plain != "-0") {
                return Err(Refusal::new(
                    "this number is out of the range of double precision",
                    "",
                ));
            }
            Ok(Constant::Float(value))
        }
        Kind::Boolean => Err(wrong_type(column, "write TRUE or FALSE")),
        _ => Err(wrong_type(column, "put it in single quotes")),
    }
}

/// A string, read as the column's type reads it.
fn quoted(
    kind: Kind,
    column: &SchemaColumn,
    op: CompareOp,
    text: &str,
) -> Result<(LiteralForm, Constant), Refusal> {
    let same = |constant| Ok((LiteralForm::Text(text.to_owned()), constant));
    let moment = |read: Option<datetime::Moment>, form: &str| match read {
        Some(moment) => Ok((LiteralForm::Text(moment.text), Constant::Moment(moment.at))),
        None => Err(wrong_type(column, form)),
    };
    match kind {
        Kind::Integer => same(Constant::Integer(whole_number(column, text).ok_or_else(
            || wrong_type(column, "a whole number within the type's range is needed"),
        )?)),
        Kind::Decimal => same(Constant::Decimal(
            special_or(text, || number::plain_decimal(text))
                .ok_or_else(|| wrong_type(column, "a number is needed"))?,
        )),
        Kind::Float(width) => same(Constant::Float(
            quoted_float(text, width)
                .ok_or_else(|| wrong_type(column, "a number within the type's range is needed"))?,
        )),
        Kind::Boolean => same(Constant::Boolean(
            compare::boolean(text.as_bytes())
                .ok_or_else(|| wrong_type(column, "write TRUE or FALSE"))?,
        )),
        Kind::Text { .. } => {
            text_fits(column, op, text)?;
            same(Constant::Bytes(text.as_bytes().to_vec()))
        }
        Kind::Enum => {
            if op.needs_order() {
                return Err(Refusal::new(
                    "an enumeration can only be compared with = and <> here",
                    "its order is in the source's catalog; list the labels with IN",
                ));
            }
            same(Constant::Bytes(text.as_bytes().to_vec()))
        }
        Kind::Date => moment(datetime::date_literal(text), "write a date as '2024-01-31'"),
        Kind::Timestamp => moment(
            datetime::timestamp_literal(text),
            "write it as '2024-01-31 10:30:00', without a zone",
        ),
        Kind::TimestampTz => moment(
            datetime::timestamp_tz_literal(text),
            "write it as '2024-01-31 10:30:00+01'; without an offset it is UTC",
        ),
        Kind::Uuid => same(Constant::Uuid(
            compare::uuid_literal(text).ok_or_else(|| wrong_type(column, "a UUID is needed"))?,
        )),
        Kind::Bytes => {
            let lower = text.to_ascii_lowercase();
            match lower.strip_prefix("\\x") {
                Some(hex)
                    if hex.len().is_multiple_of(2)
                        && hex.bytes().all(|b| b.is_ascii_hexdigit()) =>
                {
                    Ok((
                        LiteralForm::Text(lower.clone()),
                        Constant::Bytes(lower.into_bytes()),
                    ))
                }
                _ => Err(wrong_type(column, "write bytes as '\\xdeadbeef'")),
            }
        }
        Kind::Opaque => Err(wrong_type(column, "only IS NULL is possible")),
    }
}

fn whole_number(column: &SchemaColumn, text: &str) -> Option<i64> {
    let value: i64 = text
        .strip_prefix('+')
        .map_or_else(|| text.parse().ok(), |_| None)?;
    let fits = match column.type_name.as_str() {
        "smallint" => i16::try_from(value).is_ok(),
        "integer" => i32::try_from(value).is_ok(),
        _ => true,
    };
    fits.then_some(value)
}

fn special_or(text: &str, number: impl FnOnce() -> Option<String>) -> Option<String> {
    match text {
        "NaN" | "Infinity" | "-Infinity" => Some(text.to_owned()),
        _ => number(),
    }
}

fn quoted_float(text: &str, width: FloatWidth) -> Option<f64> {
    match text {
        "NaN" => return Some(f64::NAN),
        "Infinity" => return Some(f64::INFINITY),
        "-Infinity" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let plain = number::plain_decimal(text)?;
    let value = number::float(plain.as_bytes(), width)?;
    let is_rounded_to_zero = value == 0.0 && plain != "0" && plain != "-0";
    (!value.is_infinite() && !is_rounded_to_zero).then_some(value)
}

fn text_fits(column: &SchemaColumn, op: CompareOp, text: &str) -> Result<(), Refusal> {
    if column.type_name == "name" && text.len() > 63 {
        return Err(Refusal::new("a name has at most 63 bytes", ""));
    }
    if !op.needs_order() {
        return Ok(());
    }
    let orders = match column.collation.as_deref().map(bare_name) {
        Some(collation) => orders_by_bytes(collation),
        None => column.type_name == "name",
    };
    if !orders {
        return Err(Refusal::new(
            format!(
                "the order of `{}` is that of a locale, which the stream cannot repeat",
                column.name
            ),
            "= <> IN and LIKE are possible; < and > only with COLLATE \"C\" in the column's definition",
        ));
    }
    if !text.is_ascii() {
        return Err(Refusal::new(
            "the order of text beyond ASCII depends on the source's encoding",
            "compare with ASCII text",
        ));
    }
    Ok(())
}
