//! What stands around the rows: types, keys, indexes, constraints, sequences, partitions. Made on the
//! target as on the source, or listed by `plan`.

use tokio_postgres::Client;

use crate::asks::text;
use crate::stage::Stage;

/// Types that rest on each other, made out of order of their names; and a table, larger than the other, that
/// has rows of the other.
const TYPES: &str = r#"
    CREATE TYPE "Zustand" AS ENUM ('neu', 'alt', 'it''s', '');
    CREATE DOMAIN a_positive AS numeric(9,2) NOT NULL DEFAULT 1 CHECK (VALUE > 0) CHECK (VALUE < 1e6);
    CREATE DOMAIN a_code AS varchar(8) COLLATE "C" CONSTRAINT four CHECK (length(VALUE) >= 4);
    CREATE TYPE z_part AS (state "Zustand", many a_code[], "when" timestamptz(3));
    CREATE TYPE a_whole AS (p z_part, ps z_part[]);
    CREATE DOMAIN d_part AS z_part CHECK (VALUE IS NULL OR (VALUE).state IS NOT NULL);
    CREATE TYPE span AS RANGE (subtype = time);
    CREATE TYPE words AS RANGE (subtype = text, collation = "C", multirange_type_name = many_words);
    CREATE TABLE typed (
      id int PRIMARY KEY, state "Zustand" DEFAULT 'neu', states "Zustand"[] DEFAULT '{neu,""}',
      p a_positive, ps a_positive[], c a_code, cs a_code[], part z_part, parts z_part[],
      whole a_whole, d d_part, s span, ss span[], sm span_multirange, w words, wm many_words);
    INSERT INTO typed (id) VALUES (2);
    INSERT INTO typed VALUES (1, 'it''s', '{"",NULL,alt}', 5, '{1.5,2}', 'abcd', '{efgh}',
      ROW('neu', '{abcd}', '2024-01-01'), ARRAY[ROW('alt', NULL, NULL)::z_part, NULL],
      ROW(ROW('alt', NULL, NULL), ARRAY[ROW('', '{wxyz}', NULL)::z_part]),
      ROW('neu', NULL, NULL), '[08:00,09:30)', '{"[08:00,09:00)",NULL}',
      '{[08:00,09:00),[10:00,11:00)}', '["B c",a)', '{[a,b),[c,d)}');
    CREATE TABLE z_base (id int PRIMARY KEY, v text); INSERT INTO z_base VALUES (1, 'x');
    CREATE TABLE a_rows (id int PRIMARY KEY, one z_base, many z_base[]);
    INSERT INTO a_rows SELECT i, ROW(i, repeat('x', 90))::z_base, ARRAY[ROW(i, 'a,b')::z_base, NULL]
      FROM generate_series(1, 500) i;
"#;

/// Keys, indexes and constraints of all kinds.
const CONSTRAINTS: &str = r#"
    CREATE TABLE item (
      id int GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 5), code text COLLATE "C" NOT NULL,
      "Part No" varchar(20), price numeric(10,2) DEFAULT 0.5, tags text[], doc jsonb, at tsrange,
      word tsvector GENERATED ALWAYS AS (to_tsvector('simple', coalesce(code, ''))) STORED,
      gross numeric GENERATED ALWAYS AS (price * 1.19) STORED,
      parent int, owner int,
      CONSTRAINT item_pk PRIMARY KEY (id) INCLUDE (code),
      CONSTRAINT "Item code!" UNIQUE (code, "Part No"),
      CONSTRAINT later UNIQUE (parent, code) DEFERRABLE INITIALLY DEFERRED,
      CONSTRAINT price_check CHECK (price >= 0 AND price <> 'NaN'),
      CONSTRAINT no_inherit CHECK (code <> '') NO INHERIT,
      CONSTRAINT no_overlap EXCLUDE USING gist (at WITH &&) WHERE (at IS NOT NULL),
      CONSTRAINT parent_fk FOREIGN KEY (parent) REFERENCES item ON DELETE CASCADE ON UPDATE SET NULL);
    CREATE TABLE owner (id int PRIMARY KEY, favourite int REFERENCES item DEFERRABLE INITIALLY DEFERRED,
      first text, second text, UNIQUE (first, second));
    ALTER TABLE item ADD CONSTRAINT owner_fk FOREIGN KEY (owner) REFERENCES owner
      ON DELETE SET NULL DEFERRABLE;
    CREATE TABLE pair (a text, b text, item int NOT NULL DEFAULT 10, n serial,
      CONSTRAINT whole FOREIGN KEY (a, b) REFERENCES owner (first, second) MATCH FULL,
      CONSTRAINT unproven FOREIGN KEY (item) REFERENCES item NOT VALID);
    ALTER TABLE pair REPLICA IDENTITY FULL;
    ALTER TABLE pair ADD CONSTRAINT unproven_check CHECK (n > 0) NOT VALID;
    CREATE INDEX item_lower ON item (lower(code) text_pattern_ops DESC NULLS LAST) WHERE price > 1;
    CREATE UNIQUE INDEX item_once ON item ((code || '/' || coalesce("Part No", ''))) WHERE parent IS NULL;
    CREATE INDEX item_tags ON item USING gin (tags) WITH (fastupdate = off);
    CREATE INDEX item_doc ON item USING gin (doc jsonb_path_ops);
    CREATE INDEX item_word ON item USING gin (word);
    CREATE INDEX item_brin ON item USING brin (id) WITH (pages_per_range = 16);
    CREATE INDEX item_hash ON item USING hash (code);
    CREATE UNIQUE INDEX item_null ON item (owner, code) NULLS NOT DISTINCT;
    CREATE INDEX item_included ON item (price DESC, parent NULLS FIRST) INCLUDE ("Part No") WITH (fillfactor = 70);
    CREATE INDEX "item ""odd"" name" ON item ((doc ->> 'a b'), (price + 1));
    INSERT INTO owner VALUES (1, NULL, 'a', 'b'), (2, NULL, NULL, 'x');
    INSERT INTO item (code, "Part No", price, tags, doc, at, owner) VALUES
      ('one', 'A 1', 2, '{x,y}', '{"a b": 1}', '[2024-01-01,2024-02-01)', 1), ('two', NULL, 0, NULL, NULL, NULL, NULL);
    UPDATE item SET parent = 10 WHERE code = 'two'; UPDATE owner SET favourite = 15 WHERE id = 1;
    INSERT INTO pair VALUES ('a', 'b', 10), (NULL, NULL, 15);
"#;

/// Everything about types, tables, columns, indexes and constraints that can be read from a catalog.
const CATALOG: &[&str] = &[
    "SELECT t.typname, t.typtype, format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault, \
       t.typcollation::regcollation, format_type(r.rngsubtype, NULL), r.rngmultitypid::regtype, \
       r.rngcollation::regcollation, \
       (SELECT array_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid), \
       (SELECT array_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) \
        FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid) \
     FROM pg_type t LEFT JOIN pg_range r ON r.rngtypid = t.oid \
     LEFT JOIN pg_class c ON c.oid = t.typrelid \
     WHERE t.typnamespace = 'public'::regnamespace AND t.typtype <> 'b' \
       AND (c.relkind IS NULL OR c.relkind = 'c') ORDER BY t.typname",
    "SELECT c.oid::regclass, c.relkind, c.reloptions, pg_get_partkeydef(c.oid) \
     FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') \
       AND NOT c.relispartition ORDER BY c.relname",
    "SELECT a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
       a.attidentity, a.attgenerated, a.attcollation::regcollation, pg_get_expr(d.adbin, d.adrelid) \
     FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
     LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') \
       AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped \
     ORDER BY c.relname, a.attnum",
    "SELECT pg_get_indexdef(i.indexrelid), i.indisunique, i.indisprimary, i.indimmediate, i.indisvalid \
     FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
     WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition ORDER BY 1",
    "SELECT coalesce(nullif(conrelid, 0)::regclass::text, contypid::regtype::text), conname, contype, \
       condeferrable, condeferred, convalidated, connoinherit, pg_get_constraintdef(oid) \
     FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n' \
       AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = conrelid AND c.relispartition) \
     ORDER BY 1, 2",
    "SELECT seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmin, seqmax, seqcache, \
       seqcycle, d.deptype, d.refobjid::regclass, d.refobjsubid \
     FROM pg_sequence JOIN pg_class c ON c.oid = seqrelid AND c.relnamespace = 'public'::regnamespace \
     LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = seqrelid \
       AND d.deptype IN ('a', 'i') ORDER BY c.relname",
];

/// Fails unless both sides give the same answers, and some answer at that.
async fn assert_same_catalog(stage: &Stage) {
    for question in CATALOG {
        let rows = |client| lines(client, question);
        let (source, target) = (rows(&stage.source).await, rows(&stage.target).await);
        assert_eq!(source, target, "{question}");
    }
}

async fn lines(client: &Client, question: &str) -> Vec<String> {
    let query = format!("SELECT string_agg(q::text, E'\\n') FROM ({question}) q");
    let found = text(client, &query).await.unwrap();
    found.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn types_are_made_from_the_catalog_and_carry_changes() {
    let stage = Stage::new("carried_types").await;
    stage.source_sql(TYPES).await;
    let run = stage.start_streaming().await;
    assert_same_catalog(&stage).await;
    stage
        .source_sql(
            "INSERT INTO typed SELECT id + 10, state, states, p, ps, c, cs, part, parts, whole, d, s, ss, \
               sm, w, wm FROM typed;
             UPDATE typed SET parts = parts || part, state = 'alt', d.state = 'alt' WHERE id = 1;
             DELETE FROM typed WHERE id = 2;
             UPDATE a_rows SET one.v = 'y' WHERE id = 7; INSERT INTO a_rows VALUES (1000, ROW(1, NULL)::z_base)",
        )
        .await;
    stage.wait_until_identical().await;
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_indexes_and_constraints_are_those_of_the_source() {
    let stage = Stage::new("carried_constraints").await;
    stage.source_sql(CONSTRAINTS).await;
    let run = stage.start_streaming().await;
    assert_same_catalog(&stage).await;
    // Circular and self-referencing keys are crossed within one transaction.
    stage
        .source_sql(
            "BEGIN; SET CONSTRAINTS ALL DEFERRED;
             UPDATE owner SET favourite = 20 WHERE id = 2;
             INSERT INTO item (code, owner, parent) VALUES ('three', 2, 10);
             INSERT INTO owner VALUES (3, 25, 'p', 'q');
             INSERT INTO item (code, owner, parent, price) VALUES ('four', 3, 20, 7);
             INSERT INTO pair VALUES ('p', 'q', 20); COMMIT;
             UPDATE item SET price = price + 1; UPDATE pair SET n = n + 100 WHERE a IS NULL;
             UPDATE item SET code = 'two' WHERE code = 'one' AND false;
             DELETE FROM owner WHERE id = 1 AND false",
        )
        .await;
    stage
        .source_sql(
            "BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM pair; DELETE FROM item WHERE id = 15;
        UPDATE owner SET favourite = NULL WHERE id = 1; DELETE FROM owner WHERE id = 1; COMMIT",
        )
        .await;
    stage.wait_until_identical().await;
    let gross = "SELECT count(*) FILTER (WHERE gross = price * 1.19 AND word = to_tsvector('simple', code)) \
                   = count(*) AND count(*) = 3 FROM item";
    assert_eq!(text(&stage.target, gross).await.unwrap(), "t");
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// Sequences of every kind: identities, serials, one that a default reads, one that counts down.
const SEQUENCES: &str = r#"
    CREATE SEQUENCE "Free one" AS smallint INCREMENT -3 MINVALUE -1000 MAXVALUE 100 START 90 CACHE 5 CYCLE;
    CREATE TABLE counted (
      always int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      by_default bigint GENERATED BY DEFAULT AS IDENTITY (START 1000 INCREMENT 10),
      old smallserial, free smallint DEFAULT nextval('"Free one"'), note text);
    CREATE TABLE unused (id bigserial PRIMARY KEY);
    INSERT INTO counted (note) SELECT 'row' FROM generate_series(1, 20);
    INSERT INTO counted (always, by_default, note) OVERRIDING SYSTEM VALUE VALUES (500, 7, 'chosen');
"#;

/// What the next row would be given; nothing is kept.
const NEXT: &str = "BEGIN; INSERT INTO counted (note) VALUES ('probe'); \
    SELECT always || ' ' || by_default || ' ' || old || ' ' || free FROM counted WHERE note = 'probe'";

async fn next_values(client: &Client) -> String {
    let found = text(client, NEXT).await.unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_stand_where_those_of_the_source_do() {
    let stage = Stage::new("carried_sequences").await;
    stage.source_sql(SEQUENCES).await;
    let run = stage.start_streaming().await;
    assert_same_catalog(&stage).await;
    stage.wait_until_identical().await;
    // A cache makes the source's session skip values, so a fresh session is asked.
    let fresh = async |stage: &Stage| {
        let (source, target) = (&stage.source_server, &stage.target_server);
        let source = source.client_to(&stage.source_name).await.unwrap();
        let target = target.client_to(&stage.target_name).await.unwrap();
        (next_values(&source).await, next_values(&target).await)
    };
    let (source, target) = fresh(&stage).await;
    assert_eq!(target, source, "after the load");
    let unused = "SELECT last_value || ' ' || is_called FROM unused_id_seq";
    assert_eq!(text(&stage.target, unused).await.unwrap(), "1 false");

    stage
        .source_sql("INSERT INTO counted (note) SELECT 'more' FROM generate_series(1, 77)")
        .await;
    stage
        .source_sql(
            "SELECT setval('unused_id_seq', 4000000000); ALTER SEQUENCE \"Free one\" RESTART 42",
        )
        .await;
    stage.wait_until_identical().await;
    let set = stage
        .run(&["sequences", "FILE", "--json"])
        .await
        .expect(0)
        .json();
    assert_eq!(
        set["data"]["sequences"].as_array().map(Vec::len),
        Some(5),
        "{set}"
    );
    let (source, target) = fresh(&stage).await;
    assert_eq!(target, source, "after the command");
    assert_eq!(
        text(&stage.target, unused).await.unwrap(),
        "4000000000 true"
    );
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}

/// One of each kind that stays behind.
const LEFT_BEHIND: &str = r"
    CREATE TABLE t (id int PRIMARY KEY, a text, b int, pass text, o oid);
    CREATE TABLE child () INHERITS (t); ALTER TABLE child ADD PRIMARY KEY (id);
    CREATE TABLE cut (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE cut_1 PARTITION OF cut FOR VALUES FROM (1) TO (100);
    CREATE VIEW seen AS SELECT id FROM t; CREATE MATERIALIZED VIEW kept AS SELECT id FROM t;
    CREATE FUNCTION doubled(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
    CREATE PROCEDURE done() LANGUAGE sql AS 'SELECT 1';
    CREATE AGGREGATE longest(text) (SFUNC = textcat, STYPE = text);
    CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER on_insert BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fired();
    CREATE TRIGGER on_leaf AFTER INSERT ON cut_1 FOR EACH ROW EXECUTE FUNCTION fired();
    CREATE RULE ruled AS ON DELETE TO t WHERE OLD.id < 0 DO INSTEAD NOTHING;
    CREATE POLICY hidden ON t USING (id > 0);
    CREATE STATISTICS related ON a, b FROM t;
    CREATE SEQUENCE alone;
    CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE worn AS ENUM ('new');
    CREATE DOMAIN small AS int CHECK (value < 9); CREATE TYPE pair AS (a int, b int);
    CREATE COLLATION own (locale = 'C'); CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
    CREATE PUBLICATION somebodys FOR TABLE t;
    GRANT SELECT ON t TO PUBLIC; GRANT UPDATE (a) ON child TO PUBLIC;
    CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
    CREATE FOREIGN TABLE distant (id int) SERVER far;
    SELECT lo_from_bytea(0, '\xff');
    CREATE UNLOGGED TABLE scratch (id int);
    CREATE TABLE whole (id int PRIMARY KEY); ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE other (id int PRIMARY KEY, key int NOT NULL UNIQUE);
    ALTER TABLE other REPLICA IDENTITY USING INDEX other_key_key;
    ALTER TABLE other ENABLE ROW LEVEL SECURITY, ADD state worn;
    CREATE EXTENSION pgcrypto; CREATE EXTENSION citext; ALTER TABLE whole ADD name citext;
    ALTER TABLE t ALTER a SET STORAGE EXTERNAL, ALTER a SET STATISTICS 500, ALTER b SET (n_distinct = 9);
";

#[tokio::test(flavor = "multi_thread")]
async fn plan_lists_what_stays_behind() {
    let stage = Stage::new("carried_plan").await;
    stage.source_sql(LEFT_BEHIND).await;
    let plan = stage
        .run(&["plan", "FILE", "--json"])
        .await
        .expect(0)
        .json();
    let listed = plan["data"]["not_carried"].as_array().unwrap();
    for (kind, name) in [
        ("view", "public.seen"),
        ("materialized view", "public.kept"),
        ("function", "public.doubled"),
        ("function", "public.fired"),
        ("procedure", "public.done"),
        ("aggregate", "public.longest"),
        ("trigger", "on_insert on public.t"),
        ("trigger", "on_leaf on public.cut_1"),
        ("rule", "ruled on public.t"),
        ("row level security policy", "hidden on public.t"),
        ("extended statistics", "public.related"),
        ("row level security", "public.other"),
        ("type", "public.mood"),
        ("type", "public.small"),
        ("type", "public.pair"),
        ("collation", "public.own"),
        ("text search configuration", "public.words"),
        ("sequence", "public.alone"),
        ("publication", "somebodys"),
        ("grant", "public.t"),
        ("grant", "public.child"),
        ("foreign table", "public.distant"),
        ("replica identity", "full of public.whole"),
        ("replica identity", "by an index of public.other"),
        ("inheritance", "public.child inherits t"),
        ("large object", "1 of them"),
        ("unlogged table", "public.scratch"),
        ("extension", "pgcrypto"),
        ("partitioning", "public.cut"),
        (
            "column setting",
            "storage external, statistics 500 of public.t.a",
        ),
        ("column setting", "n_distinct=9 of public.t.b"),
    ] {
        let found = listed
            .iter()
            .find(|one| one["kind"] == kind && one["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no {kind} {name} in {listed:#?}"));
        assert!(
            found["note"].as_str().is_some_and(|note| !note.is_empty()),
            "{found}"
        );
    }
    assert!(
        !plan.to_string().contains("\"citext\""),
        "it is carried: {plan}"
    );
    let shown = stage.run(&["plan", "FILE"]).await.expect(0).stdout;
    for word in [
        "public.seen",
        "on_leaf",
        "large object",
        "hidden",
        "public.scratch",
    ] {
        assert!(shown.contains(word), "no {word} in\n{shown}");
    }
}

/// Functions are not carried. What rests on one that the target lacks is named, and the rows come.
#[tokio::test(flavor = "multi_thread")]
async fn what_rests_on_a_missing_function_is_named() {
    let stage = Stage::new("carried_functions").await;
    stage
        .source_sql(
            "CREATE FUNCTION doubled(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
             CREATE SCHEMA apart;
             CREATE FUNCTION apart.fine(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 0';
             CREATE OPERATOR ==> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4gt);
             CREATE TABLE t (id int PRIMARY KEY, a int DEFAULT doubled(4),
               b int GENERATED ALWAYS AS (doubled(id)) STORED, CONSTRAINT c CHECK (doubled(id) > 0),
               CONSTRAINT d CHECK (apart.fine(id)), CONSTRAINT e CHECK (id ==> 0));
             CREATE INDEX t_doubled ON t (doubled(a)); INSERT INTO t VALUES (1), (2);
             CREATE INDEX t_apart ON t (id) WHERE apart.fine(id);
             CREATE TABLE u (id int PRIMARY KEY, f bool DEFAULT apart.fine(1)); INSERT INTO u VALUES (1)",
        )
        .await;
    let plan = stage.run(&["plan", "FILE", "--json"]).await.expect(0);
    let plan = plan.json();
    for (kind, name, needed_by) in [
        (
            "function",
            "public.doubled",
            "check c on public.t, generated column public.t.b, index t_doubled on public.t, \
             the default of public.t.a",
        ),
        (
            "function",
            "apart.fine",
            "check d on public.t, index t_apart on public.t, the default of public.u.f",
        ),
        ("operator", "public.==>", "check e on public.t"),
    ] {
        let listed = plan["data"]["not_carried"].as_array().unwrap();
        let found = listed
            .iter()
            .find(|one| one["kind"] == kind && one["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no {name} in {listed:#?}"));
        let note = found["note"].as_str().unwrap();
        assert!(
            note.starts_with(&format!("needed by {needed_by}: ")),
            "{note}"
        );
    }
    let run = stage.start_streaming().await;
    stage.source_sql("INSERT INTO t VALUES (3, 0)").await;
    let equal = stage.comparison().skip_column(("public", "t"), "b");
    stage.wait_for_equal(equal).await;
    let log = stage.log();
    let warned = |what: &str| {
        let named = |line: &&str| line.contains("TM2057") && line.contains(what);
        log.lines().any(|line| named(&line))
    };
    for what in [
        "\"column\":\"a\"",
        "\"column\":\"b\"",
        "\"column\":\"f\"",
        "index t_doubled",
        "index t_apart",
        "check c",
        "check d",
        "check e",
    ] {
        assert!(warned(what), "{what} is not named in\n{log}");
    }
    assert_eq!(run.terminate().await, Some(0), "{log}");
    stage.clear().await;
}

/// A type cannot do without what it rests on: that is told before, and by the start itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_needs_a_function_waits_for_it() {
    let stage = Stage::new("carried_domain").await;
    let function =
        "CREATE FUNCTION fine(text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT length($1) > 0'";
    let tables = "CREATE DOMAIN word AS text CHECK (fine(VALUE)); CREATE TABLE t (id int PRIMARY KEY, w word);
        INSERT INTO t VALUES (1, 'a')";
    stage.source_sql(&format!("{function}; {tables}")).await;
    let plan = stage.run(&["plan", "FILE"]).await.expect(0).stdout;
    let plan = plan.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        plan.contains("public.fine (needed by domain public.word: ")
            && plan.contains("nothing starts"),
        "{plan}"
    );
    let run = ["run", "FILE", "--until", "verified"];
    let said = stage.run(&run).await.expect(6).stderr;
    assert!(
        said.contains("TM2019") && said.contains("tidemark plan"),
        "{said}"
    );
    stage.target_sql(function).await;
    stage.run(&run).await.expect(0);
    stage.assert_identical().await;
    stage.clear().await;
}

/// A type may hold rows of a table, which has to be there before it.
#[tokio::test(flavor = "multi_thread")]
async fn types_over_rows_of_a_table_are_made_behind_it() {
    let stage = Stage::new("carried_rows").await;
    stage
        .source_sql(
            "CREATE TABLE zoned (id int PRIMARY KEY, n text); CREATE TYPE holder AS (z zoned, k int);
             CREATE DOMAIN held AS holder CHECK ((VALUE).k > 0); CREATE DOMAIN rowed AS zoned;
             CREATE TABLE a (id int PRIMARY KEY, hs held[], r rowed); CREATE TABLE b (id int PRIMARY KEY, h holder);
             INSERT INTO zoned VALUES (1, 'x'); INSERT INTO b VALUES (1, ROW(ROW(1, 'x'), 2));
             INSERT INTO a VALUES (1, ARRAY[ROW(ROW(1, 'x'), 2)::holder::held], ROW(3, 'y')::zoned)",
        )
        .await;
    stage.write("[target]\nschema = \"dw\"\n");
    let run = ["run", "FILE", "--until", "verified"];
    stage.run(&run).await.expect(0);
    stage
        .source_sql("INSERT INTO a SELECT 2, hs, r FROM a; UPDATE b SET h.k = 5")
        .await;
    stage.run(&run).await.expect(0);
    // One that comes with a column, when its table is there.
    stage
        .source_sql("CREATE TYPE late AS (z zoned, k int); ALTER TABLE b ADD z late; UPDATE b SET z = ROW(ROW(1, 'x'), 2)")
        .await;
    stage.run(&run).await.expect(0);
    stage.clear().await;
}

/// Each finds nothing and makes the same; whoever is later looks again.
#[tokio::test(flavor = "multi_thread")]
async fn pipelines_that_start_at_once_share_schemas_and_types() {
    const PIPELINES: usize = 6;
    let stage = Stage::new("carried_at_once").await;
    let types = "CREATE SCHEMA z; CREATE TYPE z.e AS ENUM ('a', 'b'); CREATE DOMAIN z.d AS text; \
                 CREATE TYPE z.c AS (a z.e, b z.d); CREATE SEQUENCE z.shared";
    stage.source_sql(types).await;
    let text = std::fs::read_to_string(stage.file()).unwrap();
    let mut runs = Vec::new();
    for number in 0..PIPELINES {
        let name = format!("{}_{number}", stage.name);
        let table = format!(
            "CREATE TABLE z.t{number} (id int PRIMARY KEY DEFAULT nextval('z.shared'), c z.c); \
             INSERT INTO z.t{number} (c) VALUES (ROW('a', 'b'))"
        );
        stage.source_sql(&table).await;
        let file = stage.directory().join(format!("{name}.toml"));
        let text = text.replace(&stage.name, &name);
        std::fs::write(&file, text.replace("public.*", &format!("z.t{number}"))).unwrap();
        runs.push(file.to_str().unwrap().to_owned());
    }
    let runs = runs.iter().map(|file| async {
        let arguments = ["run", file, "--until", "verified"];
        stage.run(&arguments).await.expect(0);
    });
    futures_util::future::join_all(runs).await;
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                WHERE slot_name LIKE 'tidemark\\_carried\\_at\\_once\\_%'";
    stage.source.execute(drop, &[]).await.unwrap();
}
