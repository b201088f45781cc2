//! Which measurements are asked for.

use anyhow::{Result, ensure};

use crate::cpu::Placement;
use crate::playing::Entry;
use crate::scenario::Scenario;
use crate::system::{Flavour, Kind};
use crate::systems;

/// One line of the table.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) placement: Placement,
    pub(crate) scenario: Scenario,
    pub(crate) label: String,
    pub(crate) system: &'static str,
    pub(crate) kind: Kind,
    pub(crate) flavour: Flavour,
    /// Why it is not measured.
    pub(crate) excuse: Option<&'static str>,
}

impl Line {
    /// Those of all systems.
    pub(crate) fn all(placement: Placement, scenario: Scenario) -> impl Iterator<Item = Self> {
        systems::all()
            .iter()
            .flat_map(|entry| entry.flavours.iter().map(move |flavour| (entry, *flavour)))
            .map(move |(entry, flavour)| Self::new(placement, scenario, entry, flavour))
    }

    pub(crate) fn id(&self) -> String {
        format!("{}/{}/{}", self.placement, self.scenario, self.label)
    }

    fn new(placement: Placement, scenario: Scenario, entry: &Entry, flavour: Flavour) -> Self {
        let alone = entry.polls && placement == Placement::OneCore;
        let excuse = placement.missing().or_else(|| (entry.excuse)(scenario));
        Self {
            placement,
            scenario,
            label: entry.label(flavour),
            system: entry.name,
            kind: entry.kind,
            flavour,
            excuse: excuse.or(alone.then_some("it polls, and would keep its peer from running")),
        }
    }
}

/// What is compared with each other: all lines of one placement and scenario.
pub(crate) type Block = Vec<Line>;

/// The table's blocks, as far as one of the patterns matches; all of them if there are none.
pub(crate) fn blocks(only: &[String]) -> Result<Vec<Block>> {
    let mut scenarios = Scenario::TABLE.to_vec();
    // Scenarios that are in no table are measured when they are named.
    let named = only.iter().filter_map(|pattern| pattern.split('/').nth(1)?.parse().ok());
    scenarios.extend(named.filter(|scenario| !Scenario::TABLE.contains(scenario)));
    let mut blocks = Vec::new();
    for placement in Placement::ALL {
        for scenario in &scenarios {
            let block: Block = Line::all(placement, *scenario)
                .filter(|line| only.is_empty() || only.iter().any(|it| matches(it, &line.id())))
                .collect();
            blocks.push(block);
        }
    }
    blocks.retain(|block| !block.is_empty());
    ensure!(!blocks.is_empty(), "nothing is called {only:?}; `list` tells the names");
    Ok(blocks)
}

/// Whether `id` is what the pattern says: parts between slashes, of which the last may be left out, and `*` for anything
/// within one.
fn matches(pattern: &str, id: &str) -> bool {
    let (pattern, id) = (pattern.split('/'), id.split('/'));
    let shorter = pattern.clone().count() <= id.clone().count();
    shorter && pattern.zip(id).all(|(pattern, part)| part_matches(pattern, part))
}

/// Whether `part` is the pattern, in which a `*` is anything.
pub(crate) fn part_matches(pattern: &str, part: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == part };
    let Some(rest) = part.strip_prefix(before) else { return false };
    (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| part_matches(after, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_parts() {
        let id = "two_cores/small/witrpc-json-mt";
        for good in ["two_cores", "*/small", "*/*/witrpc*", "two*/s*l/*json*", id] {
            assert!(matches(good, id), "{good}");
        }
        for bad in ["cores", "*/smal", "*/*/witrpc", "two_cores/small/witrpc-json-mt/x"] {
            assert!(!matches(bad, id), "{bad}");
        }
    }

    #[test]
    fn names_are_of_one_system() {
        let blocks = blocks(&["one_core/small".to_owned()]).unwrap();
        let mut labels: Vec<_> = blocks[0].iter().map(|line| &line.label).collect();
        labels.sort();
        let all = labels.len();
        labels.dedup();
        assert_eq!(labels.len(), all);
    }
}
