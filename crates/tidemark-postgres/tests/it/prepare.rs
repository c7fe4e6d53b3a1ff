//! Tables, types and sequences made on the target, and what becomes of those that are there.

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_core::config::Located;
use tidemark_core::mapping::{ColumnPattern, MaskRule, MaskWith, Rules, TableRule};
use tidemark_core::selection::Pattern;
use tidemark_core::source::RowFormat;
use tidemark_core::target::{Existing, Place, TypeChanges};
use tidemark_lab::PostgresServer;
use tidemark_lab::zoo::Zoo;

use crate::lab;
use crate::target::{Database, Pair, started_at, whole};

const TYPES: &str = r#"
    CREATE TYPE mood AS ENUM ('so ''so''', 'sad', 'happy');
    CREATE DOMAIN positive AS int DEFAULT 7 CHECK (VALUE > 0);
    CREATE DOMAIN moody AS mood[] NOT NULL DEFAULT ARRAY['sad'::mood];
    CREATE TYPE pair AS (a positive, "B b" text COLLATE "C", m mood);
    CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi);
    CREATE COLLATION german (provider = icu, locale = 'de-DE-x-icu', deterministic = false);
    CREATE SEQUENCE free_seq START WITH 100 INCREMENT BY 5;
    CREATE TABLE things (
        id bigserial,
        always int GENERATED ALWAYS AS IDENTITY (START WITH 10 INCREMENT BY 3),
        n numeric(8,2) NOT NULL DEFAULT 1.50,
        m mood DEFAULT 'sad', ms mood[], d positive, dm moody, p pair, s span, sm span_multirange,
        t text COLLATE german, "Weird "" Col" text COLLATE "C" DEFAULT 'it''s',
        at timestamptz(3) DEFAULT now(), drawn int DEFAULT nextval('free_seq'),
        half numeric GENERATED ALWAYS AS (n / 2) STORED
    );
    COMMENT ON TABLE things IS 'it''s a table';
    COMMENT ON COLUMN things.n IS 'how much';
    ALTER TABLE things SET (fillfactor = 90);
    INSERT INTO things (n, m, ms, d, p, s, sm, t) VALUES
        (1, 'happy', '{sad,"so ''so''"}', 3, '(4,"x ""y""",sad)', '[1,2)', '{[1,2),[3,4]}', 'ä'),
        (2, NULL, NULL, NULL, NULL, NULL, NULL, '');
"#;

#[tokio::test]
async fn the_whole_zoo_arrives_as_it_is() {
    let server = PostgresServer::shared().await.unwrap();
    let name = server.fresh_database("zoo").await.unwrap();
    let client = server.client_to(&name).await.unwrap();
    let zoo = Zoo::create(&client).await.unwrap();
    assert!(zoo.kinds() > 40, "{}", zoo.kinds());
    let pair = Pair::of(lab::Database { server, name }, Rules::default()).await;
    pair.load_all().await;
    let outcome = pair
        .comparison_of(async |comparison| comparison.run().await.unwrap())
        .await;
    let mut different = outcome.tables.iter().filter(|table| !table.is_identical());
    assert!(outcome.is_identical(), "{:?}", different.next());
    let canary = "SELECT count(*) FROM odd.canary";
    assert_eq!(pair.database.value(canary).await, "2");
}

#[tokio::test]
async fn tables_look_as_they_do_on_the_source() {
    let pair = Pair::new(TYPES, Rules::default()).await;
    pair.load_all().await;
    pair.assert_identical().await;
    for question in [
        COLUMNS,
        "SELECT obj_description('public.things'::regclass), reloptions \
         FROM pg_class WHERE oid = 'public.things'::regclass",
        "SELECT enumlabel FROM pg_enum ORDER BY enumsortorder",
        "SELECT seqstart, seqincrement FROM pg_sequence WHERE seqrelid = 'free_seq'::regclass",
        "SELECT seqstart, seqincrement FROM pg_sequence \
         WHERE seqrelid = pg_get_serial_sequence('things', 'always')::regclass",
    ] {
        let source = pair.source.server.psql(&pair.source.name, question).await;
        let source = source.unwrap();
        assert_eq!(pair.database.value(question).await, source.trim_end());
    }
    let mapping = pair.mapping("things");
    let again = pair.prepare("things", Existing::Truncate).await.unwrap();
    assert_eq!(again.format, RowFormat::PgCopyText, "composites carry oids");
    assert!(again.loaded_units.is_empty());
    pair.target
        .prepare_objects(&pair.schema, &pair.mappings, TypeChanges::Additions, &[])
        .await
        .expect("what is there stays");
    pair.copy(mapping, Place::InPlace, again.format)
        .await
        .unwrap();
    pair.assert_identical().await;
}

const COLUMNS: &str = "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
     a.attidentity, a.attgenerated, a.attcollation::regcollation, pg_get_expr(d.adbin, d.adrelid), \
     col_description(a.attrelid, a.attnum) \
     FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     WHERE a.attrelid = 'public.things'::regclass AND a.attnum > 0 ORDER BY a.attnum";

#[tokio::test]
async fn types_and_defaults_follow_a_schema_that_moves() {
    let rules = Rules {
        target_schema: Some(Located::nowhere("dw".to_owned())),
        tables: vec![renaming(
            "public.things",
            &[("n", "id"), ("id", "n"), ("at", "when")],
        )],
        ..Rules::default()
    };
    let pair = Pair::new(TYPES, rules).await;
    pair.load_all().await;
    let outcome = pair
        .comparison_of(async |comparison| {
            let things = ("public", "things");
            comparison
                .schema("public", "dw")
                .column(things, "n", "id")
                .column(things, "id", "n")
                .column(things, "at", "when")
                .run()
                .await
                .unwrap()
        })
        .await;
    assert!(outcome.is_identical(), "{outcome:?}");
    let questions = [
        ("SELECT to_regclass('public.things') IS NULL", "t"),
        (
            "SELECT count(*) FROM pg_type WHERE typnamespace = 'public'::regnamespace",
            "0",
        ),
        (
            "SELECT half FROM dw.things ORDER BY id LIMIT 1",
            "0.50000000000000000000",
        ),
        (
            "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef \
             WHERE adrelid = 'dw.things'::regclass AND adnum = 1",
            "nextval('dw.things_id_seq'::regclass)",
        ),
        (
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute \
             WHERE attrelid = 'dw.things'::regclass AND attname = 'sm'",
            "dw.span_multirange",
        ),
    ];
    for (question, expected) in questions {
        assert_eq!(pair.database.value(question).await, expected, "{question}");
    }
    // Found again as what it is.
    let again = pair.prepare("things", Existing::Truncate).await;
    again.expect("it fits");
}

#[tokio::test]
async fn masked_and_left_out_columns_change_the_table() {
    let mask = |column: &str, with| MaskRule {
        columns: vec![Located::nowhere(ColumnPattern::parse(column).unwrap())],
        with,
    };
    let salt = tidemark_core::config::Secret::new("s");
    let rules = Rules {
        tables: vec![TableRule {
            drop_columns: vec![Located::nowhere("born".to_owned())],
            ..renaming("public.people", &[])
        }],
        masks: vec![
            mask("public.people.mail", MaskWith::Hash { salt }),
            mask("public.people.pay", MaskWith::Null),
            mask("public.people.grade", MaskWith::Redact),
        ],
        ..Rules::default()
    };
    let script = "CREATE TABLE people (id int, mail varchar(20) NOT NULL DEFAULT 'a@b', \
                  pay int NOT NULL DEFAULT 7, grade int NOT NULL DEFAULT 3, born date, \
                  age int GENERATED ALWAYS AS (2000 - extract(year FROM born)::int) STORED)";
    let pair = Pair::new(script, rules).await;
    let prepared = pair.prepare("people", Existing::LoadIfEmpty).await.unwrap();
    assert_eq!(prepared.format, RowFormat::PgCopyBinary);
    let shape = "SELECT attname, format_type(atttypid, atttypmod), attnotnull, atthasdef \
                 FROM pg_attribute WHERE attrelid = 'people'::regclass AND attnum > 0 ORDER BY attnum";
    assert_eq!(
        pair.database.value(shape).await,
        "id|integer|f|f\nmail|text|t|f\npay|integer|f|f\ngrade|integer|t|f",
        "the generated column needs one that is left out"
    );
}

#[tokio::test]
async fn a_default_that_needs_a_function_of_the_source_stays_behind() {
    let script = "CREATE FUNCTION f() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; \
                  CREATE TABLE t (a int DEFAULT f(), b int DEFAULT 5, \
                                  c int GENERATED ALWAYS AS (b + f()) STORED, \
                                  d int GENERATED ALWAYS AS (b + 1) STORED)";
    let rules = Rules {
        tables: vec![renaming("public.t", &[("b", "B")])],
        ..Rules::default()
    };
    let pair = Pair::new(script, rules).await;
    pair.prepare("t", Existing::LoadIfEmpty).await.unwrap();
    let shape = "SELECT attname, attgenerated, pg_get_expr(adbin, adrelid) FROM pg_attribute \
                 LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
                 WHERE attrelid = 't'::regclass AND attnum > 0 ORDER BY attnum";
    assert_eq!(
        pair.database.value(shape).await,
        "a||\nB||5\nd|s|(\"B\" + 1)"
    );
}

#[tokio::test]
async fn an_existing_type_must_be_the_same() {
    let types = "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN few AS int CHECK (VALUE < 9); \
                 CREATE TABLE t (m mood, f few)";
    for (there, code, said) in [
        (
            "CREATE TYPE mood AS ENUM ('sad', 'ok')",
            codes::TARGET_TYPE_DIFFERS,
            "it lacks 'happy', the source lacks 'ok'",
        ),
        (
            "CREATE TYPE mood AS ENUM ('happy', 'sad')",
            codes::TARGET_TYPE_DIFFERS,
            "its labels stand in another order",
        ),
        (
            "CREATE DOMAIN few AS int CHECK (VALUE < 8)",
            codes::TARGET_TYPE_DIFFERS,
            "CHECK ((VALUE < 9))",
        ),
        (
            "CREATE TABLE mood (x int)",
            codes::TARGET_NAME_TAKEN,
            "public.mood",
        ),
        (
            "CREATE DOMAIN mood AS text",
            codes::TARGET_TYPE_DIFFERS,
            "AS ENUM",
        ),
    ] {
        let pair = Pair::new(types, Rules::default()).await;
        pair.database.run(there).await;
        let refusal = pair
            .target
            .prepare_objects(&pair.schema, &pair.mappings, TypeChanges::Additions, &[])
            .await;
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.code(), code, "{refusal}");
        assert_eq!(refusal.kind(), ErrorKind::Definite);
        assert!(refusal.to_string().contains(said), "{refusal}");
        let others = "SELECT count(*) FROM pg_type WHERE typname IN ('mood', 'few')";
        assert_eq!(
            pair.database.value(others).await,
            "1",
            "nothing else was made"
        );
    }
}

#[tokio::test]
async fn an_existing_enumeration_gets_the_labels_that_it_lacks() {
    let types =
        "CREATE TYPE mood AS ENUM ('', 'sad', 'it''s', 'so so', 'happy'); CREATE TABLE t (m mood)";
    for there in [
        "'', 'sad', 'it''s', 'so so', 'happy'",
        "'sad', 'happy'",
        "'', 'it''s'",
        "'happy'",
        "",
    ] {
        let pair = Pair::new(types, Rules::default()).await;
        let make = format!("CREATE TYPE mood AS ENUM ({there})");
        pair.database.run(&make).await;
        for lacked in [there.matches(',').count() < 4, false] {
            let made = pair
                .target
                .prepare_objects(&pair.schema, &pair.mappings, TypeChanges::Additions, &[])
                .await;
            assert_eq!(made.unwrap(), lacked, "{there}");
        }
        let labels = "SELECT string_agg(enumlabel, '|' ORDER BY enumsortorder) FROM pg_enum";
        assert_eq!(
            pair.database.value(labels).await,
            "|sad|it's|so so|happy",
            "{there}"
        );
    }
}

#[tokio::test]
async fn an_existing_composite_type_gets_the_attributes_that_it_lacks() {
    let types = r#"CREATE TYPE part AS (a int, "b, (c" varchar(5), d numeric(8,2), e text COLLATE "C");
                   CREATE TABLE t (p part)"#;
    for there in ["a int", r#"a int, "b, (c" varchar(5), d numeric(8,2)"#] {
        let pair = Pair::new(types, Rules::default()).await;
        pair.database
            .run(&format!(
                "CREATE TYPE part AS ({there}); CREATE TABLE t (p part); INSERT INTO t VALUES (NULL)"
            ))
            .await;
        for lacked in [true, false] {
            let made = pair
                .target
                .prepare_objects(&pair.schema, &pair.mappings, TypeChanges::Additions, &[])
                .await;
            assert_eq!(made.unwrap(), lacked, "{there}");
        }
    }
}

#[tokio::test]
async fn an_extension_is_made_or_its_lack_is_told() {
    let script =
        "CREATE EXTENSION hstore; CREATE TABLE t (h hstore); INSERT INTO t VALUES ('a=>1')";
    let pair = Pair::new(script, Rules::default()).await;
    pair.load_all().await;
    pair.assert_identical().await;

    let pair = Pair::new(script, Rules::default()).await;
    pair.database
        .run("CREATE SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext")
        .await;
    let refusal = pair
        .target
        .prepare_objects(&pair.schema, &pair.mappings, TypeChanges::Additions, &[])
        .await;
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_NO_EXTENSION);
    assert!(
        refusal.action().contains("SET SCHEMA public"),
        "{}",
        refusal.action()
    );

    let mut pair = Pair::new(script, Rules::default()).await;
    for object in &mut pair.schema.objects {
        object.name.name = "nowhere_to_be_had".to_owned();
    }
    let refusal = pair
        .target
        .prepare_objects(&pair.schema, &pair.mappings, TypeChanges::Additions, &[])
        .await;
    assert_eq!(refusal.unwrap_err().code(), codes::TARGET_NO_EXTENSION);
}

const ORDERS: &str = "CREATE TABLE orders (id int NOT NULL, name varchar(10), price numeric(8,2)); \
                      INSERT INTO orders VALUES (1, 'a', 1.5), (2, 'b', NULL)";

#[tokio::test]
async fn what_becomes_of_a_table_that_is_there() {
    use Existing::{AppendIfEmpty, Drop, Fail, LoadIfEmpty, Resume, SkipLoaded, Truncate};
    let empty = "CREATE TABLE orders (id int NOT NULL, name varchar(10), price numeric(8,2))";
    let full = format!("{empty}; INSERT INTO orders VALUES (7, 'x', 0)");
    for (there, existing, expected) in [
        ("", LoadIfEmpty, Ok("0")),
        ("", Fail, Ok("0")),
        ("", AppendIfEmpty, Err(codes::TARGET_TABLE_MISSING)),
        ("", SkipLoaded, Ok("0")),
        ("", Resume, Ok("0")),
        (empty, LoadIfEmpty, Ok("0")),
        (empty, Fail, Err(codes::TARGET_TABLE_EXISTS)),
        (empty, AppendIfEmpty, Ok("0")),
        (empty, SkipLoaded, Ok("0")),
        (&full, LoadIfEmpty, Err(codes::TARGET_TABLE_NOT_EMPTY)),
        (&full, AppendIfEmpty, Err(codes::TARGET_TABLE_NOT_EMPTY)),
        (&full, SkipLoaded, Ok("1")),
        (&full, Truncate, Ok("0")),
        (&full, Drop, Ok("0")),
        (&full, Resume, Ok("1")),
    ] {
        let pair = Pair::new(ORDERS, Rules::default()).await;
        pair.database.run(there).await;
        let prepared = pair.prepare("orders", existing).await;
        let what = format!("{existing:?} with `{there}`");
        match expected {
            Ok(rows) => {
                let prepared = prepared.unwrap();
                let count = "SELECT count(*) FROM orders";
                assert_eq!(pair.database.value(count).await, rows, "{what}");
                let is_skipped = existing == SkipLoaded && rows == "1";
                assert_eq!(prepared.is_skipped, is_skipped, "{what}");
                assert_eq!(
                    prepared.loaded_units.len(),
                    usize::from(is_skipped),
                    "{what}"
                );
                assert_eq!(prepared.format, RowFormat::PgCopyBinary);
                let units = "SELECT count(*) FROM tidemark.unit";
                assert_eq!(pair.database.value(units).await, "1", "{what}");
            }
            Err(code) => {
                let refusal = prepared.unwrap_err();
                assert_eq!(refusal.code(), code, "{what}");
                assert_eq!(refusal.table_name(), Some("public.orders"));
                let units = "SELECT count(*) FROM tidemark.unit";
                assert_eq!(pair.database.value(units).await, "0", "{what}");
            }
        }
    }
}

#[tokio::test]
async fn all_that_does_not_fit_is_told_at_once() {
    let pair = Pair::new(ORDERS, Rules::default()).await;
    pair.database
        .run(
            "CREATE TABLE orders (id bigint, price numeric(6,2) NOT NULL, \
             extra text NOT NULL, fine text NOT NULL DEFAULT 'x')",
        )
        .await;
    let refusal = pair
        .prepare("orders", Existing::LoadIfEmpty)
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_TABLE_UNFIT);
    assert_eq!(refusal.kind(), ErrorKind::Definite);
    assert_eq!(
        refusal.to_string(),
        "prepare public.orders: public.orders does not fit: column name is missing; \
         column price is numeric(6,2), but the source has numeric(8,2); \
         column price refuses NULL, which the source allows; \
         column extra refuses NULL, has no default, and the source has no such column"
    );

    let pair = Pair::new(ORDERS, Rules::default()).await;
    pair.database
        .run("CREATE TABLE orders (price numeric, more int, name text, id bigint)")
        .await;
    let prepared = pair.prepare("orders", Existing::LoadIfEmpty).await.unwrap();
    assert_eq!(
        prepared.format,
        RowFormat::PgCopyText,
        "wider, and in another order"
    );
    let mapping = pair.mapping("orders");
    pair.copy(mapping, Place::InPlace, prepared.format)
        .await
        .unwrap();
    let rows = "SELECT id, name, price, more FROM orders ORDER BY id";
    assert_eq!(pair.database.value(rows).await, "1|a|1.50|\n2|b||");

    for (there, said) in [
        ("CREATE VIEW orders AS SELECT 1 AS id", "is a view"),
        ("CREATE UNLOGGED TABLE orders (id int)", "is unlogged"),
        ("CREATE SEQUENCE orders", "is a sequence"),
    ] {
        let pair = Pair::new(ORDERS, Rules::default()).await;
        pair.database.run(there).await;
        let refusal = pair.prepare("orders", Existing::Drop).await.unwrap_err();
        assert_eq!(refusal.code(), codes::TARGET_NOT_A_TABLE);
        assert!(refusal.to_string().contains(said), "{refusal}");
    }
}

#[tokio::test]
async fn what_hangs_on_a_table_is_named_or_set_aside() {
    let script = "CREATE TABLE parent (id int PRIMARY KEY); \
                  CREATE TABLE child (id serial PRIMARY KEY, parent int REFERENCES parent)";
    for existing in [Existing::Truncate, Existing::Drop] {
        let pair = Pair::new(script, Rules::default()).await;
        pair.database.run(script).await;
        pair.database
            .run("INSERT INTO parent VALUES (1); INSERT INTO child (parent) VALUES (1)")
            .await;
        pair.target
            .prepare_objects(&pair.schema, &pair.mappings, TypeChanges::Additions, &[])
            .await
            .unwrap();
        pair.prepare("parent", existing).await.unwrap();
        pair.prepare("child", existing).await.unwrap();
        let aside = "SELECT target_name, name, definition FROM tidemark.foreign_key";
        assert_eq!(
            pair.database.value(aside).await,
            "child|child_parent_fkey|FOREIGN KEY (parent) REFERENCES public.parent(id)"
        );
        let count = "SELECT count(*) FROM parent, child";
        assert_eq!(pair.database.value(count).await, "0");
        let drawn = "INSERT INTO child (parent) VALUES (1) RETURNING id";
        assert_eq!(pair.database.value(drawn).await.lines().next(), Some("2"));

        let pair = Pair::new("CREATE TABLE parent (id int PRIMARY KEY)", Rules::default()).await;
        pair.database.run(script).await;
        let refusal = pair.prepare("parent", existing).await.unwrap_err();
        assert_eq!(refusal.code(), codes::TARGET_DEPENDENTS);
        let text = refusal.to_string();
        assert!(
            text.contains("foreign key child_parent_fkey of public.child"),
            "{text}"
        );
    }
    let pair = Pair::new(ORDERS, Rules::default()).await;
    pair.database
        .run(&format!(
            "{ORDERS}; CREATE VIEW cheap AS SELECT * FROM orders"
        ))
        .await;
    let refusal = pair.prepare("orders", Existing::Drop).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_DEPENDENTS);
    assert!(
        refusal.to_string().contains("view public.cheap"),
        "{refusal}"
    );
    let count = "SELECT count(*) FROM cheap";
    assert_eq!(pair.database.value(count).await, "2", "nothing was lost");
    pair.prepare("orders", Existing::Truncate).await.unwrap();
}

#[tokio::test]
async fn a_table_that_vanished_is_not_believed_to_be_loaded() {
    let pair = Pair::new(ORDERS, Rules::default()).await;
    let mut unit = whole();
    unit.is_loaded = true;
    let mapping = pair.mapping("orders");
    let refusal = pair
        .target
        .prepare(mapping, Existing::Resume, Place::InPlace, &[unit.clone()])
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_TABLE_MISSING);
    assert_eq!(refusal.kind(), ErrorKind::Data);

    pair.load_all().await;
    let prepared = pair
        .target
        .prepare(mapping, Existing::Resume, Place::InPlace, &[unit])
        .await
        .unwrap();
    assert_eq!(prepared.loaded_units, [0]);
    pair.assert_identical().await;
}

#[tokio::test]
async fn a_table_is_prepared_with_its_units_or_not_at_all() {
    let pair = Pair::new(ORDERS, Rules::default()).await;
    pair.database
        .run("UPDATE tidemark.checkpoint SET generation = 9, written_by = 9")
        .await;
    let refusal = pair
        .prepare("orders", Existing::LoadIfEmpty)
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_FENCED);
    let there = "SELECT to_regclass('orders') IS NULL, (SELECT count(*) FROM tidemark.unit)";
    assert_eq!(pair.database.value(there).await, "t|0");
}

#[tokio::test]
async fn a_role_that_owns_one_schema_is_enough() {
    let source = lab::database(TYPES).await;
    let rules = Rules {
        target_schema: Some(Located::nowhere("dw".to_owned())),
        ..Rules::default()
    };
    let mut pair = Pair::of(source, rules).await;
    let database = Database::new().await;
    let role = format!("owner_of_{}", database.name);
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN; CREATE SCHEMA dw AUTHORIZATION {role}; \
             CREATE SCHEMA tidemark AUTHORIZATION {role}"
        ))
        .await;
    let url = database.server.url_with(&role, None, &database.name);
    pair.target = started_at(&url, "shop", &pair.mappings).await;
    pair.database = database;
    pair.load_all().await;
    let outcome = pair
        .comparison_of(async |comparison| comparison.schema("public", "dw").run().await.unwrap())
        .await;
    assert!(outcome.is_identical(), "{outcome:?}");
}

/// A rule that only renames columns.
pub(crate) fn renaming(table: &str, columns: &[(&str, &str)]) -> TableRule {
    let located = |text: &str| Located::nowhere(text.to_owned());
    TableRule {
        source: Located::nowhere(Pattern::parse(table).unwrap()),
        target: None,
        rename: columns
            .iter()
            .map(|(from, to)| (located(from), located(to)))
            .collect(),
        drop_columns: Vec::new(),
        filter: None,
        chunk_rows: None,
        on_row_error: None,
    }
}
