//! Every statement of the store, on each kind: what comes back must be the same.

use serde_json::json;

use super::*;

/// What all calls gave, without what is of this moment.
async fn everything(store: &Store) -> Vec<String> {
    let mut said = Vec::new();
    connections(store, &mut said).await;
    pipelines(store, &mut said).await;
    events(store, &mut said).await;
    journal(store, &mut said).await;
    operations(store, &mut said).await;
    compared(store, &mut said).await;
    access(store, &mut said).await;
    schedules(store, &mut said).await;
    deliveries(store, &mut said).await;
    history(store, &mut said).await;
    said
}

fn say(said: &mut Vec<String>, what: impl std::fmt::Debug) {
    said.push(format!("{what:?}"));
}

async fn connections(store: &Store, said: &mut Vec<String>) {
    let key = |tenant: &str| Key::new(tenant, "orders");
    store
        .add_pipeline(new("default", "user"))
        .await
        .unwrap()
        .unwrap();
    for tenant in ["default", "other", "default"] {
        let added = store.add_connection(key(tenant), "url = \"a\"".to_owned(), "ann".to_owned());
        say(said, added.await.unwrap().map(|row| (row.key, row.version)));
    }
    let users = || vec![Key::new("default", "user"), Key::new("default", "gone")];
    for version in [1, 1] {
        let keys = "url = \"b\"".to_owned();
        let changed = store.change_connection(key("default"), version, keys, users());
        let changed = changed.await.unwrap();
        say(said, changed.is_some());
        let Some((row, pipelines)) = changed else {
            continue;
        };
        assert_eq!((row.keys.as_str(), row.version), ("url = \"b\"", 2));
        let users: Vec<_> = pipelines
            .iter()
            .map(|row| (&row.key, row.version))
            .collect();
        say(said, users);
    }
    for version in [1, 2, 2] {
        let removed = store.remove_connection(key("default"), version);
        say(said, removed.await.unwrap());
    }
    let left = store.connections().await.unwrap();
    say(said, left.iter().map(|row| &row.key).collect::<Vec<_>>());
    store.remove_pipeline(&users()[0]).await.unwrap();
}

async fn pipelines(store: &Store, said: &mut Vec<String>) {
    for (tenant, id) in [("default", "zebra"), ("default", "Ant"), ("other", "ämter")] {
        store.add_pipeline(new(tenant, id)).await.unwrap().unwrap();
    }
    let rows = store.pipelines().await.unwrap();
    // In the order of bytes, whatever the database's language.
    say(said, rows.iter().map(|row| &row.key).collect::<Vec<_>>());
    let key = Key::new("default", "zebra");
    let mode = "cdc_only".to_owned();
    let changed = store.redefine(&key, 1, mode.clone(), Some("text\0".to_owned()));
    say(
        said,
        changed
            .await
            .unwrap()
            .map(|row| (row.version, row.mode, row.definition)),
    );
    say(
        said,
        store.redefine(&key, 1, mode, None).await.unwrap().is_none(),
    );
    let desired = Desired {
        since: "2026-01-01T00:00:00Z".to_owned(),
        ..Desired::now(DesiredState::Paused, "bob", Some("lunch".to_owned()))
    };
    store.desire(&key, desired).await.unwrap();
    for begins in [true, false] {
        let set = store.set_full_load_lsn(&key, "0/1".to_owned(), begins);
        set.await.unwrap();
    }
    // Whoever asks again, since the answer was lost, is told that it is so.
    for (position, expected) in [("0/2", false), ("0/1", true), ("0/1", true)] {
        let told = store.tell_load(&key, position.to_owned(), Vec::new());
        assert_eq!(told.await.unwrap(), expected, "{position}");
    }
    let row = store.pipeline(&key).await.unwrap().unwrap();
    say(said, row.load_told);
    say(said, (row.desired, row.full_load_lsn, row.file));
    store
        .remove_pipeline(&Key::new("other", "ämter"))
        .await
        .unwrap();
    say(said, store.pipelines().await.unwrap().len());
}

/// More than one statement brings, of pipelines that are there and of one that is not.
async fn many_events(store: &Store) {
    let keys = ["Ant", "gone", "zebra"].map(|id| Key::new("default", id));
    let entry = |n: usize| Entry::plain(&keys[n % 3], Level::Error, "many", n.to_string());
    let add = |batch: &str| store.add_events(batch.to_owned(), (0..180).map(entry).collect());
    let added: Vec<_> = add("many").await.unwrap();
    assert_eq!(add("many").await.unwrap(), added, "a batch is in once");
    assert!(added.is_sorted_by_key(|(_, row)| row.id), "in order");
    let texts = added.iter().map(|(_, row)| row.text.clone());
    let kept = (0..180).filter(|n| n % 3 != 1).map(|n| n.to_string());
    assert!(texts.eq(kept));
    for key in [&keys[0], &keys[2]] {
        let page = Cursor {
            before: None,
            limit: 60,
        };
        let mut found = store
            .events(key, EventsWanted::default(), page)
            .await
            .unwrap();
        found.reverse();
        let told = added.iter().filter(|(of, _)| of == key).map(|(_, row)| row);
        assert!(found.iter().eq(told), "each under the number that was told");
    }
}

async fn events(store: &Store, said: &mut Vec<String>) {
    let key = Key::new("default", "zebra");
    let entry = |level, code: Option<&str>| Entry {
        code: code.map(str::to_owned),
        ..Entry::plain(&key, level, "warning", "it's \"so\": ✓ 雪")
    };
    let entries = vec![
        entry(Level::Info, None),
        entry(Level::Warn, Some("TM1010")),
        Entry::plain(&Key::new("default", "gone"), Level::Info, "state", "x"),
    ];
    let added = store.add_events("first".to_owned(), entries).await;
    say(said, added.unwrap().len());
    many_events(store).await;
    let all = Cursor {
        before: None,
        limit: 10,
    };
    let one = Cursor {
        before: None,
        limit: 1,
    };
    let wanted = [
        EventsWanted::default(),
        EventsWanted {
            level: Some(Level::Warn),
            ..EventsWanted::default()
        },
        EventsWanted {
            code: Some("TM1010".to_owned()),
            ..EventsWanted::default()
        },
        EventsWanted {
            since: Some("2001".to_owned()),
            until: Some("2002".to_owned()),
            ..EventsWanted::default()
        },
    ];
    for (wanted, page) in wanted
        .iter()
        .flat_map(|wanted| [(wanted, all), (wanted, one)])
    {
        let found = store.events(&key, wanted.clone(), page).await.unwrap();
        say(
            said,
            found
                .iter()
                .map(|e| (e.level, &e.code, &e.text))
                .collect::<Vec<_>>(),
        );
    }
    let newest = store
        .events(&key, EventsWanted::default(), one)
        .await
        .unwrap();
    let older = Cursor {
        before: Some(newest[0].id),
        limit: 10,
    };
    let found = store.events(&key, EventsWanted::default(), older).await;
    say(said, found.unwrap().len());
}

/// Runs, and who changed what.
async fn journal(store: &Store, said: &mut Vec<String>) {
    let key = Key::new("default", "zebra");
    let all = Cursor {
        before: None,
        limit: 10,
    };
    let run = store.begin_run(&key).await.unwrap();
    store.begin_run(&key).await.unwrap();
    store
        .end_run(run, "failed", Some("TM1010".to_owned()), None)
        .await
        .unwrap();
    let runs = store.runs(&key, all).await.unwrap();
    say(
        said,
        runs.iter()
            .map(|run| (&run.outcome, &run.code, run.ended_at.is_some()))
            .collect::<Vec<_>>(),
    );
    let audit = AuditRow {
        id: 0,
        at: "2026-01-01T00:00:00Z".to_owned(),
        who: "ann".to_owned(),
        address: "::1".to_owned(),
        action: "POST /x".to_owned(),
        object: "x".to_owned(),
        detail: String::new(),
        request_id: "r".to_owned(),
    };
    store.add_audit("default".to_owned(), audit).await.unwrap();
    let found = store.audit("default".to_owned(), all).await.unwrap();
    say(
        said,
        found
            .iter()
            .map(|row| (&row.who, &row.detail))
            .collect::<Vec<_>>(),
    );
    say(said, store.audit("other".to_owned(), all).await.unwrap());
}

/// Of four that are there.
async fn operations_are_listed_and_forgotten(store: &Store, key: &Key) {
    // Page by page each comes once, the newest first, whether instants are the same or not.
    let mut page = CursorInTime {
        after: None,
        limit: 3,
    };
    let mut listed = store.operations(key, page.clone()).await.unwrap();
    let place = |row: &OperationRow| (row.created_at.clone(), row.id.clone());
    page.after = listed.last().map(place);
    listed.extend(store.operations(key, page).await.unwrap());
    assert!(
        listed.is_sorted_by(|one, next| {
            (&next.created_at, &one.id) < (&one.created_at, &next.id)
        })
    );
    let mut ids: Vec<&str> = listed.iter().map(|one| one.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["five", "one", "three", "two"]);
    // One that was over long ago is forgotten when another begins.
    let begin = |id: &str| store.begin_operation(key, id.to_owned(), "cutover", "ann".to_owned());
    for id in ["long", "old"] {
        begin(id).await.unwrap();
        let back = store.with(move |session, _| {
            let sql = "UPDATE operations SET created_at = $2 WHERE id = $1";
            session.execute(sql, params![id, "2020-01-01T00:00:00.000Z"])
        });
        back.await.unwrap();
    }
    let cancelled = store.cancel_operation("old".to_owned(), "by bob".to_owned());
    cancelled.await.unwrap();
    begin("new").await.unwrap();
    let found = |id: &str| store.operation("default".to_owned(), id.to_owned());
    assert_eq!(found("old").await.unwrap(), None);
    assert!(found("long").await.unwrap().is_some(), "it goes on");
}

async fn operations(store: &Store, said: &mut Vec<String>) {
    let key = Key::new("default", "zebra");
    for id in ["one", "two", "three", "five"] {
        let begun = store.begin_operation(&key, id.to_owned(), "verify", "ann".to_owned());
        begun.await.unwrap();
    }
    let so_far = json!({ "rows": 3 });
    for id in ["one", "three"] {
        let told = store.tell_operation(id.to_owned(), so_far.clone());
        told.await.unwrap();
    }
    let done = Done {
        text: "done".to_owned(),
        data: Some(json!({ "rows": 7 })),
    };
    store
        .end_operation("one".to_owned(), Ok(done))
        .await
        .unwrap();
    let err = Error::definite(codes::INTERNAL, "no");
    store
        .end_operation("two".to_owned(), Err(err))
        .await
        .unwrap();
    let cancelled = |id: &str| store.cancel_operation(id.to_owned(), "by bob".to_owned());
    cancelled("five").await.unwrap();
    // One that is over stays as it ended.
    cancelled("one").await.unwrap();
    store.end_operations_left_behind().await.unwrap();
    operations_are_listed_and_forgotten(store, &key).await;
    for id in ["one", "two", "three", "four", "five"] {
        let found = store
            .operation("default".to_owned(), id.to_owned())
            .await
            .unwrap();
        say(
            said,
            found.map(|found| {
                (
                    found.state,
                    found.text,
                    found.code,
                    found.ended_at.is_some(),
                    found.data,
                )
            }),
        );
    }
    let row = VerificationRow {
        id: 0,
        at: "2026-01-01T00:00:00Z".to_owned(),
        lsn: "0/1".to_owned(),
        position_type: "pg_lsn".to_owned(),
        whole: true,
        result: "identical".to_owned(),
        depth: "deep".to_owned(),
        rows: i64::MAX,
        seconds: 0.1,
        tables: json!([{ "source": "public.x" }]),
    };
    let first = store.add_verification(&key, row.clone()).await.unwrap();
    store
        .add_verification(
            &key,
            VerificationRow {
                seconds: 1e-9,
                whole: false,
                ..row
            },
        )
        .await
        .unwrap();
    let all = Cursor {
        before: None,
        limit: 10,
    };
    for only in [None, Some(first)] {
        let found = store.verifications(&key, only, all).await.unwrap();
        say(
            said,
            found
                .iter()
                .map(|v| (v.rows, v.seconds, &v.tables, &v.position_type, v.whole))
                .collect::<Vec<_>>(),
        );
    }
}

async fn compared(store: &Store, said: &mut Vec<String>) {
    say(said, store.compared().await.unwrap());
}

async fn access(store: &Store, said: &mut Vec<String>) {
    for (id, tenant, expires_at) in [("a", "default", None), ("b", "other", Some("2001"))] {
        let token = NewToken {
            id: id.to_owned(),
            tenant: tenant.to_owned(),
            name: id.to_owned(),
            role: "viewer".to_owned(),
            hash: id.as_bytes().to_vec(),
            by: "ann".to_owned(),
            expires_at: expires_at.map(str::to_owned),
        };
        say(said, store.add_token(token).await.unwrap().expires_at);
    }
    let counts = store.tokens_that_count().await.unwrap();
    say(
        said,
        counts
            .iter()
            .map(|(hash, row)| (hash, &row.id))
            .collect::<Vec<_>>(),
    );
    for tenant in [None, Some("other".to_owned())] {
        let mut page = CursorInTime {
            after: None,
            limit: 1,
        };
        let mut ids = Vec::new();
        while let Some(row) = store
            .tokens(tenant.clone(), page.clone())
            .await
            .unwrap()
            .pop()
        {
            page.after = Some((row.created_at, row.id.clone()));
            ids.push(row.id);
        }
        ids.sort_unstable();
        say(said, ids);
        say(
            said,
            store.revoke_token(tenant, "a".to_owned()).await.unwrap(),
        );
    }
    say(said, store.tokens_that_count().await.unwrap().len());
    let key = || ("default".to_owned(), "ann".to_owned(), "key".to_owned());
    let take = async |request: u8| {
        let (tenant, who, key) = key();
        store
            .take_idempotency_key(tenant, who, key, vec![request])
            .await
            .unwrap()
    };
    say(said, (take(1).await, take(1).await, take(2).await));
    let answer = KeptAnswer {
        status: 201,
        location: Some("/x".to_owned()),
        etag: Some("\"7\"".to_owned()),
        body: vec![0, 255],
    };
    let kept = store.answer_idempotency_key(key(), Some(answer)).await;
    kept.unwrap();
    store.free_idempotency_keys().await.unwrap();
    say(said, take(1).await);
    store.answer_idempotency_key(key(), None).await.unwrap();
    say(said, take(2).await);
    store.free_idempotency_keys().await.unwrap();
    say(said, take(3).await);
}

async fn schedules(store: &Store, said: &mut Vec<String>) {
    let key = Key::new("default", "zebra");
    let standing = |judged_us, paused: Option<(&str, i64)>| Standing {
        key: key.clone(),
        text: "daily \"at\" 02:00".to_owned(),
        judged_us,
        paused: paused.map(|(by, since)| (by.to_owned(), since)),
    };
    let gone = Standing {
        key: Key::new("default", "gone"),
        ..standing(1, None)
    };
    for standing in [standing(10, None), standing(20, Some(("ann", 15))), gone] {
        say(said, store.set_schedule(standing).await.unwrap());
    }
    say(said, store.schedules().await.unwrap());
    let run = |due_us, state| ScheduleRun {
        key: key.clone(),
        due_us,
        state,
        by: "schedule".to_owned(),
        began_us: None,
        ended_us: None,
        reason: Some("it's \"so\": ✓ 雪".to_owned()),
    };
    let entry = || Some(Entry::plain(&key, Level::Info, "schedule", "due"));
    let runs = [
        (run(30, RunState::Queued), Some(30), entry()),
        (run(40, RunState::Skipped), None, None),
        // Claimed already.
        (run(30, RunState::Missed), Some(50), entry()),
    ];
    for (run, judged_us, told) in runs {
        let claimed = store.claim_run(run, judged_us, told).await.unwrap();
        say(said, claimed.map(|told| told.map(|(_, row)| row.kind)));
    }
    let of_nobody = ScheduleRun {
        key: Key::new("default", "gone"),
        ..run(30, RunState::Queued)
    };
    let claimed = store.claim_run(of_nobody, Some(7), None).await.unwrap();
    say(said, claimed.is_none());
    say(said, store.schedules().await.unwrap());
    let moved = ScheduleRun {
        began_us: Some(31),
        ended_us: Some(39),
        reason: None,
        ..run(30, RunState::Completed)
    };
    let desired = Desired {
        since: "2026-01-02T00:00:00Z".to_owned(),
        ..Desired::now(DesiredState::Running, "schedule", None)
    };
    let told = store
        .move_run(moved, Some(desired), entry(), Vec::new())
        .await
        .unwrap();
    say(said, told.map(|(_, row)| row.text));
    say(said, store.pipeline(&key).await.unwrap().unwrap().desired);
    for now_us in [0, 30, 40] {
        say(said, store.runs_ahead(now_us).await.unwrap());
    }
    for (until_us, limit) in [(i64::MAX, 10), (i64::MAX, 1), (30, 10), (29, 10)] {
        let runs = store.schedule_runs(&key, until_us, limit).await.unwrap();
        say(said, runs);
    }
}

async fn deliveries(store: &Store, said: &mut Vec<String>) {
    let new = |id: &str, notifier: &str| NewDelivery {
        id: id.to_owned(),
        tenant: "default".to_owned(),
        notifier: notifier.to_owned(),
        pipeline: Some("zebra".to_owned()),
        kind: "alert",
        letter: "{\"text\": \"✓ 雪\"}".to_owned(),
        failed: None,
    };
    let key = Key::new("default", "zebra");
    let row = AlertRow {
        key: key.clone(),
        rule: "lag_seconds above 60".to_owned(),
        when: "lag_seconds".to_owned(),
        severity: "critical".to_owned(),
        state: AlertState::Firing,
        since_us: 1,
        fired_us: Some(2),
        over_us: None,
        fires: vec![1, 2],
        text: "! behind".to_owned(),
        notify: vec!["ops".to_owned()],
        snooze: Some(Snooze {
            until_us: 1_800_000_000_000_000,
            by: "ann".to_owned(),
        }),
    };
    let unknown = NewDelivery {
        failed: Some(("TM7097".to_owned(), "nobody".to_owned())),
        ..new("c", "nobody")
    };
    let moved = AlertMove {
        which: row.which(),
        told: Some(Entry::plain(&key, Level::Error, "alert", "! behind")),
        deliveries: vec![new("a", "ops"), new("b", "ops"), unknown, new("d", "old")],
        row: Some(row.clone()),
    };
    let told = store
        .move_alerts("1".to_owned(), vec![moved])
        .await
        .unwrap();
    say(
        said,
        told.iter().map(|(_, row)| &row.text).collect::<Vec<_>>(),
    );
    say(said, store.alerts().await.unwrap());
    store.add_delivery(new("e", "ops")).await.unwrap();
    let all = Cursor {
        before: None,
        limit: 10,
    };
    let one = Cursor {
        before: None,
        limit: 1,
    };
    let shown = |row: &DeliveryRow| {
        let ended = row.ended_at.is_some();
        let what = (row.id.clone(), row.kind.clone(), row.state.clone());
        let came = (row.attempts, row.code.clone(), row.result.clone());
        (what, came, ended, row.next_at.is_some(), row.letter.clone())
    };
    let waiting = || store.first_waiting("default".to_owned(), "ops".to_owned());
    say(said, waiting().await.unwrap().as_ref().map(shown));
    let counts = || store.waiting_deliveries("default".to_owned());
    let mut waits = counts().await.unwrap();
    waits.sort();
    say(said, waits);
    let away = || Error::transient(codes::NOTIFIER_UNKNOWN, "answered 503");
    for (id, attempted) in [
        ("a", Attempted::Later(away().into(), 7)),
        ("a", Attempted::Delivered("answered 204".to_owned())),
        ("b", Attempted::GivenUp(away().into())),
    ] {
        let row = store.attempted(id.to_owned(), attempted).await.unwrap();
        say(said, shown(&row));
    }
    say(said, waiting().await.unwrap().is_none());
    let known = vec![("default".to_owned(), "ops".to_owned())];
    let tidied = store.tidy_deliveries(known, "TM7097".to_owned());
    tidied.await.unwrap();
    say(said, counts().await.unwrap());
    for (notifier, page) in [(None, all), (Some("ops".to_owned()), all), (None, one)] {
        let found = store.deliveries("default".to_owned(), notifier, page);
        say(
            said,
            found.await.unwrap().iter().map(shown).collect::<Vec<_>>(),
        );
    }
    let gone = AlertMove {
        which: row.which(),
        row: None,
        told: None,
        deliveries: Vec::new(),
    };
    store.move_alerts("2".to_owned(), vec![gone]).await.unwrap();
    say(said, store.alerts().await.unwrap());
}

async fn history(store: &Store, said: &mut Vec<String>) {
    let key = Key::new("default", "zebra");
    let look = |at, gap_bytes: Option<i64>| Sample {
        key: key.clone(),
        at,
        gap_bytes,
        latency_seconds: gap_bytes.map(|gap| gap as f64 / 8.0),
        source: Some(format!("0/{at}")),
        processed: None,
        retained_bytes: Some(i64::MAX),
        changes: [at, 2, 3],
        state: "streaming".to_owned(),
    };
    let looks = [
        // The same bucket, in one call and in two.
        vec![look(100, Some(7)), look(101, None), look(102, Some(3))],
        vec![look(102, Some(9)), look(103, None)],
        (104..400).map(|at| look(at, Some(at))).collect(),
    ];
    for looks in looks {
        store.add_samples(looks, 120).await.unwrap();
        for step in Step::ALL {
            let found = store.history(&key, step, 0, 1000).await.unwrap();
            say(said, found);
        }
    }
}

#[tokio::test]
async fn every_statement_says_the_same_in_every_kind_of_store() {
    let [file, database] = Home::both().await;
    let of_file = everything(&file.open('a').await.unwrap()).await;
    let of_database = everything(&database.open('a').await.unwrap()).await;
    assert!(of_file.len() > 30);
    for (one, other) in of_file.iter().zip(&of_database) {
        assert_eq!(one, other);
    }
    assert_eq!(of_file.len(), of_database.len());
}
