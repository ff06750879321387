//! Hooks: what they get, what they may, and how they end.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::{Command, Stdio};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use jarvis_secretsd::testing::{HookError, HookName, HookPhase, StartRefusal};
use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::*;
use crate::harness::*;

fn name(name: &str) -> HookName {
    HookName::new(name).unwrap()
}

#[test]
fn values_arrive_exactly() {
    let fixture = RunnerFixture::with_hooks(30);
    fixture.script("copy", "#!/bin/sh\ncat <&3 >OUT/old && cat <&4 >OUT/new\n");
    let large: Vec<u8> = (0..=255).cycle().take(512 * 1024).collect();
    let small = b"\0\n\r\xff'\"$`\\ -n".to_vec();
    for (old, new) in [(&large, &small), (&small, &large), (&large, &large)] {
        let copied = fixture
            .errands
            .hook(&name("copy"), HookPhase::Apply, &ABOUT, Some(old), new);
        copied.unwrap();
        assert!(&fs::read(fixture.out("old")).unwrap() == old);
        assert!(&fs::read(fixture.out("new")).unwrap() == new);
    }
    // The first version has nothing before it.
    fixture.run("copy", HookPhase::Apply, b"").unwrap();
    assert_eq!(fixture.read("old"), "");
    assert_eq!(fixture.read("new"), "");
}

#[test]
fn a_hook_is_told_what_it_is_run_for() {
    let fixture = RunnerFixture::with_hooks(30);
    fixture.script(
        "ask",
        "#!/bin/sh\nprintf '%s\\n' \"$@\" >OUT/arguments; env >OUT/environment\n\
         { pwd; readlink /proc/self/fd/0 /proc/self/fd/3; id -u; umask; ulimit -c; \
         grep -E '^(NoNewPrivs|CapEff|CapPrm|CapAmb)' /proc/self/status; } >OUT/rest\n\
         cp \"$JARVIS_HOOKS/ask.conf\" OUT/conf\n",
    );
    fs::write(fixture.path("etc/hooks/ask.conf"), "port = 1\n").unwrap();
    for phase in [
        HookPhase::Prepare,
        HookPhase::Apply,
        HookPhase::Verify,
        HookPhase::Rollback,
    ] {
        fixture.run("ask", phase, b"the value").unwrap();
        assert_eq!(
            fixture.read("arguments"),
            format!("{}\napp/db\n", phase.as_str())
        );
        let environment = fixture.read("environment");
        let mut keys: Vec<_> = environment
            .lines()
            .map(|l| l.split_once('=').unwrap())
            .collect();
        keys.retain(|(key, _)| !["PWD", "OLDPWD", "SHLVL", "_"].contains(key));
        keys.sort_unstable();
        let hooks = keys[0].1.to_owned();
        assert_eq!(
            keys,
            [
                ("JARVIS_HOOKS", &*hooks),
                ("JARVIS_KID", "db-20260101-000000"),
                ("JARVIS_PHASE", phase.as_str()),
                ("JARVIS_SECRET", "app/db"),
                ("JARVIS_VERSION", "2"),
                ("LANG", "C.UTF-8"),
                (
                    "PATH",
                    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
                ),
            ]
        );
        // What lies beside it can be read although its directory is out of reach.
        assert_eq!(fixture.read("conf"), "port = 1\n");
    }
    let uid = user("jarvis-runner").uid;
    let none = "0000000000000000";
    assert_eq!(
        fixture.read("rest"),
        format!(
            "/\n/dev/null\n/dev/null\n{uid}\n0077\n0\nCapPrm:\t{none}\nCapEff:\t{none}\nCapAmb:\t{none}\nNoNewPrivs:\t1\n"
        )
    );
}

#[test]
fn a_hook_has_its_five_files_and_no_others() {
    let fixture = RunnerFixture::with_hooks(30);
    // ls opens the directory it lists.
    fixture.script("list", "#!/bin/sh\nexec ls -l /proc/self/fd >OUT/list\n");
    let listed = fixture
        .errands
        .hook(&name("list"), HookPhase::Apply, &ABOUT, Some(b"o"), b"n");
    listed.unwrap();
    let list = fixture.read("list");
    let fds: Vec<_> = list
        .lines()
        .filter_map(|line| line.split_once(" -> "))
        .map(|(left, target)| (left.rsplit(' ').next().unwrap(), target))
        .collect();
    let numbers: Vec<_> = fds.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5"], "{list}");
    assert_eq!(fds[0].1, "/dev/null");
    assert_eq!(fds[2].1, "/dev/null");
    assert!(fds[3].1.starts_with("pipe:"), "{list}");
    assert!(fds[4].1.starts_with("pipe:"), "{list}");
    assert!(fds[5].1.ends_with("/fd"), "{list}");
}

#[test]
fn values_are_in_no_command_line_and_no_environment() {
    let fixture = RunnerFixture::with_hooks(30);
    let (ready, go) = (fixture.fifo("ready"), fixture.fifo("go"));
    fixture.script(
        "wait",
        "#!/bin/sh\necho $$ >OUT/ready; read x <OUT/go; exit 0\n",
    );
    let planted = b"planted-4711-value";
    std::thread::scope(|scope| {
        let hook = scope.spawn(|| fixture.run("wait", HookPhase::Apply, planted));
        let pid = hear(&ready);
        let mut seen = 0;
        for process in fs::read_dir("/proc").unwrap() {
            let process = process.unwrap().path();
            for file in ["cmdline", "environ"] {
                let Ok(bytes) = fs::read(process.join(file)) else {
                    continue;
                };
                let found = bytes.windows(planted.len()).any(|part| part == planted);
                assert!(!found, "{process:?}/{file}");
                seen += usize::from(process.ends_with(&pid));
            }
        }
        assert_eq!(seen, 2, "the hook itself was looked at");
        release(&go);
        hook.join().unwrap().unwrap();
    });
}

#[test]
fn an_end_is_told_as_it_was() {
    let fixture = RunnerFixture::with_hooks(30);
    fixture.script("status", "#!/bin/sh\nexit 42\n");
    fixture.script("signal", "#!/bin/sh\nkill -9 $$\n");
    fixture.script("nowhere", "#!/no/such/interpreter\n");
    let run = |hook| fixture.run(hook, HookPhase::Apply, b"").unwrap_err();
    assert!(matches!(run("status"), HookError::Failed(42)));
    assert!(matches!(run("signal"), HookError::Killed(9)));
    let error = run("nowhere");
    let missing = StartRefusal::System(libc::ENOENT);
    assert!(
        matches!(error, HookError::Refused(why) if why == missing),
        "{error}"
    );
    assert!(!error.may_have_run());
}

#[test]
fn a_binary_is_run_like_a_script() {
    let fixture = RunnerFixture::with_hooks(30);
    let path = fixture.script("binary", "");
    fs::copy("/bin/false", &path).unwrap();
    let error = fixture.run("binary", HookPhase::Apply, b"").unwrap_err();
    assert!(matches!(error, HookError::Failed(1)), "{error}");
}

#[test]
fn hooks_that_others_could_have_changed_are_refused() {
    let fixture = RunnerFixture::with_hooks(30);
    let path = fixture.script("hook", "#!/bin/sh\necho ran >OUT/ran\n");
    let hooks = fixture.path("etc/hooks");
    let mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let refused = |hook: &str| match fixture.run(hook, HookPhase::Apply, b"") {
        Err(HookError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    for bits in [0o775, 0o757, 0o777] {
        mode(&path, bits);
        assert_eq!(refused("hook"), StartRefusal::Writable);
    }
    mode(&path, 0o644);
    assert_eq!(refused("hook"), StartRefusal::NotExecutable);
    mode(&path, 0o755);
    // Not even the runner's own user: what it wrote, anybody could have told it to.
    for owner in ["jarvis-alice", "jarvis-runner"] {
        chown(&path, Some(user(owner).uid), None).unwrap();
        assert_eq!(refused("hook"), StartRefusal::Owner);
    }
    chown(&path, Some(0), None).unwrap();
    symlink(&path, hooks.join("link")).unwrap();
    assert_eq!(refused("link"), StartRefusal::NoFile);
    symlink("/bin/sh", hooks.join("shell")).unwrap();
    assert_eq!(refused("shell"), StartRefusal::NoFile);
    fs::create_dir(hooks.join("dir")).unwrap();
    assert_eq!(refused("dir"), StartRefusal::NoFile);
    assert_eq!(refused("missing"), StartRefusal::Missing);
    mode(&hooks, 0o775);
    assert_eq!(refused("hook"), StartRefusal::DirectoryWritable);
    mode(&hooks, 0o755);
    chown(&hooks, Some(user("jarvis-alice").uid), None).unwrap();
    assert_eq!(refused("hook"), StartRefusal::DirectoryOwner);
    chown(&hooks, Some(0), None).unwrap();
    assert!(!fixture.out("ran").exists());
    // The very same is run when all is well.
    fixture.run("hook", HookPhase::Apply, b"").unwrap();
    assert_eq!(
        fs::metadata(fixture.out("ran")).unwrap().uid(),
        user("jarvis-runner").uid
    );
}

#[test]
fn without_a_directory_there_are_no_hooks() {
    let mut fixture = RunnerFixture::new("");
    assert!(matches!(
        fixture.run("hook", HookPhase::Apply, b""),
        Err(HookError::NoRunner)
    ));
    fixture.spawn_runner();
    let error = fixture.run("hook", HookPhase::Apply, b"").unwrap_err();
    assert!(matches!(
        error,
        HookError::Refused(StartRefusal::NoDirectory)
    ));
}

/// A hook that does not listen, with children in its group and out of it.
const STUBBORN: &str = "#!/bin/sh\ntrap '' TERM\n\
    setsid sh -c 'trap \"\" TERM; echo $$ >OUT/escaped; exec sleep 600' &\n\
    sh -c 'echo $$ >OUT/child; exec sleep 600' &\n\
    echo $$ >OUT/main\n";

#[test]
fn the_time_limit_ends_all_of_a_hook() {
    let fixture = RunnerFixture::with_hooks(1);
    fixture.script("slow", &format!("{STUBBORN}while :; do sleep 600; done\n"));
    let begun = Instant::now();
    let error = fixture.run("slow", HookPhase::Apply, b"").unwrap_err();
    assert!(matches!(error, HookError::TimedOut(_)), "{error}");
    let took = begun.elapsed();
    // One second, and two for those that ignore SIGTERM.
    assert!(took >= Duration::from_secs(3), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    for process in ["main", "child", "escaped"] {
        assert!(!lives(fixture.read(process).trim()), "{process}");
    }
    // One that does listen gets the chance.
    fixture.script(
        "polite",
        "#!/bin/sh\ntrap 'echo cleaned >OUT/cleaned; exit 0' TERM\nsleep 600 & wait\n",
    );
    let begun = Instant::now();
    let error = fixture.run("polite", HookPhase::Apply, b"").unwrap_err();
    assert!(matches!(error, HookError::TimedOut(_)), "{error}");
    assert!(
        begun.elapsed() < Duration::from_millis(2900),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(fixture.read("cleaned"), "cleaned\n");
}

#[test]
fn what_a_hook_leaves_behind_is_ended() {
    let fixture = RunnerFixture::with_hooks(30);
    // Each has written its number before the hook ends.
    let wait = "while [ ! -s OUT/escaped ] || [ ! -s OUT/child ]; do :; done\n";
    fixture.script("daemon", &format!("{STUBBORN}{wait}exit 0\n"));
    fixture.run("daemon", HookPhase::Apply, b"").unwrap();
    for process in ["main", "child", "escaped"] {
        assert!(!lives(fixture.read(process).trim()), "{process}");
    }
}

#[test]
fn when_the_runner_dies_nobody_waits_and_nothing_goes_on() {
    let mut fixture = RunnerFixture::with_hooks(600);
    let ready = fixture.fifo("ready");
    fixture.script(
        "long",
        "#!/bin/sh\nsleep 600 & echo $$ $! >OUT/ready; wait\n",
    );
    let pids = std::thread::scope(|scope| {
        let hook = scope.spawn(|| fixture.run("long", HookPhase::Apply, b""));
        let pids = hear(&ready);
        let runner = Pid::from_raw(fixture.runner().pid() as i32).unwrap();
        kill_process(runner, Signal::KILL).unwrap();
        let error = hook.join().unwrap().unwrap_err();
        assert!(matches!(error, HookError::RunnerEnded), "{error}");
        assert!(error.may_have_run());
        assert!(
            error
                .to_string()
                .contains("not known whether the hook finished")
        );
        pids
    });
    assert!(!fixture.errands.alive());
    for pid in pids.split(' ') {
        eventually("it is ended", || !lives(pid));
    }
    fixture.script("quick", "#!/bin/sh\n");
    fixture.spawn_runner();
    fixture.run("quick", HookPhase::Apply, b"").unwrap();
}

#[test]
fn a_hook_ends_with_its_keeper() {
    let fixture = RunnerFixture::with_hooks(600);
    let ready = fixture.fifo("ready");
    fixture.script(
        "long",
        "#!/bin/sh\necho $$ $PPID >OUT/ready\nexec sleep 600\n",
    );
    std::thread::scope(|scope| {
        let hook = scope.spawn(|| fixture.run("long", HookPhase::Apply, b""));
        let pids = hear(&ready);
        let (pid, keeper) = pids.split_once(' ').unwrap();
        let keeper = Pid::from_raw(keeper.parse().unwrap()).unwrap();
        kill_process(keeper, Signal::KILL).unwrap();
        let error = hook.join().unwrap().unwrap_err();
        assert!(matches!(error, HookError::RunnerEnded), "{error}");
        eventually("it is ended", || !lives(pid));
    });
    // The runner itself is as it was.
    assert!(fixture.errands.alive());
}

#[test]
fn a_hook_cannot_look_into_the_runner() {
    let fixture = RunnerFixture::with_hooks(30);
    let pid = fixture.runner().pid();
    fixture.script(
        "look",
        &format!(
            "#!/bin/sh\nfor file in mem environ fd/0 maps; do\n\
            head -c 1 /proc/{pid}/$file && exit 1\ndone\n[ -d /proc/{pid} ]\n"
        ),
    );
    fixture.run("look", HookPhase::Apply, b"").unwrap();
}

const FIRST: &str = "JARVIS_TEST_FIRST_WORKER";

/// Run by the test below in a process of its own, whose standard input leads to
/// the runner; by itself it does nothing.
#[test]
fn first_worker() {
    if std::env::var_os(FIRST).is_some() {
        let fixture = RunnerFixture::new(&hooks(600));
        let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        fixture.errands.connect(socket);
        let ended = fixture.run("long", HookPhase::Apply, b"");
        panic!("it should have been killed before: {ended:?}");
    }
}

#[test]
fn a_hook_does_not_outlive_the_worker_that_asked_for_it() {
    let mut fixture = RunnerFixture::new(&hooks(600));
    fixture.spawn_idle_runner();
    let ready = fixture.fifo("ready");
    fixture.script(
        "long",
        "#!/bin/sh\ntrap '' TERM\necho $$ >OUT/ready; while :; do sleep 600; done\n",
    );
    fixture.script("next", "#!/bin/sh\ntest ! -d /proc/$(cat OUT/pid)\n");
    let socket = fixture.runner().link().try_clone_to_owned().unwrap();
    let mut first = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hooks::first_worker"])
        .env(FIRST, "1")
        .stdin(socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    fs::write(fixture.out("pid"), hear(&ready)).unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    let socket = fixture.runner().link().try_clone_to_owned().unwrap();
    fixture.errands.connect(socket);
    // The second one's hook does not begin before the first one's is gone.
    fixture.run("next", HookPhase::Rollback, b"").unwrap();
    assert!(!lives(fixture.read("pid").trim()));
}

#[test]
fn hooks_run_side_by_side_and_end_in_any_order() {
    let fixture = RunnerFixture::with_hooks(600);
    let (ready, go) = (fixture.fifo("ready"), fixture.fifo("go"));
    fixture.script(
        "wait",
        "#!/bin/sh\necho >OUT/ready; read x <OUT/go; exit 3\n",
    );
    fixture.script("quick", "#!/bin/sh\nexit 4\n");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| fixture.run("wait", HookPhase::Apply, b""));
        hear(&ready);
        let quick = fixture.run("quick", HookPhase::Apply, b"");
        assert!(matches!(quick, Err(HookError::Failed(4))), "{quick:?}");
        assert!(fixture.errands.alive());
        release(&go);
        let slow = slow.join().unwrap();
        assert!(matches!(slow, Err(HookError::Failed(3))), "{slow:?}");
    });
}

#[test]
fn no_more_than_eight_hooks_are_at_work() {
    let fixture = RunnerFixture::with_hooks(600);
    let (ready, go) = (fixture.fifo("ready"), fixture.fifo("go"));
    fixture.script(
        "wait",
        "#!/bin/sh\necho >OUT/ready; read x <OUT/go\nexit 0\n",
    );
    std::thread::scope(|scope| {
        let hooks: Vec<_> = (0..8)
            .map(|_| {
                let hook = scope.spawn(|| fixture.run("wait", HookPhase::Apply, b""));
                hear(&ready);
                hook
            })
            .collect();
        let one_more = fixture.run("wait", HookPhase::Apply, b"");
        assert!(matches!(one_more, Err(HookError::Busy)), "{one_more:?}");
        // Each reads the end of the pipe once somebody has opened and closed it.
        for _ in &hooks {
            eventually("all have ended", || {
                if hooks.iter().all(ScopedJoinHandle::is_finished) {
                    return true;
                }
                release(&go);
                false
            });
        }
        for hook in hooks {
            hook.join().unwrap().unwrap();
        }
    });
}
