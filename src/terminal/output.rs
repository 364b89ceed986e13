//! The form of a result on stdout: text for people, or one JSON object for scripts.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Why a result was not written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Stdout does not take it.
    #[error("the result can not be written to stdout: {0}")]
    Stdout(#[source] io::Error),
    /// A bug.
    #[error("{0}; this is a bug: please report it")]
    Bug(String),
}

impl Output {
    /// Writes a result in this form; only the function for this form is called.
    ///
    /// # Errors
    /// [`OutputError`].
    pub fn print<T: Serialize>(
        self,
        json: impl FnOnce() -> T,
        text: impl FnOnce() -> String,
    ) -> Result<(), OutputError> {
        let result = match self {
            Output::Json => serde_json::to_string(&json()).map_err(|error| OutputError::Bug(error.to_string()))?,
            Output::Text => text(),
        };
        to_stdout(&result)
    }
}

/// Writes a result, with one line end behind it.
///
/// # Errors
/// [`OutputError::Stdout`].
pub fn to_stdout(result: &str) -> Result<(), OutputError> {
    writeln!(io::stdout(), "{}", result.trim_end()).map_err(OutputError::Stdout)
}
