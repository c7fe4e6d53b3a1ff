//! Differences of all kinds are planted on the target by chance, while the source is written: exactly these
//! are named, exactly these are mended, and afterwards nothing differs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tidemark_lab::{Random, wait_for};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::table;
use crate::stage::{PATIENCE, Ran, Stage};

/// Rows of each table that differences are planted in; the source is written beside them.
const ROWS: u64 = 400;
const ROUNDS: u64 = 4;

const TABLES: &str = "
    CREATE TABLE whole (id int PRIMARY KEY, txt text, num numeric, d float8, flag bool, at timestamptz,
        day date, b bytea, ch char(8), j jsonb, arr int[], iv interval, x int, y int);
    INSERT INTO whole SELECT i, CASE WHEN i % 10 > 0 THEN 'Word ' || i END, i * 1.10, i % 3, i % 2 = 0,
        timestamptz '2024-03-30' + i * interval '17 minutes', date '2000-01-01' + i, decode(md5(i::text), 'hex'),
        'c' || i, '{\"n\": 1}', ARRAY[i, NULL], i * interval '1 day -3 hours', i, i + 1000
      FROM generate_series(1, 400) i;
    CREATE TABLE worded (k text COLLATE \"en-x-icu\" PRIMARY KEY, v text);
    INSERT INTO worded SELECT 'äßz' || i, 'v' || i FROM generate_series(1, 400) i;
    CREATE TABLE counted (k numeric PRIMARY KEY, v text);
    INSERT INTO counted SELECT i, 'v' || i FROM generate_series(1, 400) i;
    CREATE TABLE spans (k interval PRIMARY KEY, v text);
    INSERT INTO spans SELECT make_interval(days => 1 + i), 'v' || i FROM generate_series(1, 400) i;
    CREATE TABLE paired (a uuid, b int, v text, PRIMARY KEY (b, a));
    INSERT INTO paired SELECT md5('p')::uuid, i, 'v' || i FROM generate_series(1, 400) i;
    CREATE TABLE heap (v text, n int); ALTER TABLE heap REPLICA IDENTITY FULL;
    INSERT INTO heap SELECT 'v' || i % 40, i % 7 FROM generate_series(1, 400) i";

/// Tables that nobody writes: of the others a reconcile also counts what is on its way.
const UNWRITTEN: [&str; 2] = ["spans", "paired"];

/// What changes a row of `whole` and nothing else of it, whatever the row.
const CHANGES: [&str; 17] = [
    "txt = upper(coalesce(txt, 'x'))",
    "txt = coalesce(txt, '') || ' '",
    "txt = CASE WHEN txt IS NULL THEN '' END",
    "num = -num",
    "num = num + 0.000",
    "num = 'NaN'",
    "d = CASE WHEN d = 0 THEN '-0' ELSE -d END",
    "flag = NOT flag",
    "at = at + interval '1 microsecond'",
    "at = at + interval '1 hour'",
    "day = 'infinity'",
    "b = b || '\\x00'",
    "ch = upper(ch)",
    "j = '{\"n\": 1.0}'",
    "arr = ('[0:1]={' || arr[1] || ',NULL}')::int[]",
    "iv = iv + interval '1 month -30 days'",
    "x = y, y = x",
];

/// A row's key in SQL, and as PostgreSQL prints it.
type Key = fn(u64) -> (String, Vec<String>);

/// A table with another key, and a second one for a row: that its index takes for the same, or that sorts
/// elsewhere.
struct Keyed {
    table: &'static str,
    columns: &'static str,
    key: Key,
    other: Option<Key>,
}

const KEYED: [Keyed; 4] = [
    Keyed {
        table: "worded",
        columns: "k",
        key: |i| (format!("'äßz{i}'"), vec![format!("äßz{i}")]),
        other: Some(|i| (format!("'ÄßZ{i}'"), vec![format!("ÄßZ{i}")])),
    },
    Keyed {
        table: "counted",
        columns: "k",
        key: |i| (i.to_string(), vec![i.to_string()]),
        other: Some(|i| (format!("{i}.00"), vec![format!("{i}.00")])),
    },
    Keyed {
        table: "spans",
        columns: "k",
        key: |i| (format!("'{} days'", i + 1), vec![format!("{} days", i + 1)]),
        other: Some(|i| {
            let hours = format!("{}:00:00", 24 * (i + 1));
            (format!("'{hours}'"), vec![hours])
        }),
    },
    Keyed {
        table: "paired",
        columns: "b, a",
        key: |i| paired(i, "83878c91-1713-3890-2e0f-e0fb97a8c47a"),
        other: None,
    },
];

fn paired(i: u64, uuid: &str) -> (String, Vec<String>) {
    (
        format!("{i}, '{uuid}'"),
        vec![i.to_string(), uuid.to_owned()],
    )
}

/// What `verify` is to find in a table.
#[derive(Default)]
struct Planted {
    sql: Vec<String>,
    found: BTreeSet<(Vec<String>, &'static str)>,
    /// Rows of a table without a key, which bear no name.
    unnamed: [u64; 2],
}

const MISSING: &str = "missing on the target";
const EXTRA: &str = "not on the source";
const CHANGED: &str = "other values";

impl Planted {
    fn note(&mut self, key: &[String], kind: &'static str) {
        assert!(self.found.insert((key.to_vec(), kind)), "{key:?} twice");
    }

    fn of_kind(&self, kind: &str) -> u64 {
        let of_kind = self.found.iter().filter(|(_, other)| *other == kind);
        of_kind.count() as u64
    }

    /// Missing, changed, extra.
    fn counts(&self) -> [u64; 3] {
        let [missing, extra] = self.unnamed;
        [
            missing + self.of_kind(MISSING),
            self.of_kind(CHANGED),
            extra + self.of_kind(EXTRA),
        ]
    }
}

/// Some rows, each once.
fn some(random: &mut Random, count: usize) -> Vec<u64> {
    let mut rows = BTreeSet::new();
    while rows.len() < count {
        rows.insert(1 + random.below(ROWS));
    }
    let mut rows: Vec<u64> = rows.into_iter().collect();
    // By chance which of them is used for what.
    for at in (1..rows.len()).rev() {
        let other = random.below(at as u64 + 1);
        rows.swap(at, usize::try_from(other).unwrap());
    }
    rows
}

fn plant_whole(random: &mut Random) -> Planted {
    let mut planted = Planted::default();
    let mut rows = some(random, 4 + 2 * CHANGES.len()).into_iter();
    let mut next = || rows.next().unwrap();
    let key = |id: u64| [id.to_string()];
    for change in CHANGES {
        if random.below(3) > 0 {
            let id = next();
            let sql = format!("UPDATE whole SET {change} WHERE id = {id}");
            planted.sql.push(sql);
            planted.note(&key(id), CHANGED);
        }
    }
    // Two rows exchange their values: each column still holds the same.
    let (one, two) = (next(), next());
    planted.sql.push(format!(
        "UPDATE whole w SET (num, x, b) = (SELECT num, x, b FROM whole o WHERE o.id = {one} + {two} - w.id) \
         WHERE id IN ({one}, {two})"
    ));
    planted.note(&key(one), CHANGED);
    planted.note(&key(two), CHANGED);
    // A row that goes, and the same under another key.
    let gone = next();
    planted
        .sql
        .push(format!("UPDATE whole SET id = id + 5000 WHERE id = {gone}"));
    planted.note(&key(gone), MISSING);
    planted.note(&key(gone + 5000), EXTRA);
    let gone = next();
    let sql = format!("DELETE FROM whole WHERE id = {gone}");
    planted.sql.push(sql);
    planted.note(&key(gone), MISSING);
    planted
}

fn plant_keyed(random: &mut Random, keyed: &Keyed) -> Planted {
    let Keyed {
        table,
        columns,
        key,
        other,
    } = keyed;
    let mut planted = Planted::default();
    let rows = some(random, 9);
    let at = |i: u64| format!("({columns}) = ({})", key(i).0);
    for (n, i) in rows.into_iter().enumerate() {
        match (n % 4, other) {
            (0, _) => {
                let sql = format!("UPDATE {table} SET v = upper(v) WHERE {}", at(i));
                planted.sql.push(sql);
                planted.note(&key(i).1, CHANGED);
            }
            (1, _) => {
                planted
                    .sql
                    .push(format!("DELETE FROM {table} WHERE {}", at(i)));
                planted.note(&key(i).1, MISSING);
            }
            (2, _) | (_, None) => {
                let (sql, printed) = key(i + 100_000);
                let sql = format!("INSERT INTO {table} ({columns}, v) VALUES ({sql}, 'new')");
                planted.sql.push(sql);
                planted.note(&printed, EXTRA);
            }
            (_, Some(other)) => {
                let (sql, printed) = other(i);
                let sql = format!("UPDATE {table} SET {columns} = {sql} WHERE {}", at(i));
                planted.sql.push(sql);
                planted.note(&key(i).1, MISSING);
                planted.note(&printed, EXTRA);
            }
        }
    }
    planted
}

/// A row once too often, one too few, and one that is another: told apart by nothing but their values.
fn plant_heap(random: &mut Random) -> Planted {
    let place =
        |n: u64| format!("ctid = (SELECT ctid FROM heap WHERE n = {n} AND v <> 'w' LIMIT 1)");
    let n = random.below(7);
    Planted {
        sql: vec![
            format!("INSERT INTO heap SELECT v, n FROM heap WHERE {}", place(n)),
            format!("DELETE FROM heap WHERE {}", place((n + 1) % 7)),
            format!("UPDATE heap SET v = upper(v) WHERE {}", place((n + 2) % 7)),
        ],
        unnamed: [2, 2],
        ..Planted::default()
    }
}

fn plant(seed: u64) -> BTreeMap<&'static str, Planted> {
    let mut random = Random::new(seed);
    let mut planted = BTreeMap::from([
        ("whole", plant_whole(&mut random)),
        ("heap", plant_heap(&mut random)),
    ]);
    for keyed in &KEYED {
        planted.insert(keyed.table, plant_keyed(&mut random, keyed));
    }
    planted
}

/// Writes rows of its own to all kinds of tables of the source, one transaction after the other.
struct Writer {
    is_over: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Writer {
    async fn start(stage: &Stage) -> Writer {
        let client = stage.source_server.client_to(&stage.source_name).await;
        let (is_over, written) = (Arc::default(), Arc::default());
        let task = write(client.unwrap(), Arc::clone(&is_over), Arc::clone(&written));
        Writer {
            is_over,
            written,
            task: tokio::spawn(task),
        }
    }

    /// Waits until it has written so much more.
    async fn busy(&self, transactions: u64) {
        let until = self.written.load(Ordering::Relaxed) + transactions;
        wait_for(PATIENCE, "the source to be written", || async {
            Ok((self.written.load(Ordering::Relaxed) >= until).then_some(()))
        })
        .await
        .unwrap();
    }

    async fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.unwrap().unwrap();
    }
}

async fn write(
    client: Client,
    is_over: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
) -> Result<(), tokio_postgres::Error> {
    let mut pace = tokio::time::interval(Duration::from_millis(25));
    for n in 1_000_000.. {
        pace.tick().await;
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let sql = format!(
            "BEGIN; INSERT INTO whole (id, txt, num) VALUES ({n}, 'w', 0), ({n} + 5000000, NULL, NULL);
             INSERT INTO worded VALUES ('w{n}', 'w'); INSERT INTO counted VALUES (-{n}, 'w');
             INSERT INTO heap VALUES ('w', 7), ('w', 7);
             UPDATE whole SET txt = txt || '.', num = num + 1 WHERE id BETWEEN {n} - 3 AND {n} - 1;
             UPDATE worded SET k = k || 'x' WHERE k = 'w' || ({n} - 2);
             DELETE FROM counted WHERE k = -({n} - 2); DELETE FROM whole WHERE id = {n} - 7;
             DELETE FROM heap WHERE ctid = (SELECT ctid FROM heap WHERE v = 'w' LIMIT 1); COMMIT"
        );
        client.batch_execute(&sql).await?;
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[track_caller]
fn assert_found(ran: &Ran, name: &str, planted: &Planted) {
    let found = table(ran, &format!("public.{name}"));
    assert_eq!(found["result"], "different", "{found}");
    let listed = found["differences"].as_array().unwrap();
    if planted.unnamed == [0, 0] {
        let listed: BTreeSet<(Vec<String>, &str)> = listed
            .iter()
            .map(|one| {
                let key: Vec<String> = serde_json::from_value(one["key"].clone()).unwrap();
                (key, one["kind"].as_str().unwrap())
            })
            .collect();
        assert_eq!(listed, planted.found, "{name}");
    }
    let all = planted.found.len() as u64 + planted.unnamed.iter().sum::<u64>();
    assert_eq!(found["different"], all, "{name}: {found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_by_chance_is_named_and_mended_exactly() {
    let stage = Stage::new("verify_planted").await;
    stage.source_sql(TABLES).await;
    let run = stage.start_streaming().await;
    // Rows sort otherwise here.
    stage
        .target_sql("ALTER TABLE worded ALTER k TYPE text COLLATE \"C\"")
        .await;
    let writer = Writer::start(&stage).await;
    for seed in 0..ROUNDS {
        writer.busy(20).await;
        let planted = plant(seed);
        for sql in planted.values().flat_map(|table| &table.sql) {
            let changed = stage.target.execute(sql, &[]).await;
            assert!(changed.is_ok_and(|rows| rows > 0), "seed {seed}: {sql}");
        }
        if seed % 2 == 0 {
            let found = stage.verify(&[]).await.expect(3);
            for (name, planted) in &planted {
                assert_found(&found, name, planted);
            }
            stage.verify(&["--repair", "--yes"]).await.expect(0);
        } else {
            let mut arguments = vec!["reconcile", "FILE", "--yes", "--json"];
            arguments.extend(planted.keys().flat_map(|name| ["--table", *name]));
            let ran = stage.run(&arguments).await.expect(0);
            for (name, planted) in &planted {
                let found = &table(&ran, &format!("public.{name}"))["reconciled"];
                let counts = ["missing", "changed", "extra"].map(|kind| found[kind].as_u64());
                let wanted = planted.counts().map(Some);
                if UNWRITTEN.contains(name) {
                    assert_eq!(counts, wanted, "seed {seed}: {name}: {found}");
                }
                let is_less = counts
                    .iter()
                    .zip(&wanted)
                    .any(|(found, planted)| found < planted);
                assert!(!is_less, "seed {seed}: {name}: {found} of {wanted:?}");
            }
        }
        stage.verify(&[]).await.expect(0);
    }
    writer.stop().await;
    stage.wait_until_identical().await;
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.clear().await;
}
