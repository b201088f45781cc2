//! What is measured.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const SMALL_PAYLOAD: usize = 64;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Scenario {
    /// `add(i32, i32) -> i32`, one call after the other.
    Small,
    /// The same with that many calls at a time on one connection.
    InFlight(usize),
    /// So many bytes there and back, one call after the other.
    Echo(usize),
    /// The small call once per millisecond.
    Paced,
    /// A connection without calls.
    Idle,
    /// An echo of 64 B, one after the other, while two tasks echo 1 MiB on the same connection.
    BesideBulk,
    /// As [`Small`](Self::Small), with what both processes allocate counted.
    Allocations,
}

impl Scenario {
    /// Those of the table.
    pub(crate) const TABLE: [Self; 9] = [
        Self::Small,
        Self::InFlight(64),
        Self::Echo(64),
        Self::Echo(4 << 10),
        Self::Echo(64 << 10),
        Self::Echo(1 << 20),
        Self::Echo(16 << 20),
        Self::Paced,
        Self::Idle,
    ];

    pub(crate) fn payload(self) -> usize {
        match self {
            Self::Echo(bytes) => bytes,
            Self::BesideBulk => SMALL_PAYLOAD,
            _ => 0,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small => f.pad("small"),
            Self::InFlight(calls) => f.pad(&format!("in_flight_{calls}")),
            Self::Echo(bytes) => f.pad(&format!("echo_{}", size(*bytes))),
            Self::Paced => f.pad("paced"),
            Self::Idle => f.pad("idle"),
            Self::BesideBulk => f.pad("beside_bulk"),
            Self::Allocations => f.pad("allocations"),
        }
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes}"),
        1024..0x10_0000 => format!("{}k", bytes >> 10),
        _ => format!("{}m", bytes >> 20),
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(calls) = text.strip_prefix("in_flight_") {
            return Ok(Self::InFlight(calls.parse().context("a number of calls")?));
        }
        if let Some(size) = text.strip_prefix("echo_") {
            let (digits, shift) = match size.strip_suffix('k') {
                Some(digits) => (digits, 10),
                None => size.strip_suffix('m').map_or((size, 0), |digits| (digits, 20)),
            };
            return Ok(Self::Echo(digits.parse::<usize>().context("a number of bytes")? << shift));
        }
        let all = [Self::Small, Self::Paced, Self::Idle, Self::BesideBulk, Self::Allocations];
        let known = all.into_iter().find(|scenario| scenario.to_string() == text);
        known.with_context(|| format!("there is no scenario {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_has_one_name() {
        for scenario in
            Scenario::TABLE.into_iter().chain([Scenario::BesideBulk, Scenario::Allocations])
        {
            let name = scenario.to_string();
            assert_eq!(name.parse::<Scenario>().unwrap(), scenario, "{name}");
        }
        assert!("echo_x".parse::<Scenario>().is_err());
    }
}
