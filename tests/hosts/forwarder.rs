//! A port that forwards to another one, and can be made to hold up its traffic.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::spawn;

/// Forwards every connection until the process ends.
pub(crate) struct Forwarder {
    address: SocketAddr,
    gate: Arc<Gate>,
}

struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    /// Waits until it is open.
    fn pass(&self) {
        let open = self.open.lock().unwrap();
        drop(self.changed.wait_while(open, |open| !*open).unwrap());
    }
}

impl Forwarder {
    pub(crate) fn start(from: SocketAddr, to: SocketAddr) -> Self {
        Self::of(TcpListener::bind(from).unwrap(), to)
    }

    /// Forwards from `listener` to `to`, which is connected to from the calling thread's network, not the listener's.
    pub(crate) fn of(listener: TcpListener, to: SocketAddr) -> Self {
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Gate { open: Mutex::new(true), changed: Condvar::new() });
        let opened = gate.clone();
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let gate = opened.clone();
                spawn(move || {
                    gate.pass();
                    // A client of a dead server finds its connection closed.
                    let Ok(server) = TcpStream::connect(to) else { return };
                    let (from, into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                    let back = gate.clone();
                    spawn(move || copy(from, into, &back));
                    copy(server, client, &gate);
                });
            }
        });
        Self { address, gate }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens or closes it. While closed it holds up all traffic, but loses none.
    pub(crate) fn set_open(&self, open: bool) {
        *self.gate.open.lock().unwrap() = open;
        self.gate.changed.notify_all();
    }
}

fn copy(mut from: TcpStream, mut into: TcpStream, gate: &Gate) {
    // Messages are small, and somebody waits for each.
    let _ = into.set_nodelay(true);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        gate.pass();
        if into.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
