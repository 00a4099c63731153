//! A report as one HTML page that needs nothing outside of itself: no script, no font, no picture.

use super::{
    content::{Block, Cell, Report, Table, Tone},
    timeline::escape,
};

const STYLE: &str = "\
:root{color-scheme:light dark;--text:#1f2328;--soft:#59636e;--rule:#d8dee4;--page:#fff;--band:#f6f8fa;--good:#1a7f37;\
--bad:#cf222e}\
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--soft:#9198a1;--rule:#30363d;--page:#0d1117;--band:#151b23;\
--good:#3fb950;--bad:#ff7b72}}\
body{font:14px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif;color:var(--text);background:var(--page);\
max-width:1120px;margin:2.5em auto;padding:0 1.5em}\
h1{font-size:24px;margin:0 0 1em}h2{font-size:17px;margin:2.4em 0 .6em;padding-bottom:.3em;\
border-bottom:1px solid var(--rule)}p{max-width:52em;margin:.7em 0}\
.wide{overflow-x:auto;margin:1em 0}table{border-collapse:collapse;font-size:13px}\
th{font-weight:600;color:var(--soft);text-align:left;vertical-align:bottom}\
th,td{padding:.32em .8em .32em 0;border-bottom:1px solid var(--rule);vertical-align:top}\
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td:first-child{white-space:nowrap}\
.good{color:var(--good)}.bad{color:var(--bad);font-weight:600}.muted{color:var(--soft)}\
pre{background:var(--band);padding:1em;overflow-x:auto;font-size:13px}svg{max-width:100%;height:auto}\
a{color:inherit}";

/// The whole page.
pub fn render(report: &Report, plot: Option<&str>) -> String {
    let title = escape(&report.title);
    let blocks = report.blocks.iter().map(|shown| block(shown, plot));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style></head>\n\
         <body>\n<h1>{title}</h1>\n{}</body></html>\n",
        blocks.collect::<String>()
    )
}

fn block(block: &Block, plot: Option<&str>) -> String {
    match block {
        Block::Heading(heading) => format!("<h2>{}</h2>\n", escape(heading)),
        Block::Text(text) => format!("<p>{}</p>\n", escape(text)),
        Block::Table(rows) => table(rows),
        Block::Plot => plot.unwrap_or_default().to_owned(),
        Block::Commands(lines) => format!("<pre>{}</pre>\n", escape(&lines.join("\n"))),
    }
}

fn table(table: &Table) -> String {
    let is_number: Vec<bool> = table.head.iter().map(|name| name.starts_with('#')).collect();
    let names = table.head.iter().zip(&is_number).map(|(name, is_number)| {
        let class = if *is_number { " class=\"n\"" } else { "" };
        format!("<th{class}>{}</th>", escape(name.trim_start_matches('#')))
    });
    let rows = table.rows.iter().map(|cells| {
        let cells = cells
            .iter()
            .zip(&is_number)
            .map(|(value, is_number)| cell(value, *is_number));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    });
    format!(
        "<div class=\"wide\"><table><tr>{}</tr>\n{}</table></div>\n",
        names.collect::<String>(),
        rows.collect::<String>()
    )
}

fn cell(cell: &Cell, is_number: bool) -> String {
    let tone = match cell.tone {
        Tone::Plain => None,
        Tone::Good => Some("good"),
        Tone::Bad => Some("bad"),
        Tone::Muted => Some("muted"),
    };
    let classes: Vec<&str> = is_number.then_some("n").into_iter().chain(tone).collect();
    let class = if classes.is_empty() {
        String::new()
    } else {
        format!(" class=\"{}\"", classes.join(" "))
    };
    let text = escape(&cell.text);
    match &cell.link {
        Some(link) => format!("<td{class}><a href=\"{}\">{text}</a></td>", escape(link)),
        None => format!("<td{class}>{text}</td>"),
    }
}
