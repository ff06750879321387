//! The control file: parses requests, carries them out, answers.
//!
//! Runs in: the worker, on the thread for control requests.
//! Touches: PLAINTEXT on its way into the vault, and sealed on its way out (export).
//! Imported by: startup.

use jarvis_audit::{Action, Event};
use jarvis_fs::{Answer, Caller, Containment, Control, FsError, KeptAnswer, RequestOrigin};
use serde_json::json;
use zeroize::Zeroizing;

use crate::worker::authorization::{refusal, subject};
use crate::worker::commit::CommitError;
use crate::worker::request::{Parsed, parse};

mod answer;
mod authorise;
mod changes;
mod cost;
mod export;
mod lifecycle;
mod page;
mod questions;
mod revocation;
mod service;
mod versions;

use answer::{ControlError, Done, success};
use changes::change;
use questions::ask;
pub(crate) use service::ControlService;

/// Longest request that goes before others, in bytes.
const MAX_URGENT: usize = 4096;

impl Control for ControlService {
    fn may_control(&self, caller: &Caller) -> bool {
        // In a user namespace of one's own one could be the second person, too.
        let policy = self.authorization.policy_for(caller);
        caller.foreign().is_none() && policy.manages(&subject(caller))
    }

    fn open_control(&self, caller: &Caller) -> Result<(), FsError> {
        self.audit.check_serving();
        if self.may_control(caller) {
            return Ok(());
        }
        let reason = match caller.containment {
            Some(Containment::UserNamespace(_)) => "control: not from another user namespace",
            Some(Containment::SubordinateIds(_)) => "control: not by subordinate ids",
            _ => &refusal("control", caller),
        };
        self.audit.deny(Event {
            name: Some(jarvis_fs::CONTROL_NAME),
            rule: Some("default"),
            reason: Some(reason),
            ..self.audit.event(Action::Deny, Some(caller))
        });
        Err(FsError::Denied)
    }

    fn control(
        &self,
        caller: &Caller,
        request: Zeroizing<Vec<u8>>,
        origin: RequestOrigin,
    ) -> Answer {
        self.audit.check_serving();
        let answer = run(self, caller, &request, origin);
        let result = if answer.error.is_none() {
            "ok"
        } else {
            "error"
        };
        self.metrics
            .access
            .control
            .with_label_values(&[result])
            .inc();
        answer
    }

    fn is_urgent(&self, request: &[u8]) -> bool {
        // A serving thread asks: what is urgent is short.
        request.len() <= MAX_URGENT && parse(request).is_ok_and(|parsed| parsed.goes_first())
    }

    fn shorten(&self, answer: Answer) -> Answer {
        answer::shorten(answer)
    }

    fn carried_out(&self, request: u64) -> bool {
        self.committer.journal().replay(request).is_some()
    }

    fn answered(&self, request: u64) {
        self.committer.journal().answered(request);
    }

    fn kept_answer(&self, handle: u64) -> Option<KeptAnswer> {
        self.committer.journal().answer_for(handle)
    }

    fn refuse_control(&self, error: FsError, message: &str) -> Answer {
        self.metrics
            .access
            .control
            .with_label_values(&["error"])
            .inc();
        answer::refuse(error, message)
    }
}

/// Parses and carries out one write.
fn run(service: &ControlService, caller: &Caller, bytes: &[u8], origin: RequestOrigin) -> Answer {
    if let Some(answer) = repeated(service, origin) {
        return answer;
    }
    let result = parse(bytes)
        .map_err(ControlError::from)
        .and_then(|parsed| match parsed {
            Parsed::Ask(question) => Ok(success(&ask(service, caller, &question)?)),
            Parsed::One(operation) => {
                change(service, caller, vec![operation], origin, &|changes| {
                    Done::of_all(changes)
                })
            }
            Parsed::Batch(operations) => change(service, caller, operations, origin, &|changes| {
                json!(changes.iter().map(Done::of).collect::<Vec<_>>())
            }),
        });
    result.unwrap_or_else(ControlError::answer)
}

/// The answer to a request that an earlier worker carried out.
fn repeated(service: &ControlService, origin: RequestOrigin) -> Option<Answer> {
    let body = service
        .committer
        .journal()
        .replay(origin.request)
        .filter(|_| origin.resent)?;
    // Its record may have been lost with that worker.
    match service.committer.flush_outbox() {
        Ok(()) => Some(Answer {
            body,
            error: None,
            change: true,
            fenced: Vec::new(),
        }),
        Err(_) => {
            let error = CommitError::NotRecorded;
            Some(ControlError::commit(&service.secrets, &error).answer())
        }
    }
}
