//! Leases: a file's owner may have all wait who open it otherwise.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::harness::*;

const ENABLED: &str = "/proc/sys/fs/leases-enable";

/// Asks for a lease of `kind` as `user`, without the capability to have one on any file.
fn ask(user: &User, path: &Path, kind: &str) -> Output {
    let script = format!(
        "import fcntl, os, sys
os.stat(sys.argv[1])
file = open(sys.argv[1], 'r')
os.stat(sys.argv[1])
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.{kind})
print(fcntl.fcntl(file, fcntl.F_GETLEASE) == fcntl.{kind})"
    );
    let mut python = user.command("setpriv");
    python.args([
        "--bounding-set=-lease",
        "--inh-caps=-lease",
        "python3",
        "-c",
    ]);
    python.arg(script).arg(path);
    run(python, b"")
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    let said = text(&output.stderr);
    said.lines().last().unwrap_or_default().to_owned()
}

/// The setting of the machine, put back at the end.
struct LeasesEnabled(String);

impl LeasesEnabled {
    fn set(value: &str) -> Self {
        let before = fs::read_to_string(ENABLED).unwrap();
        fs::write(ENABLED, value).unwrap();
        Self(before)
    }
}

impl Drop for LeasesEnabled {
    fn drop(&mut self) {
        fs::write(ENABLED, &self.0).ok();
    }
}

#[test]
fn no_user_has_a_lease_on_the_control_file_and_the_setting_ends_those_on_secrets() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"value");
    let control = home.mount().join("jarvisctl");
    let (secret, enabled) = (daemon.file("app/db"), LeasesEnabled::set("1"));
    // Root as in a container: who manages is not the file's owner.
    for kind in ["F_RDLCK", "F_WRLCK"] {
        let said = refused(&ask(&root(), &control, kind));
        assert!(said.contains("PermissionError"), "{said}");
    }
    // What the sysctl file is shipped for.
    let lease = ask(&alice(), &secret, "F_WRLCK");
    assert_eq!(text(&lease.stdout), "True\n", "{lease:?}");
    let doctor = text(&home.ctl(&["doctor"], b"").stdout);
    assert!(doctor.contains("fs.leases-enable=0"), "{doctor}");

    let shipped = include_str!("../../systemd/jarvis.sysctl.conf");
    let setting = shipped.lines().last().unwrap().replace(' ', "");
    let mut sysctl = root().command("sysctl");
    sysctl.args(["-q", "-w", &setting]);
    assert!(run(sysctl, b"").status.success());
    let said = refused(&ask(&alice(), &secret, "F_WRLCK"));
    assert!(said.contains("Invalid argument"), "{said}");
    let doctor = text(&home.ctl(&["doctor"], b"").stdout);
    assert!(!doctor.contains("fs.leases-enable=0"), "{doctor}");
    drop(enabled);
    assert_eq!(alice().read(&secret), Ok(b"value".to_vec()));
}
