//! Targets, and the other lists that phases repeat for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A place to deploy to: a region, a cluster, a host. Written as a name, or as a section with more.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Target {
    /// Its name: `{{ target.name }}`.
    pub name: String,
    /// What `only`, limits and waves choose by: `{{ target.labels.continent }}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Values for templates: `{{ target.vars.cidr }}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<String, Value>,
}

/// One entry of a list: `name`, `target` where it belongs to one, and any other values: `{{ item.stake }}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Item {
    /// Its name: `{{ item.name }}`.
    pub name: String,
    /// The target that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// All other values.
    #[serde(flatten)]
    pub values: BTreeMap<String, Value>,
}

/// Things to repeat a phase for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum List {
    /// Written one by one.
    Items(Vec<Item>),
    /// So many in each target.
    Generated(Generated),
}

/// So many entries in each target.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generated {
    /// How many in each target: a number, or a template for one.
    pub per_target: Count,
    /// Name of each, a template with `target`, `index` (over all, from 1) and `local_index` (in the target, from 1).
    pub name: String,
    /// Other values of each, templates with the same names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
}

/// How many.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Count {
    /// So many.
    Number(u32),
    /// A template whose text is a number: `"{{ vars.workers }}"`.
    Template(String),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FullTarget {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    vars: BTreeMap<String, Value>,
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameOrSection;
        impl<'de> Visitor<'de> for NameOrSection {
            type Value = Target;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a section with `name`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Target, E> {
                Ok(Target { name: name.to_owned(), ..Target::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Target, A::Error> {
                let FullTarget { name, labels, vars } =
                    FullTarget::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Target { name, labels, vars })
            }
        }
        from.deserialize_any(NameOrSection)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameOrSection;
        impl<'de> Visitor<'de> for NameOrSection {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a section with `name`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Item, E> {
                Ok(Item { name: name.to_owned(), ..Item::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
                let (mut name, mut target, mut values) = (None, None, BTreeMap::new());
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "name" => name = Some(map.next_value()?),
                        "target" => target = map.next_value()?,
                        _ => drop(values.insert(key, map.next_value()?)),
                    }
                }
                let name = name.ok_or_else(|| de::Error::missing_field("name"))?;
                Ok(Item { name, target, values })
            }
        }
        from.deserialize_any(NameOrSection)
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ListOrSection;
        impl<'de> Visitor<'de> for ListOrSection {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list, or a section with `per_target` and `name`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(List::Items(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List, A::Error> {
                Generated::deserialize(MapAccessDeserializer::new(map)).map(List::Generated)
            }
        }
        from.deserialize_any(ListOrSection)
    }
}

impl JsonSchema for Target {
    fn schema_name() -> Cow<'static, str> {
        "Target".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let full = generator.subschema_for::<FullTarget>();
        json_schema!({
            "description": "A place to deploy to: a name, or a section with name, labels and vars",
            "anyOf": [{ "type": "string" }, full],
        })
    }
}

impl JsonSchema for List {
    fn schema_name() -> Cow<'static, str> {
        "List".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let generated = generator.subschema_for::<Generated>();
        json_schema!({
            "description": "Things to repeat a phase for: written one by one, or so many in each target",
            "anyOf": [
                { "type": "array", "items": { "anyOf": [{ "type": "string" }, {
                    "type": "object",
                    "required": ["name"],
                    "properties": { "name": { "type": "string" }, "target": { "type": "string" } },
                }] } },
                generated,
            ],
        })
    }
}
