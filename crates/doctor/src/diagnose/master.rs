//! The masters: found, reached, trusted, leading.

use pccl_net::Reason;
use pccl_probe::verdict::{Level as Judgement, What, judge};
use pccl_proto::message::Role;
use pccl_proto::wire::VERSION;

use super::{Said, Words, duration};
use crate::cause::Cause;
use crate::finding::Level;
use crate::observed::{AddressSeen, Answer, CertificateSeen, Connect, MasterSeen, Observations, Udp};
use crate::symptom::Symptom;

const REACH: &[Symptom] = &[Symptom::CantConnect, Symptom::MasterUnreachable];
/// A certificate that ends sooner is worth a word.
const SOON_S: i64 = 7 * 86_400;
/// An answer of a master that takes so long is late: it has little to do.
const LATE_MS: f64 = 1000.0;

pub(super) fn masters(seen: &Observations, said: &mut Said) {
    if seen.masters.is_empty() {
        let words = Words {
            measured: "no --master, no PCCL_MASTER, no network.master_host".to_owned(),
            means: "without a master's address nothing of the fleet can be asked".to_owned(),
            fix: "give --master HOST:PORT, or set network.master_host in the file of --config".to_owned(),
        };
        said.find(Level::Bad, Cause::NoMasterGiven, "this machine", words);
    }
    for master in &seen.masters {
        named(seen, master, said);
    }
    certificates(seen, said);
    leadership(seen, said);
}

fn named(seen: &Observations, master: &MasterSeen, said: &mut Said) {
    if let Some(why) = &master.unresolved {
        let words = Words {
            measured: format!("the resolver says: {why}"),
            means: "no peer on this machine can find the master".to_owned(),
            fix: format!(
                "correct network.master_host (`getent hosts {}`), the name server in /etc/resolv.conf, or add it to /etc/hosts",
                host(&master.name)
            ),
        };
        said.find(Level::Bad, Cause::NameUnknown, &master.name, words);
    }
    // A name with several addresses works if one of them does: the others are a warning.
    let is_found = master.status().is_some();
    for address in &master.addresses {
        reached(seen, master, address, is_found, said);
        datagrams(master, address, said);
    }
}

fn host(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(host, _)| host)
}

fn reached(seen: &Observations, master: &MasterSeen, address: &AddressSeen, is_found: bool, said: &mut Said) {
    let addr = address.addr;
    let place = if master.name == addr.to_string() {
        master.name.clone()
    } else {
        format!("{} ({addr})", master.name)
    };
    let level = if is_found { Level::Low } else { Level::Bad };
    match (&address.connect, &address.answer) {
        (Connect::Open { .. }, Some(Answer::Status { ms, status })) => {
            let text = format!("{place} answers in {ms:.1} ms: {}, term {}", status.role, status.term);
            if *ms >= LATE_MS {
                let words = Words {
                    measured: format!("{ms:.0} ms from the first packet to the status"),
                    means: format!("an idle master answers in a few round trips; at most {LATE_MS:.0} ms"),
                    fix: "look at the processors and the store of the master's machine (`top`, docs/production.md has what it needs)"
                        .to_owned(),
                };
                said.find(Level::Low, Cause::MasterSilent, place, words);
            } else {
                said.healthy(text);
            }
        }
        (Connect::Open { ms }, answer) => {
            unanswered(seen, address, *ms, answer.as_ref(), &place, level, said);
        }
        (connect, _) => {
            let (cause, words) = not_connected(connect, address);
            said.find(level, cause, place, words);
        }
    }
}

/// Nobody accepted.
fn not_connected(connect: &Connect, address: &AddressSeen) -> (Cause, Words) {
    let (addr, ip, port) = (address.addr, address.addr.ip(), address.addr.port());
    match connect {
        Connect::Refused => {
            let means =
                "the host is up and says that no process listens on this port (or its firewall says so)";
            let fix = format!(
                "start `pccl master` there, or correct the port (network.master_port); on that host `ss -ltnp sport = :{port}` shows who listens"
            );
            let measured = format!("TCP connect to {addr}: refused");
            (Cause::NobodyListens, Words { measured, means: means.to_owned(), fix })
        }
        Connect::Silent { ms } => {
            let means = "a host that is up answers within a round trip, also if nobody listens";
            let fix = format!(
                "let TCP and UDP port {port} through (`pccl firewall` prints the rules); see that the host is up (`ping {ip}`) and that the address is right"
            );
            let measured = format!("TCP connect to {addr}: no answer within {ms:.0} ms");
            (Cause::PacketsVanish, Words { measured, means: means.to_owned(), fix })
        }
        Connect::Unreachable { why } => {
            let measured = format!("TCP connect to {addr}: {why}");
            let means = "the system, or a router on the way, says that this address cannot be reached";
            let fix = format!(
                "see `ip route get {ip}`: interface, VPN or the master's address are not as they should be"
            );
            (Cause::NoRoute, Words { measured, means: means.to_owned(), fix })
        }
        Connect::Open { ms } => {
            let measured = format!("TCP connect to {addr}: accepted in {ms:.1} ms, and not asked");
            let means = "nothing is known of what listens there";
            (Cause::HangsUp, Words { measured, means: means.to_owned(), fix: "run it again".to_owned() })
        }
    }
}

/// Somebody accepted, and gave no status.
fn unanswered(
    seen: &Observations,
    address: &AddressSeen,
    connect_ms: f64,
    answer: Option<&Answer>,
    place: &str,
    level: Level,
    said: &mut Said,
) {
    let (cause, words) = match answer {
        Some(Answer::Silent { ms }) => silent(address, connect_ms, *ms),
        Some(Answer::NotAMaster { what }) => (Cause::NotAMaster, another_program(address, what)),
        Some(Answer::Version { theirs }) => {
            let measured = format!("it speaks protocol version {theirs}, this program {VERSION}");
            let means = "processes of a run must have one protocol version";
            let fix = "install the same version of pccl on both (`pccl --version`)";
            (Cause::VersionDiffers, Words { measured, means: means.to_owned(), fix: fix.to_owned() })
        }
        Some(Answer::Distrust { reason, why }) => distrust(seen, address, *reason, why),
        Some(Answer::Other { why }) => {
            let measured = format!("accepted in {connect_ms:.1} ms, then: {why}");
            let means = "the connection broke before an answer came";
            let fix = "run it again; if it stays, look at the master's log and at middleboxes on the way";
            (Cause::HangsUp, Words { measured, means: means.to_owned(), fix: fix.to_owned() })
        }
        Some(Answer::Closed | Answer::Status { .. }) | None => {
            let measured = format!("accepted in {connect_ms:.1} ms, then closed without an answer");
            let means = "masters do so to addresses outside of network.allowed_networks; other programs do so to strangers";
            let fix = "add this machine's network to network.allowed_networks of the master (its log says `refused`), or correct the port";
            (Cause::HangsUp, Words { measured, means: means.to_owned(), fix: fix.to_owned() })
        }
    };
    said.find(level, cause, place, words);
}

fn silent(address: &AddressSeen, connect_ms: f64, ms: f64) -> (Cause, Words) {
    let measured =
        format!("accepted in {connect_ms:.1} ms by the kernel, no byte within {ms:.0} ms by the process");
    match &address.holder {
        Some(holder) if holder.stopped => {
            let means =
                format!("process {} ({}) has the port and is in state T: stopped", holder.pid, holder.name);
            let fix = format!("`kill -CONT {}`, or restart it: its store makes that a pause", holder.pid);
            (Cause::MasterStopped, Words { measured, means, fix })
        }
        holder => {
            let who = holder.as_ref().map_or_else(
                || "the process".to_owned(),
                |holder| format!("process {} ({})", holder.pid, holder.name),
            );
            let means = format!(
                "a master answers in milliseconds: {who} is frozen, starved of processor time, or no master"
            );
            let port = address.addr.port();
            let fix = format!(
                "on that host: `ss -ltnp sport = :{port}` names the process, `ps -o pid,stat,wchan` its state (T: `kill -CONT`, D: look at its disk); restart it if need be"
            );
            (Cause::MasterSilent, Words { measured, means, fix })
        }
    }
}

fn another_program(address: &AddressSeen, what: &str) -> Words {
    let port = address.addr.port();
    let who = address.holder.as_ref();
    let who =
        who.map_or_else(String::new, |holder| format!(" (here it is {}, pid {})", holder.name, holder.pid));
    Words {
        measured: format!("what it answers is no message of pccl: {what}"),
        means: format!("another program has port {port}{who}"),
        fix:
            "correct network.master_host and network.master_port, or give the master a free port by --listen"
                .to_owned(),
    }
}

/// One side does not trust the other.
fn distrust(seen: &Observations, address: &AddressSeen, reason: Option<Reason>, why: &str) -> (Cause, Words) {
    let theirs = address.certificate.as_ref();
    let shows_tls = theirs.is_some();
    let dates = |certificate: &CertificateSeen| outside(certificate, seen.now);
    let outdated = theirs.into_iter().chain(&seen.certificates).find(|one| dates(one).is_some());
    let cause = match reason {
        Some(Reason::CertificateExpired) => match outdated {
            Some(certificate) if certificate.from > seen.now => Cause::CertificateEarly,
            _ => Cause::CertificateExpired,
        },
        Some(Reason::CertificateUnknownCa) => Cause::CertificateAuthority,
        Some(Reason::CertificateName) => Cause::CertificateName,
        Some(Reason::CertificateMissing) => Cause::CertificateMissing,
        Some(Reason::Certificate) => Cause::CertificateRefused,
        Some(Reason::Secret) => Cause::SecretDiffers,
        Some(Reason::PlainText) => Cause::TlsDiffers,
        _ if shows_tls != seen.setting.tls => Cause::TlsDiffers,
        Some(Reason::NotAuthenticated) => Cause::SecretMissing,
        None if seen.setting.secret => Cause::SecretMissing,
        Some(Reason::Tls) => Cause::CertificateRefused,
        _ => Cause::HangsUp,
    };
    let fix = match cause {
        Cause::CertificateExpired => {
            "issue a new one (`pccl cert issue`, or your own authority) and put it in place: it is read without a restart"
        }
        Cause::CertificateEarly => {
            "set the clocks by NTP (`timedatectl`, `chronyc tracking`), or wait until it counts"
        }
        Cause::CertificateAuthority => {
            "give both sides the same network.tls.ca_file; both authorities may be in it while they change"
        }
        Cause::CertificateName => {
            "connect by a name that is in it, or issue one with this name (`pccl cert issue NAME`)"
        }
        Cause::CertificateMissing => "set network.tls.cert_file and network.tls.key_file here",
        Cause::SecretDiffers => {
            "set PCCL_AUTH_SECRET (or auth.secret_file) to the same value in every process of the run"
        }
        Cause::SecretMissing => "set auth.secret (PCCL_AUTH_SECRET) at both ends or at none",
        Cause::TlsDiffers => {
            "set network.tls to the same at both ends: cert_file and key_file, and ca_file for both sides"
        }
        Cause::CertificateRefused => {
            "look at the master's log, which says what is wrong with it; `openssl x509 -text -in FILE` shows a certificate"
        }
        _ => "see that network.tls and auth are the same at both ends, and that the port is a master's",
    };
    let measured = match outdated.or(theirs) {
        Some(certificate) => format!("{why}; {}", told(certificate, seen.now)),
        None => why.to_owned(),
    };
    let tls = |on: bool| if on { "on" } else { "off" };
    let means = format!(
        "TLS is {} here and {} there, a secret is {}configured here",
        tls(seen.setting.tls),
        tls(shows_tls),
        if seen.setting.secret { "" } else { "not " }
    );
    (cause, Words { measured, means, fix: fix.to_owned() })
}

/// A certificate whose time has not come, or is over: by how many seconds.
fn outside(certificate: &CertificateSeen, now: i64) -> Option<i64> {
    match (certificate.from - now, now - certificate.until) {
        (early, _) if early > 0 => Some(early),
        (_, late) if late > 0 => Some(late),
        _ => None,
    }
}

fn told(certificate: &CertificateSeen, now: i64) -> String {
    let names = certificate.names.join(", ");
    let time = |seconds: i64| duration(seconds as f64);
    let span = match (certificate.from - now, now - certificate.until) {
        (early, _) if early > 0 => format!("counts only in {}", time(early)),
        (_, late) if late > 0 => format!("expired {} ago", time(late)),
        (_, late) => format!("counts for {} more", time(-late)),
    };
    format!(
        "the certificate of {} (names {names}; signed by {}) {span}",
        certificate.place, certificate.issuer
    )
}

/// Our own certificates, and those of masters that are trusted.
fn certificates(seen: &Observations, said: &mut Said) {
    let theirs = seen.masters.iter().flat_map(|m| &m.addresses).filter_map(|a| a.certificate.as_ref());
    for certificate in seen.certificates.iter().chain(theirs) {
        let left = certificate.until - seen.now;
        let words = |means: &str| {
            Words {
            measured: told(certificate, seen.now),
            means: means.to_owned(),
            fix: "issue a new one (`pccl cert issue`, or your own authority) and put it in place: it is read without a restart"
                .to_owned(),
        }
        };
        if certificate.from > seen.now {
            let words = Words {
                fix: "set the clock by NTP (`timedatectl`, `chronyc tracking`), or wait until it counts"
                    .to_owned(),
                ..words("whoever checks it refuses it")
            };
            said.find(Level::Bad, Cause::CertificateEarly, &certificate.place, words);
        } else if left < 0 {
            said.find(
                Level::Bad,
                Cause::CertificateExpired,
                &certificate.place,
                words("whoever checks it refuses it"),
            );
        } else if left < SOON_S {
            let means = "new connections will be refused from then on; a week is left to nobody's notice";
            said.find(Level::Low, Cause::CertificateEnds, &certificate.place, words(means));
        }
    }
}

fn datagrams(master: &MasterSeen, address: &AddressSeen, said: &mut Said) {
    let (addr, name) = (address.addr, &master.name);
    let refused = match address.udp {
        Udp::NotTried => return,
        Udp::Answers { ms } => {
            round_trip(ms, &format!("UDP to {name} ({addr})"), said);
            return;
        }
        Udp::Refused => true,
        Udp::Silent => false,
    };
    if !matches!(address.answer, Some(Answer::Status { .. })) {
        let why = "the master does not answer by TCP either";
        return said.unmeasured(format!("UDP to {addr}"), why, &[Symptom::FrequentRecoveries]);
    }
    let port = addr.port();
    let (cause, measured) = if refused {
        (Cause::UdpRefused, format!("a datagram to {addr}: the host says that nobody listens"))
    } else {
        (Cause::UdpSilent, format!("4 datagrams to {addr}: no answer"))
    };
    let words = Words {
        measured,
        means: "without UDP every heartbeat waits for TCP: one lost segment delays those behind it by 200 ms and more".to_owned(),
        fix: format!("let UDP port {port} through in both directions: `pccl firewall` prints the rules"),
    };
    said.find(Level::Low, cause, format!("{name} ({addr})"), words);
}

/// A round trip to a master, against what a network should have.
fn round_trip(ms: f64, what: &str, said: &mut Said) {
    let judged = judge(What::RoundTrip, Some(ms));
    let level = match judged.level {
        Judgement::Good | Judgement::Unknown => return said.healthy(format!("{what}: {ms:.2} ms")),
        Judgement::Low => Level::Low,
        Judgement::Bad => Level::Bad,
    };
    let words =
        Words { measured: format!("{ms:.1} ms"), means: judged.text, fix: judged.fix.unwrap_or_default() };
    said.find(level, Cause::LongRoundTrip, what, words);
}

/// Whether one of them leads, and what keeps it from doing so.
fn leadership(seen: &Observations, said: &mut Said) {
    let all: Vec<_> = seen.masters.iter().filter_map(|m| Some((&m.name, m.status()?))).collect();
    for (name, status) in &all {
        let Some((why, since_ms)) = &status.store_trouble else { continue };
        let words = Words {
            measured: format!("for {}: {why}", duration(*since_ms as f64 * 1e-3)),
            means: "a master without its store decides nothing: ops in flight wait, and peers give up after network.master_timeout_ms"
                .to_owned(),
            fix: "look at the store (store.url: is it up, is its disk full, does the password hold?) and at the master's log".to_owned(),
        };
        said.find(Level::Bad, Cause::StoreTrouble, *name, words);
    }
    if all.is_empty() {
        if !seen.masters.is_empty() {
            said.unmeasured("who leads, members, ops in flight", "no master gave its status", REACH);
        }
        return;
    }
    if all.iter().any(|(_, status)| status.role == Role::Active) {
        return;
    }
    let roles: Vec<String> = all.iter().map(|(name, s)| format!("{name} is {}", s.role)).collect();
    let known = all.iter().find_map(|(_, status)| status.active);
    let words = Words {
        measured: roles.join(", "),
        means: match known {
            Some(addr) => format!("the store says that {addr} leads; it is not among those that were asked, or does not answer"),
            None => "the store knows no master that leads".to_owned(),
        },
        fix: "start a master with this store, or `pccl master promote` on the host of one that stands by; ask all of them: --master a,b"
            .to_owned(),
    };
    // A standby that was asked alone is no fault as long as the one that leads is somewhere.
    let level = if known.is_some() && all.len() < 2 { Level::Low } else { Level::Bad };
    said.find(level, Cause::NoActiveMaster, "the masters", words);
}
