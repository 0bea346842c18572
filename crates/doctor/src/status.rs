//! A master's status as text.

use pccl_observe::table::Table;
use pccl_proto::message::{GroupStatus, Role, Status};

/// The status for a person.
pub fn status_lines(status: &Status) -> Vec<String> {
    let mut lines = vec![format!("run {}, master of term {}{}", status.run, status.term, leadership(status))];
    if let Some((why, since_ms)) = &status.store_trouble {
        lines.push(format!("its store is in trouble for {:.1} s: {why}", *since_ms as f64 * 1e-3));
    }
    if status.groups.is_empty() {
        lines.push("no peers yet".to_owned());
    }
    for group in &status.groups {
        lines.push(String::new());
        lines.extend(group_lines(group));
    }
    lines
}

/// Whether it leads, if that is not a matter of course.
fn leadership(status: &Status) -> String {
    match (status.role, status.active) {
        (Role::Active, _) => {
            status.lease_left_ms.map(|left| format!(", its lease valid for {left} ms")).unwrap_or_default()
        }
        (Role::Unleased, _) => ", without a lease: it decides nothing until its store answers".to_owned(),
        (Role::Standby, Some(active)) => format!(": not active, the active one is at {active}"),
        (Role::Standby, None) => ": not active, and where the active one is, is not known".to_owned(),
    }
}

fn group_lines(group: &GroupStatus) -> Vec<String> {
    let members = group.peers.iter().filter(|peer| peer.rank.is_some()).count();
    let mut lines = vec![format!(
        "group {}: epoch {}, {members} members, {} newcomers, topology flat (latency {} µs)",
        group.group,
        group.epoch,
        group.peers.len() - members,
        group.alpha_us,
    )];
    if !group.activity.is_empty() {
        lines.push(format!("  {}", group.activity));
    }
    let mut peers = Table::new(&["rank", "<session", "<address", "<site", "<state", "heard", "<waits for"]);
    for peer in &group.peers {
        peers.push([
            peer.rank.map_or_else(|| "-".to_owned(), |rank| rank.to_string()),
            peer.session.clone(),
            peer.addr.clone(),
            or_dash(&peer.site),
            peer.state.clone(),
            format!("{} ms ago", peer.heard_ms_ago),
            or_dash(peer.waits_for.as_deref().unwrap_or_default()),
        ]);
    }
    lines.extend(peers.lines().into_iter().map(|line| format!("  {line}")));
    if !group.ops.is_empty() {
        let mut ops = Table::new(&["tag", "attempt", "<op in flight", "age", "<waits for peers"]);
        for op in &group.ops {
            ops.push([
                op.tag.to_string(),
                op.n.to_string(),
                or_dash(&op.call),
                format!("{} ms", op.age_ms),
                or_dash(&op.missing.join(", ")),
            ]);
        }
        lines.extend(ops.lines().into_iter().map(|line| format!("  {line}")));
    }
    lines
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}
