//! Signatures of methods and events as text: one form for people, and one that the two sides compare.

use syn::ext::IdentExt as _;

use crate::model::{Event, Method};
use crate::text::of_type;

/// `add(a: i32, b: i32) -> Result<i32>`, for people.
pub(crate) fn of_method(method: &Method) -> String {
    let arguments: Vec<String> = method
        .arguments
        .iter()
        .map(|argument| format!("{}: {}", argument.name.unraw(), of_type(&argument.ty)))
        .collect();
    format!("{}({}) -> {}", method.ident.unraw(), arguments.join(", "), of_type(&method.output))
}

/// `(i32, i32) -> Result<i32>`, which is what the two sides compare.
pub(crate) fn types(method: &Method) -> String {
    let arguments: Vec<String> =
        method.arguments.iter().map(|argument| of_type(&argument.ty)).collect();
    format!("({}) -> {}", arguments.join(", "), of_type(&method.output))
}

/// `progress: f64`, for people.
pub(crate) fn of_event(event: &Event) -> String {
    format!("{}: {}", event.ident.unraw(), of_type(&event.ty))
}
