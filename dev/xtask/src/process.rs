//! Child processes: each in a process group of its own, and none of them outlives us.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    mem,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{
        LazyLock,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{Context, Result, Stop, failed, root};

/// How long a child may take to stop before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

enum Event {
    Interrupt,
    Ended(Pid, ExitStatus),
    WorkDone,
}

/// A running child. Its process id is also the id of its process group.
struct Child {
    name: String,
    group: Pid,
    stop: Signal,
    log: Option<PathBuf>,
    /// Whether its end is not the end of everything.
    may_end: bool,
}

/// Every running child, in the order of their start; dropped, it stops them in reverse.
pub(crate) struct Processes {
    sender: Sender<Event>,
    events: Receiver<Event>,
    children: Vec<Child>,
    /// Of children that were allowed to end, and have.
    obituaries: Vec<String>,
}

impl Processes {
    /// From here on Ctrl-C, SIGTERM and SIGHUP end the current step with [`Stop::Interrupted`].
    pub(crate) fn new() -> Result<Self> {
        let (sender, events) = mpsc::channel();
        let interrupt = sender.clone();
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("handle Ctrl-C")?;
        thread::spawn(move || signals.forever().for_each(|_| drop(interrupt.send(Event::Interrupt))));
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("adopt orphans")?;
        Ok(Self { sender, events, children: Vec::new(), obituaries: Vec::new() })
    }

    /// Runs a step to its end.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<ExitStatus> {
        let name = command.get_program().display().to_string();
        let group = self.start(&name, command, Signal::TERM, None)?;
        let outcome = self.wait_for(|event| match event {
            Event::Ended(pid, status) if *pid == group => Some(*status),
            _ => None,
        });
        self.stop(group);
        outcome
    }

    /// Like [`run`](Self::run), but an exit code other than 0 is a failure with this sentence.
    pub(crate) fn succeed(&mut self, command: &mut Command, otherwise: &str) -> Result<()> {
        if self.run(command)?.success() { Ok(()) } else { failed(otherwise) }
    }

    /// Like [`succeed`](Self::succeed), and what the command prints is seen only if it fails.
    pub(crate) fn succeed_quietly(&mut self, command: &mut Command, otherwise: &str) -> Result<()> {
        let (mut reader, writer) = io::pipe().context("make a pipe")?;
        command.stdout(writer.try_clone().context("share a pipe")?).stderr(writer);
        let output = thread::spawn(move || {
            let mut output = Vec::new();
            drop(reader.read_to_end(&mut output));
            output
        });
        let status = self.run(command);
        // Until the command lets go of the other end, there may be more to read.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if status?.success() {
            return Ok(());
        }
        drop(io::stderr().write_all(&output.join().unwrap_or_default()));
        failed(otherwise)
    }

    /// Does some blocking work on a thread and gives up on it when something happens meanwhile.
    pub(crate) fn during<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let done = self.sender.clone();
        let (sender, result) = mpsc::channel();
        thread::spawn(move || {
            drop(sender.send(work()));
            drop(done.send(Event::WorkDone));
        });
        self.wait_for(|event| matches!(event, Event::WorkDone).then_some(()))?;
        result.recv().context("finish this step")
    }

    /// Waits for so long. What it returns was said of a child that [may end](Self::let_end) and has done so by itself.
    pub(crate) fn wait(&mut self, time: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + time;
        while let Ok(event) = self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.note(event)?;
        }
        Ok(mem::take(&mut self.obituaries).into_iter().next())
    }

    /// From here on the end of this child is told by [`wait`](Self::wait), and ends nothing else.
    pub(crate) fn let_end(&mut self, group: Pid) {
        self.children.iter_mut().filter(|child| child.group == group).for_each(|child| child.may_end = true);
    }

    /// Stops every child, the youngest first.
    pub(crate) fn stop_all(&mut self) {
        while let Some(child) = self.children.last() {
            self.stop(child.group);
        }
        #[cfg(target_os = "linux")]
        orphans::kill();
    }

    /// Starts a child that ends only by itself or, when its time has come, by the signal `stop`.
    pub(crate) fn start(
        &mut self,
        name: &str,
        command: &mut Command,
        stop: Signal,
        log: Option<&Path>,
    ) -> Result<Pid> {
        let child = command.process_group(0).stdin(Stdio::null()).spawn();
        let mut child = child.context(format_args!("run {}", command.get_program().display()))?;
        let group = Pid::from_child(&child);
        let sender = self.sender.clone();
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                drop(sender.send(Event::Ended(group, status)));
            }
        });
        let (name, log) = (name.to_owned(), log.map(Path::to_owned));
        self.children.push(Child { name, group, stop, log, may_end: false });
        Ok(group)
    }

    fn wait_for<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> Result<T> {
        loop {
            let event = self.events.recv().context("wait for the processes")?;
            if let Some(found) = wanted(&event) {
                if let Event::Ended(pid, _) = event {
                    self.forget(pid);
                }
                return Ok(found);
            }
            self.note(event)?;
        }
    }

    /// Takes in what nobody waits for.
    fn note(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Interrupt => Err(Stop::Interrupted),
            Event::Ended(pid, status) => match self.forget(pid) {
                Some(child) if child.may_end => {
                    self.obituaries.push(child.obituary(status));
                    Ok(())
                }
                Some(child) => failed(child.obituary(status)),
                None => Ok(()),
            },
            Event::WorkDone => Ok(()),
        }
    }

    /// Signals the group, waits for its leader, and then kills what is left of the group.
    pub(crate) fn stop(&mut self, group: Pid) {
        let Some(child) = self.children.iter().find(|child| child.group == group) else {
            return;
        };
        let mut others = Vec::new();
        for signal in [child.stop, Signal::KILL] {
            let _ = kill_process_group(group, signal);
            let deadline = Instant::now() + PATIENCE;
            while self.children.iter().any(|child| child.group == group) {
                let left = deadline.saturating_duration_since(Instant::now());
                match self.events.recv_timeout(left) {
                    Ok(Event::Ended(pid, _)) if pid == group => drop(self.forget(pid)),
                    Ok(other) => others.push(other),
                    Err(_) => break,
                }
            }
        }
        self.forget(group);
        // Whoever waits next learns of it: of Ctrl-C, for instance.
        others.into_iter().for_each(|event| drop(self.sender.send(event)));
    }

    fn forget(&mut self, group: Pid) -> Option<Child> {
        let at = self.children.iter().position(|child| child.group == group)?;
        let _ = kill_process_group(group, Signal::KILL);
        Some(self.children.remove(at))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop_all();
    }
}

impl Child {
    fn obituary(&self, status: ExitStatus) -> String {
        let name = &self.name;
        match &self.log {
            Some(log) => format!(
                "{name} ended unexpectedly ({status}); its log is {}, which ends:\n{}",
                log.display(),
                tail(log)
            ),
            None => format!("{name} ended unexpectedly ({status})"),
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.len().saturating_sub(10);
    lines[last..].join("\n")
}

/// The Cargo that runs us, in the workspace's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Whether a command can be run and ends with exit code 0.
pub(crate) fn works(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Whether `setpriv` (util-linux) is here and works.
static SETPRIV: LazyLock<bool> =
    LazyLock::new(|| works(Command::new("setpriv").args(["--pdeathsig=TERM", "true"])));

/// A command that the kernel signals when we are killed without a chance to stop it (where it can).
pub(crate) fn bound_to_us(program: impl AsRef<OsStr>, signal: &str) -> Command {
    if !*SETPRIV {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--pdeathsig={signal}")).arg("--").arg(program);
    command
}

/// Some programs, such as Playwright with its browser, start theirs in sessions of their own, out of reach of a signal to
/// the group. When they are killed, those become children of ours, because Linux makes us their reaper.
#[cfg(target_os = "linux")]
mod orphans {
    use std::{fs, process};

    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

    pub(super) fn kill() {
        // An orphan may leave orphans of its own.
        loop {
            let orphans = children();
            if orphans.is_empty() {
                return;
            }
            for orphan in orphans {
                let _ = kill_process(orphan, Signal::KILL);
                let _ = waitpid(Some(orphan), WaitOptions::empty());
            }
        }
    }

    fn children() -> Vec<Pid> {
        let us = process::id().to_string();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
                // pid (name) state parent …, and the name may hold anything
                let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
                if parent == us { Pid::from_raw(pid) } else { None }
            })
            .collect()
    }
}
