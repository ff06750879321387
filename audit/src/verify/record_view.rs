//! A record as the verifier sees it: most of what it says is only looked at for its form.
//!
//! A log has a million records for each one that brings a key or ends a segment. Of all others
//! no text is copied that the chain does not depend on.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, Visitor};
use serde::{Deserialize, de};

use crate::event::{Action, ClockJump, Outcome};
use crate::record::Record;

/// Any text, which is not kept.
struct SomeText;

impl<'de> Deserialize<'de> for SomeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;

        impl Visitor<'_> for AnyText {
            type Value = SomeText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<SomeText, E> {
                Ok(SomeText)
            }
        }

        deserializer.deserialize_str(AnyText)
    }
}

/// The fields of [`Record`], with their types.
#[derive(Deserialize)]
pub(super) struct RecordView<'l> {
    v: u8,
    seq: u64,
    prev: &'l str,
    time: &'l str,
    host: &'l str,
    epoch: u64,
    vault_seq: u64,
    action: Action,
    result: Outcome,
    #[serde(default, rename = "name")]
    _name: Option<SomeText>,
    #[serde(default, rename = "id")]
    _id: Option<u64>,
    #[serde(default, rename = "version")]
    _version: Option<u32>,
    #[serde(default, rename = "kid")]
    _kid: Option<SomeText>,
    #[serde(default, rename = "uid")]
    _uid: Option<u32>,
    #[serde(default, rename = "gid")]
    _gid: Option<u32>,
    #[serde(default, rename = "pid")]
    _pid: Option<u32>,
    #[serde(default, rename = "account")]
    _account: Option<u32>,
    #[serde(default, rename = "unit")]
    _unit: Option<SomeText>,
    #[serde(default, rename = "container")]
    _container: Option<SomeText>,
    #[serde(default, rename = "exe")]
    _exe: Option<SomeText>,
    #[serde(default, rename = "client")]
    _client: Option<SomeText>,
    #[serde(default, rename = "rule")]
    _rule: Option<SomeText>,
    #[serde(default, rename = "errno")]
    _errno: Option<i32>,
    #[serde(default, rename = "reason")]
    _reason: Option<SomeText>,
    #[serde(default, rename = "count")]
    _count: Option<u64>,
    #[serde(default, rename = "resent")]
    _resent: bool,
    #[serde(default, rename = "recovered")]
    _recovered: bool,
    #[serde(default, rename = "clock")]
    _clock: Option<ClockJump>,
    start: Option<IgnoredAny>,
    next: Option<IgnoredAny>,
    close: Option<IgnoredAny>,
    open: Option<IgnoredAny>,
    prune: Option<IgnoredAny>,
}

impl RecordView<'_> {
    /// The record in `payload`; of one that brings no key, no border and no pruning only what
    /// the chain depends on. `None` for what is none.
    pub(super) fn record(payload: &[u8]) -> Option<Record> {
        // Once for all texts in it.
        let text = str::from_utf8(payload).ok()?;
        let view: RecordView<'_> = serde_json::from_str(text).ok()?;
        if view.has_details() {
            return serde_json::from_str(text).ok();
        }
        Some(view.outline())
    }

    fn has_details(&self) -> bool {
        self.start.is_some()
            || self.next.is_some()
            || self.close.is_some()
            || self.open.is_some()
            || self.prune.is_some()
    }

    fn outline(self) -> Record {
        Record {
            v: self.v,
            seq: self.seq,
            prev: self.prev.to_owned(),
            time: self.time.to_owned(),
            host: self.host.to_owned(),
            epoch: self.epoch,
            vault_seq: self.vault_seq,
            action: self.action,
            result: self.result,
            name: None,
            id: None,
            version: None,
            kid: None,
            uid: None,
            gid: None,
            pid: None,
            account: None,
            unit: None,
            container: None,
            exe: None,
            client: None,
            rule: None,
            errno: None,
            reason: None,
            count: None,
            resent: false,
            recovered: false,
            clock: None,
            start: None,
            next: None,
            close: None,
            open: None,
            prune: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{filled, without_signature};

    /// What the verifier accepts is what every reader of records accepts.
    #[test]
    fn a_view_takes_what_a_record_is_and_nothing_else() {
        let home = filled(1);
        for line in home.lines() {
            let payload = without_signature(&line);
            let payload = payload.strip_suffix(b"\n").unwrap();
            let record: Record = serde_json::from_slice(payload).unwrap();
            let view = RecordView::record(payload).unwrap();
            assert_eq!(
                (view.seq, &view.prev, &view.time, view.action, &view.start),
                (
                    record.seq,
                    &record.prev,
                    &record.time,
                    record.action,
                    &record.start
                )
            );
            let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
            let other = [
                serde_json::json!(null),
                serde_json::json!(-1),
                serde_json::json!("x\ny"),
                serde_json::json!([1]),
                serde_json::json!({"from": "a", "to": "b"}),
                serde_json::json!(true),
            ];
            let names = value.as_object().unwrap().keys().cloned();
            let more = [
                "name",
                "id",
                "version",
                "kid",
                "uid",
                "gid",
                "pid",
                "account",
                "unit",
                "container",
                "exe",
                "client",
                "rule",
                "errno",
                "reason",
                "count",
                "resent",
                "recovered",
                "clock",
                "start",
                "next",
                "close",
                "open",
                "prune",
                "unknown",
            ];
            for name in names.chain(more.map(str::to_owned)) {
                for other in &other {
                    // Texts that the chain depends on have nothing that JSON would escape.
                    if ["prev", "time", "host"].contains(&&*name) && other.is_string() {
                        continue;
                    }
                    let mut changed = value.clone();
                    changed[&name] = other.clone();
                    let bytes = serde_json::to_vec(&changed).unwrap();
                    let is_record = serde_json::from_slice::<Record>(&bytes).is_ok();
                    assert_eq!(
                        RecordView::record(&bytes).is_some(),
                        is_record,
                        "{name}: {other}"
                    );
                }
            }
        }
    }
}
