use tidemark_lab::compare::Comparison;
use tidemark_lab::skip::major_or_skip;
use tidemark_lab::zoo::Zoo;

/// The zoo opens on every major, its changes run, and the oracle reads every value of it.
#[tokio::test]
async fn every_major_shows_every_type() {
    for major in [14, 15, 16, 17, 18] {
        let name = format!("every_major_shows_every_type ({major})");
        let Some(builder) = major_or_skip(&name, major) else {
            continue;
        };
        let server = builder.start().await.unwrap();
        let client = server.client().await.unwrap();
        let zoo = Zoo::create(&client).await.unwrap();
        println!(
            "PostgreSQL {major}: {} kinds, without {:?}",
            zoo.kinds(),
            zoo.left_out
        );
        for change in zoo.changes() {
            client
                .batch_execute(&change)
                .await
                .unwrap_or_else(|e| panic!("{change}: {e:?}"));
        }
        let other = server.client().await.unwrap();
        let outcome = Comparison::new(&client, &other).run().await.unwrap();
        assert!(outcome.is_identical(), "PostgreSQL {major}: {outcome}");
        assert_eq!(outcome.table("zoo", "of_numeric").unwrap().source_rows, 48);
        assert_eq!(outcome.table("odd", "canary").unwrap().source_rows, 3);
        assert!(outcome.tables.len() > 150, "{}", outcome.tables.len());
    }
}
