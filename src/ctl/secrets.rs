//! Commands about single secrets.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use jarvis_fs::{CONTROL_NAME, XATTRS};
use jarvis_vault::{MAX_VALUE, SecretBytes, SecretName};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::client::request;
use super::exit::{Code, Failure};

/// Type of a secret.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Bytes from outside; no generator
    Opaque,
    /// Letters and digits
    Password,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Opaque => "opaque",
            Self::Password => "password",
        }
    }
}

#[derive(Args)]
pub(super) struct Set {
    /// Name, such as team/db/password
    name: String,
    /// Take the value from a file instead of standard input
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Type of the secret (default: as it is; opaque when new)
    #[arg(long = "type")]
    kind: Option<Kind>,
    /// Only if the current version has this key id ("none": only if there is no such secret)
    #[arg(long, value_name = "KID")]
    if_kid: Option<String>,
}

#[derive(Args)]
pub(super) struct Get {
    /// Name of the secret
    name: String,
}

#[derive(Args)]
pub(super) struct Named {
    /// Name of the secret
    name: String,
}

#[derive(Args)]
pub(super) struct Generate {
    /// Name of the secret
    name: String,
    /// What to generate
    #[arg(long = "type", default_value = "password")]
    kind: Kind,
    /// Characters
    #[arg(long)]
    length: Option<usize>,
}

#[derive(Args)]
pub(super) struct List {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Set {
    pub(super) fn run(&self, mount: &Path) -> Result<(), Failure> {
        let value = match &self.from_file {
            Some(path) => {
                let file = File::open(path).map_err(|e| Failure::io("open", path, &e))?;
                read_value(file).map_err(|e| Failure::io("read", path, &e))?
            }
            None => read_value(io::stdin().lock())
                .map_err(|e| Failure::io("read", Path::new("standard input"), &e))?,
        };
        let encoded = Zeroizing::new(STANDARD.encode(value.expose()));
        let mut message = json!({"op": "set", "name": self.name, "value_b64": *encoded});
        if let Some(object) = message.as_object_mut() {
            object.extend(self.kind.map(|kind| ("type".into(), json!(kind.as_str()))));
            object.extend(
                self.if_kid
                    .as_ref()
                    .map(|kid| ("if_kid".into(), json!(kid))),
            );
        }
        print(&request(mount, &message)?)
    }
}

/// At most one byte over the limit, so that the daemon's refusal is the true one.
fn read_value(input: impl Read) -> io::Result<SecretBytes> {
    // Reserved at once: growing would leave copies behind.
    let mut value = Vec::with_capacity(MAX_VALUE + 8192);
    input.take(MAX_VALUE as u64 + 1).read_to_end(&mut value)?;
    Ok(SecretBytes::new(value))
}

impl Get {
    pub(super) fn run(&self, mount: &Path) -> Result<(), Failure> {
        let name = SecretName::parse(&self.name)
            .map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
        let path = mount.join(name.as_str());
        let file = File::open(&path).map_err(|e| Failure::io("open", &path, &e))?;
        let value = read_value(file).map_err(|e| Failure::io("read", &path, &e))?;
        io::stdout()
            .write_all(value.expose())
            .map_err(|e| Failure::io("write", Path::new("standard output"), &e))
    }
}

impl Named {
    pub(super) fn run(&self, mount: &Path, op: &str) -> Result<(), Failure> {
        print(&request(mount, &json!({"op": op, "name": self.name}))?)
    }
}

impl Generate {
    pub(super) fn run(&self, mount: &Path) -> Result<(), Failure> {
        let kind = self.kind.as_str();
        let mut message = json!({"op": "generate", "name": self.name, "type": kind});
        if let Some(object) = message.as_object_mut() {
            object.extend(self.length.map(|length| ("length".into(), json!(length))));
        }
        print(&request(mount, &message)?)
    }
}

/// A request without arguments.
pub(super) fn plain(mount: &Path, op: &str) -> Result<(), Failure> {
    print(&request(mount, &json!({"op": op}))?)
}

fn print(result: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(result).map_err(Failure::other)?;
    write_out(&text)
}

fn write_out(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        // `jarvisctl list | head` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Failure::other),
    }
}

/// A secret as its file shows it.
struct Row {
    name: String,
    attributes: Vec<String>,
}

impl List {
    pub(super) fn run(&self, mount: &Path) -> Result<(), Failure> {
        let mut rows = Vec::new();
        walk(mount, String::new(), &mut rows)?;
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        match self.json {
            true => print(&rows.iter().map(Row::json).collect()),
            false => write_out(&table(&rows).to_string()),
        }
    }
}

/// The attributes' names without their prefix.
fn columns() -> impl Iterator<Item = &'static str> {
    XATTRS
        .iter()
        .map(|(name, _)| name.trim_start_matches("user.jarvis."))
}

impl Row {
    fn json(&self) -> Value {
        let attributes = columns()
            .zip(&self.attributes)
            .map(|(k, v)| (k.into(), json!(v)));
        let name = ("name".to_owned(), json!(self.name));
        Value::Object(std::iter::once(name).chain(attributes).collect())
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(std::iter::once("name").chain(columns()));
    for row in rows {
        table.add_row(std::iter::once(&row.name).chain(&row.attributes));
    }
    table
}

/// The mount itself shows each caller what it may see: no request is needed.
fn walk(dir: &Path, prefix: String, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io("list", dir, &error);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            walk(&entry.path(), format!("{name}/"), rows)?;
        } else if name != CONTROL_NAME {
            let attributes = XATTRS.iter().map(|(key, _)| attribute(&entry.path(), key));
            rows.push(Row {
                name,
                attributes: attributes.collect(),
            });
        }
    }
    Ok(())
}

/// An attribute that is gone meanwhile shows as a dash.
fn attribute(path: &Path, key: &str) -> String {
    let mut buffer = [0; 512];
    let value = rustix::fs::getxattr(path, key, &mut buffer)
        .ok()
        .and_then(|len| buffer.get(..len));
    value.map_or_else(|| "-".into(), |v| String::from_utf8_lossy(v).into_owned())
}
