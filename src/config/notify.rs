//! `[[notify]]`: who is told of what happens.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rule::SettingRule;

/// `[[notify]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyConfig {
    /// A program of root's that gets each event as JSON on standard input.
    pub command: Option<PathBuf>,
    /// An address that gets each event by POST.
    pub webhook: Option<String>,
    /// Key of the webhook's signature; without it nothing is signed.
    pub secret_file: Option<PathBuf>,
    /// Allows http:// to other hosts.
    #[serde(default)]
    pub allow_http: bool,
    /// Events that it is told of.
    #[serde(default = "NotifyConfig::events")]
    pub events: Vec<EventKind>,
    /// How often it is tried in all, 1 to 20.
    #[serde(default = "NotifyConfig::attempts")]
    pub attempts: usize,
    /// Seconds that each may take, 1 to 60.
    #[serde(default = "NotifyConfig::timeout")]
    pub timeout_secs: u32,
}

/// Receiver of notifications: a program, or an address.
pub(crate) enum Receiver<'n> {
    Command(&'n Path),
    Webhook(&'n str),
}

impl NotifyConfig {
    fn events() -> Vec<EventKind> {
        let often = |kind: &EventKind| *kind == EventKind::Checkpoint;
        let all = EventKind::ALL.into_iter();
        all.filter(|kind| !often(kind)).collect()
    }

    fn attempts() -> usize {
        6
    }

    fn timeout() -> u32 {
        10
    }

    /// `None` for what is neither or both.
    pub(crate) fn receiver(&self) -> Option<Receiver<'_>> {
        match (&self.command, &self.webhook) {
            (Some(path), None) => Some(Receiver::Command(path)),
            (None, Some(url)) => Some(Receiver::Webhook(url)),
            _ => None,
        }
    }

    /// Rules of this section.
    pub(super) fn rules(&self) -> Vec<SettingRule> {
        let signed = self.secret_file.is_some();
        vec![
            SettingRule::new(
                self.receiver().is_some(),
                "notify",
                "must have either command or webhook",
            ),
            SettingRule::new(
                self.webhook.is_some() || !(signed || self.allow_http),
                "notify.secret_file and notify.allow_http",
                "are for a webhook",
            ),
            SettingRule::new(
                self.webhook.as_deref().is_none_or(is_address),
                "notify.webhook",
                "must be https://HOST or http://HOST, without user and password",
            ),
            SettingRule::new(
                self.allow_http || self.webhook.as_deref().is_none_or(stays_private),
                "notify.webhook",
                "would be read by others on its way; use https, or set allow_http = true if that is meant",
            ),
            SettingRule::new(
                !self.events.is_empty(),
                "notify.events",
                "must name something",
            ),
            SettingRule::within("notify.attempts", self.attempts, 1..=20),
            SettingRule::within("notify.timeout_secs", self.timeout_secs, 1..=60),
        ]
    }
}

fn is_address(url: &str) -> bool {
    url.parse::<ureq::http::Uri>().is_ok_and(|uri| {
        let plain = |a: &ureq::http::uri::Authority| !a.as_str().contains('@');
        matches!(uri.scheme_str(), Some("https" | "http")) && uri.authority().is_some_and(plain)
    })
}

/// Nobody on the way can read what is sent to `url`.
fn stays_private(url: &str) -> bool {
    let Ok(uri) = url.parse::<ureq::http::Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let local = |ip: std::net::IpAddr| ip.is_loopback();
    uri.scheme_str() == Some("https") || host == "localhost" || host.parse().is_ok_and(local)
}

/// Kind of event that somebody may want to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A secret was rotated.
    Rotation,
    /// A rotation was given up.
    RotationFailed,
    /// A version is past its time, or soon will be.
    Expiry,
    /// A version was revoked.
    Revocation,
    /// Somebody waits for an approval.
    ApprovalWanted,
    /// Suspicious activity was found.
    Suspicious,
    /// The audit log has come further; nobody is told who does not ask for it.
    Checkpoint,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Rotation,
        Self::RotationFailed,
        Self::Expiry,
        Self::Revocation,
        Self::ApprovalWanted,
        Self::Suspicious,
        Self::Checkpoint,
    ];

    /// As configuration, body and metric have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rotation => "rotation",
            Self::RotationFailed => "rotation_failed",
            Self::Expiry => "expiry",
            Self::Revocation => "revocation",
            Self::ApprovalWanted => "approval_wanted",
            Self::Suspicious => "suspicious",
            Self::Checkpoint => "checkpoint",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_called_the_same_everywhere() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
