//! `kubectl`: other calls, server-side apply, rollouts, conditions, deletion; in this order.

use pccl_deploy::file::KubectlAction;
use pccl_deploy::schedule::Cause;

use super::Context;

pub(crate) fn run(action: &KubectlAction, context: &Context<'_>) -> Result<(), Cause> {
    for line in lines(action, context) {
        let mut program = context.program(line, None, &action.env)?;
        program.env.entry("KUBECTL_COMMAND_HEADERS".to_owned()).or_insert_with(|| "false".to_owned());
        context.execute(&program)?;
    }
    Ok(())
}

/// The calls, in order.
fn lines(action: &KubectlAction, context: &Context<'_>) -> Vec<Vec<String>> {
    let timeout = format!("--timeout={}s", context.timeout.as_secs().max(1));
    let mut calls: Vec<Vec<String>> = Vec::new();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    if !action.args.is_empty() {
        calls.push(action.args.clone());
    }
    let apply = ["apply", "--server-side", "--field-manager=pccl-deploy"];
    if !action.apply.is_empty() {
        let mut call = words(&apply);
        call.extend(action.apply.iter().flat_map(|path| words(&["-f", path])));
        calls.push(call);
    }
    for folder in &action.kustomize {
        calls.push([words(&apply), words(&["-k", folder])].concat());
    }
    for resource in &action.rollout {
        calls.push(words(&["rollout", "status", resource, &timeout]));
    }
    for (condition, resources) in &action.wait {
        let mut call = words(&["wait", &format!("--for={condition}"), &timeout]);
        call.extend(resources.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned));
        calls.push(call);
    }
    for what in &action.delete {
        let ending = std::path::Path::new(what).extension().and_then(|ending| ending.to_str());
        let is_file = matches!(ending, Some("yaml" | "yml" | "json"));
        let mut call = words(&["delete", "--ignore-not-found"]);
        call.extend(if is_file {
            words(&["-f", what])
        } else {
            what.split_whitespace().map(str::to_owned).collect()
        });
        calls.push(call);
    }
    let options = [
        ("--context", action.context.as_ref()),
        ("--kubeconfig", action.kubeconfig.as_ref()),
        ("--server", action.server.as_ref()),
        ("--namespace", action.namespace.as_ref()),
    ];
    let options: Vec<String> =
        options.iter().filter_map(|(name, value)| Some(format!("{name}={}", (*value)?))).collect();
    calls.into_iter().map(|call| [vec!["kubectl".to_owned()], options.clone(), call].concat()).collect()
}
