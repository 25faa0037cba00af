//! What follows from an answer: whether it is tried again, and when. Pure.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// How patient the courier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The longest that one attempt may take.
    pub attempt: Duration,
    /// The wait after the first attempt that failed; each later one is twice as long.
    pub first_wait: Duration,
    /// The longest wait, unless the receiver asks for more.
    pub longest_wait: Duration,
    /// The longest wait that a receiver may ask for.
    pub longest_asked: Duration,
    /// After so many attempts a delivery is given up.
    pub attempts: u32,
    /// After so long it is not tried again.
    pub max_age: Duration,
    /// How long an attempt may go on when the server stops.
    pub last_words: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(10),
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_mins(10),
            longest_asked: Duration::from_hours(1),
            attempts: 16,
            max_age: Duration::from_hours(24),
            last_words: Duration::from_secs(1),
        }
    }
}

/// What a receiver answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// A status, the wait that it asks for, and what it says for people.
    Status { code: u16, retry_after: Option<Duration>, said: String },
    /// Nothing; why.
    Broken(String),
}

/// A delivery and what has become of it so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tried {
    /// Attempts that have failed before this one.
    pub(super) failed: u32,
    /// Since when it is to be delivered.
    pub(super) age: Duration,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    Delivered,
    Again { wait: Duration, error: String },
    GiveUp { error: String },
}

/// What follows from a reply. `dice` is any number; it spreads the attempts of many servers over time.
pub(super) fn next(terms: &Terms, tried: Tried, reply: Reply, dice: u64) -> Next {
    let (error, worth_it, asked) = match reply {
        Reply::Status { code: 200..=299, .. } => return Next::Delivered,
        Reply::Status { code, retry_after, said } => {
            // a redirect is not followed: it would carry the news to where nobody configured
            let worth_it = matches!(code, 408 | 429 | 500..);
            let said = if said.is_empty() { said } else { format!(": {said}") };
            (format!("status {code}{said}"), worth_it, retry_after)
        }
        Reply::Broken(why) => (why, true, None),
    };
    let wait = backoff(terms, tried.failed, dice).max(asked.unwrap_or_default().min(terms.longest_asked));
    let last = tried.failed + 1 >= terms.attempts || tried.age + wait > terms.max_age;
    if worth_it && !last { Next::Again { wait, error } } else { Next::GiveUp { error } }
}

/// Between half of the wait and the whole of it, which doubles each time.
fn backoff(terms: &Terms, failed: u32, dice: u64) -> Duration {
    let whole = terms.first_wait.saturating_mul(1_u32.checked_shl(failed).unwrap_or(u32::MAX));
    let whole = whole.min(terms.longest_wait);
    whole.mul_f64(0.5 + 0.5 * (dice as f64 / u64::MAX as f64))
}

/// `Retry-After`: seconds, or a date.
pub(super) fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Duration::try_from(now.duration_until(date)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HIGHEST: u64 = u64::MAX;

    fn status(code: u16) -> Reply {
        Reply::Status { code, retry_after: None, said: String::new() }
    }

    fn after(reply: Reply, failed: u32) -> Next {
        next(&Terms::default(), Tried { failed, age: Duration::ZERO }, reply, HIGHEST)
    }

    fn wait(next: &Next) -> Option<u64> {
        if let Next::Again { wait, .. } = next { Some(wait.as_secs()) } else { None }
    }

    #[test]
    fn what_another_attempt_may_help_is_tried_again_and_the_rest_is_given_up() {
        for code in [200, 202, 204] {
            assert_eq!(after(status(code), 0), Next::Delivered);
        }
        for code in [408, 429, 500, 502, 503, 504, 599] {
            assert_eq!(wait(&after(status(code), 0)), Some(1), "{code}");
        }
        for code in [301, 302, 307, 400, 401, 403, 404, 410, 422] {
            assert!(matches!(after(status(code), 0), Next::GiveUp { .. }), "{code}");
        }
        assert_eq!(wait(&after(Reply::Broken("refused".to_owned()), 3)), Some(8));
        let said = Reply::Status { code: 400, retry_after: None, said: "invalid_payload".to_owned() };
        assert_eq!(after(said, 0), Next::GiveUp { error: "status 400: invalid_payload".to_owned() });
    }

    #[test]
    fn waits_double_up_to_a_limit_until_there_were_too_many() {
        let waits: Vec<_> = (0..17).map(|failed| wait(&after(status(500), failed))).collect();
        let expected = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600, 600, 600].map(Some);
        assert_eq!(waits[..15], expected);
        assert_eq!(waits[15..], [None, None]);
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_wait_within_reason() {
        let asks = |seconds| Reply::Status {
            code: 429,
            retry_after: Some(Duration::from_secs(seconds)),
            said: String::new(),
        };
        assert_eq!(wait(&after(asks(30), 0)), Some(30));
        assert_eq!(wait(&after(asks(0), 2)), Some(4));
        assert_eq!(wait(&after(asks(u64::MAX), 0)), Some(3600));
    }

    #[test]
    fn what_would_be_too_old_is_given_up() {
        let tried = |hours| Tried { failed: 0, age: Duration::from_hours(hours) };
        let next = |tried| next(&Terms::default(), tried, status(500), HIGHEST);
        assert_eq!(wait(&next(tried(23))), Some(1));
        assert!(matches!(next(tried(24)), Next::GiveUp { .. }));
    }

    #[test]
    fn a_wait_is_told_in_seconds_or_by_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let seconds = |text| retry_after(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds(" 120 "), Some(120));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(37));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:48:00 GMT"), Some(0), "a date that is past");
        assert_eq!((seconds("soon"), seconds("-1")), (None, None));
    }

    proptest! {
        #[test]
        fn a_wait_is_never_below_half_nor_above_the_whole(failed in 0..200_u32, dice: u64) {
            let terms = Terms::default();
            let whole = backoff(&terms, failed, HIGHEST);
            let wait = backoff(&terms, failed, dice);
            prop_assert!(whole / 2 <= wait && wait <= whole && whole <= terms.longest_wait);
        }
    }
}
