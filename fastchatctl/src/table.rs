//! Aligned columns.
//!
//! **Invariant**: a line is no wider than the terminal; what is cut off ends in `…`.

use anstyle::Style;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Spaces between columns.
const GAP: usize = 2;

/// Lines of cells, aligned when shown. Cells hold text that is safe already.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lines: Vec<Vec<(String, Style)>>,
}

impl Table {
    /// Adds a line.
    pub(crate) fn line<const N: usize>(&mut self, cells: [(String, Style); N]) {
        self.lines.push(cells.into());
    }

    /// The lines, each with a newline, at most `width` columns wide.
    pub(crate) fn show(&self, width: usize) -> String {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |column: usize| {
            let cells = self.lines.iter().filter_map(|line| line.get(column));
            cells.map(|(text, _)| text.width()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(widest).collect();
        let mut shown = String::new();
        for line in &self.lines {
            show_line(line, &widths, width, &mut shown);
        }
        shown
    }
}

fn show_line(line: &[(String, Style)], widths: &[usize], width: usize, shown: &mut String) {
    let mut left = width;
    let last = line.iter().rposition(|(text, _)| !text.is_empty());
    for (column, ((text, style), width)) in line.iter().zip(widths).enumerate() {
        if *width == 0 || Some(column) > last {
            continue;
        }
        let text = fit(text, left);
        let spaces = if Some(column) == last { 0 } else { width.saturating_sub(text.width()) + GAP };
        shown.push_str(&format!("{style}{text}{style:#}"));
        shown.extend(std::iter::repeat_n(' ', spaces.min(left.saturating_sub(text.width()))));
        left = left.saturating_sub(text.width() + spaces);
        if left == 0 {
            break;
        }
    }
    shown.push('\n');
}

/// The text, cut to `width` columns.
pub(crate) fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > width {
            break;
        }
        cut.push(c);
    }
    if width > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> (String, Style) {
        (text.to_owned(), Style::new())
    }

    #[test]
    fn columns_align_by_what_is_seen() {
        let mut table = Table::default();
        table.line([plain("日本"), plain(""), plain("x")]);
        table.line([plain("bob"), plain(""), plain("y")]);
        assert_eq!(table.show(80), "日本  x\nbob   y\n");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut table = Table::default();
        table.line([plain("bob"), plain("a long text that does not fit")]);
        assert_eq!(table.show(12), "bob  a long…\n");
        assert_eq!(fit("日本語", 4), "日…");
    }
}
