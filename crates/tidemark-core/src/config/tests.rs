//! Whole files: what they mean, and how their problems look.
//!
//! `tests/*.toml` are files with problems, `tests/*.txt` what is said of them, letter by letter.

use super::keys::LATER_VALUES;
use super::*;

mod mistakes;

/// Surroundings that have every variable but `NOPE`, and no files.
struct World;

impl Surroundings for World {
    fn env(&self, name: &str) -> Option<String> {
        (name != "NOPE").then(|| format!("value of {name}"))
    }

    fn file(&self, _path: &str) -> Result<String, String> {
        Err("No such file or directory".to_owned())
    }

    fn credential(&self, _name: &str) -> Result<String, String> {
        Err("CREDENTIALS_DIRECTORY is not set".to_owned())
    }
}

fn reading(
    text: &str,
    connections: Option<&str>,
    overrides: &[Override],
) -> Result<Reading, Problems> {
    read(Input {
        file: Document::new("shop.toml", text),
        connections: connections
            .map(|text| Document::new("connections.toml", text))
            .into_iter()
            .collect(),
        overrides,
        surroundings: &World,
    })
}

fn config(text: &str) -> PipelineConfig {
    reading(text, None, &[])
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

const SMALL: &str = r#"
version = 1
[pipeline]
name = "shop-2"
mode = "full_load_and_cdc"
[source]
url = "postgres://tidemark@orders-db/orders"
[target]
url = "postgres://loader@dw-db/dw"
[tables]
include = ["public.*"]
"#;

#[test]
fn a_small_file_gets_the_defaults() {
    let config = config(SMALL);
    assert_eq!(config.name, "shop-2");
    assert_eq!(config.source.postgres.slot, "tidemark_shop_2");
    assert_eq!(config.source.postgres.publication, "tidemark_shop_2");
    assert_eq!(
        config.source.postgres.slot_creation_timeout,
        Duration::from_mins(10)
    );
    assert_eq!(config.memory, Memory(512_000_000));
    assert!(config.target.create_tables);
    assert_eq!(config.target.existing, Existing::LoadIfEmpty);
    assert_eq!(config.load.parallel_chunks, 4);
    assert_eq!(config.load.chunk_bytes, 64_000_000);
    assert_eq!(config.load.max_source_rows_per_second, None);
    assert_eq!(config.stream.batch_rows_max, 5_000);
    assert_eq!(
        config.stream.heartbeat_interval,
        Some(Duration::from_secs(10))
    );
    assert_eq!(config.stream.catalog_interval, Duration::from_secs(20));
    assert_eq!(config.verify.after_load, AfterLoad::Deep);
    assert!(!config.rules.is_same_database);
}

#[test]
fn a_file_from_another_editor_is_the_same_file() {
    let windows = format!("\u{FEFF}{}", SMALL.replace('\n', "\r\n"));
    assert_eq!(config(&windows).name, "shop-2");
    let problems = reading(&windows.replace("mode", "modee"), None, &[]).map(|_| ());
    let shown = problems.unwrap_err().to_string();
    assert!(
        shown.contains("shop.toml:5:1\n5 │ modee = \"full_load_and_cdc\"\n"),
        "{shown:?}"
    );
}

/// Every key of this version.
const FULL: &str = include_str!("tests/full.toml");

#[test]
fn every_key_reaches_the_engine() {
    let config = config(FULL);
    assert_eq!(config.tags, ["finance", "tier-1"]);
    assert_eq!(config.memory, Memory(1_000_000_000));
    assert_eq!(
        config.source.endpoint.password,
        Some(Secret::new("value of ORDERS_PASSWORD"))
    );
    let postgres = &config.source.postgres;
    assert_eq!(postgres.slot, "my_slot");
    assert_eq!(postgres.publication, "My Publication");
    assert_eq!(
        (postgres.create, postgres.slot_behind),
        (Create::Never, SlotBehind::Wait)
    );
    assert_eq!(
        (postgres.slot_ahead, postgres.origin),
        (SlotAhead::Fail, ChangeOrigin::None)
    );
    assert_eq!(postgres.max_retained_bytes, Some(20_000_000_000));
    assert_eq!(postgres.on_max_retained, OnMaxRetained::Fail);
    let relay = postgres.relay.as_ref().unwrap();
    assert_eq!(relay.directory, "/var/lib/tidemark/relay");
    assert_eq!(relay.bytes_max, 5_000_000_000);
    assert_eq!(relay.key, Some(Secret::new("value of RELAY_KEY")));
    assert_eq!(
        config.target.endpoint.url.value.expose(),
        "postgres://lo%40der@dw-db:5433/dw%20house?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem"
    );
    assert_eq!(config.target.on_schema_change, OnSchemaChange::StopTable);
    assert_eq!(config.target.on_conflict, OnConflict::Fail);
    assert_eq!(config.target.on_truncate, OnTruncate::Ignore);
    assert!(config.target.mark_origin);
    assert_eq!(config.target.existing, Existing::SkipLoaded);
    assert_eq!(config.new_tables, NewTables::Add);
    let rule = &config.rules.tables[0];
    assert_eq!(rule.target.as_ref().unwrap().value, "dw.order_lines");
    assert_eq!(rule.rename.len(), 2);
    assert_eq!(rule.drop_columns[0].value, "internal_note");
    assert_eq!(rule.chunk_rows, Some(200_000));
    assert_eq!(
        config.rules.tables[1].filter.as_ref().unwrap().value,
        "created_at >= '2024-01-01'"
    );
    assert_eq!(config.rules.masks.len(), 5);
    assert_eq!(config.load.max_source_rows_per_second, Some(1_000_000));
    assert_eq!(config.stream.heartbeat_interval, None);
    assert_eq!(config.stream.catalog_interval, Duration::from_mins(5));
    assert_eq!(
        config.stream.spool_dir.as_deref(),
        Some("/var/spool/tidemark")
    );
    assert_eq!(
        config.rules.on_row_error,
        crate::quarantine::OnRowError::StopPipeline
    );
    assert_eq!(config.verify.max_rows_per_second, None);
    let schedule = config.schedule.as_ref().unwrap();
    assert_eq!(
        (schedule.text.as_str(), schedule.zone()),
        ("0 2 * * 1-5", Some("Europe/Berlin"))
    );
    assert_eq!(
        (schedule.overlap, schedule.missed),
        (Overlap::Queue, Missed::Skip)
    );
}

#[test]
fn a_scheduled_load_swaps_where_the_file_says_nothing_else() {
    let scheduled = format!("{SMALL}[schedule]\nfull_load = \"daily\"\n");
    let alone = scheduled.replace("full_load_and_cdc", "full_load_only");
    for (text, existing) in [
        (&alone, Existing::Swap),
        (&scheduled, Existing::LoadIfEmpty),
    ] {
        let reading = reading(text, None, &[]).unwrap();
        assert_eq!(reading.config.target.existing, existing);
        let shown = &reading.effective;
        let key = shown.iter().find(|key| key.path == "target.existing");
        assert_eq!(key.unwrap().origin, Origin::Default);
        assert_eq!(reading.config.schedule.unwrap().text, "daily");
    }
    assert!(config(SMALL).schedule.is_none());
    let truncates = alone.replace("[tables]", "existing = \"truncate\"\n[tables]");
    let shown = reading(&truncates, None, &[])
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        shown.contains("TM7006") && shown.contains("a scheduled load goes with"),
        "{shown}"
    );
    let follows = scheduled.replace("full_load_and_cdc\"", "cdc_only\"\nstart = \"now\"");
    let shown = reading(&follows, None, &[])
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        shown.contains("no full load that could be scheduled"),
        "{shown}"
    );
}

/// B44 to B46: which field is wrong, and what was meant.
#[test]
fn a_schedule_that_is_none_says_which_field_is_wrong() {
    for (written, marked, why) in [
        ("* * *", "* * *", "here are 3"),
        ("60 * * * *", "60", "minute: 60 is out of range, 0 to 59"),
        ("0 24 * * *", "24", "hour: 24 is out of range, 0 to 23"),
        ("0 0 0 * *", "0", "day of the month: 0 is out of range"),
        ("0 0 31 2 *", "0 0 31 2 *", "never due"),
        ("0 0 30 feb *", "0 0 30 feb *", "never due"),
        ("0 0 * * moon", "moon", "weekday: `moon` is no number"),
        ("0 0 * 5-2 *", "5-2", "month: 5-2 goes backwards"),
        ("*/0 * * * *", "*/0", "a step is a number from 1"),
        ("5/10 * * * *", "5/10", "such as 5-59"),
        ("1,,2 * * * *", "1,,2", "minute: `` is no number"),
        ("-1 * * * *", "-1", "minute: `` is no number"),
        ("0 0 0 2 * *", "0 0 0 2 * *", "seconds are not among them"),
        ("", "", "write \"daily\""),
        ("dayly", "dayly", "did you mean \"daily\"?"),
        ("@daily", "@daily", "here are 1"),
        ("every 6", "every 6", "a unit is missing"),
        ("every", "every", "write a number"),
        ("every 0 s", "every 0 s", "from \"every 1s\""),
        ("every 1500 ms", "every 1500 ms", "whole seconds"),
        ("every 9999d", "every 9999d", "to \"every 366d\""),
        ("every -3s", "every -3s", "negative"),
    ] {
        let text = format!("{SMALL}[schedule]\nfull_load = \"{written}\"\n");
        let problems = reading(&text, None, &[]).map(|_| ()).expect_err(written);
        let problem = problems.iter().next().unwrap();
        assert!(problem.label.contains(why), "{written}: {problem}");
        let place = problem.place.as_ref().unwrap();
        let found = place.document.text().get(place.span.clone()).unwrap();
        let found = found.trim_matches('"');
        assert_eq!(found, marked, "{problem}");
    }
}

/// Nothing that was asked for is passed over in silence.
#[test]
fn values_that_the_engine_does_not_mind_are_refused() {
    for (minded, refused) in [
        ("slot_behind = \"wait\"", "slot_behind = \"fail\""),
        ("slot_ahead = \"fail\"", "slot_ahead = \"resync\""),
        ("\nmax_rows_per_second = 0", "\nmax_rows_per_second = 5"),
    ] {
        assert!(FULL.contains(minded), "{minded}");
        let problems = reading(&FULL.replace(minded, refused), None, &[]).map(|_| ());
        let shown = problems.expect_err(refused).to_string();
        assert!(
            shown.contains("TM7008") && shown.contains(refused.trim()),
            "{shown}"
        );
        assert_eq!(shown.matches("error[").count(), 1, "{shown}");
    }
}

#[test]
fn a_slot_is_released_only_where_that_can_be() {
    let release = "on_max_retained = \"release_slot\"";
    let own = FULL
        .replace("create = \"never\"", "create = \"if_missing\"")
        .replace("on_max_retained = \"fail\"", release);
    assert!(reading(&own, None, &[]).is_ok());
    for (text, why) in [
        (
            own.replace("max_retained = \"20 GB\"\n", ""),
            "needs `max_retained`",
        ),
        (
            FULL.replace("on_max_retained = \"fail\"", release),
            "not ours",
        ),
    ] {
        let problems = reading(&text, None, &[]).map(|_| ()).expect_err(why);
        let shown = problems.to_string();
        assert!(shown.contains("TM7006") && shown.contains(why), "{shown}");
    }
}

#[test]
fn a_relay_log_needs_a_budget() {
    let max = "max_retained = \"20 GB\"\n";
    let directory = "relay_dir = \"/var/lib/tidemark/relay\"\n";
    for (without, why) in [
        (max, "`relay_dir` needs"),
        (directory, "`relay_key` without"),
    ] {
        let problems = reading(&FULL.replacen(without, "", 1), None, &[]).map(|_| ());
        let shown = problems.expect_err(why).to_string();
        assert!(shown.contains("TM7006") && shown.contains(why), "{shown}");
    }
}

#[test]
fn every_key_is_in_the_full_file() {
    let effective = reading(FULL, None, &[]).unwrap().effective;
    let plain = |path: &str| path.replace(|c: char| c.is_ascii_digit(), "");
    for key in KEYS.iter() {
        // Parts stand in the target, the url in the source; a connection excludes both.
        let is_refused = LATER_VALUES
            .iter()
            .any(|(path, minded, _)| key.path == *path && minded.is_empty());
        let is_other =
            is_refused || key.path.ends_with(".connection") || key.path == "pipeline.start";
        let section = key.path.split('.').next().unwrap();
        let is_endpoint = matches!(section, "source" | "target")
            && CONNECTION_KEYS
                .iter()
                .any(|other| other.name() == key.name());
        let from_file = |entry: &&Effective| matches!(entry.origin, Origin::File(..));
        let is_there = effective
            .iter()
            .filter(from_file)
            .any(|entry| plain(&entry.path) == key.path);
        assert!(
            is_there || is_other || is_endpoint,
            "{} is not in full.toml",
            key.path
        );
    }
}

#[test]
fn problems_look_as_promised() {
    let check = |name: &str, text: &str, expected: &str| {
        let problems = reading(text, None, &[]).map(|_| ()).expect_err(name);
        assert!(format!("{problems}\n") == expected, "{name}:\n{problems}\n");
    };
    check(
        "typos",
        include_str!("tests/typos.toml"),
        include_str!("tests/typos.txt"),
    );
    check(
        "values",
        include_str!("tests/values.toml"),
        include_str!("tests/values.txt"),
    );
    check(
        "conflicts",
        include_str!("tests/conflicts.toml"),
        include_str!("tests/conflicts.txt"),
    );
    check(
        "alerts",
        include_str!("tests/alerts.toml"),
        include_str!("tests/alerts.txt"),
    );
    check(
        "schedule",
        include_str!("tests/schedule.toml"),
        include_str!("tests/schedule.txt"),
    );
    check(
        "syntax",
        include_str!("tests/syntax.toml"),
        include_str!("tests/syntax.txt"),
    );
    check(
        "later",
        include_str!("tests/later.toml"),
        include_str!("tests/later.txt"),
    );
    check(
        "missing",
        "version = 1\n",
        include_str!("tests/missing.txt"),
    );
    check("empty", "# nothing here\n", include_str!("tests/empty.txt"));
}

#[test]
fn problems_of_the_servers_file_have_their_places_and_show_no_secret() {
    let file = Document::new("server.toml", include_str!("tests/server.toml"));
    let problems = read_server(file, &World).map(|_| ()).expect_err("wrong");
    let expected = include_str!("tests/server.txt");
    assert!(format!("{problems}\n") == expected, "{problems}\n");
}

#[test]
fn a_servers_file_says_how_it_starts() {
    let read = |text: &str| {
        let text = format!("version = 1\n{text}");
        read_server(Document::new("server.toml", text), &World)
    };
    let said = "listen = \"[::1]:7443\"\nhosts = [\"tidemark.example\"]\n\
                pipelines = \"shops.d\"\nstate = \"/srv/tidemark\"\n[auth]\nmode = \"token\"\n\
                [metrics]\nlisten = \"0.0.0.0:9187\"\nauth = \"open\"\n[store]\nurl = \"postgres://a:hunter2@b/c\"\nkey = \"00ff\"\n\
                [log]\nlevel = \"debug\"\nformat = \"text\"\n";
    let config = read(said).unwrap();
    let serving = &config.serving;
    assert_eq!(serving.listen, Some("[::1]:7443".parse().unwrap()));
    assert_eq!(serving.hosts, ["tidemark.example"]);
    assert_eq!(serving.auth, Some(ServerAuth::Token));
    assert_eq!(serving.pipelines.as_deref(), Some("shops.d"));
    assert_eq!(serving.state.as_deref(), Some("/srv/tidemark"));
    let metrics = Some("0.0.0.0:9187".parse().unwrap());
    assert_eq!(serving.metrics_listen, metrics);
    assert_eq!(serving.metrics_auth, Some(ServerAuth::Open));
    assert_eq!(serving.log_level, Some(LogLevel::Debug));
    assert_eq!(serving.log_format, Some(LogFormat::Text));
    let store = serving.store.as_ref().map(Secret::expose);
    assert_eq!(store, Some("postgres://a:hunter2@b/c"));
    assert_eq!(serving.store_key.as_ref().map(Secret::expose), Some("00ff"));
    let debug = format!("{config:?}");
    assert!(
        !debug.contains("hunter2") && !debug.contains("00ff"),
        "{debug}"
    );

    assert!(read("").unwrap().serving.listen.is_none());
    for (wrong, expected) in [
        ("listen = \"localhost\"", "write it as \"127.0.0.1:7070\""),
        (
            "[log]\nlevel = \"loud\"",
            "allowed: error, warn, info, debug",
        ),
        ("[log]\nlevle = \"info\"", "did you mean `level`?"),
        ("[auth]\nmode = \"none\"", "allowed: open, token"),
        ("state = \" \"", "this is no directory"),
        ("pipelines = \"\"", "this is no directory"),
        (
            "[metrics]\nlisten = \"9187\"",
            "write it as \"127.0.0.1:7070\"",
        ),
        ("[metrics]\nauth = \"no\"", "allowed: open, token"),
        (
            "listen = \"127.0.0.1:7\"\n[metrics]\nlisten = \"127.0.0.1:7\"",
            "the address of the server itself",
        ),
    ] {
        let problems = read(wrong).map(|_| ()).unwrap_err().to_string();
        assert!(problems.contains(expected), "{wrong}: {problems}");
    }
}

#[test]
fn a_servers_file_says_who_is_told() {
    let text = "version = 1\n[notify]\nallow = [\"127.0.0.1\"]\n[[notifier]]\nname = \"ops\"\n\
                type = \"webhook\"\nurl = \"https://ops:8443/x\"\nsecret = \"hunter2\"\n";
    let config = read_server(Document::new("server.toml", text), &World).unwrap();
    let ops = &config.notifiers[0];
    assert_eq!((ops.name.as_str(), ops.tenant.as_str()), ("ops", "default"));
    assert_eq!((ops.way.word(), ops.way.host()), ("webhook", "ops"));
    assert!(config.allow[0].contains("127.0.0.1".parse().unwrap()));
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}

#[test]
fn connections_are_used_by_name() {
    let file = SMALL.replace(
        "url = \"postgres://tidemark@orders-db/orders\"",
        "connection = \"orders\"",
    );
    let connections = "version = 1\n[[connection]]\nname = \"orders\"\nurl = \"postgres://x@replica/orders\"\npassword = \"${env:PW}\"\n";
    let config = reading(&file, Some(connections), &[]).unwrap().config;
    assert_eq!(config.source.endpoint.connection.as_deref(), Some("orders"));
    assert_eq!(
        config.source.endpoint.url.value.expose(),
        "postgres://x@replica/orders"
    );
    assert_eq!(
        config.source.endpoint.password,
        Some(Secret::new("value of PW"))
    );

    let problems = |file: &str, connections: &str| {
        reading(file, Some(connections), &[])
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let wrong = problems(&file.replace("\"orders\"", "\"oders\""), connections);
    assert!(wrong.contains("did you mean \"orders\"?"), "{wrong}");
    let wrong = problems(&file, &connections.replace("url", "ulr"));
    assert!(
        wrong.contains("connections.toml:4:1") && wrong.contains("did you mean `url`?"),
        "{wrong}"
    );
    let wrong = problems(
        &file.replace("connection = ", "user = \"x\"\nconnection = "),
        connections,
    );
    assert!(wrong.contains("`user` contradicts `connection`"), "{wrong}");
}

#[test]
fn the_first_that_has_a_name_counts_and_a_file_of_connections_is_read_alone() {
    let of = |host: &str, name: &str| {
        let text = format!("version = 1\n[[connection]]\nname = \"{name}\"\nhost = \"{host}\"\n");
        Document::new(format!("{host}.toml"), text)
    };
    let file = SMALL.replace(
        "url = \"postgres://tidemark@orders-db/orders\"",
        "connection = \"orders\"",
    );
    let url = |connections: Vec<Document>| {
        let input = Input {
            file: Document::new("shop.toml", file.as_str()),
            connections,
            overrides: &[],
            surroundings: &World,
        };
        let endpoint = read(input).unwrap().config.source.endpoint;
        endpoint.url.value.expose().to_owned()
    };
    assert_eq!(url(vec![of("a", "x"), of("b", "orders")]), "postgres://b");
    assert_eq!(
        url(vec![of("a", "orders"), of("b", "orders")]),
        "postgres://a"
    );

    let all = read_connections(of("a", "orders"), &World).unwrap();
    let (name, endpoint) = &all[0];
    assert_eq!((all.len(), name.as_str()), (1, "orders"));
    assert_eq!(endpoint.url.value.expose(), "postgres://a");
    for (host, name) in [("a b", "orders"), ("a", "Not a name")] {
        assert!(
            read_connections(of(host, name), &World).is_err(),
            "{host} {name}"
        );
    }
}

#[test]
fn flags_go_before_variables_and_variables_before_the_file() {
    let variables = [
        ("TIDEMARK_STREAM_BATCH_ROWS", "70"),
        ("TIDEMARK_STREAM_BATCH_WAIT", "1s"),
        ("TIDEMARK_TABLES_EXCLUDE", "public.a, public.b"),
        ("TIDEMARK_SOURCE_PASSWORD", "hunter2"),
        ("TIDEMARK_NO_PROGRESS", "1"),
        ("HOME", "/"),
    ];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let mut overrides = overrides_of(variables.map(owned)).unwrap();
    assert_eq!(overrides.len(), 4);
    overrides.push(Override {
        path: "stream.batch_rows".to_owned(),
        text: "90".to_owned(),
        origin: Origin::Flag("--batch-rows".to_owned()),
    });
    overrides.reverse();
    let file =
        format!("{SMALL}[stream]\nbatch_rows = 50\nbatch_wait = \"2s\"\nbatch_bytes = \"1 MB\"\n");
    let reading = reading(&file, None, &overrides).unwrap();
    assert_eq!(reading.config.stream.batch_rows_max, 90);
    assert_eq!(reading.config.rules.selection.exclude.len(), 2);
    let shown = |path: &str| {
        let entry = reading
            .effective
            .iter()
            .find(|entry| entry.path == path)
            .unwrap();
        format!("{} ({})", entry.value, entry.origin)
    };
    assert_eq!(shown("stream.batch_rows"), "90 (--batch-rows)");
    assert_eq!(
        shown("stream.batch_wait"),
        "\"1s\" (TIDEMARK_STREAM_BATCH_WAIT)"
    );
    assert_eq!(shown("stream.batch_bytes"), "\"1 MB\" (shop.toml:15)");
    assert_eq!(shown("load.chunk_size"), "\"64 MB\" (default)");
    assert_eq!(shown("source.password"), "*** (TIDEMARK_SOURCE_PASSWORD)");
    assert_eq!(shown("tables.include"), "[\"public.*\"] (shop.toml:11)");
}

#[test]
fn variables_are_checked_like_the_file() {
    let one = |name: &str, value: &str| {
        let variables = [(name.to_owned(), value.to_owned())];
        let problems = match overrides_of(variables) {
            Ok(overrides) => reading(SMALL, None, &overrides).map(|_| ()).unwrap_err(),
            Err(problems) => problems,
        };
        problems.to_string()
    };
    let wrong = one("TIDEMARK_STREAM_BATCH_ROWS", "abc");
    assert!(wrong.contains("TIDEMARK_STREAM_BATCH_ROWS:1:1"), "{wrong}");
    let wrong = one("TIDEMARK_STREAM_BATCHROWS", "5");
    assert!(
        wrong.contains("did you mean TIDEMARK_STREAM_BATCH_ROWS?"),
        "{wrong}"
    );
    let wrong = one("TIDEMARK_SOURCE_URL", "mysql://u:hunter2@h/x");
    assert!(
        wrong.contains("TM7008") && !wrong.contains("hunter2"),
        "{wrong}"
    );
}

#[test]
fn a_file_may_leave_to_variables_what_they_say() {
    let file = SMALL.replace(
        "[source]\nurl = \"postgres://tidemark@orders-db/orders\"\n",
        "",
    );
    let overrides = overrides_of([(
        "TIDEMARK_SOURCE_URL".to_owned(),
        "postgres://x@h/db".to_owned(),
    )]);
    let config = reading(&file, None, &overrides.unwrap()).unwrap().config;
    assert_eq!(
        config.source.endpoint.url.value.expose(),
        "postgres://x@h/db"
    );
}

#[test]
fn s05_no_secret_of_a_file_is_ever_shown() {
    let secret = "hunter2";
    for line in [
        "password = \"hunter2\" oops",
        "password = \"hunter2",
        "passwrd = \"hunter2\"",
        "password = [\"hunter2\"]",
        "db_token = \"hunter2\"",
        "url = \"postgres://u:hunter2@h/x\" oops",
        "ulr = \"postgres://u:hunter2@h/x\"",
        "url = \"postgres://u@h/x?sslmode=require&password=hunter2\" oops",
        "type = \"mysql\"\nurl = \"postgres://u:hunter2@h/x\"",
        "postgres = { password = \"hunter2\", x = 1 }",
        "password = \"a${hunter2}\"",
    ] {
        let file = SMALL.replace("url = \"postgres://tidemark@orders-db/orders\"", line);
        let problems = reading(&file, None, &[]).map(|_| ()).expect_err(line);
        assert!(!problems.to_string().contains(secret), "{line}\n{problems}");
        let error = problems.into_error();
        assert!(!format!("{error:?} {error}").contains(secret), "{line}");
    }
    let file = SMALL.replace("[target]", "password = \"hunter2\"\n[target]");
    let reading = reading(&file, None, &[]).unwrap();
    assert!(!format!("{reading:?}").contains(secret));
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "([a-z_]{1,8}( = |=)[\"0-9a-z.\\[\\]{}]{0,8}\n|\\[{1,2}[a-z.]{0,8}\\]{0,2}\n|\\PC{0,10}\n){0,8}") {
        if let Err(problems) = reading(&text, None, &[]) {
            proptest::prop_assert!(!problems.to_string().is_empty());
        }
    }

    #[test]
    fn a_file_with_a_line_broken_is_read_or_refused(line in 0_usize..80, at in 0_usize..60, c: char) {
        let mut lines: Vec<String> = FULL.lines().map(str::to_owned).collect();
        if let Some(line) = lines.get_mut(line) {
            let at = line.char_indices().map(|(at, _)| at).nth(at).unwrap_or(line.len());
            line.insert(at, c);
        }
        if let Err(problems) = reading(&lines.join("\n"), None, &[]) {
            proptest::prop_assert!(!problems.to_string().is_empty());
        }
    }
}
