//! The worker.

use std::sync::mpsc;
use std::time::Duration;

use witrpc::{Agent, CallContext, Descriptor, Error, Result};

use super::contract::{Aim, CalculatorClient, Captive, CaptiveServer, Outcome, READS, ROLE};
use super::toil::ToilServer;
use super::toiler::Toiler;
use super::{escapes, hosts};

pub(super) fn main() -> Result<()> {
    let role = std::env::var(ROLE).unwrap_or_default();
    if !Agent::is_announced() {
        return hosts::main(&role);
    }
    let mut early = Vec::new();
    match &*role {
        "" => {}
        role if role.starts_with(READS) => {
            let aim = Aim { file: role[READS.len()..].to_owned(), ..Aim::default() };
            early.push(("read a file".to_owned(), escapes::attempt("read a file", &aim)));
        }
        "starts_a_thread" => drop(std::thread::spawn(std::thread::park)),
        // Nobody else knows what it is to aim at.
        aim => {
            let aim: Aim = serde_json::from_str(aim).map_err(Error::fault)?;
            for (name, _) in escapes::names().filter(|(name, _)| !escapes::ends_it(name)) {
                early.push((name.to_owned(), escapes::attempt(name, &aim)));
            }
        }
    }
    let agent = Agent::from_env()?
        .with_service(CaptiveServer::new(Prisoner { early }))
        .with_service(ToilServer::new(Toiler::default()));
    tokio::runtime::Runtime::new().map_err(Error::fault)?.block_on(agent.run())
}

struct Prisoner {
    early: Vec<(String, Outcome)>,
}

impl Captive for Prisoner {
    async fn add(&self, a: i32, b: i32) -> Result<i32> {
        Ok(a + b)
    }

    async fn process(&self) -> Result<u32> {
        Ok(std::process::id())
    }

    async fn attempts(&self) -> Result<Vec<(String, bool)>> {
        Ok(escapes::names().map(|(name, root)| (name.to_owned(), root)).collect())
    }

    async fn attempt(&self, what: String, aim: Aim) -> Result<Outcome> {
        Ok(escapes::attempt(&what, &aim))
    }

    async fn attempt_with(&self, what: String, file: Descriptor) -> Result<Outcome> {
        Ok(escapes::attempt_with(&what, &file.take().await?))
    }

    async fn early(&self) -> Result<Vec<(String, Outcome)>> {
        Ok(self.early.clone())
    }

    async fn landlock(&self) -> Result<i64> {
        Ok(escapes::landlock())
    }

    async fn compute(&self, threads: u64) -> Result<u64> {
        let (sums, all) = mpsc::channel();
        let work = |number| {
            let sums = sums.clone();
            let name = format!("computes-{number}");
            let work = move || {
                std::thread::sleep(Duration::from_millis(1));
                let numbers: Vec<u64> = (0..100_000).map(|at| at % 7 + number).collect();
                sums.send(numbers.iter().sum::<u64>())
            };
            std::thread::Builder::new().name(name).spawn(work)
        };
        let running: std::io::Result<Vec<_>> = (0..threads).map(work).collect();
        for thread in running.map_err(Error::fault)? {
            thread
                .join()
                .map_err(|_| Error::fault("a thread has panicked"))?
                .map_err(Error::fault)?;
        }
        drop(sums);
        let asleep = tokio::time::sleep(Duration::from_millis(1));
        let beside = tokio::task::spawn_blocking(std::thread::available_parallelism);
        asleep.await;
        beside.await.map_err(Error::fault)?.map_err(Error::fault)?;
        Ok(all.iter().sum())
    }

    async fn panics(&self) -> Result<()> {
        panic!("as asked")
    }

    async fn backtrace(&self) -> Result<String> {
        Ok(std::backtrace::Backtrace::force_capture().to_string())
    }

    async fn read(&self, file: Descriptor) -> Result<String> {
        let file = std::fs::File::from(file.take().await?);
        std::io::read_to_string(file).map_err(Error::fault)
    }

    async fn read_path(&self, path: String) -> Result<String> {
        let path = std::path::Path::new(&path);
        if path.is_dir() {
            let entries = path.read_dir().map_err(Error::fault)?;
            return Ok(format!("{} entries", entries.count()));
        }
        std::fs::read_to_string(path).map_err(Error::fault)
    }

    async fn write_path(&self, path: String, text: String) -> Result<()> {
        let made = format!("{path}.new");
        std::fs::write(&made, text).map_err(Error::fault)?;
        std::fs::rename(made, path).map_err(Error::fault)
    }

    async fn doubled(&self, number: i32) -> Result<i32> {
        let calculator: CalculatorClient = CallContext::current().peer().get_service();
        calculator.double(number).await
    }

    async fn abort(&self) -> Result<()> {
        std::process::abort()
    }

    async fn burn(&self) -> Result<()> {
        let mut number = 1_u64;
        loop {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
    }

    async fn old_door(&self) -> Result<i32> {
        Ok(escapes::old_door())
    }

    async fn descriptors(&self, most: usize) -> Result<usize> {
        let files = (0..most).map_while(|_| std::io::pipe().ok());
        Ok(2 * files.collect::<Vec<_>>().len())
    }
}
