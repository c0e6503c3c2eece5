//! A network namespace of a test's own, with a link to this machine whose rate
//! towards the namespace can be limited. Needs root, as a router does.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::driver::BrowserSlots;
use crate::server::{Options, Server, wait_until};

/// A network namespace and the pair of interfaces that leads to it; gone when this
/// value is.
pub struct Namespace {
    /// What takes back what was made so far; something of the same name that was
    /// there before is somebody else's.
    undo: Vec<String>,
    name: String,
    /// This machine's end of the link.
    interface: String,
    /// The other one.
    inside: String,
    /// This machine's address on it.
    pub address: Ipv4Addr,
    /// Addresses of this machine and inside in the second network, if there is one.
    second: [Ipv4Addr; 2],
    /// Interfaces that come and go disturb those who look for their networks meanwhile, so
    /// no browser of another test runs until they are gone.
    _slots: BrowserSlots,
}

impl Namespace {
    /// A namespace that reaches this machine, and nothing else. Its test may run two
    /// browsers.
    pub fn new() -> Self {
        let slots = BrowserSlots::take(2);
        // Tests run beside each other in one process, as processes do on a machine.
        static MADE: AtomicU8 = AtomicU8::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed) % 64;
        let process = std::process::id();
        // A part of the range for benchmarks of networks (RFC 2544).
        let [_, _, high, low] = process.to_be_bytes();
        let address = |end: u8| Ipv4Addr::new(198, 18 + (high & 1), low, 4 * number + end);
        // Of those that mobile networks give to their clients (RFC 6598).
        let second = |end: u8| Ipv4Addr::new(100, 64 + (high & 1), low, 4 * number + end);
        let id = format!("{process}-{number}");
        let mut namespace = Self {
            undo: Vec::new(),
            name: format!("wst-{id}"),
            interface: format!("wst{id}h"),
            inside: format!("wst{id}n"),
            address: address(1),
            second: [second(1), second(2)],
            _slots: slots,
        };
        let (name, interface) = (namespace.name.clone(), namespace.interface.clone());
        let inside = namespace.inside.clone();
        run(&format!("ip netns add {name}"));
        namespace.undo.push(format!("ip netns del {name}"));
        run(&format!(
            "ip link add {interface} type veth peer name {inside} netns {name}"
        ));
        namespace.undo.push(format!("ip link del {interface}"));
        // What is still to be decided about a network counts as a change of it when it is,
        // and a browser that loads a page just then gives up. So there are no addresses that
        // are tried first (IPv6 of the link), and both ends are up before anybody looks.
        run(&format!("ip link set {interface} addrgenmode none"));
        run(&format!("ip -n {name} link set {inside} addrgenmode none"));
        run(&format!("ip address add {}/30 dev {interface}", address(1)));
        run(&format!("ip link set {interface} up"));
        run(&format!(
            "ip -n {name} address add {}/30 dev {inside}",
            address(2)
        ));
        run(&format!("ip -n {name} link set {inside} up"));
        run(&format!("ip -n {name} link set lo up"));
        wait_until("both ends of the link are up", || {
            is_up(&format!("ip -o link show dev {interface}"))
                && is_up(&format!("ip -n {name} -o link show dev {inside}"))
        });
        namespace
    }

    /// The address inside, in the first network.
    pub fn inside_address(&self) -> Ipv4Addr {
        let [a, b, c, d] = self.address.octets();
        Ipv4Addr::new(a, b, c, d + 1)
    }

    /// A server with one worker outside of it, whose media it reaches.
    pub fn serve(&self) -> Server {
        Options::new()
            .env("MEDIASOUP_NUM_WORKERS", 1)
            .env("PROTOO_LISTEN_IP", "0.0.0.0")
            .env("MEDIASOUP_LISTEN_IP", self.address)
            .start()
    }

    /// Gives it a second network, from which this machine's address is reached as well.
    /// Answers the address inside.
    pub fn join_second_network(&self) -> Ipv4Addr {
        let (name, inside, interface) = (&self.name, &self.inside, &self.interface);
        let [here, there] = self.second;
        run(&format!("ip address add {here}/30 dev {interface}"));
        run(&format!("ip -n {name} address add {there}/30 dev {inside}"));
        there
    }

    /// Takes the second network away from it.
    pub fn leave_second_network(&self) {
        let (name, inside, [_, there]) = (&self.name, &self.inside, self.second);
        run(&format!("ip -n {name} address del {there}/30 dev {inside}"));
    }

    /// A command that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Limits what goes in to this rate, as `tc` writes it, with a queue of 200 ms.
    pub fn limit(&self, rate: &str) {
        run(&format!(
            "tc qdisc replace dev {} root tbf rate {rate} burst 16kbit latency 200ms",
            self.interface
        ));
    }

    /// Lets no UDP in or out any more.
    pub fn block_udp(&self) {
        let name = &self.name;
        // What is for an address of its own is looked up first, so that has to wait.
        run(&format!("ip -n {name} rule add pref 1 lookup local"));
        run(&format!("ip -n {name} rule del pref 0"));
        run(&format!(
            "ip -n {name} rule add pref 0 ipproto udp blackhole"
        ));
    }

    /// Lets everything in again.
    pub fn unlimit(&self) {
        run(&format!("tc qdisc del dev {} root", self.interface));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for line in self.undo.iter().rev() {
            try_run(line);
        }
    }
}

/// Whether an interface works, by what `ip` says of it.
fn is_up(show: &str) -> bool {
    let output = command(show).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(" state UP ")
}

fn command(line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

fn try_run(line: &str) -> bool {
    let status = command(line).status();
    status.is_ok_and(|status| status.success())
}

fn run(line: &str) {
    assert!(
        try_run(line),
        "{line}: root may do this, and tests/run installs iproute2"
    );
}
