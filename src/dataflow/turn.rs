//! `turn`: live and replays take turns in committing `counts`.
//!
//! Live commits every few seconds, a replay merges for longer than that, so it could lose every race. After three lost rounds it
//! asks, by an application transaction (`turn/<id>`): then live, whose own commit that ask has beaten, leaves it one commit. In: the
//! transactions before and after a lost race. Time: at most [`PATIENCE`] by the real clock, in which `raw` waits too; a replay that
//! needs longer asks again. State: none. Who starts with an ask already there has nothing to wait for.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::ledger::asks;
use crate::table::{Log, State, TableError};

/// How long live leaves the next commit to a replay.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks whether the commit has come.
const LOOK: Duration = Duration::from_millis(100);

/// Where a replay has asked for the next commit since `before`: waits for one, by whomever, and reads it.
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
    tracing::info!(version = state.version, "the replay did not commit, going on");
    Ok(())
}
