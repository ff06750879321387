//! Counters for operators, in Prometheus terms. No secret names in labels.
//!
//! Runs in: the worker.
//! Touches: counters.
//! Imported by: the rooms of the worker.

use std::time::Duration;

use jarvis_audit::FindingKind;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use crate::ipc::worker::Facts;

/// Every metric of the daemon, under the prefix `jarvis_`.
pub(crate) struct Metrics {
    registry: Registry,
    /// Opens of secrets that were granted.
    pub(crate) retrieved: IntCounter,
    /// Secrets created.
    pub(crate) created: IntCounter,
    /// Versions made by the daemon's generators.
    pub(crate) rotated: IntCounter,
    /// Rotations that failed, by whatever they were begun.
    pub(crate) rotation_failures: IntCounter,
    /// Policy decisions by result (`allowed`, `denied`).
    pub(crate) decisions: IntCounterVec,
    /// Failures of the vault.
    pub(crate) vault_errors: IntCounter,
    /// Records of the vault that did not authenticate.
    pub(crate) crypto_errors: IntCounter,
    /// Secrets whose current version is past its expiry, as of the last count.
    pub(crate) expired: IntGauge,
    /// Opens refused because a bound was hit, by bound (`caller`, `table`).
    pub(crate) limited: IntCounterVec,
    /// Reads through handles that another user opened.
    pub(crate) shared_handles: IntCounter,
    /// Findings by kind.
    pub(crate) suspicious: IntCounterVec,
    /// Notifications by kind and result (`delivered`, `failed`, `dropped`).
    pub(crate) notifications: IntCounterVec,
    /// Control requests by result (`ok`, `error`).
    pub(crate) control: IntCounterVec,
    /// Values sealed.
    pub(crate) encryptions: IntCounter,
    /// Values opened.
    pub(crate) decryptions: IntCounter,
    /// Audit records written.
    pub(crate) audit_records: IntCounter,
    /// Audit records that could not be written.
    pub(crate) audit_errors: IntCounter,
    /// HTTP requests by status code.
    pub(crate) http: IntCounterVec,
    /// Time an HTTP request takes.
    pub(crate) http_seconds: Histogram,
    /// Time an OPEN takes inside the daemon.
    pub(crate) open_seconds: Histogram,
    secrets: IntGauge,
    handles: IntGauge,
    stale: IntGauge,
    restarts: IntCounterVec,
    generation: IntGauge,
    gap_seconds: Gauge,
    resent: IntGauge,
}

/// What is read when a scrape comes.
pub(crate) struct Gauges {
    pub(crate) secrets: u64,
    pub(crate) handles: u64,
    pub(crate) stale: u64,
    pub(crate) resent: u64,
    pub(crate) facts: Facts,
}

/// From 10 microseconds to 100 milliseconds.
const BUCKETS: [f64; 12] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1,
];

impl Metrics {
    /// # Errors
    /// When two metrics would have one name.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("jarvis".into()), None)?;
        let r = &registry;
        let open = "Time an open of a secret takes in the daemon.";
        let http = "Time an HTTP request takes.";
        Ok(Self {
            retrieved: counter(
                r,
                "secrets_retrieved_total",
                "Opens of secrets that were granted.",
            )?,
            created: counter(r, "secrets_created_total", "Secrets created.")?,
            rotated: counter(r, "secrets_rotated_total", "Versions made by generators.")?,
            rotation_failures: counter(
                r,
                "rotation_failures_total",
                "Rotations that left the old version current.",
            )?,
            decisions: counters(r, "policy_decisions_total", "Policy decisions.", "result")?,
            vault_errors: counter(r, "vault_errors_total", "Failures of the vault.")?,
            crypto_errors: counter(
                r,
                "crypto_errors_total",
                "Records that did not authenticate.",
            )?,
            expired: gauge(
                r,
                "secrets_expired",
                "Secrets past their expiry, counted at start and every hour.",
            )?,
            limited: counters(
                r,
                "opens_limited_total",
                "Opens refused at a bound.",
                "limit",
            )?,
            shared_handles: counter(
                r,
                "shared_handles_total",
                "Handles read by another user than their opener.",
            )?,
            suspicious: suspicious(r)?,
            notifications: {
                let help = "What became of notifications.";
                let options = Opts::new("notifications_total", help);
                let counters = IntCounterVec::new(options, &["kind", "result"])?;
                r.register(Box::new(counters.clone()))?;
                counters
            },
            control: counters(r, "control_requests_total", "Control requests.", "result")?,
            encryptions: counter(r, "crypto_encryptions_total", "Values sealed.")?,
            decryptions: counter(r, "crypto_decryptions_total", "Values opened.")?,
            audit_records: counter(r, "audit_records_total", "Audit records written.")?,
            audit_errors: counter(r, "audit_errors_total", "Audit records that failed.")?,
            http: counters(r, "http_requests_total", "HTTP requests.", "code")?,
            http_seconds: histogram(r, "http_request_seconds", http)?,
            open_seconds: histogram(r, "open_seconds", open)?,
            secrets: gauge(r, "secrets", "Secrets that are not deleted.")?,
            handles: gauge(r, "open_handles", "Open file handles.")?,
            stale: gauge(
                r,
                "stale_handles",
                "Open handles on a version that is no longer current.",
            )?,
            restarts: counters(
                r,
                "worker_restarts_total",
                "Workers that were replaced while they served.",
                "reason",
            )?,
            generation: gauge(r, "worker_generation", "Number of the worker that serves.")?,
            gap_seconds: {
                let gap = Gauge::new("worker_gap_seconds", "Last time nobody served.")?;
                r.register(Box::new(gap.clone()))?;
                gap
            },
            resent: gauge(
                r,
                "requests_resent",
                "Requests this worker took over from an earlier one.",
            )?,
            registry,
        })
    }

    /// The text exposition format.
    pub(crate) fn render(&self, gauges: &Gauges) -> Result<Vec<u8>, prometheus::Error> {
        let set =
            |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.secrets, gauges.secrets);
        set(&self.handles, gauges.handles);
        set(&self.stale, gauges.stale);
        set(&self.resent, gauges.resent);
        let facts = &gauges.facts;
        set(&self.generation, facts.generation);
        self.gap_seconds
            .set(Duration::from_micros(facts.gap_us).as_secs_f64());
        // The supervisor counts: a worker's own count would end with it.
        self.restarts.reset();
        for (reason, count) in [
            ("killed", facts.killed),
            ("crashed", facts.crashed),
            ("hung", facts.hung),
            ("replaced", facts.replaced),
        ] {
            self.restarts.with_label_values(&[reason]).inc_by(count);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    pub(crate) fn decided(&self, allowed: bool) {
        let result = if allowed { "allowed" } else { "denied" };
        self.decisions.with_label_values(&[result]).inc();
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> prometheus::Result<IntCounterVec> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

/// Every kind from the start: an alert needs the 0 before the first.
fn suspicious(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let help = "Suspicious activity that was found.";
    let counters = counters(registry, "suspicious_total", help, "kind")?;
    for kind in FindingKind::ALL {
        counters.with_label_values(&[kind.as_str()]);
    }
    Ok(counters)
}

fn histogram(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Histogram> {
    let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
    let histogram = Histogram::with_opts(options)?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}
