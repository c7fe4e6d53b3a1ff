//! Which columns can be compared, and what a literal beside one of them is.

use super::compare::{self, Constant, Kind};
use super::datetime;
use super::number::{self, FloatWidth};
use super::parse::OperandKind;
use super::{CompareOp, Literal, LiteralForm};
use crate::schema::{Column as SchemaColumn, ValueClass};

/// By which rules a column's values are compared; the error ends a sentence that begins with type.
pub(super) fn kind(column: &SchemaColumn) -> Result<Kind, &'static str> {
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

/// See [`super::Filter::column_value`].
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
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) help: String,
}

impl Refusal {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Refusal {
        Refusal {
            message: message.into(),
            help: help.into(),
        }
    }
}

/// What a literal beside a column is.
pub(super) fn literal(
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

pub(super) fn quoted_float(text: &str, width: FloatWidth) -> Option<f64> {
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
