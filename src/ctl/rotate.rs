//! `rotate`: one secret, or all that are due.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::client::{request, rows, versions};
use super::exit::{CommandError, ErrorCode};
use super::output::Output;
use super::table::{array, table, text};

/// Pause between two looks whether a rotation's hook is still at work.
const PENDING_POLL: Duration = Duration::from_millis(100);

#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub(super) struct RotateCommand {
    /// Name of the secret
    #[arg(group = "what")]
    name: Option<String>,
    /// Everything that is due by its schedule
    #[arg(long, group = "what")]
    due: bool,
    /// Everything that has a schedule
    #[arg(long, group = "what")]
    all: bool,
    /// Also outside of calendar windows
    #[arg(long)]
    force: bool,
    /// Say what would be rotated
    #[arg(long)]
    dry_run: bool,
}

/// Secrets to rotate.
struct RotationSelection {
    rows: Vec<Value>,
    /// Number of those outside of their calendar windows.
    kept_back: usize,
}

impl RotateCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let selected = match &self.name {
            Some(name) => RotationSelection {
                rows: vec![json!({"name": name})],
                kept_back: 0,
            },
            None => self.scheduled(mount)?,
        };
        if self.dry_run {
            return selected.show(out, &selected.rows, &["name", "due_at", "hook"]);
        }
        match &self.name {
            Some(name) => out.change(&rotate(mount, name)?),
            None => selected.rotate_all(mount, out),
        }
    }

    /// Secrets whose schedule the options ask for.
    fn scheduled(&self, mount: &Path) -> Result<RotationSelection, CommandError> {
        let rows = rows(mount, "schedule")?;
        let is = |row: &Value, key: &str| row.get(key) == Some(&Value::Bool(true));
        let wanted = rows.into_iter().filter(|row| self.all || is(row, "due"));
        let (rows, kept_back): (Vec<_>, Vec<_>) =
            wanted.partition(|row| self.force || is(row, "in_window"));
        Ok(RotationSelection {
            rows,
            kept_back: kept_back.len(),
        })
    }
}

impl RotationSelection {
    fn rotate_all(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let mut results = Vec::new();
        let mut failures = Vec::new();
        for row in &self.rows {
            let name = text(row, "name");
            match rotate(mount, name) {
                Ok(result) => results.push(result),
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
        self.show(out, &results, &["name", "version", "kid"])?;
        if failures.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{} of {} were not rotated:\n  {}",
            failures.len(),
            self.rows.len(),
            failures.join("\n  ")
        );
        Err(CommandError::new(ErrorCode::Other, message))
    }

    /// Prints `rows`, and how many secrets were kept back.
    fn show(&self, out: &Output, rows: &[Value], columns: &[&str]) -> Result<(), CommandError> {
        out.show(&json!(rows), || {
            let mut lines = match rows {
                [] => "nothing to rotate".to_owned(),
                rows => table(rows, columns),
            };
            if self.kept_back > 0 {
                lines.push_str(&format!(
                    "\n{} kept back outside of calendar windows; --force rotates them, too",
                    self.kept_back
                ));
            }
            lines
        })
    }
}

/// Rotates one secret, and waits while its hook is at work.
fn rotate(mount: &Path, name: &str) -> Result<Value, CommandError> {
    let begun = request(mount, &json!({"op": "rotate", "name": name}))?;
    let Some(pending) = begun.get("pending").and_then(Value::as_u64) else {
        return Ok(begun);
    };
    loop {
        let known = versions(mount, name)?;
        if known.get("pending").is_none_or(Value::is_null) {
            return rotated(&known, name, pending);
        }
        std::thread::sleep(PENDING_POLL);
    }
}

/// Answer to a rotation whose hook is through, as one without a hook gets it.
fn rotated(known: &Value, name: &str, version: u64) -> Result<Value, CommandError> {
    let is_new = |row: &&Value| row.get("version").and_then(Value::as_u64) == Some(version);
    let Some(made) = array(known, "versions").iter().find(is_new) else {
        let message = format!(
            "the hook of `{name}` failed, the old version stays; \
             see: jarvisctl audit query --name {name} --failed"
        );
        return Err(CommandError::new(ErrorCode::Other, message));
    };
    Ok(json!({
        "action": "rotate", "name": name, "version": version, "kid": text(made, "kid"),
    }))
}
