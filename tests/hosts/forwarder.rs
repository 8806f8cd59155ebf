//! A port that leads to another one. What goes through it can be held up.

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
    /// Returns when it is open.
    fn pass(&self) {
        let open = self.open.lock().unwrap();
        drop(self.changed.wait_while(open, |open| !*open).unwrap());
    }
}

impl Forwarder {
    pub(crate) fn start(from: SocketAddr, to: SocketAddr) -> Self {
        Self::of(TcpListener::bind(from).unwrap(), to)
    }

    /// `to` is reached from where the calling thread is, which need not be where the listener is.
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

    /// Closed, it holds up everything, and loses nothing.
    pub(crate) fn set_open(&self, open: bool) {
        *self.gate.open.lock().unwrap() = open;
        self.gate.changed.notify_all();
    }
}

fn copy(mut from: TcpStream, mut into: TcpStream, gate: &Gate) {
    // What is sent is small and waited for.
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
