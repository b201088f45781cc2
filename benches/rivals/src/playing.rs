//! The side of a system that a process is, whichever system that is.

use std::time::Duration;

use anyhow::Result;

use crate::job::Job;
use crate::measuring::{self, Meter};
use crate::sample::Sample;
use crate::scenario::Scenario;
use crate::server::{self, Server};
use crate::system::{Flavour, Kind, Ready, System};

/// The side of a system that a process is, with the types of its client and server forgotten.
pub(crate) trait Play: Send + Sync {
    fn serve(&'static self, job: &Job) -> Result<()>;
    fn measure(&'static self, job: Job, server: Server) -> Result<Sample>;
}

impl<S: System> Play for S {
    fn serve(&'static self, job: &Job) -> Result<()> {
        let (at, flavour) = (job.at.clone(), job.flavour);
        flavour.run(async move {
            tokio::select! {
                ended = S::serve(self, at, Ready::new()) => ended,
                () = server::told_to_end(flavour) => Ok(()),
            }
        })
    }

    fn measure(&'static self, job: Job, server: Server) -> Result<Sample> {
        job.flavour.run(async move {
            let mut client = S::connect(self, job.at, server.words.clone()).await?;
            let mut meter = Meter { duration: Duration::from_millis(job.millis), server };
            measuring::run(&mut client, job.scenario, &mut meter).await
        })
    }
}

/// A system as the table has it.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) flavours: &'static [Flavour],
    pub(crate) system: Box<dyn Play>,
    /// It never sleeps: with both processes on one CPU, it would keep its own peer from running.
    pub(crate) polls: bool,
    /// Why it does not take part in this scenario.
    pub(crate) excuse: fn(Scenario) -> Option<&'static str>,
}

impl Entry {
    pub(crate) fn new<S: System>(
        kind: Kind,
        name: &'static str,
        flavours: &'static [Flavour],
        system: S,
    ) -> Self {
        Self { name, kind, flavours, system: Box::new(system), polls: false, excuse: |_| None }
    }

    pub(crate) fn polls(self) -> Self {
        Self { polls: true, ..self }
    }

    pub(crate) fn excused(self, excuse: fn(Scenario) -> Option<&'static str>) -> Self {
        Self { excuse, ..self }
    }

    /// Its name, with the flavour if there is a choice.
    pub(crate) fn label(&self, flavour: Flavour) -> String {
        match flavour {
            Flavour::Blocking => self.name.to_owned(),
            flavour => format!("{}-{flavour}", self.name),
        }
    }
}
