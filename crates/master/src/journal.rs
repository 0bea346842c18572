//! What the master has to say, as lines of a log: each on change, none in floods.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pccl_observe::flight;
use pccl_proto::ids::{RunId, Term};
use pccl_proto::master::MasterEvent;
use pccl_proto::record::Removal;

/// Refused connections that are named in a second; the others are counted.
const REFUSALS_PER_SECOND: u32 = 10;

/// Turns events into log lines.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// The trouble that the store is in, as it was said.
    trouble: Option<String>,
    window: Option<Instant>,
    refused: u32,
    who: Option<Arc<str>>,
    epoch: u64,
}

impl Journal {
    pub(crate) fn say(&mut self, (run, term): (RunId, Term), event: &MasterEvent) {
        let worth_saying = match event {
            MasterEvent::StoreTrouble { why } => self.trouble.replace(why.clone()).as_ref() != Some(why),
            // Counted and said where all refusals by certificates are.
            MasterEvent::GroupRefused { .. } => false,
            MasterEvent::ConnectionRefused { .. } => self.may_name_refusal(Instant::now()),
            _ => true,
        };
        if matches!(event, MasterEvent::StoreIsBack) {
            self.trouble = None;
        }
        if matches!(event, MasterEvent::Active { .. } | MasterEvent::EpochChanged { .. })
            && self.trouble.take().is_some()
        {
            tracing::info!(target: "pccl::master", "the store answers again");
        }
        if !worth_saying {
            return;
        }
        self.record(event);
        let run = format!("{:032x}", run.0);
        if is_warning(event) {
            tracing::warn!(target: "pccl::master", run, term = term.0, "{event}");
        } else {
            tracing::info!(target: "pccl::master", run, term = term.0, "{event}");
        }
    }

    /// The same for the flight record.
    fn record(&mut self, event: &MasterEvent) {
        let about = match event {
            MasterEvent::Removed { session, .. }
            | MasterEvent::Detached { session }
            | MasterEvent::Attached { session }
            | MasterEvent::Registered { session, .. } => Some(session.to_string()),
            _ => None,
        };
        if let MasterEvent::EpochChanged { epoch, .. } = event {
            self.epoch = epoch.0;
        }
        let who = self.who.get_or_insert_with(|| "master".into());
        flight::note(who, is_warning(event), about, self.epoch, event.to_string());
    }

    fn may_name_refusal(&mut self, now: Instant) -> bool {
        if self.window.is_none_or(|since| now - since >= Duration::from_secs(1)) {
            let unnamed = self.refused.saturating_sub(REFUSALS_PER_SECOND);
            if unnamed > 0 {
                tracing::warn!(target: "pccl::master", "{unnamed} more connections were refused");
            }
            self.window = Some(now);
            self.refused = 0;
        }
        self.refused = self.refused.saturating_add(1);
        self.refused <= REFUSALS_PER_SECOND
    }
}

fn is_warning(event: &MasterEvent) -> bool {
    match event {
        MasterEvent::Removed { why, .. } => !matches!(why, Removal::Left | Removal::CameBack),
        MasterEvent::Deposed { .. }
        | MasterEvent::StoreTrouble { .. }
        | MasterEvent::ConnectionRefused { .. }
        | MasterEvent::HearsNobody
        | MasterEvent::WasStopped { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_named() {
        let mut journal = Journal::default();
        let now = Instant::now();
        let named = (0..1000).filter(|_| journal.may_name_refusal(now)).count();
        assert_eq!(named, REFUSALS_PER_SECOND as usize);
        assert!(journal.may_name_refusal(now + Duration::from_secs(1)));
    }
}
