//! Sequences that belong to tables, and their values.

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
    let told: Vec<String> = values
        .iter()
        .map(|value| {
            let owner = match &value.owner {
                Some((table, column)) => format!(" of {table}.{column}"),
                None => String::new(),
            };
            let called = if value.is_called {
                "called"
            } else {
                "not called"
            };
            format!("{}{owner} {} {called}", value.name, value.last_value)
        })
        .collect();
    assert_eq!(
        told,
        [
            "public.\"B \\ \"\"x\"\"_id_seq\" of public.\"B \\ \"\"x\"\"\".id 1 not called",
            "public.a_id_seq of public.a.id 2 called",
            "public.shared 5 called",
        ]
    );
    assert!(fixture.source().sequences(&[]).await.unwrap().is_empty());
}
