//! Commands about single secrets.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use jarvis_fs::XATTRS;
use jarvis_policy::Pattern;
use jarvis_vault::{MAX_VALUE, SecretBytes, SecretName, TYPES};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::client::request;
use super::exit::{CommandError, ErrorCode};
use super::output::Output;
use super::terminal::{ask_twice, warn};
use super::value::{read_value, show_value, trimmed};
use super::{files, listing, mounted, table};
use crate::common::strict_json::Strict;

#[derive(Args)]
pub(super) struct SetCommand {
    /// Name, such as team/db/password
    name: String,
    /// Take the value from a file instead of standard input
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Type of the secret (default: as it is; opaque when new)
    #[arg(long = "type")]
    kind: Option<String>,
    #[command(flatten)]
    options: TypeOptions,
    /// Take off the newline at the value's end, as `echo` and editors leave it
    #[arg(long, conflicts_with = "keep_newline")]
    trim: bool,
    /// Store the newline at the value's end, without a warning
    #[arg(long)]
    keep_newline: bool,
    /// Store an empty value
    #[arg(long)]
    allow_empty: bool,
    /// Only if the current version has this key id ("none": only if there is no such secret)
    #[arg(long, value_name = "KID")]
    if_kid: Option<String>,
    /// Let its value enter the page cache, for programs that must map it or use sendfile
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    allow_cached_reads: Option<bool>,
}

#[derive(Args)]
pub(super) struct GetCommand {
    /// Name of the secret
    name: String,
    /// Print what is known of it instead of its value
    #[arg(long)]
    meta: bool,
}

#[derive(Args)]
pub(super) struct NamedSecret {
    /// Name of the secret
    name: String,
}

#[derive(Args)]
pub(super) struct GenerateCommand {
    /// Name of the secret
    name: String,
    /// What to generate: a type that `jarvisctl types` lists
    #[arg(long = "type", default_value = "password")]
    kind: String,
    #[command(flatten)]
    options: TypeOptions,
    /// Put the value in the place of the one that a secret of this name has
    #[arg(long)]
    force: bool,
}

/// Options of types; `jarvisctl types` tells which type takes which.
#[derive(Args)]
struct TypeOptions {
    /// Characters
    #[arg(long)]
    length: Option<usize>,
    /// The characters that may come
    #[arg(long)]
    alphabet: Option<String>,
    /// Classes of characters of which each must come: lower,upper,digit,symbol
    #[arg(long, value_delimiter = ',')]
    classes: Option<Vec<String>>,
    /// Without characters that one is taken for another
    #[arg(long)]
    no_ambiguous: bool,
    /// In front of an API key
    #[arg(long)]
    prefix: Option<String>,
    /// Random bytes
    #[arg(long)]
    bytes: Option<usize>,
    /// How they are written: base64, hex, raw
    #[arg(long)]
    encoding: Option<String>,
    /// HS256, HS384 or HS512
    #[arg(long)]
    algorithm: Option<String>,
    /// File with a JSON object in which {"$generate": {"type": ...}} stands for a
    /// generated text
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
}

/// Largest template file read, in bytes.
const MAX_TEMPLATE: u64 = 64 * 1024;

impl TypeOptions {
    /// Options that were given, as a request has them.
    fn given(&self) -> Result<Map<String, Value>, CommandError> {
        let template = match &self.template {
            None => None,
            Some(path) => {
                let text = files::read_text(path, MAX_TEMPLATE)?;
                let parsed = serde_json::from_str(&text).map_err(|error| {
                    let message = format!("{} is no JSON: {error}", path.display());
                    CommandError::new(ErrorCode::Usage, message)
                });
                let Strict(template) = parsed?;
                Some(template)
            }
        };
        let all = [
            ("length", self.length.map(Value::from)),
            ("alphabet", self.alphabet.as_deref().map(Value::from)),
            ("classes", self.classes.as_ref().map(|c| json!(c))),
            ("no_ambiguous", self.no_ambiguous.then_some(json!(true))),
            ("prefix", self.prefix.as_deref().map(Value::from)),
            ("bytes", self.bytes.map(Value::from)),
            ("encoding", self.encoding.as_deref().map(Value::from)),
            ("algorithm", self.algorithm.as_deref().map(Value::from)),
            ("template", template),
        ];
        let given = all
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), v?)));
        Ok(given.collect())
    }
}

/// The types of secrets and their options.
pub(super) fn types(out: &Output) -> Result<(), CommandError> {
    let json = TYPES.iter().map(
        |(word, options, what)| json!({"type": word, "options": options, "description": what}),
    );
    out.show(&json.collect(), || {
        let rows = TYPES
            .iter()
            .map(|(word, options, what)| [word, what, options]);
        table::columns(["type", "value", "options"], rows)
    })
}

#[derive(Args)]
pub(super) struct ListCommand {
    /// Only names that match, as in a policy: * within a segment, ** across them
    pattern: Option<String>,
}

impl SetCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let value = self.value()?;
        let encoded = Zeroizing::new(STANDARD.encode(value.expose()));
        let mut message = json!({"op": "set", "name": self.name, "value_b64": *encoded});
        if let Some(object) = message.as_object_mut() {
            object.extend(self.kind.as_ref().map(|kind| ("type".into(), json!(kind))));
            let options = self.options.given()?;
            if !options.is_empty() {
                object.insert("options".into(), json!(options));
            }
            object.extend(
                self.if_kid
                    .as_ref()
                    .map(|kid| ("if_kid".into(), json!(kid))),
            );
            let cached = self.allow_cached_reads;
            object.extend(cached.map(|allow| ("allow_cached_reads".into(), json!(allow))));
        }
        out.change(&request(mount, &message)?)
    }
}

impl SetCommand {
    /// The value, from wherever it comes, as it is to be stored.
    fn value(&self) -> Result<SecretBytes, CommandError> {
        let mut value = match &self.from_file {
            Some(path) => value_of(path)?,
            None if io::stdin().is_terminal() => ask_twice(&self.name)?,
            None => read_value(io::stdin().lock())
                .map_err(|e| CommandError::io("read", Path::new("standard input"), &e))?,
        };
        if self.trim {
            value = trimmed(&value);
        } else if !self.keep_newline && trimmed(&value).expose().len() < value.expose().len() {
            warn(
                "the value ends with a newline, and is stored with it; --trim takes it off, \
                 --keep-newline says that it belongs there",
            );
        }
        if value.expose().len() > MAX_VALUE {
            let message = format!("the value has more than {MAX_VALUE} bytes: nothing was stored");
            return Err(CommandError::new(ErrorCode::Usage, message));
        }
        if value.expose().is_empty() && !self.allow_empty {
            let message = "the value is empty: nothing was stored; --allow-empty stores it";
            return Err(CommandError::new(ErrorCode::Usage, message));
        }
        Ok(value)
    }
}

impl GetCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let name = SecretName::parse(&self.name)
            .map_err(|error| CommandError::new(ErrorCode::Usage, error))?;
        let path = mount.join(name.as_str());
        if self.meta {
            mounted::check_directory(mount)?;
            return meta(&path, self.name.clone(), out);
        }
        let value = mounted::open_secret(mount, name.as_str())?;
        show_value(&self.name, &value_in(value, &path)?, out)
    }
}

/// The value in the file at `path`.
fn value_of(path: &Path) -> Result<SecretBytes, CommandError> {
    value_in(files::open(path)?, path)
}

/// The value in `file`, open at `path`.
fn value_in(file: File, path: &Path) -> Result<SecretBytes, CommandError> {
    read_value(file).map_err(|error| CommandError::io("read", path, &error))
}

fn meta(path: &Path, name: String, out: &Output) -> Result<(), CommandError> {
    let attributes = XATTRS.iter().map(|(key, _)| {
        listing::attribute(path, key)
            .map_err(|errno| CommandError::io("look at", path, &errno.into()))
    });
    let row = ListedSecret {
        name,
        attributes: attributes.collect::<Result<_, _>>()?,
    };
    out.show(&row.json(), || listed(&[row]))
}

impl NamedSecret {
    pub(super) fn run(&self, mount: &Path, out: &Output, op: &str) -> Result<(), CommandError> {
        out.change(&request(mount, &json!({"op": op, "name": self.name}))?)
    }
}

impl GenerateCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let mut message = json!({
            "op": "generate", "name": self.name, "type": self.kind,
            "options": self.options.given()?,
        });
        if self.force {
            return out.change(&request(mount, &message)?);
        }
        if let Some(fields) = message.as_object_mut() {
            fields.insert("if_kid".into(), json!("none"));
        }
        let answer = request(mount, &message);
        let advice = "`rotate` makes its next value, --force one of the type that is given";
        let answer = answer.map_err(|error| match error.code() {
            ErrorCode::Conflict => error.with_advice(advice),
            _ => error,
        });
        out.change(&answer?)
    }
}

/// Secret as its file shows it.
struct ListedSecret {
    name: String,
    attributes: Vec<String>,
}

impl ListCommand {
    pub(super) fn run(&self, mount: &Path, out: &Output) -> Result<(), CommandError> {
        let wanted = match &self.pattern {
            None => None,
            Some(text) => Some(Pattern::parse(text).map_err(|why| {
                CommandError::new(ErrorCode::Usage, format!("the pattern {text:?} {why}"))
            })?),
        };
        let mut rows = Vec::new();
        listing::visit(mount, &mut |name, path| {
            if wanted.as_ref().is_none_or(|pattern| pattern.matches(&name)) {
                // An attribute that is gone meanwhile shows as a dash.
                let attributes = XATTRS
                    .iter()
                    .map(|(key, _)| listing::attribute(path, key).unwrap_or_else(|_| "-".into()));
                rows.push(ListedSecret {
                    name,
                    attributes: attributes.collect(),
                });
            }
        })?;
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        let json = rows.iter().map(ListedSecret::json).collect();
        out.show(&json, || listed(&rows))
    }
}

/// Names of the attributes without their prefix.
fn columns() -> impl Iterator<Item = &'static str> {
    XATTRS
        .iter()
        .map(|(name, _)| name.trim_start_matches("user.jarvis."))
}

impl ListedSecret {
    fn json(&self) -> Value {
        let attributes = columns()
            .zip(&self.attributes)
            .map(|(k, v)| (k.into(), json!(v)));
        let name = ("name".to_owned(), json!(self.name));
        Value::Object(std::iter::once(name).chain(attributes).collect())
    }
}

fn listed(rows: &[ListedSecret]) -> String {
    let header = std::iter::once("name").chain(columns());
    let rows = rows
        .iter()
        .map(|row| std::iter::once(&row.name).chain(&row.attributes));
    table::columns(header, rows)
}
