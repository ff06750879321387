//! Cgroups of callers: the systemd unit and the container that they name.
//!
//! The names in it were given by whoever made the cgroup, which within a
//! delegated subtree is the user: they are recorded. The id of a container in one costs
//! rights; none ever gives any.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, LazyLock};

use parking_lot::RwLock;

/// Largest `/proc/PID/cgroup` looked at: a dozen hierarchies of 4095 bytes.
const MAX_CGROUP: u64 = 64 * 1024;
/// Longest name recorded, in bytes.
const MAX_NAME: usize = 256;
/// Workloads remembered; they are forgotten together.
const REMEMBERED: usize = 4096;
/// Hexadecimal digits of a container's id.
const ID_DIGITS: usize = 64;

/// A process's unit and container, as far as its cgroup tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// The systemd unit; of a user's own units, `user@UID.service/UNIT`.
    pub unit: Option<Box<str>>,
    /// The id or name of its container.
    pub container: Option<Box<str>>,
}

/// Numbers that the kernel tells with a thread's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelIds {
    /// The thread's cgroup in the unified hierarchy.
    pub cgroup: Option<u64>,
    /// The thread's own number, which no other has until the machine is started anew.
    pub thread: u64,
}

/// Workloads that were asked for before.
#[derive(Default)]
pub(crate) struct WorkloadCache(RwLock<HashMap<u64, Arc<Workload>>>);

impl WorkloadCache {
    /// The workload of process `pid`; `None` when that can't be read. It is
    /// remembered by the number of its cgroup, which tells everything where there is
    /// no other hierarchy; else by that of the thread, which may be moved later: then
    /// its records go on naming where it was.
    pub(crate) fn of(&self, pid: u32, kernel_ids: Option<KernelIds>) -> Option<Arc<Workload>> {
        let number = kernel_ids.and_then(|ids| {
            if *UNIFIED {
                ids.cgroup
            } else {
                Some(ids.thread)
            }
        });
        if let Some(workload) = number.and_then(|number| self.0.read().get(&number).cloned()) {
            return Some(workload);
        }
        let workload = Arc::new(Workload::parse(&about(&pid.to_string(), "cgroup").ok()?));
        if let Some(number) = number {
            let mut known = self.0.write();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(number, workload.clone());
        }
        Some(workload)
    }
}

/// Whether a container engine made the cgroup of thread `tid`: it has the id of a container
/// other than our own. A name alone is no sign, as services of the host have such names, too.
/// So is a cgroup that can't be read.
pub(crate) fn is_in_a_container(tid: u32) -> bool {
    /// The daemon's own container, which does not change while it runs.
    static OWN: LazyLock<Option<Box<str>>> = LazyLock::new(|| {
        about("self", "cgroup")
            .ok()
            .and_then(|text| innermost_id(&text).map(Box::from))
    });
    match about(&tid.to_string(), "cgroup") {
        Ok(text) => innermost_id(&text).is_some_and(|id| Some(id) != OWN.as_deref()),
        Err(_) => true,
    }
}

/// The id of the innermost container that the text of a `/proc/PID/cgroup` names.
fn innermost_id(text: &str) -> Option<&str> {
    let paths = text.lines().filter_map(split).map(|(_, path)| path);
    paths
        .flat_map(|path| path.split('/'))
        .filter_map(id_in)
        .next_back()
}

/// Whether there is the unified hierarchy alone (cgroups(7)).
static UNIFIED: LazyLock<bool> = LazyLock::new(|| {
    about("self", "cgroup").is_ok_and(|text| text.lines().all(|line| line.starts_with("0::")))
});

impl Workload {
    /// Reads the text of `/proc/PID/cgroup`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut workload = Self::default();
        for (controllers, path) in text.lines().filter_map(split) {
            let systemd = controllers.is_empty() || controllers == "name=systemd";
            if systemd && workload.unit.is_none() {
                workload.unit = unit_of(path);
            }
            if workload.container.is_none() {
                workload.container = container_of(path);
            }
        }
        workload
    }
}

/// `hierarchy:controllers:path` (cgroups(7)); the path may hold colons.
fn split(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':')
}

/// The unit as sd_pid_get_unit(3) finds it: the first part of the path, slices
/// apart, that has a unit's name; below a user's manager, its unit too.
fn unit_of(path: &str) -> Option<Box<str>> {
    let mut parts = path
        .split('/')
        .map(unescaped)
        .filter(|part| !part.is_empty() && !part.ends_with(".slice"));
    let unit = parts.next().filter(|part| is_unit(part))?;
    let manager = unit.starts_with("user@") && unit.ends_with(".service");
    match parts.next().filter(|part| manager && is_unit(part)) {
        Some(own) => name(&format!("{unit}/{own}")),
        None => name(unit),
    }
}

/// A leading underscore keeps a unit's name from looking like the kernel's own.
fn unescaped(part: &str) -> &str {
    part.strip_prefix('_').unwrap_or(part)
}

fn is_unit(part: &str) -> bool {
    const TYPES: [&str; 8] = [
        ".service", ".scope", ".socket", ".mount", ".swap", ".timer", ".path", ".target",
    ];
    TYPES
        .iter()
        .any(|suffix| part.len() > suffix.len() && part.ends_with(suffix))
}

/// `text` if it can be recorded: not too long, nothing that moves a terminal's
/// cursor.
fn name(text: &str) -> Option<Box<str>> {
    let fit = !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control);
    fit.then(|| text.into())
}

/// The innermost container: the id that Docker, Podman, containerd and
/// Kubernetes put into their cgroups' names, or the name that LXC and machined do.
fn container_of(path: &str) -> Option<Box<str>> {
    let mut found = None;
    let mut before = "";
    for part in path.split('/') {
        let named = part
            .strip_prefix("lxc.payload.")
            .or_else(|| part.strip_prefix("machine-")?.strip_suffix(".scope"))
            .or_else(|| (before == "lxc").then_some(part));
        found = id_in(part).or(named).map(str::to_owned).or(found);
        before = part;
    }
    name(&found?)
}

/// Exactly [`ID_DIGITS`] hexadecimal digits in a row.
fn id_in(part: &str) -> Option<&str> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    part.split(|c: char| !u8::try_from(c).is_ok_and(lower))
        .find(|run| run.len() == ID_DIGITS)
}

/// A file of `/proc/PID` that everybody may read. Names of cgroups may be any bytes; those
/// that are no text are shown as U+FFFD.
fn about(pid: &str, file: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/{pid}/{file}"))?;
    file.take(MAX_CGROUP).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_id_is_a_sign_and_a_name_is_none() {
        let id = "0123456789abcdef".repeat(4);
        for container in [
            format!("2:cpu:/docker/{id}\n0::/\n"),
            format!("0::/x/{id}\n"),
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope\n"),
            format!("0::/machine.slice/libpod-{id}.scope/container\n"),
        ] {
            assert_eq!(innermost_id(&container), Some(&*id), "{container}");
        }
        for host in [
            "0::/system.slice/docker-compose@app.service\n",
            "0::/system.slice/lxc-net.service\n",
            "0::/system.slice/docker.service\n",
            "0::/machine.slice/machine-x.scope\n",
            "0::/system.slice/kubepods-exporter.service\n",
        ] {
            assert_eq!(innermost_id(host), None, "{host}");
        }
        assert!(is_in_a_container(u32::MAX));
    }
    use proptest::prelude::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn workload(text: &str) -> (Option<String>, Option<String>) {
        let workload = Workload::parse(text);
        (
            workload.unit.map(Into::into),
            workload.container.map(Into::into),
        )
    }

    #[test]
    fn units_are_found_as_systemd_does() {
        for (text, unit) in [
            ("0::/system.slice/nginx.service\n", Some("nginx.service")),
            (
                "1:name=systemd:/system.slice/cron.service\n0::/\n",
                Some("cron.service"),
            ),
            ("0::/init.scope\n", Some("init.scope")),
            (
                "0::/user.slice/user-1000.slice/session-3.scope\n",
                Some("session-3.scope"),
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service\n",
                Some("user@1000.service/foo.service"),
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/init.scope\n",
                Some("user@1000.service/init.scope"),
            ),
            ("0::/system.slice/a.service/payload\n", Some("a.service")),
            ("0::/system.slice/_cpu.service\n", Some("cpu.service")),
            ("0::/\n", None),
            ("0::/system.slice\n", None),
            ("0::/made/by/hand\n", None),
            ("0::/.service\n", None),
            ("4:cpu:/system.slice/nginx.service\n", None),
            ("rubbish", None),
        ] {
            assert_eq!(workload(text).0.as_deref(), unit, "{text}");
        }
    }

    #[test]
    fn containers_are_found_by_their_engines_names() {
        for text in [
            format!("2:cpu:/docker/{ID}\n0::/\n"),
            format!("0::/system.slice/docker-{ID}.scope\n"),
            format!("0::/machine.slice/libpod-{ID}.scope/container\n"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n"),
            format!("0::/docker/{}/docker/{ID}\n", "1".repeat(64)),
        ] {
            assert_eq!(workload(&text).1.as_deref(), Some(ID), "{text}");
        }
        for (text, name) in [
            ("0::/lxc.payload.web/system.slice/x.service\n", Some("web")),
            ("4:cpu:/lxc/web\n", Some("web")),
            ("0::/machine.slice/machine-web.scope/payload\n", Some("web")),
            ("0::/system.slice/nginx.service\n", None),
            (&format!("0::/{}\n", &ID[1..]), None),
            (&format!("0::/{ID}0\n"), None),
        ] {
            assert_eq!(workload(text).1.as_deref(), name, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_shown_is_not_recorded() {
        let long = format!("0::/{}.service\n", "x".repeat(MAX_NAME));
        assert_eq!(workload(&long), (None, None));
        assert_eq!(workload("0::/a\u{1b}[2J.service\n"), (None, None));
        assert_eq!(
            workload("0::/a:b.service\n").0.as_deref(),
            Some("a:b.service")
        );
    }

    proptest! {
        #[test]
        fn any_text_gives_short_names_or_none(text in "\\PC{0,80}[:/\n.a-f0-9]{0,300}") {
            let workload = Workload::parse(&text);
            for name in [workload.unit, workload.container].into_iter().flatten() {
                prop_assert!(!name.is_empty() && name.len() <= MAX_NAME);
            }
        }
    }
}
