//! From the text of a file to [`Settings`]: the tree is walked key by key against the table of keys,
//! and every problem is collected with its place.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{Key, LATER};
use super::problem::{Document, Place, Problem, Problems, suggestion};
use super::secret::Surroundings;
use super::settings::{Origin, Setting, Settings};
use super::value;
use crate::catalogue::codes;

/// Where, in what may be a list of sections, a walk is.
struct At<'a> {
    /// The path with numbers: `table[0].`, or nothing at the top.
    path: &'a str,
    /// The path as the table of keys has it: `table[].`.
    pattern: &'a str,
}

/// Reads one file.
pub(crate) struct Reader<'a> {
    document: Arc<Document>,
    keys: &'a [Key],
    surroundings: &'a dyn Surroundings,
    settings: Settings,
    problems: Problems,
}

/// Reads a document against a table of keys. The settings are as complete as the text allows.
pub(crate) fn read(
    mut document: Document,
    keys: &[Key],
    surroundings: &dyn Surroundings,
) -> (Settings, Problems) {
    let text = document.text().to_owned();
    let (tree, errors) = DeTable::parse_recoverable(&text);
    super::hide::hide_secrets(&mut document, tree.get_ref(), keys);
    let mut reader = Reader {
        document: Arc::new(document),
        keys,
        surroundings,
        settings: Settings::default(),
        problems: Problems::new(),
    };
    let syntax: Vec<Problem> = errors
        .iter()
        .map(|error| reader.syntax_problem(error))
        .collect();
    reader.table(
        tree.get_ref(),
        &At {
            path: "",
            pattern: "",
        },
    );
    let is_whole = errors.iter().all(is_duplicate);
    if !syntax.is_empty() {
        reader.merge_syntax(syntax);
    }
    if !is_whole {
        return (reader.settings, reader.problems);
    }
    if tree.get_ref().is_empty() {
        let problem = Problem::new(codes::CONFIG_SYNTAX, "the configuration is empty");
        let place = reader.place(0..0);
        reader.problems.push(
            problem
                .at(place)
                .label("`tidemark init` writes a file to start from"),
        );
    } else {
        let end = text.trim_end().len();
        reader.settings.end = Some(reader.place(end..end));
    }
    (reader.settings, reader.problems)
}

impl Reader<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place {
            document: Arc::clone(&self.document),
            span,
        }
    }

    /// A line that is not TOML says nothing reliable about its keys, so only the syntax is reported
    /// there.
    fn merge_syntax(&mut self, syntax: Vec<Problem>) {
        let line = |problem: &Problem| {
            let place = problem.place.as_ref()?;
            Some(place.document.line_and_column(place.span.start).0)
        };
        let lines: Vec<Option<usize>> = syntax.iter().map(line).collect();
        let walked = std::mem::take(&mut self.problems);
        self.problems.extend(
            walked
                .iter()
                .filter(|problem| !lines.contains(&line(problem)))
                .cloned(),
        );
        let mut seen = Vec::new();
        for problem in syntax {
            // One slip often makes several errors in a row; the first one says it.
            if !seen.contains(&line(&problem)) {
                seen.push(line(&problem));
                self.problems.push(problem);
            }
        }
    }

    fn syntax_problem(&self, error: &toml::de::Error) -> Problem {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().lines().next().unwrap_or_default();
        if is_duplicate(error) {
            return Problem::new(codes::CONFIG_SYNTAX, "a key is given twice")
                .at(self.place(span))
                .label("it has a value already");
        }
        let marked = self.document.text().get(span.clone()).unwrap_or_default();
        let is_bare_word = marked.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && !message.contains("newline");
        let label = if is_bare_word {
            "a text needs double quotes"
        } else {
            message
        };
        Problem::new(codes::CONFIG_SYNTAX, "this is not well-formed TOML")
            .at(self.place(span))
            .label(label)
    }

    fn table(&mut self, table: &DeTable<'_>, at: &At<'_>) {
        for (name, value) in table {
            self.entry(name, value, at);
        }
    }

    fn entry(&mut self, name: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>, at: &At<'_>) {
        let path = format!("{}{}", at.path, name.get_ref());
        let pattern = format!("{}{}", at.pattern, name.get_ref());
        if let Some((_, why)) = LATER.iter().find(|(later, _)| *later == pattern) {
            let problem = Problem::new(
                codes::CONFIG_LATER,
                format!("`{}` is not in this version", name.get_ref()),
            );
            self.problems
                .push(problem.at(self.place(name.span())).label(*why));
            return;
        }
        let keys = self.keys;
        if let Some(key) = keys.iter().find(|key| key.path == pattern) {
            self.key(key, path, name.span(), value);
            return;
        }
        let section = format!("{pattern}.");
        let list = format!("{pattern}[].");
        if keys.iter().any(|key| key.path.starts_with(&section)) {
            self.section(&path, name, value);
        } else if keys.iter().any(|key| key.path.starts_with(&list)) {
            self.list(&path, name, value);
        } else {
            self.unknown(name, at);
        }
    }

    fn section(&mut self, path: &str, name: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>) {
        let Some(table) = value.get_ref().as_table() else {
            let problem = Problem::new(codes::CONFIG_TYPE, format!("`{path}` is a section"));
            self.problems.push(
                problem
                    .at(self.place(value.span()))
                    .label(format!("write it as [{path}]")),
            );
            return;
        };
        self.settings
            .sections
            .insert(path.to_owned(), self.place(name.span()));
        let path = format!("{path}.");
        self.table(
            table,
            &At {
                path: &path,
                pattern: &path,
            },
        );
    }

    fn list(&mut self, path: &str, name: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>) {
        let sections = value.get_ref().as_array().map(|array| array.iter());
        let problem = Problem::new(
            codes::CONFIG_TYPE,
            format!("`{path}` is a list of sections"),
        );
        let label = format!("write it as [[{path}]]");
        let Some(sections) = sections else {
            self.problems
                .push(problem.at(self.place(name.span())).label(label));
            return;
        };
        for (index, section) in sections.enumerate() {
            let place = self.place(section.span());
            let Some(table) = section.get_ref().as_table() else {
                self.problems
                    .push(problem.clone().at(place).label(label.clone()));
                continue;
            };
            self.settings
                .lists
                .entry(path.to_owned())
                .or_default()
                .push(place);
            let numbered = format!("{path}[{index}].");
            let pattern = format!("{path}[].");
            self.table(
                table,
                &At {
                    path: &numbered,
                    pattern: &pattern,
                },
            );
        }
    }

    fn key(&mut self, key: &Key, path: String, name: Range<usize>, written: &Spanned<DeValue<'_>>) {
        let place = self.place(written.span());
        match value::from_toml(key, written, &place, self.surroundings) {
            Ok(value) => {
                let (line, _) = place.document.line_and_column(name.start);
                let origin = Origin::File(place.document.path().to_owned(), line);
                let setting = Setting {
                    value,
                    place: Some(place),
                    key_place: Some(self.place(name)),
                    origin,
                };
                self.settings.by_path.insert(path, setting);
            }
            Err(problems) => {
                self.problems.extend(problems);
                self.settings.misread.push(path);
            }
        }
    }

    fn unknown(&mut self, name: &Spanned<Cow<'_, str>>, at: &At<'_>) {
        let name_text: &str = name.get_ref();
        let rest_of = |key: &'_ Key| {
            let rest = key.path.strip_prefix(at.pattern)?;
            let part = rest.split(['.', '[']).next()?;
            Some(part.to_owned())
        };
        let mut siblings: Vec<String> = self.keys.iter().filter_map(rest_of).collect();
        siblings.dedup();
        let label = match suggestion(name_text, siblings.iter().map(String::as_str)) {
            Some(near) => {
                // Most likely it is there, only under a wrong name: it is not missing too.
                self.settings.misread.push(format!("{}{near}", at.path));
                format!("did you mean `{near}`?")
            }
            None => self
                .elsewhere(name_text)
                .unwrap_or_else(|| format!("known here: {}", siblings.join(", "))),
        };
        let problem = Problem::new(
            codes::CONFIG_UNKNOWN_KEY,
            format!("unknown key `{name_text}`"),
        );
        self.problems
            .push(problem.at(self.place(name.span())).label(label));
    }

    /// Whether a key of this name is known in one other section.
    fn elsewhere(&self, name: &str) -> Option<String> {
        let mut others = self.keys.iter().filter(|key| key.name() == name);
        let first = others.next()?;
        let section = first.path.strip_suffix(name)?.strip_suffix('.')?;
        let brackets = match section.strip_suffix("[]") {
            Some(list) => format!("[[{list}]]"),
            None => format!("[{section}]"),
        };
        others
            .next()
            .is_none()
            .then(|| format!("it belongs to {brackets}"))
    }
}

/// A key that is given twice leaves no doubt about the rest.
fn is_duplicate(error: &toml::de::Error) -> bool {
    error.message().starts_with("duplicate key")
}

/// Says what is missing: sections, and required keys of those that are there.
pub(crate) fn require(settings: &Settings, keys: &[Key], problems: &mut Problems) {
    let Some(end) = &settings.end else {
        return;
    };
    let mut sections: Vec<&str> = Vec::new();
    for key in keys.iter().filter(|key| key.is_required) {
        match key.path.split_once("[].") {
            Some((list, name)) => {
                let places = settings.lists.get(list).into_iter().flatten();
                for (index, place) in places.enumerate() {
                    let path = format!("{list}[{index}].{name}");
                    problems.extend(missing_key(settings, &path, place.clone()));
                }
            }
            None => match key.path.rsplit_once('.') {
                Some((section, _)) if !settings.has_section(section) => sections.push(section),
                Some((section, _)) => {
                    let place = settings.sections.get(section).unwrap_or(end);
                    problems.extend(missing_key(settings, &key.path, place.clone()));
                }
                None => {
                    let start = Place {
                        span: 0..0,
                        ..end.clone()
                    };
                    problems.extend(missing_key(settings, &key.path, start));
                }
            },
        }
    }
    if keys.iter().any(|key| key.path == "source.url") {
        sections.extend(
            ["source", "target"]
                .iter()
                .filter(|section| !settings.has_section(section)),
        );
    }
    sections.retain(|section| !settings.misread.iter().any(|misread| misread == section));
    sections.sort_by_key(|section| keys.iter().position(|key| key.path.starts_with(section)));
    sections.dedup();
    problems.extend(sections.into_iter().map(|section| {
        Problem::new(
            codes::CONFIG_MISSING,
            format!("section [{section}] is missing"),
        )
        .at(end.clone())
        .label(example(section))
    }));
}

fn missing_key(settings: &Settings, path: &str, place: Place) -> Option<Problem> {
    if settings.has(path) || settings.misread.iter().any(|misread| misread == path) {
        return None;
    }
    let name = path.rsplit('.').next().unwrap_or(path);
    let code = if path == "version" {
        codes::CONFIG_VERSION
    } else {
        codes::CONFIG_MISSING
    };
    Some(
        Problem::new(code, format!("`{name}` is missing"))
            .at(place)
            .label(example(path)),
    )
}

/// How what is missing would be written.
fn example(path: &str) -> &'static str {
    let name = path.rsplit('.').next().unwrap_or(path);
    match path {
        "version" => "write `version = 1` as the first line",
        "pipeline" => "write [pipeline] with `name` and `mode`",
        "source" => "write [source] with `url`",
        "target" => "write [target] with `url`",
        "tables" => "write [tables] with `include = [\"public.*\"]`",
        "pipeline.name" => "such as `name = \"shop\"`",
        "pipeline.mode" => "full_load_only, cdc_only or full_load_and_cdc",
        "tables.include" => "such as `include = [\"public.*\"]`",
        _ if name == "source" => "such as `source = \"public.orders\"`",
        _ if name == "columns" => "such as `columns = [\"public.customers.email\"]`",
        _ if name == "with" => "hash, redact, null, partial or fixed",
        _ => "it is needed here",
    }
}
