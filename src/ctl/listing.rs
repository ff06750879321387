//! Secrets as the mount shows them: each caller those it may see.

use std::io;
use std::path::Path;

use jarvis_fs::CONTROL_NAME;

use super::exit::CommandError;
use super::mounted;

/// Names of all secrets that the caller may see.
pub(super) fn names(mount: &Path) -> Result<Vec<String>, CommandError> {
    let mut names = Vec::new();
    visit(mount, &mut |name, _| names.push(name))?;
    Ok(names)
}

/// Shows name and path of every secret that the caller may see to `visitor`.
pub(super) fn visit(
    mount: &Path,
    visitor: &mut dyn FnMut(String, &Path),
) -> Result<(), CommandError> {
    mounted::check_directory(mount)?;
    walk(mount, String::new(), visitor)
}

fn walk(
    dir: &Path,
    prefix: String,
    visitor: &mut dyn FnMut(String, &Path),
) -> Result<(), CommandError> {
    let failed = |error: io::Error| CommandError::io("list", dir, &error);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            walk(&entry.path(), format!("{name}/"), visitor)?;
        } else if name != CONTROL_NAME {
            visitor(name, &entry.path());
        }
    }
    Ok(())
}

/// Extended attribute `key` of the secret at `path`.
pub(super) fn attribute(path: &Path, key: &str) -> rustix::io::Result<String> {
    let mut buffer = [0; 512];
    let len = rustix::fs::getxattr(path, key, &mut buffer)?;
    let value = buffer.get(..len).unwrap_or_default();
    Ok(String::from_utf8_lossy(value).into_owned())
}
