//! Row filters: the `where` of a table, in a small SQL expression language.
//!
//! # What it must hold
//! The load and verification let the source evaluate the filter in SQL; the stream evaluates it
//! here, on the text forms of the log. Both must give the same answer for every row, or a row is in
//! the target that the other way would have left out. So the language is what can be evaluated
//! identically, and everything else is refused when the file is read, with the place and the reason:
//!
//! * columns of the row, literals (`'text'`, numbers, `TRUE`, `FALSE`, `NULL`), `= <> != < <= > >=`,
//!   `[NOT] IN (…)`, `[NOT] BETWEEN … AND …`, `[NOT] LIKE`, `IS [NOT] NULL`,
//!   `IS [NOT] DISTINCT FROM`, `AND`, `OR`, `NOT`, parentheses; SQL's precedence and three-valued
//!   logic;
//! * a literal takes the type of the column that it is compared with, as in PostgreSQL
//!   (documentation 15, 10.2); a number without quotes keeps its own (so that `0.1` is not equal to
//!   the `real` 0.1, as there);
//! * dates and times only in ISO form, since the rest depends on settings; an instant without offset
//!   is UTC, which is the zone of all our sessions;
//! * text has an order only where its collation is `C` or `POSIX` and the literal is ASCII (then the
//!   order of bytes is the same in every encoding); equality needs a deterministic collation;
//! * values of other types (JSON, intervals, arrays, …) can be compared with `IS NULL` alone, since
//!   equal values may have different texts; enumerations with equality too.
//!
//! # Updates that cross the filter
//! A row that an update moves into the filter must appear in the target, one that moves out must
//! go. What the pipeline does with the answers for the old and the new row:
//!
//! | old image | old | new | on the target |
//! |--|--|--|--|
//! | whole row | true | true | update |
//! | whole row | true | not true | delete |
//! | whole row | not true | true | insert |
//! | whole row | not true | not true | nothing |
//! | key or none | | true | upsert: the row may be there or not |
//! | key or none | | not true | delete, if it is there |
//!
//! A delete without the whole old row is a delete if it is there. [`Truth::Undecided`] means that a
//! value was left out by the log; what its old value said still holds, since it did not change.
//!
//! Neighbours: the mapping binds a filter to a table ([`Filter::bind`]) and reads it for the stream
//! ([`crate::mapping::Projection`]); the PostgreSQL crate renders [`Expr`] as SQL.

use std::ops::Range;

use crate::schema::{Column as SchemaColumn, TableSchema};

mod bind;
mod compare;
mod datetime;
mod lex;
mod like;
mod literal;
mod number;
mod parse;

#[cfg(test)]
mod tests;

use compare::{Constant, Kind};
pub use like::LikePattern;

/// A `where` bound to the columns of one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// The text as the pipeline file has it.
    pub text: String,
    /// What it says.
    pub expr: Expr,
    /// Which columns it looks at: positions in the source's [`TableSchema::columns`], each once.
    pub columns: Vec<usize>,
}

/// An expression over the columns of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `column op operand`.
    Compare {
        /// Left of the operator.
        column: Column,
        /// The operator.
        op: CompareOp,
        /// Right of it.
        with: Operand,
    },
    /// `column IS [NOT] DISTINCT FROM operand`.
    Distinct {
        /// Left.
        column: Column,
        /// Right.
        with: Operand,
        /// `IS NOT DISTINCT FROM`.
        negated: bool,
    },
    /// `column [NOT] IN (…)`.
    In {
        /// Left.
        column: Column,
        /// The list; may hold NULL.
        list: Vec<Literal>,
        /// `NOT IN`.
        negated: bool,
    },
    /// `column [NOT] LIKE pattern`.
    Like {
        /// Left.
        column: Column,
        /// Right.
        pattern: LikePattern,
        /// `NOT LIKE`.
        negated: bool,
    },
    /// `column IS [NOT] NULL`.
    IsNull {
        /// Of which column.
        column: Column,
        /// `IS NOT NULL`.
        negated: bool,
    },
    /// A boolean column by itself.
    Flag(Column),
    /// `TRUE`, `FALSE`, `NULL`.
    Constant(Option<bool>),
    /// `NOT`.
    Not(Box<Expr>),
    /// All of them, at least two.
    And(Vec<Expr>),
    /// Any of them, at least two.
    Or(Vec<Expr>),
}

/// A column that a filter looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    /// Position in the source's [`TableSchema::columns`].
    pub index: usize,
    /// Position in [`Filter::columns`].
    pub slot: usize,
    kind: Kind,
}

/// What a column is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// Another column of the same kind.
    Column(Column),
    /// A literal.
    Literal(Literal),
}

/// A literal, as it goes into SQL.
#[derive(Clone, Debug, PartialEq)]
pub struct Literal {
    /// Its form.
    pub form: LiteralForm,
    constant: Constant,
}

/// How a literal is written; SQL gives it the type of the column beside it by these very rules.
#[derive(Clone, Debug, PartialEq)]
pub enum LiteralForm {
    /// A number without quotes.
    Number(String),
    /// A string, not yet quoted; moments are in the form that the server prints in UTC.
    Text(String),
    /// `TRUE` or `FALSE`.
    Boolean(bool),
    /// `NULL`.
    Null,
}

/// The six comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// `=`
    Eq,
    /// `<>`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

impl CompareOp {
    /// As SQL writes it.
    pub fn sql(self) -> &'static str {
        match self {
            CompareOp::Eq => "=",
            CompareOp::Ne => "<>",
            CompareOp::Lt => "<",
            CompareOp::Le => "<=",
            CompareOp::Gt => ">",
            CompareOp::Ge => ">=",
        }
    }

    /// The same comparison with its sides swapped.
    fn flipped(self) -> CompareOp {
        match self {
            CompareOp::Lt => CompareOp::Gt,
            CompareOp::Le => CompareOp::Ge,
            CompareOp::Gt => CompareOp::Lt,
            CompareOp::Ge => CompareOp::Le,
            same => same,
        }
    }

    /// Whether it asks for more than equality.
    fn needs_order(self) -> bool {
        !matches!(self, CompareOp::Eq | CompareOp::Ne)
    }
}

/// What is wrong with a filter, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterProblem {
    /// Bytes of the filter's text.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
}

impl FilterProblem {
    fn new(span: Range<usize>, message: impl Into<String>) -> FilterProblem {
        FilterProblem {
            span,
            message: message.into(),
            help: String::new(),
        }
    }

    fn help(mut self, help: impl Into<String>) -> FilterProblem {
        self.help = help.into();
        self
    }
}

/// What a filter says of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// The row is carried.
    True,
    /// It is not.
    False,
    /// SQL's unknown: not carried either.
    Unknown,
    /// It depends on a value that the log left out (or that is not of the column's type any more).
    Undecided,
}

/// A value as the filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// SQL NULL.
    Null,
    /// Left out by the log.
    Missing,
    /// The text form.
    Text(&'a [u8]),
}

impl Filter {
    /// Looks whether a text is of the language at all, before any table is known.
    pub fn check_syntax(text: &str) -> Result<(), FilterProblem> {
        parse::parse(text).map(|_| ())
    }

    /// Binds a text to the columns of a table. All problems are given at once.
    pub fn bind(text: &str, table: &TableSchema) -> Result<Filter, Vec<FilterProblem>> {
        let node = parse::parse(text).map_err(|problem| vec![problem])?;
        bind::bind(text, &node, table)
    }

    /// A value as a literal of a column, in the form that the server prints: what a fixed value of
    /// the column may be. The error says what is needed instead. Values of types that filters cannot
    /// compare are taken as they stand.
    pub(crate) fn column_value(column: &SchemaColumn, text: &str) -> Result<String, String> {
        literal::column_value(column, text)
    }

    /// What the filter says of a row whose values are read by their position in
    /// [`Filter::columns`]. Allocates nothing.
    pub fn decide<'a>(&self, read: impl Fn(usize) -> Input<'a>) -> Truth {
        self.expr.decide(&read)
    }
}

impl Expr {
    fn decide<'a, R: Fn(usize) -> Input<'a>>(&self, read: &R) -> Truth {
        match self {
            Expr::Compare { column, op, with } => {
                let answer = with.compare(*column, read);
                answer.map_or_else(|other| other, |order| Truth::from(op.holds(order)))
            }
            Expr::Distinct {
                column,
                with,
                negated,
            } => with.is_distinct(*column, read).negate_if(*negated),
            Expr::In {
                column,
                list,
                negated,
            } => {
                let value = read(column.slot);
                is_in(*column, value, list).negate_if(*negated)
            }
            Expr::Like {
                column,
                pattern,
                negated,
            } => match read(column.slot) {
                Input::Null => Truth::Unknown,
                Input::Missing => Truth::Undecided,
                Input::Text(text) => Truth::from(pattern.matches(text)).negate_if(*negated),
            },
            Expr::IsNull { column, negated } => match read(column.slot) {
                Input::Null => Truth::True.negate_if(*negated),
                // Only large values are left out, so it is not NULL.
                Input::Missing | Input::Text(_) => Truth::False.negate_if(*negated),
            },
            Expr::Flag(column) => match read(column.slot) {
                Input::Null => Truth::Unknown,
                Input::Missing => Truth::Undecided,
                Input::Text(text) => compare::boolean(text).map_or(Truth::Undecided, Truth::from),
            },
            Expr::Constant(constant) => constant.map_or(Truth::Unknown, Truth::from),
            Expr::Not(inner) => inner.decide(read).negate_if(true),
            Expr::And(terms) => terms.iter().fold(Truth::True, |so_far, term| match so_far {
                Truth::False => Truth::False,
                _ => so_far.and(term.decide(read)),
            }),
            Expr::Or(terms) => terms
                .iter()
                .fold(Truth::False, |so_far, term| match so_far {
                    Truth::True => Truth::True,
                    _ => so_far
                        .negate_if(true)
                        .and(term.decide(read).negate_if(true))
                        .negate_if(true),
                }),
        }
    }
}

impl CompareOp {
    fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            CompareOp::Eq => order.is_eq(),
            CompareOp::Ne => order.is_ne(),
            CompareOp::Lt => order.is_lt(),
            CompareOp::Le => order.is_le(),
            CompareOp::Gt => order.is_gt(),
            CompareOp::Ge => order.is_ge(),
        }
    }
}

impl Operand {
    /// The order of column and operand, or what follows from a NULL or a missing value.
    fn compare<'a, R: Fn(usize) -> Input<'a>>(
        &self,
        column: Column,
        read: &R,
    ) -> Result<std::cmp::Ordering, Truth> {
        let left = match read(column.slot) {
            Input::Null => return Err(Truth::Unknown),
            value => value,
        };
        match self {
            Operand::Literal(literal) => match left {
                Input::Text(text) => column.kind.compare(text, &literal.constant),
                _ => None,
            },
            Operand::Column(other) => match (left, read(other.slot)) {
                (_, Input::Null) => return Err(Truth::Unknown),
                (Input::Text(left), Input::Text(right)) => column.kind.compare_values(left, right),
                _ => None,
            },
        }
        .ok_or(Truth::Undecided)
    }

    /// `IS DISTINCT FROM`: NULL is a value like any other.
    fn is_distinct<'a, R: Fn(usize) -> Input<'a>>(&self, column: Column, read: &R) -> Truth {
        let is_null = |input: Input<'_>| matches!(input, Input::Null);
        let left_is_null = is_null(read(column.slot));
        let right_is_null = match self {
            Operand::Literal(literal) => literal.form == LiteralForm::Null,
            Operand::Column(other) => is_null(read(other.slot)),
        };
        match (left_is_null, right_is_null) {
            (true, true) => Truth::False,
            (true, false) | (false, true) => Truth::True,
            (false, false) => self
                .compare(column, read)
                .map_or_else(|other| other, |order| Truth::from(order.is_ne())),
        }
    }
}

fn is_in(column: Column, value: Input<'_>, list: &[Literal]) -> Truth {
    let text = match value {
        Input::Null => return Truth::Unknown,
        Input::Missing => return Truth::Undecided,
        Input::Text(text) => text,
    };
    let mut answer = Truth::False;
    for literal in list {
        if literal.form == LiteralForm::Null {
            answer = Truth::Unknown;
            continue;
        }
        match column.kind.compare(text, &literal.constant) {
            Some(order) if order.is_eq() => return Truth::True,
            Some(_) => {}
            None => return Truth::Undecided,
        }
    }
    answer
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Truth {
        if holds { Truth::True } else { Truth::False }
    }
}

impl Truth {
    fn negate_if(self, negated: bool) -> Truth {
        match (self, negated) {
            (Truth::True, true) => Truth::False,
            (Truth::False, true) => Truth::True,
            (same, _) => same,
        }
    }

    /// False decides alone; otherwise what is undecided stays so, since it may turn out false.
    fn and(self, other: Truth) -> Truth {
        match (self, other) {
            (Truth::False, _) | (_, Truth::False) => Truth::False,
            (Truth::Undecided, _) | (_, Truth::Undecided) => Truth::Undecided,
            (Truth::Unknown, _) | (_, Truth::Unknown) => Truth::Unknown,
            (Truth::True, Truth::True) => Truth::True,
        }
    }
}

/// The order of two values of a class by their text forms, for the classes whose order is the same
/// on every server; `None` for the others, and for text that is not of the class.
pub fn compare(
    class: crate::schema::ValueClass,
    left: &[u8],
    right: &[u8],
) -> Option<std::cmp::Ordering> {
    use crate::schema::ValueClass;
    let kind = match class {
        ValueClass::Integer => compare::Kind::Integer,
        ValueClass::Text => compare::Kind::Text { is_padded: false },
        ValueClass::Date => compare::Kind::Date,
        ValueClass::Timestamp => compare::Kind::Timestamp,
        ValueClass::TimestampTz => compare::Kind::TimestampTz,
        ValueClass::Uuid => compare::Kind::Uuid,
        ValueClass::Bytes => compare::Kind::Bytes,
        _ => return None,
    };
    kind.compare_values(left, right)
}
