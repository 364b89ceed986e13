//! The `floodmark` binary: each subcommand calls one module's `run`, and `cli` turns errors into exit codes.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::main()
}
