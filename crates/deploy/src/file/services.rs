//! Where services may stand, and what they need.

use super::check::{Check, fail, fail_with};
use super::{Action, Phase, ServiceAction};
use crate::error::FileErrorKind as Kind;

/// The services of one phase.
pub(super) fn check(path: &str, phase: &Phase) -> Check {
    if let Some(service) = phase.run.service() {
        starts(&format!("{path}.run.service"), service)?;
        let Some(verify) = &phase.verify else {
            let message = "a service needs `verify`: the task is done when that holds";
            let hint = "such as `verify: { http: { url: … } }`, or a command that asks it something";
            return fail_with(path, Kind::Missing, message, hint);
        };
        if verify.within().is_some() {
            let path = format!("{path}.verify.{}.within", verify.runner());
            let message = "the check of a service is asked again and again: `within` has no place there";
            return fail_with(path, Kind::Conflict, message, "`timeout` of the phase says for how long");
        }
    }
    if let Some(Action::Service(_)) = &phase.verify {
        let message = "a service is no check: it does not end";
        return fail(format!("{path}.verify.service"), Kind::Conflict, message);
    }
    let Some(Action::Service(undo)) = &phase.undo else { return Ok(()) };
    let path = format!("{path}.undo.service");
    if !undo.stop {
        let message = "`undo` cannot start a service";
        return fail_with(path, Kind::Conflict, message, "`service: { stop: true }` stops that of `run`");
    }
    if phase.run.service().is_none() {
        return fail(path, Kind::Conflict, "there is nothing to stop: `run` starts no service");
    }
    Ok(())
}

fn starts(path: &str, service: &ServiceAction) -> Check {
    if service.run.is_empty() {
        return fail(path, Kind::Missing, "`run` names no program");
    }
    if service.every.0.is_zero() {
        return fail(format!("{path}.every"), Kind::Value, "`every` must not be 0");
    }
    Ok(())
}
