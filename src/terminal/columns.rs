//! A table of text: rows of texts in, aligned lines out, each column as wide as its widest cell. Pure.

/// Aligns the rows in columns: texts to the left, numbers to the right. The first row is the head.
pub fn columns(rows: &[Vec<String>], is_number: impl Fn(usize) -> bool) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if is_number(column) { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text += "\n";
    }
    text
}

/// A head row with these names.
pub fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [head(&["what", "how many", "why"]), head(&["ä", "7", ""]), head(&["a long one", "1,234", "no"])];
        let text = columns(&rows, |column| column == 1);
        assert_eq!(text, "what        how many  why\nä                  7\na long one     1,234  no\n");
    }
}
