//! The contract, `openapi.yaml`, and what machines make of it: a linter, Schemathesis, a generated client, a browser.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use crate::{
    Result, dev, docs, failed,
    postgres::free_port,
    process::Processes,
    root,
    tools::{Scripts, Tools, chromium},
    versions::{CLIENT_GENERATOR, PLAYWRIGHT, REDOCLY, SCHEMATHESIS},
};

/// Cases for each operation and phase of Schemathesis in `cargo xtask check`, always the same ones.
const CASES: &str = "50";
const SEED: &str = "1";
/// Cases for each operation and phase in `cargo xtask fuzz`: more than 5,000 together.
const MANY_CASES: &str = "1500";

/// Lints the contract, and compiles its patterns.
pub(crate) fn lint(processes: &mut Processes, tools: &mut Tools) -> Result<()> {
    tools.npm(processes)?;
    let package = tools.npm_package(processes, "@redocly/cli", REDOCLY, Scripts::Ignore)?;
    let mut lint = Command::new("node");
    lint.arg(package.join("bin/cli.js")).args(["lint", "--extends", "recommended-strict", "openapi.yaml"]);
    lint.env("REDOCLY_TELEMETRY", "off").env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
    pass(tools.visible_to(&mut lint), processes)?;
    pass(tools.visible_to(Command::new("node").arg("dev/contract/patterns.js")), processes)
}

/// Tries the contract on a running API: by a generated client, in a browser, and with Schemathesis.
pub(crate) fn check(target: &Path, processes: &mut Processes, tools: &mut Tools) -> Result<()> {
    let running = start(target, processes, tools)?;
    // First the browser, which needs an empty database.
    let outcome = browser(&running, target, processes, tools)
        .and_then(|()| generated_client(running.port, target, processes))
        .and_then(|()| schemathesis(running.port, &[CASES, "--seed", SEED], target, processes));
    processes.stop_all();
    outcome
}

/// `cargo xtask fuzz`: more cases than in `check`, and others each time.
pub(crate) fn fuzz(
    arguments: &[String],
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<ExitCode> {
    let mut options = vec![MANY_CASES];
    let mut others = arguments;
    if let Some((cases, rest)) = arguments.split_first().filter(|(first, _)| !first.starts_with('-')) {
        if cases.parse::<u32>().is_err() {
            return failed(format!("`fuzz` does not know `{cases}`; see `cargo xtask fuzz --help`"));
        }
        options[0] = cases;
        others = rest;
    }
    options.extend(others.iter().map(String::as_str));
    let running = start(target, processes, tools)?;
    schemathesis(running.port, &options, target, processes).map(|()| ExitCode::SUCCESS)
}

fn start(target: &Path, processes: &mut Processes, tools: &mut Tools) -> Result<dev::Running> {
    let data = Some(target.join("contract"));
    let options = dev::Options { port: Some(free_port()?), fresh: true, data };
    dev::start(&options, target, processes, tools)
}

/// Generates a Python client, which makes a round of create, read, update and delete.
fn generated_client(port: u16, target: &Path, processes: &mut Processes) -> Result<()> {
    let mut tools = python_tools(target, "openapi-python-client", CLIENT_GENERATOR, processes)?;
    let client = target.join("contract/client");
    let mut generate = Command::new("openapi-python-client");
    generate.args([
        "generate",
        "--path",
        "openapi.yaml",
        "--overwrite",
        "--fail-on-warning",
        "--output-path",
    ]);
    generate.arg(&client);
    pass(tools.visible_to(&mut generate), processes)?;

    tools.python_path.push(client);
    let mut round = Command::new("python3");
    round.args(["-B", "dev/contract/client.py", &format!("http://127.0.0.1:{port}")]);
    pass(tools.visible_to(&mut round), processes)
}

/// Uses the documentation page, as it is served and as a file, and takes a picture of it.
fn browser(
    running: &dev::Running,
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<()> {
    let page = match &running.documentation {
        Ok(port) => format!("http://localhost:{port}/"),
        Err(sentence) => return failed(format!("there is no documentation page, because {sentence}")),
    };
    let folder = target.join("contract/docs");
    docs::write_into(&folder, &docs::viewer(processes, tools)?)?;
    let picture = target.join("contract/page.png").display().to_string();
    in_browser(&["screenshot", &page, &picture], processes, tools)?;
    let (api, folder) = (format!("http://localhost:{}", running.port), folder.display().to_string());
    in_browser(&["check", &page, &api, &folder], processes, tools)
}

/// Runs our script for a headless Chromium.
pub(crate) fn in_browser(arguments: &[&str], processes: &mut Processes, tools: &mut Tools) -> Result<()> {
    let chromium = chromium()?;
    tools.npm(processes)?;
    let playwright = tools.npm_package(processes, "playwright-core", PLAYWRIGHT, Scripts::Ignore)?;
    let mut page = Command::new("node");
    page.arg(root().join("dev/contract/page.js")).args(arguments);
    page.env("PLAYWRIGHT", playwright).env("CHROMIUM", chromium);
    processes.succeed(tools.visible_to(&mut page), "the browser found faults: see above")
}

/// Runs Schemathesis with this number of cases for each operation and phase, and with other options after it.
fn schemathesis(port: u16, options: &[&str], target: &Path, processes: &mut Processes) -> Result<()> {
    let tools = python_tools(target, "schemathesis", SCHEMATHESIS, processes)?;
    let settings = root().join("dev/contract");
    let mut run = Command::new("schemathesis");
    run.arg("--config-file").arg(settings.join("schemathesis.toml"));
    run.arg("run").arg(root().join("openapi.yaml"));
    run.args(["--url", &format!("http://127.0.0.1:{port}"), "--max-examples"]).args(options);
    run.env("SCHEMATHESIS_HOOKS", settings.join("hooks.py")).env("PYTHONDONTWRITEBYTECODE", "1");
    // It leaves a folder where it runs.
    run.current_dir(target.join("contract"));
    pass(tools.visible_to(&mut run), processes)
}

/// Sees no Python packages but this one and those that it depends on.
fn python_tools(target: &Path, name: &str, version: &str, processes: &mut Processes) -> Result<Tools> {
    let mut tools = Tools::new(target);
    tools.pip(processes, name, version)?;
    Ok(tools)
}

/// Runs a program whose exit code is the verdict, in the workspace's folder if in no other.
fn pass(command: &mut Command, processes: &mut Processes) -> Result<()> {
    let program = command.get_program().display().to_string();
    if command.get_current_dir().is_none() {
        command.current_dir(root());
    }
    processes.succeed(command, &format!("{program} found faults: see above"))
}
