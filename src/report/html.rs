//! One page with tables and plots that needs nothing from elsewhere: no script, no font, no picture.

use super::plot::{self, NARROW, Size, WIDE, escaped};
use super::{Run, describe, main_tag, table, tag_name, tags, unit};
use crate::ground::text::rfc3339_micros;
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1d21;--soft:#5c5f66;--rule:#e1e3e7;--band:#f6f7f8}
@media (prefers-color-scheme:dark){:root{--paper:#16181c;--ink:#e9ebee;--soft:#a3a8b1;--rule:#30343b;--band:#1d2025}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
main{max-width:968px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px}h2{font-size:18px;margin:40px 0 8px}h2 small,p,figcaption,.soft{color:var(--soft);font-weight:400}
p{margin:4px 0 12px}.note{border-left:3px solid var(--rule);padding:2px 0 2px 12px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:5px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th{font-weight:600}thead th{color:var(--soft);font-weight:500}tbody tr:hover{background:var(--band)}
th:first-child,td:first-child{text-align:left;padding-left:0;position:sticky;left:0;background:var(--paper)}td.text{text-align:left}
td small{display:block;color:var(--soft);font-size:12px;line-height:1.2}
figure{margin:20px 0 32px}svg.plot{display:block;width:100%;height:auto}
.narrow{display:none}@media (max-width:680px){main{padding:20px 12px 48px}.wide{display:none}.narrow{display:block}}
@media print{.narrow{display:none}.wide{display:block}}
";

/// The page of some runs.
pub fn page(runs: &[Run], title: &str) -> String {
    let title = escaped(title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
        plot::STYLE
    );
    heads(&mut page, runs);
    if let [run] = runs {
        page.push_str("<h2>Latency by stage</h2>\n");
        stages(&mut page, run);
        figure(&mut page, |size| plot::percentiles::of_run(run, size));
    } else {
        let main = main_tag(runs);
        let others = tags(runs).into_iter().filter(|tag| *tag != main);
        for tag in [main].into_iter().chain(others) {
            let words = describe(tag).map_or(String::new(), |words| format!(" <small>{}</small>", escaped(words)));
            let _ = writeln!(page, "<h2>{}{words}</h2>", escaped(tag_name(tag)));
            compared(&mut page, runs, tag);
            figure(&mut page, |size| plot::percentiles::of_tag(runs, tag, size));
        }
    }
    page.push_str("<h2>Throughput</h2>\n");
    figure(&mut page, |size| Some(plot::throughput::svg(runs, main_tag(runs), size)));
    page.push_str(
        "<h2>Latency over time</h2>\n<p>The colour says how many records a second have a latency in the cell.</p>\n",
    );
    for run in runs {
        let is_main = |tag: &Option<String>| tag.as_deref() == main_tag(runs);
        // The whole first, then its parts; what the clock does not see is left out.
        let (main, others): (Vec<_>, Vec<_>) = run.tags.iter().partition(|tagged| is_main(&tagged.tag));
        for tagged in main.into_iter().chain(others).filter(|tagged| tagged.is_plotted()) {
            figure(&mut page, |size| Some(plot::heat::svg(run, tagged, size)));
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(page, "<p>Made by <code>ringest report</code> {version}.</p>\n</main>\n</body>\n</html>");
    page
}

/// The plot in both sizes, of which a screen shows one.
fn figure(page: &mut String, plot: impl Fn(Size) -> Option<String>) {
    let (Some(wide), Some(narrow)) = (plot(WIDE), plot(NARROW)) else {
        page.push_str(
            "<p>Nothing above 1 µs: it takes less than a turn of the loop, in which the clock is read once.</p>\n",
        );
        return;
    };
    let _ = writeln!(
        page,
        "<figure><div class=\"wide\">{}</div><div class=\"narrow\">{}</div></figure>",
        wide.trim_end(),
        narrow.trim_end()
    );
}

/// What each run is, and what was wrong with its file.
fn heads(page: &mut String, runs: &[Run]) {
    page.push_str("<div class=\"scroll\"><table>\n<thead><tr><th>run</th><th>began (UTC)</th><th>length</th><th>intervals</th><th>precision</th></tr></thead>\n<tbody>\n");
    for run in runs {
        let began = rfc3339_micros((run.start_s.max(0.0) * 1e9) as u64);
        let began = String::from_utf8_lossy(&began[..19]).replace('T', " ");
        let digits = run.tags.iter().map(|tagged| tagged.whole.sigfig()).min().unwrap_or_default();
        let _ = writeln!(
            page,
            "<tr><th>{}</th><td>{began}</td><td>{}</td><td>{}</td><td>{digits} digits</td></tr>",
            escaped(&run.name),
            unit::span(run.length_s()),
            unit::count(run.intervals as f64),
        );
    }
    page.push_str("</tbody></table></div>\n");
    for run in runs {
        for note in &run.notes {
            let _ = writeln!(page, "<p class=\"note\">{}: {}</p>", escaped(&run.file), escaped(note));
        }
    }
}

/// A line a tag.
fn stages(page: &mut String, run: &Run) {
    page.push_str("<div class=\"scroll\"><table>\n");
    for (index, tagged) in run.tags.iter().enumerate() {
        let figures = table::figures(run, tagged);
        if index == 0 {
            head(page, figures.iter().map(|(name, ..)| *name));
        }
        let words = describe(tagged.tag.as_deref()).map_or(String::new(), |words| format!("<small>{words}</small>"));
        let _ = write!(page, "<tr><td>{}{words}</td>", escaped(tagged.name()));
        for (.., text) in figures {
            let _ = write!(page, "<td>{text}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody></table></div>\n");
}

/// A line a run, with its ratio to the first.
fn compared(page: &mut String, runs: &[Run], tag: Option<&str>) {
    page.push_str("<div class=\"scroll\"><table>\n");
    let mut first: Option<Vec<f64>> = None;
    let mut is_headed = false;
    for (index, run) in runs.iter().enumerate() {
        let Some(tagged) = run.tagged(tag) else { continue };
        let figures = table::figures(run, tagged);
        if !std::mem::replace(&mut is_headed, true) {
            head(page, figures.iter().map(|(name, ..)| *name));
        }
        let _ = write!(page, "<tr><td>{}</td>", escaped(&run.name));
        for (place, (_, value, text)) in figures.iter().enumerate() {
            let ratio = first.as_ref().map(|first| format!("<small>{}</small>", unit::ratio(*value, first[place])));
            let _ = write!(page, "<td>{text}{}</td>", ratio.unwrap_or_default());
        }
        page.push_str("</tr>\n");
        if index == 0 {
            first = Some(figures.iter().map(|(_, value, _)| *value).collect());
        }
    }
    page.push_str("</tbody></table></div>\n");
}

fn head(page: &mut String, names: impl Iterator<Item = &'static str>) {
    page.push_str("<thead><tr><th></th>");
    for name in names {
        let _ = write!(page, "<th>{name}</th>");
    }
    page.push_str("</tr></thead>\n<tbody>\n");
}
