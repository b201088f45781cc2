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
///     /// The part of the factoring that is done, 0 to 1.
///     #[event]
///     fn progress(&self) -> &witrpc::Event<f64>;
/// }
/// ```
///
/// generates, with the visibility of the trait:
///
/// * the trait itself, with the bounds `Send + Sync + 'static`. Its methods return futures that are `Send`. An implementation
///   uses plain `async fn`, and returns each event as a reference to a field;
/// * `CalcServer<S: Calc>`, with the constructors `new(service)` and `from_arc(service)`. Pass it to a server's `with_service`;
/// * `CalcClient`, with the methods and events of the trait. A method returns a `witrpc::Call`, a future. The values of an event come
///   from the server. `with_timeout(deadline)` sets a deadline for all calls. `CalcClient` implements `Calc`, too, so code that is generic
///   over `Calc` accepts a service in the same process, a client, or a mock.
///
/// # Methods
///
/// A method is `async fn name(&self, argument: Type, …) -> Result<T, E>;`. All types are owned, because values are sent to another
/// process, and implement serde's `Serialize` and `Deserialize`. `E` is your own error type. With `witrpc::Result<T>` it is
/// `witrpc::Error`. Options in `#[witrpc(…)]` above the method:
///
/// * `blocking`: the method runs on the runtime's thread pool for blocking work;
/// * `idempotent`: running the method twice does no harm. A retry policy then also repeats a call that may already have run.
///
/// # Events
///
/// An event is `#[event] fn name(&self) -> &Event<T>;` with an owned type `T`. `Event` is `witrpc::Event`, by any path. Events have no
/// options.
///
/// # Arguments of the attribute
///
/// * `name = "…"`: the name of the service on the wire, 1 to 128 bytes. Default: the name of the trait. A trait
///   with type or const parameters must set it, and a different one for each set of parameters.
/// * `crate = path`: the path of the crate with the module `__private`, for programs that use the inner crates without `witrpc`.
///   Default: `::witrpc`.
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
