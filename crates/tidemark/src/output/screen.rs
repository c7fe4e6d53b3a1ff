//! The two streams of an invocation, and at most one live region at the bottom of a terminal.
//!
//! Everything that is written goes through here, because a line that appears while a region is shown
//! must go above it. Progress and `--watch` own the region; logs and hints write lines. A reader that
//! goes away (`| head`) ends the output, not the work: such writes are dropped. Results that a full disk
//! does not take are remembered, so that the invocation does not end as if they were there.
//!
//! Names and messages of databases are in the text, and may be orders to a terminal: see [`tame`].

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::style::Surface;
use super::table::display_width;

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Results.
    Out,
    /// Everything else.
    Err,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Screen {
    out_is_terminal: bool,
    err_is_terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    region: Option<Region>,
    /// Why results could not be written, the first time.
    unwritten: Option<std::io::Error>,
}

#[derive(Debug)]
struct Region {
    stream: Stream,
    lines: Vec<String>,
}

impl Screen {
    /// The streams of this process.
    pub(crate) fn new() -> Screen {
        Screen {
            out_is_terminal: std::io::stdout().is_terminal(),
            err_is_terminal: std::io::stderr().is_terminal(),
            state: Mutex::default(),
        }
    }

    /// Whether a stream is a terminal.
    pub(crate) fn is_terminal(&self, stream: Stream) -> bool {
        match stream {
            Stream::Out => self.out_is_terminal,
            Stream::Err => self.err_is_terminal,
        }
    }

    /// What a stream ends in.
    pub(crate) fn surface(&self, stream: Stream) -> Surface {
        if self.is_terminal(stream) {
            Surface::Terminal
        } else {
            Surface::Other
        }
    }

    /// Columns of the terminal; `None` where the stream is none, so that nothing is cut.
    pub(crate) fn width(&self, stream: Stream) -> Option<usize> {
        self.is_terminal(stream).then(|| size().0)
    }

    /// Columns and rows for a region.
    pub(crate) fn room(&self) -> (usize, usize) {
        if self.err_is_terminal {
            size()
        } else {
            SIZE_DEFAULT
        }
    }

    /// Writes lines, above the region if there is one.
    pub(crate) fn write(&self, stream: Stream, text: &str) {
        let mut state = self.lock();
        let region = state.region.take();
        if let Some(region) = &region {
            erase(region);
        }
        let written = emit(stream, &format!("{}\n", self.fit(stream, text)));
        if let (Stream::Out, Err(err)) = (stream, written) {
            state.unwritten.get_or_insert(err);
        }
        if let Some(region) = region {
            draw(&region);
            state.region = Some(region);
        }
    }

    /// Writes a question; what is typed follows it on the same line.
    pub(crate) fn prompt(&self, stream: Stream, text: &str) {
        let mut state = self.lock();
        if let Some(region) = state.region.take() {
            erase(&region);
        }
        dropped(emit(stream, &self.fit(stream, text)));
    }

    /// Why results were not written, where it was not that nobody wants them.
    pub(crate) fn unwritten(&self) -> Option<std::io::Error> {
        let mut state = self.lock();
        state.unwritten.take_if(|err| !is_unheard(err))
    }

    /// Whether the reader of results has gone away.
    pub(crate) fn is_unheard(&self) -> bool {
        self.lock().unwritten.as_ref().is_some_and(is_unheard)
    }

    /// Shows these lines in the region, in place of those that are there. Only for a terminal.
    pub(crate) fn show(&self, stream: Stream, lines: Vec<String>) {
        debug_assert!(self.is_terminal(stream), "a region needs a terminal");
        let mut state = self.lock();
        if let Some(old) = state.region.take() {
            erase(&old);
        }
        let (width, height) = size();
        let shown = lines.into_iter().take(height.saturating_sub(1).max(1));
        let lines = shown.map(|line| cut(&tame(&line), width)).collect();
        let region = Region { stream, lines };
        draw(&region);
        state.region = Some(region);
    }

    /// Takes the region away.
    pub(crate) fn clear(&self) {
        if let Some(region) = self.lock().region.take() {
            erase(&region);
        }
    }

    /// Leaves the region's last lines where they are.
    pub(crate) fn leave(&self) {
        self.lock().region = None;
    }

    /// What may be written to a stream: a terminal obeys, a file does not.
    fn fit<'a>(&self, stream: Stream, text: &'a str) -> Cow<'a, str> {
        if self.is_terminal(stream) {
            tame(text)
        } else {
            Cow::Borrowed(text)
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while drawing leaves at worst a crooked region.
        lock_behind_writers(&self.state)
    }
}

/// Of what a terminal obeys (ECMA-48, and marks that turn the direction of text) only colours and the
/// ends of lines are left; the rest is shown.
fn tame(text: &str) -> Cow<'_, str> {
    let turns = |c: char| matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let is_order = |c: char| (c.is_control() && c != '\n' && c != '\t') || turns(c);
    if !text.contains(is_order) {
        return Cow::Borrowed(text);
    }
    let mut tamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = colour_len(rest);
        let (piece, after) = rest.split_at(colour.unwrap_or(c.len_utf8()));
        if colour.is_none() && is_order(c) {
            tamed.extend(c.escape_default());
        } else {
            tamed.push_str(piece);
        }
        rest = after;
    }
    Cow::Owned(tamed)
}

/// Bytes of the code for a colour that a text begins with (ECMA-48: SGR).
fn colour_len(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let ends_in_m = parameters.get(end..)?.starts_with('m');
    ends_in_m.then_some(2 + end + 1)
}

/// What is taken where the terminal does not say.
const SIZE_DEFAULT: (usize, usize) = (80, 24);

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    match terminal_size::terminal_size() {
        Some((terminal_size::Width(width), terminal_size::Height(height))) if width > 0 => {
            (usize::from(width), usize::from(height))
        }
        _ => SIZE_DEFAULT,
    }
}

fn draw(region: &Region) {
    let mut text = region.lines.join("\n");
    text.push('\n');
    if !region.lines.is_empty() {
        dropped(emit(region.stream, &text));
    }
}

/// Goes up to the region's first line and erases to the end of the screen (ECMA-48: CUU, ED). The
/// cursor may stand anywhere in its line: the terminal itself writes `^C` there.
fn erase(region: &Region) {
    if !region.lines.is_empty() {
        let up = format!("\r\u{1b}[{}A\u{1b}[0J", region.lines.len());
        dropped(emit(region.stream, &up));
    }
}

fn emit(stream: Stream, text: &str) -> std::io::Result<()> {
    keeping_nobody(|| write_all(stream, text))
}

/// Locks what is held while something is written. A panic of whoever held it is passed over.
pub(crate) fn lock_behind_writers<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    let locked = match mutex.try_lock() {
        Err(TryLockError::WouldBlock) => keeping_nobody(|| mutex.lock()),
        Err(TryLockError::Poisoned(held)) => Err(held),
        Ok(held) => Ok(held),
    };
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// Does what may have to wait for a reader who has stopped reading. Whoever has something to say waits for
/// him, and nobody else: signals are heard, and other tasks go on.
fn keeping_nobody<T>(work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if matches!(flavor, Ok(RuntimeFlavor::MultiThread)) {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

fn write_all(stream: Stream, text: &str) -> std::io::Result<()> {
    match stream {
        Stream::Out => {
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        }
        Stream::Err => {
            let mut err = std::io::stderr().lock();
            err.write_all(text.as_bytes()).and_then(|()| err.flush())
        }
    }
}

/// What only a person sees, who sees as well that it is not there.
fn dropped(written: std::io::Result<()>) {
    drop(written);
}

/// A closed pipe is the reader's choice.
fn is_unheard(err: &std::io::Error) -> bool {
    err.kind() == std::io::ErrorKind::BrokenPipe
}

/// A line cut to a width; colour codes take no room and stay balanced.
fn cut(line: &str, width: usize) -> String {
    let mut out = String::with_capacity(line.len());
    let mut used = 0;
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if c == '\u{1b}' {
            let end = rest.find('m').map_or(rest.len(), |at| at + 1);
            let (code, after) = rest.split_at(end);
            out.push_str(code);
            rest = after;
            continue;
        }
        let (char_text, after) = rest.split_at(c.len_utf8());
        used += display_width(char_text);
        if used <= width {
            out.push(c);
        }
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{cut, tame};

    #[test]
    fn s25_names_give_no_orders_to_a_terminal() {
        for (name, shown) in [
            (
                "public.\u{1b}]0;title\u{7}x",
                "public.\\u{1b}]0;title\\u{7}x",
            ),
            ("\u{1b}[2J\u{1b}[1A", "\\u{1b}[2J\\u{1b}[1A"),
            ("gone\rok", "gone\\rok"),
            ("\u{9b}2J\u{202e}evil", "\\u{9b}2J\\u{202e}evil"),
            ("\u{1b}[31", "\\u{1b}[31"),
            (
                "\u{1b}[31mred\u{1b}[0m\tä\nnext",
                "\u{1b}[31mred\u{1b}[0m\tä\nnext",
            ),
            ("plain 表", "plain 表"),
        ] {
            assert_eq!(tame(name), shown);
        }
    }

    #[test]
    fn lines_are_cut_by_what_is_seen() {
        assert_eq!(cut("abcdef", 3), "abc");
        assert_eq!(
            cut("\u{1b}[32mabc\u{1b}[0mdef", 4),
            "\u{1b}[32mabc\u{1b}[0md"
        );
        assert_eq!(cut("\u{1b}[32mabcdef\u{1b}[0m", 2), "\u{1b}[32mab\u{1b}[0m");
        assert_eq!(cut("表表表", 4), "表表");
    }
}
