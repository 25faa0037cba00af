//! Follows the configuration's file: what it holds is put in force as soon as it holds it.
//!
//! The file is looked at rather than watched: so a link that is turned over, a file that is renamed into place and a file
//! system without events are all the same. A file that is just being written is left alone until it rests.

use std::time::{Duration, Instant};

use super::suites::check_suites;
use crate::config::{Source, Stamp};
use crate::gateway::Gateway;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long files rest that were put in the place of others, and how long those that were written where they are: who writes
/// them may not be done.
const REST: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(250)];
/// What was refused may be possible later: a version that is to leave may have no traffic by then.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a file may be missing, as when it is deleted and written anew.
const MISSING: Duration = Duration::from_secs(1);
/// How coarse a file system's clock may be: what is written within it of a read may bear the same time.
const COARSE: Duration = Duration::from_secs(2);

/// What was last seen of the files.
struct Look {
    stamp: Stamp,
    since: Instant,
    rest: Duration,
}

impl Look {
    fn is_over(&self) -> bool {
        self.since.elapsed() >= if self.stamp.is_whole() { self.rest } else { MISSING }
    }
}

/// Follows the files until the server begins to stop, once the first loads are over. `read` is what the system said of them
/// when the configuration in force was read.
pub(super) async fn follow(gateway: Gateway, source: Source, read: Stamp) {
    tokio::select! {
        () = gateway.stopping() => return,
        () = gateway.settled() => {}
    }
    let mut look = Look { stamp: read.clone(), since: Instant::now(), rest: REST[0] };
    let mut settled = read;
    // when it is to be read again, though the system says that nothing has changed
    let mut again = Some(Instant::now() + COARSE);
    loop {
        tokio::select! {
            () = gateway.stopping() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Ok(now) = stamp(&source).await else { continue };
        if now != look.stamp {
            let rest = if now.is_in_place_of(&look.stamp) { REST[0] } else { REST[1] };
            look = Look { stamp: now, since: Instant::now(), rest };
            continue;
        }
        let is_another = look.stamp != settled && look.is_over();
        if !is_another && again.is_none_or(|again| Instant::now() < again) {
            continue;
        }
        settled = look.stamp.clone();
        again = is_another.then(|| Instant::now() + COARSE);
        if let Err(why) = apply(&gateway, &source).await {
            gateway.config_refused(&why);
            again = Some(Instant::now() + AGAIN);
        }
    }
}

/// What the system says of the files. A file system may be slow, or gone.
async fn stamp(source: &Source) -> Result<Stamp, tokio::task::JoinError> {
    let source = source.clone();
    tokio::task::spawn_blocking(move || source.stamp()).await
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
