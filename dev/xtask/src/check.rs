//! `cargo xtask check`: every check that is not a test. All of them run, whatever the others find.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use crate::{
    Context, Result, Stop, failed,
    process::{Processes, cargo},
    root, say,
    tools::Tools,
};

const SAM: &str = "1.170.0";
const DSQL_LINT: &str = "0.2.22";
const ADVISORIES: &str = "https://github.com/RustSec/advisory-db";

/// What the checks share.
struct Checks<'a> {
    target: &'a Path,
    processes: &'a mut Processes,
    tools: &'a mut Tools,
}

type Check = fn(&mut Checks<'_>) -> Result<()>;

const CHECKS: [(&str, Check); 6] = [
    ("format: rustfmt has nothing to change", format),
    ("lints: clippy finds nothing", lints),
    ("docs: rustdoc finds nothing", docs),
    ("SQL: the migrations suit Aurora DSQL", sql),
    ("template: SAM accepts it and builds every function from it", template),
    ("advisories: no dependency has a known defect", advisories),
];

/// Runs all checks, and fails with the list of those that failed.
pub(crate) fn run(target: &Path, processes: &mut Processes, tools: &mut Tools) -> Result<ExitCode> {
    let mut checks = Checks { target, processes, tools };
    let mut failures = Vec::new();
    for (title, check) in CHECKS {
        say(title);
        match check(&mut checks) {
            Ok(()) => {}
            Err(Stop::Interrupted) => return Err(Stop::Interrupted),
            Err(Stop::Failed(sentence)) => {
                eprintln!("failed: {sentence}");
                failures.push(title);
            }
        }
    }
    if failures.is_empty() {
        say("all checks passed");
        return Ok(ExitCode::SUCCESS);
    }
    failed(format!("these checks failed:\n  {}", failures.join("\n  ")))
}

fn format(checks: &mut Checks<'_>) -> Result<()> {
    checks.pass(cargo().args(["fmt", "--all", "--check"]))
}

fn lints(checks: &mut Checks<'_>) -> Result<()> {
    checks.pass(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn docs(checks: &mut Checks<'_>) -> Result<()> {
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    checks.pass(&mut doc)
}

fn sql(checks: &mut Checks<'_>) -> Result<()> {
    checks.tools.pip(checks.processes, "dsql-lint", DSQL_LINT, &["--quiet"])?;
    let folder = root().join("shared/migrations");
    let mut lint = Command::new("dsql-lint");
    lint.args(files_in(&folder)?);
    checks.pass(&mut lint)
}

fn template(checks: &mut Checks<'_>) -> Result<()> {
    checks.tools.cargo_lambda(checks.processes)?;
    checks.tools.pip(checks.processes, "aws-sam-cli", SAM, &["--quiet"])?;
    checks.pass(Command::new("sam").args(["validate", "--lint"]))?;

    // What this machine can build; users may deploy the other one.
    let architecture = if env::consts::ARCH == "aarch64" { "arm64" } else { "x86_64" };
    let folder = checks.target.join("sam");
    let mut build = Command::new("sam");
    build.args(["build", "--parameter-overrides", &format!("Architecture={architecture}")]);
    build.arg("--build-dir").arg(&folder);
    checks.pass(&mut build)?;

    let template = fs::read_to_string(root().join("template.yaml")).context("read template.yaml")?;
    let expected = template.matches("BuildMethod: rust-cargolambda").count();
    let built = files_in(&folder)?.iter().filter(|it| it.join("bootstrap").is_file()).count();
    if built == expected {
        return Ok(());
    }
    failed(format!("sam build made {built} executables of {expected} in {}", folder.display()))
}

fn advisories(checks: &mut Checks<'_>) -> Result<()> {
    let mut reach = Command::new("git");
    reach.args(["ls-remote", "--exit-code", ADVISORIES, "HEAD"]).env("GIT_TERMINAL_PROMPT", "0");
    if !checks.processes.run(reach.stdout(Stdio::null()).stderr(Stdio::null()))?.success() {
        say("advisories: not checked (database unreachable)");
        return Ok(());
    }
    checks.tools.cargo_deny(checks.processes)?;
    checks.pass(cargo().args(["deny", "--workspace", "check", "advisories"]))
}

impl Checks<'_> {
    /// Runs a checking program, whose exit code is the verdict.
    fn pass(&mut self, command: &mut Command) -> Result<()> {
        let command = self.tools.visible_to(command);
        // SAM wants a region even where it asks nothing of AWS.
        command.current_dir(root()).env("SAM_CLI_TELEMETRY", "0");
        if env::var_os("AWS_DEFAULT_REGION").is_none() {
            command.env("AWS_DEFAULT_REGION", "us-east-1");
        }
        let arguments: Vec<_> = command.get_args().map(|it| it.to_string_lossy()).collect();
        let line = format!("{} {}", command.get_program().display(), arguments.join(" "));
        self.processes.succeed(command, &line)
    }
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).context(format_args!("list {}", folder.display()))?;
    let paths: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.context(format_args!("list {}", folder.display()))?;
    paths.sort();
    Ok(paths)
}
