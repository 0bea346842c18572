//! Checks between hosts with links of known delay, jitter, loss and rate.
//!
//! With `PCCL_CHECK_PROBES=20000` the whole bar: every shape, and as many probes as tell loss to 0.3 points.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use pccl_link::{Network, NetworkOptions, Shape};
use pccl_net::{Security, SecurityOptions, SharedSecret};
use pccl_probe::{CheckError, JoinOptions, Report, ServeOptions, Settings, join, serve};
use serde_json::Value;

type Failed = Box<dyn std::error::Error>;

/// Each network is a namespace of its own.
const PORT: u16 = 7117;
/// Checks until one is right.
const TRIES: usize = 4;

fn network(hosts: usize, shape: Shape) -> Result<Network, Failed> {
    Ok(Network::new(&NetworkOptions { hosts, shape, seed: 11, ..NetworkOptions::default() })?)
}

fn own(host: usize, wait: Duration, security: Option<Security>) -> JoinOptions {
    JoinOptions {
        name: format!("h{host}"),
        address: None,
        udp_port: PORT,
        p2p_ports: 7118..=7150,
        running: false,
        metrics: Vec::new(),
        security,
        wait,
    }
}

/// What the host with the place to meet does.
fn first(network: &Network, settings: Settings, own: JoinOptions) -> Result<Report, CheckError> {
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let options = ServeOptions { listen, hosts: network.hosts(), settings, own };
    network.on(0, || serve(&options, &mut |_| ())).expect("a host")
}

/// What another host does.
fn other(network: &Network, host: usize, own: &JoinOptions) -> Result<Report, CheckError> {
    let place = SocketAddr::from((network.address(0), PORT));
    network.on(host, || join(own, place)).expect("a host")
}

/// A check of all hosts of a network: the report that all agree on.
fn checked(
    network: &Network,
    probes: u32,
    most_mbps: f64,
    security: Option<&Security>,
) -> Result<Value, Failed> {
    let settings = Settings { probes, running: false, link_mbps: 100.0, most_mbps };
    let wait = Duration::from_secs(60);
    let reports = thread::scope(|scope| {
        let others: Vec<_> = (1..network.hosts())
            .map(|host| (host, own(host, wait, security.cloned())))
            .map(|(host, own)| scope.spawn(move || other(network, host, &own)))
            .collect();
        let mut reports = vec![first(network, settings, own(0, wait, security.cloned()))];
        reports.extend(others.into_iter().map(|other| other.join().expect("a thread")));
        reports.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    assert!(reports.windows(2).all(|pair| pair[0] == pair[1]), "hosts tell different stories: {reports:?}");
    Ok(serde_json::to_value(&reports[0])?)
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn level(report: &Value, what: &str) -> Vec<String> {
    let judged = report["pairs"][0]["judged"].as_array().cloned().unwrap_or_default();
    let of = judged.iter().map(|one| &one[1]).filter(|one| one["what"] == what);
    of.map(|one| one["level"].as_str().unwrap_or_default().to_owned()).collect()
}

fn probes() -> u32 {
    std::env::var("PCCL_CHECK_PROBES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

fn whole_bar() -> bool {
    std::env::var_os("PCCL_CHECK_PROBES").is_some()
}

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A check whose figures are those of the link. A machine that stood still for a moment has measured that moment: then
/// another check says what is true.
fn truthful(
    mut check: impl FnMut() -> Value,
    figures: impl Fn(&Value) -> Result<(), String>,
) -> Result<Value, String> {
    let mut last = String::new();
    for _ in 0..TRIES {
        let report = check();
        match figures(&report) {
            Ok(()) => return Ok(report),
            Err(why) => last = why,
        }
    }
    Err(format!("{TRIES} checks, and none was right; the last: {last}"))
}

fn near(value: f64, truth: f64) -> bool {
    (value / truth - 1.0).abs() < 0.1
}

/// Holds a report against what the link was made to do. The chance of lost probes is known: five standard deviations.
fn holds(name: &str, report: &Value, shape: &Shape) -> Result<(), String> {
    let pair = |field: &str| number(report, &format!("/pairs/0/{field}"));
    let (rtt, jitter) = (pair("round_trips/median_ms"), pair("round_trips/jitter_ms"));
    let losses = [pair("loss_there"), pair("loss_back")];
    let rates = [pair("there/mbps"), pair("back/mbps")];
    let found = format!(
        "{name}: RTT {rtt:.3} ms, jitter {jitter:.3} ms, loss {:.3} and {:.3} %, {:.1} and {:.1} Mbit/s",
        losses[0], losses[1], rates[0], rates[1]
    );
    println!("{found}");
    let delay = shape.delay.max(shape.jitter).as_secs_f64() * 2e3;
    let mut right = delay == 0.0 || near(rtt, delay);
    if !shape.jitter.is_zero() {
        right &= near(jitter, shape.round_trip_jitter().as_secs_f64() * 1e3);
    }
    if let Some(rate) = shape.rate_bps {
        right &= rates.iter().all(|found| near(*found, rate as f64 * 1e-6));
    }
    let truth = shape.loss * 100.0;
    let sent = pair("probes");
    let deviation = (shape.loss * (1.0 - shape.loss) / sent).sqrt() * 100.0;
    let most = if whole_bar() { if truth < 0.5 { 0.1 } else { 0.3 } } else { (5.0 * deviation).max(0.1) };
    right &= losses.iter().all(|loss| (loss - truth).abs() <= most);
    if right { Ok(()) } else { Err(format!("{found}; the link has {shape:?}")) }
}

fn everything() -> Shape {
    Shape {
        rate_bps: Some(100_000_000),
        delay: MS(60),
        loss: 0.01,
        jitter: Shape::jitter_for(MS(20)),
        reorder: true,
        ..Shape::FREE
    }
}

#[test]
fn a_shaped_link_is_measured_as_it_is() {
    let all = everything();
    let mut shapes = vec![("all together", all)];
    if whole_bar() {
        shapes.extend([
            ("100 Mbit/s", Shape { rate_bps: all.rate_bps, ..Shape::FREE }),
            ("120 ms", Shape { delay: all.delay, ..Shape::FREE }),
            ("1 % lost", Shape { loss: all.loss, ..Shape::FREE }),
            ("0.2 % lost", Shape { loss: 0.002, ..Shape::FREE }),
            ("20 ms of jitter", Shape { jitter: all.jitter, reorder: true, ..Shape::FREE }),
        ]);
    }
    for (name, shape) in shapes {
        let network = network(2, shape).unwrap();
        // What is free is as fast as this machine: how fast is not the question here.
        let check = || checked(&network, probes(), 400.0, None).unwrap();
        let report = truthful(check, |report| holds(name, report, &shape)).unwrap();
        if shape == all {
            assert_eq!(level(&report, "round_trip"), ["low"], "{report}");
            assert_eq!(level(&report, "jitter"), ["low"], "{report}");
            assert_eq!(level(&report, "loss"), ["low", "low"], "{report}");
            assert_eq!(level(&report, "mtu"), ["good", "good"], "{report}");
            assert_eq!(level(&report, "ports"), ["good", "good"], "{report}");
            assert_eq!(level(&report, "udp"), ["good"], "{report}");
            // Both hosts have this machine's clock.
            assert_eq!(level(&report, "clock"), ["good"], "{report}");
        }
    }
}

#[test]
fn a_link_below_the_minimum_is_refused_and_a_black_hole_is_named() {
    let network = network(3, Shape::FREE).unwrap();
    let slow = Shape { rate_bps: Some(20_000_000), loss: 0.1, mtu: Some(1400), ..Shape::FREE };
    network.set_both(0, 2, slow);
    let rate = |report: &Value| {
        let pairs = report["pairs"].as_array()?;
        pairs.iter().find(|pair| pair["level"] == "bad")?.pointer("/there/mbps")?.as_f64()
    };
    let check = || checked(&network, 500, 40.0, None).unwrap();
    let is_right = |report: &Value| match rate(report) {
        Some(rate) if near(rate, 20.0) => Ok(()),
        other => Err(format!("{other:?} Mbit/s, the link has 20")),
    };
    let report = truthful(check, is_right).unwrap();
    assert_eq!(report["verdict"], "bad");
    let pairs = report["pairs"].as_array().unwrap();
    let slow: Vec<&Value> = pairs.iter().filter(|pair| pair["level"] == "bad").collect();
    assert_eq!(slow.len(), 1, "{report}");
    assert_eq!((&slow[0]["a"], &slow[0]["b"]), (&Value::from(0), &Value::from(2)));
    assert_eq!(slow[0].pointer("/there/mtu"), Some(&Value::from(1400)));
    let fixes = slow[0]["judged"].to_string();
    assert!(fixes.contains("packets of 1400 bytes come through, of 1500 bytes vanish"), "{fixes}");
}

#[test]
fn what_a_firewall_swallows_is_found() {
    let network = network(2, Shape::FREE).unwrap();
    // Rules of routing on host 1, as there may be no firewall here: no answers from most of the ports, and none by UDP.
    let swallow = |what: &str| {
        let words = format!("rule add pref 5 {what} blackhole");
        let output = network.command(1, "ip").args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    swallow("ipproto tcp sport 7120-7150");
    swallow("ipproto udp");
    let report = checked(&network, 20, 1e4, None).unwrap();
    assert_eq!(level(&report, "udp"), ["low"], "{report}");
    assert_eq!(level(&report, "ports"), ["low", "good"], "{report}");
    assert_eq!(report.pointer("/pairs/0/there/ports_open"), Some(&Value::from(vec![7118, 7119])));
    assert_eq!(report.pointer("/pairs/0/by_tcp"), Some(&Value::from(true)));
    assert!(number(&report, "/pairs/0/round_trips/min_ms") < 1000.0, "{report}");
    assert_eq!(report["verdict"], "low", "{report}");
}

#[test]
fn hosts_that_do_not_come_are_missed_and_strangers_are_not_let_in() {
    let network = network(2, Shape::FREE).unwrap();
    let secret = SharedSecret::new(b"a secret of more than sixteen bytes");
    let options = SecurityOptions { secret: Some(secret), ..SecurityOptions::default() };
    let security = Security::new(options).unwrap();
    let settings = Settings { probes: 20, running: false, link_mbps: 100.0, most_mbps: 20.0 };
    let (served, stranger) = thread::scope(|scope| {
        let guarded = own(0, Duration::from_secs(2), Some(security.clone()));
        let served = scope.spawn(|| first(&network, settings, guarded));
        let stranger = other(&network, 1, &own(1, Duration::from_secs(1), None));
        (served.join().unwrap(), stranger)
    });
    assert!(matches!(stranger, Err(CheckError::Refused { .. })), "{stranger:?}");
    let served = served.unwrap_err().to_string();
    assert!(served.contains("1 of 2 hosts came within 2 s: h0"), "{served}");
    // Those that have the secret meet, and their datagrams have codes of it.
    let report = checked(&network, 20, 20.0, Some(&security)).unwrap();
    assert_eq!(level(&report, "udp"), ["good"], "{report}");
}
