//! What was measured, for people, for documents and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

/// A line of the table. `Row::default()` is to be filled in.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    pub what: String,
    /// As it stands in the table; the numbers behind it are in `figures`.
    pub turn_worker: String,
    pub one_hop: String,
    /// The limit for any program that does this, or what else is to be set beside it.
    pub beside: String,
    pub target: Option<Target>,
    /// By name with unit, for programs.
    pub figures: BTreeMap<String, f64>,
}

impl Row {
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ..Self::default()
        }
    }

    pub fn figure(mut self, name: &str, value: f64) -> Self {
        self.figures.insert(name.to_owned(), value);
        self
    }
}

/// What the worker is to reach.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// In words.
    pub wanted: &'static str,
    pub found: f64,
    pub limit: Limit,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub fn is_reached(&self) -> bool {
        match self.limit {
            Limit::AtLeast(limit) => self.found >= limit,
            Limit::AtMost(limit) => self.found <= limit,
        }
    }

    /// Yes or no, and by how much.
    pub fn verdict(&self) -> String {
        let found = short(self.found);
        let (Limit::AtLeast(limit) | Limit::AtMost(limit)) = self.limit;
        let off = (self.found / limit - 1.0).abs() * 100.0;
        match self.limit {
            _ if self.is_reached() => format!("yes: {found}"),
            Limit::AtLeast(_) => format!("no: {found}, {off:.0} % short"),
            Limit::AtMost(_) => format!("no: {found}, {off:.0} % over"),
        }
    }
}

/// Three digits that matter, or all before the point.
pub fn short(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

const HEAD: [&str; 6] = [
    "",
    "turn-worker",
    "one-hop worker",
    "beside",
    "target",
    "reached",
];

/// The cells of a row, as plain text.
fn cells(row: &Row) -> [String; 6] {
    let target = row.target.as_ref();
    [
        row.what.clone(),
        row.turn_worker.clone(),
        row.one_hop.clone(),
        row.beside.clone(),
        target.map_or_else(String::new, |target| target.wanted.to_owned()),
        target.map_or_else(String::new, Target::verdict),
    ]
}

pub fn markdown(rows: &[Row]) -> String {
    let mut text = format!("| {} |\n|{}\n", HEAD.join(" | "), "---|".repeat(HEAD.len()));
    for row in rows {
        // Writing to a String can't fail.
        let _ = writeln!(text, "| {} |", cells(row).join(" | "));
    }
    text
}

/// In columns; `colours` for a terminal.
pub fn text(rows: &[Row], colours: bool) -> String {
    let lines: Vec<[String; 6]> = [HEAD.map(str::to_owned)]
        .into_iter()
        .chain(rows.iter().map(cells))
        .collect();
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let colour = match number.checked_sub(1).map(|row| &rows[row].target) {
            None => "\u{1b}[1m",
            Some(Some(target)) if target.is_reached() => "\u{1b}[32m",
            Some(Some(_)) => "\u{1b}[31m",
            Some(None) => "",
        };
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let padded = format!("{cell:width$}  ");
            let coloured =
                colours && !colour.is_empty() && (number == 0 || column == HEAD.len() - 1);
            let _ = match coloured {
                true => write!(text, "{colour}{padded}\u{1b}[0m"),
                false => write!(text, "{padded}"),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(found: f64, limit: Limit) -> Target {
        Target {
            wanted: "w",
            found,
            limit,
        }
    }

    #[test]
    fn a_target_says_yes_or_no_and_by_how_much() {
        let verdict = |found, limit| target(found, limit).verdict();
        assert_eq!(verdict(0.3, Limit::AtLeast(0.3)), "yes: 0.30");
        assert_eq!(verdict(0.15, Limit::AtLeast(0.3)), "no: 0.15, 50 % short");
        assert_eq!(verdict(40.0, Limit::AtMost(40.0)), "yes: 40.0");
        assert_eq!(verdict(50.0, Limit::AtMost(40.0)), "no: 50.0, 25 % over");
    }

    #[test]
    fn the_table_has_a_line_for_each_row_and_as_many_cells_in_each() {
        let mut row = Row::new("turns");
        row.target = Some(target(1.0, Limit::AtLeast(2.0)));
        let rows = [row, Row::new("more")];
        let table = markdown(&rows);
        assert_eq!(table.lines().count(), 4);
        assert!(
            table.lines().all(|line| line.matches('|').count() == 7),
            "{table}"
        );
        assert_eq!(text(&rows, false).lines().count(), 3);
        assert!(text(&rows, true).contains("\u{1b}[31mno: 1.00, 50 % short"));
    }
}
