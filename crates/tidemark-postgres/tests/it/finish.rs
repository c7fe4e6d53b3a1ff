//! Keys, indexes, checks, foreign keys and sequences, after the rows.

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_core::config::{Located, Secret};
use tidemark_core::mapping::{ColumnPattern, MaskRule, MaskWith, Rules, TableRule};
use tidemark_core::schema::TableName;
use tidemark_core::source::SequenceValue;
use tidemark_core::target::{Existing, Place, TypeChanges};
use tidemark_postgres::schema::describe;

use crate::lab;
use crate::prepare::renaming;
use crate::target::Pair;

/// Keys, indexes and constraints of all kinds.
pub(crate) const SHOP: &str = r#"
    CREATE EXTENSION btree_gist;
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE TABLE parent (id bigserial PRIMARY KEY, code varchar(10) UNIQUE DEFERRABLE, m mood);
    CREATE TABLE child (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        x int, y int NOT NULL, parent_id bigint, t text, m mood,
        CONSTRAINT "y Check" CHECK (y > 0 AND x < y), CONSTRAINT mood_check CHECK (m <> 'sad'),
        CONSTRAINT child_fk FOREIGN KEY (parent_id) REFERENCES parent (id)
            ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
        CONSTRAINT no_overlap EXCLUDE USING gist (int4range(x, y) WITH &&, parent_id WITH =)
    );
    ALTER TABLE child ADD CONSTRAINT old CHECK (x > 0) NOT VALID;
    CREATE UNIQUE INDEX child_expr ON child (lower(t) DESC NULLS LAST, (x + y)) INCLUDE (m)
        WITH (fillfactor = 70) WHERE m <> 'sad'::mood;
    CREATE INDEX child_t ON child (t text_pattern_ops, y DESC);
    CREATE INDEX child_m ON child USING hash (m);
    CREATE TABLE measures (at date NOT NULL, v int, PRIMARY KEY (at, v)) PARTITION BY RANGE (at);
    CREATE TABLE measures_1 PARTITION OF measures FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
    CREATE INDEX ON measures (v);
    CREATE TABLE nodistinct (a int UNIQUE NULLS NOT DISTINCT);
    INSERT INTO parent (code, m) SELECT n, 'happy' FROM generate_series(1, 20) n;
    INSERT INTO child (x, y, parent_id, t, m)
        SELECT n * 10, n * 10 + 5, n, 'T' || n, 'happy' FROM generate_series(1, 20) n;
    INSERT INTO measures SELECT '2024-01-05', n FROM generate_series(1, 20) n;
    SET CONSTRAINTS ALL IMMEDIATE;
    ALTER TABLE child ADD CONSTRAINT unproven FOREIGN KEY (x) REFERENCES child (id) NOT VALID;
"#;

/// Definitions of all that belongs to a table, by name.
const DEFINITIONS: &str = "SELECT * FROM ( \
     SELECT 'index', x.relname, replace(pg_get_indexdef(x.oid), ' ONLY ', ' ') FROM pg_index i \
       JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid \
       WHERE t.relnamespace = 'public'::regnamespace AND t.relispartition IS FALSE \
     UNION ALL SELECT 'constraint', conname, conrelid::regclass || ' ' || pg_get_constraintdef(oid) \
       FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n' \
         AND conrelid <> 'measures_1'::regclass) AS d ORDER BY 1, 2, 3";

async fn finish_all(pair: &Pair) {
    for mapping in &pair.mappings {
        pair.target.finish(mapping, Place::InPlace).await.unwrap();
    }
    pair.target
        .finish_foreign_keys(&pair.mappings)
        .await
        .unwrap();
}

#[tokio::test]
async fn keys_indexes_and_constraints_are_those_of_the_source() {
    let pair = Pair::new(SHOP, Rules::default()).await;
    pair.load_all().await;
    finish_all(&pair).await;
    finish_all(&pair).await;
    let source = pair
        .source
        .server
        .psql(&pair.source.name, DEFINITIONS)
        .await
        .unwrap();
    let target = DEFINITIONS.replace("AND conrelid <> 'measures_1'::regclass", "");
    assert_eq!(pair.database.value(&target).await, source.trim_end());
    let unproven = "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint \
                    WHERE NOT convalidated AND connamespace = 'public'::regnamespace";
    assert_eq!(pair.database.value(unproven).await, "old unproven");
    let known = "SELECT reltuples::int FROM pg_class WHERE relname = 'child'";
    assert_eq!(pair.database.value(known).await, "20", "analyzed");
}

#[tokio::test]
async fn renamed_columns_are_followed_everywhere() {
    let rules = Rules {
        target_schema: Some(Located::nowhere("dw".to_owned())),
        tables: vec![
            renaming(
                "public.child",
                &[
                    ("x", "y"),
                    ("y", "x"),
                    ("t", "order"),
                    ("parent_id", "Parent Id"),
                    ("m", "mm"),
                ],
            ),
            renaming("public.parent", &[("id", "key")]),
        ],
        ..Rules::default()
    };
    let pair = Pair::new(SHOP, rules).await;
    pair.load_all().await;
    finish_all(&pair).await;
    finish_all(&pair).await;
    let definitions = "SELECT pg_get_indexdef(indexrelid) FROM pg_index \
                       WHERE indrelid = 'dw.child'::regclass ORDER BY 1";
    let indexes = pair.database.value(definitions).await;
    for expected in [
        "lower(\"order\") DESC NULLS LAST, ((y + x))) INCLUDE (mm) WITH (fillfactor='70') \
         WHERE (mm <> 'sad'::dw.mood)",
        "(int4range(y, x), \"Parent Id\")",
        "(\"order\" text_pattern_ops, x DESC)",
        "USING hash (mm)",
    ] {
        assert!(indexes.contains(expected), "{expected} in {indexes}");
    }
    let definitions = "SELECT pg_get_constraintdef(oid) FROM pg_constraint \
                       WHERE conrelid = 'dw.child'::regclass AND contype <> 'n' ORDER BY 1";
    let constraints = pair.database.value(definitions).await;
    for expected in [
        "CHECK (((x > 0) AND (y < x)))",
        "CHECK ((mm <> 'sad'::dw.mood))",
        "CHECK ((y > 0)) NOT VALID",
        "FOREIGN KEY (\"Parent Id\") REFERENCES dw.parent(key) ON UPDATE CASCADE \
         ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED",
        "FOREIGN KEY (y) REFERENCES dw.child(id) NOT VALID",
    ] {
        assert!(
            constraints.contains(expected),
            "{expected} in {constraints}"
        );
    }
}

#[tokio::test]
async fn a_taken_name_is_got_around_and_known_again() {
    let script = "CREATE TABLE t (a int PRIMARY KEY, b int); CREATE INDEX t_b ON t (b)";
    let pair = Pair::new(script, Rules::default()).await;
    pair.database
        .run("CREATE TABLE t_pkey (x int); CREATE TABLE other (x int); CREATE INDEX t_b ON other (x)")
        .await;
    pair.load_all().await;
    for _ in 0..2 {
        finish_all(&pair).await;
        let count = "SELECT count(*), bool_or(indisprimary) FROM pg_index \
                     WHERE indrelid = 't'::regclass";
        assert_eq!(pair.database.value(count).await, "2|t");
    }
}

#[tokio::test]
async fn what_does_the_same_already_stays() {
    let script = "CREATE TABLE t (a int PRIMARY KEY, b int); CREATE INDEX t_b ON t (b DESC)";
    let pair = Pair::new(script, Rules::default()).await;
    pair.database
        .run(
            "CREATE TABLE t (a int CONSTRAINT mine PRIMARY KEY, b int); \
             CREATE INDEX fast ON t (b DESC); CREATE INDEX more ON t (b, a)",
        )
        .await;
    pair.prepare("t", Existing::LoadIfEmpty).await.unwrap();
    finish_all(&pair).await;
    let names = "SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid::regclass::text) \
                 FROM pg_index WHERE indrelid = 't'::regclass";
    assert_eq!(pair.database.value(names).await, "fast mine more");
}

#[tokio::test]
async fn what_masks_and_left_out_columns_forbid_is_left_out() {
    let script = "CREATE TABLE p (id int PRIMARY KEY, mail text UNIQUE, pay int CHECK (pay > 5), \
                  gone int, CHECK (gone > 0)); \
                  CREATE UNIQUE INDEX p_pay ON p (pay); CREATE INDEX p_gone ON p (id, gone); \
                  CREATE INDEX p_low ON p (lower(mail)); CREATE INDEX p_mail ON p (mail text_pattern_ops); \
                  CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; \
                  CREATE INDEX p_f ON p (f(id)); ALTER TABLE p ADD CONSTRAINT c_f CHECK (f(id) > 0); \
                  CREATE TABLE c (mail text REFERENCES p (mail), gone int REFERENCES p (id)); \
                  INSERT INTO p VALUES (1, 'a@b', 7, 1), (2, 'c@d', 8, 1); INSERT INTO c VALUES ('a@b', 1)";
    let mask = |column: &str, with| MaskRule {
        columns: vec![Located::nowhere(ColumnPattern::parse(column).unwrap())],
        with,
    };
    let drop_gone = |table: &str| TableRule {
        drop_columns: vec![Located::nowhere("gone".to_owned())],
        ..renaming(table, &[])
    };
    let salt = Secret::new("s");
    let rules = Rules {
        tables: vec![drop_gone("public.p"), drop_gone("public.c")],
        masks: vec![
            mask("public.p.mail", MaskWith::Hash { salt }),
            mask("public.p.pay", MaskWith::Redact),
        ],
        ..Rules::default()
    };
    let pair = Pair::new(script, rules).await;
    pair.target
        .prepare_objects(&pair.schema, &pair.mappings, TypeChanges::Additions, &[])
        .await
        .unwrap();
    pair.prepare("p", Existing::LoadIfEmpty).await.unwrap();
    pair.prepare("c", Existing::LoadIfEmpty).await.unwrap();
    pair.database
        .run("INSERT INTO p VALUES (1, 'x', 0), (2, 'y', 0)")
        .await;
    finish_all(&pair).await;
    let names = "SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid::regclass::text), \
                 (SELECT count(*) FROM pg_constraint WHERE contype IN ('c', 'f') \
                   AND connamespace = 'public'::regnamespace) \
                 FROM pg_index WHERE indrelid = 'p'::regclass";
    assert_eq!(
        pair.database.value(names).await,
        "p_mail p_mail_key p_pkey|0"
    );
}

#[tokio::test]
async fn a_key_that_the_rows_do_not_have_is_an_error_of_the_table() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)", Rules::default()).await;
    pair.load_all().await;
    pair.database
        .run("INSERT INTO t VALUES (4711), (4711)")
        .await;
    let refusal = pair.target.finish(pair.mapping("t"), Place::InPlace).await;
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_UNIQUE);
    assert_eq!(refusal.kind(), ErrorKind::Data);
    assert_eq!(refusal.table_name(), Some("public.t"));
    assert!(!refusal.to_string().contains("4711"), "{refusal}");
}

#[tokio::test]
async fn foreign_keys_that_were_set_aside_come_back() {
    let script = "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (parent int); \
                  INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1)";
    let pair = Pair::new(script, Rules::default()).await;
    pair.database
        .run(
            "CREATE TABLE parent (id int PRIMARY KEY); \
             CREATE TABLE child (parent int CONSTRAINT mine REFERENCES parent ON DELETE CASCADE); \
             INSERT INTO parent VALUES (7); INSERT INTO child VALUES (7)",
        )
        .await;
    for table in ["parent", "child"] {
        let format = pair
            .prepare(table, Existing::Truncate)
            .await
            .unwrap()
            .format;
        let mapping = pair.mapping(table);
        pair.copy(mapping, Place::InPlace, format).await.unwrap();
    }
    for _ in 0..2 {
        finish_all(&pair).await;
        let keys = "SELECT conname, pg_get_constraintdef(oid), convalidated, \
                    (SELECT count(*) FROM tidemark.foreign_key) FROM pg_constraint WHERE contype = 'f'";
        assert_eq!(
            pair.database.value(keys).await,
            "mine|FOREIGN KEY (parent) REFERENCES parent(id) ON DELETE CASCADE|t|0"
        );
    }
}

/// It is the table's affair, whose others go on without it.
#[tokio::test]
async fn a_foreign_key_that_does_not_hold_any_more_names_its_table() {
    let script = "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (parent int); \
                  INSERT INTO parent VALUES (1)";
    let pair = Pair::new(script, Rules::default()).await;
    pair.database
        .run(
            "CREATE TABLE parent (id int PRIMARY KEY); \
             CREATE TABLE child (parent int CONSTRAINT mine REFERENCES parent)",
        )
        .await;
    let prepared = pair.prepare("parent", Existing::Truncate).await;
    let format = prepared.unwrap().format;
    let parent = pair.mapping("parent");
    pair.copy(parent, Place::InPlace, format).await.unwrap();
    pair.database.run("INSERT INTO child VALUES (7)").await;
    let refused = pair.target.finish_foreign_keys(&pair.mappings).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), codes::TARGET_FOREIGN_KEY);
    assert_eq!(refused.table_name(), Some("public.child"));
}

#[tokio::test]
async fn sequences_go_on_where_the_source_stands() {
    let script = "CREATE SEQUENCE free_seq; \
                  CREATE TABLE s (id serial, i int GENERATED BY DEFAULT AS IDENTITY, n int, \
                                  d int DEFAULT nextval('free_seq')); \
                  INSERT INTO s (n) SELECT 1 FROM generate_series(1, 30); \
                  SELECT setval('s_i_seq', 500, false)";
    let rules = Rules {
        target_schema: Some(Located::nowhere("dw".to_owned())),
        tables: vec![renaming("public.s", &[("id", "key"), ("i", "id")])],
        ..Rules::default()
    };
    let pair = Pair::new(script, rules).await;
    pair.load_all().await;
    let source = |name: &str| TableName::new("public", name);
    let value = |name: &str, column: Option<&str>, last_value, is_called| SequenceValue {
        name: source(name),
        owner: column.map(|column| (source("s"), column.to_owned())),
        last_value,
        is_called,
        increment: 1,
        bounds: (1, i64::MAX),
    };
    let mut values = vec![
        value("s_id_seq", Some("id"), 30, true),
        value("s_i_seq", Some("i"), 500, false),
        value("free_seq", None, 30, true),
    ];
    values.push(SequenceValue {
        owner: Some((source("elsewhere"), "x".to_owned())),
        ..values[0].clone()
    });
    // The first of them, which keeps none of the others back.
    pair.database
        .run("ALTER SEQUENCE dw.s_id_seq MAXVALUE 20")
        .await;
    let refused = pair.target.set_sequences(&values, &pair.mappings).await;
    let refused = refused.unwrap();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].code(), codes::SEQUENCE_REFUSED);
    let said = refused[0].to_string();
    assert!(
        said.contains("public.s_id_seq") && said.contains("20"),
        "{said}"
    );
    let last_of_all = "SELECT last_value FROM dw.free_seq";
    assert_eq!(pair.database.value(last_of_all).await, "30");
    pair.database
        .run("ALTER SEQUENCE dw.s_id_seq MAXVALUE 2000")
        .await;
    for _ in 0..2 {
        let set = pair.target.set_sequences(&values, &pair.mappings).await;
        assert!(set.unwrap().is_empty());
    }
    let drawn = "INSERT INTO dw.s (n) VALUES (2) RETURNING key, id, d";
    let drawn = pair.database.value(drawn).await;
    assert_eq!(drawn.lines().next(), Some("31|500|31"));
    let owner = "SELECT pg_get_serial_sequence('dw.s', 'key')";
    assert_eq!(
        pair.database.value(owner).await,
        "dw.s_id_seq",
        "given to its column"
    );
}

#[tokio::test]
async fn what_the_source_describes_is_what_the_target_describes() {
    let pair = Pair::new(SHOP, Rules::default()).await;
    pair.load_all().await;
    finish_all(&pair).await;
    let copy = lab::Database {
        server: pair.database.server,
        name: pair.database.name.clone(),
    };
    let selection = lab::selecting(&["public.child", "public.parent"]);
    let found = describe(&mut copy.connect().await, &selection)
        .await
        .unwrap();
    for table in &found.tables {
        let source = &pair.mapping(&table.name.name).schema;
        assert_eq!(table.indexes, source.indexes);
        assert_eq!(table.checks, source.checks);
        assert_eq!(table.foreign_keys, source.foreign_keys);
        assert_eq!(table.primary_key, source.primary_key);
    }
    assert_eq!(found.tables.len(), 2);
}
