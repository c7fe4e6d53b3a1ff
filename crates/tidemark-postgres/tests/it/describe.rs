//! The catalog of a nasty database, read back.

use tidemark_core::event::{StreamColumn, StreamTable};
use tidemark_core::schema::{
    Column, ColumnDefault, IndexKind, ObjectKind, ReplicaIdentity, SourceSchema, TableName,
    TableSchema, ValueClass,
};
use tidemark_core::source::Fill;
use tidemark_postgres::schema::shape_of;

use crate::lab::{database, table};

const NASTY: &str = r#"
CREATE SCHEMA "Odd ""Schema""";
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE EXTENSION btree_gist;
CREATE COLLATION public.german (provider = icu, locale = 'de-DE-x-icu', deterministic = false);
CREATE TYPE mood AS ENUM ('so ''so''', 'sad', 'happy');
ALTER TYPE mood ADD VALUE 'first' BEFORE 'sad';
CREATE DOMAIN positive AS int DEFAULT 7 NOT NULL CHECK (VALUE > 0) CHECK (VALUE < 1000000);
CREATE DOMAIN moody AS mood[];
CREATE TYPE pair AS (a positive, "B b" text COLLATE "C", m mood);
CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE FUNCTION canon(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT x';
CREATE SEQUENCE free_seq START WITH 100 INCREMENT BY 5 MAXVALUE 1000 CYCLE;
CREATE SEQUENCE lonely_seq;
CREATE TABLE parent (id bigserial PRIMARY KEY, code varchar(10) UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE types (
  id int GENERATED ALWAYS AS IDENTITY (START WITH 10 INCREMENT BY 3) PRIMARY KEY,
  n numeric(8,2) NOT NULL DEFAULT 1.50,
  m mood DEFAULT 'sad', ms mood[], d positive, dm moody, p pair, s span, sm span_multirange,
  h hstore, ci citext, j jsonb, js json, b bytea, t text COLLATE "C", g text COLLATE german,
  ts timestamptz(3) DEFAULT now(), u uuid, i interval day to second, r regclass, ints int4[],
  half numeric GENERATED ALWAYS AS (n / 2) STORED,
  drawn int DEFAULT nextval('free_seq'),
  gone int, "Weird "" Col" int, "c" "char", o oid, bp char(3)
);
ALTER TABLE types DROP COLUMN gone;
COMMENT ON TABLE types IS 'it''s a table';
COMMENT ON COLUMN types.n IS 'how much';
CREATE INDEX types_expr ON types USING btree (lower(t) DESC, (n + 1) NULLS FIRST, t COLLATE "de-x-icu")
  INCLUDE (u) WITH (fillfactor = 70) WHERE n > 0;
CREATE INDEX types_gin ON types USING gin (j jsonb_path_ops);
CREATE INDEX types_pattern ON types (t text_pattern_ops, "Weird "" Col");
CREATE UNIQUE INDEX types_u ON types (u);
ALTER TABLE types ADD CONSTRAINT "n Check" CHECK (n > 0 AND id > 0) NOT VALID;
ALTER TABLE types SET (autovacuum_enabled = false, fillfactor = 90);
CREATE TABLE child (
  x int, y int NOT NULL, parent_id bigint,
  CONSTRAINT child_fk FOREIGN KEY (parent_id) REFERENCES parent (id) MATCH FULL
    ON UPDATE CASCADE ON DELETE SET NULL (parent_id) DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT no_overlap EXCLUDE USING gist (int4range(x, y) WITH &&, y WITH =)
);
CREATE UNIQUE INDEX child_y ON child (y);
ALTER TABLE child REPLICA IDENTITY USING INDEX child_y;
CREATE TABLE keyless (a int, b text);
ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE nothing (a int PRIMARY KEY);
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE lost (a int NOT NULL);
CREATE UNIQUE INDEX lost_a ON lost (a);
ALTER TABLE lost REPLICA IDENTITY USING INDEX lost_a;
DROP INDEX lost_a;
CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE);
CREATE TABLE nodistinct (a int UNIQUE NULLS NOT DISTINCT);
CREATE TABLE measures (at date NOT NULL, v int, PRIMARY KEY (at, v)) PARTITION BY RANGE (at);
CREATE TABLE measures_1 PARTITION OF measures FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE measures_2 PARTITION OF measures FOR VALUES FROM ('2024-02-01') TO ('2024-03-01')
  PARTITION BY HASH (v);
CREATE TABLE measures_2a PARTITION OF measures_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE measures_2b PARTITION OF measures_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE base (a int PRIMARY KEY);
CREATE TABLE derived (b int) INHERITS (base);
CREATE UNLOGGED TABLE volatile (a int);
CREATE VIEW seen AS SELECT 1 AS one;
CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one;
CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER watch BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION noop();
CREATE RULE silent AS ON DELETE TO keyless DO INSTEAD NOTHING;
ALTER TABLE parent ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON parent USING (true);
CREATE STATISTICS stats ON a, b FROM keyless;
GRANT SELECT ON parent TO PUBLIC;
SELECT lo_create(0);
CREATE TABLE "Odd ""Schema"""."Tab.le" ("sel ect" int PRIMARY KEY);
CREATE SCHEMA tidemark;
CREATE TABLE tidemark.checkpoint (a int);
"#;

fn column<'a>(table: &'a TableSchema, name: &str) -> &'a Column {
    let mut columns = table.columns.iter();
    columns
        .find(|column| column.name == name)
        .unwrap_or_else(|| panic!("no column {name}"))
}

fn definitions(schema: &SourceSchema, kind: ObjectKind) -> Vec<(String, String)> {
    let objects = schema.objects.iter().filter(|object| object.kind == kind);
    objects
        .map(|object| (object.name.to_string(), object.definition.clone()))
        .collect()
}

#[tokio::test]
async fn tables_of_every_kind_are_told_apart() {
    let schema = database(NASTY).await.describe(&["*.*"]).await;
    let names: Vec<String> = schema
        .tables
        .iter()
        .map(|table| table.name.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "\"Odd \"\"Schema\"\"\".\"Tab.le\"",
            "public.base",
            "public.child",
            "public.deferred",
            "public.derived",
            "public.keyless",
            "public.lost",
            "public.measures",
            "public.nodistinct",
            "public.nothing",
            "public.parent",
            "public.types",
        ]
    );
    for (name, identity) in [
        ("public.child", ReplicaIdentity::Key(vec![1])),
        ("public.keyless", ReplicaIdentity::Full),
        ("public.nothing", ReplicaIdentity::Nothing),
        ("public.lost", ReplicaIdentity::Nothing),
        ("public.deferred", ReplicaIdentity::Nothing),
        ("public.measures", ReplicaIdentity::Key(vec![0, 1])),
        ("public.parent", ReplicaIdentity::Key(vec![0])),
    ] {
        assert_eq!(table(&schema, name).identity, identity, "{name}");
    }
    assert!(table(&schema, "public.measures").is_partitioned);
    assert_eq!(table(&schema, "public.nothing").primary_key, [0]);
    assert!(
        !schema
            .not_carried
            .iter()
            .any(|left| left.kind == "base type")
    );
}

#[tokio::test]
async fn what_stays_behind_is_named() {
    let schema = database(NASTY).await.describe(&["*.*"]).await;
    let left: Vec<(&str, &str)> = schema
        .not_carried
        .iter()
        .map(|left| (left.kind.as_str(), left.name.as_str()))
        .collect();
    for expected in [
        ("view", "public.seen"),
        ("materialized view", "public.kept"),
        ("unlogged table", "public.volatile"),
        ("table", "tidemark.checkpoint"),
        ("trigger", "watch on public.child"),
        ("rule", "silent on public.keyless"),
        ("row level security policy", "mine on public.parent"),
        ("function", "public.noop"),
        ("extended statistics", "public.stats"),
        ("grant", "public.parent"),
        ("inheritance", "public.derived inherits base"),
        ("large object", "1 of them"),
        ("sequence", "public.lonely_seq"),
    ] {
        assert!(left.contains(&expected), "{expected:?} in {left:?}");
    }
    assert!(
        !left.iter().any(|(_, name)| name.contains("hstore")),
        "members of extensions come with them: {left:?}"
    );
    assert!(
        !left.iter().any(|(_, name)| name.contains("span")),
        "constructors come with their type: {left:?}"
    );
    let views = left.iter().filter(|(_, name)| *name == "public.seen");
    assert_eq!(views.count(), 1, "named once: {left:?}");
}

#[tokio::test]
async fn columns_tell_type_default_and_class() {
    let schema = database(NASTY).await.describe(&["*.*"]).await;
    let types = table(&schema, "public.types");
    assert!(types.columns.iter().all(|column| column.name != "gone"));
    let n = column(types, "n");
    assert_eq!(
        (n.type_name.as_str(), n.is_not_null),
        ("numeric(8,2)", true)
    );
    assert_eq!(n.default, ColumnDefault::Expression("1.50".to_owned()));
    assert_eq!(n.comment.as_deref(), Some("how much"));
    assert_eq!(
        column(types, "id").default,
        ColumnDefault::Identity {
            always: true,
            options: "START WITH 10 INCREMENT BY 3 MINVALUE 1 MAXVALUE 2147483647 CACHE 1 NO CYCLE"
                .to_owned()
        }
    );
    assert_eq!(
        column(types, "half").default,
        ColumnDefault::Generated("(n / (2)::numeric)".to_owned())
    );
    assert_eq!(
        column(types, "drawn").default,
        ColumnDefault::Expression("nextval('public.free_seq'::regclass)".to_owned())
    );
    assert_eq!(
        column(types, "t").collation.as_deref(),
        Some("pg_catalog.\"C\"")
    );
    assert_eq!(
        column(types, "g").collation.as_deref(),
        Some("public.german")
    );
    let expected: [(&str, &str, ValueClass, bool, bool); 20] = [
        ("id", "integer", ValueClass::Integer, true, false),
        ("m", "public.mood", ValueClass::Enum, true, false),
        ("ms", "public.mood[]", ValueClass::Other, false, true),
        ("d", "public.positive", ValueClass::Integer, true, false),
        ("dm", "public.moody", ValueClass::Other, false, true),
        ("p", "public.pair", ValueClass::Other, false, true),
        ("s", "public.span", ValueClass::Other, true, true),
        (
            "sm",
            "public.span_multirange",
            ValueClass::Other,
            true,
            true,
        ),
        ("h", "public.hstore", ValueClass::Other, true, true),
        ("ci", "public.citext", ValueClass::Text, true, true),
        ("j", "jsonb", ValueClass::Json, true, true),
        ("b", "bytea", ValueClass::Bytes, true, true),
        (
            "ts",
            "timestamp(3) with time zone",
            ValueClass::TimestampTz,
            true,
            false,
        ),
        ("u", "uuid", ValueClass::Uuid, true, false),
        (
            "i",
            "interval day to second",
            ValueClass::Other,
            true,
            false,
        ),
        ("r", "regclass", ValueClass::Other, false, false),
        ("ints", "integer[]", ValueClass::Other, true, true),
        ("Weird \" Col", "integer", ValueClass::Integer, true, false),
        ("c", "\"char\"", ValueClass::Other, true, false),
        ("bp", "character(3)", ValueClass::Text, true, true),
    ];
    for (name, type_name, class, is_portable, is_toastable) in expected {
        let found = column(types, name);
        assert_eq!(
            (
                found.type_name.as_str(),
                found.class,
                found.is_binary_portable,
                found.is_toastable
            ),
            (type_name, class, is_portable, is_toastable),
            "{name}"
        );
    }
    assert_eq!(
        types.notes,
        [
            "ALTER TABLE {name} SET (autovacuum_enabled=false, fillfactor=90)",
            "COMMENT ON TABLE {name} IS 'it''s a table'"
        ]
    );
}

#[tokio::test]
async fn indexes_are_taken_apart() {
    let schema = database(NASTY).await.describe(&["public.*"]).await;
    let index = |table_name: &str, name: &str| {
        let indexes = &table(&schema, table_name).indexes;
        let found = indexes.iter().find(|index| index.name == name);
        found.unwrap_or_else(|| panic!("no index {name}")).clone()
    };
    let expr = index("public.types", "types_expr");
    let keys: Vec<(Option<&str>, Option<&str>, &str)> = expr
        .columns
        .iter()
        .map(|key| {
            (
                key.column.as_deref(),
                key.expression.as_deref(),
                key.options.as_str(),
            )
        })
        .collect();
    assert_eq!(
        keys,
        [
            (None, Some("lower(t)"), "COLLATE pg_catalog.\"C\" DESC"),
            (None, Some("((n + (1)::numeric))"), "NULLS FIRST"),
            (Some("t"), None, "COLLATE pg_catalog.\"de-x-icu\""),
        ]
    );
    assert_eq!(expr.included, ["u"]);
    assert_eq!(expr.predicate.as_deref(), Some("(n > (0)::numeric)"));
    assert_eq!(expr.parameters, "fillfactor=70");
    assert_eq!(expr.kind, IndexKind::Plain);
    let gin = index("public.types", "types_gin");
    assert_eq!(gin.method, "gin");
    assert_eq!(gin.columns[0].options, "pg_catalog.jsonb_path_ops");
    let pattern = index("public.types", "types_pattern");
    assert_eq!(pattern.columns[0].options, "pg_catalog.text_pattern_ops");
    assert_eq!(pattern.columns[1].column.as_deref(), Some("Weird \" Col"));
    assert_eq!(index("public.types", "types_u").kind, IndexKind::Unique);
    let unique = index("public.parent", "parent_code_key");
    assert_eq!(unique.kind, IndexKind::UniqueConstraint);
    assert_eq!(unique.deferral, "DEFERRABLE INITIALLY DEFERRED");
    assert_eq!(unique.columns[0].options, "", "varchar's default class");
    let exclusion = index("public.child", "no_overlap");
    assert_eq!(exclusion.kind, IndexKind::Exclusion);
    assert_eq!(
        exclusion.exclusion.as_deref(),
        Some("EXCLUDE USING gist (int4range(x, y) WITH &&, y WITH =)")
    );
    assert!(index("public.nodistinct", "nodistinct_a_key").is_nulls_not_distinct);
    assert_eq!(
        index("public.measures", "measures_pkey").kind,
        IndexKind::PrimaryKey
    );
}

#[tokio::test]
async fn constraints_keep_their_options() {
    let schema = database(NASTY).await.describe(&["public.*"]).await;
    let check = &table(&schema, "public.types").checks[0];
    assert_eq!(check.name, "n Check");
    assert_eq!(
        check.definition,
        "CHECK (((n > (0)::numeric) AND (id > 0))) NOT VALID"
    );
    let mut columns = check.columns.clone();
    columns.sort();
    assert_eq!(columns, ["id", "n"]);
    let foreign = &table(&schema, "public.child").foreign_keys[0];
    assert_eq!(foreign.columns, ["parent_id"]);
    assert_eq!(foreign.references, TableName::new("public", "parent"));
    assert_eq!(foreign.referenced_columns, ["id"]);
    assert_eq!(
        foreign.options,
        "MATCH FULL ON UPDATE CASCADE ON DELETE SET NULL (parent_id) DEFERRABLE INITIALLY DEFERRED"
    );
}

#[tokio::test]
async fn objects_stand_in_an_order_in_which_they_can_be_made() {
    let source = database(NASTY).await;
    let schema = source.describe(&["public.*"]).await;
    let extensions: Vec<String> = definitions(&schema, ObjectKind::Extension)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        extensions,
        ["public.btree_gist", "public.citext", "public.hstore"]
    );
    assert_eq!(
        definitions(&schema, ObjectKind::Enum)[0].1,
        "CREATE TYPE {name} AS ENUM ('so ''so''', 'first', 'sad', 'happy')"
    );
    let sequences = definitions(&schema, ObjectKind::Sequence);
    assert_eq!(sequences.len(), 2, "{sequences:?}");
    assert_eq!(
        sequences[0].1,
        "CREATE SEQUENCE {name} AS bigint START WITH 100 INCREMENT BY 5 MINVALUE 1 MAXVALUE 1000 \
         CACHE 1 CYCLE"
    );
    let owner = schema
        .objects
        .iter()
        .find_map(|object| object.owner.clone());
    assert_eq!(
        owner,
        Some((TableName::new("public", "parent"), "id".to_owned()))
    );

    // The proof: an empty database takes them in this order, and the copies describe alike.
    let copy = database("").await;
    for object in &schema.objects {
        let name = format!("\"{}\".\"{}\"", object.name.schema, object.name.name);
        copy.run(&object.definition.replace("{name}", &name)).await;
    }
    let types = table(&schema, "public.types");
    let columns: Vec<String> = types
        .columns
        .iter()
        .map(|column| {
            let name = column.name.replace('"', "\"\"");
            let collation = column.collation.as_ref();
            let collate = collation.map_or_else(String::new, |name| format!(" COLLATE {name}"));
            format!("\"{name}\" {}{collate}", column.type_name)
        })
        .collect();
    copy.run(&format!("CREATE TABLE types ({})", columns.join(", ")))
        .await;
    let copied = copy.describe(&["public.*"]).await;
    for kind in [
        ObjectKind::Enum,
        ObjectKind::Domain,
        ObjectKind::Composite,
        ObjectKind::Range,
        ObjectKind::Collation,
    ] {
        assert_eq!(definitions(&schema, kind), definitions(&copied, kind));
        assert!(!definitions(&schema, kind).is_empty(), "{kind:?}");
    }
}

#[tokio::test]
async fn estimates_come_from_statistics_and_are_unknown_without() {
    let source = database(
        "CREATE TABLE counted (a int); INSERT INTO counted SELECT generate_series(1, 5000);
         ANALYZE counted; INSERT INTO counted SELECT generate_series(1, 5000);
         CREATE TABLE unknown (a int); INSERT INTO unknown VALUES (1);
         CREATE TABLE empty (a int);
         CREATE TABLE parts (a int) PARTITION BY RANGE (a);
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10000);
         CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10000) TO (20000);
         INSERT INTO parts SELECT generate_series(1, 15000); ANALYZE parts_1; ANALYZE parts_2;",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let counted = table(&schema, "public.counted");
    let rows = counted.rows.unwrap();
    assert!((9_000..11_000).contains(&rows), "{rows}");
    assert!(counted.bytes > 300_000);
    assert_eq!(table(&schema, "public.unknown").rows, None);
    assert_eq!(table(&schema, "public.parts").rows, Some(15_000));
    assert!(table(&schema, "public.parts").bytes > 500_000);
}

#[tokio::test]
async fn an_added_column_tells_what_old_rows_hold() {
    let source = database(
        "CREATE TABLE t (a int PRIMARY KEY, old text); INSERT INTO t VALUES (1);
         ALTER TABLE t ADD COLUMN plain int;
         ALTER TABLE t ADD COLUMN filled text DEFAULT 'a,\"b\" {c}';
         ALTER TABLE t ALTER COLUMN filled SET DEFAULT 'today';
         ALTER TABLE t ADD COLUMN list int[] DEFAULT '{1,NULL,3}';
         ALTER TABLE t ADD COLUMN shape box DEFAULT '(1,2),(0,0)';
         ALTER TABLE t ADD COLUMN empty text DEFAULT '';
         ALTER TABLE t ADD COLUMN retyped varchar(9);
         ALTER TABLE t RENAME COLUMN old TO renamed;",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let announced = |name: &str, type_id: u32, type_modifier: i32| StreamColumn {
        name: name.to_owned(),
        type_id,
        type_modifier,
    };
    let stream_table = StreamTable {
        id: schema.tables[0].id,
        name: TableName::new("public", "t"),
        columns: vec![
            announced("a", 23, -1),
            announced("old", 25, -1),
            announced("plain", 23, -1),
            announced("filled", 25, -1),
            announced("list", 1007, -1),
            announced("shape", 603, -1),
            announced("empty", 25, -1),
            announced("retyped", 25, -1),
            announced("random", 701, -1),
            announced("dropped", 1700, 524_294),
        ],
        identity: ReplicaIdentity::Key(vec![0]),
    };
    let mut connection = source.connect().await;
    let shape = shape_of(&mut connection, &stream_table).await.unwrap();
    let columns = &shape.columns;
    let told: Vec<(&str, i16, &str, Fill)> = columns
        .iter()
        .map(|streamed| {
            let column = &streamed.column;
            (
                column.name.as_str(),
                column.number,
                column.type_name.as_str(),
                streamed.fill.clone(),
            )
        })
        .collect();
    let constant = |text: &str| Fill::Constant(Some(text.to_owned()));
    assert_eq!(
        told,
        [
            ("a", 1, "integer", Fill::InRows),
            ("old", 0, "text", Fill::InRows),
            ("plain", 3, "integer", Fill::Null),
            ("filled", 4, "text", constant("a,\"b\" {c}")),
            ("list", 5, "integer[]", constant("{1,NULL,3}")),
            ("shape", 6, "box", constant("(1,2),(0,0)")),
            ("empty", 7, "text", constant("")),
            ("retyped", 8, "text", Fill::InRows),
            ("random", 0, "double precision", Fill::InRows),
            ("dropped", 0, "numeric(8,2)", Fill::InRows),
        ]
    );
    let renamed = ("renamed".to_owned(), 2);
    assert!(shape.present.contains(&renamed) && shape.present.len() == 8);
    assert_eq!(shape.storage, schema.tables[0].storage);
    // Each row has a value of its own, which rewrites all of them.
    let add = "ALTER TABLE t ADD COLUMN random float8 DEFAULT random()";
    source.run(add).await;
    let rewritten = shape_of(&mut connection, &stream_table).await.unwrap();
    assert_ne!(rewritten.storage, shape.storage);
    assert_eq!(rewritten.columns[3].fill, Fill::InRows, "it is in the rows");
    assert_eq!(rewritten.columns[2].fill, Fill::Null);
    assert_eq!(rewritten.columns[8].column.number, 9);
    assert_eq!(rewritten.columns[8].fill, Fill::InRows);
    assert_eq!(
        columns[3].column.default,
        ColumnDefault::Expression("'today'::text".to_owned())
    );
}

/// The log does not announce them, and what becomes of their types is told all the same.
#[tokio::test]
async fn types_of_generated_columns_are_those_of_the_table() {
    let source = database(
        "CREATE TYPE mood AS ENUM ('a', 'b');
         CREATE TABLE t (id int PRIMARY KEY, m mood GENERATED ALWAYS AS ('a'::mood) STORED)",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let table = StreamTable {
        id: schema.tables[0].id,
        name: TableName::new("public", "t"),
        columns: vec![StreamColumn {
            name: "id".to_owned(),
            type_id: 23,
            type_modifier: -1,
        }],
        identity: ReplicaIdentity::Key(vec![0]),
    };
    let mut connection = source.connect().await;
    let shape = shape_of(&mut connection, &table).await.unwrap();
    assert_eq!(shape.types.len(), 1);
    assert_eq!(shape.types, schema.tables[0].types);
    assert!(!shape.is_ahead);
}

/// A partitioned table keeps no value for old rows, and its default may be another by now, or none.
#[tokio::test]
async fn what_old_rows_of_partitions_have_is_told_by_these() {
    let source = database(
        "CREATE TABLE p (id int NOT NULL) PARTITION BY RANGE (id);
         CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
         CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10) TO (20);
         ALTER TABLE p ADD COLUMN plain int;
         ALTER TABLE p ADD COLUMN early text DEFAULT 'e';
         ALTER TABLE p ALTER COLUMN early DROP DEFAULT;",
    )
    .await;
    let schema = source.describe(&["public.*"]).await;
    let names = [("id", 23), ("plain", 23), ("early", 25)];
    let announced = names.map(|(name, type_id)| StreamColumn {
        name: name.to_owned(),
        type_id,
        type_modifier: -1,
    });
    let table = StreamTable {
        id: schema.tables[0].id,
        name: TableName::new("public", "p"),
        columns: announced.to_vec(),
        identity: ReplicaIdentity::Nothing,
    };
    let mut connection = source.connect().await;
    let mut fills = async || {
        let shape = shape_of(&mut connection, &table).await.unwrap();
        let fills = shape.columns.into_iter().map(|column| column.fill);
        fills.collect::<Vec<_>>()
    };
    let early = Fill::Constant(Some("e".to_owned()));
    assert_eq!(fills().await, [Fill::InRows, Fill::Null, early]);
    // One that was made later has it in its rows, whatever it is.
    source
        .run("CREATE TABLE p_3 PARTITION OF p FOR VALUES FROM (20) TO (30)")
        .await;
    assert_eq!(fills().await, [Fill::InRows, Fill::Null, Fill::InRows]);
}
