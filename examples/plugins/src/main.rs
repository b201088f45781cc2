//! A host with three plug-ins, which are programs of their own. They log through their host, and ask it for settings when they start. One of them
//! crashes, and is started again.
//!
//! ```text
//! cargo build --release -p plugins
//! cargo run --release -p plugins
//! ```
//!
//! The first line builds the host and the plug-ins, and the second runs the host. (`cargo run` builds the one program that it runs, and would
//! leave out the others.) The host finds the plug-ins in its own folder. The contract is in `lib.rs`, and so is what all plug-ins do alike; what each
//! does is in `bin`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env::consts::EXE_SUFFIX;
use std::path::{Path, PathBuf};
use std::process::Command;

use plugins::{Application, ApplicationServer, PluginClient};
use witrpc::{WorkerState, prelude::*};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PLUGINS: [&str; 3] = ["upper", "reverse", "crash"];

/// What the host does for its plug-ins.
struct Editor;

impl Application for Editor {
    async fn log(&self, plugin: String, line: String) -> witrpc::Result<()> {
        println!("  [{plugin}] {line}");
        Ok(())
    }

    async fn setting(&self, key: String) -> witrpc::Result<Option<String>> {
        Ok((key == "reverse.prefix").then(|| "<- ".to_owned()))
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let program = std::env::current_exe()?;
    let folder = program.parent().ok_or("this program is in no folder")?;
    let mut plugins = Vec::new();
    for name in PLUGINS {
        plugins.push(start(name, find(folder, name)?).await?);
    }
    let first = plugins[2].process_id();
    for text in ["hello", "boom"] {
        println!("{text:?}:");
        for (name, plugin) in PLUGINS.iter().zip(&plugins) {
            change(name, plugin, text).await;
        }
    }
    // The handle is good for the next process, too.
    println!("crash, once more:");
    let crashed = &plugins[2];
    let is_another = |state: &WorkerState| matches!(state, WorkerState::Running { process_id } if Some(*process_id) != first);
    crashed.state().wait_for(is_another).await?;
    change("crash", crashed, "hello").await;
    for plugin in plugins {
        plugin.shutdown(Duration::from_secs(2)).await;
    }
    Ok(())
}

fn find(folder: &Path, name: &str) -> Outcome<PathBuf> {
    let program = folder.join(format!("{name}{EXE_SUFFIX}"));
    if program.exists() {
        return Ok(program);
    }
    let (folder, profile) =
        (folder.display(), if cfg!(debug_assertions) { "" } else { " --release" });
    Err(format!("{folder} has no {name}: build all plug-ins, by cargo build{profile} -p plugins")
        .into())
}

async fn start(name: &str, program: PathBuf) -> witrpc::Result<Worker> {
    let again = RestartPolicy::on_failure().with_initial_delay(Duration::from_millis(10));
    let worker = Worker::new(move || Command::new(&program)).with_name(name);
    worker.with_service(ApplicationServer::new(Editor)).with_restart(again).spawn().await
}

async fn change(name: &str, plugin: &Worker, text: &str) {
    let changed = plugin.get_service::<PluginClient>().change(text.to_owned()).await;
    println!("  {name}: {:?}", changed.map_err(|error| error.to_string()));
}
