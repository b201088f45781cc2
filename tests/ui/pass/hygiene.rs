//! Names that generated code must not mix up with its own.
#![deny(warnings)]
#![expect(clippy::too_many_arguments, reason = "one for each name")]
#![expect(dead_code, reason = "never called")]
#![expect(non_camel_case_types, reason = "names of primitives")]

mod shadowed {
    #![no_implicit_prelude]

    pub(crate) struct Result;
    pub(crate) struct Vec;
    pub(crate) struct Option;
    pub(crate) struct String;
    pub(crate) struct Arc;
    pub(crate) struct Box;
    pub(crate) struct Request;
    pub(crate) struct Dispatch;
    pub(crate) struct Remote;
    pub(crate) struct Call;
    pub(crate) struct PhantomData;
    pub(crate) struct usize;
    pub(crate) struct bool;
    pub(crate) struct str;
    pub(crate) trait Send {}
    pub(crate) trait Sync {}
    pub(crate) trait Future {}
    pub(crate) trait Clone {}
    pub(crate) trait Debug {}
    pub(crate) trait Service {}
    pub(crate) mod core {}
    pub(crate) mod std {}
    pub(crate) mod witrpc {}

    /// One service type is called `S`, as a type parameter might be.
    pub(crate) type S = i32;

    #[::witrpc::service]
    trait Shadowed {
        async fn one(&self, s: S) -> ::witrpc::Result<S>;
        async fn two(&self) -> ::witrpc::Result<()>;
    }

    #[::witrpc::service(name = "generic")]
    trait Generic<S: ::witrpc::serde::Serialize + ::witrpc::serde::de::DeserializeOwned>
    where
        S: ::core::marker::Send,
    {
        async fn one(&self, s: S) -> ::witrpc::Result<S>;
    }
}

#[witrpc::service]
trait Arguments {
    async fn names(
        &self,
        self_: u8,
        request: u8,
        client: u8,
        buf: u8,
        service: u8,
        method: u8,
        remote: u8,
        arg0: u8,
        _: u8,
        _: u8,
        arg9: u8,
    ) -> witrpc::Result<u8>;
    async fn r#type(&self, r#fn: u8, r#match: u8) -> witrpc::Result<u8>;
}

/// Methods called as those that generated code has or calls.
#[witrpc::service]
trait Methods {
    async fn new(&self) -> witrpc::Result<u8>;
    async fn from_arc(&self) -> witrpc::Result<u8>;
    async fn from_remote(&self) -> witrpc::Result<u8>;
    async fn descriptor(&self) -> witrpc::Result<u8>;
    async fn call(&self) -> witrpc::Result<u8>;
    async fn clone(&self) -> witrpc::Result<u8>;
    async fn fmt(&self) -> witrpc::Result<u8>;
    async fn drop(&self) -> witrpc::Result<u8>;
}

#[witrpc::service]
trait r#try {
    async fn ping(&self) -> witrpc::Result<()>;
}

fn methods_of<T: witrpc::__private::ServiceClient>() -> Vec<&'static str> {
    T::descriptor().methods.iter().map(|method| method.name).collect()
}

fn main() {
    assert_eq!(methods_of::<ArgumentsClient>(), ["names", "type"]);
    assert_eq!(methods_of::<MethodsClient>().len(), 8);
    let descriptor = <tryClient as witrpc::__private::ServiceClient>::descriptor();
    assert_eq!(descriptor.name, "try");
}
