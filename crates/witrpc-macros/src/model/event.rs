//! A parsed event of the trait: `#[event] fn progress(&self) -> &Event<f64>;`.
//!
//! Used by `model`, which tells events from methods by [`is_marked`]. The type `Event` is recognized
//! by its last path segment; rustc checks that it is the library's where the client returns it.

use proc_macro2::Ident;
use quote::quote;
use syn::ext::IdentExt as _;
use syn::{
    Attribute, FnArg, GenericArgument, Meta, PathArguments, ReturnType, Signature, TraitItemFn,
    Type,
};

use super::errors::Errors;
use super::syntax::{docs, ungrouped};
use super::{signature, types};

/// One `#[event] fn` of the trait.
pub(crate) struct Event {
    /// As written, without `#[event]`.
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) docs: String,
    pub(crate) signature: Signature,
    pub(crate) ident: Ident,
    /// The token `Event` in the return type, to which errors about that type point.
    pub(crate) token: Ident,
    /// The `T` of `&Event<T>`.
    pub(crate) ty: Type,
}

impl Event {
    pub(super) fn parse(item: TraitItemFn, errors: &mut Errors) -> Option<Self> {
        let TraitItemFn { attrs, sig: signature, default, .. } = item;
        let (marks, attrs): (Vec<_>, Vec<_>) =
            attrs.into_iter().partition(|attr| attr.path().is_ident("event"));
        check_attrs(&marks, &attrs, errors);
        if let Some(body) = default {
            errors.push(
                body,
                "an event cannot have a default body, because a client receives it from the server; end it with `;`",
            );
        }
        check_signature(&signature, errors);
        let (token, ty) = output(&signature, errors)?;

        Some(Self {
            docs: docs(&attrs),
            attrs,
            ident: signature.ident.clone(),
            token,
            ty,
            signature,
        })
    }
}

/// Whether `#[event]` stands above this member.
pub(super) fn is_marked(item: &TraitItemFn) -> bool {
    item.attrs.iter().any(|attr| attr.path().is_ident("event"))
}

/// Whether this member looks like an event, but is not marked as one.
pub(super) fn is_unmarked(item: &TraitItemFn) -> bool {
    let ReturnType::Type(_, output) = &item.sig.output else { return false };
    item.sig.asyncness.is_none() && parts(output).is_some()
}

fn check_attrs(marks: &[Attribute], others: &[Attribute], errors: &mut Errors) {
    for mark in marks {
        if !matches!(mark.meta, Meta::Path(_)) {
            errors.push(mark, "an event has no options; write `#[event]`");
        }
    }
    for options in others.iter().filter(|attr| attr.path().is_ident("witrpc")) {
        errors.push(options, "`#[witrpc(…)]` is for methods; write `#[event]` alone");
    }
    signature::check_cfg(others, "events", errors);
}

fn check_signature(signature: &Signature, errors: &mut Errors) {
    signature::check(signature, "an event", errors);
    if let Some(keyword) = &signature.asyncness {
        errors.push(keyword, "an event is not async; write `fn`");
    }
    let arguments = signature.inputs.iter().filter(|input| matches!(input, FnArg::Typed(_)));
    let variadic = &signature.variadic;
    let arguments = quote!(#(#arguments),* #variadic);
    if !arguments.is_empty() {
        errors.push(
            arguments,
            "an event has no arguments, because all subscribers receive the same values; write `&self` alone",
        );
    }
}

fn output(signature: &Signature, errors: &mut Errors) -> Option<(Ident, Type)> {
    let advice = || {
        format!(
            "an event is returned by reference; write `fn {}(&self) -> &Event<T>`",
            signature.ident.unraw()
        )
    };

    let ReturnType::Type(_, output) = &signature.output else {
        return errors.none(&signature.ident, advice());
    };
    let Some((token, ty)) = parts(output) else {
        return errors.none(output, advice());
    };
    types::check(&ty, errors);
    Some((token, ty))
}

/// The `Event` and the `T` of `&Event<T>`.
fn parts(output: &Type) -> Option<(Ident, Type)> {
    let Type::Reference(reference) = ungrouped(output) else { return None };
    let is_elided = reference.lifetime.as_ref().is_none_or(|lifetime| lifetime.ident == "_");
    let Type::Path(path) = ungrouped(&reference.elem) else { return None };
    if !is_elided || reference.mutability.is_some() || path.qself.is_some() {
        return None;
    }
    let last = path.path.segments.last().filter(|last| last.ident == "Event")?;
    let PathArguments::AngleBracketed(list) = &last.arguments else { return None };
    let mut arguments = list.args.iter();
    let (Some(GenericArgument::Type(ty)), None) = (arguments.next(), arguments.next()) else {
        return None;
    };
    Some((last.ident.clone(), ty.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts_of(source: &str) -> Option<String> {
        let (_, ty) = parts(&syn::parse_str(source).unwrap())?;
        Some(crate::text::of_type(&ty))
    }

    #[test]
    fn an_event_is_known_by_its_last_name_and_its_one_type() {
        for source in
            ["&Event<f64>", "&witrpc::Event<f64>", "&'_ ::a::b::Event::<f64,>", "&(Event<f64>)"]
        {
            assert_eq!(parts_of(source).as_deref(), Some("f64"), "{source}");
        }
        for source in [
            "Event<f64>",
            "&mut Event<f64>",
            "&'static Event<f64>",
            "&Event",
            "&Event<>",
            "&Event<u8, u8>",
            "&Event<'static>",
            "&Event<3>",
            "&Event<f64>::Inner",
            "&<u8 as a::Event<f64>>::Event<f64>",
            "&Events<f64>",
            "&&Event<f64>",
        ] {
            assert_eq!(parts_of(source), None, "{source}");
        }
    }
}
