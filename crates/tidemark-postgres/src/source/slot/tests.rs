use super::*;

#[test]
fn names_are_those_that_the_server_takes() {
    let (longest, long) = ("a".repeat(63), "a".repeat(64));
    for good in ["a", "tidemark_shop", "1", &longest] {
        check_name(good).unwrap();
    }
    for bad in ["", "Shop", "sh-op", "sh op", "é", "a\"b", &long] {
        let error = check_name(bad).expect_err(bad);
        assert_eq!(error.code(), codes::SLOT_NAME, "{bad}");
    }
}

#[test]
fn only_slots_of_our_kind_are_not_foreign() {
    let ours = Kind {
        plugin: PLUGIN,
        slot_type: "logical",
        database: "shop",
        our_database: "shop",
        is_temporary: false,
        is_two_phase: false,
        is_synced: false,
    };
    assert_eq!(foreign(&ours), None);
    for (expected, kind) in [
        (
            "physical",
            Kind {
                slot_type: "physical",
                plugin: "",
                database: "",
                ..ours
            },
        ),
        (
            "wal2json",
            Kind {
                plugin: "wal2json",
                ..ours
            },
        ),
        (
            "other",
            Kind {
                database: "other",
                ..ours
            },
        ),
        (
            "temporary",
            Kind {
                is_temporary: true,
                ..ours
            },
        ),
        (
            "two_phase",
            Kind {
                is_two_phase: true,
                ..ours
            },
        ),
        (
            "synced",
            Kind {
                is_synced: true,
                ..ours
            },
        ),
    ] {
        let why = foreign(&kind).expect(expected);
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn f35_the_history_of_a_timeline_tells_where_others_ended() {
    let at = |lsn| Position::PgLsn(Lsn(lsn));
    let content = "1\t0/3000148\tno recovery target specified\n\n\
                   # by hand\n2\t1/A0\tbefore 2024-01-01 00:00:00+00\n";
    let read = read_history(content).unwrap();
    assert_eq!(read, [(1, at(0x300_0148)), (2, at(0x1_0000_00A0))]);
    for bad in ["x\t0/1\t", "1", "1\tnowhere\t"] {
        read_history(bad).expect_err(bad);
    }
}

#[test]
fn lost_is_told_with_its_reason_by_every_version() {
    let fate = |wal_status, is_conflicting, has_restart, reason| Fate {
        wal_status,
        is_conflicting,
        has_restart,
        reason,
    };
    for (fate, expected) in [
        (fate("reserved", false, true, None), None),
        (fate("extended", false, true, None), None),
        (fate("unreserved", false, true, None), None),
        (
            fate("lost", false, false, None),
            Some("max_slot_wal_keep_size"),
        ),
        (
            fate("lost", true, false, None),
            Some("max_slot_wal_keep_size"),
        ),
        (fate("lost", true, true, None), Some("recovery")),
        (
            fate("lost", false, false, Some("wal_removed")),
            Some("max_slot_wal_keep_size"),
        ),
        (
            fate("lost", true, true, Some("rows_removed")),
            Some("rows_removed"),
        ),
        (
            fate("lost", true, true, Some("wal_level_insufficient")),
            Some("wal_level"),
        ),
        (
            fate("lost", false, true, Some("idle_timeout")),
            Some("idle_replication_slot_timeout"),
        ),
        (
            fate("lost", false, true, Some("something_new")),
            Some("something_new"),
        ),
    ] {
        let why = lost(fate);
        match expected {
            None => assert_eq!(why, None),
            Some(part) => assert!(why.as_deref().unwrap().contains(part), "{why:?}"),
        }
    }
}
