//! Workers: processes that a host launches, calls, owns and replaces.
//!
//! A [`Worker`] is the host's side: it starts a program, connects to it, hands out handles to its services, and ends it. An [`Agent`] is the
//! program's side: it finds what it inherited from its host, and serves. The connection has no name and no file: see
//! `witrpc_mmf::inherited`. Most users get both from the crate `witrpc`, by its default feature `process`.
//!
//! ```text
//!   pool                                            workers, or clients of any transport, behind one handle
//!     ▼
//!   worker ──▶ supervision ──▶ process ──▶ sys      a handle → the task that owns and replaces → one process → the system
//!                  │              └──▶ output       what the worker prints
//!                  ├──▶ restart                     whether, and when, another one is started
//!                  ├──▶ hang                        when one is taken for hung
//!                  └──▶ seat ──▶ connection         the client's transport: the connection of whichever process there is; its settings
//!                  ├──▶ sandbox                    what the process may do
//!   descriptor ──▶ courier ◀─────── sys             descriptors that cross
//!   agent  ─────────────────────────▶ sys           the worker's side
//! ```
//!
//! # Invariants
//!
//! - **W1** Each process has a thread that starts it, waits for it and reaps it. It depends on no runtime, so there is no zombie, whatever ends
//!   first.
//! - **W2** A process is killed when its host's [`Worker`] is dropped, when the task that supervises it is dropped (with its runtime), and when its
//!   host ends: then its lifeline hangs up.
//! - **W3** A forked child of the host, which has copies of all this, signals nobody.

#![deny(unsafe_code)]

mod agent;
mod connection;
#[cfg(unix)]
mod courier;
#[cfg(unix)]
mod descriptor;
mod hang;
mod output;
mod pool;
mod process;
mod restart;
mod sandbox;
mod seat;
mod supervision;
mod sys;
#[expect(unsafe_code, reason = "it takes a promise of the user")]
mod trust;
mod worker;

pub use agent::{Agent, Host};
#[cfg(unix)]
pub use descriptor::Descriptor;
pub use hang::{CallUnderWay, HangDetection};
pub use output::Output;
pub use pool::{MemberRole, MemberState, Pool, PoolBuilder, PoolState};
pub use process::WorkerExit;
pub use restart::RestartPolicy;
#[cfg(feature = "sandbox")]
pub use sandbox::{Restriction, Sandbox};
pub use supervision::{WorkerEvent, WorkerState};
pub use worker::{Worker, WorkerBuilder};
