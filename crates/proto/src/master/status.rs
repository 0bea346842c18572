//! What to tell people.

use super::change::Activity;
use super::{Authority, Group, Master, SessionState};
use crate::ids::{PeerGroup, SessionId, Time};
use crate::message::{GroupStatus, OpStatus, PeerStatus, Role, Status};

impl Master {
    /// State of the run.
    pub fn status(&self, now: Time) -> Status {
        let groups = self.groups.iter().map(|(group, state)| self.group_status(now, *group, state));
        Status {
            run: format!("{:032x}", self.record.run.0),
            term: self.record.term.0,
            role: match self.authority {
                Authority::Active => Role::Active,
                Authority::Unleased => Role::Unleased,
                Authority::Standby => Role::Standby,
            },
            active: self.record.lease.addr,
            lease_left_ms: self.lease_left_ms(now),
            store_trouble: self.leadership.trouble(now),
            groups: groups.collect(),
        }
    }

    fn group_status(&self, now: Time, group: PeerGroup, state: &Group) -> GroupStatus {
        let stored = self.stored(group);
        let rank =
            |s: &SessionId| stored.members.iter().position(|m| m.member.session == *s).map(|r| r as u32);
        let peers = self.sessions.iter().filter(|(_, s)| s.group == group);
        GroupStatus {
            group: group.0,
            epoch: stored.epoch.0,
            alpha_us: stored.links.alpha_us,
            revision: stored.revision,
            activity: self.activity(&state.activity, group),
            peers: peers.map(|(id, s)| peer_status(now, *id, s, rank(id))).collect(),
            ops: state
                .attempts
                .iter()
                .filter(|(_, a)| a.committed.is_none())
                .map(|((tag, n), a)| OpStatus {
                    tag: tag.0,
                    n: *n,
                    call: a.fingerprint.map_or_else(String::new, |f| f.to_string()),
                    age_ms: now.since(a.since).as_millis() as u64,
                    missing: stored
                        .members
                        .iter()
                        .map(|m| m.member.session)
                        .filter(|s| !a.promised.contains(s))
                        .map(|s| s.to_string())
                        .collect(),
                })
                .collect(),
        }
    }

    fn activity(&self, activity: &Activity, group: PeerGroup) -> String {
        let names = |all: &mut dyn Iterator<Item = SessionId>| {
            all.map(|s| s.to_string()).collect::<Vec<_>>().join(", ")
        };
        match activity {
            Activity::Idle => self.sync_activity(group).unwrap_or_default(),
            Activity::Linking { waiting, .. } => {
                format!("newcomers connect; waiting for peers {}", names(&mut waiting.iter().copied()))
            }
            Activity::Collecting { reports, .. } => {
                let mut missing = self.stayers(group).into_iter().filter(|s| !reports.contains_key(s));
                format!("the epoch changes; waiting for the reports of peers {}", names(&mut missing))
            }
            Activity::Writing { .. } => "waiting for the store".into(),
        }
    }
}

fn peer_status(now: Time, id: SessionId, s: &SessionState, rank: Option<u32>) -> PeerStatus {
    let op = s.waits.iter().next().map(|((tag, _), (since, call))| {
        format!("tag {tag}: {call}, for {} ms", now.since(*since).as_millis())
    });
    PeerStatus {
        session: id.to_string(),
        rank,
        addr: s.member.addr.to_string(),
        site: s.member.site.clone(),
        state: match (s.is_member, s.conn) {
            (true, Some(_)) => "member".into(),
            (true, None) => "member, not attached".into(),
            (false, _) => "newcomer".into(),
        },
        heard_ms_ago: now.since(s.heard).as_millis() as u64,
        waits_for: s.vote.map(|v| v.kind.to_string()).or(op),
    }
}
