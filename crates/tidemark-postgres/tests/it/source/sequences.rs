//! Sequences that belong to tables, and their values.

use tidemark_core::schema::TableName;
use tidemark_lab::PostgresServer;

use super::{Fixture, names, on_majors};

on_majors! {
    values_of_owned_and_used_sequences_are_told
}

async fn values_of_owned_and_used_sequences_are_told(server: &PostgresServer) {
    let schema = "CREATE SEQUENCE shared START 5;
        CREATE TABLE a (id serial PRIMARY KEY, n bigint DEFAULT nextval('shared'));
        CREATE TABLE \"B \\ \"\"x\"\"\" (id int GENERATED ALWAYS AS IDENTITY);
        CREATE TABLE other (id serial);
        INSERT INTO a (n) VALUES (1), (2); INSERT INTO a (id) VALUES (9)";
    let fixture = Fixture::new(server, schema).await;
    let values = fixture
        .source()
        .sequences(&names(&["a", "B \\ \"x\""]))
        .await
        .unwrap();
    let told: Vec<(&str, Option<(String, &str)>, i64, bool)> = values
        .iter()
        .map(|value| {
            let owner = value
                .owner
                .as_ref()
                .map(|(table, column)| (table.name.clone(), column.as_str()));
            (
                value.name.name.as_str(),
                owner,
                value.last_value,
                value.is_called,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (
                "B \\ \"x\"_id_seq",
                Some(("B \\ \"x\"".to_owned(), "id")),
                1,
                false
            ),
            ("a_id_seq", Some(("a".to_owned(), "id")), 2, true),
            ("shared", None, 5, true),
        ]
    );
    assert_eq!(values[1].name, TableName::new("public", "a_id_seq"));
    assert!(fixture.source().sequences(&[]).await.unwrap().is_empty());
}
