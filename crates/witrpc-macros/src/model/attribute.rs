//! The arguments of the attribute itself: `#[witrpc::service(name = "…", crate = path)]`.
//!
//! Used by `model`. Each argument is parsed separately, so that an error in one does not hide
//! an error in the next. Names are not validated here.

use std::fmt::Display;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt as _;
use syn::parse::{ParseStream, Parser as _};
use syn::{Error, LitStr, Path, Token};

use super::errors::Errors;

/// The arguments of `#[witrpc::service(…)]`.
#[derive(Default)]
pub(super) struct Arguments {
    pub(super) krate: Option<TokenStream>,
    pub(super) name: Option<LitStr>,
}

impl Arguments {
    pub(super) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut arguments = Self::default();
        let parser = |input: ParseStream<'_>| {
            while !input.is_empty() {
                if let Err(error) = arguments.parse_one(input) {
                    errors.add(error);
                }
                skip_past_comma(input)?;
            }
            Ok(())
        };
        if let Err(error) = parser.parse2(tokens) {
            errors.add(error);
        }
        arguments
    }

    fn parse_one(&mut self, input: ParseStream<'_>) -> Result<(), Error> {
        const ALLOWED: &str = "allowed are `crate = path` and `name = \"WireName\"`";

        let start = input.span();
        let unknown =
            |what: &dyn Display| Error::new(start, format!("unknown argument `{what}`; {ALLOWED}"));
        let key = input.call(Ident::parse_any).map_err(|_| match input.parse::<TokenTree>() {
            Ok(token) => unknown(&token),
            Err(error) => error,
        })?;
        match key.to_string().as_str() {
            "crate" => {
                let path = value(&key, input, |input| input.call(Path::parse_mod_style));
                let path = path.map_err(|span| {
                    Error::new(span, "expected a path; write `crate = ::witrpc`")
                })?;
                self.krate = Some(path.into_token_stream());
            }
            "name" => {
                let name = value(&key, input, |input| input.parse());
                self.name = Some(name.map_err(|span| {
                    Error::new(span, "expected a string; write `name = \"WireName\"`")
                })?);
            }
            other => return Err(unknown(&other)),
        }
        if input.is_empty() || input.peek(Token![,]) {
            return Ok(());
        }
        Err(input.error("expected `,` between arguments"))
    }
}

/// Parses `= …`; the error points to where it is missing.
fn value<T>(
    key: &Ident,
    input: ParseStream<'_>,
    parse: impl FnOnce(ParseStream<'_>) -> Result<T, Error>,
) -> Result<T, Span> {
    let place = |error: Error| if input.is_empty() { key.span() } else { error.span() };
    let _: Token![=] = input.parse().map_err(place)?;
    parse(input).map_err(place)
}

fn skip_past_comma(input: ParseStream<'_>) -> Result<(), Error> {
    while !input.is_empty() {
        if input.parse::<Option<Token![,]>>()?.is_some() {
            break;
        }
        let _: TokenTree = input.parse()?;
    }
    Ok(())
}
