//! One mistake in a file, and the one problem that follows.

use super::{SMALL, reading};

const URL: &str = "url = \"postgres://tidemark@orders-db/orders\"";
const MODE: &str = "mode = \"full_load_and_cdc\"";

/// Line to replace, its replacement, the one problem that follows.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("version = 1", "", "TM7009 `version` is missing"),
    ("version = 1", "version = 1.0", "TM7009 `version` must be 1"),
    (
        MODE,
        "mode = \"cdc\"",
        "TM7005 `pipeline.mode` has a value that it does not know",
    ),
    (MODE, "mode = \"FULL_LOAD_ONLY\"", "TM7005 `pipeline.mode`"),
    (MODE, "mode = \"\"", "TM7005 `pipeline.mode`"),
    (
        MODE,
        "mode = \"cdc_only\"",
        "TM7002 `cdc_only` needs `pipeline.start`",
    ),
    (
        MODE,
        "mode = \"cdc_only\"\nstart = \"lsn:-1\"",
        "TM7005 `pipeline.start`",
    ),
    (
        MODE,
        "mode = \"cdc_only\"\nstart = \"lsn:0/0\"",
        "TM7005 `pipeline.start`",
    ),
    (
        MODE,
        "mode = \"cdc_only\"\nstart = \"slot\"",
        "TM7005 `pipeline.start`",
    ),
    (
        MODE,
        "mode = \"full_load_only\"\nstart = \"now\"",
        "TM7006 `start` is for `cdc_only` alone",
    ),
    (
        "[tables]",
        "existing = \"swap\"\n[tables]",
        "TM7006 `existing = \"swap\"` is for `full_load_only` alone",
    ),
    ("name = \"shop-2\"", "name = \"\"", "TM7012 `pipeline.name`"),
    (
        "name = \"shop-2\"",
        "name = \"../x\"",
        "TM7012 `pipeline.name`",
    ),
    (
        "name = \"shop-2\"",
        "name = \"🐘\"",
        "TM7012 `pipeline.name`",
    ),
    (URL, "", "TM7002 [source] says not where it is"),
    (
        URL,
        "url = \"orders-db\"",
        "TM7010 this is not the URL of a database",
    ),
    (
        URL,
        "type = \"postgres\"\nurl = \"mysql://x\"",
        "TM7006 this is the URL of a mysql database",
    ),
    (
        URL,
        "url = \"postgres://a:b@h/x\"\npassword = \"c\"",
        "TM7006 `password` contradicts",
    ),
    (
        URL,
        "url = \"${env:NOPE}\"",
        "TM7007 `source.url` cannot be resolved",
    ),
    (
        URL,
        "url = \"${vault:x}\"",
        "TM7007 `source.url` cannot be resolved",
    ),
    (URL, "host = \"\"", "TM7005 this is not a host name"),
    (URL, "host = \"my host\"", "TM7005 this is not a host name"),
    (URL, "host = \"db/x\"", "TM7005 this is not a host name"),
    (URL, "host = \"db:5432\"", "TM7005 this is not a host name"),
    (
        URL,
        "host = \"db\"\nport = 0",
        "TM7005 `source.port` is out of range",
    ),
    (
        URL,
        "host = \"db\"\nport = -1",
        "TM7005 `source.port` is out of range",
    ),
    (
        URL,
        "host = \"db\"\nport = 99999999999999999999",
        "TM7005 `source.port` is out of range",
    ),
    (
        URL,
        "host = \"db\"\nport = 5432.5",
        "TM7004 `source.port` must be a whole number",
    ),
    (
        URL,
        "host = \"db\"\nport = \"abc\"",
        "TM7004 `source.port` must be a whole number",
    ),
    (
        URL,
        "connection = \"x\"",
        "TM7013 there is no connection `x`, nor a connections.toml",
    ),
    (
        "[tables]",
        "[load]\nparallel_tables = 100000\n[tables]",
        "TM7005 `load.parallel_tables` is out of range",
    ),
    (
        "[tables]",
        "[load]\nparallel_tables = \"many\"\n[tables]",
        "TM7004 `load.parallel_tables`",
    ),
    (
        "[tables]",
        "[load]\nchunk_size = \"0 B\"\n[tables]",
        "TM7005 `load.chunk_size` is out of range",
    ),
    (
        "[tables]",
        "[load]\nchunk_size = \"1GBB\"\n[tables]",
        "TM7005 `load.chunk_size` is not a size",
    ),
    (
        "[tables]",
        "[stream]\nbatch_wait = \"5\"\n[tables]",
        "TM7005 `stream.batch_wait` is not a duration",
    ),
    (
        "[tables]",
        "[stream]\nbatch_wait = \"1000000000d\"\n[tables]",
        "TM7005 `stream.batch_wait`",
    ),
    (
        "[tables]",
        "[stream]\nbatch_wait = 5\n[tables]",
        "TM7004 `stream.batch_wait` must be a duration",
    ),
    (
        "[tables]",
        "[table]\nsource = \"a.b\"\n[tables]",
        "TM7004 `table` is a list of sections",
    ),
    (
        "[tables]",
        "tags = []\n[tables]",
        "TM7003 unknown key `tags`",
    ),
    (
        "[tables]",
        "[source.postgres]\nslot = \"\"\n[tables]",
        "TM7012 `source.postgres.slot`",
    ),
    (
        "[tables]",
        "[source.postgres]\npublication = \"\"\n[tables]",
        "TM7012 `source.postgres.publication`",
    ),
    (
        "[tables]",
        "[source.postgres.deep]\nx = 1\n[tables]",
        "TM7003 unknown key `deep`",
    ),
    (
        "[tables]",
        "[[table]]\nsource = \"a.b\"\nwhere = \"\"\n[tables]",
        "TM7011 this row filter cannot be used",
    ),
    (
        "include = [\"public.*\"]",
        "",
        "TM7002 `include` is missing",
    ),
    (
        "include = [\"public.*\"]",
        "include = \"public.*\"",
        "TM7004 `tables.include` must be a list of texts",
    ),
    (
        "include = [\"public.*\"]",
        "include = [\"a.b.c\"]",
        "TM7012 `a.b.c` does not name a table",
    ),
];

#[test]
fn single_mistakes_have_a_single_problem() {
    for (from, to, expected) in MISTAKES {
        assert!(SMALL.contains(from), "{from}");
        let problems = reading(&SMALL.replace(from, to), None, &[])
            .map(|_| ())
            .expect_err(to);
        let found: Vec<String> = problems
            .iter()
            .map(|problem| format!("{} {}", problem.code, problem.message))
            .collect();
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{to}: {found:?}"
        );
    }
}

#[test]
fn a_filter_problem_points_into_the_filter() {
    let with = |filter: &str| format!("{SMALL}[[table]]\nsource = \"a.b\"\nwhere = {filter}\n");
    for (filter, column) in [
        ("\"id = now()\"", 15),
        ("'id = now()'", 15),
        ("\"\"\"id = now()\"\"\"", 17),
        // With an escape, text and file differ: the whole value is marked.
        ("\"\\u0069d = now()\"", 9),
    ] {
        let problems = reading(&with(filter), None, &[]).map(|_| ()).unwrap_err();
        let position = problems.iter().next().unwrap().position().unwrap();
        assert_eq!(position, format!("shop.toml:14:{column}"), "{filter}");
    }
}
