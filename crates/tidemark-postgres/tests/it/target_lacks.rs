//! What the source has by now and the target lacks is told, with the statements that make it.

use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::LoadPhase;
use tidemark_core::config::{Located, Secret};
use tidemark_core::finding::{Finding, FixKind, Verdict};
use tidemark_core::mapping::{ColumnPattern, MaskRule, MaskWith, Rules, TableMapping, TableRule};
use tidemark_core::target::Place;

use crate::lab;
use crate::prepare::renaming;
use crate::target::Pair;

const SHOP: &str = "CREATE TYPE mood AS ENUM ('sad', 'happy'); \
    CREATE TABLE customers (id int, mail text, m mood); \
    CREATE TABLE orders (id int PRIMARY KEY, customer int, day date, n int, note text, r int4range); \
    INSERT INTO customers SELECT n, 'm' || n, 'happy' FROM generate_series(1, 20) n; \
    INSERT INTO orders SELECT n, n, '2024-01-05', n, 'T' || n, int4range(n, n + 1) \
        FROM generate_series(1, 20) n";

/// All kinds of what may come later.
const LATER: &str = "ALTER TABLE customers ADD CONSTRAINT customers_pkey PRIMARY KEY (id); \
    ALTER TABLE customers ADD CONSTRAINT happy CHECK (m <> 'sad'); \
    CREATE INDEX orders_by_day ON orders (day DESC, note text_pattern_ops) INCLUDE (n); \
    CREATE UNIQUE INDEX orders_note ON orders (lower(note), (n + 1)) WHERE n > 0; \
    ALTER TABLE orders ADD CONSTRAINT orders_n UNIQUE (n) DEFERRABLE; \
    ALTER TABLE orders ADD CONSTRAINT orders_r EXCLUDE USING gist (r WITH &&, int4range(n, n, '[]') WITH &&); \
    ALTER TABLE orders ADD CONSTRAINT positive CHECK (n > 0) NOT VALID; \
    ALTER TABLE orders ALTER note SET NOT NULL; \
    ALTER TABLE orders ADD CONSTRAINT orders_customer_fkey FOREIGN KEY (customer) \
        REFERENCES customers ON DELETE CASCADE DEFERRABLE";

/// A pair that is loaded and streams.
pub(crate) async fn loaded(script: &str, rules: &Rules) -> Pair {
    let pair = Pair::new(script, rules.clone()).await;
    pair.load_all().await;
    for mapping in &pair.mappings {
        pair.target.finish(mapping, Place::InPlace).await.unwrap();
    }
    let keys = pair.target.finish_foreign_keys(&pair.mappings);
    keys.await.unwrap();
    pair.target.set_phase(LoadPhase::Loaded).await.unwrap();
    pair.database.run(STREAMS).await;
    pair
}

const STREAMS: &str = "UPDATE tidemark.table_state SET state = 'streaming'";

/// What is told once the source has changed.
async fn told(pair: &Pair, rules: &Rules) -> Vec<Finding> {
    let tables = mapped(pair, rules).await;
    let findings = pair.target.check_target(&tables).await.unwrap();
    let told = findings.into_iter();
    told.filter(|finding| finding.code == codes::TARGET_LACKS)
        .collect()
}

async fn mapped(pair: &Pair, rules: &Rules) -> Vec<TableMapping> {
    rules
        .map(&pair.source.describe(&["public.*"]).await)
        .unwrap()
}

fn found(findings: &[Finding]) -> Vec<&str> {
    let found = findings.iter().map(|finding| finding.found.as_str());
    found.collect()
}

/// What was left out of a table that a person has filled may have been left out on purpose.
#[tokio::test]
async fn what_a_table_lacks_that_was_there_with_its_rows_is_no_warning() {
    let rules = Rules::default();
    let pair = loaded(SHOP, &rules).await;
    pair.source
        .run("CREATE INDEX orders_by_day ON orders (day)")
        .await;
    let told_of = told(&pair, &rules).await;
    assert_eq!(told_of[0].verdict, Verdict::Warning, "{told_of:?}");
    // As it is recorded of a table whose rows were found there.
    pair.database
        .run("UPDATE tidemark.unit SET rows = 0, tidemark = NULL")
        .await;
    let told_of = told(&pair, &rules).await;
    assert_eq!(told_of[0].verdict, Verdict::Note, "{told_of:?}");
    let expected = "public.orders lacks what the source has by now: index orders_by_day";
    assert_eq!(found(&told_of), [expected]);
}

const NOTHING: [&str; 1] = ["loaded tables have the source's indexes, constraints and defaults"];

/// Runs the statements in their order.
async fn mend(pair: &Pair, findings: &[Finding]) {
    for finding in findings {
        assert_eq!(finding.verdict, Verdict::Warning, "{finding:?}");
        let [fix] = finding.fixes.as_slice() else {
            panic!("{finding:?}");
        };
        assert_eq!(fix.kind, FixKind::Sql);
        pair.database.run(&fix.text).await;
    }
}

#[tokio::test]
async fn what_came_after_the_load_is_told_and_made_by_its_statements() {
    let rules = Rules::default();
    let pair = loaded(SHOP, &rules).await;
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
    pair.source.run(LATER).await;
    let findings = told(&pair, &rules).await;
    assert_eq!(
        found(&findings),
        [
            "public.customers lacks what the source has by now: primary key customers_pkey, \
             check constraint happy",
            "public.orders lacks what the source has by now: unique constraint orders_n, \
             unique index orders_note, exclusion constraint orders_r, index orders_by_day, \
             not-null constraint note, check constraint positive, foreign key orders_customer_fkey",
        ]
    );
    let tables = mapped(&pair, &rules).await;
    let all = pair.target.check_target(&tables).await.unwrap();
    let key = all.iter().find(|it| it.code == codes::TARGET_NO_KEY);
    let key = key.expect("changes need a key, too");
    assert_eq!(key.fixes[0].kind, FixKind::Text, "made once: {key:?}");
    mend(&pair, &findings).await;
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
    let copy = lab::Database {
        server: pair.database.server,
        name: pair.database.name.clone(),
    };
    let copied = copy.describe(&["public.*"]).await;
    for (table, copy) in tables.iter().zip(&copied.tables) {
        let source = &table.schema;
        assert_eq!(copy.indexes, source.indexes);
        assert_eq!(copy.checks, source.checks);
        assert_eq!(copy.foreign_keys, source.foreign_keys);
    }
}

#[tokio::test]
async fn it_is_told_in_the_names_of_the_target() {
    let rules = Rules {
        target_schema: Some(Located::nowhere("dw".to_owned())),
        tables: vec![
            renaming("public.customers", &[("id", "key"), ("m", "mood")]),
            TableRule {
                target: Some(Located::nowhere("dw.sales".to_owned())),
                ..renaming(
                    "public.orders",
                    &[("n", "customer"), ("customer", "n"), ("note", "order")],
                )
            },
        ],
        ..Rules::default()
    };
    let script = format!("{SHOP}; ALTER TABLE orders ADD CONSTRAINT small CHECK (n < 1000)");
    let pair = loaded(&script, &rules).await;
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
    pair.source.run(LATER).await;
    let findings = told(&pair, &rules).await;
    assert_eq!(
        found(&findings),
        [
            "dw.customers lacks what the source has by now: primary key customers_pkey, \
             check constraint happy",
            "dw.sales lacks what the source has by now: unique constraint orders_n, \
             unique index orders_note, exclusion constraint orders_r, index orders_by_day, \
             not-null constraint order, check constraint positive, foreign key orders_customer_fkey",
        ]
    );
    mend(&pair, &findings).await;
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
    let definitions = "SELECT pg_get_indexdef(indexrelid) FROM pg_index \
                       WHERE indrelid = 'dw.sales'::regclass UNION ALL \
                       SELECT pg_get_constraintdef(oid) FROM pg_constraint \
                       WHERE conrelid = 'dw.sales'::regclass";
    let made = pair.database.value(definitions).await;
    for expected in [
        "(day DESC, \"order\" text_pattern_ops) INCLUDE (customer)",
        "(lower(\"order\"), ((customer + 1))) WHERE (customer > 0)",
        "UNIQUE (customer) DEFERRABLE",
        "EXCLUDE USING gist (r WITH &&, int4range(customer, customer, '[]'::text) WITH &&)",
        "CHECK ((customer > 0)) NOT VALID",
        "FOREIGN KEY (n) REFERENCES dw.customers(key) ON DELETE CASCADE DEFERRABLE",
    ] {
        assert!(made.contains(expected), "{expected} in {made}");
    }
}

/// Whatever is made by a load is known again.
#[tokio::test]
async fn what_a_load_has_made_is_not_lacking() {
    let renamed = Rules {
        target_schema: Some(Located::nowhere("dw".to_owned())),
        tables: vec![
            renaming(
                "public.child",
                &[("x", "y"), ("y", "x"), ("t", "order"), ("m", "mm")],
            ),
            renaming("public.parent", &[("id", "key"), ("m", "mood")]),
        ],
        ..Rules::default()
    };
    for rules in [Rules::default(), renamed] {
        let pair = loaded(crate::finish::SHOP, &rules).await;
        assert_eq!(found(&told(&pair, &rules).await), NOTHING);
    }
}

/// What counts is what it does.
#[tokio::test]
async fn names_do_not_decide() {
    let rules = Rules::default();
    let script = "CREATE TABLE p (a int PRIMARY KEY, b int UNIQUE); \
                  CREATE TABLE t (a int PRIMARY KEY, b int, c int, d int)";
    let pair = loaded(script, &rules).await;
    pair.source
        .run(
            "CREATE INDEX t_b ON t (b); ALTER TABLE t ADD CONSTRAINT t_c UNIQUE (c); \
             ALTER TABLE t ADD CONSTRAINT t_check CHECK (d > 0); \
             ALTER TABLE t ADD CONSTRAINT t_fk FOREIGN KEY (b) REFERENCES p",
        )
        .await;
    pair.database
        .run(
            "CREATE UNIQUE INDEX mine ON t (b); CREATE UNIQUE INDEX mine_c ON t (c); \
             ALTER TABLE t ADD CONSTRAINT mine_check CHECK (d > 0) NOT VALID; \
             ALTER TABLE t ADD CONSTRAINT mine_fk FOREIGN KEY (b) REFERENCES p NOT VALID",
        )
        .await;
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
    pair.database
        .run(
            "DROP INDEX mine, mine_c; CREATE INDEX t_b ON t (d); CREATE INDEX t_c ON t (c); \
             ALTER TABLE t DROP CONSTRAINT mine_check, DROP CONSTRAINT mine_fk, \
               ADD CONSTRAINT t_check CHECK (d > 1), \
               ADD CONSTRAINT t_fk FOREIGN KEY (b) REFERENCES p (b)",
        )
        .await;
    let findings = told(&pair, &rules).await;
    assert_eq!(
        found(&findings),
        [
            "public.t lacks what the source has by now: unique constraint t_c, index t_b, \
             check constraint t_check, foreign key t_fk"
        ]
    );
    mend(&pair, &findings).await;
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
}

#[tokio::test]
async fn a_key_of_the_targets_own_leaves_room_for_what_the_source_tells_apart() {
    let rules = Rules::default();
    let pair = loaded("CREATE TABLE t (a int, b int)", &rules).await;
    let own = "ALTER TABLE t ADD CONSTRAINT mine PRIMARY KEY (b)";
    pair.database.run(own).await;
    pair.source.run("ALTER TABLE t ADD PRIMARY KEY (a)").await;
    let findings = told(&pair, &rules).await;
    let lacks =
        "public.t lacks what the source has by now: primary key t_pkey, not-null constraint a";
    assert_eq!(found(&findings), [lacks]);
    mend(&pair, &findings).await;
    let made = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 't_pkey'";
    assert_eq!(pair.database.value(made).await, "UNIQUE (a)");
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
}

/// Columns that are filled in all the ways there are.
const FILLED: &str = "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE SEQUENCE counter; \
    CREATE FUNCTION five() RETURNS int LANGUAGE sql AS 'SELECT 5'; \
    CREATE TABLE filled (id bigserial PRIMARY KEY, number int GENERATED ALWAYS AS IDENTITY (INCREMENT BY 7), \
        other int GENERATED BY DEFAULT AS IDENTITY, m mood NOT NULL DEFAULT 'sad', ms mood[] DEFAULT '{happy}', \
        at timestamptz DEFAULT now(), count int DEFAULT nextval('counter'), mail text DEFAULT 'x' || 'y', \
        twice int GENERATED ALWAYS AS (number * 2) STORED, gone int DEFAULT 1, five int DEFAULT five(), \
        plain int, word varchar(5) DEFAULT 'a')";

/// What came otherwise since.
const FILLED_OTHERWISE: &str = "ALTER TABLE filled ALTER id DROP DEFAULT, ALTER number SET GENERATED BY DEFAULT, \
    ALTER other DROP IDENTITY, ALTER m SET DEFAULT 'happy', ALTER ms DROP DEFAULT, ALTER m DROP NOT NULL, \
    ALTER at SET DEFAULT CURRENT_TIMESTAMP, ALTER count DROP DEFAULT, ALTER count SET NOT NULL, \
    ALTER mail DROP DEFAULT, ALTER gone DROP DEFAULT, ALTER plain SET DEFAULT nextval('counter'); \
    ALTER TABLE filled ALTER count ADD GENERATED ALWAYS AS IDENTITY (START WITH 100)";

/// After a cutover rows would get other values than before, in silence.
#[tokio::test]
async fn columns_that_are_filled_otherwise_are_told() {
    let rules = Rules {
        target_schema: Some(Located::nowhere("dw".to_owned())),
        tables: vec![TableRule {
            drop_columns: vec![Located::nowhere("gone".to_owned())],
            ..renaming("public.filled", &[("m", "mood"), ("plain", "m")])
        }],
        masks: vec![MaskRule {
            columns: vec![Located::nowhere(
                ColumnPattern::parse("public.filled.mail").unwrap(),
            )],
            with: MaskWith::Redact,
        }],
        ..Rules::default()
    };
    let pair = loaded(FILLED, &rules).await;
    let five = "dw.filled lacks what the source has by now: default of column five";
    assert_eq!(found(&told(&pair, &rules).await), [five]);
    pair.database
        .run("CREATE FUNCTION public.five() RETURNS int LANGUAGE sql AS 'SELECT 5'")
        .await;
    mend(&pair, &told(&pair, &rules).await).await;
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
    pair.source.run(FILLED_OTHERWISE).await;
    let findings = told(&pair, &rules).await;
    assert_eq!(
        found(&findings),
        [
            "dw.filled lacks what the source has by now: not-null constraint count, \
             identity of column number, default of column mood, default of column at, \
             identity of column count, default of column m; it has what the source does not have: \
             default of column id, identity of column other, not-null constraint mood, \
             default of column ms"
        ]
    );
    mend(&pair, &findings).await;
    // Without its identity a column is still not to be NULL, on both sides.
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
    pair.database
        .run("INSERT INTO dw.filled (id, other, word, number) VALUES (1, 2, 'b', 3)")
        .await;
    let filled = "SELECT concat_ws(' ', count, mood, m, five, twice) FROM dw.filled";
    assert_eq!(pair.database.value(filled).await, "100 happy 1 5 6");
}

#[tokio::test]
async fn what_cannot_hold_on_the_target_is_not_lacking() {
    let mask = |column: &str, with| MaskRule {
        columns: vec![Located::nowhere(ColumnPattern::parse(column).unwrap())],
        with,
    };
    let salt = Secret::new("s");
    let rules = Rules {
        tables: vec![TableRule {
            drop_columns: vec![Located::nowhere("gone".to_owned())],
            ..renaming("public.t", &[])
        }],
        masks: vec![
            mask("public.t.mail", MaskWith::Hash { salt }),
            mask("public.t.pay", MaskWith::Redact),
        ],
        ..Rules::default()
    };
    let script = "CREATE TABLE t (id int PRIMARY KEY, mail text, pay text, gone int)";
    let pair = loaded(script, &rules).await;
    pair.source
        .run(
            "CREATE INDEX t_gone ON t (id, gone); ALTER TABLE t ADD CHECK (gone > 0); \
             CREATE UNIQUE INDEX t_pay ON t (pay); ALTER TABLE t ADD CHECK (mail <> pay); \
             ALTER TABLE t ADD FOREIGN KEY (gone) REFERENCES t (id); \
             CREATE UNIQUE INDEX t_mail ON t (mail); CREATE INDEX t_pays ON t (pay)",
        )
        .await;
    let findings = told(&pair, &rules).await;
    assert_eq!(
        found(&findings),
        ["public.t lacks what the source has by now: unique index t_mail, index t_pays"]
    );
}

#[tokio::test]
async fn what_is_still_to_come_is_not_lacking() {
    let rules = Rules::default();
    let script = "CREATE TABLE p (a int PRIMARY KEY); CREATE TABLE t (a int PRIMARY KEY, b int)";
    let pair = loaded(script, &rules).await;
    pair.source
        .run(
            "CREATE INDEX t_b ON t (b); ALTER TABLE t ADD CONSTRAINT t_fk FOREIGN KEY (b) REFERENCES p; \
             ALTER TABLE p ADD CHECK (a > 0)",
        )
        .await;
    let (p, t) = (
        "public.p lacks what the source has by now: check constraint p_a_check",
        "public.t lacks what the source has by now: index t_b",
    );
    let fully = format!("{t}, foreign key t_fk");
    assert_eq!(found(&told(&pair, &rules).await), [p, fully.as_str()]);
    // Beside which its rows are loaded anew, with all of the source's.
    let resyncs = "UPDATE tidemark.table_state SET state = 'resyncing' WHERE source_name = 'p'";
    pair.database.run(resyncs).await;
    assert_eq!(found(&told(&pair, &rules).await), [t]);
    pair.database.run(STREAMS).await;
    for phase in [LoadPhase::Loading, LoadPhase::Finishing] {
        pair.target.set_phase(phase).await.unwrap();
        assert_eq!(told(&pair, &rules).await, [], "{phase:?}");
    }
    pair.target.set_phase(LoadPhase::Loaded).await.unwrap();
    // The column comes with the first change that follows it.
    pair.source
        .run(
            "ALTER TABLE t ADD later int CHECK (later > 0), ALTER b TYPE bigint, \
             ADD CONSTRAINT later_fk FOREIGN KEY (later) REFERENCES p; CREATE INDEX ON t (later)",
        )
        .await;
    assert_eq!(found(&told(&pair, &rules).await), [p, fully.as_str()]);
}

/// A rename on the source reaches the target with the first change that follows it.
#[tokio::test]
async fn what_was_renamed_a_moment_ago_is_not_lacking() {
    let rules = Rules::default();
    let script = "CREATE TABLE t (a int PRIMARY KEY, b int CHECK (b > 0)); CREATE INDEX t_b ON t (b, (b + 1)); \
                  ALTER TABLE t ADD CONSTRAINT t_fk FOREIGN KEY (b) REFERENCES t";
    let pair = loaded(script, &rules).await;
    pair.source.run("ALTER TABLE t RENAME b TO c").await;
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
    pair.database.run("ALTER TABLE t RENAME b TO c").await;
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
}

#[tokio::test]
async fn an_index_of_a_partitioned_table_is_told_once() {
    let rules = Rules::default();
    let script = "CREATE TABLE m (at date NOT NULL, v int) PARTITION BY RANGE (at); \
                  CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM ('2024-01-01') TO ('2024-02-01'); \
                  CREATE TABLE m_2 PARTITION OF m FOR VALUES FROM ('2024-02-01') TO ('2024-03-01')";
    let pair = loaded(script, &rules).await;
    pair.source
        .run("CREATE INDEX m_v ON m (v); ALTER TABLE m ADD PRIMARY KEY (at, v)")
        .await;
    let findings = told(&pair, &rules).await;
    assert_eq!(
        found(&findings),
        ["public.m lacks what the source has by now: primary key m_pkey, index m_v"]
    );
    mend(&pair, &findings).await;
    assert_eq!(found(&told(&pair, &rules).await), NOTHING);
}

/// Whoever is asked before the first start, or by an older version's records, has nothing to compare.
#[tokio::test]
async fn nothing_is_told_before_a_load() {
    let rules = Rules::default();
    let pair = Pair::new(SHOP, rules.clone()).await;
    assert_eq!(told(&pair, &rules).await, []);
    let tables = mapped(&pair, &rules).await;
    assert_eq!(pair.target.lacks(&tables).await.unwrap(), []);
    let never = crate::target::Database::new().await;
    let nothing = never.target("shop").lacks(&tables).await;
    assert_eq!(nothing.unwrap(), []);
}
