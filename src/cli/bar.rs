//! The progress bar of long work.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error; silent where that is no terminal.
pub(super) fn bar(total: usize, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:16} [{bar:40}] {pos}/{len} {elapsed} (ETA {eta})")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style).with_message(what.to_owned())
}
