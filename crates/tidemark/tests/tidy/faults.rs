//! The catalogue of faults: every row is shown by a test that is named after it, or says why not, and
//! the page about reliability tells which; `UPDATE_DOCS=1` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::failpoints::listed as fail_points;
use super::{none, root, sources};

const CATALOGUE: &str = "crates/tidemark/tests/e2e/faults/catalogue.toml";
const PAGE: &str = "docs/explanation/reliability.md";

/// The test that kills at every fail point, and where it stands.
const KILLS: &str = "a_kill_at_any_durable_step_costs_nothing";

/// Chapters, each with its first row.
const CHAPTERS: [(&str, &str); 4] = [
    ("K01", "The process is killed"),
    ("F01", "The source"),
    ("F43", "The target"),
    ("F55", "The program and its machine"),
];

const HEAD: &str = "# What can go wrong

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

#[derive(Debug)]
struct Row {
    id: String,
    fault: String,
    expected: String,
    points: Vec<String>,
    why_not: Option<String>,
    open: Option<String>,
}

/// The catalogue is plain enough to be read line by line.
fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(root().join(CATALOGUE)).unwrap();
    let mut rows = Vec::new();
    for block in text.split("[[row]]\n").skip(1) {
        let values: BTreeMap<&str, &str> = block
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .collect();
        let known = ["id", "fault", "expected", "points", "why_not", "open"];
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
            && word.starts_with(['k', 'f'])
            && word.chars().skip(1).all(|c| c.is_ascii_digit())
    };
    let words = name.split('_').take_while(is_row);
    words.map(str::to_uppercase).collect()
}

/// Rows with the tests that show them.
fn shown() -> BTreeMap<String, BTreeSet<String>> {
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
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

fn page() -> String {
    let (rows, shown) = (rows(), shown());
    let mut page = HEAD.to_owned();
    let mut totals = [0; 3];
    for row in &rows {
        if let Some((_, title)) = CHAPTERS.iter().find(|(first, _)| *first == row.id) {
            let head = "| | fault | expected | shown by |\n|--|--|--|--|";
            write!(page, "\n## {title}\n\n{head}\n").unwrap();
        }
        let mut by: Vec<String> = shown
            .get(&row.id)
            .into_iter()
            .flatten()
            .map(|name| format!("`{name}`"))
            .collect();
        if !row.points.is_empty() {
            by.push(format!("`{KILLS}` at `{}`", row.points.join("`, `")));
        }
        if let Some(open) = &row.open {
            by.push(format!("open: {open}"));
        }
        let by = match (&row.why_not, by.is_empty()) {
            (Some(why), _) => {
                totals[1] += 1;
                by.push(format!("not run: {why}"));
                by.join(", ")
            }
            (None, false) => {
                totals[0] += 1;
                by.join(", ")
            }
            (None, true) => {
                totals[2] += 1;
                "not shown yet".to_owned()
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
fn the_catalogue_has_every_row_once_and_in_order() {
    let numbered = |letter: char, last: usize| (1..=last).map(move |n| format!("{letter}{n:02}"));
    let wanted: Vec<String> = numbered('K', 16).chain(numbered('F', 61)).collect();
    let rows = rows();
    let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
    assert_eq!(ids, wanted);
    let points: BTreeSet<String> = fail_points().into_iter().map(|(_, name)| name).collect();
    let unknown = rows.iter().flat_map(|row| &row.points);
    let unknown: Vec<String> = unknown.filter(|p| !points.contains(*p)).cloned().collect();
    none("fail points that there are not", &unknown);
    let shown = shown();
    let strangers: Vec<String> = shown
        .keys()
        .filter(|row| !ids.contains(row))
        .cloned()
        .collect();
    none("tests of rows that there are not", &strangers);
    let kills = std::fs::read_to_string(root().join("crates/tidemark/tests/e2e/kills/mod.rs"));
    assert!(kills.unwrap().contains(&format!("async fn {KILLS}()")));
}

#[test]
fn the_page_of_reliability_is_current() {
    let path = root().join(PAGE);
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(page.lines()).find(|(a, b)| a != b);
    assert_eq!(
        differs, None,
        "UPDATE_DOCS=1 cargo test -p tidemark --test tidy writes {PAGE}"
    );
    assert_eq!(written.len(), page.len(), "{PAGE}");
}

#[test]
fn a_test_that_is_named_after_rows_is_found() {
    assert_eq!(rows_of("f01_k09_a_restart"), ["F01", "K09"]);
    assert_eq!(rows_of("from_14_to_15"), [""; 0]);
    assert_eq!(rows_of("a_f01_b"), [""; 0]);
}
