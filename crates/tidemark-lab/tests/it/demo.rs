use std::time::Duration;

use tidemark_lab::PostgresServer;
use tidemark_lab::compare::Comparison;
use tidemark_lab::demo::Shop;
use tidemark_lab::traffic::{Pace, Traffic, Workload};
use tidemark_lab::wait::wait_until;

const COUNT: &str = "SELECT count(*) FROM customers UNION ALL SELECT count(*) FROM products
    UNION ALL SELECT count(*) FROM orders UNION ALL SELECT count(*) FROM order_items
    UNION ALL SELECT count(*) FROM audit_log UNION ALL SELECT count(*) FROM curiosities";

#[tokio::test]
async fn the_shop_is_the_same_every_time_and_stays_open() {
    let server = PostgresServer::shared().await.unwrap();
    let shop = Shop::of(12_000).unwrap();
    let one = server.fresh_database("shop").await.unwrap();
    let two = server.fresh_database("shop").await.unwrap();
    shop.create(&server.config_to(&one)).await.unwrap();
    server.execute_in(&two, &shop.setup()).await.unwrap();
    let (first, second) = (
        server.client_to(&one).await.unwrap(),
        server.client_to(&two).await.unwrap(),
    );
    let rows = first.query(COUNT, &[]).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.get::<_, i64>(0)).sum::<i64>(),
        12_000
    );
    assert!(rows.iter().all(|row| row.get::<_, i64>(0) > 0));
    let outcome = Comparison::new(&first, &second).run().await.unwrap();
    assert!(
        outcome.is_identical() && outcome.rows() == 12_000,
        "{outcome}"
    );

    let traffic = Traffic::start(&server.config_to(&one), &shop, Pace::flat_out(1));
    let busy = "500 transactions";
    wait_until(Duration::from_secs(30), busy, || async {
        Ok(traffic.report().committed > 500)
    })
    .await
    .unwrap();
    let report = traffic.stop().await.unwrap();
    assert!(
        report.changes > report.committed && report.unknown == 0,
        "{report:?}"
    );
    let manual = "SELECT length(manual) FROM curiosities WHERE id = 1 AND looks > 0";
    let length: i32 = first.query_one(manual, &[]).await.unwrap().get(0);
    assert_eq!(length, 3_000_000);
}

/// Prints how long it takes; `tidemark demo` promises a few seconds.
#[tokio::test]
async fn the_whole_shop_is_made() {
    let server = PostgresServer::builder().start().await.unwrap();
    let shop = Shop::of(tidemark_lab::demo::ROWS).unwrap();
    let started = std::time::Instant::now();
    shop.create(&server.config_to("postgres")).await.unwrap();
    println!("{} rows in {:?}", shop.rows(), started.elapsed());
    let size = server
        .psql("postgres", "SELECT pg_database_size('postgres') / 1000000")
        .await
        .unwrap();
    println!("{} MB", size.trim());
    let orders = server
        .psql("postgres", "SELECT count(*) FROM order_items")
        .await
        .unwrap();
    assert_eq!(orders, "600000\n");
}
