//! Which targets belong to which wave.

use std::collections::BTreeSet;

use crate::file::Deployment;

/// Indexes of targets, wave by wave. A deployment without waves or targets is one wave.
pub(super) fn waves(deployment: &Deployment) -> Vec<Vec<usize>> {
    let count = deployment.targets.len();
    let Some(rule) = &deployment.waves else {
        return vec![(0..count).collect()];
    };
    if !rule.groups.is_empty() {
        return groups(deployment, &rule.groups);
    }
    let mut waves = Vec::new();
    let mut begin = 0;
    let mut number = 0;
    while begin < count {
        let size = match rule.fan_out {
            Some(factor) => (begin * factor as usize).max(1),
            None => rule.sizes.get(number).map_or(count, |size| *size as usize),
        };
        let end = (begin + size).min(count);
        waves.push((begin..end).collect());
        begin = end;
        number += 1;
    }
    waves
}

fn groups(deployment: &Deployment, groups: &[Vec<String>]) -> Vec<Vec<usize>> {
    let position = |name: &String| deployment.targets.iter().position(|target| target.name == *name);
    let mut waves: Vec<Vec<usize>> =
        groups.iter().map(|names| names.iter().filter_map(position).collect()).collect();
    let named: BTreeSet<usize> = waves.iter().flatten().copied().collect();
    let rest: Vec<usize> = (0..deployment.targets.len()).filter(|at| !named.contains(at)).collect();
    if !rest.is_empty() {
        waves.push(rest);
    }
    waves.retain(|wave| !wave.is_empty());
    waves
}
