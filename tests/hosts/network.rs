//! Several hosts on this machine. As root, each is a network namespace of its own, joined by a switch, and two of them
//! can be cut off from each other. Otherwise all of them are on the loopback interface, joined by forwarders.

use super::forwarder::Forwarder;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Prefix of the addresses; nobody outside of the namespaces sees them.
const NET: [u8; 3] = [10, 77, 0];
/// A hardware address that no host has: what is sent there is lost silently.
const NOWHERE: &str = "02:00:00:00:00:01";
/// Name of each host's interface to the switch.
const WIRE: &str = "eth0";

/// A process that does nothing in a network namespace of its own; the namespace ends with it.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net"]);
        command.args(["sh", "-c", "echo; exec sleep infinity"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        // It prints a line once it is inside.
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "\n", "no network namespace can be made");
        Self(child)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// Moves the calling thread there, and whatever it starts from now on.
    fn enter(&self) {
        enter(&File::open(self.path()).unwrap());
    }

    /// Runs `ip` in this namespace.
    fn ip(&self, arguments: &str) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("ip").args(arguments.split(' '));
        let said = command.output().unwrap();
        assert!(said.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&said.stderr));
    }
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Runs `work` on a thread of its own, after that thread has called `enter`.
fn apart<T: Send>(enter: impl FnOnce() + Send, work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        enter();
        work()
    };
    let done = std::thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine of the farm.
pub(crate) struct Host {
    number: u8,
    namespace: Option<Namespace>,
}

impl Host {
    pub(crate) fn address(&self) -> Ipv4Addr {
        let [a, b, c] = NET;
        self.namespace.as_ref().map_or(Ipv4Addr::LOCALHOST, |_| Ipv4Addr::new(a, b, c, self.number))
    }

    /// A program on this host. It is killed when the thread that starts it ends.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command;
        if let Some(namespace) = &self.namespace {
            command = Command::new("nsenter");
            command.arg(format!("--net={}", namespace.path())).arg("setpriv");
        } else {
            command = Command::new("setpriv");
        }
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command
    }

    /// Runs `work` on this host, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        apart(|| self.namespace.iter().for_each(Namespace::enter), work)
    }

    /// Makes a loopback port of this host reachable for other hosts.
    pub(crate) fn publish(&self, port: u16) {
        if self.namespace.is_some() {
            let (outside, inside) = (self.address(), Ipv4Addr::LOCALHOST);
            self.inside(|| Forwarder::start((outside, port).into(), (inside, port).into()));
        }
    }

    /// Makes a loopback port outside of the network reachable for other hosts, as if it were on this one.
    pub(crate) fn publish_from_outside(&self, network: &Network, port: u16) {
        if self.namespace.is_some() {
            let listener = self.inside(|| TcpListener::bind((self.address(), port)).unwrap());
            network.outside(|| Forwarder::of(listener, (Ipv4Addr::LOCALHOST, port).into()));
        }
    }

    /// A free port for a server that will be started again and again.
    pub(crate) fn port(&self) -> u16 {
        let listener = self.inside(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        listener.local_addr().unwrap().port()
    }
}

/// The network that joins the hosts.
pub(crate) struct Network {
    switch: Option<Namespace>,
    /// The namespace of the thread that made the network.
    outside: File,
    hosts: Mutex<u8>,
    /// Without namespaces: the forwarders from one host to a port of another.
    ways: Mutex<Vec<(u8, u8, SocketAddr, Forwarder)>>,
}

impl Network {
    /// Creates a network. From now on the calling thread is at the switch: it reaches every host.
    pub(crate) fn new() -> Self {
        let outside = File::open("/proc/thread-self/ns/net").unwrap();
        let is_root = rustix::process::geteuid().is_root();
        let switch = is_root.then(|| {
            let switch = Namespace::new();
            let [a, b, c] = NET;
            switch.ip("link set lo up");
            switch.ip("link add switch type bridge");
            switch.ip(&format!("address add {a}.{b}.{c}.1/24 dev switch"));
            switch.ip("link set switch up");
            switch.enter();
            switch
        });
        if !is_root {
            eprintln!("not root: no network namespaces, so connections are cut by forwarders");
        }
        Self { switch, outside, hosts: Mutex::new(1), ways: Mutex::default() }
    }

    /// Adds a host to the network.
    pub(crate) fn host(&self) -> Arc<Host> {
        let mut count = self.hosts.lock().unwrap();
        *count += 1;
        let number = *count;
        let namespace = self.switch.as_ref().map(|switch| {
            let namespace = Namespace::new();
            let [a, b, c] = NET;
            let id = namespace.0.id();
            switch.ip(&format!("link add to{number} type veth peer name {WIRE} netns {id}"));
            switch.ip(&format!("link set to{number} master switch up"));
            namespace.ip("link set lo up");
            namespace.ip(&format!("address add {a}.{b}.{c}.{number}/24 dev {WIRE}"));
            namespace.ip(&format!("link set {WIRE} up"));
            namespace
        });
        Arc::new(Host { number, namespace })
    }

    /// Runs `work` outside of all hosts, on a thread of its own.
    pub(crate) fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        apart(|| self.switch.iter().for_each(|_| enter(&self.outside)), work)
    }

    /// The address at which one host reaches a port of another.
    pub(crate) fn way(&self, from: &Host, to: &Host, port: u16) -> SocketAddr {
        let target = SocketAddr::from((to.address(), port));
        if self.switch.is_some() {
            return target;
        }
        let mut ways = self.ways.lock().unwrap();
        let is_it = |way: &&(u8, u8, SocketAddr, Forwarder)| {
            (way.0, way.1, way.2) == (from.number, to.number, target)
        };
        if let Some(way) = ways.iter().find(is_it) {
            return way.3.address();
        }
        let forwarder = Forwarder::start((Ipv4Addr::LOCALHOST, 0).into(), target);
        let address = forwarder.address();
        ways.push((from.number, to.number, target, forwarder));
        address
    }

    /// From now on nothing that one of them sends reaches the other. Neither is notified.
    pub(crate) fn cut(&self, one: &Host, other: &Host) {
        let lose = |from: &Namespace, to: &Host| {
            let to = to.address();
            from.ip(&format!("neighbour replace {to} lladdr {NOWHERE} dev {WIRE} nud permanent"));
        };
        self.both_ways(one, other, lose, false);
    }

    /// Ends [`Self::cut`].
    pub(crate) fn heal(&self, one: &Host, other: &Host) {
        let find = |from: &Namespace, to: &Host| {
            from.ip(&format!("neighbour delete {} dev {WIRE}", to.address()));
        };
        self.both_ways(one, other, find, true);
    }

    fn both_ways(&self, one: &Host, other: &Host, act: impl Fn(&Namespace, &Host), open: bool) {
        for (from, to) in [(one, other), (other, one)] {
            if let Some(namespace) = &from.namespace {
                act(namespace, to);
            }
            let ways = self.ways.lock().unwrap();
            let same = ways.iter().filter(|way| (way.0, way.1) == (from.number, to.number));
            same.for_each(|way| way.3.set_open(open));
        }
    }
}
