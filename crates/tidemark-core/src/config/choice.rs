//! Values of keys that allow a few words.
//!
//! Each enum knows the words by which a file names its values, so that parsing, the schema, the
//! reference and error messages cannot disagree.

use crate::pipeline::plan::Mode;
use crate::target::Existing;

/// A value that a file names by a word.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    /// All words and what they mean, the default first where there is one.
    const WORDS: &'static [(&'static str, Self)];

    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, value)| *value)
    }
}

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Its word in files.
            pub fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }
        }

        impl Choice for $name {
            const WORDS: &'static [(&'static str, $name)] = &[$(($word, $name::$variant)),+];
        }
    )+};
}

choices! {
    /// A kind of database.
    System {
        /// PostgreSQL.
        Postgres = "postgres",
    }

    /// Whether Tidemark makes what it needs on the source.
    Create {
        /// What is missing.
        IfMissing = "if_missing",
        /// Nothing; a person did.
        Never = "never",
    }

    /// What to do with a slot that is older than the checkpoint.
    SlotBehind {
        /// Read on; what is applied already is skipped.
        Wait = "wait",
        /// Fail.
        Fail = "fail",
    }

    /// What to do with a slot that has moved past the checkpoint: changes are missing.
    SlotAhead {
        /// Fail, with the way out.
        Fail = "fail",
        /// Copy all tables anew.
        Resync = "resync",
    }

    /// What to do when the source keeps more log for the pipeline than it may.
    OnMaxRetained {
        /// Stop, and keep the slot: nothing is lost.
        Fail = "fail",
        /// Remove the slot: the source's disk comes first, and the copy has a gap.
        ReleaseSlot = "release_slot",
    }

    /// Which changes are read, by where they came from (PostgreSQL 16 and later: `origin` of
    /// `START_REPLICATION`, documentation 55.4).
    Origin {
        /// All.
        Any = "any",
        /// Only those made on the source itself, none that replication brought there.
        None = "none",
    }

    /// What to do when a table's shape changes on the source.
    OnSchemaChange {
        /// Add, rename, widen and drop columns on the target as on the source.
        Apply = "apply",
        /// Add columns and widen types; keep dropped columns (NULL from then on, where they may be);
        /// stop the table at anything else.
        ApplyAdditive = "apply_additive",
        /// Stop the table.
        StopTable = "stop_table",
        /// Go on with the columns that both sides have: new ones are not carried.
        Ignore = "ignore",
        /// End the pipeline before anything is applied in the new shape.
        Fail = "fail",
    }

    /// What to do when a change meets another target row than the log implies.
    OnConflict {
        /// Apply, count, warn.
        Warn = "warn",
        /// Apply and count.
        Count = "count",
        /// Stop the pipeline behind it.
        Fail = "fail",
    }

    /// What to do when the source empties a table with `TRUNCATE`.
    OnTruncate {
        /// Empty the target's table too.
        Apply = "apply",
        /// Stop the table.
        StopTable = "stop_table",
        /// Keep the target's rows.
        Ignore = "ignore",
    }

    /// What to do with a table that is new on the source and matches the selection.
    NewTables {
        /// Say so.
        Notify = "notify",
        /// Load it and follow it.
        Add = "add",
        /// Nothing.
        Ignore = "ignore",
    }

    /// What to do with a change that the target refuses.
    OnRowError {
        /// Set its table aside, keep its changes in order, let the others go on.
        StopTable = "stop_table",
        /// Set the row alone aside, with what comes for it later.
        QuarantineRow = "quarantine_row",
        /// Stop the pipeline.
        StopPipeline = "stop_pipeline",
    }

    /// How source and target are compared after the load.
    AfterLoad {
        /// Every value.
        Deep = "deep",
        /// Row counts only.
        Counts = "counts",
        /// Not at all.
        Off = "off",
    }

    /// What an alert looks at.
    AlertWhen {
        /// The pipeline is in one of some states.
        State = "state",
        /// How far behind the target is, in seconds.
        LagSeconds = "lag_seconds",
        /// How far behind the target is, in bytes of log.
        LagBytes = "lag_bytes",
        /// How far behind it is cannot be told.
        LagUnknown = "lag_unknown",
        /// How long until the source gives the log up that is still needed.
        SlotTimeLeft = "slot_time_left",
        /// A table was set aside.
        TableQuarantined = "table_quarantined",
        /// Rows were set aside.
        RowsQuarantined = "rows_quarantined",
        /// The pipeline failed before its load was in.
        LoadFailed = "load_failed",
        /// A load ended: said once, and never over.
        LoadFinished = "load_finished",
        /// The last comparison found a difference.
        VerificationDifferent = "verification_different",
        /// Nothing was compared for long.
        VerificationStale = "verification_stale",
        /// A load that was due did not begin.
        ScheduleMissed = "schedule_missed",
    }

    /// How much an alert matters.
    AlertSeverity {
        /// A person should look.
        Warning = "warning",
        /// A person must act.
        Critical = "critical",
        /// Worth knowing.
        Notice = "notice",
    }

    /// What becomes of a scheduled run that is due while another goes on.
    Overlap {
        /// Nothing; the next one is for later.
        Skip = "skip",
        /// It waits for the end of that one.
        Queue = "queue",
    }

    /// What becomes of a scheduled run whose time has passed, because no server was there.
    Missed {
        /// It runs late, once for all that were missed.
        RunOnce = "run_once",
        /// Nothing; the next one is for later.
        Skip = "skip",
    }

    /// How somebody is told of an alert.
    NotifierType {
        /// A program, by a signed request.
        Webhook = "webhook",
        /// A channel of Slack.
        Slack = "slack",
        /// People, by mail.
        Email = "email",
    }

    /// Whether whoever asks a server needs a token.
    ServerAuth {
        /// Nobody does.
        Open = "open",
        /// Everybody does.
        Token = "token",
    }

    /// From which level on lines are logged.
    LogLevel {
        /// A person must look.
        Error = "error",
        /// Unexpected, and it went on.
        Warn = "warn",
        /// Changes of state.
        Info = "info",
        /// Also what is of use to whoever looks for a cause.
        Debug = "debug",
    }

    /// How lines of the log are written.
    LogFormat {
        /// For a person.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }

    /// How the way to a server of mail is secured.
    NotifierTls {
        /// By TLS, or nothing is sent.
        Required = "required",
        /// Not at all.
        None = "none",
    }

    /// Kinds of masks, by their word.
    MaskKind {
        /// A salted hash.
        Hash = "hash",
        /// A constant of the column's type.
        Redact = "redact",
        /// NULL.
        Null = "null",
        /// The end of the value, or the domain of an address.
        Partial = "partial",
        /// A value from the file.
        Fixed = "fixed",
    }
}

impl Choice for Mode {
    const WORDS: &'static [(&'static str, Mode)] = &[
        ("full_load_only", Mode::FullLoadOnly),
        ("cdc_only", Mode::CdcOnly),
        ("full_load_and_cdc", Mode::FullLoadAndCdc),
    ];
}

impl Choice for Existing {
    const WORDS: &'static [(&'static str, Existing)] = &[
        ("load_if_empty", Existing::LoadIfEmpty),
        ("fail", Existing::Fail),
        ("append_if_empty", Existing::AppendIfEmpty),
        ("skip_loaded", Existing::SkipLoaded),
        ("truncate", Existing::Truncate),
        ("drop", Existing::Drop),
        ("swap", Existing::Swap),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_engine() {
        for (word, mode) in Mode::WORDS {
            assert_eq!(*word, mode.name());
        }
        assert_eq!(
            Existing::from_word("skip_loaded"),
            Some(Existing::SkipLoaded)
        );
        assert_eq!(Existing::from_word("resume"), None);
    }
}
