//! Who was refused and why: counted each time, said once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use pccl_observe::Metrics;

/// How long a refusal that has been said is only counted when it happens again.
const SILENCE: Duration = Duration::from_secs(60);
/// Most pairs of reason and address that are told apart; beyond them refusals are counted and not said.
const MAX_SAID: usize = 1024;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)+) => {
        /// Why somebody is refused. The label is the metric's, so there are few of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The label of the metric `pccl_refused_total`.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    };
}

reasons! {
    /// It spoke without TLS where TLS is on.
    PlainText = "plain_text",
    /// TLS could not be agreed on, or was broken off.
    Tls = "tls",
    /// A certificate that is not valid any more, or not yet.
    CertificateExpired = "certificate_expired",
    /// A certificate for another name.
    CertificateName = "certificate_name",
    /// A certificate from an authority that is not ours.
    CertificateUnknownCa = "certificate_unknown_ca",
    /// No certificate where one is asked for.
    CertificateMissing = "certificate_missing",
    /// Any other trouble with a certificate.
    Certificate = "certificate",
    /// It did not try to authenticate.
    NotAuthenticated = "not_authenticated",
    /// It has another secret, or stands between two that have the same.
    Secret = "secret",
    /// A record whose code is wrong: spoiled, replayed, or forged on the way.
    Forged = "forged",
    /// It took too long to say who it is.
    TimedOut = "timed_out",
    /// It said too much before it said who it is.
    TooManyBytes = "too_many_bytes",
    /// Too many that had not said who they are at once.
    TooMany = "too_many",
    /// Its address is in none of the allowed networks.
    Network = "network",
    /// Its certificate does not allow its peer group.
    Group = "group",
    /// A heartbeat whose code is wrong, or of a session that is not known.
    Heartbeat = "heartbeat",
    /// A heartbeat that has been here before.
    HeartbeatReplayed = "heartbeat_replayed",
}

/// Somebody was refused, or refused us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The kind.
    pub reason: Reason,
    /// What was wrong and what to do, as a sentence without the address.
    pub why: String,
}

impl Refused {
    pub(crate) fn new(reason: Reason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refused {}

/// The refusals of one program.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    metrics: Option<Metrics>,
    said: BTreeMap<(Reason, IpAddr), Said>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    /// How often since then.
    more: u64,
}

impl Refusals {
    pub(crate) fn set_metrics(&mut self, metrics: Metrics) {
        for reason in Reason::ALL {
            // A rate over a counter that appears with its first event misses that event.
            metrics.add_refused(reason.label(), 0);
        }
        self.metrics = Some(metrics);
    }

    /// Counts a refusal, and says it unless the same has been said of this address a moment ago.
    pub(crate) fn note(&mut self, refused: &Refused, from: SocketAddr, now: Instant) {
        if let Some(metrics) = &self.metrics {
            metrics.add_refused(refused.reason.label(), 1);
        }
        let key = (refused.reason, from.ip().to_canonical());
        let more = match self.said.get_mut(&key) {
            Some(said) if now.duration_since(said.at) < SILENCE => {
                said.more += 1;
                return;
            }
            Some(said) => std::mem::take(&mut said.more),
            None => 0,
        };
        if self.said.len() >= MAX_SAID && !self.said.contains_key(&key) {
            self.said.retain(|_, said| now.duration_since(said.at) < SILENCE);
            if self.said.len() >= MAX_SAID {
                return;
            }
        }
        self.said.insert(key, Said { at: now, more: 0 });
        let before = if more > 0 { format!(" ({more} more since the last line)") } else { String::new() };
        tracing::warn!(
            target: "pccl::security",
            reason = refused.reason.label(),
            "refused {from}: {}{before}", refused.why
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_counted_and_memory_is_bounded() {
        let metrics = Metrics::new();
        let mut refusals = Refusals::default();
        refusals.set_metrics(metrics.clone());
        let now = Instant::now();
        let refused = Refused::new(Reason::Secret, "it has another secret");
        for n in 0..5000_u32 {
            let ip = IpAddr::from(n.to_be_bytes());
            refusals.note(&refused, SocketAddr::new(ip, 1), now);
            refusals.note(&refused, SocketAddr::new(ip, 2), now);
        }
        assert_eq!(refusals.said.len(), MAX_SAID);
        assert!(metrics.render().contains("pccl_refused_total{reason=\"secret\"} 10000\n"));
        assert!(metrics.render().contains("pccl_refused_total{reason=\"forged\"} 0\n"));
        // After the silence there is room again.
        refusals.note(&refused, "[2001:db8::1]:7".parse().unwrap(), now + SILENCE);
        assert_eq!(refusals.said.len(), 1);
    }
}
