//! Rows of a unit and its record: both or neither.

use std::time::Duration;

use async_trait::async_trait;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::{Chunk, Unit};
use tidemark_core::mapping::Rules;
use tidemark_core::source::{RowBlock, RowFormat, RowStream};
use tidemark_core::target::{Existing, LoadUnit, LoadedPart, Loader, Place, Replace};
use tidemark_core::{Error, ErrorKind, Result};
use tidemark_lab::{Proxy, wait_for};

use crate::apply::rig::table;
use crate::target::{Database, Pair, owner, started_at, target_at, tidemark, whole};

const NUMBERS: &str = "CREATE TABLE numbers (n int, v text); \
     INSERT INTO numbers SELECT n, repeat('x', n % 100) FROM generate_series(1, 50000) n";

/// What a test makes up.
struct Blocks(Vec<Result<RowBlock>>);

#[async_trait]
impl RowStream for Blocks {
    async fn next(&mut self) -> Result<Option<RowBlock>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        self.0.remove(0).map(Some)
    }
}

/// Lines of text COPY, one message each.
fn lines(lines: &[&str]) -> Blocks {
    let mut bytes = Vec::new();
    for line in lines {
        let len = u32::try_from(line.len() + 5).unwrap();
        bytes.push(b'd');
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
    }
    let rows = lines.len() as u64;
    let bytes = bytes.into();
    Blocks(vec![Ok(RowBlock { bytes, rows })])
}

async fn load(
    loader: &mut dyn Loader,
    pair: &Pair,
    unit: Unit,
    replace: Replace,
    mut rows: Blocks,
) -> Result<LoadedPart> {
    let unit = LoadUnit {
        unit: &unit,
        tidemark: &tidemark(),
        format: RowFormat::PgCopyText,
        place: Place::InPlace,
        replace,
    };
    loader
        .load(&pair.mappings[0], &unit, &mut rows, &|_| {})
        .await
}

#[tokio::test]
async fn rows_and_their_unit_come_together() {
    let pair = Pair::new(NUMBERS, Rules::default()).await;
    let mapping = &pair.mappings[0];
    for (format, existing) in [
        (RowFormat::PgCopyBinary, Existing::LoadIfEmpty),
        (RowFormat::PgCopyText, Existing::Truncate),
    ] {
        pair.prepare("numbers", existing).await.unwrap();
        let part = pair.copy(mapping, Place::InPlace, format).await.unwrap();
        assert_eq!(part.rows, 50_000);
        pair.assert_identical().await;
        let unit = "SELECT is_loaded, rows, tidemark->>'after' FROM tidemark.unit";
        assert_eq!(pair.database.value(unit).await, "t|50000|0/100000");
    }
    let units = pair.target.checkpoint().await.unwrap().unwrap().tables[0]
        .units
        .clone();
    assert_eq!(units[0].tidemark, Some(tidemark()));
}

#[tokio::test]
async fn progress_adds_up_and_the_loader_can_be_used_again() {
    let pair = Pair::new("CREATE TABLE t (n int, v text)", Rules::default()).await;
    let units = [0, 1].map(|number| Unit { number, ..whole() });
    let mapping = &pair.mappings[0];
    pair.target
        .prepare(mapping, Existing::LoadIfEmpty, Place::InPlace, &units)
        .await
        .unwrap();
    let mut loader = pair.target.loader().await.unwrap();
    for unit in &units {
        let mut rows = lines(&["1\ta", "2\tb"]);
        rows.0.extend(lines(&["3\tc"]).0);
        let unit = LoadUnit {
            unit,
            tidemark: &tidemark(),
            format: RowFormat::PgCopyText,
            place: Place::InPlace,
            replace: Replace::Nothing,
        };
        let told = std::sync::Mutex::new(Vec::new());
        let progress = |part: LoadedPart| told.lock().unwrap().push(part.rows);
        let part = loader
            .load(mapping, &unit, &mut rows, &progress)
            .await
            .unwrap();
        assert_eq!((part.rows, part.bytes), (3, 27));
        assert_eq!(*told.lock().unwrap(), [2, 1]);
        assert!(loader.is_usable());
    }
    let nothing = Blocks(Vec::new());
    let third = Unit {
        number: 2,
        ..whole()
    };
    let part = load(&mut *loader, &pair, third, Replace::Nothing, nothing).await;
    assert_eq!(part.unwrap().rows, 0, "an empty unit is a unit");
    let found =
        "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM tidemark.unit WHERE is_loaded)";
    assert_eq!(pair.database.value(found).await, "6|3");
}

#[tokio::test]
async fn a_range_is_replaced_in_the_same_transaction() {
    let script = "CREATE TABLE t (id int PRIMARY KEY, name text)";
    let pair = Pair::new(script, Rules::default()).await;
    pair.prepare("t", Existing::LoadIfEmpty).await.unwrap();
    let rows = "INSERT INTO t SELECT n, 'old' FROM generate_series(1, 9) n";
    pair.database.run(rows).await;
    let mut loader = pair.target.loader().await.unwrap();
    let keys = |from: Option<&str>, to: Option<&str>| Chunk::Keys {
        column: "id".to_owned(),
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
    };
    let these = Chunk::Rows {
        columns: vec!["id".to_owned()],
        keys: vec![vec!["7".to_owned()], vec!["8".to_owned()]],
    };
    for (number, chunk, line) in [
        (1, keys(None, Some("3")), "2\tnew"),
        (2, keys(Some("3"), Some("5")), "3\tnew"),
        (3, keys(Some("9"), None), "9\tnew"),
        (4, these, "8\tnew"),
    ] {
        let unit = Unit {
            number,
            chunk,
            ..whole()
        };
        load(&mut *loader, &pair, unit, Replace::Range, lines(&[line]))
            .await
            .unwrap();
    }
    let left = "SELECT string_agg(id || name, ' ' ORDER BY id) FROM t";
    assert_eq!(
        pair.database.value(left).await,
        "2new 3new 5old 6old 8new 9new"
    );
    let broken = Unit {
        number: 5,
        ..whole()
    };
    let refusal = load(
        &mut *loader,
        &pair,
        broken,
        Replace::Range,
        lines(&["x\ty"]),
    );
    refusal.await.unwrap_err();
    assert_eq!(
        pair.database.value(left).await,
        "2new 3new 5old 6old 8new 9new"
    );
}

/// A comparison counts them there as well.
#[tokio::test]
async fn rows_whose_key_is_null_are_replaced_with_the_lowest_range() {
    let script = "CREATE TABLE t (id int PRIMARY KEY, name text)";
    let pair = Pair::new(script, Rules::default()).await;
    let without_key = "CREATE TABLE t (id int, name text)";
    pair.database.run(without_key).await;
    pair.prepare("t", Existing::LoadIfEmpty).await.unwrap();
    let rows = "INSERT INTO t VALUES (NULL, 'old'), (1, 'old'), (9, 'old')";
    pair.database.run(rows).await;
    let mut loader = pair.target.loader().await.unwrap();
    let unit = Unit {
        number: 1,
        chunk: Chunk::Keys {
            column: "id".to_owned(),
            from: None,
            to: Some("5".to_owned()),
        },
        ..whole()
    };
    load(
        &mut *loader,
        &pair,
        unit,
        Replace::Range,
        lines(&["1\tnew"]),
    )
    .await
    .unwrap();
    let left = "SELECT string_agg(coalesce(id::text, 'NULL') || name, ' ' ORDER BY id) FROM t";
    assert_eq!(pair.database.value(left).await, "1new 9old");
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_told_by_place_and_never_by_itself() {
    let script = "CREATE TABLE prices (id int, price numeric(8,2))";
    let pair = Pair::new(script, Rules::default()).await;
    pair.prepare("prices", Existing::LoadIfEmpty).await.unwrap();
    for (value, code) in [
        ("hunter2", codes::TARGET_VALUE),
        ("12345678.9", codes::TARGET_VALUE),
    ] {
        let mut loader = pair.target.loader().await.unwrap();
        let rows = lines(&["1\t1.5", &format!("2\t{value}")]);
        let refusal = load(&mut *loader, &pair, whole(), Replace::Nothing, rows);
        let refusal = refusal.await.unwrap_err();
        assert_eq!(refusal.code(), code);
        assert_eq!(refusal.kind(), ErrorKind::Data);
        assert_eq!(refusal.table_name(), Some("public.prices"));
        let text = refusal.to_string();
        assert!(text.contains("COPY prices, line 2"), "{text}");
        assert!(!text.contains(value), "{text}");
        assert!(!loader.is_usable());
    }
    let left = "SELECT (SELECT count(*) FROM prices), is_loaded FROM tidemark.unit";
    assert_eq!(pair.database.value(left).await, "0|f");
}

#[tokio::test]
async fn an_error_of_the_source_leaves_nothing() {
    let pair = Pair::new(NUMBERS, Rules::default()).await;
    pair.prepare("numbers", Existing::LoadIfEmpty)
        .await
        .unwrap();
    let mut loader = pair.target.loader().await.unwrap();
    let mut rows = lines(&["1\ta"]);
    let lost = Error::transient(codes::SOURCE_CONNECTION_LOST, "source: connection lost");
    rows.0.push(Err(lost));
    let refusal = load(&mut *loader, &pair, whole(), Replace::Nothing, rows).await;
    assert_eq!(refusal.unwrap_err().code(), codes::SOURCE_CONNECTION_LOST);
    assert!(!loader.is_usable());
    drop(loader);
    let left = "SELECT (SELECT count(*) FROM numbers), is_loaded FROM tidemark.unit";
    assert_eq!(pair.database.value(left).await, "0|f");
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_leaves_nothing() {
    let mut pair = Pair::new(NUMBERS, Rules::default()).await;
    let proxy = Proxy::start(pair.database.server.port()).await.unwrap();
    let url = pair
        .database
        .server
        .url_through(proxy.address(), &pair.database.name);
    let direct = std::mem::replace(&mut pair.target, target_at(&url, "shop"));
    drop(direct);
    wait_for(Duration::from_secs(10), "the pipeline", || async {
        Ok(pair.target.acquire(&owner(1)).await.ok())
    })
    .await
    .unwrap();
    pair.prepare("numbers", Existing::LoadIfEmpty)
        .await
        .unwrap();
    let mapping = &pair.mappings[0];
    let before = proxy.counters().to_server_bytes;
    proxy.cut_after(tidemark_lab::proxy::Direction::ToServer, before + 1_000_000);
    let cut = pair
        .copy(mapping, Place::InPlace, RowFormat::PgCopyBinary)
        .await;
    assert_eq!(cut.unwrap_err().kind(), ErrorKind::Transient);
    let left = "SELECT (SELECT count(*) FROM numbers), is_loaded FROM tidemark.unit";
    assert_eq!(pair.database.value(left).await, "0|f");
    proxy.cut_after(tidemark_lab::proxy::Direction::ToServer, u64::MAX);
    pair.copy(mapping, Place::InPlace, RowFormat::PgCopyBinary)
        .await
        .unwrap();
    pair.assert_identical().await;
}

#[tokio::test]
async fn a_zombie_loads_nothing() {
    let pair = Pair::new(NUMBERS, Rules::default()).await;
    pair.prepare("numbers", Existing::LoadIfEmpty)
        .await
        .unwrap();
    let mut loader = pair.target.loader().await.unwrap();
    pair.target.acquire(&owner(1)).await.unwrap();
    let refusal = load(
        &mut *loader,
        &pair,
        whole(),
        Replace::Nothing,
        lines(&["1\ta"]),
    );
    assert_eq!(refusal.await.unwrap_err().code(), codes::TARGET_FENCED);
    let left = "SELECT (SELECT count(*) FROM numbers), is_loaded FROM tidemark.unit";
    assert_eq!(pair.database.value(left).await, "0|f");
}

#[tokio::test]
async fn a_unit_that_came_in_after_all_is_not_loaded_twice() {
    let pair = Pair::new(NUMBERS, Rules::default()).await;
    pair.prepare("numbers", Existing::LoadIfEmpty)
        .await
        .unwrap();
    let mut late = pair.target.loader().await.unwrap();
    let mut again = pair.target.loader().await.unwrap();
    load(
        &mut *late,
        &pair,
        whole(),
        Replace::Nothing,
        lines(&["1\ta"]),
    )
    .await
    .unwrap();
    let refusal = load(
        &mut *again,
        &pair,
        whole(),
        Replace::Nothing,
        lines(&["1\ta"]),
    );
    assert_eq!(refusal.await.unwrap_err().kind(), ErrorKind::Transient);
    assert_eq!(
        pair.database.value("SELECT count(*) FROM numbers").await,
        "1"
    );
}

#[tokio::test]
async fn f49_triggers_of_the_target_keep_still() {
    let script = "CREATE TABLE t (n int, v text)";
    let pair = Pair::new(script, Rules::default()).await;
    pair.database
        .run(
            "CREATE TABLE t (n int, v text); CREATE TABLE audit (n int); \
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN INSERT INTO audit VALUES (NEW.n); RETURN NEW; END'; \
             CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
    pair.prepare("t", Existing::LoadIfEmpty).await.unwrap();
    let mut loader = pair.target.loader().await.unwrap();
    load(
        &mut *loader,
        &pair,
        whole(),
        Replace::Nothing,
        lines(&["1\ta"]),
    )
    .await
    .unwrap();
    let found = "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM audit)";
    assert_eq!(pair.database.value(found).await, "1|0");
}

/// Rows that are only replaced must not take others with them, whatever the role may have done before.
#[tokio::test]
async fn a_role_that_may_keep_triggers_still_no_more_is_known_as_such() {
    let database = Database::new().await;
    let role = format!("still_{}", database.name);
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN SUPERUSER; \
             CREATE TABLE parent (id int PRIMARY KEY, v text); \
             CREATE TABLE child (parent int REFERENCES parent ON DELETE CASCADE); \
             INSERT INTO parent VALUES (1, 'old'); INSERT INTO child VALUES (1); \
             ALTER TABLE parent OWNER TO {role}; ALTER TABLE child OWNER TO {role}"
        ))
        .await;
    let url = database.server.url_with(&role, None, &database.name);
    let mapping = table("parent", &["id*", "v"]);
    let target = started_at(&url, "shop", std::slice::from_ref(&mapping)).await;
    drop(target.loader().await.unwrap());
    database
        .run(&format!("ALTER ROLE {role} NOSUPERUSER"))
        .await;

    let unit = Unit {
        chunk: Chunk::Rows {
            columns: vec!["id".to_owned()],
            keys: vec![vec!["1".to_owned()]],
        },
        ..whole()
    };
    let unit = LoadUnit {
        unit: &unit,
        tidemark: &tidemark(),
        format: RowFormat::PgCopyText,
        place: Place::InPlace,
        replace: Replace::Range,
    };
    let mut loader = target.loader().await.unwrap();
    let mut rows = lines(&["1\tnew"]);
    let loaded = loader.load(&mapping, &unit, &mut rows, &|_| {}).await;
    assert_eq!(database.value("SELECT count(*) FROM child").await, "1");
    assert_eq!(loaded.unwrap_err().code(), codes::TARGET_FOREIGN_KEY);
}
