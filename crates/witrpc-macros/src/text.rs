//! Types as text, for the descriptor that both sides exchange.
//!
//! Used by `contract` and `signatures` for descriptors and by `model` in messages. Two spellings of one type give one
//! text: each path is cut to its last segment (`std::vec::Vec<foo::Bar>` is `Vec<Bar>`), raw
//! identifiers lose their `r#`, parentheses that group nothing go, and the spacing is ours and not
//! rustc's. It does not resolve names: an alias and its target differ.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt as _;
use syn::{GenericArgument, Path, PathArguments, Type, TypePath};

/// The one text of a type.
pub(crate) fn of_type(ty: &Type) -> String {
    match ty {
        Type::Group(group) => of_type(&group.elem),
        Type::Paren(paren) => of_type(&paren.elem),
        Type::Path(path) => of_type_path(path),
        Type::Array(array) => format!("[{}; {}]", of_type(&array.elem), of_tokens(&array.len)),
        Type::Slice(slice) => format!("[{}]", of_type(&slice.elem)),
        Type::Tuple(tuple) => {
            let elements: Vec<String> = tuple.elems.iter().map(of_type).collect();
            match elements.as_slice() {
                [only] => format!("({only},)"),
                several => format!("({})", several.join(", ")),
            }
        }
        other => of_tokens(other),
    }
}

fn of_type_path(ty: &TypePath) -> String {
    let Some(qself) = &ty.qself else { return of_path(&ty.path) };
    let receiver = of_type(&qself.ty);
    let last = of_path(&ty.path);
    if qself.position == 0 {
        return format!("<{receiver}>::{last}");
    }
    let mut interface = ty.path.clone();
    interface.segments = interface.segments.into_iter().take(qself.position).collect();
    format!("<{receiver} as {}>::{last}", of_path(&interface))
}

fn of_path(path: &Path) -> String {
    let Some(last) = path.segments.last() else { return String::new() };
    let mut text = last.ident.unraw().to_string();
    match &last.arguments {
        PathArguments::None => {}
        PathArguments::AngleBracketed(list) => {
            let arguments: Vec<String> = list.args.iter().map(of_argument).collect();
            if !arguments.is_empty() {
                text.push_str(&format!("<{}>", arguments.join(", ")));
            }
        }
        PathArguments::Parenthesized(list) => text.push_str(&of_tokens(list)),
    }
    text
}

fn of_argument(argument: &GenericArgument) -> String {
    match argument {
        GenericArgument::Type(ty) => of_type(ty),
        GenericArgument::Lifetime(lifetime) => format!("'{}", lifetime.ident),
        GenericArgument::AssocType(assoc) => {
            format!("{} = {}", assoc.ident.unraw(), of_type(&assoc.ty))
        }
        other => of_tokens(other),
    }
}

/// For tokens that are not a type: one space between them, independent of the pretty-printer.
pub(crate) fn of_tokens(tokens: &impl ToTokens) -> String {
    fn collect(tokens: TokenStream, parts: &mut Vec<String>) {
        for token in tokens {
            let TokenTree::Group(group) = token else {
                parts.push(token.to_string());
                continue;
            };
            let (open, close) = match group.delimiter() {
                Delimiter::Parenthesis => ("(", ")"),
                Delimiter::Brace => ("{", "}"),
                Delimiter::Bracket => ("[", "]"),
                Delimiter::None => ("", ""),
            };
            parts.push(open.to_owned());
            collect(group.stream(), parts);
            parts.push(close.to_owned());
        }
    }

    let mut parts = Vec::new();
    collect(tokens.to_token_stream(), &mut parts);
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str) -> String {
        of_type(&syn::parse_str(source).unwrap())
    }

    #[test]
    fn spelling_does_not_matter() {
        for (source, expected) in [
            ("i32", "i32"),
            ("std::vec::Vec<foo::Bar>", "Vec<Bar>"),
            ("::std::vec::Vec::<foo :: Bar>", "Vec<Bar>"),
            ("witrpc::Result<i32>", "Result<i32>"),
            ("Result<(),crate::MyError,>", "Result<(), MyError>"),
            ("HashMap<String,std::vec::Vec<(u8,a::B,)>>", "HashMap<String, Vec<(u8, B)>>"),
            ("(a::B,)", "(B,)"),
            ("(a::B)", "B"),
            ("()", "()"),
            ("[a::B;32]", "[B; 32]"),
            ("[u8; {N+1}]", "[u8; { N + 1 }]"),
            ("Box<[a::B]>", "Box<[B]>"),
            ("r#type::r#fn<r#try>", "fn<try>"),
            ("<a::B as c::D>::E", "<B as D>::E"),
            ("Cow<'static, str>", "Cow<'static, str>"),
            ("Empty<>", "Empty"),
            ("Matrix<3, {2+2}>", "Matrix<3, { 2 + 2 }>"),
        ] {
            assert_eq!(text(source), expected, "{source}");
        }
    }
}
