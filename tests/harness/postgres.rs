//! A PostgreSQL server of a test's own that knows nobody without a password.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::User;
use rustix::process::{Pid, Signal, kill_process};

/// The password of `postgres`.
pub(crate) const ADMIN: &str = "admin's \\ word:1";

pub(crate) struct Postgres {
    home: PathBuf,
    server: Child,
    port: u16,
}

impl Postgres {
    /// Starts one below `home`, which is made.
    pub(crate) fn start(home: &Path) -> Self {
        fs::create_dir(home).unwrap();
        let alice = User::from_name("jarvis-alice").unwrap();
        let alice = alice.expect("no user jarvis-alice: run tests/setup.sh");
        chown(home, Some(alice.uid.as_raw()), Some(alice.gid.as_raw())).unwrap();
        fs::write(home.join("password"), format!("{ADMIN}\n")).unwrap();
        let made = as_alice(&programs().join("initdb"))
            .args(["--no-sync", "--auth=scram-sha-256", "--username=postgres"])
            .args(["--encoding=UTF8", "--no-locale", "--pgdata"])
            .arg(home.join("data"))
            .arg("--pwfile")
            .arg(home.join("password"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let server = as_alice(&programs().join("postgres"))
            .arg("-D")
            .arg(home.join("data"))
            .arg("-k")
            .arg(home)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "fsync=off", "-c", "log_statement=all"])
            .args(["-c", "log_min_error_statement=debug5"])
            .stderr(fs::File::create(home.join("log")).unwrap())
            .spawn()
            .unwrap();
        let server = Self {
            home: home.to_owned(),
            server,
            port,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !server.try_login("postgres", ADMIN) {
            assert!(
                Instant::now() < deadline,
                "it takes no connections: {}",
                server.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// psql, as the tests see the server.
    pub(crate) fn psql(&self, user: &str, password: &str, sql: &str) -> std::process::Output {
        // No password of a test's may be where the hooks' must not be.
        let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "*:*:*:*:{escaped}").unwrap();
        Command::new("psql")
            .args(["-XqAtw", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"])
            .args(["-d", "postgres", "-p", &self.port.to_string()])
            .args(["-U", user, "-c", sql])
            .env("PGPASSFILE", file.path())
            .output()
            .unwrap()
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        let output = self.psql("postgres", ADMIN, sql);
        assert!(output.status.success(), "{sql}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn try_login(&self, user: &str, password: &str) -> bool {
        self.psql(user, password, "SELECT 1").status.success()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once; a stopped one goes on for that.
        kill_process(Pid::from_child(&self.server), Signal::QUIT).ok();
        kill_process(Pid::from_child(&self.server), Signal::CONT).ok();
        self.server.wait().ok();
    }
}

/// Debian's directory of the newest server.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("no PostgreSQL: run tests/setup.sh");
    let with_server = versions
        .map(|version| version.unwrap().path().join("bin"))
        .filter(|bin| bin.join("postgres").exists());
    with_server
        .max()
        .expect("no PostgreSQL: run tests/setup.sh")
}

/// The server refuses to run as root.
fn as_alice(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=jarvis-alice",
            "--regid=jarvis-alice",
            "--clear-groups",
        ])
        .arg(program)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}
