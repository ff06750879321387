//! The supervisor as a worker asks it: for certificates, for the policy's text, and to keep
//! checkpoints.
//!
//! Runs in: the worker.
//! Touches: the socket to the supervisor; no secrets.
//! Imported by: startup, maintenance and mod.rs of the worker.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use jarvis_audit::{Certify, EpochClaim, HostId, KeyError, SegmentClaim};
use jarvis_policy::Verb;
use parking_lot::Mutex;

use crate::common::policy_file::{LoadError, read_policy, unreadable};
use crate::common::subordinate_ids::SubordinateIds;
use crate::ipc::runner::Event;
use crate::ipc::worker::{FromWorker, SupervisorChannel, ToWorker};
use crate::ipc::{Signature, short};
use crate::worker::audit::AuditTrail;
use crate::worker::authorization::PolicySource;
use crate::worker::runner_client::RunnerClient;

/// How long the supervisor may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum QuestionError {
    #[error(transparent)]
    NotSent(#[from] io::Error),
    #[error(transparent)]
    NotAnswered(#[from] RecvTimeoutError),
}

/// Where a thread gets the supervisor's answer to its question.
struct Reply<T> {
    deliveries: Sender<T>,
    arrived: Arc<Mutex<Receiver<T>>>,
}

impl<T> Default for Reply<T> {
    fn default() -> Self {
        let (deliveries, arrived) = channel();
        Self {
            deliveries,
            arrived: Arc::new(Mutex::new(arrived)),
        }
    }
}

impl<T> Clone for Reply<T> {
    fn clone(&self) -> Self {
        Self {
            deliveries: self.deliveries.clone(),
            arrived: self.arrived.clone(),
        }
    }
}

impl<T> Reply<T> {
    fn deliver(&self, answer: T) {
        // Who asked may have given up.
        self.deliveries.send(answer).ok();
    }

    /// Sends `question` and waits for its answer; one asks at a time.
    fn request(
        &self,
        supervisor: &SupervisorChannel,
        question: &FromWorker,
    ) -> Result<T, QuestionError> {
        let arrived = self.arrived.lock();
        // An answer to an earlier question that came too late is not one to this.
        while arrived.try_recv().is_ok() {}
        supervisor.send(question, &[])?;
        Ok(arrived.recv_timeout(ANSWER_LIMIT)?)
    }
}

/// The policy's text, or why there is none.
type PolicyReply = Result<OwnedFd, String>;

/// The supervisor as a serving worker asks it; answers come through
/// [`Self::deliver_certificate`] and [`Self::deliver_policy`] from the thread that
/// receives its messages.
pub(crate) struct SupervisorClient {
    channel: Arc<SupervisorChannel>,
    certificates: Reply<[u8; 64]>,
    policies: Reply<PolicyReply>,
    /// Somebody receives the supervisor's messages and delivers them.
    delivering: AtomicBool,
    /// The last record that the supervisor was told of; locked from a checkpoint to its
    /// note, for notes must not go back.
    noted_seq: Mutex<u64>,
}

impl SupervisorClient {
    pub(crate) fn new(channel: Arc<SupervisorChannel>) -> Self {
        Self {
            channel,
            certificates: Reply::default(),
            policies: Reply::default(),
            delivering: AtomicBool::new(false),
            noted_seq: Mutex::new(0),
        }
    }

    /// The answer to a request for a certificate.
    pub(crate) fn deliver_certificate(&self, Signature(signature): Signature) {
        self.certificates.deliver(signature);
    }

    /// The answer to a request for the policy's text.
    pub(crate) fn deliver_policy(&self, found: Result<(), String>, file: Option<OwnedFd>) {
        let file = found.and_then(|()| file.ok_or_else(|| "it came without its file".into()));
        self.policies.deliver(file);
    }

    /// Notes that from now on somebody receives the supervisor's messages and delivers
    /// them.
    pub(crate) fn begin_delivering(&self) {
        self.delivering.store(true, Ordering::Release);
    }

    /// Signs with the host's identity when the worker opens its log.
    pub(crate) fn start_signer(self: &Arc<Self>, host: HostId) -> StartSigner {
        StartSigner {
            client: self.clone(),
            host,
            given: Mutex::new(None),
        }
    }

    /// Tells the supervisor that another worker must take over, and why; ends this one.
    pub(crate) fn hand_over(&self, why: &str) -> ! {
        tracing::error!(%why, "another worker takes over");
        self.channel.send(&FromWorker::Failed(short(why)), &[]).ok();
        std::process::abort()
    }

    /// Signs with the host's identity while the worker serves.
    pub(crate) fn segment_signer(&self, host: HostId) -> SegmentSigner {
        SegmentSigner {
            channel: self.channel.clone(),
            host,
            certificates: self.certificates.clone(),
        }
    }

    /// Fetches the policy called `path`, which the supervisor alone may read.
    pub(crate) fn policy_source(&self, path: PathBuf) -> PolicySource {
        let (channel, policies) = (self.channel.clone(), self.policies.clone());
        Box::new(move |may_lock_out| {
            let subordinate_ids = SubordinateIds::load()?;
            let reply = policies.request(&channel, &FromWorker::Policy);
            let file = match reply {
                Ok(Ok(file)) => file,
                Ok(Err(why)) => return Err(unreadable(&path, io::Error::other(why))),
                Err(why) => return Err(unreadable(&path, io::Error::other(why))),
            };
            let policy = read_policy(&path, file.into())?;
            if !may_lock_out && !policy.gives(Verb::Policy) {
                return Err(LoadError::LocksOut { path: path.clone() });
            }
            subordinate_ids.put_in_force();
            channel.send(&FromWorker::Accepted, &[]).ok();
            Ok(policy)
        })
    }

    /// Tells the supervisor, and whoever wants to be notified, how far the audit log has
    /// come, if it has.
    pub(crate) fn note_checkpoint(&self, audit: &AuditTrail, runner: &RunnerClient) {
        let mut noted = self.noted_seq.lock();
        // What a log that fails has on disk is not known.
        let Ok(checkpoint) = audit.checkpoint() else {
            return;
        };
        if checkpoint.seq != *noted {
            *noted = checkpoint.seq;
            let text = checkpoint.to_string();
            runner.notify(Event::checkpoint(&text));
            // Without a supervisor this process ends soon.
            self.channel.send(&FromWorker::Checkpoint(text), &[]).ok();
        }
    }
}

/// Certifies the first epoch key of a worker: the supervisor does, once.
pub(crate) struct StartSigner {
    client: Arc<SupervisorClient>,
    host: HostId,
    /// The one certificate that there is in a worker's life, for a start that may have
    /// to be tried again.
    given: Mutex<Option<(EpochClaim, [u8; 64])>>,
}

impl Certify for StartSigner {
    fn host(&self) -> HostId {
        self.host
    }

    fn certify(&self, claim: &EpochClaim) -> Result<[u8; 64], KeyError> {
        let mut given = self.given.lock();
        match &*given {
            Some((first, signature)) if first == claim => Ok(*signature),
            Some(_) => Err(KeyError::NotCertified(
                "the log has changed since this worker's one certificate".into(),
            )),
            None => {
                let signature = self.ask(claim)?;
                *given = Some((*claim, signature));
                Ok(signature)
            }
        }
    }

    fn certify_segment(&self, _claim: &SegmentClaim) -> Result<[u8; 64], KeyError> {
        Err(KeyError::NotCertified("nothing is served yet".into()))
    }
}

impl StartSigner {
    fn ask(&self, claim: &EpochClaim) -> Result<[u8; 64], KeyError> {
        let (client, question) = (&self.client, FromWorker::Certify(*claim));
        if client.delivering.load(Ordering::Acquire) {
            let answer = client.certificates.request(&client.channel, &question);
            return answer.map_err(|error| KeyError::NotCertified(error.to_string()));
        }
        // While the worker opens its log nobody else receives messages.
        let failed = |error: io::Error| KeyError::NotCertified(error.to_string());
        let channel = &client.channel;
        channel.send(&question, &[]).map_err(failed)?;
        loop {
            match channel.receive().map_err(failed)?.0 {
                ToWorker::Certificate(Signature(signature)) => return Ok(signature),
                ToWorker::Ping(stats) => {
                    let pong = FromWorker::Pong(stats.ping);
                    channel.send(&pong, &[]).map_err(failed)?;
                }
                _ => return Err(KeyError::NotCertified("the supervisor refused".into())),
            }
        }
    }
}

/// Certifies the first keys of later segments.
pub(crate) struct SegmentSigner {
    channel: Arc<SupervisorChannel>,
    host: HostId,
    certificates: Reply<[u8; 64]>,
}

impl Certify for SegmentSigner {
    fn host(&self) -> HostId {
        self.host
    }

    fn certify(&self, _claim: &EpochClaim) -> Result<[u8; 64], KeyError> {
        Err(KeyError::NotCertified("the start is over".into()))
    }

    fn certify_segment(&self, claim: &SegmentClaim) -> Result<[u8; 64], KeyError> {
        let question = FromWorker::CertifySegment(*claim);
        let answer = self.certificates.request(&self.channel, &question);
        answer.map_err(|error| KeyError::NotCertified(error.to_string()))
    }
}
