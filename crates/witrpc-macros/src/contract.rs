//! Generates what both ends use: the trait, and the descriptor with its methods and events.
//!
//! Also has what `server` and `client` share: the spans of generated names, the generics of the two
//! structs, and the tuple in which arguments are sent.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote_spanned};
use syn::ext::IdentExt as _;
use syn::{Attribute, GenericParam, Type, Visibility};

use crate::model::{Event, MAX_TUPLE, Member, Method, Service};
use crate::{signatures, text};

/// The trait, rewritten so that each future is `Send`, and the descriptor.
pub(crate) fn print(service: &Service) -> TokenStream {
    let Service { private, attrs, vis, ident, generics, wire_name, docs, .. } = service;
    let where_clause = &generics.where_clause;
    let signatures = service.members.iter().map(|member| match member {
        Member::Method(method) => signature(private, method),
        Member::Event(event) => event_signature(event),
    });
    let methods = service.methods().map(|method| descriptor(private, method));
    let events = service.events().map(|event| event_descriptor(private, event));
    let descriptor = descriptor_name(service);

    quote_spanned! {Span::mixed_site()=>
        #(#attrs)*
        #vis trait #ident #generics:
            ::core::marker::Send + ::core::marker::Sync + 'static
        #where_clause
        {
            #(#signatures)*
        }

        #[doc(hidden)]
        static #descriptor: #private::ServiceDescriptor = #private::ServiceDescriptor {
            name: #wire_name,
            docs: #docs,
            methods: &[#(#methods),*],
            events: &[#(#events),*],
        };
    }
}

fn signature(private: &TokenStream, method: &Method) -> TokenStream {
    let Method { attrs, signature, output, .. } = method;
    let (fn_token, ident, inputs) = (signature.fn_token, &signature.ident, &signature.inputs);
    let span = span_at(&method.ident);
    let private = moved_path(private, span);

    quote_spanned! {span=>
        #(#attrs)*
        #fn_token #ident(#inputs)
            -> impl #private::Future<Output = #output> + ::core::marker::Send;
    }
}

fn descriptor(private: &TokenStream, method: &Method) -> TokenStream {
    let name = method.ident.unraw().to_string();
    let signature = signatures::of_method(method);
    let types = signatures::types(method);
    let docs = &method.docs;
    let (blocking, idempotent) = (method.options.blocking, method.options.idempotent);

    quote_spanned! {Span::mixed_site()=>
        #private::MethodDescriptor {
            name: #name,
            signature: #signature,
            types: #types,
            docs: #docs,
            blocking: #blocking,
            idempotent: #idempotent,
        }
    }
}

/// The user's own tokens: an event is written as it is printed.
fn event_signature(event: &Event) -> TokenStream {
    let Event { attrs, signature, .. } = event;
    quote_spanned!(Span::mixed_site()=> #(#attrs)* #signature;)
}

fn event_descriptor(private: &TokenStream, event: &Event) -> TokenStream {
    let name = event.ident.unraw().to_string();
    let signature = signatures::of_event(event);
    let types = text::of_type(&event.ty);
    let docs = &event.docs;

    quote_spanned! {Span::mixed_site()=>
        #private::EventDescriptor {
            name: #name,
            signature: #signature,
            types: #types,
            docs: #docs,
        }
    }
}

/// Statics have no hygiene, so the name contains that of the trait.
pub(crate) fn descriptor_name(service: &Service) -> Ident {
    format_ident!("__WITRPC_SERVICE_{}", service.ident.unraw(), span = Span::mixed_site())
}

/// A copy of a user's name for generated code: it points to the user's token, but lints treat it as
/// generated.
pub(crate) fn copied(ident: &Ident) -> Ident {
    moved(ident, span_at(ident))
}

/// A copy of a name that points elsewhere.
pub(crate) fn moved(ident: &Ident, span: Span) -> Ident {
    let mut ident = ident.clone();
    ident.set_span(span);
    ident
}

/// The span of code that stands for what the user named `ident`: errors point there.
pub(crate) fn span_at(ident: &Ident) -> Span {
    Span::mixed_site().located_at(ident.span())
}

/// The tokens of a path, with the span `span`; otherwise errors would point to the attribute.
pub(crate) fn moved_path(path: &TokenStream, span: Span) -> TokenStream {
    let tokens = path.clone().into_iter().map(|mut token| {
        token.set_span(token.span().located_at(span));
        token
    });
    tokens.collect()
}

/// The visibility of the trait, as [`copied`] is for names.
pub(crate) fn copied_vis(vis: &Visibility) -> Visibility {
    let mut vis = vis.clone();
    match &mut vis {
        Visibility::Public(token) => token.span = Span::mixed_site().located_at(token.span),
        Visibility::Restricted(restricted) => {
            let token = &mut restricted.pub_token;
            token.span = Span::mixed_site().located_at(token.span);
        }
        Visibility::Inherited => {}
    }
    vis
}

/// The attributes of a member that its copy on the client gets; all others are for the trait only.
pub(crate) fn copied_attrs(attrs: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attrs.iter().filter(|attr| ["doc", "deprecated"].iter().any(|name| attr.path().is_ident(name)))
}

/// Allows lints about the user's types and names where generated code repeats them: they are reported
/// for the trait already, and an `#[expect]` there has no effect here.
pub(crate) fn lenience() -> TokenStream {
    quote_spanned! {Span::mixed_site()=>
        #[allow(deprecated, clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
    }
}

/// The generics of the trait, in the forms in which the two structs need them.
///
/// Each list ends in a comma or is empty.
pub(crate) struct Parameters {
    /// `K = String, const N: usize = 3,`
    pub(crate) declared: TokenStream,
    /// `K, const N: usize,`
    pub(crate) unbounded: TokenStream,
    /// `K: Clone, const N: usize,`
    pub(crate) bounded: TokenStream,
    /// `K, N,`
    pub(crate) arguments: TokenStream,
    /// `where V: Clone, K: 'static,`
    pub(crate) where_clause: TokenStream,
    /// `marker: PhantomData<fn() -> (K,)>,`
    pub(crate) marker_field: TokenStream,
    /// `marker: PhantomData,`
    pub(crate) marker_value: TokenStream,
}

impl Parameters {
    pub(crate) fn of(service: &Service) -> Self {
        let span = Span::mixed_site();
        let mut this = Self {
            declared: TokenStream::new(),
            unbounded: TokenStream::new(),
            bounded: TokenStream::new(),
            arguments: TokenStream::new(),
            where_clause: TokenStream::new(),
            marker_field: TokenStream::new(),
            marker_value: TokenStream::new(),
        };
        let mut types = Vec::new();
        for param in &service.generics.params {
            match param {
                GenericParam::Type(param) => {
                    let (ident, bounds) = (copied(&param.ident), &param.bounds);
                    let default =
                        param.default.as_ref().map(|(eq, ty)| quote_spanned!(span=> #eq #ty));
                    this.declared.extend(quote_spanned!(span=> #ident #default,));
                    this.unbounded.extend(quote_spanned!(span=> #ident,));
                    this.bounded.extend(quote_spanned!(span=> #ident: #bounds,));
                    this.arguments.extend(quote_spanned!(span=> #ident,));
                    types.push(ident);
                }
                GenericParam::Const(param) => {
                    let (ident, ty) = (copied(&param.ident), &param.ty);
                    let default =
                        param.default.as_ref().map(|(eq, value)| quote_spanned!(span=> #eq #value));
                    this.declared.extend(quote_spanned!(span=> const #ident: #ty #default,));
                    this.unbounded.extend(quote_spanned!(span=> const #ident: #ty,));
                    this.bounded.extend(quote_spanned!(span=> const #ident: #ty,));
                    this.arguments.extend(quote_spanned!(span=> #ident,));
                }
                GenericParam::Lifetime(_) => {}
            }
        }

        let predicates = service.generics.where_clause.iter().flat_map(|clause| &clause.predicates);
        this.where_clause = quote_spanned!(span=> where #(#predicates,)* #(#types: 'static,)*);
        if !types.is_empty() {
            this.marker_field =
                quote_spanned!(span=> marker: ::core::marker::PhantomData<fn() -> (#(#types,)*)>,);
            this.marker_value = quote_spanned!(span=> marker: ::core::marker::PhantomData,);
        }
        this
    }
}

/// `(a, b,)`, or a tuple of such tuples where there are more than serde has.
pub(crate) fn tuple<T: ToTokens>(elements: &[T]) -> TokenStream {
    let elements = elements_of_tuple(elements);
    quote_spanned!(Span::mixed_site()=> (#(#elements,)*))
}

fn elements_of_tuple<T: ToTokens>(elements: &[T]) -> Vec<TokenStream> {
    if elements.len() <= MAX_TUPLE {
        return elements.iter().map(ToTokens::to_token_stream).collect();
    }
    let inner = |chunk: &[T]| quote_spanned!(Span::mixed_site()=> (#(#chunk,)*));
    elements.chunks(MAX_TUPLE).map(inner).collect()
}

/// `arguments2::<i32, i32>()`, in the same words on both sides: a type that cannot cross is one error.
pub(crate) fn arguments(service: &Service, method: &Method) -> TokenStream {
    let span = span_at(&method.ident);
    let private = moved_path(&service.private, span);
    let types: Vec<&Type> = method.arguments.iter().map(|argument| &argument.ty).collect();
    let types = elements_of_tuple(&types);
    let function = format_ident!("arguments{}", types.len(), span = span);
    quote_spanned!(span=> #private::#function::<#(#types),*>())
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn arity(count: usize) -> (usize, Option<usize>) {
        let tuple: syn::TypeTuple = syn::parse2(tuple(&vec![quote!(u8); count])).unwrap();
        let inner = tuple.elems.last().and_then(|last| match last {
            syn::Type::Tuple(last) => Some(last.elems.len()),
            _ => None,
        });
        (tuple.elems.len(), inner)
    }

    #[test]
    fn tuples_are_nested_where_serde_ends() {
        assert_eq!(arity(0), (0, None));
        assert_eq!(arity(1), (1, None));
        assert_eq!(arity(16), (16, None));
        assert_eq!(arity(17), (2, Some(1)));
        assert_eq!(arity(256), (16, Some(16)));
    }

    #[test]
    fn parameters_have_bounds_and_defaults_only_where_they_may() {
        let item = quote!(
            trait Store<K: Clone, const N: usize = 3>
            where
                K: Eq,
            {
            }
        );
        let service = Service::parse(quote!(name = "Store"), item).unwrap();
        let parameters = Parameters::of(&service);
        for (printed, expected) in [
            (parameters.declared, "K , const N : usize = 3 ,"),
            (parameters.unbounded, "K , const N : usize ,"),
            (parameters.bounded, "K : Clone , const N : usize ,"),
            (parameters.arguments, "K , N ,"),
            (parameters.where_clause, "where K : Eq , K : 'static ,"),
        ] {
            assert_eq!(printed.to_string(), expected);
        }
    }
}
