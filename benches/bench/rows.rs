//! What was measured, and how it is shown.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Durations in nanoseconds, sorted.
pub(crate) struct Samples(Vec<u64>);

impl Samples {
    pub(crate) fn new(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        Self(nanos)
    }

    fn percentile(&self, p: usize) -> f64 {
        let at = (self.0.len() - 1) * p / 100;
        u32::try_from(self.0[at]).map_or(f64::MAX, f64::from) / 1000.0
    }
}

/// How a row compares with another one.
struct Beside {
    name: String,
    p50: f64,
    p99: f64,
    rate: Option<f64>,
}

/// Microseconds, and how many times others'.
pub(crate) struct Row {
    name: String,
    p50: f64,
    p99: f64,
    /// A second, of all clients together.
    rate: Option<f64>,
    beside: Vec<Beside>,
}

impl Row {
    pub(crate) fn new(name: &str, samples: &Samples) -> Self {
        Self {
            name: name.to_owned(),
            p50: samples.percentile(50),
            p99: samples.percentile(99),
            rate: None,
            beside: Vec::new(),
        }
    }

    /// `count` of them took `time` in all.
    pub(crate) fn rated(mut self, count: usize, time: Duration) -> Self {
        let count = u32::try_from(count).unwrap();
        self.rate = Some(f64::from(count) / time.as_secs_f64());
        self
    }

    pub(crate) fn beside(mut self, other: &Self) -> Self {
        let rate = self.rate.zip(other.rate);
        self.beside.push(Beside {
            name: other.name.clone(),
            p50: self.p50 / other.p50,
            p99: self.p99 / other.p99,
            rate: rate.map(|(own, other)| own / other),
        });
        self
    }

    /// What this one takes more than the `other`.
    pub(crate) fn added_to(&self, other: &Self) -> Self {
        Self {
            name: format!("{}: added to {}", self.name, other.name),
            p50: self.p50 - other.p50,
            p99: self.p99 - other.p99,
            rate: None,
            beside: Vec::new(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let beside = self.beside.iter().map(|other| {
            json!({
                "name": other.name, "ratio_p50": other.p50, "ratio_p99": other.p99,
                "ratio_rate": other.rate,
            })
        });
        json!({
            "name": self.name, "unit": "us", "p50": self.p50, "p99": self.p99,
            "a_second": self.rate, "beside": beside.collect::<Vec<_>>(),
        })
    }
}

pub(crate) fn print(rows: &[Row]) {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let head = ["p50", "p99", "a second"];
    println!(
        "\n{:<width$} {:>9} {:>9} {:>9}",
        "microseconds", head[0], head[1], head[2]
    );
    for row in rows {
        let rate = row.rate.map(|rate| format!("{rate:.0}"));
        println!(
            "{:<width$} {:>9.1} {:>9.1} {:>9}",
            row.name,
            row.p50,
            row.p99,
            rate.unwrap_or_default()
        );
        for other in &row.beside {
            let rate = other.rate.map(|rate| format!(", {:.0} %", rate * 100.0));
            println!(
                "{:<width$} {:>8.2}x {:>8.2}x{}",
                format!("    of {}", other.name),
                other.p50,
                other.p99,
                rate.unwrap_or_default()
            );
        }
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

pub(crate) fn timed<T>(count: usize, mut work: impl FnMut() -> T) -> Samples {
    let one = |_| {
        let start = Instant::now();
        std::hint::black_box(work());
        nanos(start.elapsed())
    };
    Samples::new((0..count).map(one).collect())
}

impl Samples {
    pub(crate) fn into_nanos(self) -> Vec<u64> {
        self.0
    }
}
