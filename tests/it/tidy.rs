//! Checks documents and code against each other: rule ids, the places of `unsafe`, and the names of tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod guide;
mod imports;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
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
        ("crates/witrpc-runtime/src/lib.rs", "#![forbid(unsafe_code)]"),
        ("crates/witrpc-macros/src/lib.rs", "#![forbid(unsafe_code)]"),
        ("crates/witrpc-mmf-client/src/lib.rs", "#![forbid(unsafe_code)]"),
        ("crates/witrpc-mmf-server/src/lib.rs", "#![forbid(unsafe_code)]"),
        ("crates/witrpc-process/src/lib.rs", "#![deny(unsafe_code)]"),
        ("crates/witrpc-mmf/src/lib.rs", "#![deny(unsafe_code)]"),
    ] {
        assert!(read(&root().join(file)).contains(attribute), "{file} lacks {attribute}");
    }
}

/// What a path names may be another file by the time it is opened, or opened again: `sys/unix/open.rs` says what follows.
#[test]
fn paths_are_opened_and_given_rights_in_one_place() {
    let ways = [
        "File::open(",
        "File::options()",
        "File::create",
        "OpenOptions",
        "fs::write(",
        "fs::read(",
        "fs::read_to_string(",
        "fs::copy(",
        "set_permissions(",
        "DirBuilder",
        "fs::create_dir",
        "chmodat",
        "chown(",
        "mkfifo",
        "fs::open(",
        "openat",
    ];
    let unix = |(name, _): &(String, String)| {
        name.starts_with("crates/witrpc-mmf/src/") && !name.contains("/windows")
    };
    let (mut place, mut elsewhere) = (0, Vec::new());
    for (name, text) in sources().into_iter().filter(unix) {
        let code = text.split_once("#[cfg(test)]\nmod tests").map_or(&*text, |(code, _)| code);
        if name.ends_with("fuzz_support.rs") {
            continue; // Of the tests.
        }
        let imported = code.split("use rustix::fs::").skip(1).any(|import| {
            let names = import.split(';').next().unwrap_or_default();
            names.split([',', '{', '}', ' ', '\n']).any(|name| name == "open")
        });
        let found = ways.iter().filter(|way| code.contains(*way) && **way != "chown(");
        let found = found.count() + usize::from(imported);
        let found = found + usize::from(code.replace("fchown(", "").contains("chown("));
        if name.ends_with("sys/unix/open.rs") {
            place = found;
        } else if found > 0 {
            elsewhere.push(name);
        }
    }
    assert!(place > 3, "the one place was not found");
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

/// A destructor runs in a forked child as well, on a copy of what is the parent's.
#[test]
fn destructors_of_the_transport_ask_whose_process_it_is() {
    // A `Notifier` has a thread that does not exist in the child, and changes only private memory; what a `Lease` changes asks.
    const HARMLESS: [&str; 2] = ["Notifier", "Lease"];
    let transport = |(name, _): &(String, String)| {
        name.starts_with("crates/witrpc-mmf/src/") && !name.contains("/windows")
    };
    let mut found = 0;
    for (name, text) in sources().into_iter().filter(transport) {
        let code = text.split_once("#[cfg(test)]\nmod tests").map_or(&*text, |(code, _)| code);
        for destructor in code.split("Drop for ").skip(1) {
            let (what, body) = destructor.split_once(" {").unwrap();
            let body = body.split_once("\n}").map_or(body, |(body, _)| body);
            let asks = body.contains("self.owner.is_here()") || HARMLESS.contains(&what);
            assert!(asks, "{name}: the destructor of {what} does not ask for its owner");
            found += 1;
        }
        // A registration is taken back when it is dropped.
        let registers = code.contains("pipe::Receiver") || code.contains("pipe::Sender");
        let may = ["event/fifo.rs", "sys/unix/fork.rs"].iter().any(|file| name.ends_with(file));
        assert!(may || !registers, "{name} has a pipe::Receiver that is no fifo::Pipe or Hold");
    }
    assert!(found > 5, "the destructors were not found");
}

/// What ARCHITECTURE.md says of `witrpc-core`: steps that nothing waits for.
#[test]
fn the_core_touches_no_clock_lock_task_or_handle() {
    let manifest = read(&root().join("crates/witrpc-core/Cargo.toml"));
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").expect("the section");
    let dependencies = dependencies.split_once("\n[").map_or(dependencies, |(section, _)| section);
    for runtime in ["tokio", "futures", "async-std", "smol", "parking_lot"] {
        assert!(!dependencies.contains(runtime), "witrpc-core depends on {runtime}");
    }
    let of_tests = ["fuzz_support", "testing.rs", "simulation", "bench_support"];
    let core = |(name, _): &(String, String)| {
        name.starts_with("crates/witrpc-core/src/") && !of_tests.iter().any(|t| name.contains(t))
    };
    let mut found = 0;
    for (name, text) in sources().into_iter().filter(core) {
        found += 1;
        let code = text.split_once("#[cfg(test)]\nmod tests").map_or(&*text, |(code, _)| code);
        let code = code.split_once("#[cfg(all(test, ").map_or(code, |(code, _)| code);
        for forbidden in
            ["Instant::now", "Mutex", "RwLock", "Condvar", "spawn(", "std::fs", "std::os", "sleep("]
        {
            let used = code
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default())
                .any(|line| line.contains(forbidden));
            assert!(!used, "{name} uses {forbidden}");
        }
    }
    assert!(found > 30, "the core was not found");
}

/// What has more than ten fields is several things, or says why it is one.
#[test]
fn what_has_many_fields_says_why() {
    let mut seen = 0;
    for (name, text) in sources() {
        if !name.starts_with("crates/") || name.contains("/tests/") || name.contains("fuzz_support")
        {
            continue;
        }
        let mut comment = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let trimmed = line.trim_start();
            if trimmed.starts_with("///") || trimmed.starts_with("#[") {
                comment.push_str(trimmed);
                continue;
            }
            let of_struct = std::mem::take(&mut comment);
            let is_struct = trimmed.starts_with("struct ") || trimmed.contains(") struct ");
            let is_struct = is_struct || trimmed.starts_with("pub struct ");
            if !is_struct || !trimmed.ends_with('{') {
                continue;
            }
            seen += 1;
            let end = format!("{}}}", &line[..line.len() - trimmed.len()]);
            let body = lines.by_ref().take_while(|line| *line != end);
            let fields = body.filter(|line| {
                let field = line.trim_start();
                !field.starts_with("//") && !field.starts_with('#') && field.contains(": ")
            });
            let fields = fields.count();
            let says_why = of_struct.contains("Many fields:");
            assert!(fields <= 10 || says_why, "{name}: {fields} fields in {trimmed}");
        }
    }
    assert!(seen > 100, "the sources were not found");
}

/// L1 and L2 of `locks`: no lock of the runtime is without a rank, and nobody is woken past what looks for locks.
#[test]
fn locks_have_ranks() {
    // The transport in memory is exempt, as all transports are.
    let without = [
        "/transport/memory.rs",
        "/transport/memory/arena.rs",
        "/transport/memory/pipe.rs",
        "/locks.rs",
        "/link/sync.rs",
        "/link/reception/loom.rs",
        "/link/rescue.rs",
    ];
    let mut seen = 0;
    for (name, text) in sources() {
        let is_ours =
            name.starts_with("crates/witrpc-runtime/src/") && !name.contains("/fuzz_support");
        if !is_ours || without.iter().any(|path| name.ends_with(path)) {
            continue;
        }
        seen += 1;
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let imports = text.split(';').filter(|statement| statement.contains("use std::sync::"));
        for import in imports {
            assert!(!import.contains("Mutex") && !import.contains("RwLock"), "{name}: {import}");
        }
        assert!(
            !text.contains("std::sync::Mutex") && !text.contains("std::sync::RwLock"),
            "{name}"
        );
        for line in text.lines() {
            let wakes = line.contains("Waker::wake") || line.contains(".wake_by_ref()");
            let wakes_one = line.contains(".wake()")
                && ![
                    "state.waker.wake()",
                    "driver().wake()",
                    "self.waker.wake()",
                    "peer.waker.wake()",
                ]
                .iter()
                .any(|known| line.contains(known));
            assert!(
                !(wakes || wakes_one),
                "{name} wakes by itself, and not by locks::wake: {line}"
            );
        }
    }
    assert!(seen > 50, "the sources were not found");
}

/// A clock that somebody sets back changes no deadline: nothing reads one that can be set.
#[test]
fn nothing_reads_the_time_of_day() {
    // What a worker may call is no call of ours.
    let library = |(name, _): &(String, String)| {
        (name.starts_with("crates/") || name.starts_with("src/"))
            && !name.ends_with("sandbox/linux/filter/lists.rs")
    };
    for (name, text) in sources().into_iter().filter(library) {
        for clock in ["SystemTime", "UNIX_EPOCH", "ClockId::Realtime", "gettimeofday"] {
            assert!(!text.contains(clock), "{name} reads {clock}");
        }
    }
}

/// A time limit of a user's may be of any length, and the sum of an instant and that overflows: so it is made where it saturates.
#[test]
fn time_limits_of_any_length_are_added_where_they_saturate() {
    let library = |(name, _): &(String, String)| {
        name.starts_with("crates/")
            && name.contains("/src/")
            && !name.contains("fuzz_support/")
            && !name.ends_with("/timers.rs")
    };
    let mut found = 0;
    for (name, text) in sources().into_iter().filter(library) {
        let code = text.split_once("#[cfg(test)]\nmod tests").map_or(&*text, |(code, _)| code);
        for (at, sum) in code.match_indices("now() + ") {
            let added = code[at + sum.len()..].split([';', ')', ' ']).next().unwrap_or_default();
            // A constant, or what is at most one.
            let bound = added.rsplit("min(").next().unwrap_or_default();
            let is_constant = bound.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            assert!(is_constant, "{name} adds {added} to an instant: see timers.rs");
            found += 1;
        }
    }
    assert!(found > 2, "the sums were not found");
}

/// The oldest compiler that the libraries promise has none, and `.ci/run` finds out late.
#[test]
fn the_libraries_have_no_let_chains() {
    let library =
        |(name, _): &(String, String)| name.starts_with("crates/") && name.contains("/src/");
    for (name, text) in sources().into_iter().filter(library) {
        for line in text.lines().map(str::trim_start) {
            assert!(!line.starts_with("&& let ") && !line.contains(" && let "), "{name}: {line}");
        }
    }
}

/// What a macro is called with, up to the parenthesis that ends it, and without its texts; and these.
fn arguments(call: &str) -> (String, Vec<&str>) {
    let (mut code, mut texts, mut depth) = (String::new(), Vec::new(), 0);
    let mut rest = call;
    while let Some(next) = rest.chars().next() {
        if let Some(text) = rest.strip_prefix('"') {
            let (text, behind) = text.split_once('"').expect("no quote is escaped there");
            texts.push(text);
            rest = behind;
            continue;
        }
        depth += i32::from(next == '(') - i32::from(next == ')');
        if depth < 0 {
            break;
        }
        code.push(next);
        rest = &rest[next.len_utf8()..];
    }
    (code, texts)
}

/// What is shown as it shows itself may have a text of the peer's in it; with `?`, or as a text by itself, it is escaped by the
/// subscriber. So is no message.
#[test]
fn what_is_logged_is_escaped() {
    let library = |(name, _): &(String, String)| {
        (name.starts_with("crates/") && name.contains("/src/")) || name.starts_with("src/")
    };
    let mut found = 0;
    for (name, text) in sources().into_iter().filter(library) {
        let calls = text.match_indices("tracing::").filter_map(|(at, _)| {
            let (name, call) = text[at..].split_once("!(")?;
            name.chars().all(|c| c.is_ascii_lowercase() || "_:".contains(c)).then_some(call)
        });
        for call in calls {
            let (code, texts) = arguments(call);
            for field in code.split('%').skip(1) {
                assert!(field.starts_with("Escaped("), "{name} logs %{field}");
            }
            let fields = code.split(',').map(|field| field.split('=').next().unwrap().trim());
            assert!(fields.into_iter().all(|field| field != "message"), "{name}: {code}");
            let plain = texts.iter().all(|text| !text.contains('{'));
            assert!(plain, "{name} logs a text that is put together: {texts:?}");
            found += 1;
        }
    }
    assert!(found > 30, "the calls were not found");
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

/// Whether a file has this test, in a module of these names.
fn has_test(path: &str, text: &str, modules: &str, test: &str) -> bool {
    let is_its = |module: &str| {
        path.split(['/', '.']).any(|part| part == module)
            || text.contains(&format!("mod {module} {{"))
    };
    text.contains(&format!("fn {test}("))
        && modules.split("::").all(|module| module.is_empty() || is_its(module))
}

#[test]
fn tests_that_documents_name_exist() {
    let sources = sources();
    for document in
        ["ARCHITECTURE.md", "docs/platforms.md", "docs/reliability.md", "docs/security.md"]
    {
        let text = read(&root().join(document));
        for name in text.split('`').skip(1).step_by(2) {
            // Words with underscores, as tests have many of.
            // An ellipsis stands for what it is run with.
            let (modules, test) = name.rsplit_once("::").unwrap_or(("", name));
            let test = test.trim_start_matches('…');
            let like_a_test = test.matches('_').count() > 2
                && !test.starts_with("with_") // A setting of a builder.
                && test.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            let exists = || sources.iter().any(|(path, text)| has_test(path, text, modules, test));
            assert!(!like_a_test || exists(), "{document} names {name}");
            let input = name.starts_with("fuzz/corpus/").then(|| root().join(name));
            assert!(input.is_none_or(|input| input.exists()), "{document} names {name}");
        }
    }
}

/// Short forms of folders, as the tables of `ARCHITECTURE.md` have them.
const FOLDERS: [(&str, &str); 3] = [
    ("core/", "crates/witrpc-core/src/"),
    ("runtime/", "crates/witrpc-runtime/src/"),
    ("mmf/", "crates/witrpc-mmf/src/"),
];

#[test]
fn files_that_the_architecture_names_exist() {
    let text = read(&root().join("ARCHITECTURE.md"));
    assert!(text.len() <= 12_000, "{} bytes: details belong to the heads of files", text.len());
    let full = |name: &str| {
        FOLDERS
            .iter()
            .find_map(|(short, long)| Some(format!("{long}{}", name.strip_prefix(short)?)))
    };
    let is_below_a_crate =
        |name: &str| FOLDERS.iter().any(|(_, source)| root().join(source).join(name).exists());
    let mut found = 0;
    for name in text.split('`').skip(1).step_by(2) {
        let is_path = (name.contains('/') || name.ends_with(".rs")) && !name.starts_with("//");
        if is_path && !name.contains([' ', '\n']) {
            let path = full(name).unwrap_or_else(|| name.to_owned());
            let exists = root().join(path).exists() || is_below_a_crate(name);
            assert!(exists, "ARCHITECTURE.md names {name}");
            found += 1;
        }
    }
    assert!(found > 50, "the files were not found");
}
