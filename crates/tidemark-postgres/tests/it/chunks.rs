//! Chunks of real tables: how they are cut, and that each row is in exactly one.

use std::collections::BTreeMap;

use tidemark_core::checkpoint::Chunk;
use tidemark_core::mapping::TableMapping;
use tidemark_core::schema::SourceSchema;
use tidemark_core::source::{RowFormat, Snapshot};
use tidemark_postgres::config::Side;
use tidemark_postgres::source::PgSnapshot;

use crate::lab::{Database, database, mapping, read};

const TABLES: &str = "
CREATE TABLE serial (id bigserial PRIMARY KEY, t text);
INSERT INTO serial (t) SELECT md5(i::text) FROM generate_series(1, 30000) AS i;
CREATE TABLE fresh (id int PRIMARY KEY, t text);
INSERT INTO fresh SELECT i * 3 - 40000, md5(i::text) FROM generate_series(1, 30000) AS i;
CREATE TABLE shuffled (id uuid PRIMARY KEY, t text);
INSERT INTO shuffled SELECT md5(i::text)::uuid, 'x' FROM generate_series(1, 30000) AS i;
CREATE TABLE ordered (id uuid PRIMARY KEY, t text);
INSERT INTO ordered SELECT lpad(to_hex(i), 32, '0')::uuid, 'x' FROM generate_series(1, 30000) AS i;
CREATE TABLE words (id text COLLATE \"C\" PRIMARY KEY, n int);
INSERT INTO words SELECT 'k''\\ ' || lpad(i::text, 8, '0'), i FROM generate_series(1, 30000) AS i;
CREATE TABLE local_words (id text COLLATE \"de-x-icu\" PRIMARY KEY, n int);
INSERT INTO local_words SELECT lpad(i::text, 8, '0'), i FROM generate_series(1, 30000) AS i;
CREATE TABLE moments (at timestamptz, n int, PRIMARY KEY (at, n));
INSERT INTO moments VALUES ('-infinity', 0), ('0044-03-15 BC', 0);
INSERT INTO moments SELECT timestamptz '2024-01-01' + i * interval '1 minute', i FROM generate_series(1, 30000) AS i;
INSERT INTO moments VALUES ('infinity', 0);
CREATE TABLE skewed (tenant int, id int, t text, PRIMARY KEY (tenant, id));
INSERT INTO skewed SELECT CASE WHEN i <= 27000 THEN 1 ELSE i END, i, 'xxxxxxxxxxxxxxxx' FROM generate_series(1, 30000) AS i;
CREATE TABLE tenants (tenant int, id int, t text, PRIMARY KEY (tenant, id));
INSERT INTO tenants SELECT i / 3000, i, 'xxxxxxxxxxxxxxxx' FROM generate_series(1, 30000) AS i;
CREATE TABLE keyless (t text);
INSERT INTO keyless SELECT md5((i % 1000)::text) FROM generate_series(1, 30000) AS i;
CREATE TABLE wide (id int PRIMARY KEY, t text);
ALTER TABLE wide ALTER COLUMN t SET STORAGE EXTERNAL;
INSERT INTO wide SELECT i, repeat(i::text, 5000) FROM generate_series(1, 100) AS i;
CREATE TABLE parts (id int, t text) PARTITION BY RANGE (id);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM (0) TO (20000);
CREATE TABLE \"parts B\" PARTITION OF parts FOR VALUES FROM (20000) TO (50000) PARTITION BY HASH (id);
CREATE TABLE parts_b0 PARTITION OF \"parts B\" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_b1 PARTITION OF \"parts B\" FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parts SELECT i, md5(i::text) FROM generate_series(1, 40000) AS i;
CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE heir () INHERITS (parent);
INSERT INTO parent SELECT generate_series(1, 30000); INSERT INTO heir SELECT generate_series(1, 30000);
CREATE TABLE empty (id int PRIMARY KEY);
ANALYZE serial, shuffled, ordered, words, local_words, moments, skewed, tenants, keyless, wide, parts, parent;
";

const GOAL_BYTES: u64 = 200_000;

async fn plan(snapshot: &PgSnapshot, mapping: &TableMapping) -> Vec<Chunk> {
    snapshot.chunks(mapping, GOAL_BYTES).await.unwrap()
}

/// What kinds of chunks there are.
fn kind(chunks: &[Chunk]) -> &'static str {
    let kind_of = |chunk: &Chunk| match chunk {
        Chunk::Whole => "whole",
        Chunk::Keys { .. } => "keys",
        Chunk::Blocks { leaf: None, .. } => "blocks",
        Chunk::Blocks { leaf: Some(_), .. } => "leaves",
        Chunk::Rows { .. } => "rows",
    };
    let first = kind_of(&chunks[0]);
    assert!(
        chunks.iter().all(|chunk| kind_of(chunk) == first),
        "{chunks:?}"
    );
    first
}

async fn setup() -> (Database, SourceSchema, PgSnapshot) {
    let source = database(TABLES).await;
    let schema = source.describe(&["public.*"]).await;
    let snapshot = PgSnapshot::take(source.config(Side::Source)).await.unwrap();
    (source, schema, snapshot)
}

#[tokio::test]
async fn tables_are_cut_as_their_key_and_order_allow() {
    let (_source, schema, snapshot) = setup().await;
    for (name, expected) in [
        ("public.serial", "keys"),
        ("public.fresh", "keys"),
        ("public.shuffled", "blocks"),
        ("public.ordered", "keys"),
        ("public.words", "keys"),
        ("public.local_words", "blocks"),
        ("public.moments", "keys"),
        ("public.skewed", "blocks"),
        ("public.tenants", "keys"),
        ("public.keyless", "blocks"),
        ("public.wide", "keys"),
        ("public.parts", "leaves"),
        ("public.parent", "keys"),
        ("public.empty", "whole"),
    ] {
        let mapping = mapping(&schema, name);
        let chunks = plan(&snapshot, &mapping).await;
        assert_eq!(kind(&chunks), expected, "{name}: {chunks:?}");
        let wanted = mapping.schema.bytes / GOAL_BYTES;
        let count = chunks.len() as u64;
        assert!(
            expected == "whole" || (wanted / 2..=wanted * 2 + 3).contains(&count),
            "{name}: {count} chunks instead of about {wanted}"
        );
    }
}

#[tokio::test]
async fn every_row_is_in_exactly_one_chunk() {
    let (source, schema, snapshot) = setup().await;
    // What happens after the snapshot is in no chunk, wherever it lands.
    source
        .run(
            "INSERT INTO serial (t) SELECT 'later' FROM generate_series(1, 5000);
             UPDATE fresh SET t = 'later' WHERE id % 2 = 0; DELETE FROM parts WHERE id < 100;",
        )
        .await;
    let mut reader = snapshot.reader().await.unwrap();
    for table in &schema.tables {
        let mapping = mapping(&schema, &table.name.to_string());
        let chunks = plan(&snapshot, &mapping).await;
        let mut found: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let mut largest = 0;
        for chunk in &chunks {
            let rows = read(reader.as_mut(), &mapping, chunk, RowFormat::PgCopyText)
                .await
                .unwrap();
            largest = largest.max(rows.len());
            for row in rows {
                *found.entry(row).or_default() += 1;
            }
        }
        let mut expected: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let whole = read(
            reader.as_mut(),
            &mapping,
            &Chunk::Whole,
            RowFormat::PgCopyText,
        )
        .await
        .unwrap();
        let even = whole.len() / chunks.len();
        for row in whole {
            *expected.entry(row).or_default() += 1;
        }
        assert!(found == expected, "{}: {chunks:?}", table.name);
        assert!(
            chunks.len() == 1 || largest <= even * 4,
            "{}: {largest} rows in one of {} chunks, {even} on average",
            table.name,
            chunks.len()
        );
    }
}

#[tokio::test]
async fn key_ranges_are_read_through_the_index() {
    let (source, schema, _snapshot) = setup().await;
    let serial = mapping(&schema, "public.serial");
    let snapshot = PgSnapshot::take(source.config(Side::Source)).await.unwrap();
    let chunks = plan(&snapshot, &serial).await;
    let mut reader = snapshot.reader().await.unwrap();
    let scans = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'serial'";
    let before = source.server.psql(&source.name, scans).await.unwrap();
    for chunk in &chunks {
        read(reader.as_mut(), &serial, chunk, RowFormat::PgCopyBinary)
            .await
            .unwrap();
    }
    drop((reader, snapshot));
    let number =
        |text: &str, at: usize| -> u64 { text.trim().split('|').nth(at).unwrap().parse().unwrap() };
    // Statistics arrive once the session has ended.
    tidemark_lab::wait::wait_until(std::time::Duration::from_secs(20), "statistics", || async {
        let now = source.server.psql(&source.name, scans).await?;
        assert_eq!(number(&now, 0), number(&before, 0), "sequential scans");
        Ok(number(&now, 1) >= number(&before, 1) + chunks.len() as u64)
    })
    .await
    .unwrap();
}
