//! What stands on a terminal in the end, at three widths: agreed texts under `golden/`, which
//! `UPDATE_DOCS=1` writes anew. Numbers, positions and times differ from run to run, and with them
//! where a line is broken: the words are compared. That each line fits is looked at in what was really
//! shown, at every moment of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::stage::Stage;

/// Widths that are looked at: narrow, usual, wide.
const WIDTHS: [u16; 3] = [60, 80, 140];

/// A terminal's rows, as far as our output moves about in them: to the line's start, up, and clearing
/// what follows.
#[derive(Default)]
struct Screen {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    widest: usize,
}

impl Screen {
    fn of(text: &str) -> Screen {
        let mut screen = Screen::default();
        let mut left = text.chars().peekable();
        while let Some(character) = left.next() {
            match character {
                '\r' => screen.column = 0,
                '\n' => screen.row += 1,
                '\u{1b}' => {
                    assert_eq!(left.next(), Some('['), "{text:?}");
                    let mut number = String::new();
                    let kind = loop {
                        match left.next() {
                            Some(c) if c.is_ascii_alphabetic() => break c,
                            Some(c) => number.push(c),
                            None => panic!("cut off: {text:?}"),
                        }
                    };
                    screen.control(kind, &number);
                }
                character => screen.put(character),
            }
        }
        screen
    }

    fn control(&mut self, kind: char, number: &str) {
        match kind {
            'A' => self.row -= number.parse::<usize>().unwrap_or(1),
            'J' => {
                self.rows.truncate(self.row + 1);
                let column = self.column;
                self.line().truncate(column);
            }
            'K' => {
                let column = self.column;
                self.line().truncate(column);
            }
            // Colours; and the cursor, which is hidden and shown.
            'm' | 'h' | 'l' => {}
            other => panic!("the screen knows no {other}"),
        }
    }

    fn line(&mut self) -> &mut Vec<char> {
        if self.rows.len() <= self.row {
            self.rows.resize(self.row + 1, Vec::new());
        }
        &mut self.rows[self.row]
    }

    fn put(&mut self, character: char) {
        let column = self.column;
        let line = self.line();
        line.truncate(column);
        line.resize(column, ' ');
        line.push(character);
        self.column += 1;
        self.widest = self.widest.max(self.column);
    }

    /// The words that stand there, line by line.
    fn words(&self) -> String {
        let lines = self.rows.iter().map(|row| {
            let line: String = row.iter().collect();
            words(&line)
        });
        let mut text = lines.collect::<Vec<_>>().join("\n").trim_end().to_owned();
        text.push('\n');
        text
    }
}

/// A line without what differs from run to run: numbers, with their units.
fn words(line: &str) -> String {
    const UNITS: [&str; 12] = [
        "ms", "s", "m", "h", "B", "kB", "MB", "GB", "rows/s", "kB/s", "MB/s", "%",
    ];
    let indent = line.len() - line.trim_start().len();
    let mut kept: Vec<&str> = Vec::new();
    for word in line.split_whitespace() {
        let is_number = word.contains(|c: char| c.is_ascii_digit());
        let follows_number = kept.last() == Some(&"#");
        if follows_number && (is_number || UNITS.contains(&word.trim_end_matches(','))) {
            continue;
        }
        kept.push(if is_number { "#" } else { word });
    }
    format!("{}{}", " ".repeat(indent), kept.join(" "))
}

/// Runs the program on a terminal of so many columns, to its end.
fn on_terminal(directory: &Path, columns: u16, line: &str) -> (Screen, i32) {
    let program = env!("CARGO_BIN_EXE_tidemark");
    let script = format!("stty cols {columns} rows 40; exec {program} {line}");
    let output = Command::new("script")
        .args(["-qec", &script, "/dev/null"])
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TMPDIR", directory)
        .env("TERM", "xterm-256color")
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .expect("script is part of every Debian");
    let text = String::from_utf8(output.stdout).unwrap();
    (Screen::of(&text), output.status.code().unwrap())
}

#[track_caller]
fn assert_fits(name: &str, columns: u16, screen: &Screen) {
    assert!(
        screen.widest <= usize::from(columns),
        "{name}: {} columns of {columns}:\n{}",
        screen.widest,
        screen.words()
    );
}

/// Compares with the agreed text, or writes it.
#[track_caller]
fn assert_agreed(name: &str, columns: u16, screen: &Screen) {
    assert_fits(name, columns, screen);
    let words = screen.words();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/cli/golden/{name}-{columns}.txt"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &words).unwrap();
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    let flow = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        flow(&words) == flow(&wanted),
        "{} is not what is shown (UPDATE_DOCS=1 writes it):\n{words}\n--- instead of\n{wanted}",
        file.display()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_pipeline_fits_a_terminal() {
    for columns in WIDTHS {
        let name = format!("screen{columns}");
        let stage = Stage::new(&name, "full_load_and_cdc").await;
        let directory = stage.directory.path();
        let (screen, code) =
            on_terminal(directory, columns, &format!("run {name} --until verified"));
        assert_eq!(code, 0, "{}", screen.words());
        stage.wait_for_nobody().await;
        for verb in ["status", "tables", "lag", "verify"] {
            let (screen, _) = on_terminal(directory, columns, &format!("{verb} {name}"));
            assert_agreed(verb, columns, &screen);
        }
        stage.drop_slot().await;
    }
}

#[test]
fn the_demo_fits_a_terminal() {
    for columns in WIDTHS {
        let directory = tempfile::tempdir().unwrap();
        let line = "demo --once --rows 10000 --tps 20";
        let (screen, code) = on_terminal(directory.path(), columns, line);
        assert_eq!(code, 0, "{}", screen.words());
        assert_fits("demo", columns, &screen);
    }
}

#[test]
fn a_screen_shows_what_was_written_last() {
    let screen = Screen::of("one 1\r\n\u{1b}[2mtwo\u{1b}[0m\r\n\r\u{1b}[1A\u{1b}[0Jthree 3 ms\r\n");
    assert_eq!(screen.words(), "one #\nthree #\n");
    assert_eq!(screen.widest, 10);
}
