//! Hosts that a test starts in other surroundings: they print what they find, a line each.

#![expect(clippy::print_stdout, reason = "what they print is for the tests")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter_all_threads};
use witrpc::{Error, Output, Result, Sandbox, Worker};

use super::contract::{Aim, CaptiveClient, Outcome};

pub(super) fn main(role: &str) -> Result<()> {
    match role {
        "in_a_container" | "is_killed" => {}
        "without_landlock" => {
            take_away(&[libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self])?;
        }
        "behind_landlock" => bind()?,
        "without_filters" => take_away(&[libc::SYS_seccomp])?,
        // Executed by an attempt.
        _ => return Ok(()),
    }
    tokio::runtime::Runtime::new().map_err(Error::fault)?.block_on(host())
}

/// Has these calls look as on a kernel that does not have them.
fn take_away(calls: &[libc::c_long]) -> Result<()> {
    let rules: BTreeMap<_, _> = calls.iter().map(|number| (*number, Vec::new())).collect();
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().map_err(Error::fault)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, architecture);
    let filter: BpfProgram = filter.and_then(TryInto::try_into).map_err(Error::fault)?;
    apply_filter_all_threads(&filter).map_err(Error::fault)
}

/// Binds this host itself: it reads and executes what it likes, writes nothing, and signals nobody else.
fn bind() -> Result<()> {
    use landlock::{
        ABI, Access as _, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreated,
        RulesetCreatedAttr as _, Scope,
    };

    let bound = || {
        let top = PathFd::new("/").map_err(Error::fault)?;
        let rules = Ruleset::default().handle_access(AccessFs::from_all(ABI::V5));
        let rules = rules.and_then(|rules| rules.scope(Scope::from_all(ABI::V6)));
        let rules = rules.and_then(Ruleset::create).map_err(Error::fault)?;
        let rules = rules.add_rule(PathBeneath::new(top, AccessFs::from_read(ABI::V5)));
        rules.and_then(RulesetCreated::restrict_self).map_err(Error::fault)
    };
    bound().map(drop)
}

async fn host() -> Result<()> {
    println!("process {}", std::process::id());
    let compute = Sandbox::compute().with_max_memory(256 << 20);
    println!("missing {:?}", compute.missing());
    println!("missing to read {:?}", compute.clone().with_read("/").missing());
    // Where there is no `/proc`, there is no other way.
    let program = std::env::args_os().next().unwrap_or_default();
    if std::env::var(super::contract::ROLE).is_ok_and(|role| role == "is_killed") {
        return be_killed(&program).await;
    }
    let start = |sandbox: Sandbox| {
        let program = program.clone();
        let worker = Worker::new(move || {
            let mut command = Command::new(&program);
            command.env_remove(super::contract::ROLE);
            command
        });
        worker.with_ready_timeout(Duration::from_secs(30)).with_sandbox(sandbox).spawn()
    };
    match start(compute.clone()).await {
        Ok(worker) => visit(&worker).await?,
        Err(error) => {
            println!("error {error}");
            visit(&start(compute.best_effort()).await?).await?;
        }
    }
    Ok(())
}

/// A host with a confined worker whose threads are busy. It says so, and waits to be killed.
async fn be_killed(program: &OsStr) -> Result<()> {
    let program = program.to_owned();
    let worker = Worker::new(move || {
        let mut command = Command::new(&program);
        command.env_remove(super::contract::ROLE);
        command
    });
    let worker = worker.with_stdout(Output::Inherited).with_sandbox(Sandbox::compute());
    let worker = worker.spawn().await?;
    let captive: CaptiveClient = worker.get_service();
    let busy: Vec<_> = (0..4).map(|_| tokio::spawn(captive.burn())).collect();
    println!("worker {}", captive.process().await?);
    for one in busy {
        one.await.map_err(Error::fault)??;
    }
    Ok(())
}

async fn visit(worker: &Worker) -> Result<()> {
    let captive: CaptiveClient = worker.get_service();
    println!("sum {}", captive.add(20, 22).await?);
    println!("computed {}", captive.compute(4).await?);
    let aim = Aim {
        host: i32::try_from(std::process::id()).map_err(Error::fault)?,
        file: std::env::args().next().unwrap_or_default(),
        folder: "/".to_owned(),
        bytes: 1 << 30,
        ..Aim::default()
    };
    for what in ["start a program", "open a socket", "fork", "signal the host", "io_uring"] {
        let outcome = captive.attempt(what.to_owned(), aim.clone()).await?;
        println!("{what}: {}", if outcome == Outcome::Succeeded { "succeeded" } else { "refused" });
    }
    for what in ["read a file", "list a directory", "allocate beyond the limit"] {
        let outcome = captive.attempt(what.to_owned(), aim.clone()).await?;
        println!("{what}: {}", if outcome == Outcome::Succeeded { "succeeded" } else { "refused" });
    }
    let exit = worker.shutdown(Duration::from_secs(30)).await;
    println!("ended {}", exit.success());
    Ok(())
}
