//! What the change stream needs: the publication, the slot, and transactions that end.

use std::time::Duration;

use tidemark_core::catalogue::{Code, codes};
use tidemark_core::config::Create;
use tidemark_core::finding::{Finding, Verdict};
use tidemark_core::position::Lsn;
use tidemark_postgres::config::{ConnectConfig, Side};
use tidemark_postgres::wire::{Connection, ReplicationOptions, ReplicationReader, Role};

use super::{ALL_WELL, Subject, of};

#[tokio::test]
async fn f18_the_publication_must_cover_the_tables() {
    let subject = Subject::new(ALL_WELL).await;
    // A reader owns nothing, so somebody else makes it.
    let finding = subject
        .fails_and_is_mended_by_other_code(
            codes::PUBLICATION_PRIVILEGES,
            codes::PUBLICATION_INCOMPLETE,
        )
        .await;
    assert!(finding.found.contains("may not make it"), "{finding:?}");
}

#[tokio::test]
async fn f18_a_publication_that_a_person_made_is_looked_at_closely() {
    let mut subject = Subject::new(ALL_WELL).await;
    subject.create = Create::Never;
    let missing = of(&subject.check().await, codes::PUBLICATION_MISSING);
    assert_eq!(missing[0].verdict, Verdict::Failed);
    subject.mend(&missing[0], 0).await;
    subject.passes(codes::PUBLICATION_INCOMPLETE).await;

    let name = format!("tidemark_{}", subject.database);
    subject
        .run(&format!(
            "ALTER PUBLICATION {name} SET TABLE t (id); \
             ALTER PUBLICATION {name} SET (publish = 'insert, update', publish_via_partition_root = false)"
        ))
        .await;
    let finding = subject
        .fails_and_is_mended(codes::PUBLICATION_INCOMPLETE, Verdict::Failed)
        .await;
    for part in [
        "does not send delete, truncate",
        "partitions under their own names",
        "lacks public.p",
        "leaves out rows or columns of public.t",
    ] {
        assert!(finding.found.contains(part), "{part}: {}", finding.found);
    }

    let slot = of(&subject.check().await, codes::SLOT_MISSING);
    assert_eq!(slot[0].verdict, Verdict::Failed);
    subject.mend(&slot[0], 1).await;
    subject.passes(codes::SLOT_ACTIVE).await;
    subject
        .run(&format!("SELECT pg_drop_replication_slot('{name}')"))
        .await;
}

/// Reads a slot, as another program would.
async fn hold(subject: &Subject, slot: &str, application: &str) -> ReplicationReader {
    let url = subject.server.url_to(&subject.database);
    let mut config = ConnectConfig::parse(&url, Side::Source).unwrap();
    config.application_name = Some(application.to_owned());
    let connection = Connection::connect(&config, Role::Replication)
        .await
        .unwrap();
    let sql = format!(
        "START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '{slot}')"
    );
    let options = ReplicationOptions {
        acknowledged: Lsn(0),
        ..ReplicationOptions::default()
    };
    connection.start_replication(&sql, options).await.unwrap()
}

#[tokio::test]
async fn a_slot_of_another_kind_or_in_other_hands_is_found() {
    let subject = Subject::new(ALL_WELL).await;
    let name = format!("tidemark_{}", subject.database);
    subject.passes(codes::SLOT_MISSING).await;
    subject.run(&format!("CREATE PUBLICATION {name}")).await;
    subject
        .run(&format!(
            "SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')"
        ))
        .await;
    let foreign = of(&subject.check().await, codes::SLOT_FOREIGN);
    assert_eq!(foreign[0].verdict, Verdict::Failed);
    subject.mend(&foreign[0], 1).await;
    subject.passes(codes::SLOT_MISSING).await;

    subject
        .run(&format!(
            "SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"
        ))
        .await;
    let ours = hold(&subject, &name, "tidemark shop").await;
    let held = of(&subject.check().await, codes::SLOT_ACTIVE);
    assert_eq!(held[0].verdict, Verdict::Note, "{held:?}");
    ours.stop().await.unwrap();
    let _theirs = hold(&subject, &name, "another program").await;
    let held = of(&subject.check().await, codes::SLOT_ACTIVE);
    assert_eq!(held[0].verdict, Verdict::Failed, "{held:?}");
    assert!(held[0].found.contains("another program"), "{held:?}");
    subject.mend(&held[0], 0).await;
    tidemark_lab::wait::wait_until(Duration::from_secs(20), "the slot to be free", || async {
        let found = of(&subject.check().await, codes::SLOT_ACTIVE);
        Ok(found[0].verdict == Verdict::Passed)
    })
    .await
    .unwrap();
    subject
        .run(&format!("SELECT pg_drop_replication_slot('{name}')"))
        .await;
}

#[tokio::test]
async fn a_slot_that_lost_its_log_is_found() {
    let subject =
        Subject::alone(&[("max_slot_wal_keep_size", "1MB"), ("max_wal_size", "32MB")]).await;
    subject
        .run("SELECT pg_create_logical_replication_slot('tidemark_postgres', 'pgoutput')")
        .await;
    for _ in 0..6 {
        subject
            .run("CREATE TABLE IF NOT EXISTS filler (a int); INSERT INTO filler VALUES (1); SELECT pg_switch_wal(); CHECKPOINT")
            .await;
        subject.run("CHECKPOINT").await;
    }
    let lost = subject
        .fails_and_is_mended_by_other_code(codes::SLOT_LOST, codes::SLOT_MISSING)
        .await;
    assert!(lost.found.contains("max_slot_wal_keep_size"), "{lost:?}");
}

impl Subject {
    /// As [`Subject::fails_and_is_mended`], where another code tells that all is well.
    async fn fails_and_is_mended_by_other_code(&self, code: Code, then: Code) -> Finding {
        let found = of(&self.check().await, code);
        assert_eq!(found[0].verdict, Verdict::Failed, "{found:?}");
        self.mend(&found[0], 0).await;
        self.passes(then).await;
        found[0].clone()
    }
}

#[tokio::test]
async fn transactions_that_a_slot_would_wait_for_are_named() {
    let mut subject = Subject::alone(&[("max_prepared_transactions", "4")]).await;
    subject.long_transaction = Duration::ZERO;
    subject.run("CREATE TABLE t (id int PRIMARY KEY)").await;
    subject.passes(codes::LONG_TRANSACTIONS).await;
    let reader = subject.server.client().await.unwrap();
    reader
        .batch_execute("BEGIN; SELECT * FROM t")
        .await
        .unwrap();
    subject.passes(codes::LONG_TRANSACTIONS).await;
    let writer = subject.server.client().await.unwrap();
    writer
        .batch_execute("SET application_name = 'night job'; BEGIN; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    subject
        .run("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'it''s one'")
        .await;
    let prepared = subject
        .fails_and_is_mended(codes::PREPARED_TRANSACTIONS, Verdict::Warning)
        .await;
    assert!(prepared.found.contains("'it''s one'"), "{prepared:?}");
    let found = of(&subject.check().await, codes::LONG_TRANSACTIONS);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].found.contains("night job"), "{found:?}");
    subject.mend(&found[0], 0).await;
    tidemark_lab::wait::wait_until(Duration::from_secs(20), "the writer to end", || async {
        let found = of(&subject.check().await, codes::LONG_TRANSACTIONS);
        Ok(found[0].verdict == Verdict::Passed)
    })
    .await
    .unwrap();
}
