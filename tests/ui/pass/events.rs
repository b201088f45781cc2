//! Events, alone and beside methods, under lints that generated code must pass.
#![deny(warnings, missing_docs, unreachable_pub, unnameable_types, unused, clippy::all)]
#![deny(elided_lifetimes_in_paths, missing_debug_implementations)]
#![expect(dead_code, reason = "a contract may be used on one side only")]

use std::fmt::Debug;

use witrpc::__private::{EventValue, ServiceClient, ServiceDescriptor};
use witrpc::Event;

/// Jobs.
#[witrpc::service]
pub trait Jobs {
    /// Share of the work that is done, 0 to 1.
    #[event]
    fn progress(&self) -> &Event<f64>;
    /// Starts.
    async fn start(&self) -> witrpc::Result<u64>;
    #[doc = " Is named by a path."]
    #[event]
    #[must_use]
    fn finished(&self) -> &'_ ::witrpc::Event<(std::string::String, Option<u64>)>;
    /// Was.
    #[deprecated]
    #[event]
    fn old(&self) -> &Event<()>;
}

struct Local {
    progress: Event<f64>,
    finished: Event<(String, Option<u64>)>,
    old: Event<()>,
}

impl Jobs for Local {
    fn progress(&self) -> &Event<f64> {
        &self.progress
    }

    async fn start(&self) -> witrpc::Result<u64> {
        Ok(1)
    }

    fn finished(&self) -> &Event<(String, Option<u64>)> {
        &self.finished
    }

    fn old(&self) -> &Event<()> {
        &self.old
    }
}

/// Generic.
#[witrpc::service(name = "Store/text")]
pub trait Store<V: EventValue, const N: usize = 3>
where
    V: Clone,
{
    /// Changed.
    #[event]
    fn changed(&self) -> &Event<V>;
    /// Dropped.
    #[event]
    fn dropped(&self) -> &witrpc::Event<Vec<u8>>;
}

#[witrpc::service]
trait Private {
    #[event]
    fn undocumented(&self) -> &Event<u8>;
}

/// Events called as what generated code has.
#[witrpc::service]
trait Names {
    #[event]
    fn remote(&self) -> &Event<u8>;
    #[event]
    fn marker(&self) -> &Event<u8>;
    #[event]
    fn client(&self) -> &Event<u8>;
    #[event]
    fn service(&self) -> &Event<u8>;
    #[event]
    fn self_(&self) -> &Event<u8>;
    #[event]
    fn subscriber(&self) -> &Event<u8>;
    #[event]
    fn event(&self) -> &Event<u8>;
    #[event]
    fn event0(&self) -> &Event<u8>;
    #[event]
    fn subscribe(&self) -> &Event<u8>;
    #[event]
    fn clone(&self) -> &Event<u8>;
    #[event]
    fn r#type(&self) -> &Event<u8>;
}

mod shadowed {
    #![no_implicit_prelude]

    pub(crate) struct Event;
    pub(crate) struct EventSubscriber;
    pub(crate) struct Attached;
    #[expect(non_camel_case_types, reason = "the name of a primitive")]
    pub(crate) struct usize;

    #[::witrpc::service]
    trait Shadowed {
        #[event]
        fn one(&self) -> &::witrpc::Event<u8>;
    }
}

macro_rules! contract {
    ($name:ident, $ty:ty, $event:ty) => {
        #[witrpc::service]
        trait $name {
            #[event]
            fn value(&self) -> &Event<$ty>;
            #[event]
            fn whole(&self) -> $event;
        }
    };
}
contract!(Echo, (u8, std::string::String), &witrpc::Event<u8>);

fn assert_std<T: Clone + Debug + Send + Sync + 'static>() {}
fn assert_jobs<T: Jobs>() {}
fn assert_lends(_: impl FnOnce(&JobsClient) -> &Event<f64>) {}
fn descriptor<T: ServiceClient>() -> &'static ServiceDescriptor {
    T::descriptor()
}
fn names<T: ServiceClient>() -> Vec<&'static str> {
    T::descriptor().events.iter().map(|event| event.name).collect()
}

fn main() {
    assert_jobs::<JobsClient>();
    assert_jobs::<Local>();
    assert_lends(|client| client.progress());
    assert_std::<JobsServer<Local>>();
    assert_std::<StoreClient<String, 7>>();

    let jobs = descriptor::<JobsClient>();
    let texts: Vec<_> =
        jobs.events.iter().map(|e| (e.name, e.signature, e.types, e.docs)).collect();
    let finished = "(String, Option<u64>)";
    assert_eq!(
        texts,
        [
            ("progress", "progress: f64", "f64", "Share of the work that is done, 0 to 1."),
            ("finished", &*format!("finished: {finished}"), finished, "Is named by a path."),
            ("old", "old: ()", "()", "Was."),
        ]
    );
    assert_eq!(jobs.methods.len(), 1);

    assert_eq!(names::<StoreClient<u8>>(), ["changed", "dropped"]);
    assert_eq!(names::<PrivateClient>(), ["undocumented"]);
    assert_eq!(descriptor::<NamesClient>().events[10].signature, "type: u8");
    assert_eq!(descriptor::<EchoClient>().events[0].types, "(u8, String)");
    assert_eq!(descriptor::<EchoClient>().events[1].types, "u8");
}
