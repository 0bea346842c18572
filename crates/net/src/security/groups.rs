//! Which peer groups a certificate may join, by the names in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pccl_proto::ids::PeerGroup;
use pccl_proto::machine::Permit;
use rustls::pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

/// Most names of a certificate that a message has.
const SHOWN: usize = 4;

/// Groups by the names of certificates: a DNS name, `*.` and a DNS name for all with one label in that place, or an IP
/// address. A certificate that has several of the names may join the groups of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateGroups(BTreeMap<String, BTreeSet<PeerGroup>>);

impl<N: Into<String>, G: IntoIterator<Item = u32>> FromIterator<(N, G)> for CertificateGroups {
    fn from_iter<I: IntoIterator<Item = (N, G)>>(all: I) -> Self {
        let mut groups: BTreeMap<String, BTreeSet<PeerGroup>> = BTreeMap::new();
        for (name, of_name) in all {
            let name = name.into().to_ascii_lowercase();
            groups.entry(name).or_default().extend(of_name.into_iter().map(PeerGroup));
        }
        Self(groups)
    }
}

impl CertificateGroups {
    /// What a certificate allows; nothing without one. Its signatures have been checked before.
    pub(super) fn permit(&self, certificate: Option<&CertificateDer<'_>>) -> Permit {
        let parsed = certificate.and_then(|der| EndEntityCert::try_from(der).ok());
        let mut addresses = Vec::new();
        let names: Vec<String> =
            parsed.iter().flat_map(|c| c.valid_dns_names().map(str::to_ascii_lowercase)).collect();
        let mut groups = BTreeSet::new();
        for (rule, allowed) in &self.0 {
            let matches = match rule.parse::<IpAddr>() {
                // The addresses of a certificate can be asked for, and not listed.
                Ok(ip) => {
                    let has = |c: &EndEntityCert<'_>| {
                        c.verify_is_valid_for_subject_name(&ServerName::from(ip)).is_ok()
                    };
                    let has = parsed.as_ref().is_some_and(has);
                    if has {
                        addresses.push(ip.to_string());
                    }
                    has
                }
                Err(_) => names.iter().any(|name| covers(rule, name)),
            };
            if matches {
                groups.extend(allowed);
            }
        }
        Permit { certificate: shown(&[names, addresses].concat()), groups }
    }
}

/// Whether a rule is for this DNS name. A name with an asterisk in a certificate is a name like any other: it does not
/// stand for the names that others have.
fn covers(rule: &str, name: &str) -> bool {
    match rule.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => rule == name,
    }
}

fn shown(names: &[String]) -> String {
    if names.is_empty() {
        return "without a name that network.tls.groups or DNS knows".to_owned();
    }
    let more = names.len().saturating_sub(SHOWN);
    let first = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("for {first} and {more} more names") } else { format!("for {first}") }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn rules() -> CertificateGroups {
        CertificateGroups::from_iter([
            ("Team-A.example.com", vec![0, 1]),
            ("*.team-b.example.com", vec![2]),
            ("10.0.0.7", vec![3]),
            ("2001:db8::7", vec![4]),
        ])
    }

    fn groups(names: &[&str]) -> Vec<u32> {
        rules().permit(Some(&certificate(names))).groups.iter().map(|group| group.0).collect()
    }

    #[test]
    fn names_allow_their_groups_and_nothing_else() {
        assert_eq!(groups(&["team-a.example.com"]), [0, 1]);
        assert_eq!(groups(&["TEAM-A.Example.com"]), [0, 1]);
        assert_eq!(groups(&["w7.team-b.example.com"]), [2]);
        assert_eq!(groups(&["*.team-b.example.com"]), [2]);
        assert_eq!(groups(&["10.0.0.7"]), [3]);
        assert_eq!(groups(&["2001:db8::7"]), [4]);
        assert_eq!(groups(&["other", "w7.team-b.example.com", "10.0.0.7"]), [2, 3]);
        for none in [
            "team-b.example.com",
            "a.b.team-b.example.com",
            "xteam-b.example.com",
            "x.team-a.example.com",
            "team-a.example.com.evil.org",
            "*.example.com",
            "10.0.0.8",
            "::ffff:10.0.0.7",
        ] {
            assert_eq!(groups(&[none]), Vec::<u32>::new(), "{none}");
        }
        assert!(rules().permit(None).groups.is_empty());
        assert!(rules().permit(Some(&CertificateDer::from(vec![1, 2, 3]))).groups.is_empty());
    }

    #[test]
    fn a_certificate_is_shown_by_some_of_its_names() {
        let shown = |names: &[&str]| rules().permit(Some(&certificate(names))).certificate;
        assert_eq!(shown(&["w.example.com", "10.0.0.7"]), "for w.example.com, 10.0.0.7");
        assert_eq!(
            shown(&["a.x", "b.x", "c.x", "d.x", "e.x", "f.x"]),
            "for a.x, b.x, c.x, d.x and 2 more names"
        );
        assert_eq!(shown(&["10.0.0.8"]), "without a name that network.tls.groups or DNS knows");
    }
}
