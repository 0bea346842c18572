//! Each cause from what shows it, and nothing from a fleet that is well.

use std::net::SocketAddr;

use pccl_net::Reason;
use pccl_proto::message::{GroupStatus, OpStatus, PeerStatus, Role, Status};

use super::*;
use crate::observed::{
    AddressSeen, Answer, CertificateSeen, Connect, Holder, HostSeen, LinkSeen, LossRecord, LostPeer,
    MasterSeen, OwnPorts, PortSeen, ProcessSeen, Setting, Udp,
};

const NOW: i64 = 1_800_000_000;

fn addr() -> SocketAddr {
    "10.0.0.1:7117".parse().unwrap()
}

fn peer(host: u8) -> PeerStatus {
    PeerStatus {
        session: format!("1.{host}"),
        rank: Some(u32::from(host)),
        addr: format!("10.0.0.{host}:7118"),
        state: "member".into(),
        heard_ms_ago: 40,
        ..PeerStatus::default()
    }
}

fn status(peers: Vec<PeerStatus>, ops: Vec<OpStatus>) -> Status {
    let group = GroupStatus { group: 0, epoch: 3, peers, ops, ..GroupStatus::default() };
    Status { run: "7".into(), term: 2, groups: vec![group], ..Status::default() }
}

fn answered(status: Status) -> AddressSeen {
    AddressSeen {
        addr: addr(),
        connect: Connect::Open { ms: 0.3 },
        answer: Some(Answer::Status { status: Box::new(status), ms: 1.2 }),
        certificate: None,
        udp: Udp::Answers { ms: 0.4 },
        holder: None,
    }
}

fn named(address: AddressSeen) -> MasterSeen {
    MasterSeen { name: "10.0.0.1:7117".into(), unresolved: None, addresses: vec![address] }
}

fn link(rtt_ms: f64) -> LinkSeen {
    LinkSeen {
        up: true,
        connections: 2.0,
        rtt_s: rtt_ms * 1e-3,
        sent_mbps: 900.0,
        sent_bytes: 1e9,
        ..LinkSeen::default()
    }
}

fn worker(host: u8, links: &[(u8, LinkSeen)]) -> ProcessSeen {
    ProcessSeen {
        place: format!("10.0.0.{host}:9090"),
        addresses: vec![format!("10.0.0.{host}:7118")],
        is_here: host == 2,
        seconds: 2.0,
        attached: Some(true),
        resident: Some(1e8),
        memory_limit: Some(1e9),
        memory_used: Some(2e8),
        links: links.iter().map(|(to, link)| (format!("10.0.0.{to}:7118"), *link)).collect(),
        ..ProcessSeen::default()
    }
}

/// A fleet of three that is well, seen from the host of the first worker.
fn healthy() -> Observations {
    let master = ProcessSeen {
        place: "10.0.0.1:9090".into(),
        is_master: true,
        resident: Some(1e8),
        lost: Some(LossRecord { seconds: 900.0, lost: Vec::new() }),
        ..ProcessSeen::default()
    };
    Observations {
        setting: Setting::default(),
        masters: vec![named(answered(status(vec![peer(2), peer(3)], Vec::new())))],
        certificates: Vec::new(),
        processes: vec![master, worker(2, &[(3, link(0.5)), (4, link(0.6))]), worker(3, &[(2, link(0.5))])],
        ports: vec![PortSeen { addr: "10.0.0.3:7118".parse().unwrap(), connect: Connect::Open { ms: 0.2 } }],
        own_ports: Some(OwnPorts {
            ip: "0.0.0.0".parse().unwrap(),
            ports: 7118..=7150,
            free: 32,
            holders: Vec::new(),
        }),
        host: HostSeen {
            cpus: Some(4.0),
            steal_share: Some(0.0),
            runnable: Some(2.0),
            pressure_share: Some(0.01),
            memory_bytes: Some(1e10),
            available_bytes: Some(8e9),
            oom_kills: Some(0.0),
            group_memory: None,
            most_files: Some(65_536.0),
            send_buffer_bytes: Some(4_194_304.0),
            receive_buffer_bytes: Some(6_291_456.0),
        },
        now: NOW,
        unmeasured: Vec::new(),
    }
}

/// The causes that are found, the first one first, with their levels.
fn causes(seen: &Observations, symptom: Option<Symptom>) -> Vec<(Level, Cause)> {
    diagnose(seen, symptom).findings.iter().map(|finding| (finding.level, finding.cause)).collect()
}

/// What is found when one thing is changed.
fn with(change: impl FnOnce(&mut Observations)) -> Vec<(Level, Cause)> {
    let mut seen = healthy();
    change(&mut seen);
    causes(&seen, None)
}

fn with_answer(
    setting: Setting,
    certificate: Option<CertificateSeen>,
    answer: Answer,
) -> Vec<(Level, Cause)> {
    with(|seen| {
        seen.setting = setting;
        seen.masters[0].addresses[0].certificate = certificate;
        seen.masters[0].addresses[0].answer = Some(answer);
    })
}

#[test]
fn a_fleet_that_is_well_has_no_findings_and_nothing_unknown() {
    let said = diagnose(&healthy(), None);
    assert_eq!((&said.findings, &said.unmeasured), (&Vec::new(), &Vec::new()), "{said:?}");
    assert_eq!(said.verdict, Level::Good);
    assert!(said.healthy.len() > 8, "{:?}", said.healthy);
    assert!(said.lines().join("\n").ends_with("nothing was found"));
}

#[test]
fn nothing_at_all_is_not_healthy() {
    let said = diagnose(&Observations::default(), None);
    assert_eq!(said.findings[0].cause, Cause::NoMasterGiven);
    let unknown: Vec<&str> = said.unmeasured.iter().map(|one| one.what.as_str()).collect();
    for what in [
        "links between peers",
        "memory of this machine",
        "who was lost, and why",
        "the limit on open files here",
    ] {
        assert!(unknown.contains(&what), "{unknown:?}");
    }
    for symptom in Symptom::ALL {
        let said = diagnose(&Observations::default(), Some(symptom));
        assert!(!said.findings.is_empty() || !said.unmeasured.is_empty(), "{symptom}");
    }
}

#[test]
fn what_keeps_a_connection_from_being_made() {
    for (connect, cause) in [
        (Connect::Refused, Cause::NobodyListens),
        (Connect::Silent { ms: 5000.0 }, Cause::PacketsVanish),
        (Connect::Unreachable { why: "no route to host".into() }, Cause::NoRoute),
    ] {
        let found = with(|seen| {
            let address = &mut seen.masters[0].addresses[0];
            (address.connect, address.answer, address.udp) = (connect, None, Udp::NotTried);
        });
        assert_eq!(found[0], (Level::Bad, cause));
    }
    let found = with(|seen| {
        seen.masters[0] = MasterSeen {
            name: "master.example.com:7117".into(),
            unresolved: Some("no such name".into()),
            addresses: Vec::new(),
        }
    });
    assert_eq!(found[0], (Level::Bad, Cause::NameUnknown));
    // One of two addresses that does not work is a warning.
    let found = with(|seen| {
        let other = AddressSeen {
            connect: Connect::Refused,
            answer: None,
            udp: Udp::NotTried,
            ..answered(Status::default())
        };
        seen.masters[0].addresses.push(other);
    });
    assert_eq!(found, [(Level::Low, Cause::NobodyListens)]);
}

#[test]
fn what_keeps_a_master_from_answering() {
    let plain = Setting::default();
    let first = |answer: Answer| with_answer(plain, None, answer)[0];
    assert_eq!(first(Answer::Silent { ms: 5000.0 }), (Level::Bad, Cause::MasterSilent));
    assert_eq!(first(Answer::NotAMaster { what: "x".into() }).1, Cause::NotAMaster);
    assert_eq!(first(Answer::Version { theirs: 1 }).1, Cause::VersionDiffers);
    assert_eq!(first(Answer::Closed).1, Cause::HangsUp);
    let stopped = with(|seen| {
        let address = &mut seen.masters[0].addresses[0];
        address.answer = Some(Answer::Silent { ms: 5000.0 });
        address.holder = Some(Holder { pid: 71, name: "pccl".into(), stopped: true });
    });
    assert_eq!(stopped[0], (Level::Bad, Cause::MasterStopped));
}

#[test]
fn why_two_sides_do_not_trust_each_other() {
    let distrust = |reason: Option<Reason>| Answer::Distrust { reason, why: "why".into() };
    let secured = Setting { tls: true, secret: true, ..Setting::default() };
    let certificate = |from: i64, until: i64| CertificateSeen {
        place: "10.0.0.1:7117".into(),
        from: NOW + from,
        until: NOW + until,
        ..CertificateSeen::default()
    };
    let good = || Some(certificate(-1000, 90 * 86_400));
    let first = |setting: Setting, shown: Option<CertificateSeen>, reason: Option<Reason>| {
        with_answer(setting, shown, distrust(reason))[0].1
    };
    assert_eq!(first(secured, good(), Some(Reason::Secret)), Cause::SecretDiffers);
    assert_eq!(first(secured, good(), Some(Reason::CertificateUnknownCa)), Cause::CertificateAuthority);
    assert_eq!(first(secured, good(), Some(Reason::CertificateName)), Cause::CertificateName);
    assert_eq!(first(secured, good(), Some(Reason::CertificateMissing)), Cause::CertificateMissing);
    assert_eq!(first(secured, good(), Some(Reason::NotAuthenticated)), Cause::SecretMissing);
    assert_eq!(first(secured, None, None), Cause::TlsDiffers);
    assert_eq!(first(Setting::default(), good(), Some(Reason::NotAuthenticated)), Cause::TlsDiffers);
    assert_eq!(first(Setting::default(), None, Some(Reason::NotAuthenticated)), Cause::SecretMissing);
    let expired = Some(certificate(-9000, -3600));
    assert_eq!(first(secured, expired, Some(Reason::CertificateExpired)), Cause::CertificateExpired);
    let early = Some(certificate(3600, 9000));
    assert_eq!(first(secured, early, Some(Reason::CertificateExpired)), Cause::CertificateEarly);
    let mut seen = healthy();
    seen.certificates = vec![certificate(-9000, -7200)];
    let said = diagnose(&seen, Some(Symptom::CantConnect));
    assert_eq!(said.findings[0].cause, Cause::CertificateExpired);
    assert!(said.findings[0].measured.contains("expired 2.0 h ago"), "{}", said.findings[0].measured);
    seen.certificates = vec![certificate(-9000, 86_400)];
    assert_eq!(causes(&seen, None), [(Level::Low, Cause::CertificateEnds)]);
}

#[test]
fn who_leads_and_what_its_store_does() {
    let standby = Status { role: Role::Standby, ..Status::default() };
    let found =
        with(|seen| seen.masters = vec![named(answered(standby.clone())), named(answered(standby.clone()))]);
    assert_eq!(found, [(Level::Bad, Cause::NoActiveMaster)]);
    let elsewhere = Status { active: Some(addr()), ..standby };
    assert_eq!(
        with(|seen| seen.masters = vec![named(answered(elsewhere))]),
        [(Level::Low, Cause::NoActiveMaster)]
    );
    let troubled = Status { store_trouble: Some(("disk full".into(), 4000)), ..Status::default() };
    assert_eq!(
        with(|seen| seen.masters = vec![named(answered(troubled))]),
        [(Level::Bad, Cause::StoreTrouble)]
    );
    let udp = with(|seen| seen.masters[0].addresses[0].udp = Udp::Silent);
    assert_eq!(udp, [(Level::Low, Cause::UdpSilent)]);
}

#[test]
fn peers_that_are_silent_lost_or_waited_for() {
    let silent = with(|seen| {
        let quiet = PeerStatus { heard_ms_ago: 400, ..peer(3) };
        seen.masters[0] = named(answered(status(vec![peer(2), quiet], Vec::new())));
    });
    assert_eq!(silent, [(Level::Low, Cause::PeerHardlyHeard)]);
    let waits = with(|seen| {
        let op = OpStatus {
            tag: 9,
            age_ms: 60_000,
            missing: vec!["1.2".into(), "1.3".into()],
            ..OpStatus::default()
        };
        let waiting = PeerStatus { waits_for: Some("tag 9".into()), ..peer(2) };
        seen.masters[0] = named(answered(status(vec![waiting, peer(3)], vec![op])));
    });
    assert_eq!(waits, [(Level::Low, Cause::PeerNotCalled)]);
    let lose = |n: usize| {
        with(|seen| {
            let one = |n: usize| LostPeer {
                who: "10.0.0.3:7118".into(),
                ago_s: n as f64 * 50.0,
                why: "its process is gone".into(),
            };
            seen.processes[0].lost = Some(LossRecord { seconds: 900.0, lost: (0..n).map(one).collect() });
        })
    };
    assert_eq!(lose(3), [(Level::Low, Cause::PeersLost)]);
    assert_eq!(lose(5), [(Level::Bad, Cause::PeersLost)]);
    let far = with(|seen| seen.masters[0].addresses[0].udp = Udp::Answers { ms: 90.0 });
    assert_eq!(far, []);
    let too_far = with(|seen| {
        seen.setting.heartbeat_timeout_ms = 300;
        seen.masters[0].addresses[0].udp = Udp::Answers { ms: 240.0 };
    });
    assert_eq!(too_far, [(Level::Bad, Cause::TimeoutShort), (Level::Low, Cause::LongRoundTrip)]);
    assert_eq!(with(|seen| seen.processes[1].attached = Some(false)), [(Level::Bad, Cause::NotAttached)]);
}

#[test]
fn links_that_are_down_lossy_far_slow_or_throttled_by_buffers() {
    let on = |change: fn(&mut LinkSeen)| {
        with(|seen| seen.processes[1].links.values_mut().next().into_iter().for_each(change))
    };
    assert_eq!(on(|l| l.up = false), [(Level::Bad, Cause::LinkDown)]);
    assert_eq!(on(|l| l.retransmits = 10_000.0), [(Level::Low, Cause::PacketsLost)]);
    assert_eq!(on(|l| l.retransmits = 100_000.0), [(Level::Bad, Cause::PacketsLost)]);
    let far = on(|l| l.rtt_s = 0.08);
    assert_eq!(far, [(Level::Bad, Cause::SlowLink), (Level::Low, Cause::SmallBuffers)]);
    let full = on(|l| (l.queued_share, l.sent_mbps) = (0.9, 20.0));
    assert_eq!(full, [(Level::Bad, Cause::SlowLink), (Level::Bad, Cause::LittleBandwidth)]);
    // All equally far: none stands out.
    let all = with(|seen| {
        seen.processes.iter_mut().flat_map(|p| p.links.values_mut()).for_each(|l| l.rtt_s = 0.08);
    });
    assert_eq!(all, [(Level::Low, Cause::SmallBuffers)]);
    // A busy fleet has frames waiting everywhere.
    let busy = with(|seen| {
        seen.processes.iter_mut().flat_map(|p| p.links.values_mut()).for_each(|l| l.queued_share = 0.8);
    });
    assert_eq!(busy, []);
}

#[test]
fn ports_memory_processors_files_and_clocks() {
    let refused = |connect: Connect| with(|seen| seen.ports[0].connect = connect);
    assert_eq!(refused(Connect::Refused), [(Level::Bad, Cause::PeerPortRefused)]);
    assert_eq!(refused(Connect::Silent { ms: 9.0 }), [(Level::Bad, Cause::PeerPortSilent)]);
    let taken = with(|seen| {
        let own = seen.own_ports.as_mut().unwrap();
        (own.free, own.holders) = (0, vec!["7118 by nginx (pid 8)".into()]);
    });
    assert_eq!(taken, [(Level::Bad, Cause::PortsTaken)]);
    assert_eq!(with(|seen| seen.processes[1].oom_kills = Some(2.0)), [(Level::Bad, Cause::OomKilled)]);
    assert_eq!(with(|seen| seen.processes[1].memory_used = Some(9.5e8)), [(Level::Bad, Cause::MemoryLimit)]);
    assert_eq!(with(|seen| seen.processes[1].memory_used = Some(8e8)), [(Level::Low, Cause::MemoryLimit)]);
    assert_eq!(with(|seen| seen.processes[1].backup_bytes = 3e8), [(Level::Low, Cause::BackupMemory)]);
    assert_eq!(with(|seen| seen.host.available_bytes = Some(1e8)), [(Level::Bad, Cause::MemoryShort)]);
    assert_eq!(with(|seen| seen.host.group_memory = Some((1e6, 9.9e5))), [(Level::Bad, Cause::MemoryLimit)]);
    assert_eq!(with(|seen| seen.host.steal_share = Some(0.2)), [(Level::Low, Cause::CpuStolen)]);
    assert_eq!(with(|seen| seen.host.runnable = Some(9.0)), [(Level::Low, Cause::CpuShort)]);
    assert_eq!(
        with(|seen| seen.processes[1].throttled_share = Some(0.3)),
        [(Level::Bad, Cause::CpuThrottled)]
    );
    assert_eq!(with(|seen| seen.host.most_files = Some(256.0)), [(Level::Low, Cause::FilesShort)]);
    let full =
        with(|seen| (seen.processes[1].open_files, seen.processes[1].most_files) = (Some(99.0), Some(100.0)));
    assert_eq!(full, [(Level::Bad, Cause::FilesShort)]);
    assert_eq!(with(|seen| seen.processes[1].clock_s = Some((-5.0, 0.01))), [(Level::Low, Cause::ClockOff)]);
    assert_eq!(with(|seen| seen.processes[1].clock_s = Some((1.2, 0.5))), []);
    let refusals = with(|seen| seen.processes[0].refused = [("secret".to_owned(), 3.0)].into());
    assert_eq!(refusals, [(Level::Low, Cause::Refusals)]);
}

#[test]
fn figures_are_written_for_people() {
    assert_eq!(
        (bytes(900.0), bytes(2048.0), bytes(3.5e9)),
        ("900 bytes".into(), "2.0 KiB".into(), "3.3 GiB".into())
    );
    assert_eq!(
        (duration(0.25), duration(90.0), duration(1e6)),
        ("250.0 ms".into(), "90.0 s".into(), "11.6 days".into())
    );
    assert_eq!((median([3.0, 1.0, 2.0]), median([4.0, 1.0]), median([])), (Some(2.0), Some(1.0), None));
}
