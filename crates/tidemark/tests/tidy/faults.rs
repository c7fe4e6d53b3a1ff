//! The catalogues of faults and of attacks: every row is shown by a test that is named after it, or says
//! why not, and the pages about reliability and security tell which; `UPDATE_DOCS=1` writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::failpoints::listed as fail_points;
use super::{Source, none, root, sources};

/// A catalogue, and the page that is made from it.
struct Catalogue {
    file: &'static str,
    page: &'static str,
    head: &'static str,
    /// Each with its first row.
    chapters: &'static [(&'static str, &'static str)],
    /// What its rows begin with, and how many there are.
    numbers: &'static [(char, usize)],
    columns: &'static str,
}

const FAULTS: Catalogue = Catalogue {
    file: "crates/tidemark/tests/e2e/faults/catalogue.toml",
    page: "docs/explanation/reliability.md",
    head: FAULTS_HEAD,
    chapters: &[
        ("K01", "The process is killed"),
        ("F01", "The source"),
        ("F43", "The target"),
        ("F55", "The program and its machine"),
    ],
    numbers: &[('K', 16), ('F', 61)],
    columns: "| | fault | expected | shown by |",
};

const ATTACKS: Catalogue = Catalogue {
    file: "crates/tidemark/tests/e2e/security/catalogue.toml",
    page: "docs/explanation/security.md",
    head: ATTACKS_HEAD,
    chapters: &[
        ("S01", "Text that is more than text"),
        ("S05", "Secrets"),
        ("S10", "The server and who asks it"),
        ("S19", "Wires, and who is at their end"),
        ("S24", "Limits, logs and what we are made of"),
        ("S29", "Rights"),
        ("S33", "What is told"),
    ],
    numbers: &[('S', 36)],
    columns: "| | what may be tried or come out | expected | shown by |",
};

/// The test that kills at every fail point, and where it stands.
const KILLS: &str = "a_kill_at_any_durable_step_costs_nothing";

const FAULTS_HEAD: &str = "# What can go wrong

<!-- Made from the catalogue of faults and the names of the tests; a test compares them. -->

Each row is something that happens to databases, networks, machines and programs, with what has to become of it. The
tests named beside it make it happen to real servers, with writers on the source, and then look for the same every
time: no row is missing, none is there twice, the sum of a bank was never seen to be wrong, both sides are equal row by
row, and nothing is left behind: no slot, publication, file, lock or session. `make test` runs all of them, and so does
CI with every change; a test that lacks something on a machine (root, a second version of the server) says so and is
counted as skipped, which CI does not accept. What a run has shown, test by test, it leaves in
`target/test-logs/faults.txt`.

`make soak MINUTES=10` has faults come at random, from a seed that it prints and takes again (`SEED=...`).
";

const ATTACKS_HEAD: &str = "# What is kept from whom

<!-- Made from the catalogue of attacks and the names of the tests; a test compares them. -->

Each row is something that somebody may try, or that may come out by mistake, with what has to become of it, and the
tests that try it: on the program as it is installed, and on real servers. How to run it so is in
[as a service](../how-to/run-as-a-service.md), [TLS](../how-to/tls.md) and [privileges](../how-to/privileges.md).

What it takes for granted: whoever may write a pipeline file, or runs the program, may do what the program may. An
administrator of the server's own tenant is such a person; whoever has a token of another tenant is not. Whoever may
write to the source decides what is in the copy, and nothing else.
";

#[derive(Debug)]
struct Row {
    id: String,
    fault: String,
    expected: String,
    points: Vec<String>,
    also: Option<String>,
    why_not: Option<String>,
    open: Option<String>,
}

/// A catalogue is plain enough to be read line by line.
fn rows(catalogue: &Catalogue) -> Vec<Row> {
    let text = std::fs::read_to_string(root().join(catalogue.file)).unwrap();
    let mut rows = Vec::new();
    for block in text.split("[[row]]\n").skip(1) {
        let values: BTreeMap<&str, &str> = block
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .collect();
        let known = [
            "id", "fault", "expected", "points", "also", "why_not", "open",
        ];
        assert!(values.keys().all(|key| known.contains(key)), "{block}");
        let word = |key: &str| {
            values
                .get(key)
                .map(|value| value.trim_matches('"').to_owned())
        };
        let points = values.get("points").map_or("", |list| *list);
        rows.push(Row {
            id: word("id").unwrap(),
            fault: word("fault").unwrap(),
            expected: word("expected").unwrap(),
            points: points
                .split('"')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect(),
            also: word("also"),
            why_not: word("why_not"),
            open: word("open"),
        });
    }
    rows
}

/// Rows that a name of a test begins with.
fn rows_of(name: &str) -> Vec<String> {
    let is_row = |word: &&str| {
        word.len() == 3
            && word.starts_with(['k', 'f', 's'])
            && word.chars().skip(1).all(|c| c.is_ascii_digit())
    };
    let words = name.split('_').take_while(is_row);
    words.map(str::to_uppercase).collect()
}

/// Rows with the tests that show them.
fn shown() -> BTreeMap<String, BTreeSet<String>> {
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut sources = sources();
    // Beside this file, where sources are not looked for.
    let path = "crates/tidemark/tests/tidy/security.rs".to_owned();
    let text = std::fs::read_to_string(root().join(&path)).unwrap();
    sources.push(Source { path, text });
    for source in sources.iter().filter(|source| source.is_rust()) {
        let mut is_test = false;
        for line in source.text.lines().map(str::trim_start) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            }
            let Some((before, rest)) = line.split_once("fn ") else {
                continue;
            };
            let name = rest.split('(').next().unwrap_or_default();
            if std::mem::take(&mut is_test) && matches!(before, "" | "async ") {
                for row in rows_of(name) {
                    shown.entry(row).or_default().insert(name.to_owned());
                }
            }
        }
    }
    shown
}

/// What shows a row, for the page.
fn shown_by(row: &Row, tests: Option<&BTreeSet<String>>) -> Vec<String> {
    let mut by: Vec<String> = tests
        .into_iter()
        .flatten()
        .map(|name| format!("`{name}`"))
        .collect();
    if !row.points.is_empty() {
        by.push(format!("`{KILLS}` at `{}`", row.points.join("`, `")));
    }
    by.extend(row.also.clone());
    by.extend(row.open.as_ref().map(|open| format!("open: {open}")));
    by
}

fn page(catalogue: &Catalogue) -> String {
    let (rows, shown) = (rows(catalogue), shown());
    let mut page = catalogue.head.to_owned();
    let mut totals = [0; 3];
    for row in &rows {
        let mut chapters = catalogue.chapters.iter();
        if let Some((_, title)) = chapters.find(|(first, _)| *first == row.id) {
            let columns = catalogue.columns;
            write!(page, "\n## {title}\n\n{columns}\n|--|--|--|--|\n").unwrap();
        }
        let mut by = shown_by(row, shown.get(&row.id));
        let is_shown = by.len() > usize::from(row.open.is_some());
        let by = match &row.why_not {
            Some(why) => {
                totals[1] += 1;
                by.push(format!("not run: {why}"));
                by.join(", ")
            }
            None if is_shown => {
                totals[0] += 1;
                by.join(", ")
            }
            None => {
                totals[2] += 1;
                by.insert(0, "not shown yet".to_owned());
                by.join(", ")
            }
        };
        let Row {
            id,
            fault,
            expected,
            ..
        } = row;
        writeln!(page, "| {id} | {fault} | {expected} | {by} |").unwrap();
    }
    let [by_tests, not_run, open] = totals;
    write!(
        page,
        "\n{by_tests} rows are shown by tests, {not_run} are not run for the reason given, {open} are not shown yet.\n"
    )
    .unwrap();
    page
}

#[test]
fn the_catalogues_have_every_row_once_and_in_order() {
    let mut known = BTreeSet::new();
    let mut all_points = Vec::new();
    for catalogue in [&FAULTS, &ATTACKS] {
        let numbered = |(letter, last): &(char, usize)| {
            let letter = *letter;
            (1..=*last).map(move |number| format!("{letter}{number:02}"))
        };
        let wanted: Vec<String> = catalogue.numbers.iter().flat_map(numbered).collect();
        let rows = rows(catalogue);
        let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        assert_eq!(ids, wanted);
        known.extend(ids);
        all_points.extend(rows.into_iter().flat_map(|row| row.points));
    }
    let points: BTreeSet<String> = fail_points().into_iter().map(|(_, name)| name).collect();
    all_points.retain(|point| !points.contains(point));
    none("fail points that there are not", &all_points);
    let shown = shown();
    let strangers: Vec<String> = shown
        .keys()
        .filter(|row| !known.contains(*row))
        .cloned()
        .collect();
    none("tests of rows that there are not", &strangers);
    let kills = std::fs::read_to_string(root().join("crates/tidemark/tests/e2e/kills/mod.rs"));
    assert!(kills.unwrap().contains(&format!("async fn {KILLS}()")));
}

#[test]
fn the_pages_of_reliability_and_security_are_current() {
    for catalogue in [&FAULTS, &ATTACKS] {
        let path = root().join(catalogue.page);
        let page = page(catalogue);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = written.lines().zip(page.lines()).find(|(a, b)| a != b);
        let name = catalogue.page;
        assert_eq!(
            differs, None,
            "UPDATE_DOCS=1 cargo test -p tidemark --test tidy writes {name}"
        );
        assert_eq!(written.len(), page.len(), "{name}");
    }
}

#[test]
fn a_test_that_is_named_after_rows_is_found() {
    assert_eq!(rows_of("f01_k09_a_restart"), ["F01", "K09"]);
    assert_eq!(rows_of("f14_s29_roles"), ["F14", "S29"]);
    assert_eq!(rows_of("from_14_to_15"), [""; 0]);
    assert_eq!(rows_of("a_f01_b"), [""; 0]);
}
