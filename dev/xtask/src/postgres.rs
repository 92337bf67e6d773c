//! A private PostgreSQL: its cluster is made once, kept in a folder, and served on loopback only.

use std::{
    fs::{self, File, TryLockError},
    io::Write,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};

use crate::{
    Context, Result, Stop, failed,
    process::{Processes, bound_to_us, tail, works},
    say,
    tools::{PostgresPrograms, Tools},
};

/// A crashed server replays its log first, which may take a while.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Where a cluster lives, and how to make and to run it.
pub(crate) struct Cluster<'a> {
    /// Holds the cluster, its log and its lock.
    pub(crate) folder: &'a Path,
    /// Begin with an empty cluster.
    pub(crate) fresh: bool,
    /// Run once, when the cluster is made, one statement a line.
    pub(crate) setup: &'a str,
    /// Server settings, `name=value`.
    pub(crate) settings: &'a [String],
    /// The port of the first start, if it is free. Further starts keep to the port of the one before.
    pub(crate) usual_port: Option<u16>,
}

impl Cluster<'_> {
    /// Starts the server and returns its port once it takes connections.
    pub(crate) fn start(&self, processes: &mut Processes, tools: &mut Tools) -> Result<u16> {
        let server = Server::new(tools.postgres(processes)?)?;
        self.lock()?;
        let data = self.folder.join("postgres");
        stop_leftover(&data)?;
        let kept = self.usual_port.map(|usual| last_port(&data).unwrap_or(usual));
        if self.fresh && data.exists() {
            fs::remove_dir_all(&data).context(format_args!("empty {}", data.display()))?;
        }
        if data.exists() {
            server.check_version(&data)?;
            // When root has copied the project, the copy belongs to root.
            server.own(&data, processes)?;
        } else {
            self.create(&server, &data, processes)?;
        }
        let usable = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        if let Some(port) = kept.filter(usable) {
            match self.serve(&server, &data, port, processes) {
                // Somebody was faster, for instance.
                Err(Stop::Failed(_)) => {}
                outcome => return outcome.map(|()| port),
            }
        }
        let port = free_port()?;
        self.serve(&server, &data, port, processes).map(|()| port)
    }

    /// Runs the server on this port, and waits until it takes connections.
    fn serve(&self, server: &Server, data: &Path, port: u16, processes: &mut Processes) -> Result<()> {
        say(format_args!("starting PostgreSQL {} on port {port}", server.programs.version));
        let mut command = server.command("postgres", self.folder);
        command.arg("-D").arg(data).arg("-c").arg(format!("port={port}"));
        command.args(["-c", "listen_addresses=127.0.0.1"]);
        // The path of a socket has about a hundred bytes, and our folder's may be longer.
        command.args(["-c", "unix_socket_directories="]);
        for setting in self.settings {
            command.arg("-c").arg(setting);
        }
        self.write_log(&mut command)?;
        // SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
        let log = self.log();
        let pid = processes.start("PostgreSQL", &mut command, Signal::INT, Some(&log))?;
        let data = data.to_owned();
        if processes.during(move || is_ready(&data, pid))? {
            Ok(())
        } else {
            failed(format!("PostgreSQL does not get ready; its log is {}", log.display()))
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    /// Keeps a second command away from the folder for as long as this process lives.
    fn lock(&self) -> Result<()> {
        let doing = format!("use {}", self.folder.display());
        fs::create_dir_all(self.folder).context(&doing)?;
        let lock = File::create(self.folder.join("lock")).context(&doing)?;
        match lock.try_lock() {
            Ok(()) => {
                // Closing the file would release the lock; only the end of this process shall.
                std::mem::forget(lock);
                Ok(())
            }
            Err(TryLockError::WouldBlock) => failed(format!(
                "another `cargo xtask` uses {} right now: stop it first, or choose another folder with --data",
                self.folder.display()
            )),
            Err(TryLockError::Error(error)) => Err(error).context(doing),
        }
    }

    /// Starts the log anew and sends the command's output there.
    fn write_log(&self, command: &mut Command) -> Result<()> {
        let log = self.log();
        let output = File::create(&log).context(format_args!("write {}", log.display()))?;
        command.stderr(output.try_clone().context("write a log")?).stdout(output);
        Ok(())
    }

    /// Makes the cluster under another name first, so that no interrupted attempt is taken for a cluster.
    fn create(&self, server: &Server, data: &Path, processes: &mut Processes) -> Result<()> {
        say(format_args!("making a database cluster in {}", data.display()));
        let unfinished = self.folder.join("postgres.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).context(format_args!("remove {}", unfinished.display()))?;
        }
        fs::create_dir(&unfinished).context(format_args!("create {}", unfinished.display()))?;
        server.own(&unfinished, processes)?;

        let mut initdb = server.command("initdb", self.folder);
        initdb.arg("-D").arg(&unfinished);
        // `trust` never applies: pg_hba.conf is replaced before a server runs.
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        self.write_log(&mut initdb)?;
        if !processes.run(&mut initdb)?.success() {
            return failed(format!("initdb failed, saying:\n{}", tail(&self.log())));
        }
        fs::write(
            unfinished.join("pg_hba.conf"),
            "host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n",
        )
        .context("write pg_hba.conf")?;

        let mut single = server.command("postgres", self.folder);
        single.args(["--single", "-c", "exit_on_error=true", "-D"]).arg(&unfinished).arg("postgres");
        self.write_log(&mut single)?;
        let mut single =
            single.process_group(0).stdin(Stdio::piped()).spawn().context("set the cluster up")?;
        if let Some(mut input) = single.stdin.take() {
            input.write_all(self.setup.as_bytes()).context("set the cluster up")?;
        }
        if !single.wait().context("set the cluster up")?.success() {
            return failed(format!("the cluster cannot be set up:\n{}", tail(&self.log())));
        }
        fs::rename(&unfinished, data).context(format_args!("create {}", data.display()))
    }
}

/// How to run PostgreSQL's programs.
struct Server {
    programs: PostgresPrograms,
    /// The user and the group to run as, because PostgreSQL refuses to run as root.
    user: Option<(&'static str, &'static str)>,
}

impl Server {
    fn new(programs: PostgresPrograms) -> Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self { programs, user: None });
        }
        let users = [("postgres", "postgres"), ("nobody", "nogroup"), ("nobody", "nobody")];
        match users.into_iter().find(|&user| works(become_user(user).arg("true"))) {
            Some(user) => Ok(Self { programs, user: Some(user) }),
            None => failed(
                "PostgreSQL does not run as root, and here root cannot run it as another user: run this command \
                 as an ordinary user, or set DATABASE_URL to a database of yours",
            ),
        }
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let program = self.programs.folder.join(program);
        let mut command = match self.user {
            None => bound_to_us(program, "INT"),
            Some(user) => {
                let mut command = become_user(user);
                command.arg(program);
                command
            }
        };
        command.current_dir(folder);
        command
    }

    /// Makes a folder belong to the user that the server runs as.
    fn own(&self, folder: &Path, processes: &mut Processes) -> Result<()> {
        let Some((user, _)) = self.user else { return Ok(()) };
        let mut chown = Command::new("chown");
        chown.args(["-R", user]).arg(folder);
        let otherwise = format!("cannot give {} to user {}", folder.display(), user);
        processes.succeed(&mut chown, &otherwise)
    }

    fn check_version(&self, data: &Path) -> Result<()> {
        let file = data.join("PG_VERSION");
        let made_by = fs::read_to_string(&file).context(format_args!("read {}", file.display()))?;
        let (made_by, found) = (made_by.trim(), self.programs.version);
        if made_by == found.to_string() {
            return Ok(());
        }
        failed(format!(
            "the database in {} was made by PostgreSQL {made_by}, but PostgreSQL {found} is what was found: start \
             with --fresh to begin with an empty one, or install PostgreSQL {made_by}",
            data.display()
        ))
    }
}

/// `setpriv … --`, to be followed by a program that shall run as this user.
fn become_user((user, group): (&str, &str)) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).args([
        "--clear-groups",
        // The project may be below a folder that only root can enter. The capability opens it, and with
        // no_setuid_fixup it counts for access(2) too, by which PostgreSQL looks for its own programs.
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
        "--securebits=+no_setuid_fixup",
        "--pdeathsig=INT",
        "--",
    ]);
    command
}

/// The port of a cluster's last start, whose options the server has written down.
fn last_port(data: &Path) -> Option<u16> {
    let options = fs::read_to_string(data.join("postmaster.opts")).ok()?;
    let (_, port) = options.split_once("\"port=")?;
    port.split('"').next()?.parse().ok()
}

/// Stops a server that was left behind when its `cargo xtask` was killed.
fn stop_leftover(data: &Path) -> Result<()> {
    let file = data.join("postmaster.pid");
    let text = fs::read_to_string(&file).unwrap_or_default();
    let Some(pid) = text.lines().next().and_then(|it| Pid::from_raw(it.parse().ok()?)) else {
        return Ok(());
    };
    if !serves(pid, data) {
        // After a crash PostgreSQL minds the file only if the number belongs to a living process: a stranger's.
        if test_kill_process(pid).is_ok() {
            fs::remove_file(&file).context(format_args!("remove {}", file.display()))?;
        }
        return Ok(());
    }
    say("stopping a PostgreSQL that an earlier run left behind");
    kill_process(pid, Signal::INT).context("stop it")?;
    if poll(Duration::from_secs(10), || !serves(pid, data)) {
        return Ok(());
    }
    failed(format!(
        "process {}, a PostgreSQL that an earlier run left behind, does not stop: kill it",
        pid.as_raw_nonzero()
    ))
}

/// Whether the process is a server of this cluster; its command line says so.
fn serves(pid: Pid, data: &Path) -> bool {
    let pid = pid.as_raw_nonzero().to_string();
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).or_else(|_| {
        let output = Command::new("ps").args(["-o", "command=", "-p", &pid]).output();
        output.map(|it| it.stdout)
    });
    let command_line = command_line.unwrap_or_default();
    String::from_utf8_lossy(&command_line).contains(&*data.to_string_lossy())
}

/// Waits until the server says in its file that it takes connections, as pg_ctl does.
fn is_ready(data: &Path, pid: Pid) -> bool {
    poll(START_LIMIT, || {
        let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines();
        lines.next() == Some(&pid.as_raw_nonzero().to_string())
            && lines.nth(6).is_some_and(|it| it.trim() == "ready")
    })
}

/// Whether a condition came true in time.
pub(crate) fn poll(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// A port that is free right now.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}
