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
