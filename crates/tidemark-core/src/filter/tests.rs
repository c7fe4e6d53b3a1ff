//! The language: what it says of rows, and what it refuses with which words.
//!
//! `answers.tsv` holds what PostgreSQL 15 answered for some 7,800 expressions over one value.

use super::*;
use crate::mapping::fixture::table;
use crate::schema::{ColumnDefault, TableSchema};
use proptest::prelude::*;

const COLUMNS: &[(&str, &str)] = &[
    ("id", "bigint"),
    ("small", "smallint"),
    ("amount", "numeric(12,2)"),
    ("ratio", "double precision"),
    ("score", "real"),
    ("active", "boolean"),
    ("status", "text"),
    ("code", "character(5)"),
    ("tag", "text"),
    ("born", "date"),
    ("made", "timestamp without time zone"),
    ("seen", "timestamp with time zone"),
    ("token", "uuid"),
    ("raw", "bytea"),
    ("feeling", "mood"),
    ("doc", "jsonb"),
    ("span", "interval"),
    ("Mixed Case", "text"),
    ("nick", "citext"),
    ("loose", "text"),
    ("made_up", "integer"),
];

fn schema() -> TableSchema {
    let mut table = table("public.t", COLUMNS);
    for (name, collation) in [("tag", "\"C\""), ("loose", "public.ignore_case")] {
        let column = table.columns.iter_mut().find(|column| column.name == name);
        column.unwrap().collation = Some(collation.to_owned());
    }
    table.columns[20].default = ColumnDefault::Generated("id + 1".to_owned());
    table
}

fn bind(text: &str) -> Result<Filter, Vec<FilterProblem>> {
    Filter::bind(text, &schema())
}

/// Decides over a row given as `column = text`; what is not given is NULL, `?` is left out.
fn decide(text: &str, row: &[(&str, &str)]) -> Truth {
    let filter = bind(text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
    let schema = schema();
    filter.decide(|slot| {
        let name = &schema.columns[filter.columns[slot]].name;
        match row.iter().find(|(column, _)| column == name) {
            None => Input::Null,
            Some((_, "?")) => Input::Missing,
            Some((_, value)) => Input::Text(value.as_bytes()),
        }
    })
}

#[test]
fn logic_has_three_values_and_a_fourth_for_what_the_log_left_out() {
    use Truth::{False, True, Undecided, Unknown};
    let row = [("id", "1"), ("status", "?")];
    for (text, expected) in [
        ("id = 1", True),
        ("id = 2", False),
        ("small = 1", Unknown),
        ("status = 'a'", Undecided),
        ("NOT id = 1", False),
        ("NOT small = 1", Unknown),
        ("NOT status = 'a'", Undecided),
        ("id = 2 AND small = 1", False),
        ("id = 1 AND small = 1", Unknown),
        ("id = 2 AND status = 'a'", False),
        ("status = 'a' AND id = 2", False),
        ("id = 1 AND status = 'a'", Undecided),
        ("small = 1 AND status = 'a'", Undecided),
        ("id = 1 OR status = 'a'", True),
        ("status = 'a' OR id = 1", True),
        ("id = 2 OR status = 'a'", Undecided),
        ("id = 2 OR small = 1", Unknown),
        ("NOT (id = 2 OR small = 1)", Unknown),
        ("status IS NULL", False),
        ("status IS NOT NULL", True),
        ("small IS NULL", True),
        ("status LIKE 'a%'", Undecided),
        ("small LIKE 'a' OR TRUE", Unknown),
        ("small IN (1, 2)", Unknown),
        ("status IN ('a')", Undecided),
        ("id IN (2, NULL)", Unknown),
        ("id IN (1, NULL)", True),
        ("id NOT IN (2, NULL)", Unknown),
        ("small IS DISTINCT FROM 1", True),
        ("small IS DISTINCT FROM NULL", False),
        ("id IS NOT DISTINCT FROM 1", True),
        ("status IS DISTINCT FROM NULL", True),
        ("status IS DISTINCT FROM 'a'", Undecided),
        ("id BETWEEN 0 AND 1", True),
        ("id NOT BETWEEN 0 AND 1", False),
        ("id BETWEEN 2 AND small", False),
        ("TRUE", True),
        ("NULL", Unknown),
        ("active OR NULL", Unknown),
    ] {
        if text.starts_with("small LIKE") {
            assert!(bind(text).is_err());
            continue;
        }
        assert_eq!(decide(text, &row), expected, "{text}");
    }
}

#[test]
fn precedence_is_that_of_sql() {
    let row = [("id", "1"), ("small", "0")];
    for (text, expected) in [
        ("id = 1 OR id = 1 AND small = 1", true),
        ("(id = 1 OR id = 1) AND small = 1", false),
        ("NOT id = 2 AND small = 0", true),
        ("NOT (id = 2 OR small = 0)", false),
        ("NOT NOT id = 1", true),
        ("id BETWEEN 0 AND 2 AND small = 0", true),
        ("1 = id", true),
        ("0 < id AND 2 > id", true),
        ("0 > id", false),
        ("id > small", true),
        ("\"id\" = +1 AND id <> -1 AND id != 5", true),
    ] {
        assert_eq!(decide(text, &row), Truth::from(expected), "{text}");
    }
}

#[test]
fn values_of_another_type_are_undecided_and_never_a_panic() {
    for (text, column) in [
        ("id = 1", "id"),
        ("id = 1.5", "id"),
        ("amount > 1", "amount"),
        ("ratio > 1", "ratio"),
        ("active", "active"),
        ("born > '2024-01-01'", "born"),
        ("made > '2024-01-01'", "made"),
        ("seen > '2024-01-01'", "seen"),
        ("token = 'a0eebc999c0b4ef8bb6d6bb9bd380a11'", "token"),
    ] {
        assert_eq!(
            decide(text, &[(column, "[1,2]")]),
            Truth::Undecided,
            "{text}"
        );
    }
}

#[test]
fn each_column_is_listed_once() {
    let filter = bind("status = 'a' OR id = 1 OR status = 'b'").unwrap();
    assert_eq!(filter.columns, [6, 0]);
}

/// Text, and the problem as `marked part: message | help`.
const REFUSED: &[(&str, &str)] = &[
    ("", ": the filter is empty | "),
    (
        "id",
        "id: only a boolean column can stand by itself; compare it with something | ",
    ),
    ("id = ", ": expected a column or a literal | "),
    ("id = 1 id", "id: expected AND, OR or the end"),
    (
        "id = 1; DROP TABLE canary",
        ";: this character has no meaning in a filter",
    ),
    (
        "1=1); DROP TABLE canary",
        ";: this character has no meaning",
    ),
    ("id=1) OR (id=2", "): expected AND, OR or the end"),
    ("id = 1 -- no", "--: a comment has no place in a filter"),
    ("id == 1", "==: there is no such operator | equality is `=`"),
    (
        "1 < id < 3",
        "<: comparisons cannot be chained | join two comparisons with AND",
    ),
    ("id + 1 = 2", "+: there is no arithmetic in a filter"),
    (
        "id * 2 = 2",
        "*: this character has no meaning in a filter | there is no arithmetic",
    ),
    (
        "lower(status) = 'a'",
        "lower: there are no functions in a filter",
    ),
    ("t.id = 1", "t.: a column is named without its table"),
    ("id::text = '1'", "::: there are no casts in a filter"),
    ("born > DATE '2024-01-01'", "date"),
    (
        "status ILIKE 'a%'",
        "ILIKE: ILIKE is not possible in a filter",
    ),
    (
        "status LIKE 'a' ESCAPE 'x'",
        "ESCAPE: ESCAPE is not possible",
    ),
    (
        "status LIKE 'a\\'",
        "'a\\': a pattern cannot end with a backslash",
    ),
    (
        "id IN (SELECT id FROM x)",
        "SELECT: there are no sub-selects in a filter",
    ),
    ("id IN ()", "): expected a column or a literal"),
    ("id IN (small)", "small: a list holds literals only"),
    (
        "active IS TRUE",
        "TRUE: expected NULL or DISTINCT FROM after IS",
    ),
    (
        "id = NULL",
        "NULL: a comparison with NULL is never true | write IS NULL or IS NOT NULL",
    ),
    (
        "user = 'x'",
        "user: `user` without quotes is not a column in SQL",
    ),
    ("1 = 1", "1 = 1: one side of a comparison must be a column"),
    ("'a'", "'a': a literal by itself is not a condition"),
    ("status = 'a", "'a: this string is not closed"),
    (
        "status = E'a'",
        "E': only plain strings in single quotes are possible here",
    ),
    ("id = 12abc", "12abc: this is not a number"),
    (
        "id = 1e999999",
        "1e999999: this number is out of the range of numeric",
    ),
    (
        "stats = 'a'",
        "stats: public.t has no column `stats` | did you mean `status`?",
    ),
    ("mixed = 'a'", "mixed: public.t has no column `mixed`"),
    (
        "\"mixed case\" = 'a'",
        "\"mixed case\": public.t has no column `mixed case` | write \"Mixed Case\" in double quotes",
    ),
    (
        "status = 5",
        "5: this does not fit `status`, which is of type text | put it in single quotes",
    ),
    (
        "id = 'x'",
        "'x': this does not fit `id`, which is of type bigint | a whole number",
    ),
    ("id = '5.5'", "'5.5': this does not fit `id`"),
    ("small = '32768'", "'32768': this does not fit `small`"),
    (
        "active = 1",
        "1: this does not fit `active`, which is of type boolean | write TRUE or FALSE",
    ),
    ("id = TRUE", "TRUE: this does not fit `id`"),
    ("ratio = '1e999'", "'1e999': this does not fit `ratio`"),
    (
        "ratio = 1e999",
        "1e999: this number is out of the range of double precision",
    ),
    ("score = '1e39'", "'1e39': this does not fit `score`"),
    (
        "born > 'yesterday'",
        "'yesterday': this does not fit `born`, which is of type date | write a date as '2024-01-31'",
    ),
    (
        "born > '2024-02-30'",
        "'2024-02-30': this does not fit `born`",
    ),
    (
        "made > '2024-01-01 10:00+01'",
        "'2024-01-01 10:00+01': this does not fit `made`",
    ),
    ("seen > 'now'", "'now': this does not fit `seen`"),
    ("token = 'abc'", "'abc': this does not fit `token`"),
    ("raw = 'abc'", "'abc': this does not fit `raw`"),
    (
        "status > 'a'",
        "'a': the order of `status` is that of a locale, which the stream cannot repeat",
    ),
    (
        "tag > 'ä'",
        "'ä': the order of text beyond ASCII depends on the source's encoding",
    ),
    (
        "tag > loose",
        "loose: `loose` is of type text, and its collation may find different texts equal",
    ),
    (
        "tag > tag",
        "tag: two columns of this type can only be compared with = and <>",
    ),
    (
        "status = tag",
        "tag: `status` is of type text and `tag` of type text: they cannot be compared",
    ),
    (
        "id = born",
        "born: `id` is of type bigint and `born` of type date",
    ),
    (
        "feeling > 'ok'",
        "'ok': an enumeration can only be compared with = and <> here",
    ),
    (
        "doc = '{}'",
        "doc: `doc` is of type jsonb, whose equal values can have different texts | only IS NULL",
    ),
    (
        "span = '1 day'",
        "span: `span` is of type interval, whose equal values",
    ),
    (
        "nick = 'a'",
        "nick: `nick` is of type citext, whose comparison is its own",
    ),
    (
        "loose = 'a'",
        "loose: `loose` is of type text, and its collation may find",
    ),
    (
        "made_up = 1",
        "made_up: `made_up` is generated, and the log does not hold it",
    ),
    ("id LIKE '1%'", "id: LIKE is for text columns"),
    ("status LIKE 5", "5: expected a pattern in single quotes"),
    ("(id = 1", ": expected `)`"),
    (
        "(id = 1) IS NULL",
        "IS: a condition in parentheses can only be joined with AND or OR",
    ),
    ("id NOT = 1", "=: expected IN, BETWEEN or LIKE after NOT"),
    ("\"\" = 1", "\"\": a name in double quotes cannot be empty"),
];

#[test]
fn s03_what_cannot_be_evaluated_identically_is_refused_with_place_and_reason() {
    for (text, expected) in REFUSED {
        let problems = bind(text).expect_err(text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        let problem = &problems[0];
        let marked = text
            .get(problem.span.clone())
            .expect("a span is within the text");
        let shown = format!("{marked}: {} | {}", problem.message, problem.help);
        assert!(
            shown.to_lowercase().starts_with(&expected.to_lowercase()),
            "{text}\n  {shown}"
        );
    }
}

#[test]
fn all_problems_of_a_filter_are_found_at_once() {
    let problems =
        bind("nope = 1 AND id = 'x' OR doc = '1' AND span BETWEEN '1' AND '2'").unwrap_err();
    let places: Vec<usize> = problems.iter().map(|problem| problem.span.start).collect();
    assert_eq!(places, [0, 18, 25, 39, 39]);
}

#[test]
fn limits_hold() {
    let deep = format!("{}id = 1{}", "(".repeat(60), ")".repeat(60));
    assert!(bind(&deep).unwrap_err()[0].message.contains("nest"));
    let nots = format!("{} id = 1", "NOT ".repeat(60));
    assert!(bind(&nots).unwrap_err()[0].message.contains("nest"));
    let list = format!("id IN ({})", vec!["1"; 1001].join(","));
    assert!(bind(&list).unwrap_err()[0].message.contains("at most 1000"));
    let long = format!("status = '{}'", "x".repeat(70_000));
    assert!(bind(&long).unwrap_err()[0].message.contains("bytes"));
    let wide = vec!["id = 1"; 5_000].join(" OR ");
    assert_eq!(decide(&wide, &[("id", "1")]), Truth::True);
}

#[test]
fn literals_reach_sql_in_a_form_that_does_not_depend_on_settings() {
    let form = |text: &str| match bind(text).unwrap().expr {
        Expr::Compare {
            with: Operand::Literal(literal),
            ..
        } => literal.form,
        other => panic!("{other:?}"),
    };
    for (text, expected) in [
        (
            "seen > '2024-01-01'",
            LiteralForm::Text("2024-01-01 00:00:00+00".to_owned()),
        ),
        (
            "made > '2024-01-01T10:30'",
            LiteralForm::Text("2024-01-01 10:30:00".to_owned()),
        ),
        ("raw = '\\xDEAD'", LiteralForm::Text("\\xdead".to_owned())),
        ("id = -5", LiteralForm::Number("-5".to_owned())),
        ("status = 'it''s'", LiteralForm::Text("it's".to_owned())),
        ("active = false", LiteralForm::Boolean(false)),
    ] {
        assert_eq!(form(text), expected, "{text}");
    }
}

/// What PostgreSQL 15 said; the form of the file is told at its head.
#[test]
fn answers_are_those_of_postgresql_15() {
    let (mut schema, mut values) = (table("public.t", &[("v", "text")]), Vec::new());
    let mut count = 0;
    let lines = include_str!("answers.tsv").lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let (head, rest) = line.split_once('\t').unwrap();
        match head {
            "type" => {
                let (plain, collation) = rest.split_once(" COLLATE ").unwrap_or((rest, ""));
                schema = table("public.t", &[("v", plain)]);
                schema.columns[0].collation = (!collation.is_empty()).then(|| collation.to_owned());
            }
            "values" => values = rest.split('\t').collect(),
            text => count += compare_answers(&schema, &values, text, rest),
        }
    }
    assert!(count > 7_000, "only {count} answers");
}

fn compare_answers(schema: &TableSchema, values: &[&str], text: &str, answers: &str) -> usize {
    let filter =
        Filter::bind(text, schema).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
    assert_eq!(values.len(), answers.len(), "{text}");
    let asked = values
        .iter()
        .zip(answers.chars())
        .filter(|(_, answer)| *answer != '.');
    asked
        .map(|(value, answer)| {
            let truth = filter.decide(|_| match *value {
                "\\N" => Input::Null,
                _ => Input::Text(value.as_bytes()),
            });
            let expected = match answer {
                't' => Truth::True,
                'f' => Truth::False,
                _ => Truth::Unknown,
            };
            let type_name = &schema.columns[0].type_name;
            assert_eq!(truth, expected, "{type_name} {value}: {text}");
        })
        .count()
}

proptest! {
    #[test]
    fn s03_any_text_is_parsed_or_refused_within_its_bounds(text in "[a-z0-9 '\"()<>=!,.ä%_-]{0,40}|\\PC{0,20}") {
        if let Err(problems) = bind(&text) {
            for problem in problems {
                prop_assert!(text.get(problem.span.clone()).is_some(), "{:?}", problem);
            }
        }
    }

    #[test]
    fn negation_and_de_morgan_hold(a in 0_usize..4, b in 0_usize..4) {
        let terms = ["id = 1", "id = 2", "small = 1", "status = 'a'"];
        let row = [("id", "1"), ("status", "?")];
        let (a, b) = (terms[a], terms[b]);
        let negated = |text: &str| decide(&format!("NOT ({text})"), &row);
        prop_assert_eq!(
            negated(&format!("{a} AND {b}")),
            decide(&format!("NOT ({a}) OR NOT ({b})"), &row)
        );
        prop_assert_eq!(negated(&format!("NOT ({a})")), decide(a, &row));
    }
}
