//! Progress of a long command, for people who wait.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jarvis_audit::VerifyProgress;

use super::output::Output;

const TEMPLATE: &str = "[{bar:40}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";

/// Bar on standard error; none where that is no terminal, or with `--json`.
pub(super) struct ProgressMeter(ProgressBar);

impl ProgressMeter {
    pub(super) fn new(out: &Output) -> Self {
        if out.json() || !io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Self(match ProgressStyle::with_template(TEMPLATE) {
            Ok(style) => bar.with_style(style.progress_chars("=> ")),
            Err(_) => bar,
        })
    }

    pub(super) fn show(&self, progress: VerifyProgress) {
        self.0.set_length(progress.total);
        self.0.set_position(progress.done);
    }

    /// Removes the bar: the line is for what follows.
    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
