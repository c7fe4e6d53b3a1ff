//! What the target remembers, who may write it, and how its schema gets newer.

use std::time::Duration;

use tidemark_core::ErrorKind;
use tidemark_core::catalogue::codes;
use tidemark_core::checkpoint::{
    CheckpointUpdate, Chunk, KnownColumn, KnownShape, LoadPhase, Reason, Unit,
};
use tidemark_core::schema::{Attribute, Member, MemberKind, TableName, TypeMembers, ValueClass};
use tidemark_core::source::{Logged, Partition};
use tidemark_core::target::Applier;
use tidemark_core::tidemark::{PgSnapshot, Seen, Tidemark};
use tidemark_lab::{Proxy, wait_for};

use crate::target::{Database, at, known, owner, start, target_at};

#[tokio::test]
async fn a_target_without_our_schema_has_no_checkpoint() {
    let database = Database::new().await;
    let target = database.target("shop");
    assert_eq!(target.checkpoint().await.unwrap(), None);
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'tidemark'";
    assert_eq!(database.value(schemas).await, "0", "asking makes nothing");
    target.acquire(&owner(1)).await.unwrap();
    assert_eq!(
        target.checkpoint().await.unwrap(),
        None,
        "owned, but never started"
    );
}

#[tokio::test]
async fn what_a_start_records_is_read_back() {
    let database = Database::new().await;
    let target = database.target("shop");
    target.acquire(&owner(1)).await.unwrap();
    let mut start = start(&["orders", "Odd \"name\""]);
    start.tables[0].units = units();
    start.tables[0].shape = Some(KnownShape {
        columns: vec![KnownColumn {
            name: "it's".to_owned(),
            number: 7,
            type_id: 3_000_000_000,
            type_modifier: -1,
            is_not_null: true,
            class: Some(ValueClass::Text),
        }],
        storage: Some(-7),
        attributes: vec![Attribute {
            number: 7,
            version: 3_000_000_000,
        }],
        types: vec![TypeMembers {
            id: 3_000_000_001,
            name: TableName::new("public", "it's"),
            kind: MemberKind::Labels,
            members: vec![Member {
                number: 3_000_000_002,
                name: "a \\ label".to_owned(),
            }],
        }],
    });
    start.tables[1].reason = Some(Reason::read("TM2041: a \\ reason"));
    target.start_load(&start).await.unwrap();

    let other = database.target("shop");
    let found = other.checkpoint().await.unwrap().unwrap();
    assert_eq!(found.identity, start.identity);
    assert_eq!(found.position, start.position);
    assert_eq!(found.load_position, start.position);
    assert_eq!(found.phase, LoadPhase::Loading);
    let mut tables = start.tables.clone();
    tables.sort_by(|a, b| a.source.cmp(&b.source));
    assert_eq!(found.tables, tables);
    assert_eq!(database.target("other").checkpoint().await.unwrap(), None);

    let partition = Partition {
        name: TableName::new("it's", "\"ä\\"),
        id: 3_000_000_000,
        storage: 3_000_000_001,
        written_by: 3_000_000_002,
        is_attached: true,
        since: "7:8".to_owned(),
        logged: Logged::KeyAlone,
    };
    let mut applier = target.applier().await.unwrap();
    applier.begin().await.unwrap();
    let update = CheckpointUpdate {
        partitions: vec![(tables[1].source.clone(), vec![partition.clone()])],
        emptied: vec![(tables[1].source.clone(), 3_000_000_003)],
        ..CheckpointUpdate::default()
    };
    applier.commit(&update).await.unwrap();
    let found = other.partitions().await.unwrap();
    let of = |name: &TableName| found.iter().find(|found| found.table == *name).unwrap();
    let known = of(&tables[1].source);
    assert_eq!(known.partitions, Some(vec![partition]));
    assert_eq!(known.emptied_by, Some(3_000_000_003));
    assert_eq!(of(&tables[0].source).partitions, None);

    target.set_phase(LoadPhase::Finishing).await.unwrap();
    let found = other.checkpoint().await.unwrap().unwrap();
    assert_eq!(found.phase, LoadPhase::Finishing);
    target.forget().await.unwrap();
    assert_eq!(other.checkpoint().await.unwrap(), None);
}

#[tokio::test]
async fn a_second_owner_is_refused_by_name_until_the_first_is_gone() {
    let database = Database::new().await;
    let first = database.target("shop");
    let before = first.acquire(&owner(4711)).await.unwrap();
    let second = database.target("shop");
    let refusal = second.acquire(&owner(2)).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_OWNED);
    assert_eq!(refusal.kind(), ErrorKind::Definite);
    let text = refusal.to_string();
    assert!(
        text.contains("host-a pid 4711, last seen 0 s ago"),
        "{text}"
    );
    database.target("another").acquire(&owner(3)).await.unwrap();

    let again = first.acquire(&owner(4711)).await.unwrap();
    assert!(again > before, "the owner may come again");
    drop(first);
    let taken = wait_for(Duration::from_secs(10), "the lock to be free", || async {
        Ok(second.acquire(&owner(2)).await.ok())
    });
    assert!(taken.await.unwrap() > again);
}

#[tokio::test]
async fn a_lost_lock_is_taken_again_unless_somebody_else_has_it() {
    let database = Database::new().await;
    let target = database.target("shop");
    let generation = target.acquire(&owner(1)).await.unwrap();
    let ours = "SELECT string_agg(pid::text, ' ') FROM pg_locks \
                WHERE locktype = 'advisory' AND granted AND database = \
                (SELECT oid FROM pg_database WHERE datname = current_database())";
    let end = ours.replace("pid::text", "pg_terminate_backend(pid)::text");
    let first = database.value(ours).await;
    let again = async {
        assert_eq!(database.value(&end).await, "true");
        let taken = wait_for(Duration::from_secs(20), "the lock to be taken", || async {
            let pid = database.value(ours).await;
            Ok((!pid.is_empty() && pid != first).then_some(()))
        });
        taken.await.unwrap();
        let found = database.value("SELECT generation FROM tidemark.checkpoint");
        assert_eq!(found.await, generation.0.to_string(), "the same run");
        // Somebody who wants it has it first.
        assert_eq!(database.value(&end).await, "true");
        let second = database.target("shop");
        let taken = wait_for(Duration::from_secs(20), "the lock to be free", || async {
            Ok(second.acquire(&owner(2)).await.ok())
        });
        assert!(taken.await.unwrap() > generation);
        second
    };
    let owner = owner(1);
    let both = Box::pin(async { tokio::join!(target.keep_lock(&owner), again) });
    let ended = tokio::time::timeout(Duration::from_mins(1), both).await;
    let (refused, _second) = ended.expect("refused in time");
    assert_eq!(refused.code(), codes::TARGET_OWNED);
    assert_eq!(refused.kind(), ErrorKind::Definite);
}

#[tokio::test]
async fn an_owner_cut_off_from_its_lock_takes_it_from_its_former_session() {
    let database = Database::new().await;
    let proxy = Proxy::start(database.server.port()).await.unwrap();
    let (wire, direct) = (proxy.address(), database.server.port());
    let url = format!(
        "postgres://postgres@{wire},127.0.0.1:{direct}/{}",
        database.name
    );
    let target = target_at(&url, "shop");
    let before = target.acquire(&owner(1)).await.unwrap();
    // The server never hears of the end of this session; new ones go the other way.
    proxy.partition();
    proxy.refuse();
    assert!(target.acquire(&owner(1)).await.unwrap() > before);
}

#[tokio::test]
async fn f42_an_older_generation_writes_nothing() {
    let database = Database::new().await;
    let zombie = database.started("shop", &["orders"]).await;
    database
        .run("UPDATE tidemark.checkpoint SET generation = 9, written_by = 9")
        .await;
    let refusal = zombie.set_phase(LoadPhase::Loaded).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_FENCED);
    assert_eq!(refusal.kind(), ErrorKind::Definite);
    let refusal = zombie.start_load(&start(&[])).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_FENCED);
    let found = zombie.checkpoint().await.unwrap().unwrap();
    assert_eq!(found.phase, LoadPhase::Loading);
    assert_eq!(
        found.tables,
        [known("orders")],
        "what it deleted is still there"
    );
}

#[tokio::test]
async fn without_its_row_a_run_writes_nothing() {
    let database = Database::new().await;
    let target = database.started("shop", &["orders"]).await;
    database.run("DELETE FROM tidemark.checkpoint").await;
    let refusal = target.set_phase(LoadPhase::Loaded).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_FENCED);
    let never_acquired = database.target("fresh");
    let refusal = never_acquired.start_load(&start(&[])).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_FENCED);
    assert_eq!(target.checkpoint().await.unwrap(), None);
}

#[tokio::test]
async fn a_take_over_waits_for_a_commit_under_way() {
    let database = Database::new().await;
    drop(database.started("shop", &[]).await);
    let client = database.server.client_to(&database.name).await.unwrap();
    client
        .batch_execute(
            "BEGIN; UPDATE tidemark.checkpoint SET position = '0/7', written_by = generation",
        )
        .await
        .unwrap();
    let next = database.target("shop");
    let taking = wait_for(Duration::from_secs(20), "the pipeline", || async {
        Ok(next.acquire(&owner(2)).await.ok())
    });
    let committing = async {
        let waits = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) \
                     WHERE NOT granted AND datname = current_database()";
        wait_for(Duration::from_secs(10), "the take-over to wait", || async {
            Ok((database.value(waits).await != "0").then_some(()))
        })
        .await
        .unwrap();
        client.batch_execute("COMMIT").await.unwrap();
    };
    let (taken, ()) = tokio::join!(taking, committing);
    taken.unwrap();
    let found = next.checkpoint().await.unwrap().unwrap();
    assert_eq!(found.position, at(7), "seen by whoever took over");
}

#[tokio::test]
async fn f61_an_older_schema_is_migrated_and_a_newer_one_refused() {
    let database = Database::new().await;
    drop(database.started("shop", &["orders"]).await);
    // Version 1 had no side door.
    database
        .run(
            "DROP TABLE tidemark.command, tidemark.status, tidemark.quarantine;
             ALTER TABLE tidemark.checkpoint DROP COLUMN release, DROP COLUMN relay;
             ALTER TABLE tidemark.table_state DROP COLUMN constraints, DROP COLUMN partitions,
               DROP COLUMN emptied_by;
             UPDATE tidemark.version SET version = 1",
        )
        .await;
    let target = database.target("shop");
    assert!(
        target.checkpoint().await.unwrap().is_some(),
        "read as it is"
    );
    assert_eq!(
        target.control().await.unwrap().last_status().await.unwrap(),
        None
    );
    wait_for(Duration::from_secs(10), "the pipeline", || async {
        Ok(target.acquire(&owner(1)).await.ok())
    })
    .await
    .unwrap();
    assert_eq!(
        database.value("SELECT version FROM tidemark.version").await,
        "7"
    );
    let found = target.partitions().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].partitions, found[0].emptied_by), (&None, None));
    assert_eq!(
        database
            .value("SELECT count(*) FROM tidemark.command")
            .await,
        "0"
    );
    assert_eq!(
        target.checkpoint().await.unwrap().unwrap().tables,
        [known("orders")]
    );

    database
        .run("UPDATE tidemark.version SET version = 999")
        .await;
    let refusal = target.checkpoint().await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_METADATA_NEWER);
    assert!(refusal.to_string().contains("version 999"), "{refusal}");
    let refusal = target.acquire(&owner(1)).await.unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_METADATA_NEWER);
}

#[tokio::test]
async fn a_role_with_a_schema_made_for_it_needs_no_right_on_the_database() {
    let database = Database::new().await;
    let role = format!("owner_of_{}", database.name);
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN; CREATE SCHEMA tidemark AUTHORIZATION {role}"
        ))
        .await;
    let url = database.server.url_with(&role, None, &database.name);
    let target = target_at(&url, "shop");
    target.acquire(&owner(1)).await.unwrap();
    target.start_load(&start(&["orders"])).await.unwrap();
    assert!(target.checkpoint().await.unwrap().is_some());

    let role = format!("guest_of_{}", database.name);
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN; DROP SCHEMA tidemark CASCADE"
        ))
        .await;
    let url = database.server.url_with(&role, None, &database.name);
    let refusal = target_at(&url, "other")
        .acquire(&owner(1))
        .await
        .unwrap_err();
    assert_eq!(refusal.code(), codes::TARGET_GRANTS);
}

fn units() -> Vec<Unit> {
    let chunks = [
        Chunk::Whole,
        Chunk::Keys {
            column: "Id\"".to_owned(),
            from: None,
            to: Some("it's".to_owned()),
        },
    ];
    (0..)
        .zip(chunks)
        .map(|(number, chunk)| Unit {
            number,
            chunk,
            tidemark: (number == 1).then(|| Tidemark {
                seen: Seen::PgSnapshot(PgSnapshot {
                    xmin: u64::MAX - 3,
                    xmax: u64::MAX - 1,
                    xip: vec![u64::MAX - 3],
                }),
                after: at(9),
            }),
            is_loaded: number == 1,
            rows: u64::from(number) * 5_000_000_000,
        })
        .collect()
}
