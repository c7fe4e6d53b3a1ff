//! From the text of a file and a catalog to mappings, and the words for what does not fit.

use super::fixture::{column, table};
use super::*;
use crate::config::{self, Document, Input, Problems, secret};
use crate::mask::redacted;
use crate::schema::{ColumnDefault, NotCarried, ReplicaIdentity, SourceSchema};

/// Rules of a pipeline with this text behind `[tables]`.
fn rules(text: &str) -> Rules {
    let head = "version = 1\n[pipeline]\nname = \"shop\"\nmode = \"full_load_and_cdc\"\n\
        [source]\nurl = \"postgres://a@one/x\"\n[target]\nurl = \"postgres://a@two/x\"\n";
    let text = format!("{head}{text}");
    let input = Input {
        file: Document::new("shop.toml", text),
        connections: Vec::new(),
        overrides: &[],
        surroundings: &secret::Nothing,
    };
    let reading = config::read(input).unwrap_or_else(|problems| panic!("{problems}"));
    reading.config.rules
}

fn shop() -> SourceSchema {
    let mut customers = table(
        "public.customers",
        &[
            ("id", "bigint"),
            ("email", "text"),
            ("name", "character varying(20)"),
            ("phone", "character(12)"),
            ("born", "date"),
            ("score", "numeric(8,2)"),
            ("feeling", "mood"),
            ("span", "interval"),
        ],
    );
    customers.columns[1].is_not_null = true;
    let mut orders = table(
        "public.orders",
        &[
            ("id", "bigint"),
            ("customer_id", "bigint"),
            ("status", "text"),
            ("total", "numeric"),
            ("note", "text"),
        ],
    );
    orders.columns[3].default = ColumnDefault::Generated("1 + 1".to_owned());
    let mut log = table(
        "audit.log",
        &[("at", "timestamp with time zone"), ("what", "text")],
    );
    log.primary_key = Vec::new();
    log.identity = ReplicaIdentity::Full;
    SourceSchema {
        tables: vec![
            customers,
            orders,
            log,
            table("public.Users", &[("id", "bigint")]),
        ],
        not_carried: vec![
            NotCarried {
                kind: "view".to_owned(),
                name: "public.daily".to_owned(),
                note: "it has no rows of its own; make it on the target".to_owned(),
            },
            NotCarried {
                kind: "unlogged table".to_owned(),
                name: "staging.raw".to_owned(),
                note: "its changes are not in the log".to_owned(),
            },
        ],
        unselected: vec![TableName::new("public", "tmp_import")],
        ..SourceSchema::default()
    }
}

fn mappings(text: &str) -> Vec<TableMapping> {
    rules(text)
        .mappings(&shop())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(text: &str) -> Problems {
    rules(text).mappings(&shop()).map(|_| ()).expect_err(text)
}

fn of<'a>(mappings: &'a [TableMapping], name: &str) -> &'a TableMapping {
    mappings
        .iter()
        .find(|mapping| mapping.source().to_string() == name)
        .unwrap()
}

const ALL: &str = "[tables]\ninclude = [\"*.*\"]\n";

#[test]
fn without_exceptions_everything_keeps_its_name() {
    let mappings = mappings(ALL);
    let orders = of(&mappings, "public.orders");
    assert_eq!(orders.target.to_string(), "public.orders");
    let names: Vec<&str> = orders
        .columns
        .iter()
        .map(|column| column.target.as_str())
        .collect();
    assert_eq!(
        names,
        ["id", "customer_id", "status", "note"],
        "generated columns are left out"
    );
    assert_eq!(orders.key, [0]);
    assert!(orders.is_verbatim());
    assert_eq!(of(&mappings, "audit.log").key, Vec::<usize>::new());
}

#[test]
fn tables_and_columns_are_renamed_and_left_out() {
    let mappings = mappings(&format!(
        "{ALL}[[table]]\nsource = \"public.orders\"\ntarget = \"dw.order_lines\"\n\
         rename = {{ id = \"order_id\", status = \"id\" }}\ndrop_columns = [\"note\"]\n\
         [[table]]\nsource = \"public.*\"\ntarget = \"{{schema}}_dw.t_{{table}}\"\n"
    ));
    let orders = of(&mappings, "public.orders");
    assert_eq!(orders.target.to_string(), "dw.order_lines");
    let names: Vec<&str> = orders
        .columns
        .iter()
        .map(|column| column.target.as_str())
        .collect();
    assert_eq!(names, ["order_id", "customer_id", "id"]);
    assert_eq!(orders.target_column("note"), None);
    assert_eq!(
        of(&mappings, "public.customers").target.to_string(),
        "public_dw.t_customers"
    );
    assert_eq!(of(&mappings, "audit.log").target.to_string(), "audit.log");
}

#[test]
fn the_targets_schema_is_for_all_that_have_no_name_of_their_own() {
    let mut rules = rules(&format!(
        "{ALL}[[table]]\nsource = \"audit.log\"\ntarget = \"logs.audit\"\n"
    ));
    rules.target_schema = Some(config::Located::nowhere("dw_{schema}".to_owned()));
    let mappings = rules.mappings(&shop()).unwrap();
    assert_eq!(
        of(&mappings, "public.orders").target.to_string(),
        "dw_public.orders"
    );
    assert_eq!(of(&mappings, "audit.log").target.to_string(), "logs.audit");
}

#[test]
fn s01_names_that_look_like_templates_are_names() {
    let mut rules = rules(ALL);
    rules.target_schema = Some(config::Located::nowhere("{{schema}_{table}".to_owned()));
    let odd = table("{table}.{schema}", &[("id", "bigint")]);
    let mapping = rules.map_table(&odd).unwrap();
    assert_eq!(
        mapping.target,
        TableName::new("{{table}_{schema}", "{schema}")
    );
}

#[test]
fn the_key_is_that_of_the_replica_identity_else_the_primary_key() {
    for (identity, primary, expected) in [
        (ReplicaIdentity::Key(vec![2, 1]), vec![0], vec![2, 1]),
        (ReplicaIdentity::Full, vec![0], vec![0]),
        (ReplicaIdentity::Full, vec![], vec![]),
        (ReplicaIdentity::Nothing, vec![1], vec![1]),
    ] {
        let mut one = table(
            "public.t",
            &[("a", "integer"), ("b", "integer"), ("c", "integer")],
        );
        one.identity = identity.clone();
        one.primary_key = primary;
        let mapping = rules(ALL).map_table(&one).unwrap();
        assert_eq!(mapping.key, expected, "{identity:?}");
    }
}

#[test]
fn masks_fit_their_column_and_say_the_targets_type() {
    let mask =
        |columns: &str, with: &str| format!("[[mask]]\ncolumns = [\"{columns}\"]\nwith = {with}\n");
    let mappings = mappings(&format!(
        "{ALL}{}{}{}{}{}{}",
        mask("public.customers.id", "\"hash\"\nsalt = \"x\""),
        mask("*.*.email", "\"null\""),
        mask("*.customers.phone", "\"partial\""),
        mask("public.customers.born", "\"redact\""),
        mask("public.customers.score", "\"fixed\"\nvalue = \"1.50\""),
        mask("public.customers.*", "\"hash\"\nsalt = \"x\""),
    ));
    let customers = of(&mappings, "public.customers");
    let shown: Vec<(&str, &str, TargetType)> = customers
        .columns
        .iter()
        .map(|column| {
            (
                column.target.as_str(),
                column.mask.as_ref().map_or("", Mask::word),
                column.target_type,
            )
        })
        .collect();
    let (same, text) = (TargetType::AsSource, TargetType::Text);
    assert_eq!(
        shown,
        [
            ("id", "hash", text),
            ("email", "null", same),
            ("name", "hash", text),
            ("phone", "partial", text),
            ("born", "redact", same),
            ("score", "fixed", same),
            ("feeling", "hash", text),
            ("span", "hash", text),
        ]
    );
    assert!(
        !customers.is_not_null(&customers.columns[1]),
        "a mask makes NULL of it"
    );
    assert_eq!(customers.class(&customers.columns[0]), ValueClass::Text);
    assert!(!customers.is_verbatim());
}

/// The one problem of a text, as position, code, message and label.
fn the_problem(text: &str) -> String {
    let problems = problems(text);
    let shown: Vec<String> = problems
        .iter()
        .map(|problem| {
            let position = problem.position().unwrap_or_default();
            let position = position.strip_prefix("shop.toml:").unwrap_or("nowhere");
            format!(
                "{position} {} {}: {}",
                problem.code, problem.message, problem.label
            )
        })
        .collect();
    assert_eq!(shown.len(), 1, "{text}\n{shown:#?}");
    shown.concat()
}

#[test]
fn tables_that_do_not_fit_are_told_with_their_place() {
    let table = |rest: &str| format!("{ALL}[[table]]\n{rest}");
    let long = "x".repeat(64);
    for (text, expected) in [
        (
            "[tables]\ninclude = [\"*.*\", \"sales.*\"]".to_owned(),
            "10:19 TM7020 no table matches `sales.*`: the source has no schema `sales` with tables in it",
        ),
        (
            "[tables]\ninclude = [\"*.*\", \"staging.*\"]".to_owned(),
            "10:19 TM7020 no table matches `staging.*`: staging.raw is there and cannot be copied: its changes are not in the log",
        ),
        (
            "[tables]\ninclude = [\"*.*\", \"publik.*\"]".to_owned(),
            "10:19 TM7020 no table matches `publik.*`: did you mean schema `public`?",
        ),
        (
            "[tables]\ninclude = [\"*.*\", \"public.users\"]".to_owned(),
            "10:19 TM7020 the source has no table public.users: did you mean `public.Users`?",
        ),
        (
            "[tables]\ninclude = [\"*.*\", \"public.daily\"]".to_owned(),
            "10:19 TM7026 public.daily is a view and cannot be copied: it has no rows of its own",
        ),
        (
            table("source = \"public.ordres\"\n"),
            "12:10 TM7020 the source has no table public.ordres: did you mean `public.orders`?",
        ),
        (
            table("source = \"public.tmp_import\"\n"),
            "12:10 TM7020 public.tmp_import is not among the selected tables: add it to",
        ),
        (
            table("source = \"public.orders\"\nrename = { Note = \"x\" }\n"),
            "13:12 TM7021 public.orders has no column `Note`: did you mean `note`?",
        ),
        (
            table("source = \"public.orders\"\nrename = { total = \"x\" }\n"),
            "13:12 TM7021 column `total` is generated",
        ),
        (
            table("source = \"public.orders\"\ndrop_columns = [\"zzz\"]\n"),
            "13:17 TM7021 public.orders has no column `zzz`: names mind",
        ),
        (
            table("source = \"public.orders\"\ndrop_columns = [\"id\"]\n"),
            "13:17 TM7024 `id` is part of the key of public.orders: it cannot be left out",
        ),
        (
            table("source = \"public.orders\"\nrename = { note = \"status\" }\n"),
            "13:19 TM7022 two columns of public.orders would be called `status`",
        ),
        (
            table("source = \"public.orders\"\ntarget = \"audit.log\"\n"),
            "10:12 TM7022 two tables would go to audit.log",
        ),
        (
            table(&format!(
                "source = \"public.orders\"\ntarget = \"dw.{long}\"\n"
            )),
            "13:10 TM7023 `dw.xxx",
        ),
        (
            table(&format!(
                "source = \"public.orders\"\nrename = {{ note = \"{}\" }}\n",
                "ä".repeat(32)
            )),
            "13:19 TM7023 `ää",
        ),
        (
            table("source = \"public.orders\"\nwhere = \"status = 'a' AND id = 'b'\"\n"),
            "13:32 TM7011 this row filter cannot be used: this does not fit `id`",
        ),
        (
            table("source = \"public.*\"\n[[table]]\nsource = \"*.orders\"\n"),
            "14:10 TM7006 two [[table]] are for public.orders: `public.*` is too",
        ),
    ] {
        let shown = the_problem(&text);
        assert!(shown.starts_with(expected), "{text}\n{shown}");
    }
}

#[test]
fn masks_that_do_not_fit_are_told_with_their_place() {
    let mask = |columns: &str, with: &str| {
        format!("{ALL}[[mask]]\ncolumns = [\"{columns}\"]\nwith = {with}\n")
    };
    for (text, expected) in [
        (
            mask("public.customers.emial", "\"null\""),
            "12:12 TM7021 public.customers has no column `emial`: did you mean `email`?",
        ),
        (
            mask("public.custmers.email", "\"null\""),
            "12:12 TM7020 this mask is for no table: `public.custmers`: did you mean `public.customers`?",
        ),
        (
            mask("*.*.fone*", "\"null\""),
            "12:12 TM7021 no column matches `*.*.fone*`",
        ),
        (
            mask("public.customers.id", "\"redact\""),
            "12:12 TM7024 `id` is part of the key of public.customers and cannot be masked with \"redact\"",
        ),
        (
            mask("public.customers.born", "\"partial\""),
            "12:12 TM7025 public.customers.born is of type date and cannot be masked with \"partial\"",
        ),
        (
            mask("public.customers.span", "\"redact\""),
            "12:12 TM7025 public.customers.span is of type interval",
        ),
        (
            mask("public.customers.born", "\"fixed\"\nvalue = \"soon\""),
            "12:12 TM7025 public.customers.born is of type date and cannot be masked with \"fixed\": the value does not fit",
        ),
        (
            mask(
                "public.customers.name",
                "\"fixed\"\nvalue = \"a name that is far too long\"",
            ),
            "12:12 TM7025 public.customers.name is of type character varying(20) and cannot be masked with \"fixed\": the value has more than 20 characters",
        ),
    ] {
        let shown = the_problem(&text);
        assert!(shown.starts_with(expected), "{text}\n{shown}");
    }
}

#[test]
fn a_table_is_not_copied_onto_itself() {
    let mut rules = rules(ALL);
    rules.is_same_database = true;
    assert_eq!(rules.mappings(&shop()).unwrap_err().len(), 4);
    rules.target_schema = Some(config::Located::nowhere("copy".to_owned()));
    assert!(rules.mappings(&shop()).is_ok());
}

#[test]
fn all_problems_of_all_tables_are_found_at_once() {
    let found = problems(
        "[tables]\ninclude = [\"*.*\", \"nope.*\"]\n[[table]]\nsource = \"public.orders\"\n\
         drop_columns = [\"id\", \"zzz\"]\nwhere = \"nope = 1\"\n\
         [[mask]]\ncolumns = [\"public.customers.id\"]\nwith = \"null\"\n",
    );
    assert_eq!(found.len(), 5, "{found}");
}

/// A rule that named a column which is gone by now is no mistake of the file.
#[test]
fn a_table_that_changed_on_the_way_is_mapped_as_far_as_the_rules_still_fit() {
    let rules = rules(&format!(
        "{ALL}[[table]]\nsource = \"public.orders\"\nrename = {{ status = \"state\" }}\n\
         drop_columns = [\"note\"]\nwhere = \"total > 5\"\n\
         [[mask]]\ncolumns = [\"*.*.phone\"]\nwith = \"partial\"\n"
    ));
    let mut changed = table(
        "public.orders",
        &[("id", "bigint"), ("total", "numeric"), ("phone", "text")],
    );
    changed.columns.push(column("note", "text"));
    let mapping = rules.map_table(&changed).unwrap();
    let names: Vec<&str> = mapping
        .columns
        .iter()
        .map(|column| column.target.as_str())
        .collect();
    assert_eq!(names, ["id", "total", "phone"]);
    assert_eq!(
        mapping.columns[2].mask,
        Some(Mask::Partial),
        "a new column gets the mask that fits it"
    );

    changed.columns.remove(1);
    let err = rules.map_table(&changed).unwrap_err();
    assert_eq!(err.kind(), crate::ErrorKind::Data);
    assert_eq!(err.table_name(), Some("public.orders"));
}

#[test]
fn chunk_rows_become_bytes_by_the_average_row() {
    let rules = rules(&format!(
        "{ALL}[[table]]\nsource = \"public.orders\"\nchunk_rows = 1_000\n"
    ));
    let mut orders = table("public.orders", &[("id", "bigint")]);
    orders.rows = Some(50_000);
    orders.bytes = 5_000_000;
    assert_eq!(rules.chunk_bytes(&orders, 7), 100_000);
    orders.rows = None;
    assert_eq!(rules.chunk_bytes(&orders, 7), 7);
    assert_eq!(
        rules.chunk_bytes(&table("public.other", &[("id", "bigint")]), 7),
        7
    );
}

#[test]
fn constants_of_redact_are_values_of_their_class() {
    for type_name in [
        "bigint",
        "numeric",
        "double precision",
        "boolean",
        "text",
        "date",
        "timestamp without time zone",
        "timestamp with time zone",
        "uuid",
        "bytea",
    ] {
        let column = column("v", type_name);
        let constant = redacted(column.class).unwrap();
        assert_eq!(
            Filter::column_value(&column, constant).as_deref(),
            Ok(constant),
            "{type_name}"
        );
    }
}
