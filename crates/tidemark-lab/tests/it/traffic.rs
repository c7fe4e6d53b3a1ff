use std::time::Duration;

use tidemark_lab::traffic::bank::{Bank, BankReader};
use tidemark_lab::traffic::mixed::{Mixed, Truncates};
use tidemark_lab::traffic::{Pace, Traffic, Workload};
use tidemark_lab::wait::wait_until;
use tidemark_lab::{PostgresServer, Random};

const DEADLINE: Duration = Duration::from_secs(30);
const BANK: Bank = Bank { accounts: 20 };

#[test]
fn a_seed_tells_the_same_story_again() {
    let story = || {
        let mut random = Random::new(11);
        let mixed = Mixed {
            truncates: Truncates::Never,
            ..Mixed::default()
        };
        (0..300)
            .map(|n| mixed.transaction(n % 3, &mut random).sql)
            .collect::<Vec<_>>()
    };
    assert_eq!(story(), story());
    let all = story().concat();
    assert!(!all.contains("TRUNCATE"));
    for kind in [
        "INSERT",
        "UPDATE",
        "DELETE",
        "SAVEPOINT",
        "ROLLBACK",
        "COMMIT",
    ] {
        assert!(all.contains(kind), "no {kind}");
    }
}

#[tokio::test]
async fn the_sum_of_a_bank_never_moves_at_home() {
    let server = PostgresServer::shared().await.unwrap();
    let config = server.config_to(&server.fresh_database("bank").await.unwrap());
    Traffic::set_up(&config, &BANK).await.unwrap();
    let traffic = Traffic::start(&config, &BANK, Pace::flat_out(1));
    let reader = BankReader::start(&config, "public", BANK).await.unwrap();
    wait_until(DEADLINE, "300 transactions", || async {
        Ok(traffic.report().committed > 300)
    })
    .await
    .unwrap();
    let report = traffic.stop().await.unwrap();
    let seen = reader.stop().await.unwrap();
    assert!(seen.violations.is_empty(), "{seen:?}");
    assert!(
        seen.moved > 0 && report.rolled_back > 0 && report.unknown == 0,
        "{seen:?} {report:?}"
    );
    assert!(report.changes >= 3 * report.committed);
}

#[tokio::test]
async fn the_reader_sees_what_is_wrong() {
    let server = PostgresServer::shared().await.unwrap();
    let database = server.fresh_database("bank").await.unwrap();
    let config = server.config_to(&database);
    Traffic::set_up(&config, &BANK).await.unwrap();
    let wrong = "UPDATE bank_accounts SET balance = balance + 1 WHERE id = 7";
    server.execute_in(&database, wrong).await.unwrap();
    let reader = BankReader::start(&config, "public", BANK).await.unwrap();
    let seen = reader.stop().await.unwrap();
    assert!(
        seen.violations[0].contains("sum 20001 of 20000, 1 accounts unexplained"),
        "{seen:?}"
    );
}

#[tokio::test]
async fn mixed_traffic_survives_a_kill_of_its_server() {
    let server = PostgresServer::builder().start().await.unwrap();
    let config = server.config_to("postgres");
    let mixed = Mixed::default();
    Traffic::set_up(&config, &mixed).await.unwrap();
    let traffic = Traffic::start(&config, &mixed, Pace::flat_out(5));
    let at_least = async |wanted: u64| {
        let what = format!("{wanted} transactions");
        wait_until(DEADLINE, &what, || async {
            Ok(traffic.report().committed >= wanted)
        })
        .await
    };
    at_least(200).await.unwrap();
    server.kill9().await.unwrap();
    server.start().await.unwrap();
    let before = traffic.report().committed;
    at_least(before + 200).await.unwrap();
    let report = traffic.stop().await.unwrap();
    assert!(report.unknown <= 4 && report.rolled_back > 0, "{report:?}");
}

#[tokio::test]
async fn keeps_to_its_rate_and_tells_what_the_server_refused() {
    let server = PostgresServer::shared().await.unwrap();
    let database = server.fresh_database("bank").await.unwrap();
    let config = server.config_to(&database);
    Traffic::set_up(&config, &BANK).await.unwrap();
    let started = std::time::Instant::now();
    let traffic = Traffic::start(&config, &BANK, Pace::at(100.0, 3));
    wait_until(DEADLINE, "60 transactions", || async {
        Ok(traffic.report().committed >= 60)
    })
    .await
    .unwrap();
    assert!(
        started.elapsed() > Duration::from_millis(400),
        "{:?}",
        started.elapsed()
    );
    server
        .execute_in(&database, "DROP TABLE bank_transfers")
        .await
        .unwrap();
    let client = server.client().await.unwrap();
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
    wait_until(DEADLINE, "the writers to stop", || async {
        Ok(client
            .query_one(sessions, &[&database])
            .await?
            .get::<_, i64>(0)
            == 0)
    })
    .await
    .unwrap();
    let error = traffic.stop().await.unwrap_err();
    assert!(format!("{error:#}").contains("bank_transfers"), "{error:#}");
}
