//! The rules of a firewall for a fleet, in the words of several systems: text from numbers, and nothing is done.

use std::fmt;
use std::ops::RangeInclusive;

/// What has to pass to a host of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The master's TCP port, and UDP for heartbeats.
    pub master_port: u16,
    /// TCP ports of peers.
    pub p2p_ports: RangeInclusive<u16>,
    /// TCP port of metrics, if others may read them.
    pub metrics_port: Option<u16>,
    /// Networks that may connect, as `10.0.0.0/8`; everybody if there is none.
    pub networks: Vec<String>,
}

/// In whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `iptables-restore` and `ip6tables-restore`, in chains of their own.
    Iptables,
    /// `nft -f`, in a table of its own.
    Nftables,
    /// The AWS command line: rules of a security group.
    Aws,
    /// The Azure command line: rules of a network security group.
    Azure,
    /// The Google Cloud command line: rules of a network.
    Gcp,
}

/// One port or range of a protocol.
struct Passage {
    protocol: &'static str,
    first: u16,
    last: u16,
    what: &'static str,
}

impl Passage {
    /// As `7117` or `7118-7150`, with this sign between.
    fn ports(&self, between: char) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}{between}{}", self.first, self.last)
        }
    }
}

impl Rules {
    fn passages(&self) -> Vec<Passage> {
        let passage = |protocol, first, last, what| Passage { protocol, first, last, what };
        let (port, peers) = (self.master_port, &self.p2p_ports);
        let mut passages = vec![
            passage("tcp", port, port, "master"),
            passage("udp", port, port, "heartbeats"),
            passage("tcp", *peers.start(), *peers.end(), "peers"),
        ];
        passages.extend(self.metrics_port.map(|port| passage("tcp", port, port, "metrics")));
        passages
    }

    /// Networks of IPv4 or IPv6; all addresses if none is given at all.
    fn networks(&self, v6: bool) -> Vec<String> {
        if self.networks.is_empty() {
            return vec![if v6 { "::/0" } else { "0.0.0.0/0" }.to_owned()];
        }
        self.networks.iter().filter(|network| network.contains(':') == v6).cloned().collect()
    }

    /// The rules, line by line. Shell for the clouds; what the named program reads for the others.
    pub fn lines(&self, dialect: Dialect) -> Vec<String> {
        match dialect {
            Dialect::Iptables => self.iptables(),
            Dialect::Nftables => self.nftables(),
            Dialect::Aws => self.aws(),
            Dialect::Azure => self.azure(),
            Dialect::Gcp => self.gcp(),
        }
    }

    /// Shell, for IPv4 and IPv6: a chain of our own, so that it can be run again and taken away.
    fn iptables(&self) -> Vec<String> {
        let mut lines = vec![
            "# Run as root: `pccl firewall --iptables | sh`. Ports of pccl are for these networks only; others are not touched."
                .to_owned(),
            "# To take it away: iptables -D INPUT -j PCCL; iptables -F PCCL; iptables -X PCCL (and ip6tables)".to_owned(),
            "set -e".to_owned(),
        ];
        for (program, v6) in [("iptables", false), ("ip6tables", true)] {
            lines.push(format!("{program} -N PCCL 2>/dev/null || {program} -F PCCL"));
            lines.push(format!("{program} -C INPUT -j PCCL 2>/dev/null || {program} -I INPUT -j PCCL"));
            // A host speaks with itself.
            lines.push(format!("{program} -A PCCL -i lo -j RETURN"));
            for passage in self.passages() {
                let what =
                    format!("{program} -A PCCL -p {} --dport {}", passage.protocol, passage.ports(':'));
                for network in self.networks(v6) {
                    lines.push(format!("{what} -s {network} -j ACCEPT"));
                }
                lines.push(format!("{what} -j DROP"));
            }
        }
        lines
    }

    fn nftables(&self) -> Vec<String> {
        let mut lines = vec![
            "# Run as root: `pccl firewall --nftables | nft -f -`. Ports of pccl are for these networks only; others are not touched."
                .to_owned(),
            "# To take it away: nft delete table inet pccl. Where another table drops by default, its rules have to let these ports pass too."
                .to_owned(),
            // So that it can be run again: what is there goes, and it is no error if nothing is.
            "add table inet pccl".to_owned(),
            "delete table inet pccl".to_owned(),
            "table inet pccl {".to_owned(),
            "  chain input {".to_owned(),
            "    type filter hook input priority filter; policy accept;".to_owned(),
            "    iif lo accept".to_owned(),
        ];
        for passage in self.passages() {
            let what = format!("{} dport {}", passage.protocol, passage.ports('-'));
            for (family, v6) in [("ip", false), ("ip6", true)] {
                for network in self.networks(v6) {
                    lines.push(format!(
                        "    {family} saddr {network} {what} accept comment \"pccl {}\"",
                        passage.what
                    ));
                }
            }
            lines.push(format!("    {what} drop comment \"pccl {}\"", passage.what));
        }
        lines.extend(["  }".to_owned(), "}".to_owned()]);
        lines
    }

    fn aws(&self) -> Vec<String> {
        let mut lines = vec![
            "# Needs GROUP_ID, the security group of the hosts; what no rule names does not pass.".to_owned(),
            "set -e".to_owned(),
        ];
        for passage in self.passages() {
            let range = |v6: bool, key: &str, address: &str| {
                let ranges: Vec<String> = self
                    .networks(v6)
                    .iter()
                    .map(|network| {
                        format!("{{\"{address}\":\"{network}\",\"Description\":\"pccl {}\"}}", passage.what)
                    })
                    .collect();
                if ranges.is_empty() { String::new() } else { format!(",\"{key}\":[{}]", ranges.join(",")) }
            };
            lines.push(format!(
                "aws ec2 authorize-security-group-ingress --group-id \"$GROUP_ID\" --ip-permissions \
                 '[{{\"IpProtocol\":\"{}\",\"FromPort\":{},\"ToPort\":{}{}{}}}]'",
                passage.protocol,
                passage.first,
                passage.last,
                range(false, "IpRanges", "CidrIp"),
                range(true, "Ipv6Ranges", "CidrIpv6"),
            ));
        }
        lines
    }

    fn azure(&self) -> Vec<String> {
        let mut lines = vec![
            "# Needs RESOURCE_GROUP and NSG_NAME, the network security group of the hosts.".to_owned(),
            "set -e".to_owned(),
        ];
        let mut priority = 1000;
        for passage in self.passages() {
            // A rule has networks of one family.
            for (family, v6) in [("", false), ("-v6", true)] {
                let networks = self.networks(v6);
                if networks.is_empty() {
                    continue;
                }
                lines.push(format!(
                    "az network nsg rule create --resource-group \"$RESOURCE_GROUP\" --nsg-name \"$NSG_NAME\" \
                     --name pccl-{}{family} --priority {priority} --direction Inbound --access Allow --protocol {} \
                     --source-address-prefixes {} --source-port-ranges '*' --destination-address-prefixes '*' \
                     --destination-port-ranges {}",
                    passage.what,
                    if passage.protocol == "tcp" { "Tcp" } else { "Udp" },
                    networks.join(" "),
                    passage.ports('-'),
                ));
                priority += 10;
            }
        }
        lines
    }

    fn gcp(&self) -> Vec<String> {
        let ports: Vec<String> = self
            .passages()
            .iter()
            .map(|passage| format!("{}:{}", passage.protocol, passage.ports('-')))
            .collect();
        let mut lines = vec![
            "# Needs NETWORK, the VPC network of the hosts; it counts for hosts with the tag pccl."
                .to_owned(),
            "set -e".to_owned(),
        ];
        // A rule has networks of one family.
        for (family, v6) in [("", false), ("-v6", true)] {
            let networks = self.networks(v6);
            if !networks.is_empty() {
                lines.push(format!(
                    "gcloud compute firewall-rules create pccl{family} --network \"$NETWORK\" --direction INGRESS --action ALLOW \
                     --rules {} --source-ranges {} --target-tags pccl",
                    ports.join(","),
                    networks.join(","),
                ));
            }
        }
        lines
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Aws => "AWS",
            Self::Azure => "Azure",
            Self::Gcp => "Google Cloud",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Dialect; 5] =
        [Dialect::Iptables, Dialect::Nftables, Dialect::Aws, Dialect::Azure, Dialect::Gcp];

    fn rules(networks: &[&str]) -> Rules {
        Rules {
            master_port: 7117,
            p2p_ports: 7118..=7150,
            metrics_port: None,
            networks: networks.iter().map(|network| (*network).to_owned()).collect(),
        }
    }

    #[test]
    fn every_dialect_has_every_port_and_only_the_networks_that_are_given() {
        for dialect in ALL {
            let text = rules(&["10.1.0.0/16", "fd00::/8"]).lines(dialect).join("\n");
            for word in ["7117", "7118", "7150", "10.1.0.0/16", "fd00::/8"] {
                assert!(text.contains(word), "{dialect}: `{word}` is not in\n{text}");
            }
            assert!(
                !text.contains("0.0.0.0/0") && !text.contains("::/0") && !text.contains("9090"),
                "{dialect}: {text}"
            );
        }
    }

    #[test]
    fn without_networks_everybody_may_connect_and_metrics_are_let_in_when_asked() {
        for dialect in ALL {
            let text = Rules { metrics_port: Some(9090), ..rules(&[]) }.lines(dialect).join("\n");
            assert!(
                text.contains("0.0.0.0/0") && text.contains("::/0") && text.contains("9090"),
                "{dialect}: {text}"
            );
        }
    }

    #[test]
    fn networks_of_one_family_make_no_rules_for_the_other() {
        for dialect in [Dialect::Aws, Dialect::Azure, Dialect::Gcp] {
            let text = rules(&["10.0.0.0/8"]).lines(dialect).join("\n");
            assert!(!text.contains("v6") && !text.contains("Ipv6"), "{dialect}: {text}");
        }
    }
}
