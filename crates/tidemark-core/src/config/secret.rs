//! Secrets: values that never show themselves, and the references by which a file names them.
//!
//! `${env:NAME}` is an environment variable, `${file:path}` a file (relative to the pipeline file;
//! one trailing newline is dropped), `${cred:NAME}` a systemd credential (a file of that name in
//! `$CREDENTIALS_DIRECTORY`, systemd.exec(5), "Credentials"). A value may hold several references
//! and plain text around them; `$${` stands for a literal `${`. What cannot be resolved is named,
//! its value never.
//!
//! Core reads neither files nor the environment: the binary brings a [`Surroundings`].

use std::fmt;

/// A text that prints as `***`, whatever prints it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself; for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What reading a pipeline file asks of the world around it.
pub trait Surroundings {
    /// An environment variable; `None` where it is not set.
    fn env(&self, name: &str) -> Option<String>;

    /// The content of a file, the path as the pipeline file has it; the error is the system's words.
    fn file(&self, path: &str) -> Result<String, String>;

    /// The content of a systemd credential; the error says what is missing.
    fn credential(&self, name: &str) -> Result<String, String>;
}

/// Surroundings in which nothing can be found: for looking at a file's form alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Surroundings for Nothing {
    fn env(&self, _name: &str) -> Option<String> {
        None
    }

    fn file(&self, _path: &str) -> Result<String, String> {
        Err("not looked for".to_owned())
    }

    fn credential(&self, _name: &str) -> Result<String, String> {
        Err("not looked for".to_owned())
    }
}

/// One piece of a value that may hold references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// As it stands.
    Plain(&'a str),
    /// A literal `${`.
    Dollar,
    /// `${kind:name}`.
    Reference {
        /// `env`, `file` or `cred`.
        kind: &'a str,
        /// What follows the colon.
        name: &'a str,
    },
}

/// Cuts a value into its pieces; an error says what is wrong with a reference.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            found.push(Piece::Plain(before));
            found.push(Piece::Dollar);
            rest = after;
            continue;
        }
        found.push(Piece::Plain(before));
        let Some((inside, after)) = after.split_once('}') else {
            return Err("a reference `${` is not closed by `}`".to_owned());
        };
        match inside.split_once(':') {
            Some((kind @ ("env" | "file" | "cred"), name)) if !name.trim().is_empty() => {
                found.push(Piece::Reference { kind, name });
            }
            // What stands inside may be part of a password; it is not echoed.
            _ => {
                return Err(
                    "a reference is written `${env:NAME}`, `${file:path}` or `${cred:NAME}`; \
                     a literal `${` is written `$${`"
                        .to_owned(),
                );
            }
        }
        rest = after;
    }
    found.push(Piece::Plain(rest));
    found.retain(|piece| *piece != Piece::Plain(""));
    Ok(found)
}

/// Puts values in the place of references; all that are missing are named.
pub(crate) fn resolve(text: &str, surroundings: &dyn Surroundings) -> Result<Secret, Vec<String>> {
    let pieces = pieces(text).map_err(|problem| vec![problem])?;
    let mut value = String::new();
    let mut missing = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Plain(text) => value.push_str(text),
            Piece::Dollar => value.push_str("${"),
            Piece::Reference { kind, name } => match look_up(kind, name, surroundings) {
                Ok(found) => value.push_str(&found),
                Err(why) => missing.push(why),
            },
        }
    }
    if missing.is_empty() {
        Ok(Secret(value))
    } else {
        Err(missing)
    }
}

fn look_up(kind: &str, name: &str, surroundings: &dyn Surroundings) -> Result<String, String> {
    let without_newline = |text: String| {
        let text = text.strip_suffix('\n').unwrap_or(&text);
        text.strip_suffix('\r').unwrap_or(text).to_owned()
    };
    match kind {
        "env" => surroundings
            .env(name)
            .ok_or_else(|| format!("environment variable {name} is not set")),
        "file" => surroundings
            .file(name)
            .map(without_newline)
            .map_err(|why| format!("file {name}: {why}")),
        _ => surroundings
            .credential(name)
            .map(without_newline)
            .map_err(|why| format!("systemd credential {name}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World;

    impl Surroundings for World {
        fn env(&self, name: &str) -> Option<String> {
            (name == "PW").then(|| "s3cret".to_owned())
        }

        fn file(&self, path: &str) -> Result<String, String> {
            match path {
                "pw" => Ok("from file\r\n".to_owned()),
                _ => Err("No such file or directory".to_owned()),
            }
        }

        fn credential(&self, name: &str) -> Result<String, String> {
            match name {
                "pw" => Ok("from systemd\n".to_owned()),
                _ => Err("CREDENTIALS_DIRECTORY is not set".to_owned()),
            }
        }
    }

    #[test]
    fn references_are_replaced_and_text_around_them_stays() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("${env:PW}", "s3cret"),
            ("a${env:PW}b${file:pw}", "as3cretbfrom file"),
            ("${cred:pw}", "from systemd"),
            ("$${env:PW}", "${env:PW}"),
            ("pa$$word", "pa$$word"),
        ] {
            assert_eq!(resolve(text, &World).unwrap().expose(), expected, "{text}");
        }
    }

    #[test]
    fn every_missing_reference_is_named() {
        let missing = resolve("${env:NOPE}${file:gone}${cred:x}", &World).unwrap_err();
        assert_eq!(
            missing,
            [
                "environment variable NOPE is not set",
                "file gone: No such file or directory",
                "systemd credential x: CREDENTIALS_DIRECTORY is not set",
            ]
        );
    }

    #[test]
    fn malformed_references_are_refused_without_echo() {
        for bad in ["${env:", "${hunter2}", "${env:}", "${vault:hunter2}", "x${"] {
            let why = resolve(bad, &World).unwrap_err().join(" ");
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn s05_secrets_never_print() {
        let secret = Secret::new("hunter2");
        assert_eq!(
            format!("{secret} {secret:?} {:?}", Some(&secret)),
            "*** *** Some(***)"
        );
    }
}
