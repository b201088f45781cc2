//! What to do about a value that a format cannot write or read.

/// The two programs were built with different types, most often.
pub(super) const SAME_TYPES: &str = "check that both sides have the same types";
/// The same for formats that know a field by its place.
#[cfg(any(feature = "message-pack", feature = "postcard"))]
pub(super) const BY_PLACE: &str = "check that both sides have the same types, and that no field is left out at times (skip_serializing_if)";

/// Nothing is known.
pub(super) fn none<E>(_error: &E) -> Option<&'static str> {
    None
}

/// serde_json tells kinds of errors apart by their texts only.
#[cfg(feature = "json")]
pub(super) fn json(error: &serde_json::Error) -> Option<&'static str> {
    let text = error.to_string();
    if text.starts_with("key must be a string") {
        return Some(
            "keys in JSON are strings, numbers, bools and unit variants: send a list of pairs, or set with_message_pack() on both sides",
        );
    }
    if text.starts_with("invalid type: null, expected f") {
        return Some("JSON turns NaN and infinities into null: send an Option, or a text");
    }
    // What is read before its type is known finds texts where a map has numbers as keys.
    let is_key = text.starts_with("invalid type: string \"") && text.contains("expected ");
    let untagged = text.starts_with("data did not match any variant of untagged");
    (is_key || untagged).then_some(
        "check that both sides have the same types; in JSON, a map with number keys cannot be read within an untagged, tagged or flattened type: make the keys Strings, or set with_message_pack() on both sides",
    )
}

/// postcard has no types in its bytes, and no names.
#[cfg(feature = "postcard")]
pub(super) const fn postcard(error: &postcard::Error) -> Option<&'static str> {
    match error {
        postcard::Error::WontImplement
        | postcard::Error::NotYetImplemented
        | postcard::Error::SerializeSeqLengthUnknown => Some(
            "postcard writes neither names nor types, which #[serde(untagged)], #[serde(tag)], #[serde(flatten)] and values of any type need: set with_json() or with_message_pack() on both sides",
        ),
        postcard::Error::SerdeSerCustom | postcard::Error::SerdeDeCustom => Some(
            "the type's own code refused the value, or an enum has no such variant: check that both sides have the same types",
        ),
        _ => None,
    }
}
