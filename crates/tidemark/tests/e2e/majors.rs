//! Between majors of PostgreSQL: load, stream and verification, in the words each server knows.

use tidemark_lab::server::PostgresServer;
use tidemark_lab::skip::major_or_skip;
use tidemark_lab::traffic::bank::Bank;
use tidemark_lab::traffic::mixed::{Mixed, Truncates};
use tidemark_lab::traffic::{Pace, Traffic};
use tidemark_lab::wait::wait_for;

use crate::asks::text;
use crate::stage::{PATIENCE, Stage};

const BANK: Bank = Bank { accounts: 100 };

/// Types of which each major has its own code, and a transaction that does not fit the memory for
/// decoding.
const TYPED: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE typed (id int PRIMARY KEY, m mood, n numeric, at timestamptz, j jsonb, r int4range,
      rs int4multirange, a text[], u uuid, twice int GENERATED ALWAYS AS (id * 2) STORED);
    INSERT INTO typed VALUES (1, 'sad', 'NaN', 'infinity', '{\"a\": 1.0}', '[1,5)', '{[1,2),[3,4)}',
      '[0:1]={a,NULL}', md5('')::uuid);
    INSERT INTO typed (id) VALUES (2)";
const LARGE: &str = "BEGIN; INSERT INTO typed SELECT i, 'ok', i / 7.0, '0044-03-15 BC', '[]', 'empty', '{}', \
      ARRAY[i::text], md5(i::text)::uuid FROM generate_series(10, 5000) i; \
    SAVEPOINT s; UPDATE typed SET m = 'sad'; ROLLBACK TO s; UPDATE typed SET n = '-Infinity' WHERE id % 2 = 0; COMMIT";

/// A server of a major whose decoding has little memory, and which logs what senders are told.
async fn server(test: &str, major: u32) -> Option<&'static PostgresServer> {
    let builder = major_or_skip(test, major)?
        .setting("logical_decoding_work_mem", "64kB")
        .setting("log_replication_commands", "on");
    Some(Box::leak(Box::new(builder.start().await.unwrap())))
}

async fn load_stream_and_verify(source_major: u32, target_major: u32) {
    let name = format!("majors_{source_major}_to_{target_major}");
    let test = format!("majors::{source_major}_to_{target_major}");
    let (Some(source), Some(target)) = (
        server(&test, source_major).await,
        server(&test, target_major).await,
    ) else {
        return;
    };
    let stage = Stage::on(source, target, &name).await;
    let config = stage.source_config();
    // A table that is emptied all the time may not be read while it is: it is emptied once, below.
    let mixed = Mixed {
        truncates: Truncates::Never,
        ..Mixed::default()
    };
    Traffic::set_up(&config, &BANK).await.unwrap();
    Traffic::set_up(&config, &mixed).await.unwrap();
    stage.source_sql(TYPED).await;
    let bank = Traffic::start(&config, &BANK, Pace::at(50.0, 1));
    let changes = Traffic::start(&config, &mixed, Pace::at(50.0, 2));
    let run = stage.start_streaming().await;
    stage.source_sql(LARGE).await;
    stage.source_sql("TRUNCATE mixed_scratch").await;
    let busy = || async { Ok((changes.report().committed > 200).then_some(())) };
    wait_for(PATIENCE, "some changes", busy).await.unwrap();
    // While both sides change, at one position.
    stage.verify_identical().await;
    bank.stop().await.unwrap();
    changes.stop().await.unwrap();
    stage.wait_until_identical().await;

    let version = match source_major {
        14 => 2,
        15 => 3,
        _ => 4,
    };
    let told = format!("proto_version '{version}'");
    assert!(source.log().contains(&told), "not told {told}");
    let streamed = format!(
        "SELECT stream_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = 'tidemark_{name}'"
    );
    assert_eq!(text(&stage.source, &streamed).await.unwrap(), "t");
    if source_major >= 17 {
        let failover = format!(
            "SELECT failover FROM pg_replication_slots WHERE slot_name = 'tidemark_{name}'"
        );
        assert_eq!(text(&stage.source, &failover).await.unwrap(), "t");
    }
    assert_eq!(run.terminate().await, Some(0), "{}", stage.log());
    stage.assert_identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_14_to_15() {
    load_stream_and_verify(14, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_16_to_15() {
    load_stream_and_verify(16, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_17_to_15() {
    load_stream_and_verify(17, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_18_to_15() {
    load_stream_and_verify(18, 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_15_to_18() {
    load_stream_and_verify(15, 18).await;
}

/// What is published takes no updates where whole rows are logged and one of their columns is generated.
#[tokio::test(flavor = "multi_thread")]
async fn f23_a_generated_column_in_whole_rows_of_18_is_told() {
    let test = "majors::f23_a_generated_column_in_whole_rows_of_18_is_told";
    let Some(source) = server(test, 18).await else {
        return;
    };
    let target = PostgresServer::shared().await.unwrap();
    let stage = Stage::on(source, target, "majors_generated").await;
    stage
        .source_sql(
            "CREATE TABLE whole (id int PRIMARY KEY, n int GENERATED ALWAYS AS (id + 1) STORED);
             ALTER TABLE whole REPLICA IDENTITY FULL; INSERT INTO whole VALUES (1);
             CREATE TABLE keyed (id int PRIMARY KEY, n int GENERATED ALWAYS AS (id + 1) STORED);
             CREATE TABLE full_only (id int PRIMARY KEY); ALTER TABLE full_only REPLICA IDENTITY FULL",
        )
        .await;
    let told = stage.run(&["check", "FILE", "--json"]).await.expect(0);
    let findings = told.json()["data"]["findings"].clone();
    let found = findings.as_array().unwrap().iter();
    let warned: Vec<String> = found
        .filter(|finding| finding["code"] == "TM1038" && finding["verdict"] == "warning")
        .map(std::string::ToString::to_string)
        .collect();
    assert_eq!(warned.len(), 1, "{told:?}");
    assert!(warned[0].contains("public.whole is FULL"), "{warned:?}");
    // So it is on the source.
    stage
        .source_sql("CREATE PUBLICATION by_hand FOR TABLE whole")
        .await;
    let refused = stage.source.execute("UPDATE whole SET id = 2", &[]).await;
    assert!(refused.is_err(), "{refused:?}");
    stage
        .source_sql("ALTER TABLE whole REPLICA IDENTITY DEFAULT; UPDATE whole SET id = 2")
        .await;
    let told = stage.run(&["check", "FILE", "--json"]).await.expect(0);
    assert!(
        !told.stdout.contains("public.whole is FULL"),
        "{}",
        told.stdout
    );
}
