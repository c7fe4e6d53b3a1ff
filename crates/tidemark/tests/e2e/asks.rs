//! What tests ask of both sides and of the program, over and over: SQL on either side, a value that
//! the target has to show in the end, a verdict of `verify`.

use serde_json::Value;
use tidemark_lab::compare::Comparison;
use tidemark_lab::wait::wait_for;
use tokio_postgres::Client;

use crate::stage::{PATIENCE, Ran, Running, Stage};

impl Stage {
    /// Runs SQL on the source, each piece a transaction of its own unless it says BEGIN.
    #[track_caller]
    pub(crate) fn source_sql(&self, sql: &str) -> impl Future<Output = ()> {
        execute(&self.source, sql)
    }

    /// Runs SQL on the target.
    #[track_caller]
    pub(crate) fn target_sql(&self, sql: &str) -> impl Future<Output = ()> {
        execute(&self.target, sql)
    }

    /// Waits until a query on the target answers with this text.
    pub(crate) async fn wait_for_target(&self, sql: &str, expected: &str) {
        let waited = wait_for(PATIENCE, &format!("{expected} from {sql}"), || async {
            let answer = text(&self.target, sql).await?;
            anyhow::ensure!(answer == expected, "the target says {answer}");
            Ok(Some(()))
        })
        .await;
        if let Err(err) = waited {
            panic!("{err:#}\n{}", self.log());
        }
    }

    /// Sessions of the test's own, after a server has gone and come back.
    pub(crate) async fn connect_again(&mut self) {
        let (source, target) = (&self.source_name, &self.target_name);
        self.source = self.source_server.client_to(source).await.unwrap();
        self.target = self.target_server.client_to(target).await.unwrap();
    }

    /// What the pipeline has logged, all runs together.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory().join("run.log")).unwrap_or_default()
    }

    /// Starts the pipeline and waits until it streams.
    pub(crate) async fn start_streaming(&self) -> Running {
        let mut run = self.start(&["run", "FILE"]);
        let ended = tokio::select! {
            () = self.wait_for_state("streaming") => None,
            code = run.ended() => Some(code),
        };
        if let Some(code) = ended {
            panic!("ended with {code:?} instead\n{}", self.log());
        }
        run
    }

    /// Runs the pipeline until everything that is on the source by now is in the target.
    pub(crate) async fn catch_up(&self) -> Ran {
        let until = ["run", "FILE", "--until", "caught-up", "--json"];
        self.run(&until).await.expect(0)
    }

    /// Copies a table anew and waits until it is in.
    pub(crate) async fn resync(&self, table: &str) -> Ran {
        let resync = ["resync", "FILE", "--table", table, "--yes"];
        self.run(&resync).await.expect(0)
    }

    /// Waits until both sides are equal under this comparison.
    pub(crate) async fn wait_for_equal(&self, comparison: Comparison<'_>) {
        if let Err(err) = comparison.wait_until_identical(PATIENCE).await {
            panic!("{err:#}\n{}", self.log());
        }
    }

    /// All tables of both sides.
    pub(crate) fn comparison(&self) -> Comparison<'_> {
        Comparison::new(&self.source, &self.target)
    }

    /// `verify --deep` says identical. Where writers empty tables all the time it may say that one could
    /// not be read, and is asked again as it says; a difference counts at once.
    pub(crate) async fn verify_identical(&self) -> Ran {
        const MOVED: &str = "emptied or rewritten before it could be read";
        let began = std::time::Instant::now();
        loop {
            let ran = self.run(&["verify", "FILE", "--deep"]).await;
            let is_moved = ran.stdout.contains(MOVED) && !ran.stdout.contains("differ");
            if !is_moved || began.elapsed() > PATIENCE {
                return ran.expect(0);
            }
        }
    }

    /// Nothing on the source is the pipeline's.
    pub(crate) async fn assert_nothing_on_the_source(&self) {
        assert!(self.slots().await.is_empty(), "a slot is left");
        let publications = "SELECT count(*) FROM pg_publication";
        let publications = text(&self.source, publications).await.unwrap();
        assert_eq!(publications, "0", "a publication is left");
    }

    /// The end of the source's log.
    pub(crate) async fn head(&self) -> String {
        let head = "SELECT pg_current_wal_insert_lsn()";
        text(&self.source, head).await.unwrap()
    }

    /// What there is to be read of the log that a source's slots keep; on a server of the test's own.
    pub(crate) async fn retained(&self) -> u64 {
        let sql = "SELECT coalesce(max(pg_current_wal_lsn() - restart_lsn), 0)::bigint \
                   FROM pg_replication_slots";
        text(&self.source, sql).await.unwrap().parse().unwrap()
    }

    /// A position as a number; the server does the reading.
    pub(crate) async fn bytes(&self, position: &Value) -> u64 {
        let position = position
            .as_str()
            .unwrap_or_else(|| panic!("a position: {position}"));
        let sql = format!("SELECT '{position}'::pg_lsn - '0/0'");
        text(&self.source, &sql).await.unwrap().parse().unwrap()
    }

    /// One table as the program reports it.
    pub(crate) async fn table(&self, name: &str) -> Value {
        let tables = self.run(&["tables", "FILE", "--json"]).await.expect(0);
        let tables = tables.json()["data"]["tables"].clone();
        let found = tables
            .as_array()
            .and_then(|all| all.iter().find(|t| t["source"] == name).cloned());
        found.unwrap_or_else(|| panic!("no {name} in {tables}"))
    }

    /// Waits until the program reports this state of a table.
    pub(crate) async fn wait_for_table(&self, name: &str, state: &str) {
        let what = format!("{name} to be {state}");
        let waited = wait_for(PATIENCE, &what, || async {
            let table = self.table(name).await;
            anyhow::ensure!(table["state"] == state, "it is {table}");
            Ok(Some(()))
        })
        .await;
        if let Err(err) = waited {
            panic!("{err:#}\n{}", self.log());
        }
    }
}

/// A table that somebody has locked, so that the pipeline waits.
pub(crate) struct Locked<'a> {
    stage: &'a Stage,
    /// Looks at the same server.
    looks: &'a Client,
    holder: Client,
}

/// The pipeline's sessions in a database that wait for a lock.
const WAITERS: &str = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                       AND datname = current_database() AND application_name LIKE 'tidemark %'";

impl Locked<'_> {
    /// Of the target; a mode may follow its name.
    pub(crate) async fn table<'a>(stage: &'a Stage, name: &str) -> Locked<'a> {
        let holder = stage.target_server.client_to(&stage.target_name).await;
        Locked::by(stage, &stage.target, holder.unwrap(), name).await
    }

    /// Of the source.
    pub(crate) async fn on_source<'a>(stage: &'a Stage, name: &str) -> Locked<'a> {
        let holder = stage.source_server.client_to(&stage.source_name).await;
        Locked::by(stage, &stage.source, holder.unwrap(), name).await
    }

    async fn by<'a>(stage: &'a Stage, looks: &'a Client, holder: Client, name: &str) -> Locked<'a> {
        execute(&holder, &format!("BEGIN; LOCK TABLE {name}")).await;
        Locked {
            stage,
            looks,
            holder,
        }
    }

    /// Waits until the pipeline waits.
    pub(crate) async fn wait_for_waiter(&self) {
        let waiters = format!("SELECT count(*) > 0 {WAITERS}");
        wait_for(PATIENCE, "somebody to wait for the lock", || async {
            Ok((text(self.looks, &waiters).await? == "t").then_some(()))
        })
        .await
        .unwrap_or_else(|err| panic!("{err:#}\n{}", self.stage.log()));
    }

    /// Cuts the connection that waits.
    pub(crate) async fn end_waiter(&self) {
        let end = format!("SELECT pg_terminate_backend(pid) {WAITERS}");
        let ended = text(self.looks, &end).await.unwrap();
        assert_eq!(ended, "t", "somebody waited");
    }

    pub(crate) async fn release(self) {
        execute(&self.holder, "COMMIT").await;
    }
}

/// The first column of the first row, as text.
pub(crate) async fn text(client: &Client, sql: &str) -> anyhow::Result<String> {
    use tokio_postgres::SimpleQueryMessage::Row;
    let messages = client.simple_query(sql).await?;
    let first = messages.iter().find_map(|message| match message {
        Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    Ok(first.unwrap_or_else(|| "no row".to_owned()))
}

async fn execute(client: &Client, sql: &str) {
    let done = client.batch_execute(sql).await;
    done.unwrap_or_else(|err| panic!("{err:?}: {}", sql.get(..300).unwrap_or(sql)));
}
