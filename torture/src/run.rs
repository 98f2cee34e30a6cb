//! How long a part runs, with which seed, and the line that shows how far it is.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

/// One run of one part. The seed makes every choice of the run; who passes it again gets the same choices.
#[derive(Clone, Copy)]
pub struct Run {
    pub seed: u64,
    pub duration: Duration,
    start: Instant,
}

impl Run {
    pub fn new(seed: u64, duration: Duration) -> Self {
        Self {
            seed,
            duration,
            start: Instant::now(),
        }
    }

    pub fn goes_on(&self) -> bool {
        self.start.elapsed() < self.duration
    }

    /// Shows `done` beside the time that has gone by: over itself on a terminal, else as a line.
    pub fn progress(&self, done: &str) {
        let gone = self.start.elapsed().as_secs();
        let all = self.duration.as_secs();
        let end = if stdout().is_terminal() { "\r" } else { "\n" };
        print!("      {gone} of {all} s: {done}{end}");
        // Nobody may be left to read it, and that ends no run.
        let _ = stdout().flush();
    }
}
