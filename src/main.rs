//! The command line: each subcommand is a module's `run`; here errors become exit codes.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
