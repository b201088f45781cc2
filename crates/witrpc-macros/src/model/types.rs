//! Checks the types of a method: values of them must be able to cross a process boundary.
//!
//! Used by `model` for arguments and results. It checks the spelling only; rustc checks
//! whether a type implements serde's traits.

use syn::{GenericArgument, PathArguments, Type, TypePath};

use super::errors::Errors;
use crate::text;

/// Looks for types that cannot be sent, at any depth.
pub(super) fn check(ty: &Type, errors: &mut Errors) {
    const CONCRETE: &str = "use a concrete type, such as an enum of the alternatives";

    match ty {
        Type::Array(array) => check(&array.elem, errors),
        Type::Group(group) => check(&group.elem, errors),
        Type::Paren(paren) => check(&paren.elem, errors),
        Type::Slice(slice) => check(&slice.elem, errors),
        Type::Tuple(tuple) => tuple.elems.iter().for_each(|elem| check(elem, errors)),
        Type::Path(path) => check_path(path, errors),
        Type::Reference(reference) => errors.push(
            reference,
            format!(
                "a reference cannot cross a process boundary; use an owned type, `{}`",
                owned(&reference.elem)
            ),
        ),
        Type::ImplTrait(opaque) => {
            errors.push(opaque, format!("`impl Trait` cannot be deserialized; {CONCRETE}"));
        }
        Type::TraitObject(object) => {
            errors.push(object, format!("`dyn Trait` cannot be deserialized; {CONCRETE}"));
        }
        Type::Infer(infer) => errors.push(infer, "the type cannot be inferred here; write it out"),
        Type::Ptr(pointer) => errors.push(
            pointer,
            "a pointer cannot cross a process boundary; use an owned type, such as `Vec<T>`",
        ),
        Type::FnPtr(pointer) => errors.push(
            pointer,
            "a function cannot cross a process boundary; offer what it does as a service",
        ),
        _ => {}
    }
}

fn check_path(ty: &TypePath, errors: &mut Errors) {
    if let Some(qself) = &ty.qself {
        check(&qself.ty, errors);
    }
    if let Some(first) = ty.path.segments.first() {
        if first.ident == "Self" {
            errors.push(
                first,
                "`Self` is a different type on client and server; write the type's name",
            );
        }
    }
    for segment in &ty.path.segments {
        let PathArguments::AngleBracketed(list) = &segment.arguments else { continue };
        for argument in &list.args {
            match argument {
                GenericArgument::Type(ty) => check(ty, errors),
                GenericArgument::Lifetime(lifetime) if lifetime.ident != "static" => errors.push(
                    lifetime,
                    "borrowed data cannot cross a process boundary; use an owned type",
                ),
                _ => {}
            }
        }
    }
}

/// What to write instead of a reference.
fn owned(referent: &Type) -> String {
    match referent {
        Type::Slice(slice) => format!("Vec<{}>", text::of_type(&slice.elem)),
        other => match text::of_type(other).as_str() {
            "str" => "String".to_owned(),
            "Path" => "PathBuf".to_owned(),
            other => other.to_owned(),
        },
    }
}
