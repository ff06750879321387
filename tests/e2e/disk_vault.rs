//! The vault's file on a disk that is full, read-only or failing, and a file that goes away.
//! Through all of it reads go on, what was acknowledged is there after a restart and what
//! was refused is not, health tells the truth, and it recovers by itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::*;

fn command(program: &str, arguments: &[&str]) {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60", program]).args(arguments);
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// A file system of its own for the vault, which is moved to it.
struct VaultDisk {
    at: PathBuf,
    image: PathBuf,
    volume: Option<Volume>,
}

impl VaultDisk {
    fn tmpfs(home: &TestDaemon) -> Self {
        Self::moved_in(home, |_, at| Volume::tmpfs("6m", at))
    }

    fn ext4(home: &TestDaemon) -> Self {
        Self::moved_in(home, Volume::ext4)
    }

    fn moved_in(home: &TestDaemon, make: impl FnOnce(&Path, &Path) -> Volume) -> Self {
        let (at, image) = (home.path("etc/vault"), home.path("vault.img"));
        let (file, aside) = (at.join("vault.redb"), home.path("vault.aside"));
        fs::rename(&file, &aside).unwrap();
        let volume = Some(make(&image, &at));
        command("cp", &["-p", text_of(&aside), text_of(&file)]);
        Self { at, image, volume }
    }

    fn volume(&self) -> &Volume {
        self.volume.as_ref().unwrap()
    }

    /// Unmounts and mends it, as one does after errors; nobody may have it open.
    fn mend(&mut self) {
        self.volume = None;
        let image = text_of(&self.image);
        eventually("the device is free", || {
            let mut losetup = Command::new("losetup");
            losetup.args(["-j", image]);
            run(losetup, b"").stdout.is_empty()
        });
        let mut check = Command::new("e2fsck");
        check.args(["-fy", image]);
        let checked = run(check, b"");
        assert!(checked.status.code() < Some(4), "{checked:?}");
        self.volume = Some(Volume::mount(&self.image, &self.at));
    }

    fn file(&self) -> PathBuf {
        self.at.join("vault.redb")
    }
}

impl Drop for VaultDisk {
    fn drop(&mut self) {
        let mut chattr = Command::new("chattr");
        chattr.arg("-i").arg(self.file());
        chattr.stderr(std::process::Stdio::null()).status().ok();
    }
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Code and body that the HTTP port answers with.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// A daemon under test, with what it has acknowledged.
struct Subject<'h> {
    home: &'h TestDaemon,
    daemon: RunningDaemon<'h>,
    address: String,
    acknowledged: BTreeMap<String, Vec<u8>>,
}

impl<'h> Subject<'h> {
    fn start(home: &'h TestDaemon) -> Self {
        let (daemon, address) = home.start_http();
        let mut subject = Self {
            home,
            daemon,
            address,
            acknowledged: BTreeMap::new(),
        };
        assert_eq!(subject.set("app/db", b"v"), Ok(()));
        subject
    }

    /// Sets a secret; the refusal that it got.
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), String> {
        let output = self.home.ctl(&["set", name], value);
        if output.status.success() {
            self.acknowledged.insert(name.into(), value.into());
            return Ok(());
        }
        let why = text(&output.stderr);
        assert!(!why.contains("previous I/O"), "{why}");
        Err(why)
    }

    fn revoke(&self, name: &str) -> Result<(), String> {
        let arguments = [
            "revoke",
            "request",
            name,
            "--reason",
            "system-breach",
            "--immediate",
        ];
        let output = self.home.ctl(&arguments, b"");
        if output.status.success() {
            return Ok(());
        }
        Err(text(&output.stderr))
    }

    /// Every acknowledged value, and nothing of the refused ones.
    fn check(&self) {
        for (name, value) in &self.acknowledged {
            let read = root().read(&self.daemon.file(name));
            assert!(read.as_ref() == Ok(value), "{name}");
        }
        let listed = fs::read_dir(self.home.mount().join("app")).unwrap();
        assert_eq!(listed.count(), self.acknowledged.len());
    }

    /// Health as the port, the metrics and `status` tell it; they must agree.
    fn is_writable(&self) -> bool {
        let (code, body) = get(&self.address, "/healthz");
        assert_eq!(code, 200);
        let health: Value = serde_json::from_str(&body).unwrap();
        health["vault"]["writable"].as_bool().unwrap()
    }

    fn await_trouble(&self, want: &str) {
        self.daemon.eventually("degraded", || !self.is_writable());
        let (code, body) = get(&self.address, "/healthz");
        assert_eq!(code, 200);
        assert!(
            body.contains("\"degraded\"") && body.contains(want),
            "{body}"
        );
        let (_, metrics) = get(&self.address, "/metrics");
        assert!(metrics.contains("\njarvis_vault_writable 0\n"), "{metrics}");
        let status = self.home.ok(&["status"], b"");
        assert_eq!(status["vault_writable"], false, "{status}");
        let problem = status["vault_problem"].as_str().unwrap();
        assert!(problem.contains(want), "{problem}");
        self.daemon.eventually("said", || {
            let log = self.daemon.log();
            log.contains("the vault takes no changes") && log.contains(want)
        });
    }

    /// It is well again, without a change, and takes one.
    fn await_recovery(&mut self) {
        self.daemon.eventually("healthy", || self.is_writable());
        let (code, body) = get(&self.address, "/healthz");
        assert!(code == 200 && body.contains("\"status\":\"ok\""), "{body}");
        assert_eq!(get(&self.address, "/readyz").0, 200);
        let (_, metrics) = get(&self.address, "/metrics");
        assert!(metrics.contains("\njarvis_vault_writable 1\n"));
        let next = format!("app/after{}", self.acknowledged.len());
        assert_eq!(self.set(&next, b"works"), Ok(()));
        self.check();
    }

    fn is_ready(&self) -> bool {
        get(&self.address, "/readyz").0 == 200
    }

    fn restarted(self) -> Self {
        self.daemon.stop();
        let daemon = self.home.start();
        let address = http_address(&daemon.log()).unwrap();
        let subject = Self {
            daemon,
            address,
            ..self
        };
        subject.check();
        self.home.verify();
        subject
    }
}

/// Does `work` while `app/db` is read.
fn while_reading<T>(subject: &mut Subject<'_>, work: impl FnOnce(&mut Subject<'_>) -> T) -> T {
    let db = subject.daemon.file("app/db");
    while_read(1, &db, b"v", || work(subject))
}

#[test]
fn a_full_tmpfs_refuses_changes_while_reads_go_on_and_recovers() {
    full_disk(VaultDisk::tmpfs);
}

#[test]
fn a_full_ext4_refuses_changes_while_reads_go_on_and_recovers() {
    full_disk(VaultDisk::ext4);
}

fn full_disk(disk: fn(&TestDaemon) -> VaultDisk) {
    let home = TestDaemon::new().init(POLICY);
    let disk = disk(&home);
    let mut subject = Subject::start(&home);
    let large = vec![b'x'; 300_000];
    let names: Vec<String> = (0..8).map(|n| format!("app/small{n}")).collect();
    for name in &names {
        assert_eq!(subject.set(name, b"v"), Ok(()));
    }
    let ballast = while_reading(&mut subject, |subject| {
        let worker = subject.daemon.workers().0;
        let ballast = disk.volume().fill();
        let refused = (0..40).find_map(|n| subject.set(&format!("app/large{n}"), &large).err());
        let why = refused.unwrap();
        assert!(
            why.contains("No space left") && why.contains("nothing was changed"),
            "{why}"
        );
        subject.await_trouble("No space left");
        assert!(subject.is_ready(), "reads go on");
        for n in 0..8 {
            subject.set(&format!("app/again{n}"), &large).unwrap_err();
        }
        assert_eq!(
            subject.daemon.workers().0,
            worker,
            "it did not need another one"
        );
        // The next worker finds the disk full, and serves as well.
        kill_process(worker, Signal::KILL).unwrap();
        subject
            .daemon
            .eventually("replaced", || subject.daemon.workers().0 != worker);
        subject.set("app/again", &large).unwrap_err();
        assert!(subject.is_ready());
        let generation = home.ok(&["status"], b"")["worker_generation"].clone();
        assert_eq!(generation, json!(2));
        ballast
    });
    // Room is kept for these alone.
    let revoked = |subject: &Subject<'_>, name: &str| {
        assert_eq!(subject.revoke(name), Ok(()), "{name}");
        let fenced = root().read(&subject.daemon.file(name));
        assert_eq!(fenced, Err(EKEYREVOKED), "{name}");
    };
    for name in &names {
        revoked(&subject, name);
    }
    revoked(&subject, "app/db");
    assert!(!subject.is_writable(), "nothing else has room");
    subject.set("app/again", &large).unwrap_err();
    fs::remove_file(ballast).unwrap();
    subject
        .daemon
        .eventually("healthy", || subject.is_writable());
    for name in names {
        subject.acknowledged.remove(&name);
        assert_eq!(subject.set(&name, b"v"), Ok(()));
    }
    subject.acknowledged.remove("app/db");
    assert_eq!(subject.set("app/db", b"v"), Ok(()));
    subject.await_recovery();
    let subject = subject.restarted();
    assert_eq!(
        alice().read(&subject.daemon.file("app/db")),
        Ok(b"v".to_vec())
    );
    subject.daemon.stop();
}

#[test]
fn an_immutable_file_refuses_changes_while_reads_go_on_and_recovers() {
    let home = TestDaemon::new().init(POLICY);
    let disk = VaultDisk::ext4(&home);
    let mut subject = Subject::start(&home);
    let file = disk.file();
    while_reading(&mut subject, |subject| {
        for fault in 0..2 {
            command("chattr", &["+i", text_of(&file)]);
            // Noticed before anybody wants a change.
            subject.await_trouble("not permitted");
            let why = subject.set("app/refused", b"w").unwrap_err();
            assert!(
                why.contains("not permitted") && why.contains("nothing was changed"),
                "{why}"
            );
            subject.revoke("app/db").unwrap_err();
            assert!(subject.is_ready());
            if fault == 1 {
                // The next worker can't even open it for writing.
                let worker = subject.daemon.workers().0;
                kill_process(worker, Signal::KILL).unwrap();
                subject
                    .daemon
                    .eventually("replaced", || subject.daemon.workers().0 != worker);
                subject.await_trouble("not permitted");
                subject.set("app/refused", b"w").unwrap_err();
                assert!(subject.is_ready());
            }
            command("chattr", &["-i", text_of(&file)]);
            subject.await_recovery();
        }
    });
    subject.restarted().daemon.stop();
}

#[test]
fn a_file_system_that_failed_refuses_changes_while_reads_go_on() {
    let home = TestDaemon::new().init(POLICY);
    let mut disk = VaultDisk::ext4(&home);
    let mut subject = Subject::start(&home);
    while_reading(&mut subject, |subject| {
        disk.volume().fail();
        subject.set("app/refused", b"w").unwrap_err();
        subject.await_trouble("cannot be written");
        subject.revoke("app/db").unwrap_err();
        assert!(subject.is_ready());
        let worker = subject.daemon.workers().0;
        kill_process(worker, Signal::KILL).unwrap();
        subject
            .daemon
            .eventually("replaced", || subject.daemon.workers().0 != worker);
        subject.await_trouble("cannot be written");
    });
    // Such a file system has to be mounted anew, and nobody may have it open for that.
    let Subject {
        daemon,
        acknowledged,
        ..
    } = subject;
    daemon.stop();
    disk.mend();
    let daemon = home.start();
    let address = http_address(&daemon.log()).unwrap();
    let mut subject = Subject {
        home: &home,
        daemon,
        address,
        acknowledged,
    };
    subject.check();
    subject.await_recovery();
    subject.daemon.stop();
    home.verify();
}

#[test]
fn a_file_that_is_gone_refuses_changes_while_reads_go_on_until_it_is_back() {
    let home = TestDaemon::new().init(POLICY);
    let mut subject = Subject::start(&home);
    let file = home.path("etc/vault/vault.redb");
    let (aside, older) = (home.path("etc/aside"), home.path("etc/older"));
    let copy = |from: &Path, to: &Path| command("cp", &["-p", text_of(from), text_of(to)]);
    let refused = |subject: &mut Subject<'_>, want: &str| {
        let why = subject.set("app/refused", b"w").unwrap_err();
        for said in [want, text_of(&file), "nothing was changed", "put it back"] {
            assert!(why.contains(said), "{said}: {why}");
        }
        subject.revoke("app/db").unwrap_err();
        subject.await_trouble(want);
        assert!(subject.is_ready(), "reads go on");
        why
    };
    while_reading(&mut subject, |subject| {
        // Moved.
        fs::rename(&file, &aside).unwrap();
        refused(subject, "was moved away");
        fs::rename(&aside, &file).unwrap();
        subject.await_recovery();
        // Its directory.
        let directory = home.path("etc/vault");
        fs::rename(&directory, &aside).unwrap();
        refused(subject, "directory that was moved");
        let worker = subject.daemon.workers().0;
        kill_process(worker, Signal::KILL).unwrap();
        subject
            .daemon
            .eventually("replaced", || subject.daemon.workers().0 != worker);
        refused(subject, "directory that was moved");
        fs::rename(&aside, &directory).unwrap();
        subject.await_recovery();
        // Replaced by an older one.
        copy(&file, &older);
        assert_eq!(subject.set("app/newer", b"n"), Ok(()));
        fs::rename(&file, &aside).unwrap();
        copy(&older, &file);
        refused(subject, "was replaced");
        fs::rename(&aside, &file).unwrap();
        subject.await_recovery();
        // Removed: what is open is all there is, and the refusal says where.
        fs::remove_file(&file).unwrap();
        let why = refused(subject, "was removed");
        let open = why.split("what is served is in ").nth(1).unwrap();
        let open = open.split(')').next().unwrap();
        copy(Path::new(open), &file);
        subject.await_recovery();
    });
    subject.restarted().daemon.stop();
}

#[test]
fn a_file_that_was_cut_or_overwritten_takes_no_change_until_it_is_back() {
    let home = TestDaemon::new().init(POLICY);
    let mut subject = Subject::start(&home);
    let file = home.path("etc/vault/vault.redb");
    let whole = fs::read(&file).unwrap();
    for (bytes, want) in [
        (whole[..4096].to_vec(), "was truncated"),
        (vec![0; whole.len()], "was overwritten"),
    ] {
        fs::write(&file, bytes).unwrap();
        subject.set("app/refused", b"w").unwrap_err();
        subject.revoke("app/db").unwrap_err();
        subject.await_trouble(want);
        subject
            .daemon
            .eventually("not ready", || !subject.is_ready());
        let (_, why) = get(&subject.address, "/readyz");
        assert!(why.contains(want), "{why}");
        // A read is right or an error, never something else.
        let read = alice().read(&subject.daemon.file("app/db"));
        assert!(matches!(read.as_deref(), Ok(b"v") | Err(&EIO)), "{read:?}");
        fs::write(&file, &whole).unwrap();
        subject
            .daemon
            .eventually("healthy", || subject.is_writable());
        assert!(subject.is_ready());
        subject.check();
    }
    subject.await_recovery();
    let (uid, gid) = (user("jarvis").uid, user("jarvis").gid);
    chown(&file, Some(uid), Some(gid)).unwrap();
    subject.restarted().daemon.stop();
}
