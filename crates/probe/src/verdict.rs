//! Whether what was measured is good enough, and what to do if not.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// How good something is. The worst of some is the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As recommended.
    Good,
    /// Not measured, or what was measured does not decide it.
    Unknown,
    /// Enough to work, less than recommended.
    Low,
    /// Less than what is needed.
    Bad,
}

impl Level {
    /// A word for a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unknown => "?",
            Self::Low => "low",
            Self::Bad => "BAD",
        }
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Megabits per second.
    Bandwidth,
    /// Round trip, milliseconds.
    RoundTrip,
    /// Lost packets, percent.
    Loss,
    /// Mean absolute difference of consecutive round trips, milliseconds.
    Jitter,
    /// TCP ports that can be connected to.
    Ports,
    /// Datagrams on the port of heartbeats.
    Udp,
    /// Longest packet, bytes.
    Mtu,
    /// Difference of clocks, milliseconds.
    Clock,
}

/// A figure that is judged: what is needed and what is recommended.
struct Limits {
    unit: &'static str,
    /// Larger is better.
    rising: bool,
    minimum: f64,
    recommended: f64,
    fix: &'static str,
}

fn limits(what: What) -> Option<Limits> {
    let limits =
        |unit, rising, minimum, recommended, fix| Some(Limits { unit, rising, minimum, recommended, fix });
    match what {
        What::Bandwidth => limits(
            "Mbit/s",
            true,
            100.0,
            1000.0,
            "look at the speed of interface and switch port (`ethtool`), at the instance type's limit, and at what else uses the link; \
             quantized ops need a quarter of the bytes",
        ),
        What::RoundTrip => limits(
            "ms",
            false,
            500.0,
            100.0,
            "put peers nearer to each other, or look at the route (`mtr`) for a detour or a VPN; far sites gain most from large ops",
        ),
        What::Loss => limits(
            "%",
            false,
            5.0,
            0.1,
            "look for a full queue, a bad cable or a rate limit on the way (`mtr`, `ip -s link`, `ethtool -S`); \
             BBR suffers less from loss than cubic (net.ipv4.tcp_congestion_control=bbr)",
        ),
        What::Jitter => limits(
            "ms",
            false,
            50.0,
            10.0,
            "look for a busy link or CPU on the way (Wi-Fi, shared instances); a longer network.heartbeat_timeout_ms forgives it",
        ),
        What::Clock => limits(
            "ms",
            false,
            60_000.0,
            1_000.0,
            "set the clock by NTP (`chronyc tracking`, `timedatectl`): certificates and the order of records in logs depend on it",
        ),
        What::Mtu => limits(
            "bytes",
            true,
            1280.0,
            1500.0,
            "a tunnel or VPN on the way carries shorter packets: give the interface that MTU (`ip link set dev … mtu …`), \
             and let ICMP \"fragmentation needed\" pass, else long packets vanish without a word",
        ),
        What::Ports | What::Udp => None,
    }
}

/// What is said of one figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Of what.
    pub what: What,
    /// How good it is.
    pub level: Level,
    /// What was found and what is asked for, in words.
    pub text: String,
    /// What to do, if it is not good.
    pub fix: Option<String>,
}

/// A link of 100 Mbit/s carries 97.5 of packets with their headers, the rest is Ethernet's; and a measurement has its error.
const LINK_SHARE: f64 = 0.95;

/// Judges what a link carries. Where it was not filled, too small a figure says nothing.
pub fn judge_bandwidth(mbps: Option<f64>, at_least: bool) -> Judged {
    let mut judged = judge(What::Bandwidth, mbps);
    if at_least && judged.level != Level::Good {
        judged.level = Level::Unknown;
        judged.fix = None;
        judged.text =
            format!("bandwidth: at least {} Mbit/s, more was not tried", figure(mbps.unwrap_or(0.0)));
    }
    judged
}

/// Judges a figure by its limits.
pub fn judge(what: What, value: Option<f64>) -> Judged {
    let Some(limits) = limits(what) else {
        return Judged { what, level: Level::Unknown, text: "not a figure".to_owned(), fix: None };
    };
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return Judged {
            what,
            level: Level::Unknown,
            text: format!("{}: not measured", name(what)),
            fix: None,
        };
    };
    // "At least 100", but "less than 500": what stands on the limit is on its better side where larger is better only.
    let part = if what == What::Bandwidth { LINK_SHARE } else { 1.0 };
    let reaches = |limit: f64| if limits.rising { value >= limit * part } else { value < limit };
    let level = match (reaches(limits.minimum), reaches(limits.recommended)) {
        (false, _) => Level::Bad,
        (true, false) => Level::Low,
        (true, true) => Level::Good,
    };
    let wanted =
        if level == Level::Bad { ("needed", limits.minimum) } else { ("recommended", limits.recommended) };
    let sign = if limits.rising { "at least" } else { "less than" };
    let text =
        format!("{} {} {} ({}: {sign} {})", name(what), figure(value), limits.unit, wanted.0, wanted.1);
    Judged { what, level, text, fix: (level != Level::Good).then(|| limits.fix.to_owned()) }
}

/// What the fleet itself has moved says only that a link carries as much: less is no verdict.
pub fn judge_observed_bandwidth(mbps: Option<f64>) -> Judged {
    let mut judged = judge(What::Bandwidth, mbps);
    if let Some(mbps) = mbps {
        judged.text = format!(
            "bandwidth: the fleet's own counters show {} Mbit/s at their busiest second",
            figure(mbps)
        );
        if judged.level != Level::Good {
            judged.level = Level::Unknown;
        }
    }
    judged.fix = None;
    judged
}

/// Judges ports: open ones, and in words those that are not.
pub fn judge_ports(open: usize, tried: usize, silent: &str, refused: &str) -> Judged {
    let level = match (open, tried) {
        (_, 0) => Level::Unknown,
        (0, _) => Level::Bad,
        _ if open < tried => Level::Low,
        _ => Level::Good,
    };
    let mut text = format!("TCP ports: {open} of {tried} can be reached");
    if !silent.is_empty() {
        let _ = write!(text, "; no answer from {silent}");
    }
    if !refused.is_empty() {
        let _ = write!(text, "; refused by {refused}");
    }
    let fix = "let these ports through: `pccl firewall` prints the rules; each worker needs one of them \
               (network.p2p_ports narrows the range)";
    Judged { what: What::Ports, level, text, fix: (level > Level::Unknown).then(|| fix.to_owned()) }
}

/// Judges UDP: whether any datagram came back.
pub fn judge_udp(passes: bool, port: u16) -> Judged {
    let (level, text, fix) = if passes {
        (Level::Good, format!("UDP port {port} answers"), None)
    } else {
        let fix = "let UDP through in both directions: `pccl firewall` prints the rules; without it heartbeats travel over TCP alone, \
                   and loss and jitter delay them";
        (Level::Low, format!("UDP port {port} does not answer"), Some(fix.to_owned()))
    };
    Judged { what: What::Udp, level, text, fix }
}

/// Judges the MTU; a way that carries less than the interface sends swallows long packets.
pub fn judge_mtu(through: Option<u32>, sendable: u32) -> Judged {
    let mut judged = judge(What::Mtu, through.map(f64::from));
    if let Some(through) = through.filter(|through| *through < sendable) {
        // Until then it works, as TCP finds out by itself in time.
        judged.level = judged.level.max(Level::Low);
        judged.text = format!(
            "MTU: packets of {through} bytes come through, of {sendable} bytes vanish, although the interface sends them"
        );
        judged.fix = judge(What::Mtu, Some(0.0)).fix;
    }
    judged
}

fn name(what: What) -> &'static str {
    match what {
        What::Bandwidth => "bandwidth",
        What::RoundTrip => "RTT",
        What::Loss => "loss",
        What::Jitter => "jitter",
        What::Ports => "ports",
        What::Udp => "UDP",
        What::Mtu => "MTU",
        What::Clock => "clock offset",
    }
}

/// A figure with as many digits as are of use.
pub fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_documentation() {
        let cases = [
            (What::Bandwidth, 94.9, 97.5, 975.0),
            (What::RoundTrip, 500.0, 499.0, 99.0),
            (What::Loss, 5.0, 4.9, 0.09),
            (What::Jitter, 50.0, 49.0, 9.9),
        ];
        for (what, bad, low, good) in cases {
            assert_eq!(judge(what, Some(bad)).level, Level::Bad, "{what:?}");
            assert_eq!(judge(what, Some(low)).level, Level::Low, "{what:?}");
            let best = judge(what, Some(good));
            assert_eq!((best.level, best.fix), (Level::Good, None), "{what:?}");
        }
        assert_eq!(judge(What::Loss, Some(0.1)).level, Level::Low);
        assert_eq!(judge(What::Loss, Some(f64::NAN)).level, Level::Unknown);
        assert_eq!(judge(What::Jitter, None).level, Level::Unknown);
    }

    #[test]
    fn what_is_not_good_says_what_to_do() {
        let judged = judge(What::RoundTrip, Some(620.4));
        assert_eq!(judged.text, "RTT 620 ms (needed: less than 500)");
        assert!(judged.fix.unwrap().contains("mtr"));
        assert_eq!(judge(What::Loss, Some(1.234)).text, "loss 1.23 % (recommended: less than 0.1)");
    }

    #[test]
    fn counters_of_a_fleet_can_prove_a_link_and_never_condemn_it() {
        assert_eq!(judge_observed_bandwidth(Some(1200.0)).level, Level::Good);
        assert_eq!(judge_observed_bandwidth(Some(3.0)).level, Level::Unknown);
        assert_eq!(judge_observed_bandwidth(None).level, Level::Unknown);
        assert_eq!(judge_bandwidth(Some(30.0), true).level, Level::Unknown);
        assert_eq!(judge_bandwidth(Some(30.0), false).level, Level::Bad);
        assert_eq!(judge_bandwidth(Some(3000.0), true).level, Level::Good);
    }

    #[test]
    fn ports_udp_and_black_holes() {
        assert_eq!(judge_ports(33, 33, "", "").level, Level::Good);
        let some = judge_ports(3, 33, "7121-7150", "");
        assert_eq!((some.level, some.text.contains("7121-7150")), (Level::Low, true));
        assert_eq!(judge_ports(0, 33, "7118-7150", "").level, Level::Bad);
        assert_eq!(judge_ports(0, 0, "", "").level, Level::Unknown);
        assert_eq!(judge_udp(false, 7117).level, Level::Low);
        assert_eq!(judge_mtu(Some(1500), 1500).level, Level::Good);
        assert_eq!(judge_mtu(Some(8000), 9000).level, Level::Low);
        assert_eq!(judge_mtu(Some(1400), 1400).level, Level::Low);
        assert_eq!(judge_mtu(Some(576), 1500).level, Level::Bad);
        assert_eq!(judge_mtu(None, 1500).level, Level::Unknown);
    }

    #[test]
    fn the_worst_is_the_largest() {
        assert!(Level::Good < Level::Unknown && Level::Unknown < Level::Low && Level::Low < Level::Bad);
    }
}
