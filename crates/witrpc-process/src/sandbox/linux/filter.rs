//! The seccomp filters: which system calls a worker can make. `lists` has the calls.
//!
//! A filter is a short beginning, and what `seccompiler` makes of the lists. The beginning answers `ENOSYS` for calls that libraries can do without, and
//! for numbers that this build does not know: those look as on an older kernel. The rest answers `EPERM` for whatever is not on a list, the numbers of x32
//! included, and ends a process that makes system calls of another architecture.
//!
//! Numbers whose arguments do not matter cost nothing per call: the kernel (from 5.11 on) finds once that they are always allowed.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

pub(super) mod lists;

/// Stands for the process that a filter is for, whose id nobody knows before it exists. No process has it: the kernel's are below 2^22.
pub(super) const OWN_PROCESS: u32 = 0x7fff_fffe;
/// x32 calls have this bit.
const X32: u32 = 0x4000_0000;

/// `return`, `load the number`, and jumps: `linux/bpf_common.h`.
const RETURN: u16 = 0x06;
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
/// Of the number in what a filter sees.
const NUMBER: u32 = 0;

/// Which files a filter lets be opened; which paths, is for Landlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    None,
    ForReading,
    ForWriting,
}

/// What a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// From before exec on.
    One,
    /// From the agent on.
    Two,
}

/// A filter that can be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter(pub(super) BpfProgram);

impl Filter {
    /// # Errors
    ///
    /// If the lists are nonsense.
    pub(super) fn compile(stage: Stage, opening: Opening) -> io::Result<Self> {
        let rules = lists::rules(stage, opening).map_err(io::Error::other)?;
        let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let architecture = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
        let listed = SeccompFilter::new(rules, refused, SeccompAction::Allow, architecture);
        let listed: BpfProgram =
            listed.and_then(SeccompFilter::try_into).map_err(io::Error::other)?;
        let mut program = beginning();
        program.extend(listed);
        Ok(Self(program))
    }

    /// Puts this process in the place of [`OWN_PROCESS`]. Allocates nothing (S1).
    pub(super) fn is_for(&mut self, process_id: u32) {
        for instruction in &mut self.0 {
            if instruction.code == JUMP_IF_EQUAL && instruction.k == OWN_PROCESS {
                instruction.k = process_id;
            }
        }
    }
}

const fn instruction(code: u16, if_true: u8, if_false: u8, k: u32) -> sock_filter {
    sock_filter { code, jt: if_true, jf: if_false, k }
}

/// Answers `ENOSYS` for some numbers, and leaves all others to what follows.
fn beginning() -> BpfProgram {
    let absent = lists::ABSENT;
    let count = u8::try_from(absent.len()).unwrap_or(u8::MAX);
    // Behind these: one jump over the answer, and the answer.
    let mut program = vec![
        instruction(LOAD, 0, 0, NUMBER),
        instruction(JUMP_IF_AT_LEAST, count + 1, 0, X32),
        instruction(JUMP_IF_AT_LEAST, count + 1, 0, lists::UNKNOWN),
    ];
    let comparisons = (0..count).rev().zip(absent);
    program
        .extend(comparisons.map(|(left, number)| instruction(JUMP_IF_EQUAL, left + 1, 0, *number)));
    let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    program.extend([instruction(JUMP, 0, 0, 1), instruction(RETURN, 0, 0, absent)]);
    program
}

/// Conditions on the arguments of one call, all of which must hold.
type Conditions<'a> = &'a [Condition];

/// A condition on an argument, by its place.
#[derive(Clone, Copy, Debug)]
enum Condition {
    /// Of 32 bits.
    Is(u8, u32),
    /// Of 64 bits.
    IsZero(u8),
    /// Of 32 bits, of which only those of the mask count.
    Masked(u8, u32, u32),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Allows a call whatever its arguments are.
fn allow(rules: &mut Rules, numbers: &[i64]) {
    rules.extend(numbers.iter().map(|number| (*number, Vec::new())));
}

/// Allows a call if its arguments meet one of these alternatives.
///
/// # Errors
///
/// If there are no conditions.
fn allow_if(
    rules: &mut Rules,
    number: i64,
    alternatives: &[Conditions<'_>],
) -> Result<(), BackendError> {
    for conditions in alternatives {
        let conditions = conditions.iter().map(|condition| condition.compile());
        let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
        rules.entry(number).or_default().push(rule);
    }
    Ok(())
}

impl Condition {
    fn compile(self) -> Result<SeccompCondition, BackendError> {
        let (place, length, operator, value) = match self {
            Self::Is(place, value) => {
                (place, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value))
            }
            Self::IsZero(place) => (place, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0),
            Self::Masked(place, mask, value) => {
                let operator = SeccompCmpOp::MaskedEq(u64::from(mask));
                (place, SeccompCmpArgLen::Dword, operator, u64::from(value))
            }
        };
        SeccompCondition::new(place, length, operator, value)
    }
}

#[cfg(test)]
mod tests;
