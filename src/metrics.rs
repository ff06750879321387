//! Counters for operators, in Prometheus terms. No secret names in labels.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// Every metric of the daemon, under the prefix `jarvis_`.
pub(crate) struct Metrics {
    registry: Registry,
    /// Opens of secrets that were granted.
    pub(crate) retrieved: IntCounter,
    /// Secrets created.
    pub(crate) created: IntCounter,
    /// Versions made by the daemon's generators.
    pub(crate) rotated: IntCounter,
    /// Policy decisions by result (`allowed`, `denied`).
    pub(crate) decisions: IntCounterVec,
    /// Failed decryptions and other vault errors.
    pub(crate) vault_errors: IntCounter,
    /// Opens refused because a bound was hit, by bound (`caller`, `table`).
    pub(crate) limited: IntCounterVec,
    /// Reads through handles that another user opened.
    pub(crate) shared_handles: IntCounter,
    /// Control requests by result (`ok`, `error`).
    pub(crate) control: IntCounterVec,
    /// HTTP requests by status code.
    pub(crate) http: IntCounterVec,
    /// Time an OPEN takes inside the daemon.
    pub(crate) open_seconds: Histogram,
    secrets: IntGauge,
    handles: IntGauge,
    audit_records: IntGauge,
    audit_errors: IntGauge,
}

/// What is read when a scrape comes.
pub(crate) struct Gauges {
    pub(crate) secrets: u64,
    pub(crate) handles: u64,
    pub(crate) audit_records: u64,
    pub(crate) audit_errors: u64,
}

/// From 10 microseconds to 100 milliseconds.
const OPEN_BUCKETS: [f64; 12] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1,
];

impl Metrics {
    /// # Errors
    /// When two metrics would have one name.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new_custom(Some("jarvis".into()), None)?;
        let r = &registry;
        let open = HistogramOpts::new(
            "open_seconds",
            "Time an open of a secret takes in the daemon.",
        )
        .buckets(OPEN_BUCKETS.to_vec());
        let open_seconds = Histogram::with_opts(open)?;
        registry.register(Box::new(open_seconds.clone()))?;
        Ok(Self {
            retrieved: counter(
                r,
                "secrets_retrieved_total",
                "Opens of secrets that were granted.",
            )?,
            created: counter(r, "secrets_created_total", "Secrets created.")?,
            rotated: counter(r, "secrets_rotated_total", "Versions made by generators.")?,
            decisions: counters(r, "policy_decisions_total", "Policy decisions.", "result")?,
            vault_errors: counter(r, "vault_errors_total", "Failures of the vault.")?,
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
            control: counters(r, "control_requests_total", "Control requests.", "result")?,
            http: counters(r, "http_requests_total", "HTTP requests.", "code")?,
            open_seconds,
            secrets: gauge(r, "secrets", "Secrets that are not deleted.")?,
            handles: gauge(r, "open_handles", "Open file handles.")?,
            audit_records: gauge(r, "audit_records", "Audit records written since the start.")?,
            audit_errors: gauge(
                r,
                "audit_errors",
                "Audit records that failed since the start.",
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
        set(&self.audit_records, gauges.audit_records);
        set(&self.audit_errors, gauges.audit_errors);
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

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}
