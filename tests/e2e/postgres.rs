//! Rotations of a real database's passwords, while clients log in all the time.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Group;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::harness::postgres::{ADMIN, Postgres};
use crate::harness::*;

const ROTATIONS: u64 = 20;
const SECRET: &str = "app/login";

struct Database {
    home: TestDaemon,
    postgres: Postgres,
}

impl Database {
    /// A server, a daemon's home, and `hook` with `section` for the secret.
    fn new(hook: &str, section: &str) -> Self {
        let home = TestDaemon::new().init(POLICY);
        home.configure("# dir = \"hooks\"", "dir = \"hooks\"");
        let hooks = home.path("etc/hooks");
        fs::create_dir(&hooks).unwrap();
        let postgres = Postgres::start(&home.path("postgres"));
        let write = |name: &str, text: &str, mode| {
            fs::write(hooks.join(name), text).unwrap();
            fs::set_permissions(hooks.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hooks");
        for name in [hook, "jarvis_postgres.py"] {
            write(
                name,
                &fs::read_to_string(examples.join(name)).unwrap(),
                0o755,
            );
        }
        let conf = format!(
            "[DEFAULT]\nhost = 127.0.0.1\nport = {}\nadmin = postgres\n\
             admin_password_file = admin.password\n[{SECRET}]\n{section}\n",
            postgres.port()
        );
        write(&format!("{hook}.conf"), &conf, 0o644);
        write("admin.password", &format!("{ADMIN}\n"), 0o640);
        let runner = Group::from_name("jarvis-runner")
            .unwrap()
            .unwrap()
            .gid
            .as_raw();
        chown(hooks.join("admin.password"), None, Some(runner)).unwrap();
        // The same hook, which fails after a phase where it is told to.
        let failing = format!(
            "#!/bin/sh\n\"$JARVIS_HOOKS/{hook}\" \"$@\" || exit\n[ ! -e \"$JARVIS_HOOKS/fail-$1\" ]\n"
        );
        write("failing", &failing, 0o755);
        Self { home, postgres }
    }

    fn start(&self) -> RunningDaemon<'_> {
        let daemon = self.home.start();
        daemon.eventually("a runner", || {
            self.home.ok(&["status"], b"")["runner"] == true
        });
        daemon
    }

    fn hook(&self, hook: &str) {
        self.home.ok(&["configure", SECRET, "--hook", hook], b"");
    }

    fn rotate(&self, version: u64) {
        assert_eq!(self.home.ok(&["rotate", SECRET], b"")["version"], version);
    }
}

fn login_of(value: &[u8]) -> (String, String) {
    let value: Value = serde_json::from_slice(value).unwrap();
    let text = |key: &str| value[key].as_str().unwrap().to_owned();
    (text("user"), text("password"))
}

#[test]
fn with_alternating_roles_no_login_fails() {
    let database = Database::new(
        "postgres-alternating-roles",
        "roles = app_a app_b\ngroup = app",
    );
    let daemon = database.start();
    let template = database.home.path("template.json");
    let text = json!({
        "user": {"$alternate": ["app_a", "app_b"]},
        "password": {"$generate": {"type": "password", "length": 24}},
    });
    fs::write(&template, text.to_string()).unwrap();
    let make = [
        "generate",
        SECRET,
        "--type",
        "json",
        "--template",
        template.to_str().unwrap(),
    ];
    database.home.ok(&make, b"");
    let path = daemon.file(SECRET);
    let (_, first) = login_of(&alice().read(&path).unwrap());
    database.postgres.sql(&format!(
        "CREATE ROLE app; CREATE TABLE t (x int); GRANT SELECT ON t TO app;
         CREATE ROLE app_a LOGIN PASSWORD '{first}'; GRANT app TO app_a"
    ));
    database.hook("postgres-alternating-roles");
    let (done, logins) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (user, password) = login_of(&alice().read(&path).unwrap());
                let read = database
                    .postgres
                    .psql(&user, &password, "SELECT count(*) FROM t");
                assert!(read.status.success(), "{user}: {read:?}");
                logins.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = Stop(&done);
        for version in 2..=ROTATIONS + 1 {
            database.rotate(version);
            let (user, _) = login_of(&alice().read(&path).unwrap());
            assert_eq!(user, ["app_a", "app_b"][usize::from(version % 2 == 0)]);
        }
    });
    assert!(logins.load(Ordering::Relaxed) > ROTATIONS);
    daemon.stop();
    database.home.verify();
}

struct Stop<'d>(&'d AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Between `apply` and the moment in which the new version is current nobody can
/// log in: who is refused waits for the new version and tries once more.
#[test]
fn with_a_single_role_no_login_fails_twice() {
    let database = Database::new("postgres-single-role", "role = app");
    let daemon = database.start();
    database.home.ok(&["generate", SECRET], b"");
    let path = daemon.file(SECRET);
    let read = || text(&alice().read(&path).unwrap());
    let first = read();
    database
        .postgres
        .sql(&format!("CREATE ROLE app LOGIN PASSWORD '{first}'"));
    database.hook("postgres-single-role");
    let done = AtomicBool::new(false);
    // The last password that the client got in with.
    let good = Mutex::new(String::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let password = read();
                if database.postgres.try_login("app", &password) {
                    *good.lock() = password;
                    continue;
                }
                let deadline = Instant::now() + Duration::from_secs(30);
                let mut again = read();
                while again == password {
                    assert!(Instant::now() < deadline, "no new version comes");
                    again = read();
                }
                assert!(database.postgres.try_login("app", &again), "refused twice");
            }
        });
        let _stop = Stop(&done);
        for version in 2..=ROTATIONS + 1 {
            database.rotate(version);
            daemon.eventually("the client has it", || *good.lock() == read());
        }
    });
    assert!(database.postgres.try_login("app", &read()));
    assert!(!database.postgres.try_login("app", &first));

    // Whatever phase fails, the old password works and is current.
    database.hook("failing");
    let old = read();
    for phase in ["prepare", "apply", "verify"] {
        let mark = database
            .home
            .path("etc/hooks")
            .join(format!("fail-{phase}"));
        fs::write(&mark, "").unwrap();
        let failed = database.home.ctl(&["rotate", SECRET], b"");
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        assert_eq!(read(), old, "{phase}");
        assert!(database.postgres.try_login("app", &old), "{phase}");
        fs::remove_file(mark).unwrap();
    }
    database.rotate(ROTATIONS + 2);
    assert!(database.postgres.try_login("app", &read()) && read() != old);
    daemon.stop();
    database.home.verify();
}
