//! The worker's end of the socket to the runner.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::runner::{FromRunner, ToRunner};
use crate::wire::Link;

/// How long a runner may take to answer a ping.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whoever runs errands for this worker.
#[derive(Default)]
pub(crate) struct Errands(Mutex<State>);

#[derive(Default)]
struct State {
    runner: Option<Link>,
    number: u64,
}

impl Errands {
    /// A new runner takes the place of the last.
    pub(crate) fn employ(&self, runner: Link) {
        self.0.lock().runner = Some(runner);
    }

    /// Whether the runner answers.
    pub(crate) fn alive(&self) -> bool {
        let mut state = self.0.lock();
        state.number += 1;
        let number = state.number;
        let Some(runner) = &state.runner else {
            return false;
        };
        if runner.send(&ToRunner::Ping(number), &[]).is_err() {
            return false;
        }
        let deadline = Instant::now() + PATIENCE;
        // Answers to pings of an earlier worker come first.
        while runner.readable(deadline.saturating_duration_since(Instant::now())) {
            match runner.receive::<FromRunner>() {
                Ok((FromRunner::Pong(answered), _)) if answered == number => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        false
    }
}
