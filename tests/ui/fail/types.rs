use witrpc::prelude::*;

#[derive(witrpc::serde::Serialize, witrpc::serde::Deserialize)]
#[serde(crate = "witrpc::serde")]
pub enum NotFromError {
    Other,
}

pub struct NotSerialized;

#[derive(witrpc::serde::Serialize, witrpc::serde::Deserialize)]
#[serde(crate = "witrpc::serde")]
pub struct NotCloned;

#[witrpc::service]
pub trait Errors {
    async fn fails(&self) -> Result<(), NotFromError>;
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
