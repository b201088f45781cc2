//! Generates `XServer<S>`, which serves an implementation of the trait `X`.
//!
//! It holds the service in an `Arc` and hands each request, with the arguments taken from it, to
//! the method of that number, and each subscription to the event of that number. The library
//! decides when, where and for how long a call runs, and manages subscriptions.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote_spanned};
use syn::ext::IdentExt as _;
use syn::{Ident, Type};

use crate::contract::{self, Parameters};
use crate::model::{Event, Method, Service};

/// The struct and its implementations.
pub(crate) fn print(service: &Service) -> TokenStream {
    let mut output = print_struct(service);
    output.extend(print_constructors(service));
    output.extend(print_std(service));
    output.extend(print_service(service));
    output
}

fn print_struct(service: &Service) -> TokenStream {
    let Service { private, implementor, .. } = service;
    let Parameters { declared, marker_field, .. } = Parameters::of(service);
    let (server, vis) = (name(service), contract::copied_vis(&service.vis));
    let docs = format!("Serves an implementation of [`{}`].", service.ident.unraw());

    quote_spanned! {Span::mixed_site()=>
        #[doc = #docs]
        #vis struct #server<#implementor, #declared> {
            service: #private::Arc<#implementor>,
            #marker_field
        }
    }
}

fn print_constructors(service: &Service) -> TokenStream {
    let Service { private, implementor, .. } = service;
    let Parameters { bounded, arguments, where_clause, marker_value, .. } = Parameters::of(service);
    let (server, vis) = (name(service), contract::copied_vis(&service.vis));
    let ident = contract::copied(&service.ident);
    let lenience = contract::lenience();

    quote_spanned! {Span::mixed_site()=>
        #lenience
        impl<#implementor: #ident<#arguments>, #bounded> #server<#implementor, #arguments>
        #where_clause
        {
            /// Serves `service`.
            #[must_use]
            #vis fn new(service: #implementor) -> Self {
                Self::from_arc(#private::Arc::new(service))
            }

            /// Serves `service`, which the caller goes on using.
            #[must_use]
            #vis fn from_arc(service: #private::Arc<#implementor>) -> Self {
                Self { service, #marker_value }
            }
        }
    }
}

/// `Clone` and `Debug`, without bounds on the service.
fn print_std(service: &Service) -> TokenStream {
    let implementor = &service.implementor;
    let Parameters { unbounded, arguments, marker_value, .. } = Parameters::of(service);
    let server = name(service);
    let text = server.to_string();

    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        impl<#implementor, #unbounded> ::core::clone::Clone for #server<#implementor, #arguments> {
            fn clone(&self) -> Self {
                Self { service: ::core::clone::Clone::clone(&self.service), #marker_value }
            }
        }

        #[automatically_derived]
        impl<#implementor, #unbounded> ::core::fmt::Debug for #server<#implementor, #arguments> {
            fn fmt(&self, formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Formatter::debug_struct(formatter, #text).finish_non_exhaustive()
            }
        }
    }
}

fn print_service(service: &Service) -> TokenStream {
    let Service { private, implementor, .. } = service;
    let Parameters { bounded, arguments, where_clause, .. } = Parameters::of(service);
    let server = name(service);
    let ident = contract::copied(&service.ident);
    let descriptor = contract::descriptor_name(service);
    let lenience = contract::lenience();
    let arms = service.methods().enumerate().map(|(index, method)| arm(service, index, method));
    let event_arms =
        service.events().enumerate().map(|(index, event)| event_arm(service, index, event));
    let handle = service.methods().next().map(
        |_| quote_spanned!(Span::mixed_site()=> let service = ::core::clone::Clone::clone(&self.service);),
    );

    quote_spanned! {Span::mixed_site()=>
        #lenience
        impl<#implementor: #ident<#arguments>, #bounded> #private::Service
            for #server<#implementor, #arguments>
        #where_clause
        {
            fn descriptor(&self) -> &'static #private::ServiceDescriptor {
                &#descriptor
            }

            fn call(&self, method: ::core::primitive::usize, request: #private::Request) -> #private::Dispatch {
                #handle
                match method {
                    #(#arms)*
                    _ => #private::unknown_method(request),
                }
            }

            fn subscribe(&self, event: ::core::primitive::usize, subscriber: #private::EventSubscriber) -> #private::Attached {
                match event {
                    #(#event_arms)*
                    _ => #private::unknown_event(subscriber),
                }
            }
        }
    }
}

fn arm(service: &Service, index: usize, method: &Method) -> TokenStream {
    let span = contract::span_at(&method.ident);
    let private = contract::moved_path(&service.private, span);
    let [implementor, interface, callee] = [&service.implementor, &service.ident, &method.ident]
        .map(|ident| contract::moved(ident, span));
    let Parameters { arguments, .. } = Parameters::of(service);
    let names: Vec<Ident> =
        (0..method.arguments.len()).map(|index| format_ident!("arg{index}", span = span)).collect();
    let types: Vec<&Type> = method.arguments.iter().map(|argument| &argument.ty).collect();
    let (pattern, ty) = (contract::tuple(&names), contract::tuple(&types));
    let (arguments_of, output) = (contract::arguments(service, method), &method.output);

    quote_spanned! {span=>
        #index => #private::answer(request, #arguments_of, #private::outcome::<#output>(), move |#pattern: #ty| async move {
            <#implementor as #interface<#arguments>>::#callee(&*service, #(#names),*).await
        }),
    }
}

fn event_arm(service: &Service, index: usize, event: &Event) -> TokenStream {
    let span = contract::span_at(&event.token);
    let private = contract::moved_path(&service.private, span);
    let [implementor, interface, source] = [&service.implementor, &service.ident, &event.ident]
        .map(|ident| contract::moved(ident, span));
    let Parameters { arguments, .. } = Parameters::of(service);

    quote_spanned! {span=>
        #index => #private::attach(
            <#implementor as #interface<#arguments>>::#source(&*self.service),
            subscriber,
        ),
    }
}

fn name(service: &Service) -> Ident {
    let ident = contract::copied(&service.ident);
    format_ident!("{}Server", ident.unraw(), span = ident.span())
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    #[test]
    fn each_method_is_one_arm_in_the_order_of_the_trait() {
        let item = quote!(
            trait Calc {
                async fn b(&self, s: S) -> R;
                async fn a(&self) -> R;
            }
        );
        let service = Service::parse(TokenStream::new(), item).unwrap();
        let text = print_service(&service).to_string();
        let places = ["0usize =>", ":: b (", "1usize =>", ":: a (", "_ =>"];
        let places: Vec<usize> = places.iter().map(|place| text.find(place).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
        assert!(text.contains("< S_ : Calc"), "the user's type S is left alone: {text}");
    }

    #[test]
    fn each_event_is_one_arm_numbered_apart_from_the_methods() {
        let item = quote!(
            trait Jobs {
                async fn a(&self) -> R;
                #[event]
                fn c(&self) -> &Event<u8>;
                async fn b(&self) -> R;
                #[event]
                fn d(&self) -> &Event<u8>;
            }
        );
        let service = Service::parse(TokenStream::new(), item).unwrap();
        let text = print_service(&service).to_string();
        let (_, text) = text.split_once("fn subscribe").unwrap();
        let places = ["0usize =>", ":: c (", "1usize =>", ":: d (", ":: unknown_event"];
        let places: Vec<usize> = places.iter().map(|place| text.find(place).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }
}
