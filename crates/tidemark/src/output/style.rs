//! Colour and glyphs. Colour is a second signal only: every state also has a glyph and a word.
//!
//! Whether a stream gets colour is decided once, from the flag, the environment (`NO_COLOR`,
//! `CLICOLOR_FORCE`, `TERM=dumb`) and whether it is a terminal.

use tidemark_core::finding::Verdict;
use tidemark_core::status::{Health, PipelineState, TableStatusState};

/// How one stream is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    colour: Colour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    On,
    Off,
}

/// What a stream ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// A terminal.
    Terminal,
    /// A file, a pipe, nothing.
    Other,
}

/// What a piece of text is, from which its colour follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Caution,
    Bad,
    Faint,
    Strong,
}

/// What the environment says about colour.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each flag and variable"
)]
pub(crate) struct ColourWishes {
    /// `--no-color`.
    pub(crate) is_flag_off: bool,
    /// `NO_COLOR` is set and not empty (no-color.org).
    pub(crate) is_env_off: bool,
    /// `CLICOLOR_FORCE` is set and not `0` (bixense.com/clicolors).
    pub(crate) is_env_forced: bool,
    /// `TERM=dumb`.
    pub(crate) is_dumb: bool,
}

impl Style {
    /// Without colour.
    pub(crate) const PLAIN: Style = Style {
        colour: Colour::Off,
    };

    /// The style of a stream. What says "off" wins over what says "on".
    pub(crate) fn of(surface: Surface, wishes: ColourWishes) -> Style {
        let wants = wishes.is_env_forced || (surface == Surface::Terminal && !wishes.is_dumb);
        let off = wishes.is_flag_off || wishes.is_env_off;
        Style {
            colour: if wants && !off {
                Colour::On
            } else {
                Colour::Off
            },
        }
    }

    /// The text in the colour of its tone.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        if self.colour == Colour::Off {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Caution => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Glyph and tone of a check's verdict.
pub(crate) fn of_verdict(verdict: Verdict) -> (char, Tone) {
    match verdict {
        Verdict::Passed => ('✓', Tone::Good),
        Verdict::Note => ('·', Tone::Faint),
        Verdict::Warning => ('!', Tone::Caution),
        Verdict::Failed => ('✗', Tone::Bad),
    }
}

/// Glyph, word and tone of a health.
pub(crate) fn of_health(health: Health) -> (char, &'static str, Tone) {
    match health {
        Health::Ok => ('✓', "ok", Tone::Good),
        Health::Notice => ('·', "notice", Tone::Faint),
        Health::Warning => ('!', "warning", Tone::Caution),
        Health::Error => ('✗', "error", Tone::Bad),
        Health::Unknown => ('?', "unknown", Tone::Caution),
    }
}

/// Word and tone of a pipeline's state.
pub(crate) fn of_state(state: PipelineState) -> (&'static str, Tone) {
    match state {
        PipelineState::Checking => ("checking", Tone::Strong),
        PipelineState::Starting => ("starting", Tone::Strong),
        PipelineState::Loading => ("loading", Tone::Strong),
        PipelineState::CatchingUp => ("catching_up", Tone::Strong),
        PipelineState::Streaming => ("streaming", Tone::Good),
        PipelineState::Paused => ("paused", Tone::Caution),
        PipelineState::Stopped => ("stopped", Tone::Caution),
        PipelineState::Completed => ("completed", Tone::Good),
        PipelineState::Failed => ("failed", Tone::Bad),
    }
}

/// Glyph, word and tone of a table's state.
pub(crate) fn of_table(state: TableStatusState) -> (char, &'static str, Tone) {
    match state {
        TableStatusState::Queued => ('·', "queued", Tone::Faint),
        TableStatusState::Loading => ('·', "loading", Tone::Strong),
        TableStatusState::CatchingUp => ('·', "catching_up", Tone::Strong),
        TableStatusState::Streaming => ('✓', "streaming", Tone::Good),
        TableStatusState::Paused => ('!', "paused", Tone::Caution),
        TableStatusState::Resyncing => ('·', "resyncing", Tone::Strong),
        TableStatusState::Quarantined => ('✗', "quarantined", Tone::Bad),
        TableStatusState::Done => ('✓', "done", Tone::Good),
        TableStatusState::Excluded => ('·', "excluded", Tone::Faint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_WISHES: ColourWishes = ColourWishes {
        is_flag_off: false,
        is_env_off: false,
        is_env_forced: false,
        is_dumb: false,
    };

    #[test]
    fn colour_follows_terminal_flag_and_environment() {
        for (surface, wishes, expected) in [
            (Surface::Terminal, NO_WISHES, true),
            (Surface::Other, NO_WISHES, false),
            (
                Surface::Terminal,
                ColourWishes {
                    is_flag_off: true,
                    ..NO_WISHES
                },
                false,
            ),
            (
                Surface::Terminal,
                ColourWishes {
                    is_env_off: true,
                    ..NO_WISHES
                },
                false,
            ),
            (
                Surface::Terminal,
                ColourWishes {
                    is_dumb: true,
                    ..NO_WISHES
                },
                false,
            ),
            (
                Surface::Other,
                ColourWishes {
                    is_env_forced: true,
                    ..NO_WISHES
                },
                true,
            ),
            (
                Surface::Other,
                ColourWishes {
                    is_env_forced: true,
                    is_env_off: true,
                    ..NO_WISHES
                },
                false,
            ),
        ] {
            let painted = Style::of(surface, wishes).paint(Tone::Good, "ok");
            assert_eq!(
                painted.contains('\u{1b}'),
                expected,
                "{surface:?} {wishes:?}"
            );
        }
    }
}
