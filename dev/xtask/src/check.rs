//! `cargo xtask check`: every check beside the tests. All of them run, whatever the others find.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::SystemTime,
};

use crate::{
    Context, Result, Stop, bench, contract, deployment, failed,
    process::{Processes, cargo},
    root, say, test,
    tools::Tools,
    versions::{CHECKOV, DSQL_LINT, SAM},
};

const ADVISORIES: &str = "https://github.com/RustSec/advisory-db";

/// What the checks share.
struct Checks<'a> {
    target: &'a Path,
    processes: &'a mut Processes,
    tools: &'a mut Tools,
}

type Check = fn(&mut Checks<'_>) -> Result<()>;

const CHECKS: [(&str, Check); 13] = [
    ("format: rustfmt has nothing to change", format),
    ("lints: clippy finds nothing", lints),
    ("docs: rustdoc finds nothing", docs),
    ("SQL: the migrations suit Aurora DSQL", sql),
    ("contract: Redocly finds nothing in openapi.yaml", contract),
    ("contract: a generated client, a browser and Schemathesis get what it says", api),
    ("template: SAM, cfn-lint and checkov find nothing, and its tests pass", template),
    ("build: SAM builds every function, and what it built passes the tests", build),
    ("deployment: what SAM built is deployed to a local AWS, and used as README tells", deployment),
    ("instructions: what SAM built executes not many more than recorded", instructions),
    ("dependencies: licences, sources, and OpenSSL as the only TLS library", dependencies),
    ("advisories: no dependency has a known defect", advisories),
    ("OpenSSL: what is built is supported", openssl),
];

/// Runs all checks, or those whose titles begin with one of these words, and fails with the list of those that failed.
pub(crate) fn run(
    words: &[String],
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<ExitCode> {
    if let Some(word) = words.iter().find(|&word| !CHECKS.iter().any(|(title, _)| title.starts_with(word))) {
        let titles = CHECKS.map(|(title, _)| title).join("\n  ");
        return failed(format!("there is no check `{word}`; the checks are:\n  {titles}"));
    }
    let mut checks = Checks { target, processes, tools };
    let mut failures = Vec::new();
    for (title, check) in CHECKS {
        if !words.is_empty() && !words.iter().any(|word| title.starts_with(word)) {
            continue;
        }
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
    checks.tools.pip(checks.processes, "dsql-lint", DSQL_LINT)?;
    let folder = root().join("shared/migrations");
    let mut lint = Command::new("dsql-lint");
    lint.args(files_in(&folder)?);
    checks.pass(&mut lint)
}

fn contract(checks: &mut Checks<'_>) -> Result<()> {
    contract::lint(checks.processes, checks.tools)
}

fn api(checks: &mut Checks<'_>) -> Result<()> {
    contract::check(checks.target, checks.processes, checks.tools)
}

fn template(checks: &mut Checks<'_>) -> Result<()> {
    checks.tools.pip(checks.processes, "aws-sam-cli", SAM)?;
    checks.pass(Command::new("sam").args(["validate", "--lint"]))?;

    let checkov = checks.tools.python_package(checks.processes, "checkov", CHECKOV, &[])?;
    let mut tests = Command::new("python3");
    tests.args(["-B", "-m", "unittest", "discover", "--start-directory", "dev/template"]);
    checks.pass(tests.env("CHECKOV", checkov))
}

fn build(checks: &mut Checks<'_>) -> Result<()> {
    checks.tools.cargo_lambda(checks.processes)?;
    checks.tools.pip(checks.processes, "aws-sam-cli", SAM)?;
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
    if built != expected {
        return failed(format!("sam build made {built} executables of {expected} in {}", folder.display()));
    }
    test::run_with_artifacts(&folder, checks.target, checks.processes, checks.tools)
}

fn deployment(checks: &mut Checks<'_>) -> Result<()> {
    deployment::check(&checks.target.join("sam"), SAM, checks.target, checks.processes, checks.tools)
}

fn instructions(checks: &mut Checks<'_>) -> Result<()> {
    let functions = checks.target.join("sam");
    if !functions.is_dir() {
        return failed("nothing is built: run the check `build` before, or with it");
    }
    bench::instructions(&functions, &[], checks.target, checks.processes, checks.tools)
}

fn dependencies(checks: &mut Checks<'_>) -> Result<()> {
    checks.tools.cargo_deny(checks.processes)?;
    let config = ["--config", "dev/deny.toml", "check"];
    let mut shipped = cargo();
    shipped.args(["deny", "--manifest-path", "functions/Cargo.toml", "--exclude-dev"]);
    checks.pass(shipped.args(config).arg("bans"))?;
    let mut all = cargo();
    checks.pass(all.args(["deny", "--workspace"]).args(config).args(["licenses", "sources"]))
}

/// Where the database can't be reached, `ADVISORY_DB` may name a local clone of it.
fn advisories(checks: &mut Checks<'_>) -> Result<()> {
    let copy = env::var("ADVISORY_DB").map(|path| {
        let key = format!("url.file://{path}.insteadOf");
        [
            ("GIT_CONFIG_COUNT", "1".to_owned()),
            ("GIT_CONFIG_KEY_0", key),
            ("GIT_CONFIG_VALUE_0", ADVISORIES.to_owned()),
        ]
    });
    let copy: Vec<_> = copy.into_iter().flatten().collect();
    let mut reach = Command::new("git");
    reach
        .args(["ls-remote", "--exit-code", ADVISORIES, "HEAD"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs(copy.clone());
    if !checks.processes.run(reach.stdout(Stdio::null()).stderr(Stdio::null()))?.success() {
        say("advisories: not checked (database unreachable; ADVISORY_DB=<folder of a clone> helps)");
        return Ok(());
    }
    checks.tools.cargo_deny(checks.processes)?;
    let mut deny = cargo();
    deny.args(["deny", "--workspace", "--config", "dev/deny.toml", "check", "advisories"]);
    checks.pass(deny.envs(copy))
}

/// Until when OpenSSL 4.0 is supported, in seconds since 1970: 2027-05-14.
/// Source: <https://openssl-library.org/policies/releasestrat/>
const OPENSSL: (&str, u64) = ("4.0.", 1_810_252_800);

fn openssl(_: &mut Checks<'_>) -> Result<()> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("read Cargo.lock")?;
    // The one that is compiled names the version of OpenSSL behind its own.
    let mut versions = lock.lines().filter_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    let (release, end) = OPENSSL;
    let built = versions.find(|version| version.contains("+") && version.starts_with("400."));
    let Some(built) = built.filter(|it| it.split_once('+').is_some_and(|(_, it)| it.starts_with(release)))
    else {
        return failed(format!(
            "Cargo.lock has no OpenSSL {release}: tell the check until when the new one is supported"
        ));
    };
    let mut update = cargo();
    update.args(["update", "--dry-run", "--package", &format!("openssl-src@{built}")]);
    let update = update.current_dir(root()).output().context("run cargo update")?;
    if String::from_utf8_lossy(&update.stderr).contains("openssl-src v") {
        say(format_args!(
            "OpenSSL: there is a newer one than {built}: cargo update --package openssl-src@{built}"
        ));
    }
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    match (end.saturating_sub(now) / 86_400, now < end) {
        (_, false) => failed(format!("OpenSSL {built} is not supported any more")),
        (days @ ..90, true) => {
            say(format_args!("OpenSSL: the support of {built} ends in {days} days"));
            Ok(())
        }
        _ => Ok(()),
    }
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
