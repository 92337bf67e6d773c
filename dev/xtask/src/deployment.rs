//! Deploys what SAM built to MiniStack, a local AWS that nobody of this project wrote, and uses it as README tells.

use std::{env, fs, net::TcpStream, path::Path, process::Command, time::Duration};

use rustix::process::Signal;

use crate::{
    Context, Result, failed,
    postgres::{free_port, poll},
    process::{Processes, bound_to_us, cargo},
    root, test,
    tools::Tools,
    versions::{AWS_CLI, BESIDE_MINISTACK, MINISTACK},
};

/// How long MiniStack and the gate may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs the scenario on what `sam build` has put into a folder. Each of the three Python programs sees its own packages
/// alone: MiniStack and SAM's CLI ask for different versions of botocore.
pub(crate) fn check(
    artifacts: &Path,
    sam_cli: &str,
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<()> {
    let template = artifacts.join("template.yaml");
    if !template.is_file() {
        return failed("nothing is built: run the check `build` before, or with it");
    }
    let ministack = tools.python_package(processes, "ministack", MINISTACK, &BESIDE_MINISTACK)?;
    let aws_cli = tools.python_package(processes, "awscli", AWS_CLI, &[])?;
    let sam_cli = tools.python_package(processes, "aws-sam-cli", sam_cli, &[])?;
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "testkit", "--example", "gate", "--target-dir"]).arg(target);
    processes.succeed(&mut build, "the token gate does not compile")?;

    let folder = target.join("deployment");
    let work = folder.join("work");
    if work.exists() {
        fs::remove_dir_all(&work).context(format_args!("empty {}", work.display()))?;
    }
    fs::create_dir_all(&work).context(format_args!("create {}", work.display()))?;
    let database = test::throwaway_server(&folder, processes, tools)?;

    let gateway = free_port()?;
    let file = |name: &str| work.join(name).display().to_string();
    let mut shared = vec![
        ("GATEWAY_PORT", gateway.to_string()),
        ("AUTHORITY", file("authority.pem")),
        ("RDS_AUTHORITY", file("ca.pem")),
        ("SERVER_CA", folder.join("ca.pem").display().to_string()),
        ("SESSIONS", file("sessions")),
        ("RESOURCE_ID", "db-ABCDEFGHIJKL0123456789".to_owned()),
        ("TEST_DATABASE_URL", database),
        ("TMPDIR", work.display().to_string()),
    ];
    for name in ["GATE", "RDS_GATE", "DOOR", "PGPROXY"] {
        shared.push((name, free_port()?.to_string()));
    }
    fs::write(work.join("sessions"), "").context("write the gate's file")?;

    let log = work.join("gate.log");
    let mut gate = bound_to_us(target.join("debug/examples/gate"), "TERM");
    output_to(gate.envs(shared.iter().cloned()), &log)?;
    processes.start("the token gate", &mut gate, Signal::TERM, Some(&log))?;
    let authority = work.join("ca.pem");
    wait_until(processes, "the token gate", move || authority.is_file())?;

    // Nothing of the caller's settings for AWS, and what MiniStack inherits is part of every function's environment.
    let python = |program: &mut Command, script: &str| {
        program.arg("-B").arg(root().join("dev/deployment").join(script)).env_clear();
        program.envs(
            ["PATH", "LD_LIBRARY_PATH"].into_iter().filter_map(|name| Some((name, env::var_os(name)?))),
        );
        program.env("PYTHONPATH", &ministack).env("HOME", &work).envs(shared.iter().cloned());
    };
    let log = work.join("ministack.log");
    let mut local = bound_to_us("python3", "TERM");
    python(&mut local, "bridges.py");
    local.env_remove("TEST_DATABASE_URL");
    local.env("S3_DATA_DIR", work.join("s3")).env("STATE_DIR", work.join("state"));
    local.envs([
        ("BIND_HOST", "127.0.0.1"),
        ("AUTH", "true"),
        // Else it would open ports of its own choice.
        ("IOT_MTLS_ENABLED", "0"),
        ("SFTP_ENABLED", "0"),
    ]);
    output_to(&mut local, &log)?;
    processes.start("MiniStack", &mut local, Signal::TERM, Some(&log))?;
    wait_until(processes, "MiniStack", move || TcpStream::connect(("127.0.0.1", gateway)).is_ok())?;

    let mut scenario = Command::new("python3");
    python(&mut scenario, "scenario.py");
    scenario
        .env("WORK", &work)
        .env("TEMPLATE", &template)
        .env("SAM_FOLDER", &sam_cli)
        .env("AWS_FOLDER", &aws_cli);
    let outcome = processes.succeed(
        &mut scenario,
        &format!("the deployment is not as it should be: see above, and the logs in {}", work.display()),
    );
    processes.stop_all();
    outcome
}

fn output_to(command: &mut Command, log: &Path) -> Result<()> {
    let output = fs::File::create(log).context(format_args!("write {}", log.display()))?;
    command.stderr(output.try_clone().context("write a log")?).stdout(output);
    Ok(())
}

fn wait_until(
    processes: &mut Processes,
    name: &str,
    ready: impl Fn() -> bool + Send + 'static,
) -> Result<()> {
    let is_ready = processes.during(move || poll(START_LIMIT, ready))?;
    if is_ready { Ok(()) } else { failed(format!("{name} does not get ready")) }
}
