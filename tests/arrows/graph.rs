//! Which top-level module names which: found in the sources, and as ARCHITECTURE.md allows it.

use crate::source::{Named, named};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A file of `src`: its path there, with slashes, and its text.
pub type Source<'s> = (&'s str, &'s str);

/// The modules that each top-level module names, each with one place where it does.
pub type Arrows = BTreeMap<String, BTreeMap<String, Place>>;

/// What the document allows.
pub type Allowed = BTreeMap<String, BTreeSet<String>>;

/// A file and a line in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The path below `src`.
    pub file: String,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}", self.file, self.line)
    }
}

/// The module that a file is, outermost first; none for `lib.rs` and `main.rs`, which stand above
/// all modules.
pub fn module(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").expect("a source ends with .rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if matches!(path, "lib" | "main") { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// What the sources name, and what is wrong with how they do.
pub fn arrows(sources: &[Source<'_>]) -> (Arrows, Vec<String>) {
    let tops: BTreeSet<String> = sources.iter().filter_map(|(file, _)| module(file).into_iter().next()).collect();
    let mut arrows: Arrows = tops.iter().map(|top| (top.clone(), BTreeMap::new())).collect();
    let mut wrong = Vec::new();
    for (file, text) in sources {
        let of = module(file);
        let Some(top) = of.first() else { continue };
        for path in named(text) {
            let place = Place { file: (*file).to_owned(), line: path.line };
            match from_root(&of, &path) {
                None => {}
                Some(parts) => match parts.first() {
                    Some(to) if to == top => {}
                    Some(to) if tops.contains(to) => {
                        arrows.get_mut(top).expect("each top has its entry").entry(to.clone()).or_insert(place);
                    }
                    _ => wrong.push(format!("{place}: `{}` names no top-level module", path.parts.join("::"))),
                },
            }
        }
    }
    (arrows, wrong)
}

/// What the document forbids inside of one top-level module: lines `one::inner ↛ one::other,
/// one::third`.
pub fn forbidden(document: &str) -> Vec<(Vec<String>, Vec<Vec<String>>)> {
    let parts = |path: &str| path.trim().split("::").map(str::to_owned).collect();
    let lines = document.lines().filter_map(|line| line.split_once(" ↛ "));
    lines.map(|(from, to)| (parts(from), to.split(',').map(parts).collect())).collect()
}

/// Where sources name what is forbidden to them.
pub fn trespasses(sources: &[Source<'_>], forbidden: &[(Vec<String>, Vec<Vec<String>>)]) -> Vec<String> {
    let aliases = aliases(sources);
    let mut wrong = Vec::new();
    for (file, text) in sources {
        let of = module(file);
        for (from, to) in forbidden.iter().filter(|(from, _)| of.starts_with(from)) {
            for path in named(text) {
                let whole = whole_path(&of, &path).map(|whole| resolved(whole, &aliases));
                if let Some(to) = to.iter().find(|to| whole.as_ref().is_some_and(|whole| whole.starts_with(to))) {
                    let place = Place { file: (*file).to_owned(), line: path.line };
                    wrong.push(format!("{place}: {} names {}", from.join("::"), to.join("::")));
                }
            }
        }
    }
    wrong
}

/// What modules call by a name of their own, as it is called where it stands: `pub use inner::Name`
/// makes `module::Name` of it, and a private `use` does so for the modules inside.
fn aliases(sources: &[Source<'_>]) -> BTreeMap<Vec<String>, Vec<String>> {
    let modules: BTreeSet<Vec<String>> = sources.iter().map(|(file, _)| module(file)).collect();
    let mut aliases = BTreeMap::new();
    for (file, text) in sources {
        let of = module(file);
        for path in named(text).into_iter().filter(|path| path.inside.is_empty()) {
            let inner: Vec<String> = of.iter().chain(&path.parts).cloned().collect();
            let is_inner = modules.contains(&inner[..=of.len()]);
            let Some(whole) = whole_path(&of, &path).or(is_inner.then_some(inner)) else { continue };
            let name = whole.last().expect("a path has parts").clone();
            let own: Vec<String> = of.iter().cloned().chain([name]).collect();
            if own != whole {
                aliases.insert(own, whole);
            }
        }
    }
    aliases
}

/// Where a path leads once names that stand for others are followed.
fn resolved(mut path: Vec<String>, aliases: &BTreeMap<Vec<String>, Vec<String>>) -> Vec<String> {
    const STEPS_MAX: usize = 8;
    for _ in 0..STEPS_MAX {
        let Some((count, whole)) = (1..=path.len()).find_map(|count| Some((count, aliases.get(&path[..count])?)))
        else {
            break;
        };
        path = whole.iter().chain(&path[count..]).cloned().collect();
    }
    path
}

/// A path from the root of the crate, wherever it leads; `None` if it names a crate or something in
/// the same module.
fn whole_path(of: &[String], path: &Named) -> Option<Vec<String>> {
    let first = path.parts.first()?.as_str();
    if matches!(first, "crate" | "ringest") {
        return Some(path.parts[1..].to_vec());
    }
    let parts = path.parts.strip_prefix(&["self".to_owned()][..]).unwrap_or(&path.parts);
    let climbs = parts.iter().take_while(|part| *part == "super").count();
    let around: Vec<String> = of.iter().chain(&path.inside).cloned().collect();
    let stays = around.len().checked_sub(climbs).expect("nothing climbs out of the crate");
    (climbs > 0).then(|| around[..stays].iter().chain(&parts[climbs..]).cloned().collect())
}

/// A path from the root of the crate; `None` if it begins elsewhere, or stays where it is written.
fn from_root(of: &[String], path: &Named) -> Option<Vec<String>> {
    let first = path.parts.first()?.as_str();
    if matches!(first, "crate" | "ringest") {
        return Some(path.parts[1..].to_vec());
    }
    let parts = path.parts.strip_prefix(&["self".to_owned()][..]).unwrap_or(&path.parts);
    let climbs = parts.iter().take_while(|part| *part == "super").count();
    let around: Vec<&String> = of.iter().chain(&path.inside).collect();
    let stays = around.len().checked_sub(climbs).expect("nothing climbs out of the crate");
    (climbs > 0 && stays == 0).then(|| parts[climbs..].to_vec())
}

fn section(document: &str) -> &str {
    document.split("\n## ").find(|section| section.starts_with("Arrows\n")).expect("a section Arrows")
}

/// The layers that the section "Arrows" draws in its first block, the uppermost first.
pub fn layers(document: &str) -> Vec<Vec<&str>> {
    let block = section(document).split("```").nth(1).expect("a block of layers");
    block.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

/// Allowed arrows that do not lead down in the layers, and modules that are in none.
pub fn not_downwards(allowed: &Allowed, layers: &[Vec<&str>]) -> Vec<String> {
    let layer = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    let mut wrong = Vec::new();
    for (from, to) in allowed {
        let Some(above) = layer(from) else {
            wrong.push(format!("{from} is in no layer"));
            continue;
        };
        let level = to.iter().filter(|to| layer(to).is_some_and(|below| below <= above));
        wrong.extend(level.map(|to| format!("{from} → {to} does not lead down")));
    }
    wrong
}

/// The lines `module → module, module` of the section "Arrows"; `nothing` stands for none.
pub fn allowed(document: &str) -> Allowed {
    let lines = section(document).lines().filter_map(|line| line.split_once('→'));
    lines
        .map(|(from, to)| {
            let to = to.split(',').map(str::trim).filter(|to| *to != "nothing").map(str::to_owned);
            (from.trim().to_owned(), to.collect())
        })
        .collect()
}

/// How what is found differs from what is allowed.
pub fn differences(found: &Arrows, allowed: &Allowed) -> Vec<String> {
    let mut wrong = Vec::new();
    for (from, to) in found {
        let Some(may) = allowed.get(from) else {
            wrong.push(format!("{from} has no line in ARCHITECTURE.md, section Arrows"));
            continue;
        };
        for (to, place) in to {
            if !may.contains(to) {
                wrong.push(format!("{place}: {from} → {to} is not allowed"));
            }
        }
    }
    for (from, to) in allowed {
        let Some(names) = found.get(from) else {
            wrong.push(format!("{from} has a line in ARCHITECTURE.md, and is no module"));
            continue;
        };
        for to in to.iter().filter(|to| !names.contains_key(*to)) {
            wrong.push(format!("{from} → {to} is allowed, and not used any more"));
        }
    }
    wrong
}

/// Modules that name each other in a circle, if there are any.
pub fn circle(found: &Arrows) -> Option<Vec<String>> {
    let mut left: BTreeSet<&str> = found.keys().map(String::as_str).collect();
    // Whatever names nothing that is left is in no circle.
    while let Some(done) = left.iter().copied().find(|from| !found[*from].keys().any(|to| left.contains(to.as_str()))) {
        left.remove(done);
    }
    let mut way: Vec<&str> = vec![left.first().copied()?];
    loop {
        let from = way[way.len() - 1];
        let next = found[from].keys().map(String::as_str).find(|to| left.contains(to));
        let next = next.expect("what is left names something that is left");
        if let Some(begin) = way.iter().position(|module| *module == next) {
            way.push(next);
            return Some(way[begin..].iter().map(|module| (*module).to_owned()).collect());
        }
        way.push(next);
    }
}

/// All modules that `from` leads to, without itself.
pub fn below(found: &Arrows, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        next.extend(found[module].keys().filter(|to| reached.insert((*to).clone())).map(String::as_str));
    }
    reached
}
