//! What documents and code say of each other: rule ids, where `unsafe` is, and which tests there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file of ours, by its path from the root; the macro's test cases have code of no consequence.
pub(crate) fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["src", "crates", "tests/it", "benches", "examples"].map(|top| root().join(top)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
                found.push((name, read(&path)));
            }
        }
    }
    assert!(found.len() > 40, "the sources were not found");
    found
}

/// The ids in brackets that begin with `family`, each once.
fn ids(text: &str, family: &str) -> BTreeSet<String> {
    let begin = format!("[{family}.");
    text.match_indices(&begin)
        .filter_map(|(at, _)| text[at + 1..].split_once(']'))
        .map(|(id, _)| id)
        .filter(|id| id.chars().all(|c| c.is_ascii_lowercase() || c == '.' || c == '_'))
        .map(str::to_owned)
        .collect()
}

/// The ids that a document defines: those in bold.
fn defined(document: &str, family: &str) -> BTreeSet<String> {
    let text = read(&root().join(document));
    text.split("**").skip(1).step_by(2).flat_map(|bold| ids(bold, family)).collect()
}

#[test]
fn rules_and_code_agree() {
    let sources = sources();
    for (document, family) in [("docs/wire.md", "wire"), ("docs/segment.md", "seg")] {
        let defined = defined(document, family);
        let own = |(name, _): &&(String, String)| name != "tests/it/tidy.rs";
        let cited: BTreeSet<_> =
            sources.iter().filter(own).flat_map(|(_, text)| ids(text, family)).collect();
        let unknown: Vec<_> = cited.difference(&defined).collect();
        assert!(unknown.is_empty(), "cited, and not in {document}: {unknown:?}");
        let orphans: Vec<_> = defined.difference(&cited).collect();
        assert!(orphans.is_empty(), "in {document}, and cited nowhere: {orphans:?}");
        let mentioned = ids(&read(&root().join(document)), family);
        let dangling: Vec<_> = mentioned.difference(&defined).collect();
        assert!(dangling.is_empty(), "mentioned in {document}, and not defined: {dangling:?}");
    }
}

/// The files that `ARCHITECTURE.md` lists under its heading for unsafe code.
fn listed_as_unsafe() -> BTreeSet<String> {
    let text = read(&root().join("ARCHITECTURE.md"));
    let (_, section) = text.split_once("\n## Unsafe code\n").expect("the section");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once('`')).map(|(path, _)| path.to_owned()).collect()
}

/// Whether a line of code, without its comment, has the keyword in a place where it permits something.
fn permits_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern", "unsafe(", "unsafe\n"]
        .iter()
        .any(|form| format!("{code}\n").contains(form))
}

#[test]
fn unsafe_is_where_the_architecture_says() {
    // The macro's own tests and messages have the keyword as text.
    let elsewhere =
        |name: &str| name.starts_with("crates/witrpc-macros/") || name == "tests/it/tidy.rs";
    let found: BTreeSet<_> = sources()
        .into_iter()
        .filter(|(name, text)| !elsewhere(name) && text.lines().any(permits_unsafe))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(found, listed_as_unsafe(), "found, and listed in ARCHITECTURE.md");
}

#[test]
fn crates_without_unsafe_forbid_it_and_the_transport_denies_it() {
    for (file, attribute) in [
        ("src/lib.rs", "#![forbid(unsafe_code)]"),
        ("crates/witrpc-core/src/lib.rs", "#![forbid(unsafe_code)]"),
        ("crates/witrpc-macros/src/lib.rs", "#![forbid(unsafe_code)]"),
        ("crates/witrpc-mmf-client/src/lib.rs", "#![forbid(unsafe_code)]"),
        ("crates/witrpc-mmf-server/src/lib.rs", "#![forbid(unsafe_code)]"),
        ("crates/witrpc-mmf/src/lib.rs", "#![deny(unsafe_code)]"),
    ] {
        assert!(read(&root().join(file)).contains(attribute), "{file} lacks {attribute}");
    }
}

/// The files that ARCHITECTURE.md calls pure, in its table of invariants.
#[test]
fn pure_modules_touch_no_clock_lock_task_or_handle() {
    let modules = [
        "frame",
        "message",
        "handshake",
        "inbound",
        "inbound/partial",
        "outbound",
        "outbound/flows",
        "outbound/link",
        "outbound/outgoing",
        "pending",
        "wire",
    ];
    for module in modules {
        let text = read(&root().join(format!("crates/witrpc-core/src/{module}.rs")));
        let code = text.split_once("#[cfg(test)]").map_or(text.as_str(), |(code, _)| code);
        for forbidden in ["Instant::now", "Mutex", "RwLock", "spawn", "std::fs", "std::os", "File"]
        {
            let used = code
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default())
                .any(|line| line.contains(forbidden));
            assert!(!used, "{module}.rs uses {forbidden}");
        }
    }
}

/// A clock that somebody sets back changes no deadline: nothing reads one that can be set.
#[test]
fn nothing_reads_the_time_of_day() {
    let library =
        |(name, _): &(String, String)| name.starts_with("crates/") || name.starts_with("src/");
    for (name, text) in sources().into_iter().filter(library) {
        for clock in ["SystemTime", "UNIX_EPOCH", "ClockId::Realtime", "gettimeofday"] {
            assert!(!text.contains(clock), "{name} reads {clock}");
        }
    }
}

/// Whether an attribute includes what is below it on some systems only.
fn is_for_some_systems(line: &str) -> bool {
    line.trim_start().starts_with("#[cfg(")
        && ["unix", "windows", "target_os"].iter().any(|system| line.contains(system))
}

/// The test or the module that has the line `at` among its attributes.
fn marked_by(lines: &[&str], at: usize) -> Option<String> {
    let is_attribute = |line: &&&str| line.trim_start().starts_with("#[");
    let above = lines[..at].iter().rev().take_while(is_attribute).count();
    let below = lines[at..].iter().take_while(is_attribute).count();
    let is_test = lines[at - above..at + below].iter().any(|line| line.contains("test"));
    let (_, item) = lines.get(at + below)?.split_once(if is_test { "fn " } else { "mod " })?;
    Some(item.split(['(', ';']).next()?.to_owned())
}

#[test]
fn tests_of_one_system_are_listed() {
    let listed = read(&root().join("docs/platforms.md"));
    let mut missing = BTreeSet::new();
    for (file, text) in sources() {
        let lines: Vec<_> = text.lines().collect();
        let marked = (0..lines.len()).filter(|at| is_for_some_systems(lines[*at]));
        for name in marked.filter_map(|at| marked_by(&lines, at)) {
            // A module of a library is no test.
            let is_test = file.contains("tests/") || text.contains(&format!("fn {name}("));
            if is_test && !listed.contains(&format!("{name}`")) {
                missing.insert(format!("{file}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "not in docs/platforms.md: {missing:#?}");
}

#[test]
fn tests_that_documents_name_exist() {
    let sources = sources();
    for document in ["ARCHITECTURE.md", "docs/platforms.md"] {
        let text = read(&root().join(document));
        for name in text.split('`').skip(1).step_by(2) {
            // Words with underscores, as tests have many of.
            let name = name.rsplit("::").next().unwrap_or_default();
            let like_a_test = name.matches('_').count() > 2
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            let exists = || sources.iter().any(|(_, text)| text.contains(&format!("fn {name}(")));
            assert!(!like_a_test || exists(), "{document} names {name}");
        }
    }
}
