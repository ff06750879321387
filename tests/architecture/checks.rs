//! The checks themselves, tried on sources that are made up.

use std::path::Path;

use crate::circles::circles;
use crate::documents;
use crate::rooms::Rooms;
use crate::shape;
use crate::sources::Sources;

fn sources(files: &[(&str, &str)]) -> Sources {
    let files = files
        .iter()
        .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()));
    Sources::parse("house", files.collect())
}

const ROOMS: &str = "
ground:
    names sys std::net
parlour: ground
worker/cellar: ground
    names vault::SecretBytes
worker/kitchen: cellar
worker: ground worker
lib: ground parlour worker
main: lib
";

const LIB: &str = "mod ground; mod parlour; mod worker;";
const WORKER: (&str, &str) = ("worker/mod.rs", "mod cellar; mod kitchen;");

/// What the table has against a house in which only these files are not empty.
fn breaches(rooms: &[(&str, &str)]) -> Vec<String> {
    let empty = [
        "ground.rs",
        "parlour.rs",
        "worker/cellar.rs",
        "worker/kitchen.rs",
    ];
    let empty = empty
        .into_iter()
        .filter(|file| rooms.iter().all(|(room, _)| room != file));
    let mut files = vec![("lib.rs", LIB), WORKER];
    files.extend(empty.map(|file| (file, "")));
    files.retain(|(file, _)| rooms.iter().all(|(room, _)| room != file));
    files.extend(rooms);
    Rooms::read(ROOMS).breaches(&sources(&files))
}

#[test]
fn an_import_that_no_row_allows_is_found_however_it_is_written() {
    for text in [
        "use crate::worker::cellar::Wine;",
        "use crate::{ground::Stone, worker::{cellar::{Wine, Beer}}};",
        "use crate::worker::cellar as below;",
        "use super::worker::cellar::*;",
        "use house::worker::cellar::Wine;",
        "fn drink() { use crate::worker::cellar::Wine; }",
        "fn drink() { crate::worker::cellar::pour(); }",
        "fn drink(wine: &crate::worker::cellar::Wine) {}",
        "fn drink() -> String { format!(\"{}\", crate::worker::cellar::YEAR) }",
        "#[serde(with = \"crate::worker::cellar\")] struct Glass;",
        "mod inner { fn drink() { super::super::worker::cellar::pour(); } }",
        "use crate::ground; impl crate::worker::cellar::Pour for () {}",
    ] {
        let found = breaches(&[("parlour.rs", text)]);
        assert_eq!(
            found,
            ["src/parlour.rs:1: parlour imports worker/cellar"],
            "{text}"
        );
    }
    // A path through the name of a room that is itself forbidden breaks two rules.
    let found = breaches(&[(
        "parlour.rs",
        "use crate::worker;\nfn f() { worker::cellar::pour() }",
    )]);
    let expected = [
        "src/parlour.rs:1: parlour imports worker",
        "src/parlour.rs:2: parlour imports worker/cellar",
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_a_row_allows_is_no_breach() {
    let found = breaches(&[
        (
            "parlour.rs",
            "use crate::ground::Stone; use std::fmt; fn f() { self::g(); }",
        ),
        (
            "worker/kitchen.rs",
            "use super::cellar::Wine; use crate::worker::cellar;",
        ),
        (
            "worker/mod.rs",
            "mod cellar; mod kitchen; use kitchen::Oven; fn f() { cellar::pour(); }",
        ),
        (
            "worker/cellar.rs",
            "use jarvis_vault::SecretBytes; pub(in crate::worker) fn f() {}",
        ),
        (
            "ground.rs",
            "use jarvis_sys::Cell; use std::{io, net::TcpListener};",
        ),
        ("main.rs", "fn main() { house::run() }"),
        (
            "lib.rs",
            "mod ground; mod parlour; mod worker; pub use ground::Stone;",
        ),
    ]);
    assert_eq!(found, [""; 0]);
}

#[test]
fn all_breaches_are_told_at_once() {
    let found = breaches(&[
        (
            "ground.rs",
            "use crate::parlour::A;\n\nuse crate::parlour::B;",
        ),
        (
            "parlour.rs",
            "use crate::worker::kitchen::A;\nuse redb::Database;",
        ),
    ]);
    let expected = [
        "src/ground.rs:1,3: ground imports parlour",
        "src/parlour.rs:1: parlour imports worker/kitchen",
        "src/parlour.rs:2: parlour names redb::Database",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_crate_that_a_row_does_not_name_is_found() {
    for (text, path) in [
        ("use jarvis_vault::Vault;", "jarvis_vault::Vault"),
        (
            "fn f() -> jarvis_vault::Vault { todo!() }",
            "jarvis_vault::Vault",
        ),
        ("use std::{io, net::TcpStream};", "std::net::TcpStream"),
        (
            "fn f() { std::net::TcpStream::connect(\"\"); }",
            "std::net::TcpStream::connect",
        ),
        (
            "use std::process; fn f() { process::Command::new(\"sh\"); }",
            "std::process::Command::new",
        ),
        ("use ureq as web;", "ureq"),
    ] {
        let found = breaches(&[("worker/cellar.rs", text)]);
        let expected = format!("src/worker/cellar.rs:1: worker/cellar names {path}");
        assert_eq!(found, [expected], "{text}");
    }
}

#[test]
fn what_the_root_passes_on_is_its_modules() {
    let found = breaches(&[
        (
            "lib.rs",
            "mod ground; mod parlour; mod worker; use worker::cellar::Wine; use ground::Stone;",
        ),
        ("parlour.rs", "use crate::Wine; use crate::Stone;"),
    ]);
    assert_eq!(found, ["src/parlour.rs:1: parlour imports worker/cellar"]);
}

#[test]
fn tests_may_import_everything() {
    let forbidden = "use crate::worker::cellar::Wine; use redb::Database;";
    let parlour = "#[cfg(test)] mod tests;
        #[cfg(test)] mod more { FORBIDDEN }
        #[cfg(all(test, unix))] use redb::Database;
        impl Guest { #[cfg(test)] fn f() { FORBIDDEN } }
        fn f() { #[cfg(test)] use redb::Database; }
        #[test] fn g() { FORBIDDEN }"
        .replace("FORBIDDEN", forbidden);
    let found = breaches(&[("parlour.rs", &parlour), ("parlour/tests.rs", forbidden)]);
    assert_eq!(found, [""; 0]);
    // What is not for tests is no test.
    let found = breaches(&[("parlour.rs", "#[cfg(not(test))] use redb::Database;")]);
    assert_eq!(found, ["src/parlour.rs:1: parlour names redb::Database"]);
}

#[test]
fn a_file_without_a_room_is_found() {
    let found = breaches(&[
        ("lib.rs", "mod ground; mod parlour; mod worker; mod attic;"),
        ("attic.rs", ""),
        ("worker/mod.rs", "mod cellar; mod kitchen; mod hall;"),
        ("worker/hall.rs", ""),
        ("shed.rs", ""),
    ]);
    let expected = [
        "src/attic.rs:1: in no room",
        "src/worker/hall.rs:1: a room in worker/ without a row",
        "src/shed.rs:1: no module declares it",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_table_without_floors_is_found() {
    let table = "a: b\nb: a c\nd:\n";
    let house = sources(&[("lib.rs", "mod a; mod b;"), ("a.rs", ""), ("b.rs", "")]);
    let found = Rooms::read(table).table_breaches(&["b"], &house);
    let expected = [
        "row a: b has its row below, not above",
        "row b: there is no room c",
        "row b: the room has files by now",
        "row d: the room has no files",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_circle_is_found_however_long() {
    let found = circles(
        "fs/src",
        &sources(&[
            ("lib.rs", "mod a; mod b; mod c; mod d; pub use a::{A, New};"),
            ("a.rs", "mod inner;\nuse crate::b::B;"),
            ("a/inner.rs", "use super::A;\nuse crate::d::D;"),
            ("b.rs", "use crate::c::C;\nuse crate::d::D;"),
            ("c.rs", "use crate::A;"),
            ("d.rs", "#[cfg(test)] use crate::a::A;"),
        ]),
    );
    let expected = [
        "fs/src/a.rs:2: a imports b, in a circle",
        "fs/src/b.rs:1: b imports c, in a circle",
        "fs/src/c.rs:1: c imports a, in a circle",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_circle_within_a_directory_is_found() {
    let found = circles(
        "src",
        &sources(&[
            ("lib.rs", "mod a;"),
            ("a/mod.rs", "mod x; mod y; use x::X;"),
            ("a/x.rs", "use super::y::Y;\nuse super::Parent;"),
            ("a/y.rs", "use super::x::X;"),
        ]),
    );
    let expected = [
        "src/a/x.rs:1: x imports y, in a circle",
        "src/a/y.rs:1: y imports x, in a circle",
    ];
    assert_eq!(found, expected);
}

#[test]
fn long_files_and_large_structs_are_found() {
    let fields = "x: u8,\n".repeat(13);
    let lines = "const N: u8 = 1;\n".repeat(450);
    let house = sources(&[(
        "lib.rs",
        &format!(
            "struct Large {{\n{fields}}}\n#[derive(Debug, serde::Deserialize)] struct Read {{\n{fields}}}
            #[cfg(test)] mod tests {{\n{lines}}}"
        ),
    )]);
    assert_eq!(
        shape::large_structs("src", &house),
        ["src/lib.rs:1: Large has 13 fields, more than 12"]
    );
    assert_eq!(shape::long_files("src", &house), [""; 0]);
    let house = sources(&[("lib.rs", &format!("{lines}fn f() {{}}"))]);
    assert_eq!(
        shape::long_files("src", &house),
        ["src/lib.rs:1: 451 lines, more than 450"]
    );
}

#[test]
fn types_of_one_name_are_found() {
    let house = sources(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "struct Thing; enum State {} struct A;"),
        (
            "b.rs",
            "enum State {}\ntrait Thing {} #[cfg(test)] struct A;",
        ),
    ]);
    let expected = [
        "src/a.rs:1: several types are called Thing",
        "src/b.rs:2: several types are called Thing",
    ];
    assert_eq!(shape::repeated_types("src", &house), expected);
}

#[test]
fn riddles_are_found_in_documentation_alone() {
    let house = sources(&[(
        "lib.rs",
        "//! What it is.
        /// The house. Its owner
        /// What follows on another line is no beginning.
        struct House {
            /// It.
            it: u8,
            /// Items and Whose are other words; `Who` is quoted.
            items: u8,
        }
        /// The same house.
        // What a comment says is its own affair.
        fn house() {}
        /// Others.
        #[derive(clap::Args)]
        struct Help {
            /// Who may enter
            who: u8,
        }
        #[cfg(test)]
        /// It is a test.
        fn test() {}",
    )]);
    let lines = shape::riddles("src", &house);
    let lines: Vec<_> = lines
        .iter()
        .map(|l| l.split(": ").next().unwrap())
        .collect();
    assert_eq!(lines, ["src/lib.rs:1", "src/lib.rs:5", "src/lib.rs:10"]);
}

#[test]
fn matches_on_a_bool_are_found() {
    let house = sources(&[(
        "lib.rs",
        "fn f(x: bool, y: (bool, u8), z: Option<bool>) {
            match x { true => (), false => () }
            match y.0 { true if y.1 > 1 => (), _ => () }
            match y { (true, 1) => (), _ => () }
            match z { Some(true) => (), _ => match x { true => (), false => () } }
        }",
    )]);
    let expected = [2, 3, 5].map(|line| format!("src/lib.rs:{line}: a match on a bool"));
    assert_eq!(shape::bool_matches("src", &house), expected);
}

#[test]
fn heads_that_do_not_say_it_all_are_found() {
    let head =
        "//! The hall.\n//!\n//! Runs in: the house.\n//! Touches: shoes.\n//! Imported by: all.\n";
    let files = [
        (
            "lib.rs",
            "mod good; mod none; mod swapped; mod bare;".to_owned(),
        ),
        ("good/mod.rs", head.to_owned()),
        ("none/mod.rs", "//! The hall.\nfn f() {}".to_owned()),
        (
            "swapped/mod.rs",
            head.replace("Touches", "x")
                .replace("Runs in", "Touches")
                .replace("x", "Runs in"),
        ),
        ("bare/mod.rs", head.replace(" shoes.", "")),
        ("file.rs", String::new()),
    ];
    let files: Vec<_> = files.iter().map(|(file, text)| (*file, &**text)).collect();
    let rooms = ["good", "none", "swapped", "bare", "file"];
    let found = shape::heads(&sources(&files), rooms.into_iter());
    let expected = [
        ("none", "Runs in:"),
        ("swapped", "Touches:"),
        ("bare", "Touches:"),
    ]
    .map(|(room, line)| {
        format!("src/{room}/mod.rs:1: no `//! {line} ..` in its head, or in another order")
    });
    assert_eq!(found, expected);
}

#[test]
fn files_that_documents_only_think_of_are_found() {
    let text = "See src/lib.rs, (`src/daemon.rs`) and\nsrc/{main,nowhere}.rs; fs/src/gone.rs.\n\
        A vault is in /etc/jarvis/vault/vault.redb, rooms in src/worker/; tests/no/such.rs";
    let missing = documents::missing(Path::new(env!("CARGO_MANIFEST_DIR")), "docs/X.md", text);
    let expected = [
        "docs/X.md:2: there is no src/nowhere.rs",
        "docs/X.md:2: there is no fs/src/gone.rs",
        "docs/X.md:3: there is no tests/no/such.rs",
    ];
    assert_eq!(missing, expected);
}
