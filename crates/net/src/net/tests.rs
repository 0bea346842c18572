//! Real sockets against a machine that only records.

use std::collections::VecDeque;

use super::*;

/// Echoes nothing, remembers everything.
#[derive(Default)]
struct Recorder {
    buffer: Vec<u8>,
    got: Vec<u8>,
    to_send: Vec<u8>,
    sent: usize,
    closed: Option<Closed>,
    connected: bool,
    actions: VecDeque<Action>,
    writable: Vec<ConnId>,
    hold: bool,
}

impl Machine for Recorder {
    fn handle_accepted(&mut self, _: Time, _: SocketAddr) -> Option<ConnId> {
        Some(ConnId(1))
    }
    fn handle_connected(&mut self, _: Time, _: ConnId) {
        self.connected = true;
    }
    fn handle_closed(&mut self, _: Time, _: ConnId, why: Closed) {
        self.closed = Some(why);
    }
    fn receive_buffers(&mut self, _: ConnId) -> [&mut [u8]; 2] {
        if self.hold {
            return [&mut [], &mut []];
        }
        self.buffer.resize(1000, 0);
        let (a, b) = self.buffer.split_at_mut(300);
        [a, b]
    }
    fn handle_received(&mut self, _: Time, _: ConnId, n: usize) {
        self.got.extend_from_slice(&self.buffer[..n]);
    }
    fn transmit_buffers<'a>(&'a mut self, _: ConnId, out: &mut Vec<&'a [u8]>) {
        out.push(&self.to_send[self.sent..]);
    }
    fn handle_transmitted(&mut self, _: Time, _: ConnId, n: usize) {
        self.sent += n;
    }
    fn handle_datagram(&mut self, _: Time, _: SocketAddr, bytes: &[u8]) {
        self.got.extend_from_slice(bytes);
    }
    fn handle_timeout(&mut self, _: Time) {}
    fn poll_timeout(&self) -> Option<Time> {
        None
    }
    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
    fn poll_writable(&mut self) -> Option<ConnId> {
        self.writable.pop()
    }
}

struct Rig {
    net: Net,
    waiter: Waiter,
    machine: Recorder,
}

impl Rig {
    fn new() -> Self {
        let (net, waiter, _) = crate::pair().unwrap();
        Self { net, waiter, machine: Recorder::default() }
    }

    /// Drives until the condition holds; a test that waits for ever is ended by the test runner.
    fn until(&mut self, condition: impl Fn(&Recorder) -> bool) {
        while !condition(&self.machine) {
            self.waiter.wait(Some(Duration::from_millis(20))).unwrap();
            self.net.handle(&mut self.machine, &self.waiter, &mut |_| {}).unwrap();
        }
    }

    fn listen(&mut self) -> SocketAddr {
        let listener = crate::listen_tcp("127.0.0.1".parse().unwrap(), None).unwrap();
        let addr = listener.local_addr().unwrap();
        self.net.set_listener(listener).unwrap();
        addr
    }
}

#[test]
fn data_that_arrives_together_with_the_end_is_read_and_the_end_is_noticed() {
    for len in [1, 999, 1000, 1001, 250_000] {
        let mut rig = Rig::new();
        let addr = rig.listen();
        let mut client = std::net::TcpStream::connect(addr).unwrap();
        let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let copy = data.clone();
        // Closed before the other side has looked at it at all, as far as the buffers go.
        let writer = std::thread::spawn(move || client.write_all(&copy).unwrap());
        if len <= 1001 {
            writer.join().unwrap();
        }
        rig.until(|m| m.closed.is_some());
        assert_eq!(rig.machine.closed, Some(Closed::Eof));
        assert_eq!(rig.machine.got, data);
    }
}

#[test]
fn a_held_connection_is_read_after_resume_without_a_new_event() {
    let mut rig = Rig::new();
    let addr = rig.listen();
    let mut client = std::net::TcpStream::connect(addr).unwrap();
    rig.machine.hold = true;
    client.write_all(b"hello").unwrap();
    for _ in 0..5 {
        rig.waiter.wait(Some(Duration::from_millis(20))).unwrap();
        rig.net.handle(&mut rig.machine, &rig.waiter, &mut |_| {}).unwrap();
    }
    assert_eq!(rig.machine.got, b"");
    rig.machine.hold = false;
    rig.machine.actions.push_back(Action::ResumeReading { conn: ConnId(1) });
    rig.until(|m| m.got == b"hello");
}

#[test]
fn dialing_tells_success_from_refusal() {
    let mut server = Rig::new();
    let addr = server.listen();
    let mut rig = Rig::new();
    rig.machine.actions.push_back(Action::Dial { conn: ConnId(7), addr });
    rig.until(|m| m.connected);

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut rig = Rig::new();
    rig.machine.actions.push_back(Action::Dial { conn: ConnId(7), addr: nobody });
    rig.until(|m| m.closed.is_some());
    assert_eq!(rig.machine.closed, Some(Closed::Refused));
}

#[test]
fn large_writes_survive_a_slow_reader_and_last_words_are_sent() {
    let mut rig = Rig::new();
    let addr = rig.listen();
    let mut client = std::net::TcpStream::connect(addr).unwrap();
    rig.machine.to_send = (0..20_000_000_u32).map(|i| i as u8).collect();
    rig.machine.writable.push(ConnId(1));
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        all
    });
    // The connection must have been accepted before it can be written to.
    while rig.machine.sent < rig.machine.to_send.len() {
        rig.waiter.wait(Some(Duration::from_millis(5))).unwrap();
        rig.machine.writable.push(ConnId(1));
        rig.net.handle(&mut rig.machine, &rig.waiter, &mut |_| {}).unwrap();
    }
    rig.machine.actions.push_back(Action::Close { conn: ConnId(1), last: b"bye".to_vec() });
    rig.net.go_on(&mut rig.machine, &mut |_| {});
    let all = reader.join().unwrap();
    assert_eq!(all.len(), 20_000_003);
    assert_eq!(&all[20_000_000..], b"bye");
    assert_eq!(&all[..20_000_000], &rig.machine.to_send[..]);
}
