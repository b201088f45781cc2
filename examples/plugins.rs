//! A host with three plug-ins: processes that log through their host and ask it for settings when they start. One of them crashes, and is
//! started again. Run it with
//!
//! ```text
//! cargo run --release --example plugins
//! ```
//!
//! Each plug-in is this program with the name of the plug-in as its argument. Yours would be programs of their own, which their host finds in a folder.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::process::Command;
use std::sync::Arc;

use tokio::sync::SetOnce;
use witrpc::{Error, WorkerState, prelude::*};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const PLUGINS: [&str; 3] = ["upper", "reverse", "crash"];

/// What a plug-in does.
#[witrpc::service]
pub(crate) trait Plugin {
    /// Changes a text.
    async fn change(&self, text: String) -> witrpc::Result<String>;
}

/// What the host does for its plug-ins.
#[witrpc::service]
pub(crate) trait Application {
    /// Writes a line of the log.
    async fn log(&self, plugin: String, line: String) -> witrpc::Result<()>;
    /// Returns a setting.
    async fn setting(&self, key: String) -> witrpc::Result<Option<String>>;
}

/// The host.
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

/// A plug-in, whichever it is.
struct TextPlugin {
    name: String,
    /// Its setting, once the host has answered.
    prefix: Arc<SetOnce<String>>,
}

impl Plugin for TextPlugin {
    async fn change(&self, text: String) -> witrpc::Result<String> {
        let changed = match &*self.name {
            "upper" => text.to_uppercase(),
            "reverse" => text.chars().rev().collect(),
            _ if text.contains("boom") => std::process::abort(),
            _ => text,
        };
        Ok(format!("{}{changed}", self.prefix.wait().await))
    }
}

#[tokio::main]
async fn main() -> Outcome {
    match std::env::args().nth(1) {
        Some(plugin) if Agent::is_announced() => serve(plugin).await,
        _ => host().await,
    }
}

async fn serve(name: String) -> Outcome {
    let prefix = Arc::new(SetOnce::new());
    let plugin = TextPlugin { name: name.clone(), prefix: Arc::clone(&prefix) };
    let agent = Agent::from_env()?.with_service(PluginServer::new(plugin));
    let mut host = agent.connect().await?;
    // The host is called before it calls.
    let application: ApplicationClient = host.get_service();
    let setting = application.setting(format!("{name}.prefix")).await?;
    prefix.set(setting.unwrap_or_default())?;
    application.log(name, format!("process {} is ready", std::process::id())).await?;
    host.ended().await;
    Ok(())
}

async fn host() -> Outcome {
    let program = std::env::current_exe()?;
    let mut plugins = Vec::new();
    for name in PLUGINS {
        let program = program.clone();
        let worker = Worker::new(move || {
            let mut command = Command::new(&program);
            command.arg(name);
            command
        });
        let worker =
            worker.with_name(name).with_service(ApplicationServer::new(Editor)).with_restart(
                RestartPolicy::on_failure().with_initial_delay(Duration::from_millis(10)),
            );
        let worker = worker.spawn().await?;
        plugins.push((name, worker.process_id(), worker));
    }
    for text in ["hello", "boom"] {
        println!("{text:?}:");
        for (name, _, plugin) in &plugins {
            let changed = plugin.get_service::<PluginClient>().change(text.to_owned()).await;
            println!("  {name}: {:?}", changed.map_err(|error| error.to_string()));
        }
    }
    // The handle is good for the next process, too.
    let (name, old, crashed) = &plugins[2];
    println!("{name:?}, once more:");
    let mut state = crashed.state();
    let is_there = |state: &WorkerState| matches!(state, WorkerState::Running { process_id } if Some(*process_id) != *old);
    state.wait_for(is_there).await?;
    let plugin = crashed.get_service::<PluginClient>();
    println!(
        "  {name}: {:?}",
        plugin.change("hello".to_owned()).await.map_err(|e: Error| e.to_string())
    );
    for (_, _, plugin) in plugins {
        plugin.shutdown(Duration::from_secs(2)).await;
    }
    Ok(())
}
