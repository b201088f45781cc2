//! Generates `XClient`, which calls the methods of the trait `X` on the other side.
//!
//! It holds the library's `Remote` and an `Event` for each event of the trait, and numbers the
//! methods and the events. Connections, deadlines and cancellation are up to the library.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote_spanned};
use syn::ext::IdentExt as _;
use syn::{Attribute, Ident};

use crate::contract::{self, Parameters};
use crate::model::{Event, Method, Service};

/// The struct and its implementations.
pub(crate) fn print(service: &Service) -> TokenStream {
    let mut output = print_struct(service);
    output.extend(print_inherent(service));
    output.extend(print_trait(service));
    output.extend(print_std(service));
    output.extend(print_service_client(service));
    output
}

fn print_struct(service: &Service) -> TokenStream {
    let private = &service.private;
    let Parameters { declared, marker_field, .. } = Parameters::of(service);
    let (client, vis) = (name(service), contract::copied_vis(&service.vis));
    let docs = format!("Calls a remote [`{}`].", service.ident.unraw());
    let (fields, lenience) = (fields(service), contract::lenience());
    let types = service.events().map(|event| event_type(service, event));

    quote_spanned! {Span::mixed_site()=>
        #[doc = #docs]
        #lenience
        #vis struct #client<#declared> {
            remote: #private::Remote,
            #(#fields: #types,)*
            #marker_field
        }
    }
}

/// The methods and events that need no import of the trait; the calls can be spawned.
fn print_inherent(service: &Service) -> TokenStream {
    let private = &service.private;
    let Parameters { bounded, arguments, where_clause, marker_value, .. } = Parameters::of(service);
    let (client, vis) = (name(service), contract::copied_vis(&service.vis));
    let lenience = contract::lenience();
    let methods = service.methods().enumerate().map(|(index, method)| {
        let (attrs, output) = (client_attrs(service, method), &method.output);
        let (head, body) = (head(method), call(service, index, method));
        let span = contract::span_at(&method.ident);
        let private = contract::moved_path(&service.private, span);
        quote_spanned! {span=>
            #attrs
            #vis #head -> #private::Call<#output> { #body }
        }
    });
    let events = service.events().enumerate().map(|(index, event)| {
        let (docs, accessor) = (event_attrs(service, event), accessor(service, index, event));
        quote_spanned!(contract::span_at(&event.ident)=> #docs #vis #accessor)
    });
    let fields = fields(service);

    quote_spanned! {Span::mixed_site()=>
        #lenience
        impl<#bounded> #client<#arguments> #where_clause {
            /// Returns a handle whose calls must be answered within `deadline`, counted from the
            /// first poll of each call.
            #[must_use]
            #vis fn with_timeout(&self, deadline: ::core::time::Duration) -> Self {
                Self {
                    remote: #private::Remote::with_timeout(&self.remote, deadline),
                    #(#fields: ::core::clone::Clone::clone(&self.#fields),)*
                    #marker_value
                }
            }

            #(#methods)*

            #(#events)*
        }
    }
}

fn print_trait(service: &Service) -> TokenStream {
    let Parameters { bounded, arguments, where_clause, .. } = Parameters::of(service);
    let (client, ident) = (name(service), contract::copied(&service.ident));
    let lenience = contract::lenience();
    let methods = service.methods().map(|method| {
        let output = &method.output;
        let span = contract::span_at(&method.ident);
        let head = head(method);
        let ident = contract::copied(&method.ident);
        let names = method.arguments.iter().map(|argument| contract::copied(&argument.name));
        // Calls the inherent method, so that an error about the types appears once.
        let body = quote_spanned!(span=> Self::#ident(self, #(#names),*));
        let private = contract::moved_path(&service.private, span);
        quote_spanned! {span=>
            #head -> impl #private::Future<Output = #output> + ::core::marker::Send { #body }
        }
    });
    let events = service.events().enumerate().map(|(index, event)| accessor(service, index, event));

    quote_spanned! {Span::mixed_site()=>
        #lenience
        impl<#bounded> #ident<#arguments> for #client<#arguments> #where_clause {
            #(#methods)*
            #(#events)*
        }
    }
}

/// `Clone` and `Debug`, without bounds on the trait's parameters.
fn print_std(service: &Service) -> TokenStream {
    let Parameters { unbounded, arguments, marker_value, .. } = Parameters::of(service);
    let client = name(service);
    let text = client.to_string();
    let fields = fields(service);

    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        impl<#unbounded> ::core::clone::Clone for #client<#arguments> {
            fn clone(&self) -> Self {
                Self {
                    remote: ::core::clone::Clone::clone(&self.remote),
                    #(#fields: ::core::clone::Clone::clone(&self.#fields),)*
                    #marker_value
                }
            }
        }

        #[automatically_derived]
        impl<#unbounded> ::core::fmt::Debug for #client<#arguments> {
            fn fmt(&self, formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Formatter::debug_struct(formatter, #text)
                    .field("remote", &self.remote)
                    .finish_non_exhaustive()
            }
        }
    }
}

fn print_service_client(service: &Service) -> TokenStream {
    let private = &service.private;
    let Parameters { bounded, arguments, where_clause, marker_value, .. } = Parameters::of(service);
    let client = name(service);
    let descriptor = contract::descriptor_name(service);
    let events = service.events().enumerate().map(|(index, event)| {
        let (span, ty, field) = (contract::span_at(&event.ident), &event.ty, field(index));
        let private = contract::moved_path(private, span);
        quote_spanned!(span=> let #field = #private::Remote::event::<#ty>(&remote, #index);)
    });
    let (fields, lenience) = (fields(service), contract::lenience());

    quote_spanned! {Span::mixed_site()=>
        #lenience
        impl<#bounded> #private::ServiceClient for #client<#arguments> #where_clause {
            fn descriptor() -> &'static #private::ServiceDescriptor {
                &#descriptor
            }

            fn from_remote(remote: #private::Remote) -> Self {
                #(#events)*
                Self { remote, #(#fields,)* #marker_value }
            }
        }
    }
}

/// `fn add(&self, a: i32, b: i32)`
fn head(method: &Method) -> TokenStream {
    let span = contract::span_at(&method.ident);
    let ident = contract::copied(&method.ident);
    let names = method.arguments.iter().map(|argument| contract::copied(&argument.name));
    let types = method.arguments.iter().map(|argument| &argument.ty);
    quote_spanned!(span=> fn #ident(&self, #(#names: #types),*))
}

/// `self.remote.call(0, &(a, b,), arguments2::<A, B>(), outcome::<R>())`
fn call(service: &Service, index: usize, method: &Method) -> TokenStream {
    let span = contract::span_at(&method.ident);
    let (private, output) = (contract::moved_path(&service.private, span), &method.output);
    let names: Vec<Ident> =
        method.arguments.iter().map(|argument| contract::copied(&argument.name)).collect();
    let (values, arguments) = (contract::tuple(&names), contract::arguments(service, method));

    quote_spanned! {span=>
        #private::Remote::call(
            &self.remote,
            #index,
            &#values,
            #arguments,
            #private::outcome::<#output>(),
        )
    }
}

/// `fn progress(&self) -> &Event<f64> { &self.event0 }`
fn accessor(service: &Service, index: usize, event: &Event) -> TokenStream {
    let span = contract::span_at(&event.ident);
    let (ident, field) = (contract::copied(&event.ident), field(index));
    let ty = event_type(service, event);
    let reference = quote_spanned!(contract::span_at(&event.token)=> &#ty);
    quote_spanned!(span=> fn #ident(&self) -> #reference { &self.#field })
}

/// The library's `Event<f64>`, pointing to the user's `Event`.
fn event_type(service: &Service, event: &Event) -> TokenStream {
    let (span, ty) = (contract::span_at(&event.token), &event.ty);
    let private = contract::moved_path(&service.private, span);
    quote_spanned!(span=> #private::Event<#ty>)
}

/// The fields of the events, in order.
fn fields(service: &Service) -> Vec<Ident> {
    service.events().enumerate().map(|(index, _)| field(index)).collect()
}

/// Numbered and not named after the event, so that it differs from the client's other fields.
fn field(index: usize) -> Ident {
    format_ident!("event{index}", span = Span::mixed_site())
}

/// The method's docs, or one line where it has none.
fn client_attrs(service: &Service, method: &Method) -> TokenStream {
    let default = format!("Calls [`{}::{}`].", service.ident.unraw(), method.ident.unraw());
    attrs_or(&method.attrs, &method.docs, &default)
}

/// The event's docs, or one line where it has none.
fn event_attrs(service: &Service, event: &Event) -> TokenStream {
    let default = format!("The remote [`{}::{}`].", service.ident.unraw(), event.ident.unraw());
    attrs_or(&event.attrs, &event.docs, &default)
}

fn attrs_or(attrs: &[Attribute], docs: &str, default: &str) -> TokenStream {
    let attrs = contract::copied_attrs(attrs);
    let docs = docs.is_empty().then(|| quote_spanned!(Span::mixed_site()=> #[doc = #default]));
    quote_spanned!(Span::mixed_site()=> #(#attrs)* #docs)
}

fn name(service: &Service) -> Ident {
    let ident = contract::copied(&service.ident);
    format_ident!("{}Client", ident.unraw(), span = ident.span())
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn client_method(item: TokenStream) -> String {
        let service = Service::parse(TokenStream::new(), item).unwrap();
        print_inherent(&service).to_string()
    }

    #[test]
    fn methods_keep_their_docs_but_not_the_lints_of_the_trait() {
        let text = client_method(quote! {
            trait Calc {
                #[doc = " Adds."]
                #[deprecated]
                #[expect(clippy::doc_markdown)]
                async fn add(&self, a: i32) -> R;
            }
        });
        assert!(text.contains(r#"# [doc = " Adds."] # [deprecated] fn add"#), "{text}");
    }

    #[test]
    fn methods_without_docs_get_a_line() {
        let text = client_method(quote!(
            trait Calc {
                async fn r#type(&self) -> R;
            }
        ));
        assert!(text.contains(r#"# [doc = "Calls [`Calc::type`]."] fn r#type"#), "{text}");
    }

    #[test]
    fn events_are_lent_from_fields_that_no_name_can_meet() {
        let text = client_method(quote! {
            trait Jobs {
                #[event]
                fn remote(&self) -> &Event<u8>;
                #[doc = " Share."]
                #[event]
                #[must_use]
                fn event0(&self) -> &Event<f64>;
            }
        });
        for expected in [
            r#"# [doc = "The remote [`Jobs::remote`]."] fn remote (& self)"#,
            r#"# [doc = " Share."] fn event0 (& self)"#,
            ":: Event < f64 > { & self . event1 }",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
