//! Tables: aligned columns, no box drawing, as wide as the terminal at most.
//!
//! When a row does not fit, names give way: columns that may shrink are shortened in the middle
//! (`public.very…_log`), so that both ends of a name stay. States and numbers never shrink; a last
//! column of free text is cut at the end.

use super::style::{Style, Tone};

/// How a column behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// As wide as its widest cell, to the left.
    Left,
    /// The same, to the right: numbers.
    Right,
    /// A name, shortened in the middle when there is no room.
    Name,
    /// Free text in the last column, cut at its end when there is no room.
    Text,
}

/// Rows of cells under a head.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(Column, &'static str)>,
    rows: Vec<Vec<Cell>>,
    indent: usize,
}

/// One cell: its text and, where it has one, its tone.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// A cell with a tone.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Cell {
        Cell {
            text: text.into(),
            tone: Some(tone),
        }
    }
}

impl Cell {
    /// A name may hold ends of lines: what follows would pass for a row of its own. What begins a colour
    /// stays.
    fn on_one_line(mut self) -> Cell {
        let breaks = |c: char| c.is_control() && c != '\u{1b}';
        if self.text.contains(breaks) {
            let mut text = String::with_capacity(self.text.len() + 2);
            for c in self.text.chars() {
                if breaks(c) {
                    text.extend(c.escape_default());
                } else {
                    text.push(c);
                }
            }
            self.text = text;
        }
        self
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell {
            text: text.into(),
            tone: None,
        }
    }
}

/// Spaces between columns.
const GAP: usize = 2;
/// A name is not made shorter than this.
const NAME_MIN: usize = 8;

impl Table {
    /// A table with these columns; heads may be empty.
    pub(crate) fn new(columns: impl IntoIterator<Item = (Column, &'static str)>) -> Table {
        Table {
            columns: columns.into_iter().collect(),
            rows: Vec::new(),
            indent: 0,
        }
    }

    /// Spaces before every row.
    pub(crate) fn indented(mut self, indent: usize) -> Table {
        self.indent = indent;
        self
    }

    /// Adds a row, which has a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let cells: Vec<Cell> = cells.into_iter().map(Cell::on_one_line).collect();
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        self.rows.push(cells);
    }

    /// As lines. `width`: characters there are, `None` for no limit.
    pub(crate) fn lines(&self, style: Style, width: Option<usize>) -> Vec<String> {
        let widths = self.widths(width);
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        if self.columns.iter().any(|(_, head)| !head.is_empty()) {
            let head: Vec<Cell> = self
                .columns
                .iter()
                .map(|(_, head)| Cell::toned(*head, Tone::Faint))
                .collect();
            lines.push(self.line(&head, &widths, style));
        }
        lines.extend(self.rows.iter().map(|row| self.line(row, &widths, style)));
        lines
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (_, head))| {
                let cells = self.rows.iter().map(|row| display_width(&row[index].text));
                cells.max().unwrap_or(0).max(display_width(head))
            })
            .collect();
        let Some(limit) = limit else { return widths };
        let fixed = self.indent + GAP * widths.len().saturating_sub(1);
        let total = |widths: &[usize]| fixed + widths.iter().sum::<usize>();
        // Free text gives way first, then the widest name, step by step.
        for (index, (column, head)) in self.columns.iter().enumerate() {
            if *column == Column::Text && total(&widths) > limit {
                let over = total(&widths) - limit;
                let least = display_width(head).max(24).min(widths[index]);
                widths[index] = widths[index].saturating_sub(over).max(least);
            }
        }
        while total(&widths) > limit {
            let widest = (0..widths.len())
                .filter(|index| self.columns[*index].0 == Column::Name && widths[*index] > NAME_MIN)
                .max_by_key(|index| widths[*index]);
            let Some(widest) = widest else { break };
            widths[widest] -= 1;
        }
        widths
    }

    fn line(&self, row: &[Cell], widths: &[usize], style: Style) -> String {
        let mut line = " ".repeat(self.indent);
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            let column = self.columns[index].0;
            let text = match column {
                Column::Name => shorten_middle(&cell.text, *width),
                Column::Text => shorten_end(&cell.text, *width),
                Column::Left | Column::Right => cell.text.clone(),
            };
            let padding = " ".repeat(width.saturating_sub(display_width(&text)));
            let text = match cell.tone {
                Some(tone) if !text.is_empty() => style.paint(tone, &text),
                _ => text,
            };
            if column == Column::Right {
                line.push_str(&padding);
                line.push_str(&text);
            } else {
                line.push_str(&text);
                line.push_str(&padding);
            }
            if index + 1 < row.len() {
                line.push_str(&" ".repeat(GAP));
            }
        }
        line.trim_end().to_owned()
    }
}

/// Columns of a terminal that a text takes: wide East Asian characters and most pictures take two,
/// combining marks none (Unicode Standard Annex 11; the blocks that names are likely to use).
pub(crate) fn display_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036F | 0x200B..=0x200F | 0xFE00..=0xFE0F => 0,
        0x1100..=0x115F
        | 0x2E80..=0x303E
        | 0x3041..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1_F300..=0x1_FAFF
        | 0x2_0000..=0x3_FFFD => 2,
        _ => 1,
    }
}

/// `public.very…_log`.
pub(crate) fn shorten_middle(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let head = take_width(text.chars(), room.div_ceil(2));
    let tail = take_width(text.chars().rev(), room - room.div_ceil(2));
    head.chars()
        .chain(['…'])
        .chain(tail.chars().rev())
        .collect()
}

/// `a long sentence that does no…`.
fn shorten_end(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_owned();
    }
    let mut cut = take_width(text.chars(), width.saturating_sub(1));
    cut.push('…');
    cut
}

fn take_width(chars: impl Iterator<Item = char>, width: usize) -> String {
    let mut taken = 0;
    chars
        .take_while(|c| {
            taken += char_width(*c);
            taken <= width
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([
            (Column::Name, "TABLE"),
            (Column::Right, "ROWS"),
            (Column::Left, "STATE"),
            (Column::Text, "NOTES"),
        ]);
        table.row([
            "public.a_table_with_a_very_long_name".into(),
            "200 000".into(),
            Cell::toned("quarantined", Tone::Bad),
            "a note that says much more than there is room for on a narrow terminal".into(),
        ]);
        table.row(["public.b".into(), "1".into(), "done".into(), "".into()]);
        table
    }

    #[test]
    fn without_a_limit_columns_are_as_wide_as_their_cells() {
        let lines = table().lines(Style::PLAIN, None);
        assert_eq!(
            lines[0],
            "TABLE                                    ROWS  STATE        NOTES"
        );
        assert_eq!(
            lines[2],
            "public.b                                    1  done"
        );
    }

    #[test]
    fn narrow_terminals_shorten_names_in_the_middle_and_never_the_state() {
        for width in [60, 72, 80] {
            let lines = table().lines(Style::PLAIN, Some(width));
            assert!(
                lines.iter().all(|line| display_width(line) <= width),
                "{lines:#?}"
            );
            assert!(
                lines[1].contains("quarantined") && lines[1].contains("200 000"),
                "{lines:#?}"
            );
        }
        let narrow = &table().lines(Style::PLAIN, Some(60))[1];
        assert!(
            narrow.starts_with("public…_name") && narrow.contains('…'),
            "{narrow}"
        );
    }

    #[test]
    fn a_name_that_holds_ends_of_lines_stays_in_its_row() {
        let mut table = Table::new([(Column::Name, "TABLE"), (Column::Left, "STATE")]);
        table.row(["public.a\n\tb".into(), "done".into()]);
        let lines = table.lines(Style::PLAIN, None);
        assert_eq!(lines[1..], ["public.a\\n\\tb  done"]);
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(display_width("表 é🐘"), 6);
        assert_eq!(shorten_middle("表表表表表", 5), "表…表");
        assert_eq!(shorten_middle("abc", 3), "abc");
    }
}
