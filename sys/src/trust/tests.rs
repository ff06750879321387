//! Paths that others have a hand in. Needs root, to give files away.

use super::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

const STRANGER: u32 = 54_321;

/// A directory with `file` in it, and how to change what is there.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.path("file"), "x").unwrap();
        place.chmod("", 0o755);
        place.chmod("file", 0o644);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// Gives `name` away, if this is root.
    fn give(&self, name: &str, uid: u32) -> bool {
        std::os::unix::fs::lchown(self.path(name), Some(uid), None).is_ok()
    }

    fn why(&self, name: &str, rule: Rule) -> Option<Distrust> {
        let opened = open(&self.path(name), rule).map(drop);
        let located = locate(&self.path(name), rule).map(drop);
        match (opened, located) {
            (Ok(()), Ok(())) => None,
            (
                Err(TrustError::Distrusted { why, .. }),
                Err(TrustError::Distrusted { why: other, .. }),
            ) if why == other => Some(why),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn modes_let_nobody_else_in() {
    let place = Place::new();
    let open = |mode, want| Some(Distrust::Open { mode, want });
    for mode in [0o400, 0o600, 0o700, 0o4600] {
        place.chmod("file", mode);
        assert_eq!(place.why("file", Rule::PRIVATE_FILE), None, "{mode:o}");
    }
    for mode in [0o640, 0o604, 0o601, 0o4640] {
        place.chmod("file", mode);
        assert_eq!(place.why("file", Rule::PRIVATE_FILE), open(mode, 0o600));
        assert_eq!(place.why("file", Rule::FILE), None, "{mode:o}");
    }
    for mode in [0o620, 0o602] {
        place.chmod("file", mode);
        let why = Some(Distrust::Writable(mode));
        assert_eq!(place.why("file", Rule::FILE), why);
        assert_eq!(place.why("file", Rule::INSTALLED_FILE), why);
    }
    assert_eq!(place.why("", Rule::DIRECTORY), None);
    assert_eq!(place.why("", Rule::PRIVATE_DIRECTORY), open(0o755, 0o700));
    place.chmod("", 0o2700);
    assert_eq!(place.why("", Rule::PRIVATE_DIRECTORY), None);
    let error = super::open(&place.path("file"), Rule::PRIVATE_FILE).unwrap_err();
    let shown = place.path("file").display().to_string();
    let expected = format!(
        "{shown} has mode 0602, others than its owner could use it; run: chmod 0600 {shown}"
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn every_directory_on_the_way_is_looked_at() {
    let place = Place::new();
    fs::create_dir_all(place.path("a/b")).unwrap();
    fs::write(place.path("a/b/file"), "x").unwrap();
    assert_eq!(place.why("a/b/file", Rule::FILE), None);
    for part in ["", "a", "a/b"] {
        place.chmod(part, 0o777);
        let error = locate(&place.path("a/b/file"), Rule::FILE).unwrap_err();
        let TrustError::Distrusted { path, why } = error else {
            panic!("{error}");
        };
        assert_eq!((path, why), (place.path(part), Distrust::Writable(0o777)));
        // There others can't take away what is trusted.
        place.chmod(part, 0o1777);
        assert_eq!(place.why("a/b/file", Rule::FILE), None, "{part}");
        assert_eq!(place.why(part, Rule::CONTAINER), None);
        assert!(place.why(part, Rule::DIRECTORY).is_some());
        place.chmod(part, 0o755);
        if place.give(part, STRANGER) {
            let owner = Some(Distrust::Owner(STRANGER));
            assert_eq!(place.why("a/b/file", Rule::FILE), owner, "{part}");
            assert!(place.give(part, 0));
        }
    }
    assert_eq!(place.why("a/../a/./b/../../file", Rule::FILE), None);
    let missing = open(&place.path("a/none/file"), Rule::FILE).unwrap_err();
    assert!(missing.is_missing(), "{missing}");
}

#[test]
fn links_are_followed_where_they_are_trusted() {
    let place = Place::new();
    fs::create_dir(place.path("a")).unwrap();
    fs::create_dir(place.path("open")).unwrap();
    fs::write(place.path("open/file"), "x").unwrap();
    symlink("../file", place.path("a/link")).unwrap();
    symlink(place.path("a"), place.path("absolute")).unwrap();
    symlink("loop", place.path("loop")).unwrap();
    symlink("open/file", place.path("through")).unwrap();
    for name in ["a/link", "absolute/link", "absolute/../file"] {
        assert_eq!(place.why(name, Rule::FILE), None, "{name}");
    }
    assert!(open(&place.path("loop"), Rule::FILE).is_err());
    place.chmod("open", 0o777);
    assert_eq!(
        place.why("through", Rule::FILE),
        Some(Distrust::Writable(0o777))
    );
    if place.give("a/link", STRANGER) {
        let owner = Some(Distrust::Owner(STRANGER));
        assert_eq!(place.why("a/link", Rule::FILE), owner);
        assert_eq!(place.why("absolute/link", Rule::FILE), owner);
    }
}

#[test]
fn files_are_regular_ones_with_one_name_and_owner() {
    let place = Place::new();
    fs::hard_link(place.path("file"), place.path("second")).unwrap();
    assert_eq!(place.why("second", Rule::FILE), Some(Distrust::Names(2)));
    assert_eq!(place.why("second", Rule::INSTALLED_FILE), None);
    fs::remove_file(place.path("second")).unwrap();
    assert_eq!(
        place.why("file", Rule::DIRECTORY),
        Some(Distrust::NoDirectory)
    );
    assert_eq!(place.why("", Rule::FILE), Some(Distrust::NoFile));
    // Nobody writes there: who opened it would wait.
    let fifo = place.path("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    assert_eq!(
        place.why("fifo", Rule::PRIVATE_FILE),
        Some(Distrust::NoFile)
    );
    if chown(place.path("file"), Some(STRANGER), None).is_ok() {
        let owner = Some(Distrust::Owner(STRANGER));
        assert_eq!(place.why("file", Rule::FILE), owner);
        assert_eq!(place.why("file", Rule::FILE.or_owned_by(1)), owner);
        assert_eq!(place.why("file", Rule::FILE.or_owned_by(STRANGER)), None);
        assert_eq!(place.why("file", Rule::FILE.of_any_owner()), None);
    }
    let directory = open(&place.path(""), Rule::DIRECTORY).unwrap();
    let at = place.path("");
    let rule = Rule::FILE.of_any_owner();
    assert!(open_in(&directory, &at, "file", rule).is_ok());
    symlink("file", place.path("link")).unwrap();
    for name in ["fifo", "link", "none"] {
        assert!(open_in(&directory, &at, name, rule).is_err(), "{name}");
    }
}

#[test]
fn what_begins_at_an_fd_keeps_the_rule_too() {
    let place = Place::new();
    let directory = open(&place.path(""), Rule::DIRECTORY).unwrap();
    let verdicts = || {
        let (at, path) = (place.path(""), place.path("file"));
        [
            open_end(&path, Rule::FILE).is_ok(),
            open_in(&directory, &at, "file", Rule::FILE).is_ok(),
            locate_in(&directory, &at, "file", Rule::FILE).is_ok(),
            check(&path, File::open(&path).unwrap(), Rule::FILE).is_ok(),
        ]
    };
    assert_eq!(verdicts(), [true; 4]);
    place.chmod("file", 0o664);
    assert_eq!(verdicts(), [false; 4]);
    place.chmod("file", 0o644);
    if place.give("file", STRANGER) {
        assert_eq!(verdicts(), [false; 4]);
    }
}

#[test]
fn what_must_be_roots_is_not_the_own_users() {
    use rustix::thread::{Uid, set_thread_res_uid};
    let place = Place::new();
    assert!(!place.give("file", STRANGER) || place.give("", STRANGER));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Nobody but root can become somebody else.
            let stranger = Some(Uid::from_raw(STRANGER));
            if set_thread_res_uid(stranger, stranger, stranger).is_ok() {
                assert_eq!(place.why("file", Rule::FILE), None);
                let owner = Some(Distrust::Owner(STRANGER));
                assert_eq!(place.why("file", Rule::FILE.of_root()), owner);
            }
        });
    });
}
