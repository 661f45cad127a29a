//! The tests of the arrows can fail: small sources with one fault each.

use crate::graph::{
    Source, allowed, arrows, below, circle, differences, forbidden, layers, module, not_downwards, trespasses,
};
use crate::source::named;
use crate::world::{Exception, findings};
use std::collections::BTreeSet;

const DOCUMENT: &str =
    "# A\n\n## Arrows\n\n```text\na\nb\nc\n```\n\n```text\na → b, c\nb → c\nc → nothing\n```\n\n## Other\n\na → d\n";
const SOUND: [Source<'static>; 3] =
    [("a/mod.rs", "use crate::b::B;\nuse crate::c;\n"), ("b.rs", "fn f() { crate::c::g(); }\n"), ("c.rs", "")];

/// What is wrong with the sound sources when one file is another.
fn wrong_with(file: &'static str, text: &'static str) -> Vec<String> {
    let mut sources: Vec<Source<'_>> = SOUND.into_iter().filter(|(other, _)| *other != file).collect();
    sources.push((file, text));
    let (found, mut wrong) = arrows(&sources);
    wrong.extend(differences(&found, &allowed(DOCUMENT)));
    wrong
}

fn paths(text: &str) -> Vec<String> {
    named(text).into_iter().map(|path| path.parts.join("::")).collect()
}

#[test]
fn sound_sources_are_not_found_fault_with() {
    assert_eq!(wrong_with("c.rs", ""), [""; 0]);
    assert_eq!(wrong_with("lib.rs", "pub mod a;\npub use crate::a::A;\n"), [""; 0], "the root names what it likes");
}

#[test]
fn an_arrow_that_is_not_allowed_is_found_with_its_place() {
    for text in [
        "\nuse crate::a::A;",
        "\nuse crate::{a};",
        "\nfn f() { let _ = crate::a::A::new(); }",
        "\npub(in crate::a) struct C;",
        "\nuse super::a;",
        "\nmacro_rules! m { () => { $crate::a::A } }",
        "\nfn f() -> <crate::a::A as Into<u8>>::Error {}",
        "\nuse ringest::a::A;",
        "\n#[cfg(test)] mod tests { use super::super::a::A; }",
    ] {
        assert_eq!(wrong_with("c.rs", text), ["src/c.rs:2: c → a is not allowed"], "{text}");
    }
}

#[test]
fn an_owner_that_names_another_is_found_by_each_way_to_name_it() {
    let forbidden = forbidden("a::one ↛ a::two, a::three\n");
    let found = |text| trespasses(&[("a/one/mod.rs", text), ("a/two.rs", "use super::one;")], &forbidden);
    for text in
        ["use super::two::T;", "use crate::a::two;", "use crate::a::{four, two::T};", "fn f() { super::two::f(); }"]
    {
        assert_eq!(found(text), ["src/a/one/mod.rs:1: a::one names a::two"], "{text}");
    }
    for sound in ["use super::four;", "use crate::two;", "use super::super::b;", "mod two;", "// super::two"] {
        assert_eq!(found(sound), [""; 0], "{sound}");
    }
    let exported = [
        ("a/mod.rs", "mod one;\nmod two;\npub use two::{T, deep::U};\nuse crate::a::three::V;\nuse two::T as Other;"),
        ("a/two/mod.rs", ""),
        ("a/three.rs", ""),
    ];
    for (text, to) in [("use super::T;", "two"), ("use crate::a::{U, W};", "two"), ("fn f(_: super::V) {}", "three")] {
        let sources: Vec<Source<'_>> = exported.into_iter().chain([("a/one/mod.rs", text)]).collect();
        assert_eq!(trespasses(&sources, &forbidden), [format!("src/a/one/mod.rs:1: a::one names a::{to}")], "{text}");
    }
    let inner = [("a/one/inner.rs", "use super::super::three::T;")];
    assert_eq!(trespasses(&inner, &forbidden), ["src/a/one/inner.rs:1: a::one names a::three"]);
}

#[test]
fn each_leaf_of_a_group_over_several_lines_is_an_arrow() {
    let group =
        "use crate::{\n    b::{self, B},\n    c::{\n        inner::{One, Two as Three},\n        *,\n    },\n};\n";
    let leaves = ["crate::b", "crate::b::B", "crate::c::inner::One", "crate::c::inner::Two", "crate::c::*"];
    assert_eq!(paths(group), leaves);
    assert_eq!(wrong_with("a/mod.rs", group), [""; 0]);
    assert_eq!(wrong_with("c.rs", group), ["src/c.rs:1: c → b is not allowed"]);
}

#[test]
fn what_stands_in_comments_strings_and_characters_is_no_arrow() {
    let text = r##"
        // use crate::a::A;
        //! [`a`](crate::a)
        /* crate::a /* crate::a */ crate::a */
        const TEXT: &str = "\" crate::a";
        const RAW: &str = r#"" crate::a "#;
        const BYTES: &[u8] = b"crate::a";
        const QUOTE: char = '"'; const TICK: char = '\''; const SLASH: u8 = b'\\';
        fn f<'a>(text: &'a str) -> &'a str { text }
        use crate::b;
    "##;
    assert_eq!(paths(text), ["crate::b"], "and what follows them is read");
    assert_eq!(named(text)[0].line, 10);
    assert_eq!(paths("fn f() -> impl Iterator + use<> { std::iter::empty() }"), ["std::iter::empty"]);
}

#[test]
fn paths_that_stay_inside_a_module_are_no_arrows() {
    for text in ["use super::b;\nuse crate::b;\nuse crate::c;", "use crate::{b, c};\nmod d { use super::super::a::A; }"]
    {
        assert_eq!(wrong_with("a/mod.rs", "use crate::{b, c};"), [""; 0]);
        let inner = [("a/mod.rs", "use crate::{b, c};"), ("a/d.rs", text), ("b.rs", "use crate::c;"), ("c.rs", "")];
        let (found, wrong) = arrows(&inner);
        assert_eq!(wrong, [""; 0]);
        assert_eq!(differences(&found, &allowed(DOCUMENT)), [""; 0]);
    }
}

#[test]
fn the_whole_crate_may_not_be_named() {
    for text in ["use crate as root;", "use crate::*;", "use super::*;", "use crate::unknown::A;"] {
        let wrong = wrong_with("c.rs", text);
        assert!(wrong.len() == 1 && wrong[0].ends_with("names no top-level module"), "{text}: {wrong:?}");
    }
}

#[test]
fn an_arrow_that_is_allowed_and_not_used_is_stale() {
    assert_eq!(wrong_with("b.rs", ""), ["b → c is allowed, and not used any more"]);
}

#[test]
fn every_module_has_a_line_and_every_line_a_module() {
    assert_eq!(wrong_with("d.rs", ""), ["d has no line in ARCHITECTURE.md, section Arrows"]);
    let (found, _) = arrows(&SOUND[1..]);
    let wrong = differences(&found, &allowed(DOCUMENT));
    assert_eq!(wrong, ["a has a line in ARCHITECTURE.md, and is no module"]);
}

#[test]
fn an_arrow_beside_or_up_and_a_module_without_a_layer_are_found() {
    let of = |document: &str| not_downwards(&allowed(document), &layers(document));
    assert_eq!(of(DOCUMENT), [""; 0]);
    assert_eq!(of(&DOCUMENT.replace("b\nc\n", "b c\n")), ["b → c does not lead down"]);
    assert_eq!(of(&DOCUMENT.replace("a\nb\n", "b\na\n")), ["a → b does not lead down"]);
    assert_eq!(of(&DOCUMENT.replace("text\na\n", "text\n")), ["a is in no layer"]);
}

#[test]
fn a_circle_is_found_wherever_it_is() {
    let (sound, _) = arrows(&SOUND);
    assert_eq!(circle(&sound), None);
    let (found, _) =
        arrows(&[("a.rs", "use crate::b;"), ("b.rs", "use crate::c;"), ("c.rs", "use crate::{b, d};"), ("d.rs", "")]);
    assert_eq!(circle(&found), Some(["b", "c", "b"].map(str::to_owned).to_vec()));
}

#[test]
fn a_clock_a_thread_and_a_call_below_the_engine_are_found() {
    let modules = BTreeSet::from(["c".to_owned()]);
    let of = |text| findings(&[("c.rs", text), ("a.rs", "use tokio::task;")], &modules, &[]).len();
    for text in [
        "use std::time::{Duration, Instant};",
        "fn f() { std::time::SystemTime::now(); }",
        "use std::time;",
        "use std::time::*;",
        "use ::std::thread;",
        "use core::time::*;",
        "fn f() { ::tokio::spawn(g()); }",
        "use tokio_uring as runtime;",
        "use std::{io, net::{SocketAddr, TcpStream}};",
        "fn f() { unsafe { libc::read(0, p, 1) }; }",
        "use libc::*;",
        "#[cfg(test)] fn f() {}\nmod d { use std::fs; }",
    ] {
        assert_eq!(of(text), 1, "{text}");
    }
    for text in [
        "use std::time::Duration;\nuse std::net::{IpAddr, SocketAddr};\nuse std::io;",
        "const GONE: i32 = libc::ENOENT;",
        "#[cfg(test)]\nmod tests { use std::fs; fn f() { std::thread::yield_now(); } }",
        "// std::time::Instant::now()",
    ] {
        assert_eq!(of(text), 0, "{text}");
    }
}

#[test]
fn an_exception_is_for_one_file_and_ends_with_its_need() {
    let modules = BTreeSet::from(["c".to_owned()]);
    let exceptions = [Exception { file: "c/file.rs", names: &["std::fs"], why: "it is a file" }];
    assert_eq!(findings(&[("c/file.rs", "use std::fs::File;")], &modules, &exceptions), [""; 0]);
    let wrong = findings(&[("c/file.rs", "use std::{fs, thread};")], &modules, &exceptions);
    assert_eq!(wrong, ["src/c/file.rs:1: `std::thread` below the engine"]);
    let wrong = findings(&[("c/file.rs", ""), ("c/mod.rs", "use std::fs;")], &modules, &exceptions);
    assert_eq!(wrong.len(), 2, "{wrong:?}");
}

#[test]
fn what_lies_below_is_all_that_arrows_lead_to() {
    let (found, _) = arrows(&SOUND);
    assert_eq!(below(&found, "b").into_iter().collect::<Vec<_>>(), ["c"]);
    assert_eq!(module("engine/admin/mod.rs"), ["engine", "admin"]);
    assert_eq!(module("journal/log.rs"), ["journal", "log"]);
    assert_eq!(module("main.rs"), [""; 0]);
}
