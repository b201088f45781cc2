//! Linux: what is made for a start, what the child does before exec, and what the agent does.
//!
//! `kernel` knows what can be enforced; `filter`, `rules` and `limits` make what enforces it; `program` finds the files that a program needs; `orders` is what
//! the worker is told; `system` has the system calls.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;

use witrpc_core::Error;

use self::filter::{Filter, Stage};
use self::kernel::{BINDS_THREADS, Kernel};
use self::limits::Limits;
use self::orders::Orders;
use self::program::Programs;
use self::rules::Grants;
use self::system::Bonds;
use super::settings::{Restriction, Sandbox};

mod filter;
mod kernel;
mod limits;
mod orders;
mod program;
mod rules;
#[expect(unsafe_code, reason = "system calls that no crate has as safe functions")]
mod system;

/// What the kernel cannot enforce.
pub(crate) fn missing(sandbox: &Sandbox) -> Vec<Restriction> {
    Kernel::here(sandbox).missing(sandbox)
}

/// What confines one process; nothing if there is no sandbox.
#[derive(Debug, Default)]
pub(crate) struct Confinement {
    bonds: Option<Bonds>,
    /// What the worker inherits.
    orders: Vec<OwnedFd>,
}

impl Confinement {
    /// Makes all that is needed to start this command's program confined. It reads files; so do not call it on a thread of a runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the kernel cannot enforce it; [`Error::Config`] if a setting is invalid; [`Error::Io`].
    pub(crate) fn of(
        worker: &str,
        sandbox: Option<&Sandbox>,
        command: &Command,
    ) -> Result<Self, Error> {
        let Some(sandbox) = sandbox else { return Ok(Self::default()) };
        sandbox.validate()?;
        let kernel = Kernel::here(sandbox);
        sandbox.accept(worker, &kernel.missing(sandbox))?;
        let [first, second] = rules_of(sandbox, command, kernel)?;
        let filters = filters_of(sandbox, kernel);
        let failed =
            |error| Error::io(format!("making the sandbox of the worker {worker:?}"), &error);
        let [filter, later] = filters.map_err(failed)?;
        let orders = Orders { landlock: kernel.landlock, filter: later };
        let mut orders = vec![orders.write().map_err(failed)?];
        orders.extend(second);
        let limits = Limits::of(sandbox);
        Ok(Self { bonds: Some(Bonds { limits, rules: first, filter }), orders })
    }

    /// What the worker inherits.
    pub(crate) fn orders(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.orders)
    }

    /// Has the program of this command be confined. The last hook of the command: others could not do any more what they want.
    pub(crate) fn bind(self, command: &mut Command) {
        if let Some(bonds) = self.bonds {
            bonds.bind_before_exec(command);
        }
    }
}

/// The filters of both stages, as far as the kernel has such.
fn filters_of(sandbox: &Sandbox, kernel: Kernel) -> io::Result<[Option<Filter>; 2]> {
    if !kernel.filters {
        return Ok([None, None]);
    }
    let first = Filter::compile(Stage::One, kernel.opening_at_start(sandbox))?;
    let second = Filter::compile(Stage::Two, kernel.opening(sandbox))?;
    Ok([Some(first), Some(second)])
}

/// The rules of both stages, as far as the kernel has Landlock.
fn rules_of(
    sandbox: &Sandbox,
    command: &Command,
    kernel: Kernel,
) -> Result<[Option<OwnedFd>; 2], Error> {
    if kernel.landlock == 0 {
        return Ok([None, None]);
    }
    let programs = Programs::of(command, &sandbox.executable);
    let granted = |grants: &mut Grants| {
        grants.read("with_read", &sandbox.readable)?;
        grants.write("with_write", &sandbox.writable)
    };
    let mut first = Grants::new(kernel.landlock)?;
    granted(&mut first)?;
    first.execute("with_execute", &sandbox.executable)?;
    first.execute_found(&programs.executables)?;
    first.read_found(&programs.libraries)?;
    let mut second = Grants::new(kernel.landlock)?;
    granted(&mut second)?;
    // For backtraces.
    second.read_found(programs.executables.iter().filter(|path| !programs.is_loader(path)))?;
    Ok([first.rules(), second.rules()])
}

/// Stage two: binds this process as its host says. It reads nothing else from the host.
///
/// # Errors
///
/// [`Error::Config`] if other threads run that cannot be bound; [`Error::Io`].
pub(crate) fn obey(orders: Vec<OwnedFd>) -> Result<(), Error> {
    let mut orders = orders.into_iter();
    let Some(told) = orders.next() else { return Ok(()) };
    let failed = |error| Error::io("entering the sandbox that the host wants", &error);
    let Orders { landlock, filter } = Orders::read(told).map_err(failed)?;
    if let Some(rules) = orders.next() {
        let all_threads = whom_to_bind(landlock, system::is_alone())?;
        system::restrict(rules, all_threads).map_err(failed)?;
    }
    if let Some(mut filter) = filter {
        filter.is_for(std::process::id());
        system::install(&filter).map_err(failed)?;
    }
    Ok(())
}

/// Whether Landlock must bind all threads, and not only this one.
///
/// # Errors
///
/// [`Error::Config`] if it must and cannot.
fn whom_to_bind(landlock: u32, is_alone: Option<bool>) -> Result<bool, Error> {
    if is_alone == Some(true) {
        return Ok(false);
    }
    if landlock >= BINDS_THREADS {
        return Ok(true);
    }
    let advice = "the host of this process confines it, and Landlock of this kernel binds one thread only (all of them from version 8 on): \
                  call Agent::from_env() first in a plain `fn main`, before a runtime or another thread is started (#[tokio::main] starts some)";
    Err(Error::config("Agent::from_env", "other threads run already", advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_cannot_be_bound_are_an_error_that_says_what_to_do() {
        for landlock in [1, 7, 8, 9] {
            assert!(!whom_to_bind(landlock, Some(true)).unwrap());
        }
        for unknown in [Some(false), None] {
            assert!(whom_to_bind(8, unknown).unwrap() && whom_to_bind(11, unknown).unwrap());
            let error = whom_to_bind(7, unknown).unwrap_err().to_string();
            for part in ["Agent::from_env() first", "plain `fn main`", "#[tokio::main]"] {
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn a_program_without_a_sandbox_gets_nothing() {
        let mut nothing = Confinement::of("w", None, &Command::new("nowhere")).unwrap();
        assert!(nothing.bonds.is_none() && nothing.orders().is_empty());
        obey(Vec::new()).unwrap();
    }

    #[test]
    fn paths_that_are_not_there_are_named() {
        let sandbox = Sandbox::compute();
        for (sandbox, setting) in [
            (sandbox.clone().with_read("/no/such"), "with_read"),
            (sandbox.clone().with_write("/no/such"), "with_write"),
            (sandbox.with_execute("/no/such"), "with_execute"),
        ] {
            let command = Command::new("/proc/self/exe");
            let error = Confinement::of("w", Some(&sandbox), &command).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{setting} = /no/such: ")), "{error}");
        }
    }
}
