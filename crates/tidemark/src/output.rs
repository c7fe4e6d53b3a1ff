//! What a verb says: its answer on stdout, talk on stderr, in one of two forms.
//!
//! A verb makes an [`Answer`] (text for a person, data for a program, a verdict) or a
//! [`Failure`]; [`Talk`] knows how this invocation wants it. With `--json` stdout carries one envelope
//! per answer and nothing else:
//! `{"schema":"tidemark/v1","command":…,"ok":…,"data":…,"notices":[…],"error":null|problem}`.

use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde_json::Value;
use tidemark_core::Error;
use tidemark_core::catalogue::codes;

use crate::exit::Exit;
use crate::problem::{Failure, Problem};

/// Appends formatted text to a `String`.
macro_rules! put {
    ($text:expr, $($arguments:tt)*) => {
        std::fmt::Write::write_fmt(&mut $text, format_args!($($arguments)*))
            .expect("a String can be written to")
    };
}
pub(crate) use put;

pub(crate) mod numbers;
pub(crate) mod screen;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod waiting;
pub(crate) mod wrap;
pub(crate) mod zone;

use screen::{Screen, Stream};
use style::{ColourWishes, Style, Tone};

/// The name of the envelope's form.
const ENVELOPE_SCHEMA: &str = "tidemark/v1";

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For a person.
    Human,
    /// For a program.
    Json,
}

/// How much is said besides the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Detail {
    /// Errors only.
    Quiet,
    /// As documented.
    Normal,
    /// What passed, too.
    Verbose,
    /// Everything.
    Trace,
}

/// Whether progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressForm {
    /// A live region on the terminal.
    Live,
    /// A line now and then.
    Lines,
    /// Not at all.
    Off,
}

/// What must be agreed to by a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    /// `--yes`.
    Given,
    /// May be asked for.
    Ask,
    /// Nobody is there to ask.
    Unavailable,
}

/// Whether what was asked turned out well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Positive,
    Negative,
}

/// Something to know besides the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Notice {
    /// Catalogue code, if there is one.
    pub(crate) code: Option<String>,
    /// In a sentence.
    pub(crate) text: String,
}

/// What a verb found.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// For a person; without a newline at the end. Empty: nothing is printed.
    pub(crate) text: String,
    /// For a program.
    pub(crate) data: Value,
    /// Whether it is good.
    pub(crate) verdict: Verdict,
    /// What else to know; for a person these are hints on stderr.
    pub(crate) notices: Vec<Notice>,
}

impl Answer {
    /// A good answer.
    pub(crate) fn new(text: impl Into<String>, data: impl Serialize) -> Answer {
        Answer {
            text: text.into(),
            data: serde_json::to_value(data).expect("answers are plain data with text keys"),
            verdict: Verdict::Positive,
            notices: Vec::new(),
        }
    }

    /// The same answer with another verdict.
    pub(crate) fn verdict(mut self, verdict: Verdict) -> Answer {
        self.verdict = verdict;
        self
    }

    /// Adds something to know.
    pub(crate) fn notice(mut self, text: impl Into<String>) -> Answer {
        self.notices.push(Notice {
            code: None,
            text: text.into(),
        });
        self
    }

    /// How it ends the invocation.
    pub(crate) fn exit(&self) -> Exit {
        match self.verdict {
            Verdict::Positive => Exit::Done,
            Verdict::Negative => Exit::Negative,
        }
    }
}

/// What every verb returns.
pub(crate) type Outcome = Result<Answer, Failure>;

#[derive(Serialize)]
struct Envelope<'a> {
    schema: &'static str,
    command: &'a str,
    ok: bool,
    data: &'a Value,
    notices: &'a [Notice],
    error: Option<Problem>,
}

/// How one invocation talks. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    /// The verb, as the envelope names it.
    pub(crate) command: &'static str,
    /// Form of results.
    pub(crate) form: Form,
    /// How much is said.
    pub(crate) detail: Detail,
    /// Style of results.
    pub(crate) out: Style,
    /// Style of talk.
    pub(crate) err: Style,
    /// Form of progress.
    pub(crate) progress: ProgressForm,
    /// Whether questions can be asked, or need not be.
    pub(crate) consent: Consent,
    /// Where it all goes.
    pub(crate) screen: Arc<Screen>,
    /// The pipeline that is spoken of, as a command line names it, once that is known.
    pub(crate) about: Arc<OnceLock<String>>,
}

/// What flags and environment say about talking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TalkWishes {
    pub(crate) form: Form,
    pub(crate) detail: Detail,
    pub(crate) colour: ColourWishes,
    /// `--no-progress` or its variable.
    pub(crate) is_progress_off: bool,
    /// `--no-input`.
    pub(crate) is_input_off: bool,
    /// `--yes`.
    pub(crate) is_consent_given: bool,
}

impl Talk {
    /// Decides once how to talk.
    pub(crate) fn new(command: &'static str, wishes: TalkWishes) -> Talk {
        let screen = Screen::new();
        let can_ask = !wishes.is_input_off
            && wishes.form == Form::Human
            && std::io::stdin().is_terminal()
            && screen.is_terminal(Stream::Err);
        let progress = match wishes {
            _ if wishes.is_progress_off || wishes.detail == Detail::Quiet => ProgressForm::Off,
            _ if screen.is_terminal(Stream::Err) && !wishes.colour.is_dumb => ProgressForm::Live,
            _ => ProgressForm::Lines,
        };
        Talk {
            command,
            form: wishes.form,
            detail: wishes.detail,
            out: Style::of(screen.surface(Stream::Out), wishes.colour),
            err: Style::of(screen.surface(Stream::Err), wishes.colour),
            progress,
            consent: match wishes {
                _ if wishes.is_consent_given => Consent::Given,
                _ if can_ask => Consent::Ask,
                _ => Consent::Unavailable,
            },
            screen: Arc::new(screen),
            about: Arc::default(),
        }
    }

    /// Width for results.
    pub(crate) fn out_width(&self) -> Option<usize> {
        self.screen.width(Stream::Out)
    }

    /// Width for talk.
    pub(crate) fn err_width(&self) -> Option<usize> {
        self.screen.width(Stream::Err)
    }

    /// Writes an answer.
    pub(crate) fn answer(&self, answer: &Answer) {
        match self.form {
            Form::Json => self.envelope(
                answer.verdict == Verdict::Positive,
                &answer.data,
                &answer.notices,
                None,
            ),
            Form::Human => {
                if !answer.text.is_empty() {
                    self.screen.write(Stream::Out, &answer.text);
                }
                for notice in &answer.notices {
                    self.hint(&notice.text);
                }
            }
        }
    }

    /// Writes a failure.
    pub(crate) fn failure(&self, failure: &Failure) {
        if let Failure::Signalled(_, text) = failure {
            // The exit code says it to a program; whoever ended `--watch` knows.
            if !text.is_empty() {
                self.say(text);
            }
            return;
        }
        match self.form {
            Form::Json => self.envelope(false, &Value::Null, &[], failure.problem()),
            Form::Human => {
                self.screen
                    .write(Stream::Err, &failure.text(self.err, self.err_width()));
            }
        }
    }

    /// Writes an answer in place of the one before it (`--watch`).
    pub(crate) fn watch(&self, answer: &Answer) {
        if self.form == Form::Human && self.screen.is_terminal(Stream::Out) {
            let lines = answer.text.lines().map(str::to_owned).collect();
            self.screen.show(Stream::Out, lines);
        } else {
            self.answer(answer);
        }
    }

    /// Writes a failure in place of the answer before it (`--watch`).
    pub(crate) fn watch_failure(&self, failure: &Failure) {
        if self.form == Form::Human && self.screen.is_terminal(Stream::Out) {
            let text = failure.text(self.out, self.out_width());
            self.screen
                .show(Stream::Out, text.lines().map(str::to_owned).collect());
        } else {
            self.failure(failure);
        }
    }

    /// A sentence on stderr; silent with `--quiet` and `--json`.
    pub(crate) fn say(&self, text: &str) {
        if self.form == Form::Human && self.detail > Detail::Quiet {
            self.screen.write(Stream::Err, text);
        }
    }

    /// `hint: …` on stderr.
    pub(crate) fn hint(&self, text: &str) {
        self.say(&format!("{} {text}", self.err.paint(Tone::Faint, "hint:")));
    }

    /// Asks a question that has a good answer already; that one is taken where nobody can be asked.
    pub(crate) async fn ask(&self, question: &str, default: &str) -> String {
        if self.consent != Consent::Ask {
            return default.to_owned();
        }
        self.screen
            .prompt(Stream::Err, &format!("{question} [{default}]: "));
        match typed_line().await {
            Some(typed) if !typed.trim().is_empty() => typed.trim().to_owned(),
            _ => default.to_owned(),
        }
    }

    /// Shows what would happen and asks for a word to be typed; `expected` lets us go on. Consent by
    /// `--yes` passes; where nobody can be asked it is refused, the effect in the refusal.
    pub(crate) async fn confirm(
        &self,
        effect: &str,
        ask: &str,
        expected: &str,
    ) -> Result<(), Error> {
        match self.consent {
            Consent::Given => Ok(()),
            Consent::Unavailable => Err(Error::definite(
                codes::CLI_CONSENT,
                format!("this needs consent, and there is no terminal to ask at\n{effect}"),
            )),
            Consent::Ask => {
                self.screen
                    .prompt(Stream::Err, &format!("{effect}\n{ask} "));
                match typed_line().await {
                    Some(typed) if typed.trim() == expected => Ok(()),
                    _ => Err(Error::definite(
                        codes::CLI_CONSENT,
                        format!("not confirmed: `{expected}` was not typed"),
                    )),
                }
            }
        }
    }

    fn envelope(&self, ok: bool, data: &Value, notices: &[Notice], error: Option<Problem>) {
        let envelope = Envelope {
            schema: ENVELOPE_SCHEMA,
            command: self.command,
            ok,
            data,
            notices,
            error,
        };
        let line = serde_json::to_string(&envelope).expect("plain data with text keys");
        self.screen.write(Stream::Out, &line);
    }
}

/// What a person types, who takes their time: signals are heard meanwhile. A read of standard input cannot
/// be called off, so the thread that waits for it ends with the process.
async fn typed_line() -> Option<String> {
    let (line, typed) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut read = String::new();
        let is_read = std::io::stdin().read_line(&mut read).is_ok();
        // Whoever asked may have been told to end.
        line.send(is_read.then_some(read)).ok();
    });
    typed.await.ok().flatten()
}
