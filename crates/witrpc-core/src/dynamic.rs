//! Calls by name, for tools that have no contract: arguments and results are JSON values.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::error::Error;

/// The most elements that serde gives a tuple; more arguments travel as tuples of such tuples.
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
        Value::deserialize(deserializer).map(Self::Value)
    }
}
