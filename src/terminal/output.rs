//! The form of a result on stdout: text for people, or one JSON object for scripts.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::Value;

/// How a result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl Output {
    /// Writes a result in this form; only the function for this form is called.
    ///
    /// # Errors
    /// When stdout can not be written.
    pub fn print(self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> io::Result<()> {
        let result = match self {
            Output::Json => json().to_string(),
            Output::Text => text(),
        };
        writeln!(io::stdout(), "{}", result.trim_end())
    }
}
