//! Names become columns, literals take their column's type ([`super::literal`]), and what the stream
//! could not evaluate exactly as the source does is refused, with the reason.

use std::ops::Range;

use super::compare::{Constant, Kind};
use super::literal::{Refusal, kind, literal, quoted_float};
use super::number::FloatWidth;
use super::parse::{Node, Operand as Side, OperandKind};
use super::{
    Column, CompareOp, Expr, Filter, FilterProblem, LikePattern, Literal, LiteralForm, Operand,
};
use crate::config::problem::suggestion;
use crate::schema::{ColumnDefault, TableSchema};

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
