//! The command line as a page, `docs/reference/cli.md`; made anew by `UPDATE_DOCS=1 cargo test
//! reference`.

use super::{command, examples};
use crate::output::put;

const HEAD: &str = "\
# The command line

<!-- Made from the tree of commands and its examples; a test compares the two. -->

`tidemark VERB --help` prints the same, `tidemark man VERB` as a manual page. `NAME|FILE` is a pipeline file, or the name
of one: `NAME.toml` here or in `pipelines.d`, then the running demo.

Results go to stdout, everything else to stderr. With `--json` stdout carries one object per answer and nothing else:

    {\"schema\":\"tidemark/v1\",\"command\":\"verify\",\"ok\":false,\"data\":{},\"notices\":[],\"error\":null}

`ok: false` with `error: null` is a verdict (exit code 3); where something failed `error` holds its code, cause, effect and
first action. `tidemark config schema --of answer` prints the schema of all of it.

## Exit codes

| code | meaning |
|--|--|
| 0 | done, verdict positive |
| 1 | failed, and no other code fits |
| 2 | usage or configuration |
| 3 | ran fine, verdict negative: a check failed, rows differ, a limit is exceeded, a state is not met |
| 4 | not allowed: password, role, privilege |
| 5 | something cannot be reached, or did not answer in time |
| 6 | refused to be safe: consent is missing, somebody else owns it, changes would be lost |
| 129, 130, 143 | the terminal was closed (SIGHUP), interrupted, terminated |
";

/// The page.
fn page() -> String {
    let mut root = command();
    root.build();
    let mut page = HEAD.to_owned();
    page.push_str("\n## Everywhere\n\n");
    options(
        &mut page,
        root.get_arguments()
            .filter(|argument| argument.is_global_set()),
    );
    for verb in examples::VERBS {
        let command = root
            .find_subcommand(verb.name)
            .expect("a test compares the two");
        put!(page, "\n## {}\n\n{}.\n\n", verb.name, about(command));
        for (line, what) in verb.examples {
            put!(page, "    {line}    # {what}\n");
        }
        section(&mut page, command);
        for inner in command
            .get_subcommands()
            .filter(|inner| inner.get_name() != "help")
        {
            put!(
                page,
                "\n### {} {}\n\n{}.\n",
                verb.name,
                inner.get_name(),
                about(inner)
            );
            section(&mut page, inner);
        }
    }
    page
}

fn about(command: &clap::Command) -> String {
    command
        .get_about()
        .expect("every command says what it does")
        .to_string()
}

fn section(page: &mut String, command: &clap::Command) {
    let own: Vec<&clap::Arg> = command
        .get_arguments()
        .filter(|argument| !argument.is_global_set() && argument.get_id() != "help")
        .collect();
    if !own.is_empty() {
        page.push('\n');
        options(page, own.into_iter());
    }
}

fn options<'a>(page: &mut String, arguments: impl Iterator<Item = &'a clap::Arg>) {
    page.push_str("| | |\n|--|--|\n");
    for argument in arguments.filter(|argument| !argument.is_hide_set()) {
        let value = argument
            .get_value_names()
            .filter(|_| argument.get_action().takes_values())
            .map_or_else(String::new, |names| names.join(" "));
        let mut name = String::new();
        if let Some(short) = argument.get_short() {
            put!(name, "-{short}, ");
        }
        match argument.get_long() {
            Some(long) => put!(name, "--{long} {value}"),
            None => put!(name, "{value}"),
        }
        let mut help = argument
            .get_help()
            .map_or_else(String::new, ToString::to_string);
        let choices: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter(|_| argument.get_action().takes_values())
            .map(|choice| match choice.get_help() {
                Some(help) => format!("`{}` ({help})", choice.get_name()),
                None => format!("`{}`", choice.get_name()),
            })
            .collect();
        if !choices.is_empty() {
            put!(help, ": {}", choices.join(", "));
        }
        let defaults = argument.get_default_values();
        if !defaults.is_empty() && argument.get_action().takes_values() {
            let defaults: Vec<_> = defaults.iter().map(|text| text.to_string_lossy()).collect();
            put!(help, " (default {})", defaults.join(" "));
        }
        let (name, help) = (name.trim().replace('|', "\\|"), help.replace('|', "\\|"));
        put!(*page, "| `{name}` | {help} |\n");
    }
}

#[test]
fn the_page_of_commands_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let differs = written.lines().zip(page.lines()).find(|(a, b)| a != b);
    assert_eq!(
        differs, None,
        "docs/reference/cli.md is not what the commands say"
    );
    assert_eq!(written.len(), page.len());
}
