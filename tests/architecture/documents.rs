//! What the documents say of the sources and of the tests.

use std::path::Path;

/// Directories of sources, as documents name the files in them.
const DIRECTORIES: [&str; 7] = [
    "src/", "fs/", "vault/", "policy/", "audit/", "sys/", "tests/",
];

/// Every `.rs` file, and every directory of sources, that a text names.
pub(crate) fn mentioned(text: &str) -> Vec<(usize, String)> {
    let in_path = |c: char| c.is_ascii_alphanumeric() || "/_-.{},".contains(c);
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for word in line.split(|c| !in_path(c)) {
            let path = word.trim_matches(['.', ',']);
            let named = DIRECTORIES
                .iter()
                .any(|directory| path.starts_with(directory));
            if named && (path.ends_with(".rs") || path.contains("src/")) {
                found.extend(alternatives(path).into_iter().map(|path| (number, path)));
            }
        }
    }
    found
}

/// `a/{b,c}.rs` is two paths.
fn alternatives(path: &str) -> Vec<String> {
    let braces = path.split_once('{').and_then(|(before, rest)| {
        let (inside, after) = rest.split_once('}')?;
        Some((before, inside, after))
    });
    match braces {
        Some((before, inside, after)) => {
            let each = inside.split(',').map(str::trim);
            each.map(|name| format!("{before}{name}{after}")).collect()
        }
        None => vec![path.to_owned()],
    }
}

/// Mentions in `document` of files that are not there.
pub(crate) fn missing(root: &Path, document: &str, text: &str) -> Vec<String> {
    let gone = mentioned(text)
        .into_iter()
        .filter(|(_, path)| !root.join(path).exists());
    gone.map(|(line, path)| format!("{document}:{line}: there is no {path}"))
        .collect()
}

/// `files: a, b; control: c` in the last column of a table.
pub(crate) fn tests_in(cell: &str) -> Vec<(String, String)> {
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
