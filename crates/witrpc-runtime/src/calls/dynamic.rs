//! Calls by name, for tools that have no contract: arguments and results are JSON values.

use std::fmt;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use witrpc_core::Error;

/// The longest tuple that serde supports; more arguments are sent as a tuple of such tuples.
const TUPLE: usize = 16;

/// Arguments as generated clients send them.
pub(crate) struct Arguments(Vec<Value>);

impl Arguments {
    /// Takes the arguments in order.
    ///
    /// # Errors
    ///
    /// [`Error::Serialize`] if `args` is not an array.
    pub(crate) fn new(name: &str, args: Value) -> Result<Self, Error> {
        match args {
            Value::Array(args) => Ok(Self(args)),
            other => Err(Error::Serialize {
                what: format!("the arguments of {name}"),
                serializer: "json".to_owned(),
                reason: format!("give an array with one element per argument, not {other}"),
            }),
        }
    }
}

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.len() {
            0 => serializer.serialize_unit(),
            1..=TUPLE => self.0.serialize(serializer),
            _ => serializer.collect_seq(self.0.chunks(TUPLE)),
        }
    }
}

/// A result that a method returned, whatever its type.
pub(crate) struct DynamicResult(pub(crate) Value);

impl Serialize for DynamicResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DynamicResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

/// Reads a JSON value; an error for what JSON cannot represent.
struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = DynamicResult;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can express")
    }

    fn visit_bool<E>(self, value: bool) -> Result<DynamicResult, E> {
        Ok(DynamicResult(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<DynamicResult, E> {
        Ok(DynamicResult(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<DynamicResult, E> {
        Ok(DynamicResult(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<DynamicResult, E> {
        Ok(DynamicResult(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<DynamicResult, E> {
        Ok(DynamicResult(value.into()))
    }

    fn visit_unit<E>(self) -> Result<DynamicResult, E> {
        Ok(DynamicResult(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<DynamicResult, A::Error> {
        let mut values = Vec::new();
        while let Some(DynamicResult(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(DynamicResult(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<DynamicResult, A::Error> {
        let mut values = Map::new();
        while let Some((name, DynamicResult(value))) = entries.next_entry()? {
            values.insert(name, value);
        }
        Ok(DynamicResult(values.into()))
    }

    /// A reference to an attachment, which JSON cannot represent.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<DynamicResult, D::Error> {
        Err(D::Error::custom("it has a blob or a stream, which call_dynamic cannot return"))
    }
}

/// An error that a method returned, whatever its type.
pub(crate) enum DynamicFault {
    Error(Error),
    Value(Value),
}

impl From<Error> for DynamicFault {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<DynamicFault> for Error {
    fn from(fault: DynamicFault) -> Self {
        match fault {
            DynamicFault::Error(error) => error,
            DynamicFault::Value(Value::String(message)) => Self::Fault { message },
            DynamicFault::Value(value) => Self::Fault { message: value.to_string() },
        }
    }
}

impl Serialize for DynamicFault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Error(error) => error.serialize(serializer),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for DynamicFault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DynamicResult::deserialize(deserializer).map(|value| Self::Value(value.0))
    }
}
