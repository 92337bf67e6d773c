//! `cargo xtask test`: all tests, against a PostgreSQL that lives as long as they run.

use std::{
    env, fs,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Command, ExitCode, ExitStatus},
};

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use crate::{
    Context, Result, certificates, failed,
    postgres::Cluster,
    process::{Processes, cargo},
    say,
    tools::{Tools, check_build_prerequisites},
};

/// Runs `cargo test` with these arguments; its exit code is ours.
pub(crate) fn run(
    arguments: &[String],
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<ExitCode> {
    let status = run_with_server(cargo().arg("test").args(arguments), target, processes, tools)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Runs the tests of the functions, all but the soak, with the functions that `sam build` has put into this folder and
/// the PostgreSQL that would be fetched, which is newer than most that are installed.
pub(crate) fn run_with_artifacts(
    folder: &Path,
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<()> {
    let mut tests = cargo();
    tests.args(["test", "--package", "functions", "--", "--skip", "soak"]);
    tools.prefer_fetched_postgres();
    let status = run_with_server(tests.env("BOOTSTRAPS", folder), target, processes, tools)?;
    processes.stop_all();
    if status.success() { Ok(()) } else { failed("what `sam build` made does not pass the tests") }
}

/// Changes the code of what ships, one small fault at a time, and runs the tests for each, all but the soak: a mutant that
/// survives shows what no test looks at. These arguments are those of `cargo mutants`.
pub(crate) fn mutants(
    arguments: &[String],
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<ExitCode> {
    tools.cargo_mutants(processes)?;
    let mut mutants = cargo();
    mutants.args(["mutants", "--package", "functions", "--package", "shared", "--output"]).arg(target);
    // A mutant of one package is caught by the tests of the other as well.
    mutants.args(["--test-package", "functions,shared", "--minimum-test-timeout", "600"]);
    mutants.args(arguments).args(["--", "--", "--skip", "soak"]);
    let status = run_with_server(&mut mutants, target, processes, tools)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_with_server(
    tests: &mut Command,
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<ExitStatus> {
    check_build_prerequisites()?;
    // One of the tests starts `cargo xtask dev`.
    tools.cargo_lambda(processes)?;
    if env::var_os("TEST_DATABASE_URL").is_none() {
        tests.env("TEST_DATABASE_URL", throwaway_server(&target.join("test"), processes, tools)?);
    }
    tests.envs(tools.pgbouncer(processes)?.map(|program| ("PGBOUNCER", program)));
    let skipped = target.join("skipped-tests");
    // One that is not there is as good.
    let _ = fs::remove_file(&skipped);
    say("running the tests");
    let status = processes.run(tools.visible_to(tests).env("SKIPPED_TESTS", &skipped))?;
    let skipped = fs::read_to_string(&skipped).unwrap_or_default();
    if !skipped.is_empty() {
        say(format_args!(
            "skipped, because this machine can't run them: {}\n{}",
            skipped.lines().count(),
            skipped.trim_end()
        ));
    }
    Ok(status)
}

/// Starts a server with TLS and an empty cluster in this folder, which is locked until we end, and returns its
/// superuser's URL.
pub(crate) fn throwaway_server(
    folder: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<String> {
    fs::create_dir_all(folder).context(format_args!("create {}", folder.display()))?;
    certificates::write(folder)?;
    let password = random_password()?;
    let file = |name: &str| folder.join(name).display().to_string();
    let settings = [
        // Nothing in it is worth a wait for the disk.
        "fsync=off".to_owned(),
        "max_connections=200".to_owned(),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", file("server.pem")),
        format!("ssl_key_file={}", file("server.key")),
    ];
    let cluster = Cluster {
        folder,
        fresh: true,
        setup: &format!("ALTER USER postgres PASSWORD '{password}'\n"),
        settings: &settings,
        usual_port: None,
    };
    let port = cluster.start(processes, tools)?;
    Ok(format!(
        "postgres://postgres:{password}@localhost:{port}/postgres?sslmode=verify-full&sslrootcert={}",
        percent_encode(folder.join("ca.pem").as_os_str().as_bytes(), NON_ALPHANUMERIC)
    ))
}

fn random_password() -> Result<String> {
    let mut bytes = [0; 16];
    let mut source = fs::File::open("/dev/urandom").context("open /dev/urandom")?;
    source.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
