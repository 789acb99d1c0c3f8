//! Rows and columns on a terminal, in the width that there is.

use unicode_width::UnicodeWidthStr;

use super::clean::{fit, one_line};
use super::style::Style;

/// Between two columns.
const GAP: usize = 2;
/// A name that is cut is cut no shorter.
const SHORTEST: usize = 8;

/// How a cell looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Plain,
    Dim,
    Good,
    Odd,
    Bad,
}

/// What stands in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// Cut where the terminal is narrow.
    Name(&'static str),
    Text(&'static str),
    /// To the right.
    Number(&'static str),
}

#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    cells: Vec<(String, Look)>,
    note: Option<String>,
}

impl Look {
    fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Dim => style.dim(text),
            Self::Good => style.green(text),
            Self::Odd => style.yellow(text),
            Self::Bad => style.red(text),
        }
    }
}

impl Column {
    const fn title(self) -> &'static str {
        match self {
            Self::Name(title) | Self::Text(title) | Self::Number(title) => title,
        }
    }
}

impl Table {
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// The content of any cell becomes one clean line.
    pub(crate) fn row<const N: usize>(&mut self, cells: [(String, Look); N]) {
        let clean = |(text, look): (String, Look)| (one_line(&text, usize::MAX), look);
        self.rows.push(Row {
            cells: cells.into_iter().map(clean).collect(),
            note: None,
        });
    }

    /// Lines of their own below the last row, as many as it takes.
    pub(crate) fn note(&mut self, text: &str) {
        if let Some(row) = self.rows.last_mut() {
            row.note = Some(text.to_owned());
        }
    }

    /// Lines with a line break each, at most `width` columns; the
    /// titles first.
    pub(crate) fn render(&self, style: Style, width: usize) -> String {
        let widths = self.widths(width);
        let titles: Vec<_> = self
            .columns
            .iter()
            .map(|column| (column.title().to_owned(), Look::Dim))
            .collect();
        let mut out = self.line(&titles, &widths, style, width);
        for row in &self.rows {
            out.push_str(&self.line(&row.cells, &widths, style, width));
            if let Some(note) = &row.note {
                for line in wrapped(&one_line(note, usize::MAX), width.saturating_sub(2)) {
                    out.push_str(&format!("  {}\n", style.dim(&line)));
                }
            }
        }
        out
    }

    fn widths(&self, width: usize) -> Vec<usize> {
        let cells = |at: usize| self.rows.iter().filter_map(move |row| row.cells.get(at));
        let mut widths: Vec<usize> = (self.columns.iter().enumerate())
            .map(|(at, column)| {
                let widest = cells(at).map(|(text, _)| text.width()).max();
                widest.unwrap_or_default().max(column.title().width())
            })
            .collect();
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > width {
            let names = self.columns.iter().zip(&mut widths);
            let widest = names
                .filter(|(column, width)| matches!(column, Column::Name(_)) && **width > SHORTEST)
                .map(|(_, width)| width)
                .max();
            let Some(widest) = widest else { break };
            *widest -= 1;
        }
        widths
    }

    fn line(
        &self,
        cells: &[(String, Look)],
        widths: &[usize],
        style: Style,
        width: usize,
    ) -> String {
        let mut out = String::new();
        // Only set where something follows.
        let mut pad = 0;
        let mut left = width;
        for ((column, (text, look)), wide) in self.columns.iter().zip(cells).zip(widths) {
            let text = fit(text, (*wide).min(left.saturating_sub(pad)), false);
            let rest = wide.saturating_sub(text.width());
            let (before, after) = match column {
                Column::Number(_) => (rest, 0),
                Column::Name(_) | Column::Text(_) => (0, rest),
            };
            if left <= pad + before {
                break;
            }
            left = left.saturating_sub(pad + before + text.width());
            out.push_str(&" ".repeat(pad + before));
            out.push_str(&look.paint(style, &text));
            pad = after + GAP;
        }
        let mut out = out.trim_end().to_owned();
        out.push('\n');
        out
    }
}

/// In lines of at most `width` columns, broken between words; a word that is
/// longer is cut.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let word = fit(word, width, false);
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(&word);
        } else if line.width() + 1 + word.width() <= width {
            line.push(' ');
            line.push_str(&word);
        } else {
            lines.push(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[
            Column::Number("#"),
            Column::Name("TURN"),
            Column::Name("WORKSPACE"),
            Column::Text("CODE"),
        ]);
        let plain = |text: &str| (text.to_owned(), Look::Plain);
        table.row([
            plain("7"),
            plain("t-01"),
            plain("acme/a-long-name-of-a-workspace"),
            plain("request.invalid"),
        ]);
        table.note("workspace: found \u{1b}[31m..");
        table.row([
            plain("12"),
            plain("漢字\u{1b}]0;owned\u{7}"),
            plain("b"),
            (String::new(), Look::Dim),
        ]);
        table
    }

    #[test]
    fn a_note_is_wrapped_and_not_cut() {
        let text = "disk: cannot write to /srv/workspaces: No space left on device";
        let lines = wrapped(text, 30);
        assert_eq!(
            lines,
            [
                "disk: cannot write to",
                "/srv/workspaces: No space left",
                "on device"
            ]
        );
        assert_eq!(wrapped(&"x".repeat(100), 30)[0].width(), 30);
        assert_eq!(wrapped("", 30), [""]);
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        assert_eq!(
            table().render(Style::default(), 80),
            " #  TURN  WORKSPACE                        CODE
 7  t-01  acme/a-long-name-of-a-workspace  request.invalid
  workspace: found ..
12  漢字  b
"
        );
    }

    #[test]
    fn names_are_cut_where_the_terminal_is_narrow() {
        assert_eq!(
            table().render(Style::default(), 42),
            " #  TURN  WORKSPACE        CODE
 7  t-01  acme/a-long-na…  request.invalid
  workspace: found ..
12  漢字  b
"
        );
        for width in 20..60 {
            for line in table().render(Style::default(), width).lines() {
                assert!(line.width() <= width, "{width}: {line:?}");
            }
        }
    }

    #[test]
    fn colours_take_no_room() {
        let mut table = Table::new(&[Column::Text("A"), Column::Text("B")]);
        table.row([("up".to_owned(), Look::Odd), ("x".to_owned(), Look::Plain)]);
        let told = table.render(Style::COLOURED, 40);
        assert!(told.ends_with("\u{1b}[33mup\u{1b}[0m  x\n"), "{told:?}");
    }
}
