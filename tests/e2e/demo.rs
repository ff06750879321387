//! `make run DEMO=1`, as root and as an ordinary user.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::*;

/// Everything the demo needs, where every user can get at it.
fn copy_out() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo.sh");
    for from in [
        script.as_path(),
        Path::new(env!("CARGO_BIN_EXE_jarvis-secretsd")),
        Path::new(env!("CARGO_BIN_EXE_jarvisctl")),
    ] {
        let to = dir.path().join(from.file_name().unwrap());
        copy_program(from, &to);
        fs::set_permissions(to, Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

fn demo(user: &User) -> String {
    let dir = copy_out();
    let mut command = user.command(dir.path().join("demo.sh"));
    command
        .env("BIN", dir.path())
        .env("DEMO", "1")
        .current_dir(dir.path());
    let output = run(command, b"");
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("Permission denied"),
        "the refusal is shown"
    );
    assert!(
        shown.contains("deny\tdenied") && shown.contains("rotate\tok"),
        "{shown}"
    );
    assert!(
        shown.contains("all good") && shown.contains("Done"),
        "{shown}"
    );
    // After the rotation, and again after the kill.
    let versions = |label: &str| {
        let lines = shown.lines().filter_map(|line| line.strip_prefix(label));
        lines.map(str::trim).map(str::to_owned).collect::<Vec<_>>()
    };
    let (held, now) = (versions("held open:"), versions("opened now:"));
    assert_eq!((held.len(), now.len()), (2, 2), "{shown}");
    assert_eq!((&held[0], &now[0]), (&held[1], &now[1]));
    assert_ne!(held[0], now[0]);
    shown
}

#[test]
fn the_demo_works_as_root() {
    assert!(demo(&root()).contains("correct horse battery staple"));
}

#[test]
fn the_demo_works_as_an_ordinary_user() {
    assert!(demo(&alice()).contains("db/root_password"));
}
