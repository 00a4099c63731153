//! Tables drawn as etcdctl draws them: a box of plus signs, centred capitals, cells on the right.

/// The table as lines, with a last line break.
pub fn draw(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headers.iter().map(|header| header.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let rule: Vec<_> = widths
        .iter()
        .map(|width| format!("+{}", "-".repeat(width + 2)))
        .collect();
    let titles: Vec<_> = headers
        .iter()
        .zip(&widths)
        .map(|(header, width)| format!("| {:^width$} ", header.to_uppercase()))
        .collect();
    let (rule, titles) = (rule.concat(), titles.concat());
    let mut out = format!("{rule}+\n{titles}|\n{rule}+\n");
    for row in rows {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("| {cell:>width$} "))
            .collect();
        out.push_str(&cells.concat());
        out.push_str("|\n");
    }
    out.push_str(&rule);
    out.push_str("+\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_cell_decides() {
        let table = draw(
            &["id", "name"],
            &[vec!["1".into(), "m1".into()], vec!["23".into(), "member".into()]],
        );
        assert_eq!(
            table,
            "+----+--------+\n| ID |  NAME  |\n+----+--------+\n|  1 |     m1 |\n| 23 | member |\n+----+--------+\n"
        );
    }
}
