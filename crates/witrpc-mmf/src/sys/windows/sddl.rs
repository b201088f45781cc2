//! Owners and access lists as text, in Windows' own notation. Pure.
//!
//! `O:` an owner, `D:` flags and entries, each in parentheses: kind, flags, rights, two more, and whom it is for.

/// Whose access to an endpoint changes nothing, as they have it anyway: the system, the administrators, and what stands for the
/// owner.
const ANYWAY: [&str; 8] =
    ["SY", "BA", "CO", "OW", "S-1-5-18", "S-1-5-32-544", "S-1-3-0", "S-1-3-4"];

/// All access to this user, and none to anybody else; in a directory, for its files too.
pub(crate) fn only(user: &str, directory: bool) -> String {
    let inherited = if directory { "OICI" } else { "" };
    format!("O:{user}D:P(A;{inherited};GA;;;{user})")
}

/// The owner.
pub(crate) fn owner_of(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("O:")?;
    let end = ["G:", "D:", "S:"].iter().filter_map(|part| rest.find(part)).min();
    Some(&rest[..end.unwrap_or(rest.len())]).filter(|owner| !owner.is_empty())
}

/// What lets others in, in words; `None` if nothing does.
pub(crate) fn fault(text: &str, user: &str) -> Option<String> {
    let known = |whom: &str| whom == user || ANYWAY.contains(&whom);
    match owner_of(text) {
        Some(owner) if known(owner) => {}
        owner => return Some(format!("belongs to another user ({})", owner.unwrap_or("nobody"))),
    }
    let list = text.find("D:").map(|at| &text[at + 2..]).unwrap_or_default();
    let Some(first) = list.find('(') else {
        // Without a list everybody may do anything; with an empty one, nobody.
        let open = list.is_empty() || list.contains("NO_ACCESS_CONTROL");
        return open.then(|| "is open to everybody: it has no access list".to_owned());
    };
    if list[..first].contains("NO_ACCESS_CONTROL") {
        return Some("is open to everybody: it has no access list".to_owned());
    }
    let strangers =
        list[first..].split('(').filter(|entry| !entry.is_empty()).filter_map(|entry| {
            let fields: Vec<_> = entry.split(')').next()?.split(';').collect();
            let whom = fields.get(5).copied().unwrap_or("?");
            (!fields[0].contains('D') && !known(whom)).then_some(whom)
        });
    let mut strangers: Vec<_> = strangers.collect();
    strangers.dedup();
    (!strangers.is_empty()).then(|| {
        format!(
            "is open to others (its access list has {}), not to its user alone",
            strangers.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: &str = "S-1-5-21-1-2-3-1001";

    #[test]
    fn what_is_only_ours_has_no_fault() {
        for text in [
            only(US, true),
            only(US, false),
            format!("O:BAD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICIIO;FA;;;CO)(A;;FA;;;{US})"),
            format!("O:{US}G:S-1-5-21-1-2-3-513D:AI(A;ID;FA;;;{US})(D;;FA;;;WD)"),
            format!("O:{US}D:P"),
        ] {
            assert_eq!(fault(&text, US), None, "{text}");
        }
        assert_eq!(owner_of("O:SYG:SYD:"), Some("SY"));
        assert_eq!(owner_of(&format!("O:{US}")), Some(US));
    }

    #[test]
    fn whoever_else_gets_in_is_told() {
        for (text, told) in [
            (format!("O:{US}D:(A;;FA;;;{US})(A;;0x1200a9;;;WD)"), "WD"),
            (format!("O:{US}D:(A;OICIIO;GR;;;BU)"), "BU"),
            (format!("O:{US}D:(XA;;FA;;;AU;(WIN://X))"), "AU"),
            (format!("O:{US}D:NO_ACCESS_CONTROL"), "no access list"),
            (format!("O:{US}"), "no access list"),
            ("O:S-1-5-21-1-2-3-1002D:P".to_owned(), "S-1-5-21-1-2-3-1002"),
            ("D:P".to_owned(), "nobody"),
        ] {
            let fault = fault(&text, US).unwrap();
            assert!(fault.contains(told), "{text}: {fault}");
        }
    }
}
