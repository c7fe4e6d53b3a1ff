//! From words to a tree, by SQL's precedence (PostgreSQL 15, table 4.2): comparison and `IS` bind
//! tighter than `NOT`, that tighter than `AND`, that tighter than `OR`; comparisons do not chain.

use std::ops::Range;

use super::lex::{Token, TokenKind, tokens};
use super::{CompareOp, FilterProblem};

/// A tree that knows names but not yet columns.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Compare {
        op: CompareOp,
        left: Operand,
        right: Operand,
    },
    Distinct {
        left: Operand,
        right: Operand,
        negated: bool,
    },
    In {
        operand: Operand,
        list: Vec<Operand>,
        negated: bool,
    },
    Between {
        operand: Operand,
        low: Operand,
        high: Operand,
        negated: bool,
    },
    Like {
        operand: Operand,
        pattern: Operand,
        negated: bool,
    },
    IsNull {
        operand: Operand,
        negated: bool,
    },
    Bare(Operand),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// A column or a literal, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Operand {
    pub(super) kind: OperandKind,
    pub(super) span: Range<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum OperandKind {
    Column(String),
    /// As written, with its sign.
    Number(String),
    Text(String),
    Boolean(bool),
    Null,
}

/// A filter longer than this is refused; so is one that nests deeper or lists more.
const BYTES_MAX: usize = 64 * 1024;
const DEPTH_MAX: usize = 50;
const LIST_MAX: usize = 1_000;

/// Words that PostgreSQL takes for something else than a column when they are not quoted
/// (PostgreSQL 15, appendix C and 9.26, 9.9.5).
const FUNCTION_WORDS: [&str; 14] = [
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "localtime",
    "localtimestamp",
    "session_user",
    "system_user",
    "user",
    "row",
];

pub(super) fn parse(text: &str) -> Result<Node, FilterProblem> {
    if text.len() > BYTES_MAX {
        return Err(FilterProblem::new(
            0..text.len(),
            format!("a filter may have at most {BYTES_MAX} bytes"),
        ));
    }
    let tokens = tokens(text)?;
    if tokens.len() == 1 {
        return Err(FilterProblem::new(0..text.len(), "the filter is empty"));
    }
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
    };
    let node = parser.disjunction()?;
    let last = parser.peek();
    match &last.kind {
        TokenKind::End => Ok(node),
        TokenKind::Symbol("<" | ">" | "=" | "<>" | "!=" | "<=" | ">=") => Err(FilterProblem::new(
            last.span.clone(),
            "comparisons cannot be chained",
        )
        .help("join two comparisons with AND")),
        _ => Err(FilterProblem::new(last.span.clone(), "expected AND, OR or the end")
            .help("a filter is one condition: there is nothing to separate with `;`, no sub-select and no arithmetic")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens
            .get(self.at)
            .unwrap_or_else(|| self.tokens.last().expect("the end is a token"))
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is_it = matches!(&self.peek().kind, TokenKind::Word(found) if found == word);
        self.at += usize::from(is_it);
        is_it
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let is_it = matches!(&self.peek().kind, TokenKind::Symbol(found) if *found == symbol);
        self.at += usize::from(is_it);
        is_it
    }

    fn expect_word(&mut self, word: &str) -> Result<(), FilterProblem> {
        if self.take_word(word) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("expected {}", word.to_uppercase())))
        }
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<(), FilterProblem> {
        if self.take_symbol(symbol) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("expected `{symbol}`")))
        }
    }

    fn unexpected(&self, message: &str) -> FilterProblem {
        FilterProblem::new(self.peek().span.clone(), message)
    }

    fn deeper(&mut self) -> Result<(), FilterProblem> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.unexpected(&format!("a filter may nest at most {DEPTH_MAX} deep")));
        }
        Ok(())
    }

    fn disjunction(&mut self) -> Result<Node, FilterProblem> {
        let mut terms = vec![self.conjunction()?];
        while self.take_word("or") {
            terms.push(self.conjunction()?);
        }
        Ok(joined(terms, Node::Or))
    }

    fn conjunction(&mut self) -> Result<Node, FilterProblem> {
        let mut terms = vec![self.negation()?];
        while self.take_word("and") {
            terms.push(self.negation()?);
        }
        Ok(joined(terms, Node::And))
    }

    fn negation(&mut self) -> Result<Node, FilterProblem> {
        if !self.take_word("not") {
            return self.predicate();
        }
        self.deeper()?;
        let inner = self.negation()?;
        self.depth -= 1;
        Ok(Node::Not(Box::new(inner)))
    }

    fn predicate(&mut self) -> Result<Node, FilterProblem> {
        if self.take_symbol("(") {
            self.deeper()?;
            let inner = self.disjunction()?;
            self.expect_symbol(")")?;
            self.depth -= 1;
            if let TokenKind::Word(word) = &self.peek().kind
                && matches!(word.as_str(), "is" | "in" | "like" | "between")
            {
                let message = "a condition in parentheses can only be joined with AND or OR";
                return Err(self.unexpected(message));
            }
            return Ok(inner);
        }
        let left = self.operand()?;
        let negated = self.take_word("not");
        if self.take_word("in") {
            return self.list(left, negated);
        }
        if self.take_word("between") {
            return self.between(left, negated);
        }
        if self.take_word("like") {
            return self.like(left, negated);
        }
        if negated {
            return Err(self.unexpected("expected IN, BETWEEN or LIKE after NOT"));
        }
        if self.take_word("is") {
            return self.is(left);
        }
        if let Some(op) = self.comparison()? {
            let right = self.operand()?;
            return Ok(Node::Compare { op, left, right });
        }
        Ok(Node::Bare(left))
    }

    fn comparison(&mut self) -> Result<Option<CompareOp>, FilterProblem> {
        let op = match &self.peek().kind {
            TokenKind::Symbol("=") => CompareOp::Eq,
            TokenKind::Symbol("<>" | "!=") => CompareOp::Ne,
            TokenKind::Symbol("<") => CompareOp::Lt,
            TokenKind::Symbol("<=") => CompareOp::Le,
            TokenKind::Symbol(">") => CompareOp::Gt,
            TokenKind::Symbol(">=") => CompareOp::Ge,
            TokenKind::Symbol("==") => {
                return Err(self
                    .unexpected("there is no such operator")
                    .help("equality is `=`"));
            }
            TokenKind::Symbol("||" | "-" | "+") => {
                return Err(self.unexpected("there is no arithmetic in a filter"));
            }
            TokenKind::Symbol("::") => {
                return Err(self
                    .unexpected("there are no casts in a filter")
                    .help("a literal takes the type of the column it is compared with"));
            }
            TokenKind::Word(word) if matches!(word.as_str(), "ilike" | "similar" | "collate") => {
                return Err(self
                    .unexpected(&format!(
                        "{} is not possible in a filter",
                        word.to_uppercase()
                    ))
                    .help("what it means depends on the server's locale or libraries"));
            }
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(op))
    }

    fn list(&mut self, operand: Operand, negated: bool) -> Result<Node, FilterProblem> {
        self.expect_symbol("(")?;
        let mut list = Vec::new();
        loop {
            if matches!(&self.peek().kind, TokenKind::Word(word) if word == "select") {
                return Err(self.unexpected("there are no sub-selects in a filter"));
            }
            list.push(self.operand()?);
            if list.len() > LIST_MAX {
                return Err(self.unexpected(&format!("a list may have at most {LIST_MAX} values")));
            }
            if !self.take_symbol(",") {
                break;
            }
        }
        self.expect_symbol(")")?;
        Ok(Node::In {
            operand,
            list,
            negated,
        })
    }

    fn between(&mut self, operand: Operand, negated: bool) -> Result<Node, FilterProblem> {
        if let TokenKind::Word(word) = &self.peek().kind
            && (word == "symmetric" || word == "asymmetric")
        {
            return Err(self.unexpected("only plain BETWEEN is possible"));
        }
        let low = self.operand()?;
        self.expect_word("and")?;
        let high = self.operand()?;
        Ok(Node::Between {
            operand,
            low,
            high,
            negated,
        })
    }

    fn like(&mut self, operand: Operand, negated: bool) -> Result<Node, FilterProblem> {
        let pattern = self.operand()?;
        if matches!(&self.peek().kind, TokenKind::Word(word) if word == "escape") {
            return Err(self
                .unexpected("ESCAPE is not possible")
                .help("a backslash before `%`, `_` or `\\` takes their meaning away"));
        }
        Ok(Node::Like {
            operand,
            pattern,
            negated,
        })
    }

    fn is(&mut self, left: Operand) -> Result<Node, FilterProblem> {
        let negated = self.take_word("not");
        if self.take_word("null") {
            return Ok(Node::IsNull {
                operand: left,
                negated,
            });
        }
        if self.take_word("distinct") {
            self.expect_word("from")?;
            let right = self.operand()?;
            return Ok(Node::Distinct {
                left,
                right,
                negated,
            });
        }
        let negation = if negated { " NOT" } else { "" };
        Err(self
            .unexpected(&format!(
                "expected NULL or DISTINCT FROM after IS{negation}"
            ))
            .help("for a boolean write `flag`, `NOT flag` or `flag IS DISTINCT FROM TRUE`"))
    }

    fn operand(&mut self) -> Result<Operand, FilterProblem> {
        let token = self.advance();
        let span = token.span.clone();
        let kind = match token.kind {
            TokenKind::Text(text) => OperandKind::Text(text),
            TokenKind::Number(number) => OperandKind::Number(number),
            TokenKind::Symbol(sign @ ("-" | "+")) => return self.signed(sign, span.start),
            TokenKind::Quoted(name) => self.column(name, &span)?,
            TokenKind::Word(word) => self.word(word, &span)?,
            TokenKind::Symbol("(") => {
                return Err(FilterProblem::new(span, "expected a column or a literal")
                    .help("parentheses go around conditions, not around values"));
            }
            TokenKind::Symbol(_) | TokenKind::End => {
                return Err(FilterProblem::new(span, "expected a column or a literal"));
            }
        };
        Ok(Operand { kind, span })
    }

    fn signed(&mut self, sign: &str, start: usize) -> Result<Operand, FilterProblem> {
        let token = self.advance();
        let TokenKind::Number(number) = token.kind else {
            return Err(FilterProblem::new(
                start..token.span.end,
                "expected a number after the sign",
            )
            .help("there is no arithmetic in a filter"));
        };
        let number = if sign == "-" {
            format!("-{number}")
        } else {
            number
        };
        Ok(Operand {
            kind: OperandKind::Number(number),
            span: start..token.span.end,
        })
    }

    fn word(&mut self, word: String, span: &Range<usize>) -> Result<OperandKind, FilterProblem> {
        match word.as_str() {
            "true" => return Ok(OperandKind::Boolean(true)),
            "false" => return Ok(OperandKind::Boolean(false)),
            "null" => return Ok(OperandKind::Null),
            "and" | "or" | "not" | "in" | "is" | "like" | "between" | "distinct" | "from" => {
                return Err(
                    FilterProblem::new(span.clone(), "expected a column or a literal")
                        .help("a column of this name is written in double quotes"),
                );
            }
            "select" | "case" | "exists" | "any" | "all" | "array" | "cast" | "interval" => {
                return Err(FilterProblem::new(
                    span.clone(),
                    format!("{} is not possible in a filter", word.to_uppercase()),
                )
                .help("a filter compares columns of the row with literals"));
            }
            _ => {}
        }
        if FUNCTION_WORDS.contains(&word.as_str()) {
            return Err(FilterProblem::new(
                span.clone(),
                format!("`{word}` without quotes is not a column in SQL"),
            )
            .help(format!(
                "for a column of this name write \"{word}\"; functions are not possible"
            )));
        }
        if let TokenKind::Text(_) = self.peek().kind {
            return Err(FilterProblem::new(
                span.clone(),
                "a literal has no type in front of it here",
            )
            .help("a literal takes the type of the column it is compared with"));
        }
        self.column(word, span)
    }

    fn column(&self, name: String, span: &Range<usize>) -> Result<OperandKind, FilterProblem> {
        let whole = span.start..self.peek().span.end;
        match self.peek().kind {
            TokenKind::Symbol("(") => Err(FilterProblem::new(
                span.clone(),
                "there are no functions in a filter",
            )
            .help("the stream cannot promise to compute what the source's functions compute")),
            TokenKind::Symbol(".") => Err(FilterProblem::new(
                whole,
                "a column is named without its table",
            )),
            _ => Ok(OperandKind::Column(name)),
        }
    }
}

fn joined(mut terms: Vec<Node>, join: fn(Vec<Node>) -> Node) -> Node {
    if terms.len() == 1 {
        terms.pop().expect("there is one")
    } else {
        join(terms)
    }
}
