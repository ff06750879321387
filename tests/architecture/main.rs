//! The shape of the code base, held by tests.
// Helpers are tests, too: what clippy.toml allows in tests is for them as well.
#![cfg(test)]

mod checks;
mod circles;
mod documents;
mod rooms;
mod shape;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use cargo_metadata::{DependencyKind, MetadataCommand};

use rooms::Rooms;
use sources::{Sources, Target};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Which of our crates may use which, as in docs/ARCHITECTURE.md.
fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let all = [
        "jarvis-fs",
        "jarvis-vault",
        "jarvis-policy",
        "jarvis-audit",
        "jarvis-sys",
    ];
    [
        ("jarvis-secretsd", &all[..]),
        ("jarvis-vault", &["jarvis-sys"]),
        ("jarvis-fs", &["jarvis-sys"]),
        ("jarvis-policy", &[]),
        ("jarvis-audit", &["jarvis-sys"]),
        ("jarvis-sys", &[]),
    ]
    .into_iter()
    .map(|(from, to)| (from, to.iter().copied().collect()))
    .collect()
}

#[test]
fn dependencies_follow_the_arrows() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let mut found = BTreeMap::new();
    for package in &metadata.packages {
        let ours = package
            .dependencies
            .iter()
            .filter(|d| d.kind != DependencyKind::Development && d.name.starts_with("jarvis-"))
            .map(|d| d.name.clone());
        found.insert(package.name.to_string(), ours.collect::<BTreeSet<_>>());
    }
    let allowed = allowed();
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        allowed.keys().collect::<Vec<_>>()
    );
    for (package, uses) in &found {
        for used in uses {
            assert!(
                allowed[package.as_str()].contains(used.as_str()),
                "{package} -> {used}"
            );
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_outside_sys() {
    for lib in ["src", "fs/src", "vault/src", "policy/src", "audit/src"] {
        let text = fs::read_to_string(format!("{ROOT}/{lib}/lib.rs")).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{lib}");
    }
}

const MARK: &str = "JARVIS_TEST_PANIC";

/// Run by the test below in a process of its own; by itself it does nothing.
#[test]
fn panicking_process() {
    if std::env::var_os(MARK).is_some() {
        jarvis_secretsd::testing::abort_on_panic();
        std::thread::spawn(|| panic!("on purpose")).join().ok();
        // Not reached: the thread's panic ended the process.
        std::process::exit(0);
    }
}

#[test]
fn a_panic_in_any_thread_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "panicking_process", "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(6), "SIGABRT: {output:?}");
}

#[test]
fn release_builds_abort_on_panic() {
    let text = fs::read_to_string(format!("{ROOT}/Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    assert_eq!(
        manifest["profile"]["release"]["panic"].as_str(),
        Some("abort")
    );
}

/// Where the sources of each of our crates are, and what the crate is called.
const CRATES: [(&str, &str); 6] = [
    ("src", "jarvis_secretsd"),
    ("fs/src", "jarvis_fs"),
    ("vault/src", "jarvis_vault"),
    ("policy/src", "jarvis_policy"),
    ("audit/src", "jarvis_audit"),
    ("sys/src", "jarvis_sys"),
];

fn sources((directory, name): (&str, &str)) -> Sources {
    Sources::read(&Path::new(ROOT).join(directory), name)
}

/// Fails with all breaches at once.
fn assert_none(breaches: &[String]) {
    assert!(
        breaches.is_empty(),
        "{} breaches:\n{}",
        breaches.len(),
        breaches.join("\n")
    );
}

#[test]
fn rooms_import_what_their_rows_allow() {
    let sources = sources(CRATES[0]);
    let rooms = Rooms::read(rooms::TABLE);
    let mut breaches = rooms.table_breaches(&rooms::COMING, &sources);
    breaches.extend(rooms.breaches(&sources));
    assert_none(&breaches);
}

/// Who can name the vault itself can read a value that no record tells of: `Secrets`
/// seals it off, `Committer` writes, and they are put together where the vault is opened.
#[test]
fn two_rooms_have_the_vault() {
    let holders = ["worker/secrets.rs", "worker/startup.rs"];
    let sources = sources(CRATES[0]);
    let vault = ["jarvis_vault", "Vault"];
    let mut breaches = Vec::new();
    let mut found = BTreeSet::new();
    for import in sources.imports() {
        let Target::Foreign(path) = &import.target else {
            continue;
        };
        if !path.iter().zip(vault).all(|(a, b)| a == b) || path.len() < vault.len() {
            continue;
        }
        let commits = import.file.starts_with("worker/commit/");
        if commits || holders.contains(&import.file.as_str()) {
            found.insert(import.file.clone());
        } else {
            breaches.push(format!(
                "src/{}:{}: has the vault",
                import.file, import.line
            ));
        }
    }
    assert_none(&breaches);
    assert!(found.len() >= holders.len(), "nobody has it: {found:?}");
}

#[test]
fn modules_import_each_other_in_no_circle() {
    let circles = CRATES.map(|c| circles::circles(c.0, &sources(c)));
    assert_none(&circles.concat());
}

#[test]
fn files_are_short() {
    assert_none(&shape::long_files("src", &sources(CRATES[0])));
}

#[test]
fn structs_have_few_fields() {
    assert_none(&shape::large_structs("src", &sources(CRATES[0])));
}

#[test]
fn types_have_names_of_their_own() {
    assert_none(&shape::repeated_types("src", &sources(CRATES[0])));
}

#[test]
fn documentation_names_the_thing_first() {
    let riddles = CRATES.map(|c| shape::riddles(c.0, &sources(c)));
    assert_none(&riddles.concat());
}

#[test]
fn nothing_matches_on_a_bool() {
    let matches = CRATES.map(|c| shape::bool_matches(c.0, &sources(c)));
    assert_none(&matches.concat());
}

#[test]
fn rooms_say_where_they_run_what_they_touch_and_who_imports_them() {
    let rooms = Rooms::read(rooms::TABLE);
    assert_none(&shape::heads(&sources(CRATES[0]), rooms.names()));
}

#[test]
fn documents_name_files_that_are_there() {
    let mut documents = vec!["README.md".to_owned()];
    for directory in ["docs", "systemd"] {
        let files = fs::read_dir(Path::new(ROOT).join(directory)).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        documents.extend(names.map(|name| format!("{directory}/{name}")));
    }
    documents.sort();
    let missing = documents.iter().flat_map(|document| {
        let text = fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
        documents::missing(Path::new(ROOT), document, &text)
    });
    assert_none(&missing.collect::<Vec<_>>());
}

#[test]
fn every_line_of_the_semantics_names_a_test_that_is_there() {
    let read = |path: &str| fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
    let text = read("docs/SEMANTICS.md");
    let rows = text.lines().filter(|line| {
        line.starts_with("| ") && !line.starts_with("| operation") && !line.starts_with("| event")
    });
    let mut checked = 0;
    for row in rows {
        let cell = row.trim_matches('|').rsplit('|').next().unwrap();
        let tests = documents::tests_in(cell.trim());
        assert!(!tests.is_empty(), "no test: {row}");
        for (path, name) in tests {
            let found = read(&path).contains(&format!("#[test]\nfn {name}()"));
            assert!(found, "{path} has no test {name}: {row}");
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} rows were understood");
}
