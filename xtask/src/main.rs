//! segd's own commands for its developers: `cargo xtask --help`.

mod bench;
mod cargo;
mod command;
mod demo;
mod interrupt;
mod progress;
mod run;
mod say;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::say::say;

/// Set segd up on this machine, try it, test it.
///
/// Everything that a command needs and this machine lacks is installed first, after saying what. Works as root or
/// with sudo.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Setup),
    Run(run::Run),
    Demo(demo::Demo),
    Test(test::Test),
    Bench(bench::Bench),
    Vm(vm::Vm),
}

fn main() -> ExitCode {
    let outcome = interrupt::listen().and_then(|()| match Cli::parse().command {
        Command::Setup(setup) => setup.execute(),
        Command::Run(run) => run.execute(),
        Command::Demo(demo) => demo.execute(),
        Command::Test(test) => test.execute(),
        Command::Bench(bench) => bench.execute(),
        Command::Vm(vm) => vm.execute(),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            if interrupt::happened() {
                say!("Interrupted.");
                return ExitCode::from(130);
            }
            say!("error: {fault:#}");
            ExitCode::from(1)
        }
    }
}
