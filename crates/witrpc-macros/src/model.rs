//! A parsed service trait, from which `contract`, `server` and `client` generate code.
//!
//! Every error of the macro is raised here, and all errors are collected, so that one build shows all
//! of them. It generates nothing, and does not know the generated code.
//!
//! 1. A [`Service`] exists only if there was no error; the generators check nothing.
//! 2. Each argument has a name, and each name that the macro adds occurs nowhere in the trait.

use std::collections::HashSet;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote_spanned};
use syn::ext::IdentExt as _;
use syn::parse::{ParseStream, Parser as _};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Error, FnArg, GenericParam, Generics, ItemTrait, LitStr, Meta, Pat, ReturnType,
    Signature, Token, TraitItem, TraitItemFn, Type, TypeParamBound, Visibility, WherePredicate,
};

use self::attribute::Arguments;
use self::errors::Errors;
pub(crate) use self::event::Event;
use self::syntax::{docs, ungrouped};
use crate::text;

mod attribute;
mod errors;
mod event;
mod signature;
mod syntax;
mod types;

/// The longest name on the wire, in bytes: it is announced in the welcome of each connection.
const MAX_NAME: usize = 128;

/// serde implements tuples up to this length.
pub(crate) const MAX_TUPLE: usize = 16;

/// A tuple of tuples; deeper nesting is not needed.
const MAX_ARGUMENTS: usize = MAX_TUPLE * MAX_TUPLE;

/// One service trait.
pub(crate) struct Service {
    /// `<crate path>::__private`, ready to be printed.
    pub(crate) private: TokenStream,
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    /// 1 to 128 bytes, without control characters.
    pub(crate) wire_name: String,
    pub(crate) docs: String,
    pub(crate) members: Vec<Member>,
    /// The type parameter for an implementation of the trait.
    pub(crate) implementor: Ident,
}

/// The members of a service trait.
pub(crate) enum Member {
    Method(Method),
    Event(Event),
}

/// One `async fn` of the trait.
pub(crate) struct Method {
    /// As written, without `#[witrpc(…)]`.
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) docs: String,
    pub(crate) signature: Signature,
    pub(crate) ident: Ident,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) output: Type,
    pub(crate) options: Options,
}

/// One argument of a method, `&self` not counted.
pub(crate) struct Argument {
    /// As written, or one of ours for `_`.
    pub(crate) name: Ident,
    pub(crate) ty: Type,
}

/// The options in `#[witrpc(…)]` above a method.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) blocking: bool,
    pub(crate) idempotent: bool,
}

impl Service {
    /// Parses the attribute's arguments and the item below it.
    ///
    /// # Errors
    ///
    /// All mistakes in one error, each at its own token.
    pub(crate) fn parse(arguments: TokenStream, item: TokenStream) -> Result<Self, Error> {
        let mut errors = Errors::default();
        let names = Names::of([arguments.clone(), item.clone()]);

        let arguments = Arguments::parse(arguments, &mut errors);
        let service = match parse_trait.parse2(item) {
            Ok(item) => Some(Self::from_trait(arguments, item, &names, &mut errors)),
            Err(error) => {
                errors.add(error);
                None
            }
        };
        errors.into_result(service)
    }

    fn from_trait(
        arguments: Arguments,
        item: ItemTrait,
        names: &Names,
        errors: &mut Errors,
    ) -> Self {
        check_trait(&item, errors);
        let wire_name = wire_name(arguments.name, &item, errors);
        let members =
            item.items.into_iter().filter_map(|item| Member::parse(item, names, errors)).collect();

        let krate = arguments.krate.unwrap_or_else(|| {
            let witrpc = Ident::new("witrpc", Span::mixed_site());
            quote_spanned!(Span::mixed_site()=> ::#witrpc)
        });
        Self {
            private: quote_spanned!(Span::mixed_site()=> #krate::__private),
            docs: docs(&item.attrs),
            attrs: item.attrs,
            vis: item.vis,
            ident: item.ident,
            generics: item.generics,
            wire_name,
            members,
            implementor: names.unused("S"),
        }
    }

    /// The methods in order: a method's number is its index here.
    pub(crate) fn methods(&self) -> impl Iterator<Item = &Method> {
        self.members.iter().filter_map(|member| match member {
            Member::Method(method) => Some(method),
            Member::Event(_) => None,
        })
    }

    /// The events in order, which are numbered apart from the methods.
    pub(crate) fn events(&self) -> impl Iterator<Item = &Event> {
        self.members.iter().filter_map(|member| match member {
            Member::Event(event) => Some(event),
            Member::Method(_) => None,
        })
    }
}

impl Member {
    fn parse(item: TraitItem, names: &Names, errors: &mut Errors) -> Option<Self> {
        match item {
            TraitItem::Fn(item) => Self::parse_fn(item, names, errors),
            TraitItem::Type(item) => errors.none(
                item.type_token,
                "a service trait cannot have associated types; use a type parameter of the trait, or a \
                 type of your own",
            ),
            TraitItem::Const(item) => errors.none(
                item.const_token,
                "a service trait cannot have associated constants; write a method that returns the \
                 value",
            ),
            TraitItem::Macro(item) => errors
                .none(item.mac.path, "a service trait cannot invoke macros; write the methods out"),
            other => errors.none(
                other,
                "a service trait contains only methods and events, without `pub`; write `async fn name(&self) -> witrpc::Result<T>;`",
            ),
        }
    }

    fn parse_fn(item: TraitItemFn, names: &Names, errors: &mut Errors) -> Option<Self> {
        if event::is_marked(&item) {
            return Event::parse(item, errors).map(Self::Event);
        }
        if event::is_unmarked(&item) {
            return errors.none(
                item.sig.fn_token,
                "an event needs the attribute `#[event]`; write `#[event] fn`",
            );
        }
        Method::parse(item, names, errors).map(Self::Method)
    }
}

impl Method {
    fn parse(item: TraitItemFn, names: &Names, errors: &mut Errors) -> Option<Self> {
        let TraitItemFn { attrs, sig: signature, default, .. } = item;
        let (options, attrs): (Vec<_>, Vec<_>) =
            attrs.into_iter().partition(|attr| attr.path().is_ident("witrpc"));
        let options = Options::parse(&options, errors);
        signature::check_cfg(&attrs, "methods", errors);
        if let Some(body) = default {
            errors.push(
                body,
                "a service method cannot have a default body, because the client's calls go to the server; end it with `;`",
            );
        }
        check_signature(&signature, errors);
        let arguments = arguments(&signature, names, errors);
        let output = output(&signature, errors)?;

        Some(Self {
            docs: docs(&attrs),
            attrs,
            ident: signature.ident.clone(),
            arguments,
            output,
            signature,
            options,
        })
    }
}

impl Options {
    fn parse(attrs: &[Attribute], errors: &mut Errors) -> Self {
        const ALLOWED: &str = "allowed are `blocking` and `idempotent`";

        let mut options = Self::default();
        for attr in attrs {
            let list = Punctuated::<Meta, Token![,]>::parse_terminated;
            let Ok(list) = attr.parse_args_with(list) else {
                errors.push(attr, format!("write `#[witrpc(option)]`; {ALLOWED}"));
                continue;
            };
            for meta in list {
                match &meta {
                    Meta::Path(path) if path.is_ident("blocking") => options.blocking = true,
                    Meta::Path(path) if path.is_ident("idempotent") => options.idempotent = true,
                    other => errors.push(
                        other,
                        format!("unknown option `{}`; {ALLOWED}", text::of_tokens(other)),
                    ),
                }
            }
        }
        options
    }
}

fn parse_trait(input: ParseStream<'_>) -> Result<ItemTrait, Error> {
    let ahead = input.fork();
    ahead.call(Attribute::parse_outer)?;
    let _: Visibility = ahead.parse()?;
    let _: Option<Token![unsafe]> = ahead.parse()?;
    let _: Option<Token![auto]> = ahead.parse()?;
    if ahead.peek(Token![trait]) {
        return input.parse();
    }
    Err(ahead.error(
        "`#[witrpc::service]` goes on a trait; declare the methods in a `trait`, and implement it \
         on a type of yours",
    ))
}

/// Checks the trait itself, without its members.
fn check_trait(item: &ItemTrait, errors: &mut Errors) {
    if let Some(keyword) = &item.unsafety {
        errors.push(keyword, "a service trait cannot be `unsafe`; remove the keyword");
    }
    if let Some(keyword) = &item.modifiers.auto_token {
        errors.push(keyword, "a service trait cannot be `auto`; remove the keyword");
    }
    for bound in item.supertraits.iter().filter(|bound| !is_implied(bound)) {
        no_supertrait(bound, errors);
    }
    for param in &item.generics.params {
        if let GenericParam::Lifetime(param) = param {
            errors.push(
                param,
                "a service trait cannot have lifetime parameters, because values are sent to another process; use owned types",
            );
        }
    }
    let predicates = item.generics.where_clause.iter().flat_map(|clause| &clause.predicates);
    for predicate in predicates {
        if let WherePredicate::Type(predicate) = predicate {
            if predicate.bounded_ty.to_token_stream().to_string() == "Self" {
                no_supertrait(predicate, errors);
            }
        }
    }
}

fn no_supertrait(tokens: impl ToTokens, errors: &mut Errors) {
    errors.push(
        tokens,
        "a service trait cannot have supertraits, because the generated client must implement the trait; remove this one (`Send + Sync + 'static` are added by the macro)",
    );
}

/// Whether the macro adds this supertrait anyway.
fn is_implied(bound: &TypeParamBound) -> bool {
    match bound {
        TypeParamBound::Lifetime(lifetime) => lifetime.ident == "static",
        TypeParamBound::Trait(bound) => {
            let path: Vec<String> =
                bound.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            bound.maybe.is_none()
                && matches!(
                    path.as_slice(),
                    ["Send" | "Sync"] | ["std" | "core", "marker", "Send" | "Sync"]
                )
        }
        _ => false,
    }
}

fn wire_name(given: Option<LitStr>, item: &ItemTrait, errors: &mut Errors) -> String {
    let ident = item.ident.unraw().to_string();
    let is_named = given.is_some();
    let (name, span) = match given {
        Some(given) => (given.value(), given.span()),
        None => (ident.clone(), item.ident.span()),
    };
    let advice = format!("write `name = \"{ident}\"`, for example");
    if name.is_empty() {
        errors.add(Error::new(span, format!("the name is empty; {advice}")));
    } else if name.len() > MAX_NAME {
        errors.add(Error::new(
            span,
            format!("the name has {} bytes, more than {MAX_NAME}; shorten it", name.len()),
        ));
    } else if name.contains(char::is_control) {
        errors.add(Error::new(span, format!("the name has a control character; {advice}")));
    }

    let is_generic =
        item.generics.params.iter().any(|param| !matches!(param, GenericParam::Lifetime(_)));
    if is_generic && !is_named {
        errors.push(
            &item.generics.params,
            format!(
                "a generic service must set its name on the wire, a different one for each set of types; write `#[witrpc::service(name = \"{ident}\")]`"
            ),
        );
    }
    name
}

fn check_signature(signature: &Signature, errors: &mut Errors) {
    signature::check(signature, "a service method", errors);
    if signature.asyncness.is_none() {
        errors.push(signature.fn_token, "a service method is async; write `async fn`");
    }
    if let Some(variadic) = &signature.variadic {
        errors.push(variadic, "a service method cannot be variadic; take a `Vec<T>`");
    }
}

fn arguments(signature: &Signature, names: &Names, errors: &mut Errors) -> Vec<Argument> {
    let typed = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    });
    let mut arguments = Vec::new();
    for (index, typed) in typed.enumerate() {
        if index == MAX_ARGUMENTS {
            errors.push(
                typed,
                format!("a method takes at most {MAX_ARGUMENTS} arguments; group them in a struct"),
            );
        }
        for attr in &typed.attrs {
            errors.push(attr, "an argument cannot have attributes; remove this one");
        }
        types::check(&typed.ty, errors);
        match argument_name(&typed.pat, index, names) {
            Some(name) => arguments.push(Argument { name, ty: (*typed.ty).clone() }),
            None => errors.push(
                &typed.pat,
                "an argument must be a plain name or `_`; destructure it in the implementation",
            ),
        }
    }
    arguments
}

fn argument_name(pat: &Pat, index: usize, names: &Names) -> Option<Ident> {
    match pat {
        Pat::Wild(wild) => {
            let mut name = names.unused(&format!("arg{index}"));
            name.set_span(Span::mixed_site().located_at(wild.span()));
            Some(name)
        }
        Pat::Ident(pat)
            if pat.by_ref.is_none() && pat.mutability.is_none() && pat.subpat.is_none() =>
        {
            Some(pat.ident.clone())
        }
        _ => None,
    }
}

fn output(signature: &Signature, errors: &mut Errors) -> Option<Type> {
    const ADVICE: &str = "a call can fail, so a method returns a `Result`; write `witrpc::Result<T>` or `Result<T, YourError>`";

    let ReturnType::Type(_, output) = &signature.output else {
        return errors.none(&signature.ident, ADVICE);
    };
    if !matches!(ungrouped(output), Type::Path(_)) {
        return errors.none(output, ADVICE);
    }
    types::check(output, errors);
    Some((**output).clone())
}

/// All identifiers that occur in the trait and in the attribute.
struct Names(HashSet<String>);

impl Names {
    fn of(streams: impl IntoIterator<Item = TokenStream>) -> Self {
        fn collect(tokens: TokenStream, names: &mut HashSet<String>) {
            for token in tokens {
                match token {
                    TokenTree::Ident(ident) => {
                        names.insert(ident.unraw().to_string());
                    }
                    TokenTree::Group(group) => collect(group.stream(), names),
                    TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                }
            }
        }

        let mut names = HashSet::new();
        streams.into_iter().for_each(|tokens| collect(tokens, &mut names));
        Self(names)
    }

    /// `wanted`, or `wanted` with underscores if the user has one of that name.
    fn unused(&self, wanted: &str) -> Ident {
        let mut name = wanted.to_owned();
        while self.0.contains(&name) {
            name.push('_');
        }
        format_ident!("{name}", span = Span::mixed_site())
    }
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    fn parse(arguments: TokenStream, item: TokenStream) -> Result<Service, Vec<String>> {
        Service::parse(arguments, item)
            .map_err(|errors| errors.into_iter().map(|error| error.to_string()).collect())
    }

    fn names(service: &Service) -> Vec<String> {
        let arguments = service.methods().flat_map(|method| &method.arguments);
        arguments.map(|argument| argument.name.to_string()).collect()
    }

    #[test]
    fn a_trait_becomes_a_model() {
        let item = quote! {
            #[doc = " First."]
            #[doc = ""]
            #[doc = "   Indented. "]
            pub trait Calc: Send + ::core::marker::Sync + 'static {
                #[witrpc(blocking)]
                #[witrpc(idempotent)]
                #[must_use]
                async fn add(&self, a: i32, b: i32) -> Result<i32>;
            }
        };
        let service = parse(TokenStream::new(), item).unwrap();
        assert_eq!(
            (service.wire_name.as_str(), service.docs.as_str()),
            ("Calc", "First.\n\n  Indented.")
        );
        assert_eq!(service.private.to_string(), ":: witrpc :: __private");
        let method = service.methods().next().unwrap();
        assert!(method.options.blocking && method.options.idempotent);
        assert_eq!(method.attrs.len(), 1);
    }

    #[test]
    fn names_of_ours_differ_from_those_of_the_user() {
        let item = quote!(
            trait Calc {
                async fn a(&self, _: S, arg0: S_, _: u8) -> R;
            }
        );
        let service = parse(quote!(crate = crate::rpc), item).unwrap();
        assert_eq!(names(&service), ["arg0_", "arg0", "arg2"]);
        assert_eq!(service.implementor, "S__");
        assert_eq!(service.private.to_string(), "crate :: rpc :: __private");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let item = quote! {
            unsafe trait Store<K> {
                type Item;
                fn get(self, key: &str, _: (&u8, impl Sized));
            }
        };
        let errors = parse(quote!(nmae = "x"), item).map(|_| ()).unwrap_err();
        assert_eq!(errors.len(), 10, "{errors:#?}");
    }

    #[test]
    fn a_name_is_at_most_128_bytes() {
        for (name, is_allowed) in [
            ("x".repeat(128), true),
            ("x".repeat(129), false),
            ("é".repeat(65), false),
            ("a b/c".to_owned(), true),
            (String::new(), false),
            ("a\u{7f}".to_owned(), false),
        ] {
            let service = parse(
                quote!(name = #name),
                quote!(
                    trait Calc {}
                ),
            );
            assert_eq!(service.is_ok(), is_allowed, "{name:?}");
        }
    }

    #[test]
    fn events_and_methods_are_numbered_apart() {
        let item = quote!(
            trait Jobs {
                /// Done.
                #[event]
                #[must_use]
                fn progress(&self) -> &witrpc::Event<f64>;
                async fn start(&self) -> R;
                #[event]
                fn r#end(&self) -> &Event<()>;
            }
        );
        let service = parse(TokenStream::new(), item).unwrap();
        let events: Vec<String> = service.events().map(|event| event.ident.to_string()).collect();
        assert_eq!(events, ["progress", "r#end"]);
        assert_eq!(service.methods().count(), 1);
        let progress = service.events().next().unwrap();
        assert_eq!((progress.docs.as_str(), progress.attrs.len()), ("Done.", 2));
    }

    #[test]
    fn all_mistakes_of_an_event_are_told_at_once() {
        let item = quote!(
            trait Jobs {
                #[event(once)]
                #[witrpc(blocking)]
                #[cfg(unix)]
                async fn with_timeout<T>(self, a: u8) -> Event<&u8> {}
                fn progress(&self) -> &Event<f64>;
            }
        );
        let errors = parse(TokenStream::new(), item).map(|_| ()).unwrap_err();
        assert_eq!(errors.len(), 11, "{errors:#?}");
    }
}
