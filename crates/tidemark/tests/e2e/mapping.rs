//! Which tables, under which names, with which columns, which rows, masked how: load and stream must
//! give the same, whatever an update does.

use tidemark_lab::compare::Comparison;
use tidemark_lab::traffic::{Ending, Pace, Script, Traffic, Workload};
use tidemark_lab::{Random, wait_for};
use tokio_postgres::Client;

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

/// Runs a workload from before the load until after the stream has begun and was killed twice, then
/// waits until both sides are equal.
async fn load_and_stream(stage: &Stage, workload: &impl Workload, comparison: Comparison<'_>) {
    let config = stage.source_config();
    let traffic = Traffic::start(&config, workload, Pace::at(200.0, 301));
    let busy = async |more: u64| {
        let before = traffic.report().committed;
        wait_for(PATIENCE, "the writers to be busy", || async {
            Ok((traffic.report().committed >= before + more).then_some(()))
        })
        .await
        .unwrap();
    };
    busy(50).await;
    for _ in 0..2 {
        let run = stage.start_streaming().await;
        busy(100).await;
        run.kill9().await;
        busy(50).await;
    }
    let run = stage.start_streaming().await;
    traffic.stop().await.unwrap();
    stage.wait_for_equal(comparison).await;
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0));
}

/// Tables in several schemas, with names that must be quoted.
#[derive(Clone, Copy)]
struct Shop;

impl Workload for Shop {
    fn setup(&self) -> String {
        "CREATE SCHEMA shop; CREATE SCHEMA hr; CREATE SCHEMA \"Old Shop\";
         CREATE TABLE shop.orders (id int PRIMARY KEY, total numeric);
         CREATE TABLE shop.order_items (order_id int, line int, qty int, internal_note text,
           note text, PRIMARY KEY (order_id, line));
         CREATE TABLE shop.\"Odd; Name\" (\"Key\" int PRIMARY KEY, \"select\" text);
         CREATE TABLE shop.tmp_orders (id int PRIMARY KEY);
         CREATE TABLE hr.staff_a (id int PRIMARY KEY, name text);
         CREATE TABLE hr.staff_bb (id int PRIMARY KEY, name text);
         CREATE TABLE \"Old Shop\".orders (id int PRIMARY KEY, total numeric);
         INSERT INTO shop.orders SELECT i, i * 1.1 FROM generate_series(1, 300) i;
         INSERT INTO shop.order_items SELECT i, 1, i, 'secret', 'n' FROM generate_series(1, 300) i;
         INSERT INTO shop.\"Odd; Name\" SELECT i, 'x' FROM generate_series(1, 300) i;
         INSERT INTO hr.staff_a SELECT i, 'x' FROM generate_series(1, 300) i;
         INSERT INTO \"Old Shop\".orders SELECT i, i FROM generate_series(1, 300) i;"
            .to_owned()
    }

    fn transaction(&self, _writer: usize, random: &mut Random) -> Script {
        let (id, other, new) = (
            random.below(300),
            random.below(300),
            random.below(1_000_000),
        );
        let sql = format!(
            "BEGIN; INSERT INTO shop.orders VALUES ({}, 1) ON CONFLICT DO NOTHING;
             UPDATE shop.order_items SET qty = qty + 1, internal_note = 'secret {new}' WHERE order_id = {id};
             UPDATE shop.order_items SET internal_note = 'only this' WHERE order_id = {other};
             UPDATE shop.order_items SET line = {new} WHERE order_id = {other} AND line < 100;
             DELETE FROM shop.\"Odd; Name\" WHERE \"Key\" = {id};
             INSERT INTO shop.\"Odd; Name\" VALUES ({other}, '{new}') ON CONFLICT DO NOTHING;
             INSERT INTO shop.tmp_orders VALUES ({new}) ON CONFLICT DO NOTHING;
             UPDATE hr.staff_a SET name = name || 'y' WHERE id = {id};
             INSERT INTO hr.staff_bb VALUES ({new}, 'z') ON CONFLICT DO NOTHING;
             UPDATE \"Old Shop\".orders SET total = {new} WHERE id = {other}; COMMIT",
            1000 + new
        );
        let ending = Ending::Commit;
        Script { sql, ending }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_choose_tables_and_names_and_columns_follow_the_rules() {
    let stage = Stage::new("map_names").await;
    stage.write(
        "[target]\nschema = \"{schema}_copy\"\n\
         [tables]\ninclude = [\"shop.*\", \"hr.staff_?\", '\"Old Shop\".*']\nexclude = [\"shop.tmp_*\"]\n\
         [[table]]\nsource = \"shop.order_items\"\ntarget = \"dw.order_lines\"\n\
         rename = { qty = \"quantity\" }\ndrop_columns = [\"internal_note\"]\n\
         [[table]]\nsource = \"hr.*\"\ntarget = \"people.{schema}_{table}\"\n",
    );
    Traffic::set_up(&stage.source_config(), &Shop)
        .await
        .unwrap();
    let comparison = stage
        .comparison()
        .schema("shop", "shop_copy")
        .schema("Old Shop", "Old Shop_copy")
        .table(("shop", "order_items"), ("dw", "order_lines"))
        .table(("hr", "staff_a"), ("people", "hr_staff_a"))
        .column(("shop", "order_items"), "qty", "quantity")
        .skip_column(("shop", "order_items"), "internal_note")
        .only("shop", "orders")
        .only("shop", "order_items")
        .only("shop", "Odd; Name")
        .only("hr", "staff_a")
        .only("Old Shop", "orders");
    load_and_stream(&stage, &Shop, comparison).await;
    let made = "SELECT string_agg(table_schema || '.' || table_name, ', ' \
                ORDER BY table_schema COLLATE \"C\", table_name COLLATE \"C\") \
                FROM information_schema.tables WHERE table_schema NOT IN \
                ('pg_catalog', 'information_schema', 'tidemark')";
    let made = text(&stage.target, made).await.unwrap();
    let expected = "Old Shop_copy.orders, dw.order_lines, people.hr_staff_a, shop_copy.Odd; Name, \
                    shop_copy.orders";
    assert_eq!(made, expected);
    stage.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_things_of_one_name_on_the_target_are_refused_before_anything_is_begun() {
    let stage = Stage::new("map_collision").await;
    let tables = "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (id int PRIMARY KEY, v text, w text); \
                  CREATE TABLE b.t (id int PRIMARY KEY, v text, w text)";
    stage.source_sql(tables).await;
    let select = "[tables]\ninclude = [\"a.*\", \"b.*\"]\n";
    for (rule, words) in [
        ("[target]\nschema = \"dw\"\n", ["dw.t", "a.t"]),
        (
            "[[table]]\nsource = \"?.t\"\ntarget = \"dw.same\"\n",
            ["dw.same", "b.t"],
        ),
        (
            "[[table]]\nsource = \"a.t\"\nrename = { v = \"w\" }\n",
            ["a.t", "w"],
        ),
    ] {
        stage.write(&format!("{select}{rule}"));
        for verb in [&["run", "FILE"][..], &["check", "FILE"], &["plan", "FILE"]] {
            let refused = stage.run(verb).await.expect(2);
            for word in words.iter().chain(&["TM7022"]) {
                assert!(
                    refused.stderr.contains(word),
                    "{word} in\n{}",
                    refused.stderr
                );
            }
        }
    }
    stage.assert_nothing_on_the_source().await;
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('dw', 'a', 'b')";
    assert_eq!(text(&stage.target, schemas).await.unwrap(), "0");
}

/// Rows that wander into a filter and out of it. `by_key` and `by_index` have the identity alone in
/// the log, `whole` all of the old row with a large value in it; of `no_key` rows are told by all
/// their values.
#[derive(Clone, Copy)]
struct Wandering;

impl Workload for Wandering {
    fn setup(&self) -> String {
        let columns = "id int NOT NULL, status text, amount numeric, day date";
        format!(
            "CREATE TABLE by_key ({columns}, PRIMARY KEY (id));
             CREATE TABLE by_index ({columns}); CREATE UNIQUE INDEX by_index_id ON by_index (id);
             ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id;
             CREATE TABLE whole ({columns}, big text, PRIMARY KEY (id));
             ALTER TABLE whole REPLICA IDENTITY FULL; ALTER TABLE whole ALTER big SET STORAGE EXTERNAL;
             CREATE TABLE no_key ({columns}); ALTER TABLE no_key REPLICA IDENTITY FULL;
             INSERT INTO by_key SELECT i, (ARRAY['open', 'shut', NULL])[1 + i % 3], i, '2024-01-01'
               FROM generate_series(1, 200) i;
             INSERT INTO by_index SELECT * FROM by_key; INSERT INTO no_key SELECT * FROM by_key;
             INSERT INTO whole SELECT *, repeat(md5(id::text), 300) FROM by_key;"
        )
    }

    fn transaction(&self, _writer: usize, random: &mut Random) -> Script {
        let mut sql = "BEGIN;".to_owned();
        for table in ["by_key", "by_index", "whole", "no_key"] {
            let (id, new) = (1 + random.below(200), 1 + random.below(220));
            let status =
                ["'open'", "'shut'", "NULL", "'Open'"][usize::try_from(random.below(4)).unwrap()];
            let amount = random.below(300);
            let change = match random.below(6) {
                0 => format!("DELETE FROM {table} WHERE id = {id};"),
                1 if table == "whole" => format!(
                    "INSERT INTO whole SELECT {new}, {status}, {amount}, '2024-02-29', repeat('{amount}', 4000) \
                     WHERE NOT EXISTS (SELECT FROM whole WHERE id = {new});"
                ),
                1 => format!(
                    "INSERT INTO {table} SELECT {new}, {status}, {amount}, '2024-02-29' \
                     WHERE NOT EXISTS (SELECT FROM {table} WHERE id = {new});"
                ),
                2 => format!(
                    "UPDATE {table} SET id = {new}, status = {status} WHERE id = {id} \
                     AND NOT EXISTS (SELECT FROM {table} WHERE id = {new});"
                ),
                3 => format!("UPDATE {table} SET amount = {amount} WHERE id = {id};"),
                _ => format!("UPDATE {table} SET status = {status} WHERE id = {id};"),
            };
            sql.push_str(&change);
        }
        sql.push_str("COMMIT");
        let ending = Ending::Commit;
        Script { sql, ending }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_wander_into_a_filter_and_out_of_it_come_and_go() {
    let stage = Stage::new("map_filter").await;
    // `by_key` is filtered by a column that is not carried.
    stage.write(
        "[[table]]\nsource = \"public.by_key\"\nwhere = \"status = 'open' AND day >= '2024-01-01'\"\n\
         drop_columns = [\"status\"]\n\
         [[table]]\nsource = \"public.*\"\nwhere = \"status = 'open' AND amount < 200\"\n",
    );
    Traffic::set_up(&stage.source_config(), &Wandering)
        .await
        .unwrap();
    let others = "status = 'open' AND amount < 200";
    let comparison = stage
        .comparison()
        .filter(
            ("public", "by_key"),
            "status = 'open' AND day >= '2024-01-01'",
        )
        .skip_column(("public", "by_key"), "status")
        .filter(("public", "by_index"), others)
        .filter(("public", "whole"), others)
        .filter(("public", "no_key"), others);
    load_and_stream(&stage, &Wandering, comparison).await;
    stage.clear().await;
}

/// A row that comes in with a large value that the log left out cannot be made up, and one that is told by such
/// a value may be in or out.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_made_up_sets_its_table_aside() {
    let stage = Stage::new("map_toast").await;
    stage.write(
        "[[table]]\nsource = \"public.docs\"\nwhere = \"status = 'open'\"\n\
         [[table]]\nsource = \"public.notes\"\nwhere = \"body <> ''\"\n",
    );
    let tables = "CREATE TABLE docs (id int PRIMARY KEY, status text, body text);
        CREATE TABLE notes (id int PRIMARY KEY, n int, body text); ALTER TABLE notes ALTER body SET STORAGE EXTERNAL;
        INSERT INTO notes SELECT i, i, repeat(md5(i::text), 300) FROM generate_series(1, 5) i;
        ALTER TABLE docs ALTER body SET STORAGE EXTERNAL; CREATE TABLE other (id int PRIMARY KEY);
        INSERT INTO docs SELECT i, (ARRAY['open', 'shut'])[1 + i % 2], repeat(md5(i::text), 300)
          FROM generate_series(1, 20) i;";
    stage.source_sql(tables).await;
    let run = stage.start_streaming().await;
    // In already: what is not in the log is in the target.
    stage
        .source_sql("UPDATE docs SET id = id + 100 WHERE id IN (2, 4)")
        .await;
    let open = || {
        let comparison = stage
            .comparison()
            .filter(("public", "docs"), "status = 'open'");
        comparison.only("public", "docs")
    };
    stage.wait_for_equal(open()).await;
    stage
        .source_sql("UPDATE docs SET status = 'open' WHERE id = 5")
        .await;
    stage.wait_for_table("public.docs", "quarantined").await;
    let reason = stage.table("public.docs").await["reason"].clone();
    assert!(reason.as_str().unwrap().contains("TM"), "{reason}");
    stage
        .source_sql("UPDATE notes SET n = 0 WHERE id < 3")
        .await;
    stage.wait_for_table("public.notes", "quarantined").await;
    stage
        .source_sql("UPDATE notes SET n = 1 WHERE id < 3")
        .await;
    stage
        .source_sql("INSERT INTO other VALUES (1); UPDATE docs SET status = 'shut' WHERE id = 6")
        .await;
    stage
        .wait_for_equal(stage.comparison().only("public", "other"))
        .await;

    // The way out: whole rows in the log, and the table anew.
    stage
        .source_sql(
            "ALTER TABLE docs REPLICA IDENTITY FULL; ALTER TABLE notes REPLICA IDENTITY FULL",
        )
        .await;
    for table in ["public.docs", "public.notes"] {
        let resync = ["resync", "FILE", "--table", table, "--yes"];
        stage.run(&resync).await.expect(0);
    }
    stage
        .source_sql("UPDATE docs SET status = 'open' WHERE id IN (7, 9); UPDATE notes SET n = 2 WHERE id = 1")
        .await;
    stage.wait_for_equal(open()).await;
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}

/// One column for each mask and kind of value.
const PEOPLE: &str = "CREATE TABLE people (id int PRIMARY KEY, login text, mail text, card varchar(40),
      born date, salary numeric(10, 2), note text NOT NULL, flags boolean, token uuid, seen timestamptz,
      raw bytea, doc jsonb, ip inet, code char(6));";

const ROWS: &str = "SELECT * FROM (VALUES
      (1, 'ann', 'ann@example.com', '4111 1111 1111 1234', DATE '1990-02-28', 1.50, 'n', true,
       '6f1c3a8e-0000-4000-8000-000000000001'::uuid, TIMESTAMPTZ '2024-05-06 07:08:09.123456+02',
       '\\xdeadbeef'::bytea, '{\"a\": 1}'::jsonb, '10.0.0.1'::inet, 'ab'::char(6)),
      (2, '', '@x', 'äöü🐘 12345678', '0044-03-15 BC', 'NaN', '', false, NULL, 'infinity', '', '[]', '::1/64', ''),
      (3, NULL, NULL, NULL, NULL, NULL, 'x', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
      (4, 'émile 🌊', 'a@b@c', '1234567', 'infinity', -0.00, 'y', true, NULL, '1969-12-31 23:59:59+00',
       '\\x00ff', 'null', '192.168.0.0/16', 'abcdef')) v";

const MASKS: &str = "[[mask]]\ncolumns = [\"public.people.login\", \"public.people.flags\", \"*.*.ip\", \
      \"*.*.code\", \"public.people.seen\", \"public.people.salary\"]\nwith = \"hash\"\nsalt = \"pepper\"\n\
    [[mask]]\ncolumns = [\"*.*.mail\", \"*.*.card\"]\nwith = \"partial\"\n\
    [[mask]]\ncolumns = [\"*.people.born\", \"*.people.token\", \"*.people.raw\"]\nwith = \"redact\"\n\
    [[mask]]\ncolumns = [\"*.people.note\"]\nwith = \"null\"\n\
    [[mask]]\ncolumns = [\"*.people.doc\"]\nwith = \"fixed\"\nvalue = '{\"masked\": true}'\n\
    [[mask]]\ncolumns = [\"*.accounts.email\"]\nwith = \"hash\"\nsalt = \"pepper\"\n";

/// What the target must hold, said by the source in SQL.
const EXPECTED: &str = "SELECT id, hash(login), part(mail), part(card), \
      CASE WHEN born IS NOT NULL THEN '1970-01-01' END, hash(salary), NULL, hash(flags), \
      CASE WHEN token IS NOT NULL THEN '00000000-0000-0000-0000-000000000000' END, hash(seen), \
      CASE WHEN raw IS NOT NULL THEN '\\x' END, '{\"masked\": true}', hash(ip), hash(code) FROM people ORDER BY id";

const FUNCTIONS: &str = "CREATE FUNCTION hash(v anyelement) RETURNS text LANGUAGE sql AS $$
      SELECT CASE WHEN v IS NOT NULL THEN encode(sha256(convert_to('pepper' || format('%s', v), 'UTF8')), 'hex') END $$;
    CREATE FUNCTION part(v text) RETURNS text LANGUAGE sql AS $$
      SELECT CASE WHEN strpos(v, '@') > 1 THEN '***' || substr(v, strpos(v, '@'))
        WHEN char_length(v) >= 8 THEN '***' || right(v, 4) WHEN v IS NOT NULL THEN '***' END $$;";

/// All rows of a query, as text.
async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    use tokio_postgres::SimpleQueryMessage::Row;
    let messages = client.simple_query(sql).await.unwrap();
    let row = |message: &tokio_postgres::SimpleQueryMessage| match message {
        Row(row) => Some(
            (0..row.len())
                .map(|i| row.get(i).map(str::to_owned))
                .collect(),
        ),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mask_gives_the_same_by_load_and_by_stream() {
    let stage = Stage::new("map_masks").await;
    stage.write(MASKS);
    // The key of `accounts` is masked itself; `logins` points to it by the same hash.
    let accounts = "CREATE TABLE accounts (email text PRIMARY KEY, n int);
        INSERT INTO accounts SELECT 'user' || i || '@example.com', i FROM generate_series(1, 50) i;";
    stage
        .source_sql(&format!(
            "SET timezone = 'UTC'; {FUNCTIONS} {PEOPLE} {accounts}"
        ))
        .await;
    stage
        .source_sql(&format!("INSERT INTO people {ROWS}"))
        .await;
    let run = stage.start_streaming().await;
    stage.source_sql(&format!("INSERT INTO people SELECT id + 1000, login, mail, card, born, salary, note, \
        flags, token, seen, raw, doc, ip, code FROM ({ROWS}) AS v (id, login, mail, card, born, salary, note, \
        flags, token, seen, raw, doc, ip, code)")).await;
    // Updates that touch a masked column, that touch none, and keys that are masked.
    let changes = "UPDATE people SET login = login || '!' WHERE id IN (1, 1004);
        UPDATE people SET id = id + 5000 WHERE id = 2; UPDATE accounts SET n = -n WHERE n % 3 = 0;
        UPDATE accounts SET email = 'new' || n || '@example.com' WHERE n = 7; DELETE FROM accounts WHERE n = 8;
        INSERT INTO accounts VALUES ('late@example.com', 100);";
    stage.source_sql(changes).await;
    stage
        .wait_for_target("SELECT count(*) FROM accounts WHERE n = 100", "1")
        .await;
    let of_target = "SET timezone = 'UTC'; SELECT * FROM people ORDER BY id";
    assert_eq!(
        rows(&stage.target, of_target).await,
        rows(&stage.source, EXPECTED).await
    );
    let of_source = "SELECT hash(email), n FROM accounts ORDER BY n";
    let of_target = "SELECT email, n FROM accounts ORDER BY n";
    assert_eq!(
        rows(&stage.target, of_target).await,
        rows(&stage.source, of_source).await
    );
    // Nothing of what is masked is anywhere else in the target, nor in the log.
    let parked = "SELECT count(*) FROM tidemark.parked";
    assert_eq!(text(&stage.target, parked).await.unwrap(), "0");
    let log = stage.log();
    assert!(
        !log.contains("example.com") && !log.contains("pepper"),
        "{log}"
    );
    stage.verify_identical().await;
    assert_eq!(run.terminate().await, Some(0));
    stage.clear().await;
}
