//! The PostgreSQL hooks against a real server.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use jarvis_secretsd::testing::{HookError, HookName, HookPhase};
use rustix::process::Signal;
use serde_json::json;

use crate::fixture::*;
use crate::harness::postgres::{ADMIN, Postgres};
use crate::harness::*;

const PHASES: [HookPhase; 4] = [
    HookPhase::Prepare,
    HookPhase::Apply,
    HookPhase::Verify,
    HookPhase::Rollback,
];
/// Every character that a password may have.
const ODD: &str = " !\"#$%&'()*+,-./0:;<=>?@A[\\]^_`a{|}~ :'x' \\gexec ";

/// Of the hooks' exit statuses.
const BAD_VALUE: u8 = 65;
const NO_SERVER: u8 = 69;
const REFUSED: u8 = 70;
const BAD_CONFIG: u8 = 78;

/// A server, and a runner whose hooks change its roles.
struct Server {
    fixture: RunnerFixture,
    postgres: Postgres,
}

impl Server {
    fn start(seconds: u32) -> Self {
        let fixture = RunnerFixture::with_hooks(seconds);
        let postgres = Postgres::start(&fixture.path("postgres"));
        Self { fixture, postgres }
    }

    fn psql(&self, user: &str, password: &str, sql: &str) -> std::process::Output {
        self.postgres.psql(user, password, sql)
    }

    fn sql(&self, sql: &str) -> String {
        self.postgres.sql(sql)
    }

    fn try_login(&self, user: &str, password: &str) -> bool {
        self.postgres.try_login(user, password)
    }

    /// Puts `hook` where hooks are, with `section` for the test's secret.
    fn install(&self, hook: &str, section: &str) {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hooks");
        let hooks = self.fixture.path("etc/hooks");
        for (name, mode) in [(hook, 0o755), ("jarvis_postgres.py", 0o644)] {
            fs::copy(examples.join(name), hooks.join(name)).unwrap();
            fs::set_permissions(hooks.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        self.admin_password(ADMIN);
        self.configure(hook, &format!("host = 127.0.0.1\n{section}"));
    }

    fn configure(&self, hook: &str, section: &str) {
        let path = self.fixture.path("etc/hooks").join(format!("{hook}.conf"));
        let text = format!(
            "[DEFAULT]\nport = {}\nadmin = postgres\nadmin_password_file = admin.password\n\
             [{}]\n{section}\n",
            self.postgres.port(),
            ABOUT.name
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn admin_password(&self, password: &str) {
        let path = self.fixture.path("etc/hooks/admin.password");
        fs::write(&path, format!("{password}\n")).unwrap();
        chown(&path, None, Some(user("jarvis-runner").gid)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    }

    fn run(
        &self,
        hook: &str,
        phase: HookPhase,
        old: Option<&str>,
        new: &str,
    ) -> Result<(), HookError> {
        let hook = HookName::new(hook).unwrap();
        let old = old.map(str::as_bytes);
        self.fixture
            .errands
            .hook(&hook, phase, &ABOUT, old, new.as_bytes())
    }

    /// Every phase must fail with this exit status.
    fn fails(
        &self,
        hook: &str,
        phases: &[HookPhase],
        (old, new): (Option<&str>, &str),
        status: u8,
    ) {
        for phase in phases {
            let ended = self.run(hook, *phase, old, new);
            let as_told = matches!(ended, Err(HookError::Failed(with)) if with == status);
            assert!(as_told, "{phase:?}: {ended:?}");
        }
    }

    fn signal(&self, signal: Signal) {
        self.postgres.signal(signal);
    }

    fn log(&self) -> String {
        self.postgres.log()
    }
}

/// Looks for `secrets` in every command line and environment while `work` runs.
fn watched(secrets: &[&str], work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Acquire) || rounds == 0 {
                for process in fs::read_dir("/proc").unwrap() {
                    let process = process.unwrap().path();
                    for file in ["cmdline", "environ"] {
                        let bytes = fs::read(process.join(file)).unwrap_or_default();
                        let text = String::from_utf8_lossy(&bytes);
                        for secret in secrets {
                            assert!(!text.contains(secret), "{process:?}/{file}: {text}");
                        }
                    }
                }
                rounds += 1;
            }
            rounds
        });
        work();
        done.store(true, Ordering::Release);
        assert!(watcher.join().unwrap() > 0);
    });
}

#[test]
fn a_single_role_gets_its_password() {
    const HOOK: &str = "postgres-single-role";
    let server = Server::start(20);
    server.install(HOOK, "role = app's \"role\"");
    let role = "app's \"role\"";
    server.sql("CREATE ROLE \"app's \"\"role\"\"\" LOGIN PASSWORD 'before'");
    let rotated = [Some("first-7311"), Some(ODD), Some("last-7312")];

    watched(&["first-7311", ODD, "last-7312", ADMIN], || {
        // Each phase twice: a crash between may repeat it.
        for versions in rotated.windows(2) {
            let (old, new) = (versions[0], versions[1].unwrap());
            for phase in [
                HookPhase::Prepare,
                HookPhase::Prepare,
                HookPhase::Apply,
                HookPhase::Apply,
            ] {
                server.run(HOOK, phase, old, new).unwrap();
            }
            server.run(HOOK, HookPhase::Verify, old, new).unwrap();
            server.run(HOOK, HookPhase::Verify, old, new).unwrap();
        }
    });
    assert!(server.try_login(role, "last-7312"));
    assert!(!server.try_login(role, ODD));

    let both = (Some(ODD), "last-7312");
    server
        .run(HOOK, HookPhase::Rollback, both.0, both.1)
        .unwrap();
    server
        .run(HOOK, HookPhase::Rollback, both.0, both.1)
        .unwrap();
    assert!(server.try_login(role, ODD));
    server.fails(HOOK, &[HookPhase::Verify], both, NO_SERVER);
    // Nothing was before the first version that could be put back.
    server
        .run(HOOK, HookPhase::Rollback, None, "other")
        .unwrap();
    assert!(server.try_login(role, ODD));
    let longest = "x".repeat(4096);
    for phase in [HookPhase::Apply, HookPhase::Verify] {
        server.run(HOOK, phase, None, &longest).unwrap();
    }

    for bad in ["", "new\nline", "p\u{e4}ss", "nul\0", &"x".repeat(4097)] {
        let phases = [HookPhase::Prepare, HookPhase::Apply, HookPhase::Verify];
        server.fails(HOOK, &phases, (None, bad), BAD_VALUE);
    }
    let log = server.log();
    assert!(log.contains("SCRAM-SHA-256$4096:"), "statements are logged");
    for secret in ["first-7311", "\\gexec", "last-7312"] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[test]
fn what_goes_wrong_is_told_by_the_exit_status() {
    const HOOK: &str = "postgres-single-role";
    let server = Server::start(3);
    server.install(HOOK, "role = app");
    server.sql("CREATE ROLE app LOGIN PASSWORD 'before'");
    let values = (Some("before"), "after");
    let by_admin = [HookPhase::Prepare, HookPhase::Apply, HookPhase::Rollback];

    server.admin_password("wrong");
    server.fails(HOOK, &by_admin, values, NO_SERVER);
    server.admin_password(ADMIN);
    assert!(server.try_login("app", "before"));

    server.configure(HOOK, "host = 127.0.0.1\nrole = nobody");
    server.fails(HOOK, &by_admin, values, REFUSED);
    for bad in [
        "",
        "host = 127.0.0.1",
        "role = app",
        "host = 127.0.0.1\nrole = app\ncolour = 1",
    ] {
        server.configure(HOOK, bad);
        server.fails(HOOK, &PHASES, values, BAD_CONFIG);
    }
    server.configure(HOOK, "host = 127.0.0.1\nrole = app");
    let conf = server.fixture.path("etc/hooks/postgres-single-role.conf");
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o666)).unwrap();
    server.fails(HOOK, &PHASES, values, BAD_CONFIG);
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o644)).unwrap();

    // A server that takes connections and says nothing.
    server.configure(HOOK, "host = 127.0.0.1\nrole = app\ntimeout = 600");
    server.signal(Signal::STOP);
    let ended = server.run(HOOK, HookPhase::Apply, values.0, values.1);
    assert!(matches!(ended, Err(HookError::TimedOut(_))), "{ended:?}");
    server.configure(HOOK, "host = 127.0.0.1\nrole = app\ntimeout = 1");
    server.fails(HOOK, &[HookPhase::Apply], values, NO_SERVER);
    server.signal(Signal::CONT);
    server
        .run(HOOK, HookPhase::Rollback, values.0, values.1)
        .unwrap();
    assert!(server.try_login("app", "before"));

    server.configure(HOOK, "host = 127.0.0.1\nport = 1\nrole = app");
    server.fails(HOOK, &PHASES, values, NO_SERVER);
}

fn value(user: &str, password: &str) -> String {
    json!({"user": user, "password": password}).to_string()
}

#[test]
fn two_roles_take_turns() {
    const HOOK: &str = "postgres-alternating-roles";
    let server = Server::start(20);
    server.install(HOOK, "roles = app_a app_b\ngroup = app");
    server.sql("CREATE ROLE app; CREATE TABLE t (x int); GRANT SELECT ON t TO app");
    let versions = [
        value("app_a", "first-8411"),
        value("app_b", &format!("{ODD}8412")),
        value("app_a", "third-8413"),
    ];
    let reads = |user, password: &str| {
        let read = server.psql(user, password, "SELECT count(*) FROM t");
        read.status.success()
    };
    watched(&["first-8411", "8412", "third-8413", ADMIN], || {
        let mut old = None;
        for new in &versions {
            for phase in [HookPhase::Prepare, HookPhase::Apply, HookPhase::Verify] {
                server.run(HOOK, phase, old, new).unwrap();
                server.run(HOOK, phase, old, new).unwrap();
            }
            old = Some(new.as_str());
        }
    });
    // Who still has the version before goes on.
    assert!(reads("app_a", "third-8413"));
    assert!(reads("app_b", &format!("{ODD}8412")));
    assert!(!reads("app_a", "first-8411"));

    let (old, new) = (Some(versions[2].as_str()), value("app_b", "fourth"));
    server.run(HOOK, HookPhase::Rollback, old, &new).unwrap();
    server.run(HOOK, HookPhase::Rollback, old, &new).unwrap();
    assert!(
        !reads("app_b", &format!("{ODD}8412")),
        "its version was to end"
    );
    assert!(
        reads("app_a", "third-8413"),
        "the version in force was not touched"
    );
    server.fails(HOOK, &[HookPhase::Verify], (old, &new), NO_SERVER);

    for bad in [
        value("app_a", "the role in force"),
        value("postgres", "x"),
        value("app_b", "new\nline"),
        "{}".into(),
        "no json".into(),
        "{\"user\": [], \"password\": \"x\"}".into(),
        "{\"user\": \"app_b\", \"password\": \"x\", \"more\": 1}".into(),
    ] {
        server.fails(HOOK, &PHASES, (old, &bad), BAD_VALUE);
    }
    assert!(reads("app_a", "third-8413"));

    // What only one of them has would be missing after the next turn.
    for (grant, revoke) in [
        (
            "GRANT INSERT ON t TO app_a",
            "REVOKE INSERT ON t FROM app_a",
        ),
        ("ALTER ROLE app_b CREATEDB", "ALTER ROLE app_b NOCREATEDB"),
        ("GRANT pg_monitor TO app_a", "REVOKE pg_monitor FROM app_a"),
        (
            "ALTER TABLE t OWNER TO app_b",
            "ALTER TABLE t OWNER TO postgres",
        ),
    ] {
        server.sql(grant);
        server.fails(HOOK, &[HookPhase::Prepare], (old, &new), REFUSED);
        server.sql(revoke);
    }
    server.sql("REVOKE app FROM app_b");
    server.run(HOOK, HookPhase::Prepare, old, &new).unwrap();
    assert!(!server.log().contains("third-8413"));
}
