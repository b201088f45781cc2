//! Normalization of syntax.

use syn::{Attribute, Expr, Lit, Meta, Type};

/// A `$t:ty` of `macro_rules!` comes in an invisible group.
pub(super) fn ungrouped(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => ungrouped(&group.elem),
        Type::Paren(paren) => ungrouped(&paren.elem),
        other => other,
    }
}

/// The lines of the doc comments, each without its leading space.
pub(super) fn docs(attrs: &[Attribute]) -> String {
    let mut docs = String::new();
    for attr in attrs {
        if let Meta::NameValue(meta) = &attr.meta {
            if meta.path.is_ident("doc") {
                if let Expr::Lit(value) = &meta.value {
                    if let Lit::Str(text) = &value.lit {
                        for line in text.value().split('\n') {
                            docs.push_str(line.strip_prefix(' ').unwrap_or(line));
                            docs.push('\n');
                        }
                    }
                }
            }
        }
    }
    docs.trim().to_owned()
}
