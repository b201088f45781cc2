//! Where workers are not confined: on systems other than Linux, and without the feature.

#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::process::Command;

use witrpc_core::Error;

#[cfg(feature = "sandbox")]
use super::settings::{Restriction, Sandbox};

/// Nobody can make one.
#[cfg(not(feature = "sandbox"))]
#[derive(Clone, Debug)]
pub(crate) enum Sandbox {}

/// Nothing.
#[derive(Debug)]
pub(crate) struct Confinement;

impl Confinement {
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there is a sandbox, unless that makes do with nothing.
    #[cfg(feature = "sandbox")]
    pub(crate) fn of(
        worker: &str,
        sandbox: Option<&Sandbox>,
        _command: &Command,
    ) -> Result<Self, Error> {
        if let Some(sandbox) = sandbox {
            sandbox.validate()?;
            sandbox.accept(worker, &missing(sandbox))?;
        }
        Ok(Self)
    }

    /// # Errors
    ///
    /// None.
    #[cfg(not(feature = "sandbox"))]
    #[expect(clippy::unnecessary_wraps, reason = "with the feature, it may be refused")]
    pub(crate) fn of(
        _worker: &str,
        sandbox: Option<&Sandbox>,
        _command: &Command,
    ) -> Result<Self, Error> {
        match sandbox {
            None => Ok(Self),
            Some(nothing) => match *nothing {},
        }
    }

    /// What the worker inherits.
    #[cfg(unix)]
    #[expect(clippy::unused_self, reason = "elsewhere there is something")]
    pub(crate) const fn orders(&mut self) -> Vec<OwnedFd> {
        Vec::new()
    }

    /// Has the program of this command be confined.
    #[cfg(unix)]
    #[expect(clippy::unused_self, reason = "elsewhere it is done")]
    pub(crate) const fn bind(self, _command: &mut Command) {}
}

/// What cannot be enforced.
#[cfg(feature = "sandbox")]
pub(crate) fn missing(_sandbox: &Sandbox) -> Vec<Restriction> {
    vec![Restriction::Files, Restriction::SystemCalls, Restriction::Limits]
}

/// Stage two.
///
/// # Errors
///
/// [`Error::Config`] if the host of this process wants it to be confined.
#[cfg(unix)]
pub(crate) fn obey(orders: Vec<OwnedFd>) -> Result<(), Error> {
    if orders.is_empty() {
        return Ok(());
    }
    let advice = "the host of this process confines it, and this program was built without that: enable the feature `sandbox` of witrpc";
    Err(Error::config("Agent::from_env", "a sandbox", advice))
}
