//! Counters for operators, in Prometheus terms. No secret names in labels.
//!
//! Runs in: the worker.
//! Touches: counters.
//! Imported by: the rooms of the worker.

use std::time::Duration;

use jarvis_audit::FindingKind;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use crate::ipc::worker::SupervisorStats;

/// From 10 microseconds to 100 milliseconds.
const BUCKETS: [f64; 12] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1,
];

/// Declares a group of metrics: each line has the help text, as documentation, then field,
/// type, and the name under the prefix `jarvis_` with its labels.
macro_rules! metrics {
    ($(#[$about:meta])* $group:ident {
        $(#[doc = $help:literal] $field:ident: $type:ty = $name:literal $labels:tt,)*
    }) => {
        $(#[$about])*
        pub(crate) struct $group {
            $(#[doc = $help] pub(crate) $field: $type,)*
        }

        impl $group {
            fn new(registry: &Registry) -> prometheus::Result<Self> {
                Ok(Self {
                    $($field: <$type>::metric(registry, $name, $help.trim(), &$labels)?,)*
                })
            }
        }
    };
}

metrics! {
    /// Secrets and their values.
    SecretMetrics {
        /// Opens of secrets that were granted.
        retrieved: IntCounter = "secrets_retrieved_total" [],
        /// Secrets created.
        created: IntCounter = "secrets_created_total" [],
        /// Versions made by generators.
        rotated: IntCounter = "secrets_rotated_total" [],
        /// Rotations that left the old version current.
        rotation_failures: IntCounter = "rotation_failures_total" [],
        /// Secrets past their expiry, counted at start and every hour.
        expired: IntGauge = "secrets_expired" [],
        /// Values sealed.
        encryptions: IntCounter = "crypto_encryptions_total" [],
        /// Values opened.
        decryptions: IntCounter = "crypto_decryptions_total" [],
        /// Records that did not authenticate.
        crypto_errors: IntCounter = "crypto_errors_total" [],
        /// Failures of the vault.
        vault_errors: IntCounter = "vault_errors_total" [],
    }
}

metrics! {
    /// Callers and what they were granted.
    AccessMetrics {
        /// Policy decisions.
        decisions: IntCounterVec = "policy_decisions_total" ["result"],
        /// Opens refused at a bound.
        limited: IntCounterVec = "opens_limited_total" ["limit"],
        /// Handles read by another user than their opener.
        shared_handles: IntCounter = "shared_handles_total" [],
        /// Suspicious activity that was found.
        suspicious: IntCounterVec = "suspicious_total" ["kind"],
        /// Control requests.
        control: IntCounterVec = "control_requests_total" ["result"],
        /// Time an open of a secret takes in the daemon.
        open_seconds: Histogram = "open_seconds" [],
    }
}

metrics! {
    /// Records, notifications and HTTP requests.
    ServiceMetrics {
        /// Audit records written.
        audit_records: IntCounter = "audit_records_total" [],
        /// Audit records that failed.
        audit_errors: IntCounter = "audit_errors_total" [],
        /// Whether the audit log takes every record: 1, or 0 while nothing is released.
        audit_log_ready: IntGauge = "audit_log_ready" [],
        /// What became of notifications.
        notifications: IntCounterVec = "notifications_total" ["kind", "result"],
        /// HTTP requests.
        http: IntCounterVec = "http_requests_total" ["code"],
        /// Time an HTTP request takes.
        http_seconds: Histogram = "http_request_seconds" [],
    }
}

metrics! {
    /// Values that are set when a scrape comes.
    ScrapedMetrics {
        /// Secrets that are not deleted.
        secrets: IntGauge = "secrets" [],
        /// 1 while secrets can be read from the vault.
        vault_readable: IntGauge = "vault_readable" [],
        /// 1 while the vault takes changes.
        vault_writable: IntGauge = "vault_writable" [],
        /// Open file handles.
        handles: IntGauge = "open_handles" [],
        /// Open handles on a version that is no longer current.
        stale: IntGauge = "stale_handles" [],
        /// Workers that were replaced while they served.
        restarts: IntCounterVec = "worker_restarts_total" ["reason"],
        /// Number of the worker that serves.
        generation: IntGauge = "worker_generation" [],
        /// Last time nobody served.
        gap_seconds: Gauge = "worker_gap_seconds" [],
        /// Requests this worker took over from an earlier one.
        resent: IntGauge = "requests_resent" [],
    }
}

/// Every metric of the daemon, under the prefix `jarvis_`.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) secrets: SecretMetrics,
    pub(crate) access: AccessMetrics,
    pub(crate) service: ServiceMetrics,
    scraped: ScrapedMetrics,
}

/// Values that are read when a scrape comes.
pub(crate) struct Gauges {
    pub(crate) secrets: u64,
    pub(crate) vault_readable: u64,
    pub(crate) vault_writable: u64,
    pub(crate) handles: u64,
    pub(crate) stale: u64,
    pub(crate) resent: u64,
    pub(crate) facts: SupervisorStats,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// When two metrics would have one name.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("jarvis".into()), None)?;
        let access = AccessMetrics::new(&registry)?;
        for kind in FindingKind::ALL {
            // An alert needs the 0 before the first.
            access.suspicious.with_label_values(&[kind.as_str()]);
        }
        Ok(Self {
            secrets: SecretMetrics::new(&registry)?,
            access,
            service: ServiceMetrics::new(&registry)?,
            scraped: ScrapedMetrics::new(&registry)?,
            registry,
        })
    }

    /// The text exposition format.
    pub(crate) fn render(&self, gauges: &Gauges) -> Result<Vec<u8>, prometheus::Error> {
        let set =
            |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.scraped.secrets, gauges.secrets);
        set(&self.scraped.vault_readable, gauges.vault_readable);
        set(&self.scraped.vault_writable, gauges.vault_writable);
        set(&self.scraped.handles, gauges.handles);
        set(&self.scraped.stale, gauges.stale);
        set(&self.scraped.resent, gauges.resent);
        let facts = &gauges.facts;
        set(&self.scraped.generation, facts.generation);
        self.scraped
            .gap_seconds
            .set(Duration::from_micros(facts.gap_us).as_secs_f64());
        // The supervisor counts: a worker's own count would end with it.
        self.scraped.restarts.reset();
        for (reason, count) in [
            ("killed", facts.killed),
            ("crashed", facts.crashed),
            ("hung", facts.hung),
            ("replaced", facts.replaced),
        ] {
            self.scraped
                .restarts
                .with_label_values(&[reason])
                .inc_by(count);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Counts a decision of the policy.
    pub(crate) fn decided(&self, allowed: bool) {
        let result = if allowed { "allowed" } else { "denied" };
        self.access.decisions.with_label_values(&[result]).inc();
    }
}

/// A kind of metric that the registry can be given.
trait Metric: Collector + Clone + Sized + 'static {
    fn make(options: Opts, labels: &[&str]) -> prometheus::Result<Self>;

    fn metric(
        registry: &Registry,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<Self> {
        let metric = Self::make(Opts::new(name, help), labels)?;
        registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

impl Metric for IntCounter {
    fn make(options: Opts, _labels: &[&str]) -> prometheus::Result<Self> {
        Self::with_opts(options)
    }
}

impl Metric for IntCounterVec {
    fn make(options: Opts, labels: &[&str]) -> prometheus::Result<Self> {
        Self::new(options, labels)
    }
}

impl Metric for IntGauge {
    fn make(options: Opts, _labels: &[&str]) -> prometheus::Result<Self> {
        Self::with_opts(options)
    }
}

impl Metric for Gauge {
    fn make(options: Opts, _labels: &[&str]) -> prometheus::Result<Self> {
        Self::with_opts(options)
    }
}

impl Metric for Histogram {
    fn make(options: Opts, _labels: &[&str]) -> prometheus::Result<Self> {
        Self::with_opts(HistogramOpts::from(options).buckets(BUCKETS.to_vec()))
    }
}
