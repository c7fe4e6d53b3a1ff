//! A table beside another takes its place.

use std::time::Duration;

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_core::mapping::Rules;
use tidemark_core::target::{Existing, Place};

use crate::target::{Pair, whole};

const ORDERS: &str = "CREATE TABLE customers (id int PRIMARY KEY); \
     CREATE TABLE orders (id serial PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY, \
       customer int REFERENCES customers, name text DEFAULT 'new', CHECK (id > 0)); \
     CREATE UNIQUE INDEX orders_name ON orders (lower(name)); \
     INSERT INTO customers VALUES (1); \
     INSERT INTO orders (customer, name) SELECT 1, 'row ' || n FROM generate_series(1, 2000) n";

async fn loaded(script: &str) -> Pair {
    let pair = Pair::new(script, Rules::default()).await;
    pair.load_all().await;
    for mapping in &pair.mappings {
        pair.target.finish(mapping, Place::InPlace).await.unwrap();
    }
    pair.target
        .finish_foreign_keys(&pair.mappings)
        .await
        .unwrap();
    pair
}

async fn resync(pair: &Pair, table: &str) -> tidemark_core::Result<()> {
    let mapping = pair.mapping(table);
    let prepared = pair
        .target
        .prepare(mapping, Existing::Truncate, Place::Beside, &[whole()])
        .await?;
    pair.copy(mapping, Place::Beside, prepared.format).await?;
    pair.target.finish(mapping, Place::Beside).await?;
    pair.target.swap(mapping).await
}

/// Everything that may tell the new table from the old one.
const LOOKS: &str = "SELECT * FROM ( \
     SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'orders'::regclass \
     UNION SELECT 'constraint', conname || pg_get_constraintdef(oid) FROM pg_constraint \
       WHERE conrelid = 'orders'::regclass AND contype NOT IN ('f', 'n') \
     UNION SELECT 'key', conname || replace(pg_get_constraintdef(oid), ' NOT VALID', '') \
       FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'f' \
     UNION SELECT 'column', concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, \
         attidentity, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum), attacl) \
       FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum \
       WHERE attrelid = 'orders'::regclass AND attnum > 0 \
     UNION SELECT 'table', concat_ws(' ', relowner::regrole, relacl, reloptions, relreplident, \
         obj_description(oid)) FROM pg_class WHERE oid = 'orders'::regclass \
     UNION SELECT 'sequence', concat(pg_get_serial_sequence('orders', 'id'), \
         pg_get_serial_sequence('orders', 'i'))) AS looks ORDER BY 1, 2";

#[tokio::test]
async fn the_new_table_looks_like_the_old_one_and_has_the_new_rows() {
    let pair = loaded(ORDERS).await;
    let role = format!("owner_of_{}", pair.database.name);
    pair.database
        .run(&format!(
            "CREATE ROLE {role}; ALTER TABLE orders OWNER TO {role}; \
             GRANT SELECT, INSERT ON orders TO PUBLIC; \
             GRANT SELECT ON orders TO pg_monitor WITH GRANT OPTION; \
             GRANT UPDATE (name) ON orders TO pg_monitor; \
             COMMENT ON TABLE orders IS 'it''s ours'; COMMENT ON COLUMN orders.name IS 'x'; \
             ALTER TABLE orders SET (fillfactor = 80); \
             ALTER TABLE orders ALTER COLUMN customer SET DEFAULT 1; \
             CREATE INDEX by_hand ON orders (customer, name) WHERE customer > 0; \
             ALTER TABLE orders ADD CONSTRAINT by_hand CHECK (name <> ''); \
             ALTER TABLE orders REPLICA IDENTITY FULL; \
             SELECT setval('orders_i_seq', 9000); SELECT setval('orders_id_seq', 8000)"
        ))
        .await;
    let before = pair.database.value(LOOKS).await;
    // Where both tell rows apart, each in its way, the source's way counts.
    let other_way = "DROP INDEX orders_name; CREATE UNIQUE INDEX orders_name ON orders (name)";
    pair.database.run(other_way).await;
    pair.source
        .run("DELETE FROM orders WHERE id <= 10; UPDATE orders SET name = 'upd' || id")
        .await;
    resync(&pair, "orders").await.unwrap();
    assert_eq!(pair.database.value(LOOKS).await, before);
    pair.assert_identical().await;
    let drawn = "INSERT INTO orders (name) VALUES ('z') RETURNING id, i";
    let drawn = pair.database.value(drawn).await;
    assert_eq!(drawn.lines().next(), Some("8001|9001"));
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'tidemark_beside%'";
    assert_eq!(pair.database.value(left).await, "0");
    let unproven = "SELECT count(*) FROM pg_constraint WHERE NOT convalidated";
    assert_eq!(
        pair.database.value(unproven).await,
        "1",
        "until all tables stand still"
    );
    pair.target
        .finish_foreign_keys(&pair.mappings)
        .await
        .unwrap();
    assert_eq!(pair.database.value(unproven).await, "0");
    pair.target
        .finish(pair.mapping("orders"), Place::InPlace)
        .await
        .unwrap();
    assert_eq!(
        pair.database.value(LOOKS).await,
        before,
        "nothing is made twice"
    );
}

#[tokio::test]
async fn foreign_keys_among_the_tables_of_the_pipeline_go_over() {
    let pair = loaded(ORDERS).await;
    pair.database
        .run("ALTER TABLE orders ADD CONSTRAINT own FOREIGN KEY (i) REFERENCES orders (id)")
        .await;
    pair.source.run("INSERT INTO customers VALUES (2)").await;
    for table in ["customers", "orders"] {
        resync(&pair, table).await.unwrap();
        let keys = "SELECT conname, confrelid::regclass, convalidated FROM pg_constraint \
                    WHERE contype = 'f' ORDER BY 1";
        let proven = if table == "orders" { "f" } else { "t" };
        assert_eq!(
            pair.database.value(keys).await,
            format!("orders_customer_fkey|customers|f\nown|orders|{proven}")
        );
    }
    pair.target
        .finish_foreign_keys(&pair.mappings)
        .await
        .unwrap();
    let unproven = "SELECT (SELECT count(*) FROM pg_constraint WHERE NOT convalidated), \
                    (SELECT count(*) FROM tidemark.foreign_key)";
    assert_eq!(pair.database.value(unproven).await, "0|0");
    pair.assert_identical().await;
}

#[tokio::test]
async fn readers_see_all_rows_at_any_moment() {
    let pair = loaded(ORDERS).await;
    let reader = pair
        .database
        .server
        .client_to(&pair.database.name)
        .await
        .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let reading = async {
        let mut stopped = stopped;
        let mut reads = 0_u32;
        while stopped.try_recv().is_err() {
            let rows = reader
                .query("SELECT count(*) FROM orders", &[])
                .await
                .unwrap();
            assert_eq!(rows[0].get::<_, i64>(0), 2000);
            reads += 1;
        }
        reads
    };
    let resyncing = async {
        for _ in 0..3 {
            resync(&pair, "orders").await.unwrap();
        }
        stop.send(()).unwrap();
    };
    let (reads, ()) = tokio::join!(reading, resyncing);
    assert!(reads > 10, "{reads}");
    pair.assert_identical().await;
}

#[tokio::test]
async fn a_reader_that_holds_the_table_is_waited_for() {
    let pair = loaded(ORDERS).await;
    let reader = pair
        .database
        .server
        .client_to(&pair.database.name)
        .await
        .unwrap();
    reader
        .batch_execute("BEGIN; SELECT count(*) FROM orders")
        .await
        .unwrap();
    let resyncing = resync(&pair, "orders");
    let holding = async {
        let waits = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
                     WHERE NOT granted AND mode = 'AccessExclusiveLock' AND datname = current_database()";
        tidemark_lab::wait_for(Duration::from_mins(1), "the swap to wait", || async {
            Ok((pair.database.value(waits).await != "0").then_some(()))
        })
        .await
        .unwrap();
        reader.batch_execute("COMMIT").await.unwrap();
    };
    let (swapped, ()) = tokio::join!(resyncing, holding);
    swapped.unwrap();
    pair.assert_identical().await;
}

#[tokio::test]
async fn what_would_be_lost_is_named_before_anything_is_copied() {
    for (made, said) in [
        (
            "CREATE VIEW cheap AS SELECT * FROM orders",
            "view public.cheap",
        ),
        (
            "CREATE TABLE items (o int REFERENCES orders)",
            "constraint items_o_fkey on table public.items",
        ),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER watch BEFORE INSERT ON orders EXECUTE FUNCTION f()",
            "trigger watch",
        ),
        ("CREATE POLICY mine ON orders USING (true)", "policy mine"),
        ("ALTER TABLE orders ADD more int", "column more"),
        ("CREATE PUBLICATION p FOR TABLE orders", "publication p"),
        (
            "CREATE STATISTICS s ON id, name FROM orders",
            "statistics object s",
        ),
        (
            "CREATE TABLE heir () INHERITS (orders)",
            "inheritance by or from public.heir",
        ),
        (
            "CREATE TABLE rowed (o orders)",
            "column o of table public.rowed",
        ),
        ("CREATE RULE r AS ON DELETE TO orders DO NOTHING", "rule r"),
    ] {
        let pair = loaded(ORDERS).await;
        pair.database.run(made).await;
        let refusal = resync(&pair, "orders").await.unwrap_err();
        assert_eq!(refusal.code(), codes::TARGET_DEPENDENTS);
        assert_eq!(refusal.kind(), ErrorKind::Data, "other tables go on");
        assert_eq!(refusal.table_name(), Some("public.orders"));
        assert!(refusal.to_string().contains(said), "{refusal}");
        assert!(refusal.action().contains("--strategy truncate"));
        let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'tidemark_beside%'";
        assert_eq!(pair.database.value(left).await, "0");
        let rows = "SELECT count(*) FROM orders";
        assert_eq!(pair.database.value(rows).await, "2000");
    }
}

#[tokio::test]
async fn a_leftover_beside_is_made_anew_and_a_zombie_swaps_nothing() {
    let pair = loaded(ORDERS).await;
    let mapping = pair.mapping("orders");
    for _ in 0..2 {
        let prepared = pair
            .target
            .prepare(mapping, Existing::Truncate, Place::Beside, &[whole()])
            .await
            .unwrap();
        pair.copy(mapping, Place::Beside, prepared.format)
            .await
            .unwrap();
        let rows = "SELECT reltuples, (SELECT sum(rows) FROM tidemark.unit WHERE source_name = 'orders') \
                    FROM pg_class WHERE relname LIKE 'tidemark_beside%' AND relkind = 'r'";
        assert_eq!(pair.database.value(rows).await, "-1|2000");
    }
    pair.target.finish(mapping, Place::Beside).await.unwrap();
    pair.database
        .run("UPDATE tidemark.checkpoint SET generation = 9, written_by = 9; DELETE FROM orders")
        .await;
    let refusal = pair.target.swap(mapping).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_FENCED);
    assert_eq!(
        pair.database.value("SELECT count(*) FROM orders").await,
        "0"
    );
}
