//! `cargo xtask bench`: the functions, as they ship, measured beside what users would pick instead.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use crate::{
    Context, Result, Stop, failed,
    process::{Processes, cargo, works},
    root, say, test,
    tools::{Scripts, Tools, check_build_prerequisites},
    versions::{CMAKE, FLASK, NODE_CLIENT, PG, PSYCOPG, PYTHON_CLIENT},
};

/// Builds, fetches and measures; the arguments are the harness's.
pub(crate) fn run(
    arguments: &[String],
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<ExitCode> {
    let known = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["instructions"] | ["instructions", "--record"] => true,
        ["--rounds", rounds] => rounds.parse::<usize>().is_ok(),
        _ => false,
    };
    if !known {
        return failed(
            "`bench` takes `--rounds N` or `instructions --record`; see `cargo xtask bench --help`",
        );
    }
    check_build_prerequisites()?;
    tools.cargo_lambda(processes)?;
    let peers = root().join("dev/bench/peers");
    let folder = target.join("bench");

    say("building the functions and the probes as they would be deployed (the first time takes minutes)");
    let functions = folder.join("functions");
    let mut build = cargo();
    build.args(["lambda", "build", "--release", "--package", "functions"]);
    build.args(["--bin", "get-user", "--bin", "list-users", "--bin", "create-user", "--bin", "update-user"]);
    build.arg("--lambda-dir").arg(&functions).current_dir(root());
    processes
        .succeed(tools.visible_to(&mut build), "the functions cannot be built: see the message above")?;
    if let Some(("instructions", options)) = arguments.split_first().map(|(it, rest)| (it.as_str(), rest)) {
        return instructions(&functions, options, target, processes, tools).map(|()| ExitCode::SUCCESS);
    }
    let probes = folder.join("probes");
    let mut build = cargo();
    build.args(["lambda", "build", "--release", "--lambda-dir"]).arg(&probes);
    // What both depend on is compiled once.
    build.current_dir(peers.join("probe")).env("CARGO_TARGET_DIR", target);
    processes.succeed(tools.visible_to(&mut build), "the probes cannot be built: see the message above")?;

    let mut harness = cargo();
    harness.args(["run", "--package", "bench", "--"]).args(arguments);
    harness.env("BENCH_FUNCTIONS", functions).env("BENCH_PROBES", probes);
    harness.env("BENCH_LAYER", root().join("shared/layer"));
    for (name, peer) in [("Python", python as Peer), ("Node.js", node), ("Flask", flask)] {
        match peer(&peers, &folder, processes, tools) {
            Ok(variables) => drop(harness.envs(variables)),
            Err(Stop::Interrupted) => return Err(Stop::Interrupted),
            Err(Stop::Failed(sentence)) => say(format_args!("measuring without {name}: {sentence}")),
        }
    }
    harness.env("TEST_DATABASE_URL", test::throwaway_server(&target.join("bench"), processes, tools)?);
    say("measuring, which takes some minutes; better leave the machine alone");
    let status = processes.run(tools.visible_to(&mut harness))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Counts instructions of the functions in this folder and compares with what is recorded, or records.
pub(crate) fn instructions(
    functions: &Path,
    options: &[String],
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<()> {
    let mut harness = cargo();
    harness.args(["run", "--package", "bench", "--", "instructions"]).args(options);
    harness.env("BENCH_FUNCTIONS", functions);
    harness.env("TEST_DATABASE_URL", test::throwaway_server(&target.join("bench"), processes, tools)?);
    if !works(Command::new("valgrind").arg("--version")) {
        return failed("valgrind is missing: install it (on Debian: apt-get install valgrind)");
    }
    let counted = processes.succeed(&mut harness, "the functions execute more instructions than before");
    processes.stop_all();
    counted
}

/// Fetches what a peer needs, and says where it is.
type Peer = fn(&Path, &Path, &mut Processes, &mut Tools) -> Result<Vec<(&'static str, PathBuf)>>;

fn python(
    peers: &Path,
    folder: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<Vec<(&'static str, PathBuf)>> {
    let packages = tools.python_package(processes, "psycopg[binary]", PSYCOPG, &[])?;
    let client = tools.python_package(processes, "awslambdaric", PYTHON_CLIENT, &[])?;
    let package = deployed(&packages, &peers.join("python/handler.py"), &folder.join("python"))?;
    Ok(vec![("BENCH_PYTHON", package), ("BENCH_PYTHON_CLIENT", client)])
}

fn node(
    peers: &Path,
    folder: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<Vec<(&'static str, PathBuf)>> {
    tools.npm(processes)?;
    let pg = tools.npm_package(processes, "pg", PG, Scripts::Ignore)?;
    // The client compiles a part of itself, for which it wants CMake.
    tools.pip(processes, "cmake", CMAKE)?;
    let client = tools.npm_package(processes, "aws-lambda-ric", NODE_CLIENT, Scripts::Run)?;
    let packages = pg.parent().and_then(Path::parent).unwrap_or(&pg);
    let package = deployed(packages, &peers.join("node/handlers.mjs"), &folder.join("node"))?;
    Ok(vec![("BENCH_NODE", package), ("BENCH_NODE_CLIENT", client)])
}

fn flask(
    peers: &Path,
    _: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut folders = Vec::new();
    for (name, version) in FLASK {
        folders.push(tools.python_package(processes, name, version, &[])?);
    }
    let packages = env::join_paths(folders).context("join the folders of Flask")?;
    Ok(vec![("BENCH_FLASK", peers.join("flask")), ("BENCH_FLASK_PACKAGES", packages.into())])
}

/// Makes a folder that holds what would be in the zip of a deployment: the packages and the handler.
fn deployed(packages: &Path, handler: &Path, folder: &Path) -> Result<PathBuf> {
    let doing = || format!("make {}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).context(doing())?;
    }
    fs::create_dir_all(folder).context(doing())?;
    let copied = Command::new("cp").arg("-R").arg(packages.join(".")).arg(handler).arg(folder).status();
    if copied.context(doing())?.success() {
        Ok(folder.to_owned())
    } else {
        failed(format!("cannot {}", doing()))
    }
}
