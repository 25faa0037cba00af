//! Follows the configuration's file: what it holds is put in force as soon as it holds it.
//!
//! The file is looked at rather than watched: so a link that is turned over, a file that is renamed into place and a file
//! system without events are all the same. A file that is just being written is left alone until it rests.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::suites::check_suites;
use crate::config::{Source, Stamp};
use crate::gateway::Gateway;

/// How often the file is looked at; it rests if it is the same at two looks.
const LOOK: Duration = Duration::from_millis(50);
/// What was refused may be possible later: a version that is to leave may have no traffic by then.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a file may be missing, as when it is deleted and written anew.
const MISSING: Duration = Duration::from_secs(1);

/// What was last seen of the file.
struct Look {
    stamp: Stamp,
    since: Instant,
}

/// Follows it until `stop`, once the first loads are over. `read` is what the system said of it when the configuration in
/// force was read.
pub(super) async fn follow(gateway: Gateway, source: Source, read: Stamp, stop: CancellationToken) {
    if stop.run_until_cancelled(gateway.settled()).await.is_none() {
        return;
    }
    let mut look = Look { stamp: read.clone(), since: Instant::now() };
    let mut settled = read;
    let mut refused: Option<Instant> = None;
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let now = source.stamp();
        if now != look.stamp {
            look = Look { stamp: now, since: Instant::now() };
            continue;
        }
        let is_another = look.stamp != settled;
        let is_due = refused.is_some_and(|at| at.elapsed() >= AGAIN);
        let may_be_written_anew = !look.stamp.is_whole() && look.since.elapsed() < MISSING;
        if (is_another && !may_be_written_anew) || is_due {
            settled = look.stamp.clone();
            let outcome = apply(&gateway, &source).await;
            refused = outcome.is_err().then(Instant::now);
            if let Err(why) = outcome {
                gateway.config_refused(&why);
            }
        }
    }
}

/// Reads what the file holds and puts it in force; or all that stands against it.
async fn apply(gateway: &Gateway, source: &Source) -> Result<(), String> {
    let source = source.clone();
    let read = tokio::task::spawn_blocking(move || {
        let config = source.load().map_err(|errors| errors.to_string())?;
        check_suites(&config)?;
        Ok::<_, String>(config)
    });
    let config = read.await.map_err(|error| format!("reading it was cut off: {error}"))??;
    gateway.reload(config).await.map(drop).map_err(|error| error.to_string())
}
