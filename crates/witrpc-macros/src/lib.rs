//! The attribute [`macro@service`]: a trait is the contract, and the macro generates both of its ends.
//!
//! Used through the facade as `#[witrpc::service]`. The trait is parsed into a model, which
//! detects all errors (`model`); `contract`, `server` and `client` then generate code from it and cannot
//! fail. The generated code uses only the `__private` module of the crate that the attribute names: no
//! import, no prelude name, no dependency of the user's crate.
//!
//! Generated code has no control flow beyond a call and a `match` on
//! the number of the method or event.
//!
//! 1. If the model has errors, only the errors are generated, so that no error follows from another.
//! 2. A generated token has a mixed-site span, and a copy of a user's name keeps its position only. So
//!    lints of the user's crate see the trait once, and nothing else.
//! 3. A method's number is its index among the methods of the trait, and an event's its index among
//!    the events, on both ends and in the descriptor.

#![forbid(unsafe_code)]

use proc_macro::TokenStream;

use crate::model::Service;

mod client;
mod contract;
mod model;
mod server;
mod signatures;
mod text;

/// Turns a trait into a service: the contract that a server and its clients share.
///
/// ```
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # pub struct FactorError(String);
/// # impl From<witrpc::Error> for FactorError {
/// #     fn from(error: witrpc::Error) -> Self { Self(error.to_string()) }
/// # }
/// #[witrpc::service]
/// pub trait Calc {
///     /// Adds.
///     async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
///     #[witrpc(blocking)]
///     async fn factor(&self, n: u64) -> Result<Vec<u64>, FactorError>;
///     #[witrpc(idempotent)]
///     async fn get(&self, key: String) -> witrpc::Result<Option<u32>>;
///     /// Share of the factoring that is done, 0 to 1.
///     #[event]
///     fn progress(&self) -> &witrpc::Event<f64>;
/// }
/// ```
///
/// makes, with the visibility of the trait:
///
/// * the trait itself, with `Send + Sync + 'static` added and each method returning a future that
///   is `Send`. Implementors write plain `async fn`, and return each event by reference to a field;
/// * `CalcServer<S: Calc>`, made by `new(service)` or `from_arc(service)`, for a server's `with_service`;
/// * `CalcClient`, which has each method of the trait, returning a future; each event, whose values come from the server; and
///   `with_timeout(deadline)`. It implements `Calc` too, so that code generic over `Calc` takes a local object, a remote one or a mock.
///
/// # What a method looks like
///
/// `async fn name(&self, argument: Type, …) -> Result<T, E>;` with owned types only, as values
/// cross a process boundary. `E` is the user's own error or, by `witrpc::Result<T>`, the default.
/// Options, in `#[witrpc(…)]` above the method:
///
/// * `blocking`: the method runs on the pool for blocking work;
/// * `idempotent`: a call that may have run already may be run again after a lost connection.
///
/// # What an event looks like
///
/// `#[event] fn name(&self) -> &Event<T>;` with an owned type `T`, where `Event` is
/// `witrpc::Event`, by any path. It takes no options.
///
/// # Arguments of the attribute
///
/// * `name = "…"`: the name on the wire, 1 to 128 bytes; by default that of the trait. A trait
///   with type or const parameters must give it, and keep it different for each set of types.
/// * `crate = path`: where `__private` is found, for those who use the crates without the facade;
///   by default `::witrpc`.
#[proc_macro_attribute]
pub fn service(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(arguments.into(), item.into()).into()
}

fn expand(
    arguments: proc_macro2::TokenStream,
    item: proc_macro2::TokenStream,
) -> proc_macro2::TokenStream {
    let service = match Service::parse(arguments, item) {
        Ok(service) => service,
        Err(errors) => return errors.into_compile_error(),
    };

    let mut output = contract::print(&service);
    output.extend(server::print(&service));
    output.extend(client::print(&service));
    output
}

#[cfg(test)]
mod tests {
    use quote::quote;
    use syn::{File, Item};

    use super::*;

    #[test]
    fn mistakes_print_nothing_but_errors() {
        let output = expand(
            quote!(nmae = "x"),
            quote!(
                trait Calc {
                    fn a();
                    fn b();
                }
            ),
        );
        let file: File = syn::parse2(output).unwrap();
        assert!(file.items.len() >= 5, "every mistake is told");
        assert!(file.items.iter().all(|item| matches!(item, Item::Macro(_))));
    }

    #[test]
    fn every_item_is_well_formed() {
        let output = expand(
            quote!(name = "Store"),
            quote! {
                pub(crate) trait Store<K: Clone, V = String, const N: usize = 3> where V: Clone {
                    async fn put(&self, key: K, _: V) -> witrpc::Result<[u8; N]>;
                    async fn r#type(&self) -> Result<K, MyError>;
                    #[event]
                    fn changed(&self) -> &witrpc::Event<(K, V)>;
                }
            },
        );
        let file: File = syn::parse2(output).unwrap();
        let traits = file.items.iter().filter(|item| matches!(item, Item::Trait(_))).count();
        let structs = file.items.iter().filter(|item| matches!(item, Item::Struct(_))).count();
        assert_eq!((traits, structs), (1, 2));
    }
}
