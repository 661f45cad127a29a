//! Writing a report's files into a directory.

use super::{Run, hgrm, html, main_tag, plot, tag_name, tags};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// The names and contents of a report's files: the page, a `.hgrm` a run and tag, and each plot as `.svg`.
pub fn files(runs: &[Run], title: &str) -> Vec<(String, String)> {
    let mut files = vec![("report.html".to_owned(), html::page(runs, title))];
    for run in runs {
        for tagged in &run.tags {
            files.push((format!("{}.{}.hgrm", run.name, tagged.name()), hgrm::text(&tagged.whole)));
            if tagged.is_plotted() {
                let heat = plot::heat::svg(run, tagged, plot::WIDE);
                files.push((format!("heat.{}.{}.svg", run.name, tagged.name()), plot::alone(&heat)));
            }
        }
    }
    if let [run] = runs {
        let curves = plot::percentiles::of_run(run, plot::WIDE);
        files.extend(curves.map(|curves| ("percentiles.svg".to_owned(), plot::alone(&curves))));
    } else {
        for tag in tags(runs) {
            let curves = plot::percentiles::of_tag(runs, tag, plot::WIDE);
            files.extend(curves.map(|curves| (format!("percentiles.{}.svg", tag_name(tag)), plot::alone(&curves))));
        }
    }
    let rates = plot::throughput::svg(runs, main_tag(runs), plot::WIDE);
    files.push(("throughput.svg".to_owned(), plot::alone(&rates)));
    let mut taken = BTreeSet::new();
    for (name, _) in &mut files {
        *name = file_name(name);
        // Names that differ in what a file's name cannot hold.
        while !taken.insert(name.clone()) {
            name.insert(0, '_');
        }
    }
    files
}

fn file_name(name: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '=' | '@');
    let name: String = name.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    if name.starts_with('.') { format!("_{name}") } else { name }
}

/// Writes them into a directory, which is made where it is not there; files of the same names are replaced. The paths, in the order of
/// [`files`].
///
/// # Errors
/// The path that cannot be written, and what the system says.
pub fn write(directory: &Path, runs: &[Run], title: &str) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    std::fs::create_dir_all(directory).map_err(|error| (directory.to_owned(), error))?;
    let written = files(runs, title).into_iter().map(|(name, text)| {
        let path = directory.join(name);
        match std::fs::write(&path, text) {
            Ok(()) => Ok(path),
            Err(error) => Err((path, error)),
        }
    });
    written.collect()
}
