//! Prompt files that could not be tried out within their bounds. A thread that tries one may compute on for long, so the same
//! bytes are not tried again and again while whoever wants them asks again and again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::ConfigError;
use crate::ids::Digest;

/// How long one is remembered: on a machine that had too much to do, an honest one may have been slow.
const FOR: Duration = Duration::from_mins(10);
/// How many are.
const MOST: usize = 64;

struct Refused {
    digest: Digest,
    at: Instant,
    error: ConfigError,
}

static REFUSED: Mutex<VecDeque<Refused>> = Mutex::new(VecDeque::new());

/// What was wrong with bytes of this digest, if they were tried lately.
pub(super) fn known(digest: Digest) -> Option<Vec<ConfigError>> {
    let refused = REFUSED.lock();
    let lately = |refused: &&Refused| refused.digest == digest && refused.at.elapsed() < FOR;
    refused.iter().find(lately).map(|refused| vec![refused.error.clone()])
}

pub(super) fn remember(digest: Digest, error: &ConfigError) {
    let mut refused = REFUSED.lock();
    refused.retain(|other| other.digest != digest);
    refused.truncate(MOST - 1);
    refused.push_front(Refused { digest, at: Instant::now(), error: error.clone() });
}
