use witrpc::prelude::*;

#[derive(witrpc::serde::Serialize, witrpc::serde::Deserialize)]
#[serde(crate = "witrpc::serde")]
pub enum NotFromError {
    Other,
}

pub struct NotSerialized;

#[derive(witrpc::serde::Serialize)]
#[serde(crate = "witrpc::serde")]
pub struct Half;

#[derive(witrpc::serde::Serialize, witrpc::serde::Deserialize)]
#[serde(crate = "witrpc::serde")]
pub struct NotCloned;

#[witrpc::service]
pub trait Errors {
    async fn fails(&self) -> Result<(), NotFromError>;
}

#[witrpc::service]
pub trait Arguments {
    async fn takes(&self, number: u8, value: Vec<NotSerialized>) -> witrpc::Result<()>;
    async fn takes_half(&self, value: Half, text: String) -> witrpc::Result<()>;
}

#[witrpc::service]
pub trait Results {
    async fn gives(&self) -> witrpc::Result<NotSerialized>;
}

#[witrpc::service]
pub trait Events {
    #[event]
    fn raised(&self) -> &Event<NotCloned>;
}

fn main() {}
