//! Examples of every verb: help and man pages lead with them, and a test parses each.

/// A verb and how it is used.
pub(crate) struct Verb {
    /// As typed.
    pub(crate) name: &'static str,
    /// Command line, and what it does.
    pub(crate) examples: &'static [(&'static str, &'static str)],
}

/// All verbs, in the order of the tree.
pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "demo",
        examples: &[
            (
                "tidemark demo",
                "two servers, a shop with live customers, a pipeline between them",
            ),
            (
                "tidemark demo break kill",
                "in another terminal: kill -9 the worker, see that nothing is lost",
            ),
            ("tidemark demo --once --json", "exit 0 only when verified"),
        ],
    },
    Verb {
        name: "init",
        examples: &[
            (
                "tidemark init postgres://me@db1/shop postgres://me@db2/dw",
                "look at both, ask, write shop.toml",
            ),
            (
                "tidemark init postgres://db1/shop postgres://db2/dw --yes",
                "the same without questions",
            ),
        ],
    },
    Verb {
        name: "check",
        examples: &[
            ("tidemark check shop.toml", "what is ready and what is not"),
            (
                "tidemark check shop --fix-sql > fix.sql",
                "only the SQL that mends it",
            ),
            (
                "tidemark check shop --watch",
                "look again until nothing fails",
            ),
        ],
    },
    Verb {
        name: "plan",
        examples: &[
            (
                "tidemark plan shop.toml",
                "tables, sizes, losses, time; changes nothing",
            ),
            ("tidemark plan shop --json", "the same for a program"),
        ],
    },
    Verb {
        name: "run",
        examples: &[
            (
                "tidemark run shop.toml",
                "load, then follow the source until Ctrl-C",
            ),
            (
                "tidemark run shop.toml --until verified",
                "end once the copy is proven identical",
            ),
            (
                "tidemark run shop --set load.parallel_tables=4",
                "with another value for this run",
            ),
        ],
    },
    Verb {
        name: "serve",
        examples: &[
            (
                "tidemark serve",
                "the files of pipelines.d, and an API on 127.0.0.1:7070",
            ),
            (
                "tidemark serve --pipelines DIR --state DIR",
                "with directories of its own",
            ),
            (
                "tidemark serve --listen 0.0.0.0:7070 --auth token",
                "for other machines: every request needs a token",
            ),
        ],
    },
    Verb {
        name: "apply",
        examples: &[
            (
                "tidemark apply shop.toml --server http://tm:7070",
                "show what changes, ask, take it in",
            ),
            (
                "tidemark apply a.toml b.toml --dry-run --context prod",
                "only show it",
            ),
            (
                "tidemark apply shop.toml --yes --json",
                "from a program, on the server of TIDEMARK_SERVER",
            ),
        ],
    },
    Verb {
        name: "diff",
        examples: &[
            (
                "tidemark diff shop.toml --context prod",
                "what apply would change; exit 3 if anything",
            ),
            (
                "tidemark diff a.toml b.toml --json",
                "the same for a program",
            ),
        ],
    },
    Verb {
        name: "export",
        examples: &[
            (
                "tidemark export shop --context prod > shop.toml",
                "one pipeline of a server as a file",
            ),
            (
                "tidemark export --to pipelines.d --context prod",
                "all of them, a file each",
            ),
            (
                "tidemark export shop --format html > shop.html",
                "how it stands and stood, in one document",
            ),
        ],
    },
    Verb {
        name: "status",
        examples: &[
            ("tidemark status shop", "one pipeline"),
            (
                "tidemark status",
                "all pipelines of this directory, worst first",
            ),
            (
                "tidemark status shop --require streaming",
                "exit 3 unless it streams",
            ),
        ],
    },
    Verb {
        name: "tables",
        examples: &[
            (
                "tidemark tables shop",
                "state, rows and changes of each table",
            ),
            ("tidemark tables shop --watch", "again every two seconds"),
        ],
    },
    Verb {
        name: "lag",
        examples: &[
            (
                "tidemark lag shop --watch",
                "how far behind, in bytes and in time",
            ),
            (
                "tidemark lag shop --max 30s || page-me",
                "exit 3 when further behind, or unknown",
            ),
        ],
    },
    Verb {
        name: "logs",
        examples: &[
            ("tidemark logs shop", "the last lines that the server has"),
            (
                "tidemark logs shop --level warn --follow",
                "what a person should look at, as it comes",
            ),
        ],
    },
    Verb {
        name: "peek",
        examples: &[(
            "tidemark peek shop --table public.orders",
            "the first rows of both sides, masked",
        )],
    },
    Verb {
        name: "trace",
        examples: &[(
            "tidemark trace shop --table public.orders --key 4711",
            "one row on both sides, and what is known of it",
        )],
    },
    Verb {
        name: "verify",
        examples: &[
            (
                "tidemark verify shop",
                "compare every value at one position",
            ),
            (
                "tidemark verify shop --table public.orders --counts",
                "only numbers of rows, one table",
            ),
            (
                "tidemark verify shop --repair",
                "copy anew only what differs",
            ),
        ],
    },
    Verb {
        name: "pause",
        examples: &[
            ("tidemark pause shop", "the whole pipeline"),
            (
                "tidemark pause shop --table public.orders",
                "one table; its changes are kept in order",
            ),
        ],
    },
    Verb {
        name: "resume",
        examples: &[
            ("tidemark resume shop", "go on"),
            ("tidemark resume shop --table public.orders", "one table"),
        ],
    },
    Verb {
        name: "start",
        examples: &[(
            "tidemark start shop --server http://127.0.0.1:7070",
            "has the server run it",
        )],
    },
    Verb {
        name: "stop",
        examples: &[("tidemark stop shop", "end it in order, wherever it runs")],
    },
    Verb {
        name: "reconcile",
        examples: &[
            (
                "tidemark reconcile shop",
                "after a lost slot: shows the effect, asks, copies what differs",
            ),
            (
                "tidemark reconcile shop --dry-run",
                "only report what differs",
            ),
            (
                "tidemark reconcile shop --table public.orders",
                "one table, also while the pipeline runs",
            ),
        ],
    },
    Verb {
        name: "resync",
        examples: &[
            (
                "tidemark resync shop --table public.orders",
                "shows the effect, asks, copies one table anew",
            ),
            (
                "tidemark resync shop --table public.orders --strategy truncate",
                "empty the table first",
            ),
            ("tidemark resync shop --yes", "all tables, without asking"),
        ],
    },
    Verb {
        name: "cutover",
        examples: &[
            (
                "tidemark cutover shop --dry-run --fence",
                "what would happen, and what stands in the way",
            ),
            (
                "tidemark cutover shop --fence --report shop.md",
                "fence the source, drain, compare, hand over",
            ),
            (
                "tidemark cutover shop --fence --reverse shop_back.toml",
                "the same, with a way back",
            ),
            (
                "tidemark cutover shop --stop-writers ./stop --start-writers ./start",
                "by commands of yours",
            ),
            (
                "tidemark cutover shop --fence --reverse --server http://127.0.0.1:7070",
                "by a server, which keeps the way back",
            ),
        ],
    },
    Verb {
        name: "retry",
        examples: &[
            ("tidemark retry shop", "all that was refused"),
            ("tidemark retry shop --table public.orders", "of one table"),
        ],
    },
    Verb {
        name: "skip",
        examples: &[(
            "tidemark skip shop --table public.orders --rows",
            "go on without the rows that do not fit",
        )],
    },
    Verb {
        name: "quarantine",
        examples: &[
            ("tidemark quarantine list shop", "which rows, and why"),
            (
                "tidemark quarantine show shop --table public.orders --key 88",
                "one of them with its values",
            ),
            (
                "tidemark quarantine export shop > rows.jsonl",
                "all of them",
            ),
            (
                "tidemark quarantine release shop --key 88",
                "apply one again",
            ),
        ],
    },
    Verb {
        name: "sequences",
        examples: &[
            ("tidemark sequences shop", "before the target takes writes"),
            ("tidemark sequences shop --dry-run", "only show the values"),
        ],
    },
    Verb {
        name: "slots",
        examples: &[
            ("tidemark slots list shop", "all slots of the source"),
            (
                "tidemark slots drop shop --slot old_slot --i-own old_slot",
                "give its log free",
            ),
            (
                "tidemark slots adopt shop --slot old_slot",
                "whether the pipeline can go on with it",
            ),
        ],
    },
    Verb {
        name: "alerts",
        examples: &[
            ("tidemark alerts list", "what fires, and every rule"),
            (
                "tidemark alerts test oncall-mail",
                "send a message, tell what became of it",
            ),
            (
                "tidemark alerts snooze 6f3a --for 2h",
                "no message of it for two hours",
            ),
        ],
    },
    Verb {
        name: "explain",
        examples: &[
            (
                "tidemark explain TM1010",
                "cause, effect and first action of one code",
            ),
            ("tidemark explain", "all codes with their titles"),
            ("tidemark explain 4011 --json", "the same for a program"),
        ],
    },
    Verb {
        name: "context",
        examples: &[
            (
                "tidemark context add prod https://tm.example",
                "remember a server by a name",
            ),
            ("tidemark context use prod", "ask it from now on"),
            ("tidemark context list", "which there are"),
        ],
    },
    Verb {
        name: "config",
        examples: &[
            (
                "tidemark config lint shop.toml --show-origin",
                "what is wrong; every value and where it comes from",
            ),
            ("tidemark config fmt shop.toml", "the usual layout"),
            (
                "tidemark config schema > tidemark.schema.json",
                "for editors",
            ),
        ],
    },
    Verb {
        name: "completions",
        examples: &[
            ("tidemark completions bash", "print completions for bash"),
            (
                "tidemark completions zsh > ~/.zfunc/_tidemark",
                "install them for zsh",
            ),
            (
                "tidemark completions fish > ~/.config/fish/completions/tidemark.fish",
                "install them for fish",
            ),
        ],
    },
    Verb {
        name: "man",
        examples: &[
            ("tidemark man > tidemark.1", "the page of the program"),
            ("tidemark man explain", "the page of one verb"),
            (
                "tidemark man --directory man1",
                "write all pages to a directory",
            ),
        ],
    },
    Verb {
        name: "version",
        examples: &[
            ("tidemark version", "version and how it was built"),
            ("tidemark version --json", "the same for a program"),
        ],
    },
];
