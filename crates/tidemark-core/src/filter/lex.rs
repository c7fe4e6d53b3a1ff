//! Words of the filter language: text in, tokens with places out.

use std::ops::Range;

use super::FilterProblem;

/// One word.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) span: Range<usize>,
}

/// What a word is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    /// An identifier without quotes, folded to lower case as PostgreSQL does (ASCII only), or a
    /// keyword.
    Word(String),
    /// An identifier in double quotes.
    Quoted(String),
    /// A number, as written.
    Number(String),
    /// A string in single quotes, its `''` undone.
    Text(String),
    /// `=`, `<>`, `<=`, `(`, `,`, `-`, …
    Symbol(&'static str),
    /// The end.
    End,
}

/// Longest first where one begins with another.
const SYMBOLS: [&str; 14] = [
    "<>", "!=", "<=", ">=", "::", "==", "||", "<", ">", "=", "(", ")", ",", ".",
];

/// Cuts a text into words; stops at the first that is not one.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, FilterProblem> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next_token()?;
        let is_end = token.kind == TokenKind::End;
        tokens.push(token);
        if is_end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next_token(&mut self) -> Result<Token, FilterProblem> {
        let blank = self.rest().len()
            - self
                .rest()
                .trim_start_matches([' ', '\t', '\n', '\r', '\x0c'])
                .len();
        self.at += blank;
        let start = self.at;
        let kind = self.kind()?;
        Ok(Token {
            kind,
            span: start..self.at,
        })
    }

    fn kind(&mut self) -> Result<TokenKind, FilterProblem> {
        let mut characters = self.rest().chars();
        let Some(first) = characters.next() else {
            return Ok(TokenKind::End);
        };
        let second = characters.next();
        match (first, second) {
            ('-', Some('-')) | ('/', Some('*')) => {
                Err(self.problem(2, "a comment has no place in a filter"))
            }
            ('e' | 'E' | 'b' | 'B' | 'x' | 'X' | 'n' | 'N', Some('\''))
            | ('u' | 'U', Some('&')) => {
                Err(self.problem(2, "only plain strings in single quotes are possible here"))
            }
            ('\'', _) => self.quoted('\'', "string").map(TokenKind::Text),
            ('"', _) => {
                let name = self.quoted('"', "name")?;
                if name.is_empty() {
                    return Err(FilterProblem::new(
                        self.at - 2..self.at,
                        "a name in double quotes cannot be empty",
                    ));
                }
                Ok(TokenKind::Quoted(name))
            }
            ('0'..='9', _) | ('.', Some('0'..='9')) => self.number(),
            ('-' | '+', _) => {
                self.at += 1;
                Ok(TokenKind::Symbol(if first == '-' { "-" } else { "+" }))
            }
            _ if is_word_start(first) => {
                let length = self
                    .rest()
                    .find(|c| !is_word(c))
                    .unwrap_or(self.rest().len());
                let word = self
                    .rest()
                    .get(..length)
                    .unwrap_or_default()
                    .to_ascii_lowercase();
                self.at += length;
                Ok(TokenKind::Word(word))
            }
            _ => match SYMBOLS
                .iter()
                .find(|symbol| self.rest().starts_with(**symbol))
            {
                Some(symbol) => {
                    self.at += symbol.len();
                    Ok(TokenKind::Symbol(symbol))
                }
                None => Err(self
                    .problem(
                        first.len_utf8(),
                        "this character has no meaning in a filter",
                    )
                    .help(
                        if matches!(first, '*' | '/' | '%' | '~' | '@' | '#' | '&' | '|' | '^') {
                            "there is no arithmetic and there are no other operators"
                        } else {
                            ""
                        },
                    )),
            },
        }
    }

    /// Reads to the closing quote; a doubled quote stands for one.
    fn quoted(&mut self, quote: char, what: &str) -> Result<String, FilterProblem> {
        let start = self.at;
        let mut value = String::new();
        let mut characters = self.rest().char_indices().skip(1).peekable();
        while let Some((offset, character)) = characters.next() {
            if character == '\0' {
                return Err(FilterProblem::new(
                    start + offset..start + offset + 1,
                    "a database has no text with a zero byte",
                ));
            }
            if character != quote {
                value.push(character);
                continue;
            }
            if characters.next_if(|(_, next)| *next == quote).is_none() {
                self.at = start + offset + 1;
                return Ok(value);
            }
            value.push(quote);
        }
        Err(FilterProblem::new(
            start..self.text.len(),
            format!("this {what} is not closed"),
        ))
    }

    fn number(&mut self) -> Result<TokenKind, FilterProblem> {
        let text = self.rest();
        let digits = |from: usize| {
            let rest = text.get(from..).unwrap_or_default();
            rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len()
        };
        let mut length = digits(0);
        if text.get(length..).unwrap_or_default().starts_with('.') {
            length += 1;
            length += digits(length);
        }
        let exponent = text.get(length..).unwrap_or_default();
        if exponent.starts_with(['e', 'E']) {
            let sign = usize::from(
                exponent
                    .get(1..)
                    .unwrap_or_default()
                    .starts_with(['+', '-']),
            );
            let count = digits(length + 1 + sign);
            if count > 0 {
                length += 1 + sign + count;
            }
        }
        let number = text.get(..length).unwrap_or_default().to_owned();
        let follows = text.get(length..).unwrap_or_default();
        if follows.starts_with(|c| is_word(c) || c == '.') {
            let junk = follows
                .find(|c| !is_word(c) && c != '.')
                .unwrap_or(follows.len());
            return Err(self.problem(length + junk, "this is not a number"));
        }
        self.at += length;
        Ok(TokenKind::Number(number))
    }

    fn problem(&self, length: usize, message: &str) -> FilterProblem {
        FilterProblem::new(self.at..self.at + length, message)
    }
}

/// PostgreSQL 15, 4.1.1: letters (any beyond ASCII) and underscores, then digits and `$` too.
fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_word(c: char) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == '$'
}
