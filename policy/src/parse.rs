//! From YAML to a compiled policy; every refusal has its line and column.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use crate::accounts::Accounts;
use crate::decision::{Client, Policy};
use crate::error::PolicyError;
use crate::pattern::Pattern;
use crate::selector::Selector;
use crate::verb::{UnknownVerb, Verb, VerbSet};

/// Longest policy in bytes.
const MAX_POLICY_BYTES: usize = 1024 * 1024;
/// Most clients of a policy.
const MAX_CLIENTS: usize = 4096;
/// Most patterns or ids in one list.
const MAX_LIST_ITEMS: usize = 4096;
/// Longest name of a client.
const MAX_CLIENT_NAME_BYTES: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePolicy {
    #[serde(default, deserialize_with = "present")]
    default_deny: Option<Spanned<bool>>,
    #[serde(default)]
    strict_handles: bool,
    clients: WireClients,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireClient {
    #[serde(default, deserialize_with = "present")]
    r#match: Option<Spanned<WireMatch>>,
    #[serde(default)]
    allow: Vec<Spanned<String>>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
    #[serde(default, deserialize_with = "present")]
    verbs: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireMatch {
    #[serde(default, deserialize_with = "present")]
    uid: Option<Spanned<OneOrMany>>,
    #[serde(default, deserialize_with = "present")]
    user: Option<Spanned<OneOrMany>>,
    #[serde(default, deserialize_with = "present")]
    gid: Option<Spanned<OneOrMany>>,
    #[serde(default, deserialize_with = "present")]
    group: Option<Spanned<OneOrMany>>,
}

/// A key that is there must have a value: to read null as "not there" would
/// take a selector away and let more callers match.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: de::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// The clients with the places of their names. Read without a map, in which a
/// client could take the place of an earlier one of the same name.
struct WireClients(Vec<(Spanned<String>, Spanned<WireClient>)>);

impl<'de> Deserialize<'de> for WireClients {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ClientsVisitor;

        impl<'de> Visitor<'de> for ClientsVisitor {
            type Value = WireClients;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of clients")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireClients, A::Error> {
                let mut clients = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if clients.len() == MAX_CLIENTS {
                        return Err(de::Error::custom("too many clients"));
                    }
                    clients.push(entry);
                }
                Ok(WireClients(clients))
            }
        }

        deserializer.deserialize_map(ClientsVisitor)
    }
}

/// A scalar, or a list of them.
enum OneOrMany {
    One(AccountId),
    Many(Vec<Spanned<AccountId>>),
}

/// A number or a name.
enum AccountId {
    Number(u64),
    Name(String),
}

impl AccountId {
    fn from_text(text: &str) -> Self {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits => Self::Number(number),
            _ => Self::Name(text.into()),
        }
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(AccountIdVisitor)? {
            OneOrMany::One(id) => Ok(id),
            OneOrMany::Many(_) => Err(de::Error::custom("a list within a list")),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AccountIdVisitor)
    }
}

struct AccountIdVisitor;

impl<'de> Visitor<'de> for AccountIdVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a name or a list of them")
    }

    fn visit_u64<E>(self, number: u64) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(AccountId::Number(number)))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<OneOrMany, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::custom("an id cannot be negative")),
        }
    }

    fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(AccountId::from_text(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = list.next_element()? {
            if ids.len() == MAX_LIST_ITEMS {
                return Err(de::Error::custom("the list is too long"));
            }
            ids.push(id);
        }
        Ok(OneOrMany::Many(ids))
    }
}

impl Policy {
    /// Compiles `text`; names are looked up in `accounts` now, not later.
    ///
    /// # Errors
    /// [`PolicyError`] with line and column: no YAML, an unknown key or verb,
    /// a bad pattern, an unknown user or group, or a limit exceeded.
    pub fn parse(text: &str, accounts: &dyn Accounts) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY_BYTES {
            let len = text.len();
            return Err(PolicyError::start(format!(
                "the policy has {len} bytes, at most {MAX_POLICY_BYTES}"
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
        let WireClients(clients) = wire.clients;
        check_distinct(&clients)?;
        let clients = clients.into_iter();
        let clients = clients
            .map(|(name, client)| compile_client(&name, client.value, accounts))
            .collect::<Result<_, _>>()?;
        Ok(Self::new(clients, wire.strict_handles))
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
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

fn check_distinct(clients: &[(Spanned<String>, Spanned<WireClient>)]) -> Result<(), PolicyError> {
    let mut seen = BTreeSet::new();
    let repeated = clients.iter().find(|(name, _)| !seen.insert(&name.value));
    match repeated {
        None => Ok(()),
        Some((name, _)) => Err(PolicyError::new(
            name.referenced,
            format!("client `{}` stands here a second time", name.value),
        )),
    }
}

fn compile_client(
    name: &Spanned<String>,
    wire: WireClient,
    accounts: &dyn Accounts,
) -> Result<Client, PolicyError> {
    let at = name.referenced;
    let name = &name.value;
    check_name(name, at)?;
    if wire.allow.is_empty() && wire.deny.is_empty() {
        let message = format!("client `{name}` neither allows nor denies anything");
        return Err(PolicyError::new(at, message));
    }
    let allow = patterns(wire.allow)?;
    Ok(Client {
        name: name.as_str().into(),
        selectors: match wire.r#match {
            Some(selectors) => compile_match(selectors, accounts)?,
            None => vec![user_named(name, at, accounts)?],
        },
        verbs: verbs(wire.verbs, name, allow.iter().any(Pattern::is_everything))?,
        allow,
        deny: patterns(wire.deny)?,
    })
}

fn check_name(name: &str, at: Location) -> Result<(), PolicyError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if (1..=MAX_CLIENT_NAME_BYTES).contains(&name.len()) && name.chars().all(plain) {
        return Ok(());
    }
    Err(PolicyError::new(
        at,
        format!(
            "a client's name has 1 to {MAX_CLIENT_NAME_BYTES} letters, digits, `_`, `.` or `-`"
        ),
    ))
}

/// Without `match` the client is the user of its name.
fn user_named(name: &str, at: Location, accounts: &dyn Accounts) -> Result<Selector, PolicyError> {
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
    let ids = match ids.value {
        OneOrMany::One(id) => vec![Spanned::new(id, at, at)],
        OneOrMany::Many(ids) => ids,
    };
    if ids.is_empty() {
        let message = format!("`{key}` is an empty list: it would be nobody");
        return Err(PolicyError::new(at, message));
    }
    let resolved = ids.iter().map(|id| resolve_one(key, id, look_up));
    resolved.collect::<Result<_, _>>().map(Some)
}

fn resolve_one(
    key: &str,
    id: &Spanned<AccountId>,
    look_up: &dyn Fn(&str) -> Option<u32>,
) -> Result<u32, PolicyError> {
    let refused = |message: String| PolicyError::new(id.referenced, message);
    match &id.value {
        // The highest id is the kernel's "no id".
        AccountId::Number(number) => u32::try_from(*number)
            .ok()
            .filter(|&id| id != u32::MAX)
            .ok_or_else(|| refused(format!("{number} is no valid id"))),
        AccountId::Name(name) => look_up(name).ok_or_else(|| match key {
            "uid" | "gid" => refused(format!("`{key}` takes numbers; `{name}` is none")),
            _ => refused(format!("there is no {key} `{name}`")),
        }),
    }
}

fn patterns(wire: Vec<Spanned<String>>) -> Result<Vec<Pattern>, PolicyError> {
    if let Some(first_over) = wire.get(MAX_LIST_ITEMS) {
        let message = format!("over {MAX_LIST_ITEMS} patterns");
        return Err(PolicyError::new(first_over.referenced, message));
    }
    let compiled = wire.into_iter().map(|text| {
        Pattern::parse(&text.value).map_err(|why| {
            PolicyError::new(text.referenced, format!("pattern {:?} {why}", text.value))
        })
    });
    compiled.collect()
}

/// The verbs of `client`; those about the whole vault only where it is `allowed_all`.
fn verbs(
    wire: Option<Vec<Spanned<String>>>,
    client: &str,
    allowed_all: bool,
) -> Result<VerbSet, PolicyError> {
    let Some(words) = wire else {
        return Ok(VerbSet::one(Verb::Read).and(VerbSet::one(Verb::List)));
    };
    let verb = |word: &Spanned<String>| match word.value.as_str() {
        "*" if allowed_all => Ok(VerbSet::all()),
        "*" => Ok(VerbSet::about_secrets()),
        text => one_verb(text, client, allowed_all)
            .map_err(|message| PolicyError::new(word.referenced, message)),
    };
    words
        .iter()
        .try_fold(VerbSet::default(), |all, word| Ok(all.and(verb(word)?)))
}

fn one_verb(text: &str, client: &str, allowed_all: bool) -> Result<VerbSet, String> {
    match text.parse::<Verb>() {
        Ok(verb) if verb.is_about_vault() && !allowed_all => Err(format!(
            "`{verb}` is about the whole vault, and client `{client}` is not allowed everything: \
             take the verb from it, or give it to a client with `allow: [\"*\"]`"
        )),
        Ok(verb) => Ok(VerbSet::one(verb)),
        Err(UnknownVerb) => {
            let known = Verb::ALL.map(Verb::as_str).join(", ");
            Err(format!(
                "unknown verb {text:?}, expected one of {known} or \"*\""
            ))
        }
    }
}
