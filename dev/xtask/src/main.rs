//! The project's own commands, run as `cargo xtask <command>`. Nothing in it ships.

mod api;
mod bench;
mod certificates;
mod check;
mod contract;
mod deployment;
mod dev;
mod docs;
mod postgres;
mod process;
mod server;
mod test;
mod tools;
mod versions;

use std::{
    env,
    fmt::Display,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::LazyLock,
};

use serde_json::Value;

use process::{Processes, cargo};
use tools::Tools;

const USAGE: &str = "\
Usage: cargo xtask <command>

  dev [--port N] [--fresh] [--data DIR]
               start the API on this machine, with a PostgreSQL of its own unless DATABASE_URL is set
                 --port N    listen on port N (default: 5000, or any free port when it is taken)
                 --fresh     begin with an empty database
                 --data DIR  keep the database and the logs in DIR (default: target/dev)
  migrate      apply the migrations to DATABASE_URL
  test [ARGS]  run all tests; ARGS are those of `cargo test`. Starts a throwaway PostgreSQL unless
               TEST_DATABASE_URL is set
  mutants [ARGS]
               change the code, one small fault at a time, and run the tests for each, which takes hours; ARGS are those
               of `cargo mutants`, for instance `--file shared/src/db.rs`
  docs [DIR]   write the documentation page into DIR (default: target/docs), for any web server or to be opened as
               a file
  docs --screenshot FILE
               take a picture of the page
  check [CHECK ...]
               run every other check, or those named: format, lints, docs, SQL, contract, template, build,
               deployment, instructions, dependencies, advisories
  bench [--rounds N]
               measure the functions beside other ways to build them, and write dev/bench/results
  bench instructions --record
               record how many instructions the functions execute, which the check of that name compares
  fuzz [CASES] [OPTIONS]
               try the contract on the API with Schemathesis, CASES (default: 1500) for each operation and
               phase; OPTIONS are those of `schemathesis run`
";

/// Why a command ends before its work is done.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Ctrl-C, SIGTERM or SIGHUP.
    Interrupted,
    /// One sentence that says what is wrong and, where it can, what to do.
    Failed(String),
}

pub(crate) type Result<T> = std::result::Result<T, Stop>;

/// Makes a [`Stop::Failed`] out of a sentence.
pub(crate) fn failed<T>(sentence: impl Into<String>) -> Result<T> {
    Err(Stop::Failed(sentence.into()))
}

/// Says what was being done when an operating system call failed.
pub(crate) trait Context<T> {
    fn context(self, doing: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl Display) -> Result<T> {
        self.or_else(|error| failed(format!("cannot {doing}: {error}")))
    }
}

/// Announces a step.
pub(crate) fn say(line: impl Display) {
    // With the terminal gone there is nobody to tell, but still something to stop.
    drop(writeln!(io::stdout(), "· {line}"));
}

/// The workspace's folder: that of the Cargo that runs us.
pub(crate) fn root() -> &'static Path {
    static HERE: LazyLock<PathBuf> = LazyLock::new(|| {
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
    });
    HERE.ancestors().nth(2).unwrap_or(&HERE)
}

/// What Cargo knows of the workspace.
pub(crate) fn metadata() -> Result<Value> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version=1"])
        .output()
        .context("run cargo metadata")?;
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// Cargo's target folder, wherever the user's configuration puts it.
fn target_folder() -> Result<PathBuf> {
    match metadata()?["target_directory"].as_str() {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => failed("cargo metadata does not tell the target folder; does `cargo metadata` work?"),
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        print!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    if command == "--help" || command == "-h" || command == "help" {
        print!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    if rest.iter().take_while(|it| *it != "--").any(|it| it == "--help" || it == "-h") {
        let help = help(command);
        if help.is_empty() {
            return unknown(command);
        }
        print!("Usage: cargo xtask <command>\n\n{help}");
        return Ok(ExitCode::SUCCESS);
    }
    if command == "migrate" && !rest.is_empty() {
        return failed("`migrate` takes no arguments; see `cargo xtask migrate --help`");
    }
    let target = target_folder()?;
    let mut processes = Processes::new()?;
    let mut tools = Tools::new(&target);
    match command.as_str() {
        "dev" => dev::run(&dev::Options::parse(rest)?, &target, &mut processes, &mut tools),
        "migrate" => migrate(&mut processes, None).map(|()| ExitCode::SUCCESS),
        "test" => test::run(rest, &target, &mut processes, &mut tools),
        "mutants" => test::mutants(rest, &target, &mut processes, &mut tools),
        "docs" => docs::write(rest, &target, &mut processes, &mut tools),
        "fuzz" => contract::fuzz(rest, &target, &mut processes, &mut tools),
        "bench" => bench::run(rest, &target, &mut processes, &mut tools),
        "check" => check::run(rest, &target, &mut processes, &mut tools),
        _ => unknown(command),
    }
}

fn unknown(command: &str) -> Result<ExitCode> {
    failed(format!("there is no command `{command}`; see `cargo xtask --help`"))
}

/// What [`USAGE`] says about one command: nothing if there is no such command.
fn help(command: &str) -> String {
    let mut described = "";
    let mut help = String::new();
    for line in USAGE.split_inclusive('\n') {
        // Two spaces before a command, more before what explains it.
        if let Some(start) = line.strip_prefix("  ").filter(|it| !it.starts_with(' ')) {
            described = start.split_whitespace().next().unwrap_or_default();
        }
        if described == command {
            help.push_str(line);
        }
    }
    help
}

/// Applies the migrations, to the environment's DATABASE_URL if none is given.
pub(crate) fn migrate(processes: &mut Processes, database: Option<&str>) -> Result<()> {
    let mut migrate = cargo();
    migrate.args(["run", "--package", "shared", "--example", "migrate"]);
    migrate.envs(database.map(|url| ("DATABASE_URL", url)));
    processes.succeed(&mut migrate, "the migrations are not applied: see the message above")
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(Stop::Interrupted) => ExitCode::from(130),
        Err(Stop::Failed(sentence)) => {
            eprintln!("error: {sentence}");
            ExitCode::FAILURE
        }
    }
}
