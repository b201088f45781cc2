//! Shapes of traits, under lints that generated code must pass.
#![deny(warnings, missing_docs, unreachable_pub, unnameable_types, unused, clippy::all)]
#![deny(elided_lifetimes_in_paths, missing_debug_implementations)]
#![expect(dead_code, reason = "a contract may be used on one side only")]
#![expect(clippy::too_many_arguments, reason = "the macro takes that many")]

use std::fmt::Debug;

use witrpc::__private::{MethodDescriptor, ServiceClient, ServiceDescriptor};
use witrpc::serde::{Serialize, de::DeserializeOwned};

/// A calculator.
///
///   Indented.
#[witrpc::service]
pub trait Calc {
    /// Adds.
    async fn add(&self, a: i32, _: std::vec::Vec<i32>) -> witrpc::Result<i32>;
    #[doc = " Is slow."]
    #[witrpc(blocking)]
    async fn slow(&self) -> Result<String, witrpc::Error>;
    /// Gets.
    #[witrpc(idempotent, blocking)]
    async fn get(&self, key: (String,)) -> witrpc::Result<Option<u32>>;
    /// Was.
    #[deprecated]
    async fn old(&self) -> witrpc::Result<()>;
}

struct Local;

impl Calc for Local {
    async fn add(&self, a: i32, b: Vec<i32>) -> witrpc::Result<i32> {
        Ok(a + b.into_iter().sum::<i32>())
    }

    async fn slow(&self) -> witrpc::Result<String> {
        Ok(String::new())
    }

    async fn get(&self, _: (String,)) -> witrpc::Result<Option<u32>> {
        Ok(None)
    }

    async fn old(&self) -> witrpc::Result<()> {
        Ok(())
    }
}

/// Generic.
#[witrpc::service(name = "Store/text", crate = ::witrpc)]
pub trait Store<K: Send, V = String, const N: usize = 3>
where
    K: Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned + Send,
{
    /// Puts.
    async fn put(&self, key: K, value: V) -> witrpc::Result<[K; 2]>;
}

/// Nothing.
#[witrpc::service]
pub trait Empty: Send + std::marker::Sync + 'static {}

#[witrpc::service]
trait Private {
    async fn twenty(
        &self,
        a: u8,
        b: u8,
        c: u8,
        d: u8,
        e: u8,
        f: u8,
        g: u8,
        h: u8,
        i: u8,
        j: u8,
        k: u8,
        l: u8,
        m: u8,
        n: u8,
        o: u8,
        p: u8,
        q: u8,
        r: u8,
        s: u8,
        t: String,
    ) -> witrpc::Result<u8>;
    async fn sixteen(
        &self,
        a: u8,
        b: u8,
        c: u8,
        d: u8,
        e: u8,
        f: u8,
        g: u8,
        h: u8,
        i: u8,
        j: u8,
        k: u8,
        l: u8,
        m: u8,
        n: u8,
        o: u8,
        p: u8,
    ) -> witrpc::Result<u8>;
}

mod outer {
    #[witrpc::service]
    pub(crate) trait Crate {
        async fn ping(&self) -> witrpc::Result<()>;
    }

    pub(crate) mod inner {
        #[witrpc::service]
        pub(in crate::outer) trait InPath {
            async fn ping(&self) -> witrpc::Result<()>;
        }
    }

    fn serve<T: inner::InPath>(service: T) -> inner::InPathServer<T> {
        inner::InPathServer::new(service)
    }
}

macro_rules! contract {
    ($name:ident, $ty:ty) => {
        #[witrpc::service]
        trait $name {
            async fn echo(
                &self,
                service: $ty,
                request: std::option::Option<$ty>,
            ) -> witrpc::Result<$ty>;
        }
    };
}
contract!(Echo, (u8, std::string::String));

fn assert_std<T: Clone + Debug + Send + Sync + 'static>() {}
fn assert_calc<T: Calc>() {}
fn assert_spawns<T: Send + 'static>(_: impl FnOnce(&CalcClient) -> T) {}
fn descriptor<T: ServiceClient>() -> &'static ServiceDescriptor {
    T::descriptor()
}

fn main() {
    trait Unrelated {}

    #[witrpc::service]
    trait Within {
        async fn ping(&self) -> witrpc::Result<()>;
    }

    struct NotClone;
    assert_std::<CalcServer<NotClone>>();
    assert_std::<StoreClient<String, u8, 7>>();
    assert_calc::<CalcClient>();
    assert_calc::<Local>();
    assert_spawns(|client| client.with_timeout(std::time::Duration::ZERO).add(1, vec![]));
    assert_eq!(format!("{:?}", CalcServer::new(Local)), "CalcServer { .. }");

    let calc = descriptor::<CalcClient>();
    assert_eq!((calc.name, calc.docs), ("Calc", "A calculator.\n\n  Indented."));
    let texts: Vec<_> = calc.methods.iter().map(|m| (m.name, m.types, m.docs)).collect();
    assert_eq!(
        texts,
        [
            ("add", "(i32, Vec<i32>) -> Result<i32>", "Adds."),
            ("slow", "() -> Result<String, Error>", "Is slow."),
            ("get", "((String,)) -> Result<Option<u32>>", "Gets."),
            ("old", "() -> Result<()>", "Was."),
        ]
    );
    assert_eq!(calc.methods[0].signature, "add(a: i32, arg1: Vec<i32>) -> Result<i32>");
    let options = |method: &MethodDescriptor| (method.blocking, method.idempotent);
    let options: Vec<_> = calc.methods.iter().map(options).collect();
    assert_eq!(options, [(false, false), (true, false), (true, true), (false, false)]);

    assert_eq!(descriptor::<StoreClient<u8>>().name, "Store/text");
    assert_eq!(descriptor::<EmptyClient>().methods.len(), 0);
    assert_eq!(descriptor::<WithinClient>().methods.len(), 1);
    let echo = "((u8, String), Option<(u8, String)>) -> Result<(u8, String)>";
    assert_eq!(descriptor::<EchoClient>().methods[0].types, echo);
}
