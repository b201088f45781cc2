//! What an application and its plug-ins have in common: the contract, and how a plug-in starts. See `main.rs`.

use tokio::sync::SetOnce;
use witrpc::prelude::*;

/// What a plug-in does.
#[witrpc::service]
pub trait Plugin {
    /// Changes a text.
    async fn change(&self, text: String) -> witrpc::Result<String>;
}

/// What the application does for its plug-ins.
#[witrpc::service]
pub trait Application {
    /// Writes a line of the log.
    async fn log(&self, plugin: String, line: String) -> witrpc::Result<()>;
    /// Returns a setting.
    async fn setting(&self, key: String) -> witrpc::Result<Option<String>>;
}

/// A plug-in that changes texts by this function.
struct TextPlugin {
    change: fn(&str) -> String,
    /// Its setting, once the application has answered.
    prefix: std::sync::Arc<SetOnce<String>>,
}

impl Plugin for TextPlugin {
    async fn change(&self, text: String) -> witrpc::Result<String> {
        Ok(format!("{}{}", self.prefix.wait().await, (self.change)(&text)))
    }
}

/// Serves the application that has started this program, until it ends.
///
/// # Errors
///
/// If no application has started this program; if its connection cannot be opened, or breaks.
pub async fn serve(name: &str, change: fn(&str) -> String) -> witrpc::Result<()> {
    let prefix = std::sync::Arc::new(SetOnce::new());
    let plugin = TextPlugin { change, prefix: prefix.clone() };
    let mut host = Agent::from_env()?.with_service(PluginServer::new(plugin)).connect().await?;
    // The application is called before it calls.
    let application: ApplicationClient = host.get_service();
    let setting = application.setting(format!("{name}.prefix")).await?;
    let line = format!("its prefix is {:?}", setting.as_deref().unwrap_or_default());
    application.log(name.to_owned(), line).await?;
    prefix.set(setting.unwrap_or_default()).map_err(witrpc::Error::fault)?;
    host.ended().await;
    Ok(())
}
