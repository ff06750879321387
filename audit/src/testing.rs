//! Helpers that the tests of several modules share.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::line::RecordLine;
use crate::read::segment_path;
use crate::verify::verify;
use crate::{
    Action, Certify, Durability, EpochClaim, Event, FailureKind, HostId, Identity, KeyError, Log,
    OpenError, Opening, Outcome, Record, SegmentClaim, VerifyReport,
};

/// A log's directory, removed with it.
pub(crate) struct LogHome(pub(crate) tempfile::TempDir);

impl LogHome {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn segment(&self) -> PathBuf {
        segment_path(self.path(), 1)
    }

    /// Names of the segments' files.
    pub(crate) fn segments(&self) -> Vec<u32> {
        crate::read::segment_numbers(self.path()).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(self.segment()).unwrap()
    }

    /// Puts record lines in place of the log's.
    pub(crate) fn put(&self, bytes: &[u8]) {
        fs::write(self.segment(), bytes).unwrap();
    }

    pub(crate) fn lines(&self) -> Vec<Vec<u8>> {
        let bytes = self.bytes();
        bytes
            .split_inclusive(|&b| b == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    }

    pub(crate) fn open(&self, vault_seq: u64) -> Result<Log, OpenError> {
        let opening = Opening {
            reason: None,
            version: "test",
            vault_seq,
            accept_older_vault: false,
            ..Opening::default()
        };
        Log::open(self.path(), &identity(), opening)
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        let records = crate::read_records(self.path()).unwrap();
        records.map(Result::unwrap).collect()
    }

    pub(crate) fn verify(&self) -> Result<VerifyReport, (u64, FailureKind)> {
        verify(self.path(), &identity().public()).map_err(|f| (f.seq, f.kind))
    }

    /// Every file, so that a test can say that nothing changed.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = fs::read_dir(self.path())
            .unwrap()
            .map(|f| f.unwrap().path());
        files
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }
}

/// Somebody who signs in the host's name, and has another key.
pub(crate) struct Forger(pub(crate) Identity);

impl Certify for Forger {
    fn host(&self) -> HostId {
        identity().host()
    }

    fn certify(&self, claim: &EpochClaim) -> Result<[u8; 64], KeyError> {
        self.0.certify(claim)
    }

    fn certify_segment(&self, claim: &SegmentClaim) -> Result<[u8; 64], KeyError> {
        self.0.certify_segment(claim)
    }
}

pub(crate) fn identity() -> Identity {
    Identity::from_seed(1)
}

pub(crate) fn read(uid: u32) -> Event<'static> {
    Event {
        name: Some("team/db"),
        id: Some(1024),
        version: Some(3),
        uid: Some(uid),
        ..Event::new(Action::Read, Outcome::Ok, 7)
    }
}

/// Directory of the frozen logs, checkpoints and keys.
pub(crate) fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// Compares `written` with the frozen file `name`; with `JARVIS_WRITE_VECTORS` in the
/// environment writes that file, for a format that changed on purpose.
pub(crate) fn check_vector(name: &str, written: &str) {
    let path = vectors().join(name);
    if std::env::var_os("JARVIS_WRITE_VECTORS").is_some() {
        fs::write(&path, written).unwrap();
    }
    assert_eq!(written, fs::read_to_string(path).unwrap(), "{name}");
}

/// Whether a line has a signature.
pub(crate) fn is_signed(line: &[u8]) -> bool {
    let line = RecordLine::split(line.strip_suffix(b"\n").unwrap());
    line.unwrap().signature.is_some()
}

/// A line without its signature.
pub(crate) fn without_signature(line: &[u8]) -> Vec<u8> {
    let line = RecordLine::split(line.strip_suffix(b"\n").unwrap()).unwrap();
    [&*line.payload(), b"\n"].concat()
}

/// Lines of a log, with their newlines.
pub(crate) type Lines = Vec<Vec<u8>>;

/// Lines with `from` replaced by `to`, and a chain that fits; signatures are taken away from
/// what was changed.
pub(crate) fn relinked(lines: &[Vec<u8>], from: &str, to: &str) -> Lines {
    let mut out = Lines::new();
    for line in lines {
        let text = String::from_utf8(without_signature(line)).unwrap();
        let mut changed = text.replace(from, to);
        if let Some(before) = out.last() {
            let before = RecordLine::split(before.strip_suffix(b"\n").unwrap()).unwrap();
            let at = changed.find("\"prev\":\"").unwrap() + 8;
            changed.replace_range(at..at + 64, &hex::encode(before.digest()));
        }
        let is_same = changed == text;
        out.push(if is_same {
            line.clone()
        } else {
            changed.into_bytes()
        });
    }
    out
}

/// A log of a start, `reads` reads and a stop.
pub(crate) fn filled(reads: u32) -> LogHome {
    let home = LogHome::new();
    let log = home.open(7).unwrap();
    for uid in 0..reads {
        log.append(&read(uid), Durability::Signed).unwrap();
    }
    log.stop(7, None).unwrap();
    home
}
