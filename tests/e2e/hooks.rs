//! Rotations with hooks, and what is left when something dies in the middle.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, mknodat};
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::harness::*;

/// Writes down what it was told, and fails or waits where it is told to.
const HOOK: &str = r#"#!/bin/sh
cd @OUT
old=$(cat <&3) new=$(cat <&4)
echo "$1 $2 $JARVIS_VERSION $old $new" >>log
if [ -e "wait-$1" ]; then echo "$1" >>waits; read _ <fifo; fi
[ ! -e "fail-$1" ]
"#;

struct Hooked {
    home: TestDaemon,
    out: PathBuf,
}

impl Hooked {
    fn new() -> Self {
        let home = TestDaemon::new().init(POLICY);
        home.configure("# dir = \"hooks\"", "dir = \"hooks\"");
        let (hooks, out) = (home.path("etc/hooks"), home.path("out"));
        for (directory, mode) in [(&hooks, 0o755), (&out, 0o777)] {
            fs::create_dir(directory).unwrap();
            fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
        }
        let hook = hooks.join("record");
        fs::write(&hook, HOOK.replace("@OUT", out.to_str().unwrap())).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        let mode = Mode::from_raw_mode(0o666);
        let fifo = out.join("fifo");
        mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        fs::set_permissions(&fifo, fs::Permissions::from_mode(0o666)).unwrap();
        Self { home, out }
    }

    fn hook(&self, name: &str) {
        self.home.ok(&["generate", name, "--length", "20"], b"");
        self.home.ok(&["configure", name, "--hook", "record"], b"");
    }

    fn mark(&self, what: &str) {
        fs::write(self.out.join(what), "").unwrap();
    }

    fn unmark(&self, what: &str) {
        fs::remove_file(self.out.join(what)).unwrap();
    }

    /// Every phase that ran, as the hook wrote it down.
    fn log(&self) -> Vec<Vec<String>> {
        let log = fs::read_to_string(self.out.join("log")).unwrap_or_default();
        let words = |line: &str| line.split(' ').map(str::to_owned).collect();
        log.lines().map(words).collect()
    }

    fn phases(&self) -> Vec<String> {
        self.log()
            .into_iter()
            .map(|mut words| words.remove(0))
            .collect()
    }

    fn pending(&self, name: &str) -> bool {
        !self.home.ok(&["versions", name], b"")["pending"].is_null()
    }

    fn read(&self, daemon: &RunningDaemon<'_>, name: &str) -> String {
        text(&alice().read(&daemon.file(name)).unwrap())
    }

    /// The runner is a process of its own and comes a moment after the worker.
    fn start(&self) -> RunningDaemon<'_> {
        let daemon = self.home.start();
        self.ready(&daemon);
        daemon
    }

    fn ready(&self, daemon: &RunningDaemon<'_>) {
        daemon.eventually("a runner", || {
            self.home.ok(&["status"], b"")["runner"] == true
        });
    }
}

#[test]
fn a_hook_brings_the_new_value_before_it_is_current() {
    let hooked = Hooked::new();
    let daemon = hooked.start();
    hooked.hook("app/p");
    let old = hooked.read(&daemon, "app/p");
    hooked.mark("wait-verify");
    let done = std::thread::scope(|scope| {
        let rotation = scope.spawn(|| hooked.home.ok(&["rotate", "app/p"], b""));
        daemon.eventually("the hook waits", || hooked.out.join("waits").exists());
        assert_eq!(hooked.read(&daemon, "app/p"), old, "not current yet");
        assert!(hooked.pending("app/p"));
        let refused = hooked.home.ctl(&["set", "app/p"], b"x");
        assert!(text(&refused.stderr).contains("under way"), "{refused:?}");
        fs::write(hooked.out.join("fifo"), "go on\n").unwrap();
        rotation.join().unwrap()
    });
    assert_eq!(done["version"], 2);
    let new = hooked.read(&daemon, "app/p");
    let told = |phase: &str| {
        [phase, "app/p", "2", &old, &new]
            .map(str::to_owned)
            .to_vec()
    };
    assert_eq!(hooked.log(), ["prepare", "apply", "verify"].map(told));
    daemon.stop();
    let rotated = hooked.home.records_with(&[("action", json!("rotate"))]);
    assert_eq!((rotated.len(), &rotated[0]["version"]), (1, &json!(2)));
    hooked.home.verify();
}

/// An emergency does not wait for the end of a rotation, which brings the clean
/// value.
#[test]
fn a_secret_is_revoked_while_its_next_value_is_on_its_way() {
    let hooked = Hooked::new();
    let daemon = hooked.start();
    hooked.hook("app/p");
    let old = hooked.read(&daemon, "app/p");
    hooked.mark("wait-verify");
    std::thread::scope(|scope| {
        let rotation = scope.spawn(|| hooked.home.ok(&["rotate", "app/p"], b""));
        daemon.eventually("the hook waits", || hooked.out.join("waits").exists());
        let request = "revoke request app/p --reason security-incident --immediate --rotate";
        let request: Vec<_> = request.split(' ').collect();
        hooked.home.ok(&request, b"");
        let revoked = alice().read(&daemon.file("app/p"));
        assert_eq!(revoked, Err(EKEYREVOKED));
        fs::write(hooked.out.join("fifo"), "go on\n").unwrap();
        rotation.join().unwrap()
    });
    let new = hooked.read(&daemon, "app/p");
    assert_ne!(new, old);
    assert_eq!(hooked.log()[2], ["verify", "app/p", "2", &old, &new]);
    daemon.stop();
    hooked.home.verify();
}

#[test]
fn a_failing_hook_leaves_the_old_value_current_and_says_so() {
    let hooked = Hooked::new();
    let daemon = hooked.start();
    hooked.hook("app/p");
    let old = hooked.read(&daemon, "app/p");
    for (phase, ran) in [
        ("prepare", &["prepare", "rollback"][..]),
        ("apply", &["prepare", "apply", "rollback"]),
        ("verify", &["prepare", "apply", "verify", "rollback"]),
    ] {
        hooked.mark(&format!("fail-{phase}"));
        let failed = hooked.home.ctl(&["rotate", "app/p"], b"");
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        assert!(
            text(&failed.stderr).contains("the old version stays"),
            "{failed:?}"
        );
        assert_eq!(hooked.phases(), ran);
        assert_eq!(hooked.read(&daemon, "app/p"), old);
        hooked.unmark(&format!("fail-{phase}"));
        fs::remove_file(hooked.out.join("log")).unwrap();
    }
    let told = hooked
        .home
        .records_with(&[("action", json!("rotate")), ("result", json!("failed"))]);
    let reasons: Vec<_> = told.iter().map(|r| r["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        [
            "version 2 given up: prepare: the hook ended with exit status 1; rolled back",
            "version 2 given up: apply: the hook ended with exit status 1; rolled back",
            "version 2 given up: verify: the hook ended with exit status 1; rolled back",
        ]
    );
    // A rollback that fails, too, is told; a hook that is not there is none.
    for name in ["fail-apply", "fail-rollback"] {
        hooked.mark(name);
    }
    hooked.home.ctl(&["rotate", "app/p"], b"");
    hooked
        .home
        .ok(&["configure", "app/p", "--hook", "nothing"], b"");
    hooked.home.ctl(&["rotate", "app/p"], b"");
    let told = hooked
        .home
        .records_with(&[("action", json!("rotate")), ("result", json!("failed"))]);
    let reason = |n: usize| told[n]["reason"].as_str().unwrap();
    assert!(
        reason(3).contains("its rollback failed, too"),
        "{}",
        reason(3)
    );
    assert!(reason(4).contains("it is not there"), "{}", reason(4));
    assert_eq!(hooked.read(&daemon, "app/p"), old);
    hooked
        .home
        .ok(&["configure", "app/p", "--hook", "record"], b"");
    for name in ["fail-apply", "fail-rollback"] {
        hooked.unmark(name);
    }
    assert_eq!(hooked.home.ok(&["rotate", "app/p"], b"")["version"], 2);
    assert!(hooked.read(&daemon, "app/p") != old);
}

/// A worker, the runner, or all of the daemon is killed while a phase runs: the
/// old value is current, the rollback has run, and the next rotation works.
#[test]
fn whatever_dies_in_the_middle_leaves_one_state() {
    for phase in ["prepare", "apply", "verify", "rollback"] {
        for victim in ["worker", "runner", "daemon"] {
            let hooked = Hooked::new();
            let mut daemon = hooked.start();
            hooked.hook("app/p");
            let old = hooked.read(&daemon, "app/p");
            hooked.mark(&format!("wait-{phase}"));
            if phase == "rollback" {
                hooked.mark("fail-apply");
            }
            let mut control = Control::open(&hooked.home.mount()).unwrap();
            control.ask("rotate app/p").0.unwrap();
            drop(control);
            daemon.eventually("the hook waits", || hooked.out.join("waits").exists());
            hooked.unmark(&format!("wait-{phase}"));
            if phase == "rollback" {
                hooked.unmark("fail-apply");
            }
            match victim {
                "worker" => kill_process(daemon.workers().0, Signal::KILL).unwrap(),
                "runner" => {
                    let runner = daemon.children("runner")[0].0;
                    kill_process(runner, Signal::KILL).unwrap();
                }
                _ => {
                    daemon.kill();
                    daemon = hooked.home.start();
                }
            }
            let settled = || !hooked.pending("app/p");
            daemon.eventually(&format!("{phase} {victim}: an end"), settled);
            let what = format!("{phase}, {victim}: {:?}", hooked.log());
            assert_eq!(hooked.read(&daemon, "app/p"), old, "{what}");
            assert_eq!(hooked.phases().last().unwrap(), "rollback", "{what}");
            hooked.ready(&daemon);
            assert_eq!(
                hooked.home.ok(&["rotate", "app/p"], b"")["version"],
                2,
                "{what}"
            );
            assert!(hooked.read(&daemon, "app/p") != old, "{what}");
            daemon.stop();
            hooked.home.verify();
        }
    }
}

#[test]
fn events_are_announced() {
    let hooked = Hooked::new();
    let receiver = hooked.home.path("etc/hooks/receive");
    let out = hooked.out.join("events");
    fs::write(
        &receiver,
        format!("#!/bin/sh\ncat >>{0}\necho >>{0}\n", out.display()),
    )
    .unwrap();
    fs::set_permissions(&receiver, fs::Permissions::from_mode(0o755)).unwrap();
    let config = hooked.home.path("etc/config.toml");
    let mut text = fs::read_to_string(&config).unwrap();
    text += &format!("\n[[notify]]\ncommand = {:?}\n", receiver.to_str().unwrap());
    fs::write(&config, text).unwrap();
    let daemon = hooked.start();
    hooked.hook("app/p");
    hooked.home.ok(&["rotate", "app/p"], b"");
    hooked.mark("fail-apply");
    hooked.home.ctl(&["rotate", "app/p"], b"");
    let value = hooked.read(&daemon, "app/p");
    let revoke = ["revoke", "request", "app/p", "--reason", "manual-request"];
    hooked.home.ok(&revoke, b"");
    hooked
        .home
        .ok(&[&revoke[..], &["--immediate"]].concat(), b"");
    for _ in 0..5 {
        bob().read(&daemon.file("app/p")).unwrap_err();
    }
    let kinds = || {
        let text = fs::read_to_string(&out).unwrap_or_default();
        let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty());
        let kinds = lines.map(|line| parse(line)["kind"].as_str().unwrap().to_owned());
        kinds.collect::<std::collections::BTreeSet<_>>()
    };
    let expected = [
        "approval_wanted",
        "revocation",
        "rotation",
        "rotation_failed",
        "suspicious",
    ];
    daemon.eventually("all events", || {
        expected.iter().all(|kind| kinds().contains(*kind))
    });
    let text = fs::read_to_string(&out).unwrap();
    assert!(!text.contains(&value), "{text}");
}
