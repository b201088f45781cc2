//! Processes that keep every CPU busy beside a measurement: nothing may collapse then.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use anyhow::Result;

use crate::cpu;

/// One for each CPU, until this is dropped.
pub(crate) struct Neighbours(Vec<Child>);

impl Neighbours {
    pub(crate) fn start(wanted: bool) -> Result<Self> {
        let mut all = Self(Vec::new());
        if wanted {
            for cpu in cpu::allowed() {
                let program = std::env::current_exe()?;
                let mut command = Command::new(program);
                all.0.push(command.args(["busy", &cpu.to_string()]).stdin(Stdio::piped()).spawn()?);
            }
        }
        Ok(all)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for neighbour in &mut self.0 {
            neighbour.kill().ok();
            neighbour.wait().ok();
        }
    }
}

/// The process of one: until its input ends, as it does with the process that started it.
pub(crate) fn play(cpu: usize) -> Result<()> {
    cpu::pin(Some(cpu))?;
    std::thread::spawn(|| {
        std::io::stdin().read(&mut [0]).ok();
        std::process::exit(0);
    });
    loop {
        std::hint::black_box(cpu);
    }
}
