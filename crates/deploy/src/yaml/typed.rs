//! A tree as a source for `serde`: the error of a type carries the place of the innermost node.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::tree::{Entry, Node, Value};
use crate::error::{FileError, FileErrorKind as Kind, Mark, Problem, Source, nearest, shown};

/// Reads a node as a `T`.
pub(crate) fn read<T: DeserializeOwned>(node: &Node, source: Source<'_>) -> Result<T, FileError> {
    T::deserialize(Typed(node))
        .map_err(|trouble| FileError::new(trouble.problem, source, trouble.mark.unwrap_or(node.mark)))
}

/// What a type says about a node, and the node's place once it is known.
#[derive(Debug)]
struct Trouble {
    problem: Problem,
    mark: Option<Mark>,
}

impl Trouble {
    fn at(mut self, mark: Mark) -> Self {
        self.mark.get_or_insert(mark);
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Trouble {}

impl de::Error for Trouble {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // "reason; hint" is how our own types say what to do.
        let text = message.to_string();
        let problem = match text.split_once("; ") {
            Some((reason, hint)) => Problem::new(Kind::Value, reason).hint(hint),
            None => Problem::new(Kind::Value, text),
        };
        Self { problem, mark: None }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown("key", field, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown("value", variant, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        let problem = Problem::new(Kind::Missing, format!("`{field}` is missing here"));
        Self { problem: problem.hint(format!("add a line `{field}: …`")), mark: None }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Map => "a section".to_owned(),
            de::Unexpected::Seq => "a list".to_owned(),
            de::Unexpected::Unit | de::Unexpected::Option => "nothing".to_owned(),
            de::Unexpected::Str(text) => shown(text),
            other => other.to_string(),
        };
        Self { problem: Problem::new(Kind::Value, format!("expected {expected}, found {found}")), mark: None }
    }
}

impl Trouble {
    fn unknown(what: &str, name: &str, expected: &[&str]) -> Self {
        let kind = if what == "key" { Kind::UnknownKey } else { Kind::Value };
        let hint = match nearest(name, expected.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("possible here: {}", expected.join(", ")),
        };
        Self { problem: Problem::new(kind, format!("unknown {what} {}", shown(name))).hint(hint), mark: None }
    }
}

struct Typed<'a>(&'a Node);

impl Typed<'_> {
    fn mismatch(&self, expected: &str) -> Trouble {
        let found = match &self.0.value {
            Value::Scalar(..) if self.0.is_null() => "nothing".to_owned(),
            Value::Scalar(text, _) => shown(text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a section".to_owned(),
        };
        let problem = Problem::new(Kind::Value, format!("expected {expected}, found {found}"));
        Trouble { problem, mark: Some(self.0.mark) }
    }

    fn scalar<'de, V: Visitor<'de>>(&self, visitor: V, expected: &str) -> Result<V::Value, Trouble> {
        match &self.0.value {
            Value::Scalar(text, _) => visitor.visit_str(text).map_err(|e: Trouble| e.at(self.0.mark)),
            _ => Err(self.mismatch(expected)),
        }
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V, expected: &str) -> Result<V::Value, Trouble> {
        match &self.0.value {
            Value::Scalar(text, true) if text.parse::<f64>().is_ok() => self.deserialize(visitor),
            _ => Err(self.mismatch(expected)),
        }
    }

    fn deserialize<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        let mark = self.0.mark;
        let value = match &self.0.value {
            Value::Scalar(text, plain) => {
                if self.0.is_null() {
                    visitor.visit_unit()
                } else if *plain {
                    plain_scalar(text, visitor)
                } else {
                    visitor.visit_str(text)
                }
            }
            Value::List(nodes) => visitor.visit_seq(Items(nodes.iter())),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), value: None }),
        };
        value.map_err(|e: Trouble| e.at(mark))
    }
}

/// A scalar without quotes is what it looks like (YAML 1.2 core schema).
fn plain_scalar<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<V::Value, Trouble> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let decimal = digits.starts_with(|c: char| c.is_ascii_digit());
    match text {
        "true" | "True" | "TRUE" => visitor.visit_bool(true),
        "false" | "False" | "FALSE" => visitor.visit_bool(false),
        _ if decimal => match (text.parse::<u64>(), text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(number), _, _) => visitor.visit_u64(number),
            (_, Ok(number), _) => visitor.visit_i64(number),
            (_, _, Ok(number)) => visitor.visit_f64(number),
            _ => visitor.visit_str(text),
        },
        _ => visitor.visit_str(text),
    }
}

impl<'de> de::Deserializer<'de> for Typed<'_> {
    type Error = Trouble;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.deserialize(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.scalar(visitor, "text")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.scalar(visitor, "text")
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.number(visitor, "a whole number")
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.number(visitor, "a whole number")
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.number(visitor, "a whole number")
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        self.number(visitor, "a number")
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        if self.0.is_null() { visitor.visit_unit() } else { Err(self.mismatch("nothing")) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        let mark = self.0.mark;
        visitor.visit_newtype_struct(self).map_err(|e| e.at(mark))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match &self.0.value {
            Value::List(_) => self.deserialize(visitor),
            _ => Err(self.mismatch("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match &self.0.value {
            Value::Map(_) => self.deserialize(visitor),
            _ => Err(self.mismatch("a section of `key: value` lines")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        self.deserialize_map(visitor)
    }

    /// A word is a variant without content; a section with one key is a variant with it.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        let mark = self.0.mark;
        let choice = match &self.0.value {
            Value::Scalar(text, _) => Choice { name: text, mark, content: None },
            Value::Map(entries) => match entries.as_slice() {
                [Entry { key, mark, node }] => Choice { name: key, mark: *mark, content: Some(node) },
                _ => return Err(self.mismatch(&format!("exactly one of {}", variants.join(", ")))),
            },
            Value::List(_) => return Err(self.mismatch(&format!("one of {}", variants.join(", ")))),
        };
        visitor.visit_enum(choice).map_err(|e| e.at(mark))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u128 f32 char bytes byte_buf unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Trouble;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Trouble> {
        self.0.next().map(|node| seed.deserialize(Typed(node)).map_err(|e| e.at(node.mark))).transpose()
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Node>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Trouble;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Trouble> {
        let Some(entry) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some(&entry.node);
        let key = de::value::StrDeserializer::new(&entry.key);
        seed.deserialize(key).map(Some).map_err(|e: Trouble| e.at(entry.mark))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Trouble> {
        let Some(node) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Typed(node)).map_err(|e| e.at(node.mark))
    }
}

struct Choice<'a> {
    name: &'a str,
    mark: Mark,
    content: Option<&'a Node>,
}

impl<'de, 'a> EnumAccess<'de> for Choice<'a> {
    type Error = Trouble;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<'a>), Trouble> {
        let name = de::value::StrDeserializer::new(self.name);
        let variant = seed.deserialize(name).map_err(|e: Trouble| e.at(self.mark))?;
        Ok((variant, Content { name: self.name.to_owned(), mark: self.mark, node: self.content }))
    }
}

struct Content<'a> {
    name: String,
    mark: Mark,
    node: Option<&'a Node>,
}

impl<'a> Content<'a> {
    fn needed(&self) -> Result<&'a Node, Trouble> {
        self.node.ok_or_else(|| {
            let message = format!("`{}` needs its settings below it", self.name);
            Trouble { problem: Problem::new(Kind::Missing, message), mark: Some(self.mark) }
        })
    }
}

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Trouble;

    fn unit_variant(self) -> Result<(), Trouble> {
        match self.node {
            None => Ok(()),
            Some(node) => Err(Typed(node).mismatch("nothing below this word")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Trouble> {
        let node = self.needed()?;
        seed.deserialize(Typed(node)).map_err(|e| e.at(node.mark))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Trouble> {
        de::Deserializer::deserialize_seq(Typed(self.needed()?), visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        de::Deserializer::deserialize_map(Typed(self.needed()?), visitor)
    }
}
