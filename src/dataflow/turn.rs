//! `turn`: lets a replay commit to `counts` although the live job commits more often.
//!
//! The live job commits every few seconds. A replay merges for longer than that, so it could lose every race. After three lost
//! attempts it asks for a turn, by committing an application transaction (`turn/<id>`). The live job, whose own commit loses the
//! race against that one, then leaves the next commit to the replay. In: the transactions before and after a lost race. Time: the
//! live job waits at most [`PATIENCE`] of real time, and commits nothing to `raw` meanwhile; a replay that needs longer asks
//! again. State: none. Restart: a job that finds an older ask at its start does not wait.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::ledger::asks;
use crate::table::{Log, State, TableError};

/// How long the live job leaves the next commit to a replay.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often to check whether the commit has come.
const LOOK: Duration = Duration::from_millis(100);

/// If a replay has asked for the next commit since `before`, waits for a commit, by any writer, and reads it.
///
/// # Errors
/// As [`Log::refresh`].
pub(super) async fn yield_turn(log: &Log, state: &mut State, before: &BTreeMap<String, i64>) -> Result<(), TableError> {
    let Some(id) = asks(before, state) else { return Ok(()) };
    tracing::info!(replay = id, version = state.version, "a replay asks for the next commit, waiting for it");
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        sleep(LOOK).await;
        if log.refresh(state).await? {
            return Ok(());
        }
    }
    tracing::info!(version = state.version, "the replay did not commit, continuing");
    Ok(())
}
