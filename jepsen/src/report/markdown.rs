//! A report as Markdown, with the plot in a file beside it.

use super::content::{Block, Cell, Report, Table, Tone};

/// The whole file; `plot` is the plot's name, if there is one.
pub fn render(report: &Report, plot: Option<&str>) -> String {
    let blocks = report.blocks.iter().map(|shown| format!("\n{}", block(shown, plot)));
    format!("# {}\n", report.title) + &blocks.collect::<String>()
}

fn block(block: &Block, plot: Option<&str>) -> String {
    match (block, plot) {
        (Block::Heading(heading), _) => format!("## {heading}\n"),
        (Block::Text(said), _) => format!("{}\n", escape(said)),
        (Block::Table(rows), _) => table(rows),
        (Block::Plot, Some(plot)) => format!("![Time without an acknowledged write at a failover]({plot})\n"),
        (Block::Plot, None) => String::new(),
        (Block::Commands(lines), _) => format!("```\n{}\n```\n", lines.join("\n")),
    }
}

fn table(table: &Table) -> String {
    let names = table.head.iter().map(|name| name.trim_start_matches('#').to_owned());
    let rule = |name: &String| if name.starts_with('#') { "--:" } else { "---" }.to_owned();
    let rows = table.rows.iter().map(|cells| row(cells.iter().map(cell)));
    row(names) + &row(table.head.iter().map(rule)) + &rows.collect::<String>()
}

fn row(cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.collect();
    format!("| {} |\n", cells.join(" | "))
}

fn cell(cell: &Cell) -> String {
    let text = escape(&cell.text);
    match (&cell.link, cell.tone) {
        (Some(link), _) => format!("[{text}]({link})"),
        (None, Tone::Bad) if !text.is_empty() => format!("**{text}**"),
        (None, _) => text,
    }
}

/// What Markdown would take for its own; texts of failures hold anything.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => escaped.push(' '),
            '|' | '*' | '_' | '`' | '<' | '[' | '\\' => escaped.extend(['\\', letter]),
            _ => escaped.push(letter),
        }
    }
    escaped
}
