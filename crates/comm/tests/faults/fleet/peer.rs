//! A peer as a process that does what it is told.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use pccl::{Call, CollectiveError, Communicator, ConnectError, ManyCall, OpInfo, Options, Ports};

use super::pattern;

/// How long members that wait for newcomers leave the master alone.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) fn log_to_stderr() {
    let _ = pccl_observe::init(&pccl_observe::LogSettings::default());
}

struct Words<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Words<'a> {
    fn parse(line: &'a str) -> (&'a str, Self) {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        (command, Self(rest.split(' ').filter_map(|w| w.split_once('=')).collect()))
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).copied()
    }

    fn number(&self, key: &str) -> u64 {
        self.get(key).and_then(|v| v.parse().ok()).unwrap_or(0)
    }
}

struct Peer {
    comm: Option<Communicator>,
    id: u32,
    commands: Receiver<String>,
}

/// Obeys until its standard input ends.
pub(crate) fn run() {
    log_to_stderr();
    let (tx, commands) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tx.send(line).is_err() {
                break;
            }
        }
        // Nobody is there to drive this process any more, whatever it is doing.
        std::process::exit(0);
    });
    println!();
    let mut peer = Peer { comm: None, id: 0, commands };
    while let Ok(line) = peer.commands.recv() {
        println!("= {}", peer.obey(&line));
    }
}

fn connect_error(e: &ConnectError) -> String {
    format!("error text={e}")
}

fn op_error(e: &CollectiveError, restored: bool) -> String {
    format!("error class={:?} peers={} restored={restored} text={e}", e.class(), e.peers().join(","))
}

impl Peer {
    fn obey(&mut self, line: &str) -> String {
        let (command, words) = Words::parse(line);
        match command {
            "connect" => self.connect(&words),
            "world" => self.world(words.number("n") as u32),
            "reduce" => self.reduce(&words),
            "steps" => self.steps(&words),
            "many" => self.many(&words),
            "average" => self.average(&words),
            "barrier" => self.barrier(words.number("tag")),
            "reconnect" => match self.comm().reconnect() {
                Ok(()) => self.describe(),
                Err(e) => connect_error(&e),
            },
            "describe" => self.describe(),
            "arm" => format!("ok armed={}", pccl::arm_fault(words.get("fault").unwrap_or(""))),
            "leave" => {
                if let Some(comm) = self.comm.take() {
                    comm.leave();
                }
                "ok".into()
            }
            _ => format!("error text=what is {line}?"),
        }
    }

    fn comm(&self) -> &Communicator {
        self.comm.as_ref().expect("connect comes first")
    }

    fn describe(&self) -> String {
        let m = self.comm().membership();
        let stats = self.comm().stats();
        format!(
            "ok session={} world={} epoch={} recoveries={} connections={}",
            m.session, m.world_size, m.epoch, stats.recoveries, stats.connections
        )
    }

    fn connect(&mut self, words: &Words<'_>) -> String {
        self.id = words.number("id") as u32;
        let masters = words.get("master").unwrap_or_default().split(',').map(str::to_owned).collect();
        let mut options = Options::masters(masters)
            .connect_timeout(super::HANG)
            .bind(words.get("bind").unwrap().parse().unwrap());
        if let Some(addr) = words.get("advertise") {
            options = options.advertise(addr.parse().unwrap());
        }
        if let Some(port) = words.get("port") {
            let port = port.parse().unwrap();
            options = options.ports(Ports::Range(port..=port));
        }
        println!(": connecting {}", now_us());
        match Communicator::connect(&options) {
            Ok(comm) => {
                self.comm = Some(comm);
                self.describe()
            }
            Err(e) => connect_error(&e),
        }
    }

    fn world(&self, n: u32) -> String {
        while self.comm().membership().world_size < n {
            if let Err(e) = self.comm().update_topology() {
                return format!("error class={:?} text={e}", e.class());
            }
            std::thread::sleep(PAUSE);
        }
        self.describe()
    }

    fn barrier(&self, tag: u64) -> String {
        match self.comm().barrier(tag) {
            Ok(info) => format!("ok world={}", info.world),
            Err(e) => op_error(&e, true),
        }
    }

    /// One all-reduce; with `times`, as many as that, of which the last one is told.
    fn reduce(&self, words: &Words<'_>) -> String {
        let times = words.number("times").max(1);
        let mut said = String::new();
        let mut recoveries = 0;
        for _ in 0..times {
            match self.reduce_once(words) {
                Ok((text, info)) => {
                    said = text;
                    recoveries += info.recoveries;
                }
                Err(text) => return text,
            }
        }
        format!("{said} all_recoveries={recoveries}")
    }

    fn reduce_once(&self, words: &Words<'_>) -> Result<(String, OpInfo), String> {
        let count = words.number("bytes") as usize / 4;
        let call =
            Call::new(words.number("tag")).algorithm(words.get("algorithm").and_then(|a| a.parse().ok()));
        let round = words.number("round");
        let mut input = Vec::new();
        pattern::fill(&mut input, count, self.id, round);
        let mut output = vec![f32::NAN; if words.get("place") == Some("in") { 0 } else { count }];
        println!(": begin");
        let begun = Instant::now();
        let called = if output.is_empty() {
            self.comm().all_reduce_in_place(&mut input, &call)
        } else {
            self.comm().all_reduce(&input, &mut output, &call)
        };
        let us = begun.elapsed().as_micros();
        let at_us = now_us();
        let info = called.map_err(|e| op_error(&e, pattern::is_input(&input, self.id, round)))?;
        let result = if output.is_empty() { &input } else { &output };
        let checked = match words.get("total") {
            Some(_) => pattern::is_total(result, words.number("total") as u32, round),
            None => pattern::who(result, info.world, round),
        };
        let mask = checked.map_err(|why| format!("error text=wrong: {why}"))?;
        if !output.is_empty() && !pattern::is_input(&input, self.id, round) {
            return Err("error text=wrong: the input has changed".into());
        }
        let said = format!(
            "ok mask={mask} world={} epoch={} recoveries={} us={us} at={at_us}",
            info.world, info.epoch.0, info.recoveries
        );
        Ok((said, info))
    }

    /// Averages numbers that quantization takes something away from; tells the hash of the result.
    fn average(&self, words: &Words<'_>) -> String {
        let (round, id) = (words.number("round"), u64::from(self.id));
        let value = |i: u64| ((i * 31 + id * 17 + round * 7) % 1009) as f32 / 1009.0 - 0.5;
        let input: Vec<f32> = (0..words.number("bytes") / 4).map(value).collect();
        let call = Call::new(words.number("tag")).op(pccl::ReduceOp::Avg);
        let mut buffer = input.clone();
        let called = match words.get("place") {
            Some("in") => self.comm().all_reduce_in_place(&mut buffer, &call),
            _ => self.comm().all_reduce(&input, &mut buffer, &call),
        };
        let restored = buffer.iter().zip(&input).all(|(a, b)| a.to_bits() == b.to_bits());
        match called {
            Err(e) => op_error(&e, restored),
            Ok(info) => {
                let bytes: Vec<u8> = buffer.iter().flat_map(|v| v.to_ne_bytes()).collect();
                let hash = pccl::hash_bytes(&bytes);
                format!(
                    "ok hash={hash:x} world={} epoch={} recoveries={}",
                    info.world, info.epoch.0, info.recoveries
                )
            }
        }
    }

    /// Many reductions at once; all of them must be done.
    fn many(&self, words: &Words<'_>) -> String {
        let (n, count) = (words.number("n"), words.number("bytes") as usize / 4);
        let mut buffers = vec![Vec::new(); n as usize];
        for (round, buffer) in (0..).zip(&mut buffers) {
            pattern::fill(buffer, count, self.id, round);
        }
        let with_tag = |(buffer, tag)| ManyCall { buffer, call: Call::new(tag) };
        let mut calls: Vec<ManyCall<'_, f32>> =
            buffers.iter_mut().map(Vec::as_mut_slice).zip(100..).map(with_tag).collect();
        println!(": begin");
        let infos = match self.comm().all_reduce_many(&mut calls, words.number("at_once") as usize) {
            Ok(infos) => infos,
            Err(e) => return op_error(&e, false),
        };
        drop(calls);
        let checked = (0..).zip(buffers.iter().zip(&infos));
        let masks: Result<Vec<u32>, String> =
            checked.map(|(round, (b, info))| pattern::who(b, info.world, round)).collect();
        match masks {
            Ok(masks) => {
                let recoveries: u32 = infos.iter().map(|i| i.recoveries).sum();
                let masks: Vec<String> = masks.iter().map(ToString::to_string).collect();
                format!("ok mask={} recoveries={recoveries}", masks.join(","))
            }
            Err(why) => format!("error text=wrong: {why}"),
        }
    }

    /// Lets newcomers in (not with `closed`) and reduces, again and again, until `stop` reaches one member; all end with the
    /// same step.
    fn steps(&mut self, words: &Words<'_>) -> String {
        let count = (words.number("bytes") as usize / 4).max(2);
        let pause = Duration::from_millis(words.number("pause_ms"));
        let (mut stop, mut steps, mut recoveries) = (false, 0u64, 0u32);
        let mut said_first = false;
        // Who has just been let in is where the members are after their vote.
        let mut newcomer = words.get("newcomer").is_some();
        let closed = words.get("closed").is_some();
        let (mut common, mut times) = (u32::MAX, Vec::new());
        loop {
            if !std::mem::take(&mut newcomer)
                && !closed
                && let Err(e) = self.comm().update_topology()
            {
                return format!("error class={:?} steps={steps} text={e}", e.class());
            }
            stop |= self.commands.try_recv().is_ok_and(|line| line == "stop");
            let mut buffer = Vec::new();
            pattern::fill(&mut buffer, count, self.id, 0);
            buffer.push(f32::from(u8::from(stop)));
            let begun = Instant::now();
            match self.comm().all_reduce_in_place(&mut buffer, &Call::new(words.number("tag"))) {
                Ok(info) => {
                    // The first ones warm up.
                    if steps >= 2 {
                        times.push(begun.elapsed().as_micros() as u64);
                    }
                    let flags = buffer.pop().unwrap_or_default();
                    let mask = match pattern::who(&buffer, info.world, 0) {
                        Ok(mask) => mask,
                        Err(why) => return format!("error text=wrong: {why}"),
                    };
                    (steps, recoveries) = (steps + 1, recoveries + info.recoveries);
                    common &= mask;
                    if !said_first {
                        said_first = true;
                        println!(": first {}", now_us());
                    }
                    if words.get("tell").is_some() {
                        println!(": step {} {mask} {}", info.epoch.0, info.recoveries);
                    }
                    if flags > 0.0 {
                        let m = self.comm().membership();
                        times.sort_unstable();
                        return format!(
                            "ok steps={steps} recoveries={recoveries} mask=0 common={common} world={} epoch={} middle={} \
                             longest={}",
                            m.world_size,
                            m.epoch,
                            times.get(times.len() / 2).unwrap_or(&0),
                            times.last().unwrap_or(&0),
                        );
                    }
                }
                Err(e) => return op_error(&e, pattern::is_input(&buffer[..count], self.id, 0)),
            }
            std::thread::sleep(pause);
        }
    }
}

/// Microseconds on a clock that all processes share.
pub(crate) fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}
