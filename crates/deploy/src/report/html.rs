//! One page, without anything from elsewhere: no script, no font, no link. Dark and light by the reader's setting.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Picture, Row};
use crate::file::Time;

/// Width of the chart, in its own units.
const WIDTH: f64 = 1000.0;
/// Room for names.
const NAMES: f64 = 260.0;
/// Letters that have room there.
const MOST_LETTERS: usize = 42;
/// Height of a row.
const ROW: f64 = 16.0;

const STYLE: &str = "
:root { --ink: #1c2733; --paper: #ffffff; --faint: #6b7785; --line: #e3e8ee; --good: #2f7d5b; --bad: #c0392b;
  --again: #d98e04; --chain: #1f4e79; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --paper: #12171d; --faint: #93a0ad; --line: #2a333d;
  --good: #4fb286; --bad: #ef6f61; --again: #e8b04b; --chain: #7fb5e6; } }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .2rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .2rem 0; overflow-wrap: anywhere; } .faint { color: var(--faint); }
table { border-collapse: collapse; display: block; max-width: 100%; overflow-x: auto; } td, th { text-align: left; padding: .15rem 1rem .15rem 0; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } svg { display: block; min-width: 50rem; width: 100%; height: auto; }
svg text { font: 10px system-ui, sans-serif; fill: var(--ink); } svg text.axis { fill: var(--faint); }
svg .grid { stroke: var(--line); } svg .good { fill: var(--good); } svg .bad { fill: var(--bad); }
svg .again { fill: var(--again); } svg .chain { stroke: var(--chain); stroke-width: 2; }
.bar { display: inline-block; height: .7rem; background: var(--good); vertical-align: middle; }
";

/// The page.
pub fn html(picture: &Picture) -> String {
    let mut page = String::with_capacity(4096 + picture.rows.len() * 400);
    let name = escape(&picture.name);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}: deployment report</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n<h1>{name}</h1>\n"
    );
    summary(&mut page, picture);
    where_time_went(&mut page, picture);
    chart(&mut page, picture);
    failures(&mut page, picture);
    calls(&mut page, picture);
    tools(&mut page, picture);
    page.push_str("</body></html>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn time(time: Duration) -> Time {
    Time(if time >= Duration::from_secs(10) { Duration::from_secs(time.as_secs()) } else { time })
}

fn is_done(row: &Row) -> bool {
    row.attempts.last().is_some_and(|(_, _, failed)| failed.is_none())
}

fn summary(page: &mut String, picture: &Picture) {
    let done = picture.rows.iter().filter(|row| is_done(row)).count();
    let skipped = picture.rows.iter().filter(|row| row.skipped.is_some()).count();
    let retries: usize = picture.rows.iter().map(|row| row.attempts.len().saturating_sub(1)).sum();
    let _ = write!(
        page,
        "<p>Mode {}: {done} of {} tasks done, {skipped} skipped, {retries} retries, in <b>{}</b>.</p>\n\
         <p class=\"faint\">With the times that the tasks took, no schedule is faster than {}: efficiency {:.0} %.</p>\n",
        picture.mode,
        picture.rows.len(),
        time(picture.length),
        time(picture.bound),
        picture.efficiency() * 100.0,
    );
    if !picture.critical.is_empty() {
        let path: Vec<String> = picture.critical.iter().map(|name| escape(name)).collect();
        let _ = writeln!(page, "<p>Longest chain: {}</p>", path.join(" → "));
    }
}

fn where_time_went(page: &mut String, picture: &Picture) {
    let sums = picture.where_time_went();
    let most = sums.first().map_or(1.0, |(_, time)| time.as_secs_f64().max(1e-9));
    page.push_str("<h2>Where the time of all tasks went</h2>\n<table>\n");
    for (label, sum) in sums {
        let width = sum.as_secs_f64() / most * 20.0;
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"number\">{}</td><td><span class=\"bar\" style=\"width:{width:.2}rem\"></span></td></tr>",
            escape(&label),
            time(sum)
        );
    }
    page.push_str("</table>\n");
}

fn chart(page: &mut String, picture: &Picture) {
    let height = 30.0 + picture.rows.len() as f64 * ROW + picture.phases.len() as f64 * ROW;
    let _ = write!(
        page,
        "<h2>What ran when</h2>\n<p class=\"faint\">Green: done. Yellow: an attempt that failed and was made again. \
         Red: failed. Framed: longest chain.</p>\n<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"Gantt chart\">\n"
    );
    let total = picture.length.as_secs_f64().max(1e-6);
    let x = |time: Duration| NAMES + time.as_secs_f64() / total * (WIDTH - NAMES - 10.0);
    for part in 0..=4 {
        let at = picture.length.mul_f64(f64::from(part) / 4.0);
        let _ = writeln!(
            page,
            "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"16\" y2=\"{height}\"/>\
             <text class=\"axis\" x=\"{0:.1}\" y=\"10\" text-anchor=\"{2}\">{1}</text>",
            x(at),
            time(at),
            if part == 4 { "end" } else { "middle" }
        );
    }
    let mut y = 24.0;
    for (phase, name) in picture.phases.iter().enumerate() {
        let rows: Vec<&Row> = picture.rows.iter().filter(|row| row.phase == phase).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(page, "<text x=\"0\" y=\"{y:.1}\" font-weight=\"bold\">{}</text>", escape(name));
        y += ROW;
        for row in rows {
            chart_row(page, row, y, &x);
            y += ROW;
        }
    }
    page.push_str("</svg></div>\n");
}

fn chart_row(page: &mut String, row: &Row, y: f64, x: &impl Fn(Duration) -> f64) {
    let entry = row.name.split_once('/').map_or(row.name.as_str(), |(_, entry)| entry);
    let note = row.skipped.as_ref().map(|why| format!(" (skipped: {})", escape(why))).unwrap_or_default();
    let (shown, length) = fitted(entry);
    let _ = write!(
        page,
        "<text class=\"name\" x=\"8\" y=\"{:.1}\"{length}>{}<title>{}{note}</title></text>",
        y,
        escape(&shown),
        escape(&row.name)
    );
    let count = row.attempts.len();
    for (number, (start, end, failed)) in row.attempts.iter().enumerate() {
        let class = match failed {
            None => "good",
            Some(_) if number + 1 < count => "again",
            Some(_) => "bad",
        };
        let chain = if row.critical && failed.is_none() { " chain" } else { "" };
        let width = (x(*end) - x(*start)).max(1.0);
        let why = failed.as_ref().map(|why| format!(": {}", escape(why))).unwrap_or_default();
        let _ = write!(
            page,
            "<rect class=\"{class}{chain}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"11\" rx=\"2\">\
             <title>{} attempt {}, {}{why}</title></rect>",
            x(*start),
            y - 9.0,
            escape(&row.name),
            number + 1,
            time(end.saturating_sub(*start))
        );
    }
    if let Some(why) = &row.skipped {
        let _ =
            write!(page, "<text class=\"axis\" x=\"{NAMES}\" y=\"{y:.1}\">skipped: {}</text>", escape(why));
    }
    page.push('\n');
}

/// A name that stays left of the bars, with the attribute that makes sure of it. Names of a list differ at their ends.
fn fitted(name: &str) -> (String, String) {
    let count = name.chars().count();
    if count <= MOST_LETTERS {
        return (name.to_owned(), String::new());
    }
    let end: String = name.chars().skip(count + 1 - MOST_LETTERS).collect();
    (format!("…{end}"), format!(" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\"", NAMES - 16.0))
}

fn failures(page: &mut String, picture: &Picture) {
    let failed: Vec<(&Row, usize, &String)> = picture
        .rows
        .iter()
        .flat_map(|row| {
            let attempts = row.attempts.iter().enumerate();
            attempts.filter_map(move |(number, (_, _, why))| Some((row, number + 1, why.as_ref()?)))
        })
        .collect();
    if failed.is_empty() {
        return;
    }
    page.push_str("<h2>Attempts that failed</h2>\n<table>\n");
    for (row, number, why) in failed.iter().take(500) {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>attempt {number}</td><td>{}</td></tr>",
            escape(&row.name),
            escape(why)
        );
    }
    page.push_str("</table>\n");
}

fn calls(page: &mut String, picture: &Picture) {
    if picture.calls.is_empty() && picture.throttled.is_empty() {
        return;
    }
    page.push_str("<h2>API calls, as the file declares them</h2>\n<table>\n");
    for (name, calls, burst, rate) in picture.calls.iter().take(100) {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"number\">{calls:.0} calls</td><td>limit {burst} at once, {rate:.2} a second</td></tr>",
            escape(name)
        );
    }
    for (at, scope, limit) in picture.throttled.iter().take(100) {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td class=\"number\">{}</td><td>throttled: {limit} slots from then on</td></tr>",
            escape(scope),
            time(*at)
        );
    }
    page.push_str("</table>\n");
}

fn tools(page: &mut String, picture: &Picture) {
    if picture.tools.is_empty() {
        return;
    }
    page.push_str("<h2>Tools</h2>\n<table>\n");
    for (name, version) in &picture.tools {
        let _ = writeln!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(version));
    }
    page.push_str("</table>\n");
}
