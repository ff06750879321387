//! The shape of the code base, held by tests.
// Helpers are tests, too: what clippy.toml allows in tests is for them as well.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, MetadataCommand};

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
        ("jarvis-fs", &[]),
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
        let path = format!("{}/{lib}/lib.rs", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
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
    let path = format!("{}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
    assert_eq!(
        manifest["profile"]["release"]["panic"].as_str(),
        Some("abort")
    );
}

/// `files: a, b; control: c` in the last column of a table.
fn tests_in(cell: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for group in cell.split("; ") {
        let Some((file, names)) = group.split_once(": ") else {
            continue;
        };
        let path = match file.trim() {
            path if path.contains('/') => path.to_owned(),
            module => format!("tests/e2e/{module}.rs"),
        };
        let names = names
            .split(", ")
            .map(|name| (path.clone(), name.trim().to_owned()));
        found.extend(names);
    }
    found
}

#[test]
fn every_line_of_the_semantics_names_a_test_that_is_there() {
    let root = env!("CARGO_MANIFEST_DIR");
    let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap();
    let text = read("docs/SEMANTICS.md");
    let rows = text.lines().filter(|line| {
        line.starts_with("| ") && !line.starts_with("| operation") && !line.starts_with("| event")
    });
    let mut checked = 0;
    for row in rows {
        let cell = row.trim_matches('|').rsplit('|').next().unwrap();
        let tests = tests_in(cell.trim());
        assert!(!tests.is_empty(), "no test: {row}");
        for (path, name) in tests {
            let found = read(&path).contains(&format!("#[test]\nfn {name}()"));
            assert!(found, "{path} has no test {name}: {row}");
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} rows were understood");
}
