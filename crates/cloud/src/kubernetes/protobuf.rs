//! Bodies as Go clients send them that write objects with types of their own: Kubernetes' protobuf, of the kinds that Helm
//! writes so (it keeps its releases in Secrets; what a chart holds it sends as JSON).
//!
//! Four bytes of magic, then a `runtime.Unknown` around the object; field numbers are those of Kubernetes' published
//! `.proto` files, and fields that matter to nobody here are skipped. Answers are JSON always: every client reads it.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;
use serde_json::{Value, json};

/// The media type.
pub(super) const MEDIA: &str = "application/vnd.kubernetes.protobuf";

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// The envelope (`runtime.Unknown`).
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(message, required, tag = "1")]
    types: TypeMeta,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(map = "string, string", tag = "11")]
    labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "12")]
    annotations: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Secret {
    #[prost(message, required, tag = "1")]
    metadata: ObjectMeta,
    #[prost(map = "string, bytes", tag = "2")]
    data: HashMap<String, Vec<u8>>,
    #[prost(string, tag = "3")]
    kind: String,
}

/// An object of which nothing but the metadata is read.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(message, required, tag = "1")]
    metadata: ObjectMeta,
}

/// The object in a body as JSON; none if it is malformed, or of a kind that is not understood here.
pub(super) fn object(body: &[u8]) -> Option<Value> {
    let Envelope { types, raw } = Envelope::decode(body.strip_prefix(MAGIC)?).ok()?;
    let mut object = json!({ "apiVersion": types.api_version, "kind": types.kind });
    match (types.api_version.as_str(), types.kind.as_str()) {
        ("v1", "Namespace") => object["metadata"] = metadata(Named::decode(raw.as_slice()).ok()?.metadata),
        ("v1", "Secret") => {
            let secret = Secret::decode(raw.as_slice()).ok()?;
            object["metadata"] = metadata(secret.metadata);
            object["data"] =
                secret.data.iter().map(|(key, bytes)| (key.clone(), BASE64.encode(bytes))).collect();
            object["type"] = json!(if secret.kind.is_empty() { "Opaque" } else { &secret.kind });
        }
        _ => return None,
    }
    Some(object)
}

/// What is empty was not set.
fn metadata(meta: ObjectMeta) -> Value {
    let texts =
        [("name", meta.name), ("namespace", meta.namespace), ("resourceVersion", meta.resource_version)];
    let maps = [("labels", meta.labels), ("annotations", meta.annotations)];
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key, json!(text)));
    let maps = maps.into_iter().filter(|(_, map)| !map.is_empty()).map(|(key, map)| (key, json!(map)));
    texts.chain(maps).map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: &str, raw: Vec<u8>) -> Vec<u8> {
        let types = TypeMeta { api_version: "v1".to_owned(), kind: kind.to_owned() };
        [MAGIC, &Envelope { types, raw }.encode_to_vec()].concat()
    }

    #[test]
    fn a_secret_as_the_encoding_describes_it() {
        // Written by hand from the description of the encoding, not by the library that reads it.
        let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
        let entry = |key: &[u8], value: &[u8]| [field(1, key), field(2, value)].concat();
        // Creation time (8) and deletion grace period (10, a number) are there and are skipped.
        let meta =
            [field(1, b"sh.helm.v1"), field(2, b""), field(8, b""), vec![10 << 3, 0x96, 0x01]].concat();
        let meta = [meta, field(11, &entry(b"owner", b"helm"))].concat();
        let data = field(2, &entry(b"release", b"\x00\xff"));
        let secret = [field(1, &meta), data, field(3, b"helm.sh/release.v1")].concat();
        let types = [field(1, b"v1"), field(2, b"Secret")].concat();
        let body = [MAGIC, &field(1, &types), &field(2, &secret), &field(3, b"")].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1", "data": { "release": "AP8=" },
            "metadata": { "name": "sh.helm.v1", "labels": { "owner": "helm" } },
        });
        assert_eq!(object(&body), Some(expected));
    }

    #[test]
    fn what_is_no_object_or_of_another_kind_is_refused() {
        let name = ObjectMeta { name: "shop".to_owned(), ..ObjectMeta::default() };
        let raw = Named { metadata: name }.encode_to_vec();
        let namespace = body("Namespace", raw.clone());
        assert_eq!(object(&namespace).unwrap()["metadata"]["name"], "shop");
        assert_eq!(object(&body("Pod", raw)), None);
        assert_eq!(object(&namespace[1..]), None);
        assert_eq!(object(&namespace[..namespace.len() - 1]), None);
        assert_eq!(object(b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }
}
