//! Which part of a deployment to run.

use super::PlanError;
use crate::error::suggestion;
use crate::file::Deployment;

/// Which part of a deployment to run. What is left out counts as done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these phases, targets or entries; empty for all. A name that is a phase selects by phase, any other by
    /// target or entry; both must fit if both are given.
    pub only: Vec<String>,
    /// Not these phases, targets or entries.
    pub skip: Vec<String>,
    /// This phase and those below it.
    pub from: Option<String>,
}

impl Selection {
    /// Whether the names are there.
    pub(super) fn check(&self, deployment: &Deployment) -> Result<(), PlanError> {
        let phases: Vec<&str> = deployment.phases.iter().map(|p| p.name.as_str()).collect();
        if let Some(from) = self.from.as_deref().filter(|from| !phases.contains(from)) {
            let hint = suggestion(from, phases);
            return Err(PlanError::Selection { what: "phase", name: from.to_owned(), hint });
        }
        let catalog = crate::template::Catalog::new(deployment)
            .map_err(|error| PlanError::Template { place: error.path.clone(), error })?;
        let targets = deployment.targets.iter().map(|t| t.name.as_str());
        let items = catalog.lists.values().flatten().map(|item| item.name.as_str());
        let known: Vec<&str> = phases.iter().copied().chain(targets).chain(items).collect();
        for name in self.only.iter().chain(&self.skip) {
            if !known.contains(&name.as_str()) {
                let hint = suggestion(name, known.clone());
                return Err(PlanError::Selection {
                    what: "phase, target or entry",
                    name: name.clone(),
                    hint,
                });
            }
        }
        Ok(())
    }

    /// Whether a task is part of it.
    pub(super) fn has(
        &self,
        deployment: &Deployment,
        phase: usize,
        entry: &str,
        target: Option<&str>,
    ) -> bool {
        let name = deployment.phases[phase].name.as_str();
        let is_phase = |name: &&String| deployment.phase(name).is_some();
        let is_place = |one: &String| one == entry || Some(one.as_str()) == target;
        let (phases, places): (Vec<&String>, Vec<&String>) = self.only.iter().partition(is_phase);
        let late_enough =
            self.from.as_deref().and_then(|from| deployment.phase(from)).is_none_or(|(at, _)| phase >= at);
        late_enough
            && (phases.is_empty() || phases.iter().any(|one| *one == name))
            && (places.is_empty() || places.iter().any(|one| is_place(one)))
            && !self.skip.iter().any(|one| one == name || is_place(one))
    }
}
