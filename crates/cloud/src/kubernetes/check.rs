//! What a real API server would refuse, as far as deployments meet it.

use serde_json::Value;

use super::answer::Refusal;
use super::store::Key;

/// Refuses an object that Kubernetes would refuse; `live` is what is there now.
pub(crate) fn object(key: &Key, object: &Value, live: Option<&Value>) -> Result<(), Refusal> {
    let resource = key.resource;
    let what = format!("{}.{}", resource.kind, resource.group).trim_end_matches('.').to_owned();
    let invalid = |message: String| Err(Refusal::invalid(&what, &key.name, message));
    if object["apiVersion"] != resource.api_version().as_str() || object["kind"] != resource.kind {
        let (version, kind) = (&object["apiVersion"], &object["kind"]);
        return Err(Refusal::bad_request(format!("the object is {kind} of {version}, not {what}")));
    }
    if object["metadata"]["name"] != key.name.as_str() {
        let message = "the name of the object does not match the name on the URL";
        return Err(Refusal::bad_request(message));
    }
    if !is_name(&key.name) {
        return invalid(format!(
            "metadata.name: Invalid value: \"{}\": a lowercase RFC 1123 subdomain",
            key.name
        ));
    }
    if let Some((path, name)) = strange_label(object) {
        return invalid(format!(
            "{path}: Invalid value: \"{name}\": at most 63 letters, digits, '-', '_' and '.'"
        ));
    }
    if ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"].contains(&resource.kind) {
        workload(object, live).or_else(invalid)?;
    }
    let texts = object["data"].as_object().into_iter().flatten().all(|(_, value)| value.is_string());
    if ["ConfigMap", "Secret"].contains(&resource.kind) && !texts {
        return invalid("data: every value must be a string".to_owned());
    }
    Ok(())
}

fn workload(object: &Value, live: Option<&Value>) -> Result<(), String> {
    let spec = &object["spec"];
    let labels = &spec["template"]["metadata"]["labels"];
    let Some(selector) = spec["selector"]["matchLabels"].as_object().filter(|selector| !selector.is_empty())
    else {
        return Err("spec.selector: Required value".to_owned());
    };
    if selector.iter().any(|(name, value)| labels[name.as_str()] != *value) {
        return Err("spec.template.metadata.labels: `selector` does not match template `labels`".to_owned());
    }
    let containers = spec["template"]["spec"]["containers"].as_array();
    let Some(containers) = containers.filter(|containers| !containers.is_empty()) else {
        return Err("spec.template.spec.containers: Required value".to_owned());
    };
    let image = |container: &Value| container["image"].as_str().is_some_and(|image| !image.is_empty());
    if !containers.iter().all(image) {
        return Err("spec.template.spec.containers[0].image: Required value".to_owned());
    }
    let Some(live) = live.map(|live| &live["spec"]) else { return Ok(()) };
    if live["selector"] != spec["selector"] {
        return Err("spec.selector: Invalid value: field is immutable".to_owned());
    }
    if object["kind"] == "StatefulSet"
        && ["serviceName", "volumeClaimTemplates"].iter().any(|name| live[*name] != spec[*name])
    {
        return Err("spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', \
                    'template', 'updateStrategy', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' \
                    are forbidden"
            .to_owned());
    }
    Ok(())
}

/// A DNS subdomain (RFC 1123).
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // Names of roles may hold colons.
    name.len() <= 253 && name.split('.').all(|part| part.split(':').all(label))
}

fn strange_label(object: &Value) -> Option<(String, String)> {
    let fits = |text: &str| {
        text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let labels = object["metadata"]["labels"].as_object()?;
    labels.iter().find_map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (!fits(&value)).then(|| (format!("metadata.labels[{name}]"), value))
    })
}
