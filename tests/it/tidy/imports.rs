//! Checks which file uses which: there are no circles, and no folder uses one above it.
//!
//! A file uses another file of its crate if its code has a path to it, in a `use` or elsewhere. Not counted: children that a parent
//! only declares (`mod`) and re-exports (`pub use`), and what tests use.

use std::collections::{BTreeMap, BTreeSet};

use super::sources;

/// The files of a crate by their paths as modules, without those that are for tests only; and where each leads.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Crates whose files are in no circle, with files that are for tests only.
const CRATES: [(&str, &[&str]); 8] = [
    ("crates/witrpc-core/src/", &["fuzz_support", "session/simulation", "testing"]),
    ("crates/witrpc-runtime/src/", &["fuzz_support", "link/reception/loom", "testing"]),
    ("crates/witrpc-macros/src/", &[]),
    ("crates/witrpc-mmf/src/", &["fuzz_support", "bench_support", "ring/tests", "ring/loom"]),
    ("crates/witrpc-mmf-client/src/", &[]),
    ("crates/witrpc-mmf-server/src/", &[]),
    ("crates/witrpc-process/src/", &[]),
    ("benches/rivals/src/", &[]),
];

/// The folders of `witrpc-core`, each above those before it; files beside them belong to the first.
const LAYERS_OF_CORE: [&str; 6] = ["", "wire", "values", "security", "contract", "session"];

/// Those of `witrpc-runtime`, where a file that has no folder counts as one.
const LAYERS_OF_RUNTIME: [&str; 11] = [
    "locks",
    "link",
    "context",
    "streams",
    "events",
    "calls",
    "serving",
    "connection",
    "client",
    "server",
    "builder",
];

/// The code of a file that is not for tests, without comments.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.split("//").next().unwrap_or_default();
        let is_for_tests = line.trim_start().starts_with("#[cfg(")
            && (line.contains("test") || line.contains("fuzzing") || line.contains("loom"))
            && !line.contains("not(");
        if is_for_tests {
            // Passes over the item behind it: to the end of its line, or of its block.
            let indent = line.len() - line.trim_start().len();
            let mut depth = 0;
            for line in lines.by_ref() {
                depth += line.matches('{').count();
                depth -= line.matches('}').count().min(depth);
                let is_attribute = line.trim_start().starts_with("#[");
                let ends = line.trim_end().ends_with([';', '}', ',']) && depth == 0;
                if ends && !is_attribute && line.len() - line.trim_start().len() <= indent {
                    break;
                }
            }
            continue;
        }
        code.push_str(line);
        code.push('\n');
    }
    code
}

/// The paths that a `use` tree names.
fn expand(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((before, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        if !path.is_empty() {
            found.push(format!("{prefix}{path}"));
        }
        return;
    };
    let prefix = format!("{prefix}{}", before.trim());
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[begin..at], found);
                begin = at + 1;
            }
            _ => {}
        }
    }
    expand(&prefix, &inner[begin..], found);
}

/// The paths in a file's code that begin with one of its own crate: those that it passes on, and those that it uses.
fn paths(code: &str) -> (Vec<String>, Vec<String>) {
    let (mut passed_on, mut used) = (Vec::new(), Vec::new());
    let mut rest = String::new();
    for (at, statement) in code.split(';').enumerate() {
        // The first keyword of its line, whatever stands in front of the statement.
        let is_import = |line: &str| {
            let line = line.trim_start();
            line.starts_with("use ") || line.starts_with("pub use ") || line.starts_with("pub(")
        };
        let begin = statement
            .match_indices('\n')
            .map(|(at, _)| at + 1)
            .chain([0])
            .find(|at| is_import(&statement[*at..]) && statement[*at..].contains("use "));
        match begin {
            Some(begin) => {
                rest.push_str(&statement[..begin]);
                let import = statement[begin..].trim_start();
                let (visibility, tree) = import.split_once("use ").unwrap_or_default();
                let into = if visibility.is_empty() { &mut used } else { &mut passed_on };
                expand("", tree, into);
            }
            None => rest.push_str(statement),
        }
        if at > 0 {
            rest.push(';');
        }
    }
    for word in rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        if word.starts_with("crate::") || word.starts_with("super::") || word.starts_with("self::")
        {
            used.push(word.trim_end_matches(':').to_owned());
        }
    }
    (passed_on, used)
}

/// The file that a path in `module` leads to.
fn resolve(files: &Graph, module: &str, path: &str) -> Option<String> {
    let mut segments = path.split("::").peekable();
    let mut at: Vec<&str> = module.split('/').filter(|segment| !segment.is_empty()).collect();
    match *segments.peek()? {
        "crate" => {
            segments.next();
            at.clear();
        }
        "self" => {
            segments.next();
        }
        "super" => {
            while segments.next_if_eq(&"super").is_some() {
                at.pop();
            }
        }
        // A child that is in scope.
        child if files.contains_key(&[module, child].join("/")) => {}
        _ => return None,
    }
    for segment in segments {
        at.push(segment);
        if !files.contains_key(&at.join("/")) {
            at.pop();
            break;
        }
    }
    Some(at.join("/"))
}

fn graph(root: &str, of_tests: &[&str]) -> Graph {
    let mut texts = BTreeMap::new();
    for (name, text) in sources() {
        let Some(name) = name.strip_prefix(root).and_then(|name| name.strip_suffix(".rs")) else {
            continue;
        };
        if !of_tests.iter().any(|prefix| name.starts_with(prefix)) {
            texts.insert(
                if matches!(name, "lib" | "main") { String::new() } else { name.to_owned() },
                text,
            );
        }
    }
    let mut files: Graph = texts.keys().map(|name| (name.clone(), BTreeSet::new())).collect();
    for (module, text) in &texts {
        let (passed_on, used) = paths(&code(text));
        let mut leads = BTreeSet::new();
        for path in &used {
            leads.extend(resolve(&files, module, path));
        }
        for path in &passed_on {
            // A parent that passes a child on does not use it.
            let to = resolve(&files, module, path);
            leads.extend(to.filter(|to| !to.starts_with(&format!("{module}/"))));
        }
        leads.remove(module);
        leads.remove("");
        files.insert(module.clone(), leads);
    }
    files.remove("");
    files
}

/// Files that lead to one another, each circle once.
fn circles(files: &Graph) -> Vec<BTreeSet<&str>> {
    let reach = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(file) = next.pop() {
            for to in files.get(file).into_iter().flatten() {
                if seen.insert(&**to) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        files.keys().map(|file| (&**file, reach(file))).collect();
    let mut found: Vec<BTreeSet<&str>> = Vec::new();
    for (file, to) in &reached {
        if to.contains(file) && !found.iter().any(|circle| circle.contains(file)) {
            found.push(to.iter().copied().filter(|to| reached[to].contains(file)).collect());
        }
    }
    found
}

#[test]
fn no_file_leads_back_to_itself() {
    for (root, of_tests) in CRATES {
        let files = graph(root, of_tests);
        let arrows = files.values().map(BTreeSet::len).sum::<usize>();
        assert!(arrows + 3 > files.len(), "{root}: {arrows} arrows of {} files", files.len());
        let circles = circles(&files);
        assert!(circles.is_empty(), "{root}: {circles:#?}");
    }
}

#[test]
fn no_folder_uses_one_above_it() {
    let beside = ["bench_support", "transport"];
    for ((root, of_tests), layers) in
        [(CRATES[0], &LAYERS_OF_CORE[..]), (CRATES[1], &LAYERS_OF_RUNTIME)]
    {
        let layer = |file: &str| {
            let folder = file.split('/').next().unwrap_or_default();
            layers.iter().position(|layer| *layer == folder).unwrap_or(0)
        };
        let is_of_a_layer = |file: &str| {
            layers[0].is_empty() || layers.contains(&file.split('/').next().unwrap_or_default())
        };
        let files = graph(root, of_tests);
        let mut seen = BTreeSet::new();
        for (from, leads) in &files {
            if beside.contains(&from.split('/').next().unwrap_or_default()) {
                continue; // `transport` of the runtime is a transport like any other.
            }
            assert!(is_of_a_layer(from), "{root}{from} is in no layer");
            seen.insert(layer(from));
            for to in leads {
                assert!(layer(to) <= layer(from), "{root}{from} uses {to}");
            }
        }
        assert_eq!(seen.len(), layers.len(), "{root}: a layer was not found");
    }
}

#[test]
fn a_circle_is_found_and_what_is_passed_on_or_of_tests_is_none() {
    let files = |texts: &[(&str, &str)]| {
        let mut files: Graph =
            texts.iter().map(|(name, _)| ((*name).to_owned(), BTreeSet::new())).collect();
        for (name, text) in texts {
            let (passed_on, used) = paths(&code(text));
            let leads =
                used.iter().chain(&passed_on).filter_map(|path| resolve(&files, name, path));
            let leads = leads.filter(|to| to != name).collect();
            files.insert((*name).to_owned(), leads);
        }
        files
    };
    let circle = files(&[
        ("a", "use crate::b::{c::C, B as D};\n"),
        ("b", "mod c;\nfn f() { self::c::g() }\n"),
        ("b/c", "fn g() {}\nfn h() -> crate::a::A { super::super::a::h() }\n"),
    ]);
    assert_eq!(circles(&circle), [BTreeSet::from(["a", "b", "b/c"])]);
    let none = files(&[
        ("a", "use crate::b::B;\n"),
        ("b", "// use crate::a::A;\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n"),
    ]);
    assert!(circles(&none).is_empty());
    assert_eq!(none["a"], BTreeSet::from(["b".to_owned()]));
}
