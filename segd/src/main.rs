//! The `segd` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    segd::commands::main()
}
