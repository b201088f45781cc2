//! [`MemberRole`]: which members of a pool get calls.

/// Whether a member of a pool gets calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberRole {
    /// It gets calls while it is connected.
    Active,
    /// It gets none yet. It is a worker that stands by, or is about to become active.
    Spare,
    /// It gets no more. It ends when the calls and streams that it has are done.
    Leaving,
}
