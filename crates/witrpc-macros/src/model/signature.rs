//! Checks that apply to the signatures and attributes of both methods and events.
//!
//! Used by `model` for methods and by `event`, which add checks of their own. `what` names the
//! member in messages: `a service method` or `an event`.

use syn::{Attribute, FnArg, ReceiverKind, Safety, Signature};

use super::errors::Errors;

/// The method that each generated client has in addition to those of the trait.
const RESERVED: &str = "with_timeout";

/// Looks for keywords, parameters in angle brackets, a name of ours and a receiver other than
/// `&self`.
pub(super) fn check(signature: &Signature, what: &str, errors: &mut Errors) {
    if let Some(keyword) = &signature.constness {
        errors.push(keyword, format!("{what} cannot be `const`; remove the keyword"));
    }
    if let Safety::Unsafe(keyword) = &signature.safety {
        errors.push(keyword, format!("{what} cannot be `unsafe`; remove the keyword"));
    }
    if let Some(abi) = &signature.abi {
        errors.push(abi, format!("{what} cannot be `extern`; remove the keyword"));
    }
    if signature.ident == RESERVED {
        errors.push(
            &signature.ident,
            format!("each generated client has a method `{RESERVED}`; choose another name"),
        );
    }
    if !signature.generics.params.is_empty() {
        errors.push(
            &signature.generics,
            format!(
                "{what} cannot have generic parameters; use concrete types, or put type parameters on the trait"
            ),
        );
    }
    if let Some(clause) = &signature.generics.where_clause {
        errors.push(clause, format!("{what} cannot have a `where` clause; put it on the trait"));
    }
    check_receiver(signature, errors);
}

/// `members` is the plural of what stands below the attributes.
pub(super) fn check_cfg(attrs: &[Attribute], members: &str, errors: &mut Errors) {
    if let Some(cfg) = attrs.iter().find(|attr| attr.path().is_ident("cfg")) {
        errors.push(
            cfg,
            format!(
                "{members} have the same numbers on both sides, so none can be left out; put `#[cfg]` on the whole trait"
            ),
        );
    }
}

fn check_receiver(signature: &Signature, errors: &mut Errors) {
    const ADVICE: &str = "a service is shared by all its calls; write `&self`";

    let Some(FnArg::Receiver(receiver)) = signature.inputs.first() else {
        return errors.push(&signature.ident, ADVICE);
    };
    if !matches!(receiver.kind, ReceiverKind::Reference(_, None, None))
        || !receiver.attrs.is_empty()
    {
        errors.push(receiver, ADVICE);
    }
}
