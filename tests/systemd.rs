//! The unit under a real systemd, booted in a container (tests/systemd-box.sh).
// Helpers are tests, too: what clippy.toml allows in tests is for them as well.
#![cfg(test)]

mod harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::*;

const UNIT: &str = "jarvis-secretsd.service";
const HOLDER: &str = "jarvis-secretsd-mount.service";
const MOUNT: &str = "/run/jarvis/secrets";

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn unit_text(name: &str) -> String {
    fs::read_to_string(source("systemd").join(name)).unwrap()
}

/// A booted systemd.
struct Machine(String);

impl Machine {
    fn boot(tree: &Path) -> Self {
        static BOOTED: AtomicU32 = AtomicU32::new(0);
        let number = BOOTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("jarvis-systemd-{}-{number}", std::process::id());
        let machine = Self(name.clone());
        let mut start = Command::new(source("tests/systemd-box.sh"));
        start.arg("start").arg(&name).arg(tree);
        let started = run(start, b"");
        assert!(started.status.success(), "{}", text(&started.stderr));
        machine
    }

    fn try_sh(&self, script: &str) -> std::process::Output {
        let mut exec = Command::new(source("tests/systemd-box.sh"));
        exec.args(["exec", &self.0, "sh", "-c", script]);
        run(exec, b"")
    }

    /// What a script in the machine prints; it must succeed.
    fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let journal = || text(&self.try_sh("journalctl -b --no-pager -n 80").stdout);
        assert!(
            output.status.success(),
            "{script}: {output:?}\n{}",
            journal()
        );
        text(&output.stdout).trim_end().to_owned()
    }

    fn main_pid(&self) -> String {
        self.sh(&format!("systemctl show -p MainPID --value {UNIT}"))
    }

    fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + patience();
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "never: {what}\n{}",
                self.sh("ls -l /opt/reader; cat /opt/reader/*; journalctl -b --no-pager -n 30")
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The connection's number and how often the reader has read.
    fn reader(&self) -> (String, u64) {
        let connection = format!("grep ' {MOUNT} ' /proc/self/mountinfo | cut -d' ' -f3");
        let count = self.sh("cat /opt/reader/count");
        (self.sh(&connection), count.parse().unwrap_or(0))
    }

    /// Has PID 1 look into the mount in all ways, and answer meanwhile.
    fn asked_by_pid_1(&self, what: &str) {
        let units = "asks-condition asks-environment asks-credential asks-condition-ordered \
            asks-environment-ordered asks-credential-ordered";
        for _ in 0..5 {
            let asked = self.try_sh(&format!(
                "timeout 5 systemctl start --no-block {units}; timeout 5 systemctl is-active {UNIT}"
            ));
            let late = asked.status.code() == Some(124);
            let journal = || text(&self.try_sh("journalctl -b --no-pager -n 60").stdout);
            assert!(!late, "{what}: systemctl does not answer\n{}", journal());
        }
    }

    /// After `disturbance` the mount is the same and the reader reads on.
    fn undisturbed(&self, what: &str, disturbance: impl FnOnce()) {
        let (connection, before) = self.reader();
        disturbance();
        self.eventually(what, || self.reader().1 > before + 20);
        assert_eq!(self.reader().0, connection, "{what}: another mount");
        let failures = self.try_sh("cat /opt/reader/failures");
        assert_eq!(text(&failures.stdout), "", "{what}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut stop = Command::new(source("tests/systemd-box.sh"));
        stop.args(["stop", &self.0]).status().ok();
    }
}

/// The tree of a machine with the unit, a vault with one secret, a consumer
/// that reads it at boot, and one that reads it all the time.
fn tree(home: &TestDaemon) -> PathBuf {
    {
        let daemon = home.start();
        daemon.set("app/db", b"the secret");
        home.ok(&["generate", "app/p"], b"");
        home.ok(&["configure", "app/p", "--hook", "carry"], b"");
        daemon.stop();
    }
    hooks_and_sinks(home);
    let tree = home.path("tree");
    let units = tree.join("etc/systemd/system");
    for directory in [
        "opt/jarvis",
        "opt/reader",
        "opt/told",
        "etc/systemd/system/multi-user.target.wants",
    ] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    for program in [
        env!("CARGO_BIN_EXE_jarvis-secretsd"),
        env!("CARGO_BIN_EXE_jarvisctl"),
    ] {
        let name = Path::new(program).file_name().unwrap();
        fs::copy(program, tree.join("opt/jarvis").join(name)).unwrap();
    }
    home.configure(home.mount().to_str().unwrap(), MOUNT);
    let credential = "/run/credentials/jarvis-secretsd.service/vault.key";
    home.configure(
        "key_file = \"vault.key\"",
        &format!("key_file = \"{credential}\""),
    );
    let copied = Command::new("cp")
        .arg("-a")
        .arg(home.etc())
        .arg(tree.join("etc/jarvis"))
        .status();
    assert!(copied.unwrap().success());
    for name in [UNIT, HOLDER] {
        let unit = unit_text(name).replace("/usr/bin/", "/opt/jarvis/");
        let quick = unit.replace("WatchdogSec=10", "WatchdogSec=3");
        fs::write(units.join(name), quick).unwrap();
    }
    for (name, text) in askers() {
        fs::write(units.join(name), text).unwrap();
    }
    let at_boot = "[Service]\nType=oneshot\nRemainAfterExit=yes\nPrivateTmp=yes\n\
        ExecStart=sh -c 'cat /run/jarvis/secrets/app/db >/opt/reader/at-boot'\n";
    fs::write(units.join("at-boot.service"), at_boot).unwrap();
    // Started before the mount is there, in a mount namespace of its own.
    let reader = "[Service]\nUser=jarvis-alice\nPrivateTmp=yes\nExecStart=/opt/reader/read\n";
    fs::write(units.join("reader.service"), reader).unwrap();
    let read = r#"#!/bin/sh
while ! [ -e /run/jarvis/secrets/app/db ]; do sleep 0.1; done
exec 3</run/jarvis/secrets/app/db
n=0
while :; do
    for secret in "$(cat /run/jarvis/secrets/app/db)" "$(head -c 99 <&3)"; do
        [ "$secret" = "the secret" ] || [ -z "$secret" ] || echo "read: $secret" >>/opt/reader/failures
    done
    cat /run/jarvis/secrets/app/db >/dev/null 2>>/opt/reader/failures
    n=$((n + 1)); echo $n >/opt/reader/count
done
"#;
    fs::write(tree.join("opt/reader/read"), read).unwrap();
    fs::write(tree.join("opt/receiver"), RECEIVER).unwrap();
    let receiver = "[Service]\nType=notify\nExecStart=python3 /opt/receiver\n";
    fs::write(units.join("receiver.service"), receiver).unwrap();
    for (path, mode) in [
        ("opt/reader", "0777"),
        ("opt/told", "0777"),
        ("opt/reader/read", "0755"),
    ] {
        Command::new("chmod")
            .arg(mode)
            .arg(tree.join(path))
            .status()
            .unwrap();
    }
    fs::write(tree.join("opt/reader/count"), "0").unwrap();
    Command::new("chmod")
        .arg("0666")
        .arg(tree.join("opt/reader/count"))
        .status()
        .unwrap();
    fs::create_dir_all(units.join("at-boot.service.d")).unwrap();
    fs::write(
        units.join("at-boot.service.d/jarvis.conf"),
        unit_text("consumer.conf"),
    )
    .unwrap();
    for unit in [UNIT, "at-boot.service"] {
        let link = units.join("multi-user.target.wants").join(unit);
        std::os::unix::fs::symlink(format!("/etc/systemd/system/{unit}"), link).unwrap();
    }
    tree
}

/// Units for which PID 1 itself, or a child of its, looks into the mount; ordered after the
/// service, and not.
fn askers() -> Vec<(String, String)> {
    let asks = [
        (
            "condition",
            format!("[Unit]\nConditionPathExists={MOUNT}/app/db\n"),
            String::new(),
        ),
        (
            "environment",
            String::new(),
            format!("EnvironmentFile={MOUNT}/app/db\n"),
        ),
        (
            "credential",
            String::new(),
            format!("LoadCredential=db:{MOUNT}/app/db\n"),
        ),
    ];
    let ordered = unit_text("consumer.conf");
    let mut units = Vec::new();
    for (name, before, service) in asks {
        let service = format!("[Service]\nType=oneshot\nExecStart=true\n{service}");
        let plain = format!("{before}{service}");
        units.push((format!("asks-{name}.service"), plain.clone()));
        let after = format!("{ordered}{plain}");
        units.push((format!("asks-{name}-ordered.service"), after));
    }
    units
}

/// Takes one webhook and keeps its body.
const RECEIVER: &str = r#"
import http.server, os, socket
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        with open("/opt/told/webhook", "wb") as kept:
            kept.write(body)
server = http.server.HTTPServer(("127.0.0.1", 8099), Receiver)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
server.handle_request()
"#;

/// What runs under the unit's filters besides the daemon.
fn hooks_and_sinks(home: &TestDaemon) {
    home.configure("# dir = \"hooks\"", "dir = \"hooks\"");
    let config = home.etc().join("config.toml");
    let told = "\n[[notify]]\nevents = [\"rotation\"]\n";
    let sinks = format!(
        "{told}command = \"/etc/jarvis/hooks/told\"\n\
         {told}webhook = \"http://127.0.0.1:8099/\"\nallow_http = true\n"
    );
    let text = fs::read_to_string(&config).unwrap() + &sinks;
    fs::write(&config, text).unwrap();
    let carry = "#!/bin/sh\nset -e\n[ \"$(cat <&3)\" != \"$(cat <&4)\" ]\n\
        echo \"$1 $(id -un)\" >>/opt/told/hook\n";
    let hooks = home.etc().join("hooks");
    fs::create_dir(&hooks).unwrap();
    for (name, script) in [
        ("carry", carry),
        ("told", "#!/bin/sh\ncat >/opt/told/command\n"),
    ] {
        let path = hooks.join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&hooks, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn the_unit_keeps_the_mount_over_whatever_happens() {
    let home = TestDaemon::new().init(POLICY);
    let machine = Machine::boot(&tree(&home));
    // Boot order: the consumer found its secret.
    assert_eq!(machine.sh("cat /opt/reader/at-boot"), "the secret");
    assert_eq!(machine.sh(&format!("systemctl is-active {UNIT}")), "active");
    // A mount made inside the service is seen outside.
    assert_eq!(machine.sh(&format!("cat {MOUNT}/app/db")), "the secret");
    machine.sh("systemctl start reader");
    machine.eventually("the reader reads", || machine.reader().1 > 5);
    let query = "/opt/jarvis/jarvisctl audit query --dir /etc/jarvis --unit reader.service";
    assert!(
        machine
            .sh(&format!("{query} --action read"))
            .contains("reader.service")
    );
    assert!(
        machine
            .sh(&format!("{query} --action read --json"))
            .contains("\"exe\": \"/")
    );

    machine.sh("systemctl start receiver");
    let rotated = machine.sh("/opt/jarvis/jarvisctl rotate app/p");
    assert!(rotated.contains("version 2"), "{rotated}");
    let phases = ["prepare", "apply", "verify"].map(|phase| format!("{phase} jarvis-runner"));
    assert_eq!(machine.sh("cat /opt/told/hook"), phases.join("\n"));
    for receiver in ["command", "webhook"] {
        machine.eventually(receiver, || {
            let told = machine.try_sh(&format!("cat /opt/told/{receiver}"));
            text(&told.stdout).contains("\"kind\":\"rotation\"")
        });
    }

    machine.undisturbed("restart", || {
        let _ = machine.sh(&format!("systemctl restart {UNIT}"));
    });
    machine.undisturbed("reload", || {
        let before = machine.sh("pgrep -f 'jarvis-secretsd worker' | sort | head -1");
        machine.sh(&format!("systemctl reload {UNIT}"));
        machine.eventually("another worker", || {
            machine.sh("pgrep -f 'jarvis-secretsd worker' | sort | head -1") != before
        });
    });
    machine.undisturbed("SIGKILL of the supervisor", || {
        let pid = machine.main_pid();
        machine.sh(&format!("kill -KILL {pid}"));
        machine.eventually("another supervisor", || machine.main_pid() != pid);
    });
    machine.undisturbed("SIGSTOP of the supervisor", || {
        let pid = machine.main_pid();
        machine.sh(&format!("kill -STOP {pid}"));
        machine.eventually("the watchdog", || {
            let now = machine.main_pid();
            now != pid && now != "0"
        });
    });
    machine.undisturbed("a second restart", || {
        let _ = machine.sh(&format!("systemctl restart {UNIT}"));
    });

    machine.sh(&format!("systemctl stop reader; systemctl stop {UNIT}"));
    machine.eventually("a stop takes the mount away", || {
        machine.reader().0.is_empty()
    });
    machine.eventually("the holder stops with it", || {
        let state = machine.try_sh(&format!("systemctl is-active {HOLDER}"));
        text(&state.stdout).trim() == "inactive"
    });
    machine.sh(&format!("systemctl start {UNIT}"));
    assert_eq!(machine.sh(&format!("cat {MOUNT}/app/db")), "the secret");
    machine.sh("/opt/jarvis/jarvisctl audit verify --dir /etc/jarvis");
}

/// Whatever is restarted, killed or stopped, systemctl answers and the mount stays.
#[test]
fn pid_1_never_waits_for_the_mount() {
    let home = TestDaemon::new().init(POLICY);
    let machine = Machine::boot(&tree(&home));
    machine.sh("systemctl start reader");
    machine.eventually("the reader reads", || machine.reader().1 > 5);
    let disturbances = [
        ("restart", format!("systemctl restart --no-block {UNIT}")),
        (
            "SIGKILL of the supervisor",
            format!("kill -KILL $(systemctl show -p MainPID --value {UNIT})"),
        ),
        ("SIGKILL of all", format!("systemctl kill -s KILL {UNIT}")),
        (
            "SIGSTOP of the supervisor",
            format!("kill -STOP $(systemctl show -p MainPID --value {UNIT})"),
        ),
        ("SIGSTOP of all", format!("systemctl kill -s STOP {UNIT}")),
        (
            "SIGKILL of the holder",
            format!("kill -KILL $(systemctl show -p MainPID --value {HOLDER})"),
        ),
        (
            "SIGSTOP of the holder",
            format!("kill -STOP $(systemctl show -p MainPID --value {HOLDER})"),
        ),
    ];
    for round in 0..rounds() {
        for (what, disturbance) in &disturbances {
            machine.undisturbed(&format!("{what}, round {round}"), || {
                machine.sh(disturbance);
                machine.asked_by_pid_1(what);
                machine.eventually("the service is back", || {
                    let state = machine.try_sh(&format!("timeout 5 systemctl is-active {UNIT}"));
                    text(&state.stdout).trim() == "active"
                });
                machine.eventually("the holder is back", || {
                    let state = machine.try_sh(&format!(
                        "pid=$(systemctl show -p MainPID --value {HOLDER}); grep -c '^State:.T' /proc/$pid/status"
                    ));
                    text(&state.stdout).trim() == "0"
                });
                machine.eventually("secrets are read", || {
                    let read = machine.try_sh(&format!("timeout 5 cat {MOUNT}/app/db"));
                    text(&read.stdout) == "the secret"
                });
            });
        }
    }
    // Nobody is left to answer: the kernel cuts the connection (Linux 6.15), and the
    // watchdogs start everything anew.
    machine.sh("systemctl stop reader");
    machine.sh(&format!(
        "systemctl kill -s STOP {UNIT} {HOLDER}; systemctl start --no-block asks-condition"
    ));
    let deadline = Instant::now() + Duration::from_secs(90);
    let whole = || {
        let read = machine.try_sh(&format!("timeout 5 cat {MOUNT}/app/db"));
        let active = machine.try_sh(&format!("timeout 5 systemctl is-active {UNIT}"));
        text(&read.stdout) == "the secret" && text(&active.stdout).trim() == "active"
    };
    while !whole() {
        assert!(Instant::now() < deadline, "the machine is lost");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// How often everything is disturbed: more in a soak.
fn rounds() -> u32 {
    let rounds = std::env::var("SYSTEMD_ROUNDS");
    rounds.map_or(2, |rounds| rounds.parse().unwrap())
}

/// Exposure as low as the job allows: docs/THREAT-MODEL.md says what is left.
#[test]
fn the_units_are_valid_and_as_confined_as_they_can_be() {
    let home = TestDaemon::new();
    // The verifier wants to see the program.
    let program = env!("CARGO_BIN_EXE_jarvis-secretsd");
    for name in [UNIT, HOLDER] {
        let text = unit_text(name).replace("/usr/bin/jarvis-secretsd", program);
        fs::write(home.path(name), text).unwrap();
    }
    for (name, most) in [(UNIT, 49), (HOLDER, 37)] {
        let unit = home.path(name);
        let mut verify = Command::new("systemd-analyze");
        verify.arg("verify").arg(&unit);
        let verified = run(verify, b"");
        assert_eq!(
            (verified.status.success(), text(&verified.stderr)),
            (true, String::new())
        );
        let mut security = Command::new("systemd-analyze");
        security
            .args(["security", "--offline=true"])
            .arg(format!("--threshold={most}"))
            .arg(&unit);
        let rated = run(security, b"");
        assert!(rated.status.success(), "{}", text(&rated.stdout));
    }
}
