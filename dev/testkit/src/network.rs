//! A network that can be cut so that nobody is told: a namespace behind a virtual cable.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Namespaces are named so, and then like the process that owns them.
const PREFIX: &str = "cut";

/// A network namespace of one test's own, named like the cable that leads there. A proxy in the same namespace as the
/// binary can swallow data, but its kernel still acknowledges them; here nothing does.
#[derive(Debug)]
pub struct Network {
    name: String,
    address: Ipv4Addr,
}

impl Network {
    /// `None`, and [a word about it](skip), where the machine does not allow it: it takes Linux, root and iproute2.
    ///
    /// # Panics
    /// When it is allowed and fails halfway.
    pub fn new() -> Option<Self> {
        sweep();
        let process = std::process::id();
        let name = format!("{PREFIX}{process}");
        // Four addresses for each process, from the range for tests of networks (RFC 2544).
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + process % (1 << 14) * 4;
        let [here, there] = [1, 2].map(|end| Ipv4Addr::from(base + end));
        let allowed = ip(&format!("netns add {name}"));
        let Some(network) = allowed.then_some(Self { name, address: there }) else {
            skip("this machine allows no network namespaces (they take Linux, root and iproute2)");
            return None;
        };
        let name = &network.name;
        for step in [
            format!("link add {name} type veth peer name there netns {name}"),
            format!("address add {here}/30 dev {name}"),
            format!("link set {name} up"),
            format!("-netns {name} address add {there}/30 dev there"),
            format!("-netns {name} link set there up"),
        ] {
            assert!(ip(&step), "ip {step}");
        }
        Some(network)
    }

    /// A listener in the namespace. What it accepts belongs there, whoever uses it.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn listen(&self) -> TcpListener {
        let address = self.address;
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("the namespace");
        // In a thread of its own: a thread that has moved stays there.
        let listening = thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("moving there");
            TcpListener::bind((address, 0)).expect("listening there")
        });
        listening.join().expect("a listener")
    }

    /// The address of what [`Network::listen`] made.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// From now on, packets get lost.
    ///
    /// # Panics
    /// When the cable can't be cut.
    pub fn cut(&self) {
        assert!(ip(&format!("-netns {} link set there down", self.name)));
    }

    /// Ends [`Network::cut`].
    ///
    /// # Panics
    /// When the cable can't be mended.
    pub fn mend(&self) {
        assert!(ip(&format!("-netns {} link set there up", self.name)));
    }

    /// How many sockets of this machine are still connected to a port there, or have data to deliver to it.
    ///
    /// # Panics
    /// When the kernel doesn't tell.
    pub fn sockets_to(&self, port: u16) -> usize {
        // The kernel's own notation: the bytes of the address in memory order, then the port.
        let remote = format!("{:08X}:{port:04X}", u32::from_ne_bytes(self.address.octets()));
        let table = fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
        table.lines().filter(|line| line.split_whitespace().nth(2) == Some(&remote)).count()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Takes the cable with it.
        ip(&format!("netns delete {}", self.name));
    }
}

/// A port of loopback that takes no more connections: who connects to it gets no answer, as from a host that is down.
#[derive(Debug)]
pub struct FullPort {
    listener: TcpListener,
    /// The one connection that is taken.
    _taken: TcpStream,
}

impl FullPort {
    /// A port that is full already.
    ///
    /// # Panics
    /// When it can't be made.
    #[expect(clippy::new_without_default, reason = "a default that connects would surprise")]
    pub fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        rustix::net::listen(&listener, 0).expect("no queue");
        let taken = TcpStream::connect(listener.local_addr().expect("the port")).expect("a connection");
        Self { listener, _taken: taken }
    }

    /// Its number.
    ///
    /// # Panics
    /// Never: it listens.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("the port").port()
    }
}

/// Says that a test, or a part of one, can't run on this machine, past the capture of its output: a test that has checked
/// nothing must not look like one that has passed. `cargo xtask test` counts what it finds in the file `SKIPPED_TESTS`.
///
/// # Panics
/// When the file can't be written.
pub fn skip(why: &str) {
    let thread = thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a thread of a test"));
    std::io::stderr().write_all(line.as_bytes()).expect("stderr");
    if let Some(path) = std::env::var_os("SKIPPED_TESTS") {
        let file = File::options().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the file of skipped tests");
    }
}

/// Deletes the namespaces of processes that are no more.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).filter(|process| process.parse::<u32>().is_ok());
        if owner.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            ip(&format!("netns delete {name}"));
        }
    }
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    let command = command.args(arguments.split(' ')).stdin(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
