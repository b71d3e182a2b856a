//! A bar on standard error while much is read; nothing unless that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

const SIZED: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {eta}";
const UNSIZED: &str = "{spinner} {msg} {bytes} ({bytes_per_sec})";

/// Gone when dropped.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Says what it is that takes its time.
    pub(super) fn new(what: &'static str) -> Self {
        let bar = ProgressBar::no_length().with_message(what);
        bar.set_style(style(UNSIZED));
        Self(bar)
    }

    /// So many bytes are done, of how many if that is known.
    pub(super) fn set(&self, done: u64, of: Option<u64>) {
        if self.0.length() != of {
            self.0.set_style(style(if of.is_some() { SIZED } else { UNSIZED }));
            if let Some(of) = of {
                self.0.set_length(of);
            }
        }
        self.0.set_position(done);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
