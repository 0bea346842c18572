//! A connection for a program that waits for each answer: what asks a master, and nothing that moves tensors.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{Channel, Security};
use crate::send::send;

/// A connection that blocks, with or without security: to a master that is asked, or between programs that check a network.
pub struct SecureStream {
    stream: TcpStream,
    channel: Option<Channel>,
}

impl SecureStream {
    /// Sets up what `security` asks for on a connection that stands. Each read and write waits as long as the stream's
    /// own limits say; a refusal is an error with a [`Refused`](super::Refused) inside.
    pub fn client(stream: TcpStream, addr: SocketAddr, security: Option<&Security>) -> io::Result<Self> {
        let guarded = security.filter(|s| s.guards());
        let channel = guarded.map(|s| Channel::dialing(s, addr)).transpose().map_err(io::Error::other)?;
        Self::open(stream, channel)
    }

    /// The other end, of a connection that was accepted. Where it comes from, and that it is refused, is counted and said.
    pub fn server(stream: TcpStream, from: SocketAddr, security: Option<&Security>) -> io::Result<Self> {
        let Some(security) = security else { return Self::open(stream, None) };
        if !security.admits(from) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "its address is not allowed"));
        }
        let channel = security.guards().then(|| Channel::accepting(security)).transpose();
        let opened = channel.map_err(io::Error::other).and_then(|channel| Self::open(stream, channel));
        if let Err(Some(refused)) = opened.as_ref().map_err(|e| e.get_ref().and_then(|e| e.downcast_ref())) {
            security.note(refused, from);
        }
        opened
    }

    fn open(stream: TcpStream, channel: Option<Channel>) -> io::Result<Self> {
        let mut this = Self { stream, channel };
        while this.channel.as_ref().is_some_and(|channel| !channel.is_open()) {
            this.flush_sealed()?;
            this.fill()?;
        }
        this.flush_sealed()?;
        Ok(this)
    }

    /// The socket, for its limits.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    fn fill(&mut self) -> io::Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        let n = self.stream.read(channel.room())?;
        if n == 0 {
            let why = if channel.is_open() { "the connection was closed" } else { super::BROKEN_OFF };
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        let received = channel.received(n);
        let sent = self.flush_sealed();
        received.map_err(io::Error::other)?;
        sent
    }

    fn flush_sealed(&mut self) -> io::Result<()> {
        let Some(channel) = &mut self.channel else { return Ok(()) };
        while channel.has_outgoing() {
            let n = send(&self.stream, &[io::IoSlice::new(channel.outgoing())])?;
            channel.written(n);
        }
        Ok(())
    }
}

impl Read for SecureStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(channel) = &mut self.channel else { return self.stream.read(out) };
            let plain = channel.plain().map_err(io::Error::other)?;
            if !plain.is_empty() {
                let n = plain.len().min(out.len());
                out[..n].copy_from_slice(&plain[..n]);
                channel.take(n);
                return Ok(n);
            }
            if channel.is_closed() {
                return Ok(0);
            }
            match self.fill() {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => other?,
            }
        }
    }
}

impl Write for SecureStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(channel) = &mut self.channel else { return self.stream.write(bytes) };
        let n = channel.seal(&[bytes]).map_err(io::Error::other)?;
        self.flush_sealed()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
