//! The rooms of src/: which others each may import, and which crates it may name.

use std::collections::BTreeMap;

use crate::sources::{Import, Sources, Target};

/// A room is a directory or a file of src/, with all beneath it that has no row of
/// its own. After its name stand the rooms that it may import, with all beneath
/// them: only such as have rows above, so that there are floors. Neighbours in
/// `worker/` go by their last names. `names` are those of [`WATCHED`] that it may
/// name, crates of ours by their last names.
pub(crate) const TABLE: &str = "
# The ground.
common:
    names policy sys::trust vault::is_hidden
config: common
    names audit sys::trust ureq::http std::net
ipc: common config
    names audit
process: common config
    names vault::SecretBytes sys sd_notify landlock

# The processes: none imports another.
supervisor: common config ipc process
    names audit fs sys sd_notify std::net std::process::Command
runner: common config ipc process
    names sys ureq rustls rustls_native_certs std::net std::process::Command
holder: common config ipc process
    names fs sys sd_notify
hsm: common ipc process
    names sys
ctl: common config process
    names audit fs policy sys::trust vault ureq

worker/metrics: ipc
    names audit
worker/sandbox: process
    names landlock seccompiler
worker/error: common sandbox
    names audit fs sys vault
worker/settings: common config
    names audit
worker/runner_client: common config ipc process
worker/identity: common ipc
    names fs sys
worker/request: common ipc
    names policy vault
worker/due: common settings
    names vault
# No vault: what writes records can't hold a value.
worker/audit: common config ipc process metrics runner_client settings
    names audit fs policy
# A value is opened with the proof of its record, which the audit room gives.
worker/secrets: common audit metrics settings
    names fs vault
worker/authorization: common audit metrics secrets
    names audit fs policy vault
worker/status: common ipc audit metrics runner_client secrets
    names fs vault::VaultCounts
worker/witness: common ipc
    names audit vault
worker/commit: common config ipc audit metrics runner_client secrets settings witness
    names audit fs vault
worker/gate: common audit authorization commit identity metrics secrets settings
    names audit fs policy vault
# Paths and an address, for those who administer the daemon.
worker/places: config
    names audit std::net
worker/control: common audit authorization commit due metrics places request secrets settings status
    names audit fs policy vault
worker/sources: common config commit runner_client
    names vault
worker/scheduler: common ipc process audit commit due metrics runner_client secrets settings sources
    names audit vault fs::FsError
# No secrets: who asks over the network gets numbers.
worker/http: common process metrics status
    names std::net
worker/views: common config gate
    names fs vault
worker/tree: common audit authorization gate metrics secrets views
    names audit fs policy vault
worker/supervisor_client: common ipc audit authorization runner_client
    names audit policy::Verb
worker/maintenance: common process audit commit metrics runner_client secrets supervisor_client
worker: common config ipc process worker
    names audit fs policy::Policy sys vault std::net

# The entry points; main alone imports the choice of the process.
daemon: common config holder process supervisor runner hsm worker
    names fs
lib: common config holder ipc process supervisor runner hsm ctl worker
main: daemon
bin: ctl
";

/// Rooms that are still empty.
pub(crate) const COMING: [&str; 3] = ["hsm", "worker/sources", "worker/views"];

/// All that is in the room `worker` itself; every other file beside these needs a row.
const COMPOSITION: [&str; 3] = [
    "worker/mod.rs",
    "worker/log_opening.rs",
    "worker/startup.rs",
];

/// What a room may name only if its row says so.
const WATCHED: [&str; 14] = [
    "jarvis_audit",
    "jarvis_fs",
    "jarvis_policy",
    "jarvis_sys",
    "jarvis_vault",
    "landlock",
    "redb",
    "rustls",
    "rustls_native_certs",
    "sd_notify",
    "seccompiler",
    "std::net",
    "std::process::Command",
    "ureq",
];

const OURS: [&str; 5] = ["audit", "fs", "policy", "sys", "vault"];

/// A table that was read, with its rows in their order.
pub(crate) struct Rooms(Vec<Room>);

struct Room {
    name: String,
    /// The words after the name.
    imports: Vec<String>,
    /// Paths that it may name, with all beneath them.
    names: Vec<String>,
}

/// Whether `path` is `prefix` or something beneath it.
fn is_beneath(path: &str, prefix: &str, separator: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(separator))
}

impl Rooms {
    pub(crate) fn read(table: &str) -> Self {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let mut rooms: Vec<Room> = Vec::new();
        let lines = table.lines().filter(|line| !line.starts_with('#'));
        for line in lines.filter(|line| !line.is_empty()) {
            if let Some(names) = line.strip_prefix("    names ") {
                let names: Vec<String> = words(names);
                let paths = names.into_iter().map(|name| {
                    let ours = OURS.iter().any(|ours| is_beneath(&name, ours, "::"));
                    if ours { format!("jarvis_{name}") } else { name }
                });
                rooms.last_mut().unwrap().names = paths.collect();
            } else {
                let (name, imports) = line.split_once(':').unwrap();
                rooms.push(Room {
                    name: name.to_owned(),
                    imports: words(imports),
                    names: Vec::new(),
                });
            }
        }
        Self(rooms)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|room| room.name.as_str())
    }

    /// The row of the longest name that a file of src/ lies beneath.
    fn of(&self, file: &str) -> Option<usize> {
        let path = file.trim_end_matches(".rs");
        let rows = (0..self.0.len()).filter(|&row| is_beneath(path, &self.0[row].name, "/"));
        rows.max_by_key(|&row| self.0[row].name.len())
    }

    /// The rows that a word among the imports of `room` means.
    fn meant(&self, room: &Room, word: &str) -> Vec<usize> {
        let neighbour = room.name.rsplit_once('/');
        let neighbour = neighbour.map(|(parent, _)| format!("{parent}/{word}"));
        let neighbour = neighbour.filter(|name| self.0.iter().any(|other| &other.name == name));
        let name = neighbour.unwrap_or_else(|| word.to_owned());
        let rows = (0..self.0.len()).filter(|&row| is_beneath(&self.0[row].name, &name, "/"));
        rows.collect()
    }

    /// What is wrong with the table itself.
    pub(crate) fn table_breaches(&self, coming: &[&str], sources: &Sources) -> Vec<String> {
        let mut breaches = Vec::new();
        for (row, room) in self.0.iter().enumerate() {
            let name = &room.name;
            for word in &room.imports {
                let meant = self.meant(room, word);
                if meant.is_empty() {
                    breaches.push(format!("row {name}: there is no room {word}"));
                }
                let below = meant.into_iter().filter(|&other| other > row);
                breaches.extend(below.map(|other| {
                    let other = &self.0[other].name;
                    format!("row {name}: {other} has its row below, not above")
                }));
            }
            let is_empty = !sources.files.keys().any(|file| self.of(file) == Some(row));
            if is_empty != coming.contains(&name.as_str()) {
                let state = if is_empty { "no files" } else { "files by now" };
                breaches.push(format!("row {name}: the room has {state}"));
            }
        }
        breaches
    }

    /// Files without a room, and imports that their rooms may not have.
    pub(crate) fn breaches(&self, sources: &Sources) -> Vec<String> {
        let mut breaches = Vec::new();
        for file in sources.files.keys() {
            let room = self.of(file).map(|row| self.0[row].name.as_str());
            if room.is_none() {
                breaches.push(format!("src/{file}:1: in no room"));
            } else if room == Some("worker") && !COMPOSITION.contains(&file.as_str()) {
                breaches.push(format!("src/{file}:1: a room in worker/ without a row"));
            }
        }
        let strays = sources.strays.iter();
        breaches.extend(strays.map(|file| format!("src/{file}:1: no module declares it")));
        // One line for all imports of one kind in one file.
        let mut lines: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
        let imports = sources.imports();
        for import in &imports {
            if let Some(what) = self.breach(import) {
                let same = lines.entry((&import.file, what)).or_default();
                same.push(import.line.to_string());
            }
        }
        breaches.extend(lines.into_iter().map(|((file, what), mut lines)| {
            lines.dedup();
            format!("src/{file}:{}: {what}", lines.join(","))
        }));
        breaches
    }

    fn breach(&self, import: &Import) -> Option<String> {
        let row = self.of(&import.file)?;
        let room = &self.0[row];
        let (what, is_allowed) = match &import.target {
            Target::Ours { file, .. } => {
                let other = self.of(file)?;
                let mut words = room.imports.iter();
                let is_allowed = words.any(|word| self.meant(room, word).contains(&other));
                let what = format!("imports {}", self.0[other].name);
                (what, other == row || is_allowed)
            }
            Target::Foreign(path) => {
                let path = path.join("::");
                let is_watched = WATCHED
                    .iter()
                    .any(|watched| is_beneath(&path, watched, "::"));
                let mut names = room.names.iter();
                let is_allowed = names.any(|name| is_beneath(&path, name, "::"));
                (format!("names {path}"), !is_watched || is_allowed)
            }
        };
        (!is_allowed).then(|| format!("{} {what}", room.name))
    }
}
