//! Why a command failed: its exit code, and the last line that it prints.
//!
//! In: the error of a command, with its causes. Out: a [`Failure`]. State: none.

use std::error::Error;

use floodmark::job::JobError;
use floodmark::process::{Exit, HasExit};
use floodmark::table::TableError;

/// Why a command failed, and how it ends.
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) said: String,
}

impl<E: HasExit> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure { exit: error.exit(), said: said(&error) }
    }
}

impl Failure {
    /// The failure of a `dev` command: these have no error type of their own.
    pub(super) fn of(error: &anyhow::Error) -> Failure {
        let exit = |cause: &(dyn Error + 'static)| {
            let table = cause.downcast_ref::<TableError>().map(HasExit::exit);
            table.or_else(|| cause.downcast_ref::<JobError>().map(HasExit::exit))
        };
        Failure { exit: error.chain().find_map(exit).unwrap_or(Exit::Failed), said: said(error.as_ref()) }
    }
}

/// An error with its causes; a cause that is part of the text already is not repeated.
fn said(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |&error| error.source()).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
