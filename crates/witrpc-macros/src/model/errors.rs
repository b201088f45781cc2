//! The errors in one trait, collected so that one build shows all of them.
//!
//! Used by everything in `model`, and by nothing outside it.

use std::fmt::Display;

use proc_macro2::Span;
use quote::ToTokens;
use syn::Error;

/// The errors so far.
#[derive(Default)]
pub(super) struct Errors(Option<Error>);

impl Errors {
    pub(super) fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    pub(super) fn push(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.add(Error::new_spanned(tokens, message));
    }

    /// As `push`, for a caller that returns `None` then.
    pub(super) fn none<T>(&mut self, tokens: impl ToTokens, message: impl Display) -> Option<T> {
        self.push(tokens, message);
        None
    }

    /// `value`, if it was made and there is no error.
    pub(super) fn into_result<T>(self, value: Option<T>) -> Result<T, Error> {
        match (self.0, value) {
            (None, Some(value)) => Ok(value),
            (Some(errors), _) => Err(errors),
            (None, None) => Err(Error::new(Span::call_site(), "expected a trait")),
        }
    }
}
