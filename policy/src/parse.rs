//! From YAML to a compiled policy; every refusal has its line and column.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use crate::Accounts;
use crate::decision::{Client, Policy};
use crate::error::PolicyError;
use crate::pattern::Pattern;
use crate::selector::Selector;
use crate::verb::{Verb, Verbs};

/// Largest policy in bytes.
const MAX_TEXT: usize = 1024 * 1024;
const MAX_CLIENTS: usize = 4096;
/// Patterns or ids in one list.
const MAX_LIST: usize = 4096;
const MAX_CLIENT_NAME: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePolicy {
    default_deny: Option<Spanned<bool>>,
    #[serde(default)]
    strict_handles: bool,
    clients: BTreeMap<String, Spanned<WireClient>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireClient {
    r#match: Option<Spanned<WireMatch>>,
    #[serde(default)]
    allow: Vec<Spanned<String>>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
    verbs: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireMatch {
    uid: Option<Spanned<OneOrMany>>,
    user: Option<Spanned<OneOrMany>>,
    gid: Option<Spanned<OneOrMany>>,
    group: Option<Spanned<OneOrMany>>,
}

/// A scalar, or a list of them.
struct OneOrMany(Vec<Id>);

/// A number or a name.
enum Id {
    Number(u64),
    Name(String),
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let OneOrMany(ids) = deserializer.deserialize_any(IdVisitor { lists: false })?;
        let one = ids.into_iter().next();
        one.ok_or_else(|| de::Error::custom("a number or a name is expected"))
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor { lists: true })
    }
}

struct IdVisitor {
    lists: bool,
}

impl<'de> Visitor<'de> for IdVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a name or a list of them")
    }

    fn visit_u64<E>(self, number: u64) -> Result<OneOrMany, E> {
        Ok(OneOrMany(vec![Id::Number(number)]))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<OneOrMany, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::custom("an id cannot be negative")),
        }
    }

    fn visit_str<E>(self, name: &str) -> Result<OneOrMany, E> {
        let id = name
            .parse()
            .map_or_else(|_| Id::Name(name.into()), Id::Number);
        Ok(OneOrMany(vec![id]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
        if !self.lists {
            return Err(de::Error::custom("a list within a list"));
        }
        let mut ids = Vec::new();
        while let Some(id) = list.next_element()? {
            if ids.len() == MAX_LIST {
                return Err(de::Error::custom("the list is too long"));
            }
            ids.push(id);
        }
        Ok(OneOrMany(ids))
    }
}

impl Policy {
    /// Compiles `text`; names are looked up in `accounts` now, not later.
    ///
    /// # Errors
    /// [`PolicyError`] with line and column: no YAML, an unknown key or verb,
    /// a bad pattern, an unknown user or group, or a limit exceeded.
    pub fn parse(text: &str, accounts: &dyn Accounts) -> Result<Self, PolicyError> {
        if text.len() > MAX_TEXT {
            let len = text.len();
            return Err(PolicyError::start(format!(
                "the policy has {len} bytes, at most {MAX_TEXT}"
            )));
        }
        let wire: WirePolicy = serde_saphyr::from_str_with_options(text, options())
            .map_err(|error| PolicyError::yaml(&error))?;
        if let Some(deny) = wire.default_deny.filter(|deny| !deny.value) {
            return Err(PolicyError::new(
                deny.referenced,
                "`default_deny` can only be true: what no rule allows is denied",
            ));
        }
        if wire.clients.len() > MAX_CLIENTS {
            return Err(PolicyError::start(format!("over {MAX_CLIENTS} clients")));
        }
        let clients = wire.clients.into_iter();
        Ok(Self {
            clients: clients
                .map(|(name, client)| compile(&name, client, accounts))
                .collect::<Result<_, _>>()?,
            strict_handles: wire.strict_handles,
        })
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        budget: serde_saphyr::budget! {
            max_depth: 8,
            max_documents: 1,
            max_aliases: 0,
            max_anchors: 0,
            max_merge_keys: 0,
        },
    }
}

fn compile(
    name: &str,
    client: Spanned<WireClient>,
    accounts: &dyn Accounts,
) -> Result<Client, PolicyError> {
    let at = client.referenced;
    let wire = client.value;
    check_name(name, at)?;
    if wire.allow.is_empty() && wire.deny.is_empty() {
        let message = format!("client `{name}` neither allows nor denies anything");
        return Err(PolicyError::new(at, message));
    }
    Ok(Client {
        name: name.into(),
        selectors: match wire.r#match {
            Some(selectors) => compile_match(selectors, accounts)?,
            None => vec![user_called(name, at, accounts)?],
        },
        allow: patterns(wire.allow)?,
        deny: patterns(wire.deny)?,
        verbs: verbs(wire.verbs)?,
    })
}

fn check_name(name: &str, at: Location) -> Result<(), PolicyError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if (1..=MAX_CLIENT_NAME).contains(&name.len()) && name.chars().all(plain) {
        return Ok(());
    }
    Err(PolicyError::new(
        at,
        format!("a client's name has 1 to {MAX_CLIENT_NAME} letters, digits, `_`, `.` or `-`"),
    ))
}

/// Without `match` the client is the user of its name.
fn user_called(name: &str, at: Location, accounts: &dyn Accounts) -> Result<Selector, PolicyError> {
    let unknown = || {
        let message = format!("there is no user `{name}`; say with `match` who this client is");
        PolicyError::new(at, message)
    };
    let uid = accounts.uid(name).ok_or_else(unknown)?;
    Ok(Selector::Uid(vec![uid]))
}

fn compile_match(
    wire: Spanned<WireMatch>,
    accounts: &dyn Accounts,
) -> Result<Vec<Selector>, PolicyError> {
    let at = wire.referenced;
    let WireMatch {
        uid,
        user,
        gid,
        group,
    } = wire.value;
    let number_only = |_: &str| None;
    let user_id = |name: &str| accounts.uid(name);
    let group_id = |name: &str| accounts.gid(name);
    let selectors = [
        resolve("uid", uid, &number_only)?.map(Selector::Uid),
        resolve("user", user, &user_id)?.map(Selector::Uid),
        resolve("gid", gid, &number_only)?.map(Selector::Gid),
        resolve("group", group, &group_id)?.map(Selector::Gid),
    ];
    let selectors: Vec<Selector> = selectors.into_iter().flatten().collect();
    if selectors.is_empty() {
        return Err(PolicyError::new(
            at,
            "`match` is empty: it would be anybody",
        ));
    }
    Ok(selectors)
}

fn resolve(
    key: &str,
    ids: Option<Spanned<OneOrMany>>,
    look_up: &dyn Fn(&str) -> Option<u32>,
) -> Result<Option<Vec<u32>>, PolicyError> {
    let Some(ids) = ids else {
        return Ok(None);
    };
    let at = ids.referenced;
    let OneOrMany(ids) = ids.value;
    if ids.is_empty() {
        let message = format!("`{key}` is an empty list: it would be nobody");
        return Err(PolicyError::new(at, message));
    }
    let resolved = ids.into_iter().map(|id| match id {
        // The highest id is the kernel's "no id".
        Id::Number(number) => u32::try_from(number)
            .ok()
            .filter(|&id| id != u32::MAX)
            .ok_or_else(|| PolicyError::new(at, format!("{number} is no valid id"))),
        Id::Name(name) => look_up(&name).ok_or_else(|| {
            let what = match key {
                "uid" | "gid" => format!("`{key}` takes numbers; `{name}` is none"),
                _ => format!("there is no {key} `{name}`"),
            };
            PolicyError::new(at, what)
        }),
    });
    resolved.collect::<Result<_, _>>().map(Some)
}

fn patterns(wire: Vec<Spanned<String>>) -> Result<Vec<Pattern>, PolicyError> {
    if let Some(first_over) = wire.get(MAX_LIST) {
        let message = format!("over {MAX_LIST} patterns");
        return Err(PolicyError::new(first_over.referenced, message));
    }
    let compiled = wire.into_iter().map(|text| {
        Pattern::parse(&text.value).map_err(|why| {
            PolicyError::new(text.referenced, format!("pattern {:?} {why}", text.value))
        })
    });
    compiled.collect()
}

fn verbs(wire: Option<Vec<Spanned<String>>>) -> Result<Verbs, PolicyError> {
    let Some(words) = wire else {
        return Ok([Verb::Read, Verb::List].into_iter().collect());
    };
    if words.iter().any(|word| word.value == "*") {
        return Ok(Verbs::all());
    }
    let verb = |word: &Spanned<String>| {
        word.value.parse::<Verb>().map_err(|()| {
            let known = Verb::ALL.map(Verb::as_str).join(", ");
            let message = format!(
                "unknown verb {:?}, expected one of {known} or \"*\"",
                word.value
            );
            PolicyError::new(word.referenced, message)
        })
    };
    words.iter().map(verb).collect()
}
