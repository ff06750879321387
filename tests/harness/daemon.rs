//! A daemon in a temporary directory.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::*;

pub(crate) fn jarvisctl() -> PathBuf {
    env!("CARGO_BIN_EXE_jarvisctl").into()
}

fn secretsd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_jarvis-secretsd"))
}

/// The configuration, vault, log and mount point of a daemon, all in a temporary
/// directory; nothing is left behind.
pub(crate) struct TestDaemon {
    dir: tempfile::TempDir,
}

impl TestDaemon {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("jarvis-e2e-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    pub(crate) fn etc(&self) -> PathBuf {
        self.path("etc")
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.path("mnt")
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.path("etc/audit/00000001.jsonl")
    }

    /// `jarvisctl init`, with the HTTP port off so that tests run side by side.
    pub(crate) fn init(self, policy: &str) -> Self {
        let made = self.ok(&["init", "--dir", self.etc().to_str().unwrap()], b"");
        assert_eq!(made["config"], json!(self.path("etc/config.toml")));
        self.configure("[http]", "[http]\nenabled = false");
        self.policy(policy);
        self
    }

    /// Replaces a piece of config.toml.
    pub(crate) fn configure(&self, from: &str, to: &str) {
        let path = self.path("etc/config.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} not in {text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    pub(crate) fn policy(&self, text: &str) {
        fs::write(self.path("etc/policy.yaml"), text).unwrap();
    }

    /// jarvisctl as root.
    pub(crate) fn ctl(&self, arguments: &[&str], input: &[u8]) -> Output {
        self.ctl_as(&root(), arguments, input)
    }

    pub(crate) fn ctl_as(&self, user: &User, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = user.command(jarvisctl());
        command.arg("--mount").arg(self.mount()).args(arguments);
        run(command, input)
    }

    /// jarvisctl as root, for a mount elsewhere.
    pub(crate) fn ctl_at(&self, mount: &Path, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = root().command(jarvisctl());
        command.arg("--mount").arg(mount).args(arguments);
        run(command, input)
    }

    /// jarvisctl as root, which must succeed; its output as JSON.
    pub(crate) fn ok(&self, arguments: &[&str], input: &[u8]) -> Value {
        let output = self.ctl(&[arguments, &["--json"]].concat(), input);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// The versions of a secret, oldest first, as `jarvisctl versions` shows them.
    pub(crate) fn versions(&self, name: &str) -> Vec<Value> {
        let known = self.ok(&["versions", name], b"");
        known["versions"].as_array().unwrap().clone()
    }

    /// The key ids of all versions of a secret.
    pub(crate) fn kids(&self, name: &str) -> Vec<String> {
        strings(&self.versions(name), "kid")
    }

    /// The states of all versions of a secret.
    pub(crate) fn states(&self, name: &str) -> Vec<String> {
        strings(&self.versions(name), "state")
    }

    /// Where a version of a secret is read by its key id.
    pub(crate) fn by_kid(&self, name: &str, kid: &str) -> PathBuf {
        self.mount().join(".kid").join(name).join(kid)
    }

    /// The daemon with a clock that [`TestDaemon::set_clock`] sets.
    pub(crate) fn clocked(&self) -> Command {
        let target = Path::new(env!("CARGO_BIN_EXE_jarvis-secretsd"))
            .parent()
            .unwrap();
        let program = self.path("bin/jarvis-secretsd");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        let built = target.join("examples/jarvis-secretsd-clock");
        assert!(built.exists(), "not built; run: cargo build --examples");
        copy_program(built, &program);
        self.set_clock(Duration::ZERO);
        let mut command = Command::new(program);
        command.arg("--config").arg(self.path("etc/config.toml"));
        command
    }

    /// Lets this much time pass for the daemon.
    pub(crate) fn set_clock(&self, ahead: Duration) {
        let ms = i64::try_from(ahead.as_millis()).unwrap();
        self.set_clocks(ms, ms);
    }

    /// Puts the daemon's clock ahead by `wall_ms`, and its time since boot by `boot_ms`.
    pub(crate) fn set_clocks(&self, wall_ms: i64, boot_ms: i64) {
        // In one piece: the daemon may read it at any instant.
        let text = format!("{wall_ms:>20} {boot_ms:>20}");
        let clock = self.path("bin/clock");
        let mut file = OpenOptions::new();
        file.create(true).truncate(false).write(true);
        let file = file.open(clock).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0).unwrap();
    }

    pub(crate) fn daemon(&self) -> Command {
        let mut command = secretsd();
        command.arg("--config").arg(self.path("etc/config.toml"));
        command.current_dir(self.dir.path());
        command
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub(crate) fn start(&self) -> RunningDaemon<'_> {
        self.start_command(self.daemon(), b"")
    }

    /// Starts the daemon with its HTTP port on, at any free one.
    pub(crate) fn start_http(&self) -> (RunningDaemon<'_>, String) {
        self.configure(
            "enabled = false",
            "enabled = true\nlisten = \"127.0.0.1:0\"",
        );
        let daemon = self.start();
        let address = http_address(&daemon.log()).unwrap();
        (daemon, address)
    }

    pub(crate) fn start_command(&self, command: Command, input: &[u8]) -> RunningDaemon<'_> {
        match self.try_start(command, input) {
            Ok(daemon) => daemon,
            Err(stderr) => panic!("the daemon did not start: {stderr}"),
        }
    }

    /// The daemon, or what it said before it ended.
    pub(crate) fn try_start(
        &self,
        mut command: Command,
        input: &[u8],
    ) -> Result<RunningDaemon<'_>, String> {
        let log = self.path("daemon.log");
        let stderr = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&log)
            .unwrap();
        let before = fs::read_to_string(&log).unwrap().len();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        if line.starts_with("ready: ") {
            return Ok(RunningDaemon {
                home: self,
                child: Some(child),
            });
        }
        child.wait().unwrap();
        Err(fs::read_to_string(log).unwrap().split_off(before))
    }

    /// What `audit verify` says; fails the test when the log is bad.
    pub(crate) fn verify(&self) -> String {
        let output = self.audit_verify();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn audit_verify(&self) -> Output {
        self.ctl(
            &["audit", "verify", "--dir", self.etc().to_str().unwrap()],
            b"",
        )
    }

    /// The files of the audit log, in their order.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path("etc/audit")).unwrap();
        let mut segments: Vec<_> = files
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
            .collect();
        segments.sort();
        segments
    }

    /// Every record so far of something that happened: not the signatures that follow.
    pub(crate) fn records(&self) -> Vec<Value> {
        let mut records = self.all_records();
        records.retain(|record| record["action"] != "signature");
        records
    }

    /// Every record so far.
    pub(crate) fn all_records(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap();
        let segments = self.segments().into_iter();
        let texts = segments.map(|segment| fs::read_to_string(segment).unwrap());
        texts
            .flat_map(|text| text.lines().map(parse).collect::<Vec<_>>())
            .collect()
    }

    /// The records in which all `fields` have these values.
    pub(crate) fn records_with(&self, fields: &[(&str, Value)]) -> Vec<Value> {
        let matches = |record: &Value| fields.iter().all(|(key, value)| &record[*key] == value);
        self.records().into_iter().filter(matches).collect()
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("daemon.log")).unwrap_or_default();
            eprintln!("the daemon's log:\n{log}");
        }
        detach(&self.mount());
        let config = fs::read_to_string(self.path("etc/config.toml")).unwrap_or_default();
        let configured = config.lines().find_map(|line| line.strip_prefix("path = "));
        let configured = configured.map(|path| path.trim_matches('"').into());
        // Only then can the directory be removed.
        for point in [Some(self.mount()), configured].into_iter().flatten() {
            let mut unseal = Command::new("chattr");
            unseal.arg("-i").arg(point).stderr(Stdio::null());
            unseal.status().ok();
        }
    }
}

/// A running daemon, stopped at the latest when it goes out of scope.
pub(crate) struct RunningDaemon<'h> {
    home: &'h TestDaemon,
    child: Option<Child>,
}

impl RunningDaemon<'_> {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// Children of the supervisor in `role`, and how many threads each has.
    pub(crate) fn children(&self, role: &str) -> Vec<(Pid, u32)> {
        let list = format!("/proc/{0}/task/{0}/children", self.pid().as_raw_nonzero());
        let children = fs::read_to_string(list).unwrap_or_default();
        let plays = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|&b| b == 0).nth(1) == Some(role.as_bytes())
        };
        let about = |pid: i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let threads = status.lines().find_map(|l| l.strip_prefix("Threads:"))?;
            Some((Pid::from_raw(pid)?, threads.trim().parse().ok()?))
        };
        let pids = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        pids.filter(plays).filter_map(about).collect()
    }

    /// The worker that serves and the one that stands by, once there are both.
    pub(crate) fn workers(&self) -> (Pid, Pid) {
        let deadline = Instant::now() + patience();
        loop {
            let all = self.children("worker");
            // Serving takes threads, waiting takes one.
            let serving = all.iter().find(|(_, threads)| *threads >= 6);
            let standby = all.iter().find(|(_, threads)| *threads == 1);
            if let (Some((serving, _)), Some((standby, _))) = (serving, standby) {
                return (*serving, *standby);
            }
            assert!(Instant::now() < deadline, "nobody serves: {all:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Where there is no standby.
    pub(crate) fn only_worker(&self) -> Pid {
        match self.children("worker")[..] {
            [(worker, _)] => worker,
            ref others => panic!("{others:?}"),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// SIGTERM; the daemon must end well.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Waits for the end, not for ever.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().unwrap();
        let pid = Pid::from_child(&child);
        let (sender, receiver) = channel();
        std::thread::spawn(move || sender.send(child.wait()));
        match receiver.recv_timeout(patience()) {
            Ok(status) => status.unwrap(),
            Err(_) => {
                kill_process(pid, Signal::KILL).ok();
                detach(&self.home.mount());
                panic!("the daemon did not end: {}", self.log());
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.path("daemon.log")).unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.mount().join(name)
    }

    pub(crate) fn set(&self, name: &str, value: &[u8]) -> Value {
        self.home
            .ok(&["set", name, "--keep-newline", "--allow-empty"], value)
    }

    /// Waits until `condition` holds; the daemon writes its log before it acts
    /// on a signal's next step, and there is no other event to wait for.
    pub(crate) fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + patience();
        while !condition() {
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.log());
            std::thread::yield_now();
        }
    }
}

impl Drop for RunningDaemon<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
            detach(&self.home.mount());
        }
    }
}

/// What stands in `field` of each row.
pub(crate) fn strings(rows: &[Value], field: &str) -> Vec<String> {
    let values = rows.iter().map(|row| row[field].as_str().unwrap());
    values.map(str::to_owned).collect()
}

/// Where the daemon says in its log that it listens.
pub(crate) fn http_address(log: &str) -> Option<String> {
    let line = log
        .lines()
        .rev()
        .find(|line| line.contains("http address="))?;
    line.rsplit('=').next().map(str::to_owned)
}

/// Cuts the connection of a mount that may hang, then detaches it.
fn detach(mount: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = |line: &&str| line.split(' ').nth(4) == mount.to_str();
    for line in mounts.lines().filter(ours) {
        let minor = line.split(' ').nth(2).unwrap().split(':').nth(1).unwrap();
        fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1").ok();
        Command::new("umount").arg("-l").arg(mount).status().ok();
    }
}

/// One handle of the control file.
pub(crate) struct Control(File);

impl Control {
    pub(crate) fn open(mount: &Path) -> io::Result<Self> {
        let path = mount.join("jarvisctl");
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map(Self)
    }

    /// One write, without a look at the answer: the daemon may die under it.
    pub(crate) fn try_ask(&mut self, request: &str) -> io::Result<()> {
        self.0.write(request.as_bytes()).map(drop)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    /// One write; its errno and the answer.
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> (Result<usize, i32>, Value) {
        let written = self.0.write(request.as_ref()).map_err(|e| errno(&e));
        let mut answer = Vec::new();
        self.0.read_to_end(&mut answer).unwrap();
        let lines = answer.iter().filter(|&&b| b == b'\n').count();
        assert!(lines <= 1, "{}", text(&answer));
        (
            written,
            serde_json::from_slice(&answer).unwrap_or(Value::Null),
        )
    }
}
