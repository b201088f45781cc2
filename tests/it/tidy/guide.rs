//! Checks README, guide and documentation comments: links resolve, every error is explained, and examples can be pasted.

use std::collections::BTreeSet;
use std::fs;

use super::{read, root, sources};

/// Where docs.rs shows the files of the package.
const PACKAGED: &str = "https://docs.rs/crate/witrpc/latest/source/";

/// The chapters of the guide, by name, with their texts.
fn chapters() -> Vec<(String, String)> {
    let entries =
        fs::read_dir(root().join("src/guide")).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> = entries
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), read(&path)))
        .collect();
    assert!(found.len() > 10, "the chapters were not found");
    found
}

/// The targets of the links in a text.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

#[test]
fn the_readme_is_two_screens() {
    let readme = read(&root().join("README.md"));
    assert!(
        readme.len() <= 10_000,
        "README.md has {} bytes: move something to the guide",
        readme.len()
    );
    // `.ci/outside` builds the first block as a program.
    let (_, demo) = readme.split_once("```rust").expect("the demo");
    let demo = demo.split("```").next().unwrap();
    assert!(demo.lines().all(|line| !line.starts_with("# ")), "a hidden line would be pasted");
    assert!(demo.contains("async fn main()") && demo.contains("Some(\"serve\")"), "{demo}");
}

#[test]
fn every_chapter_can_be_found() {
    let (front, readme) = (read(&root().join("src/guide.rs")), read(&root().join("README.md")));
    for (name, text) in chapters() {
        assert!(front.contains(&format!("[`{name}`]")), "src/guide.rs does not list {name}");
        assert!(front.contains(&format!("include_str!(\"guide/{name}.md\")")), "nor include it");
        assert!(
            readme.contains(&format!("(src/guide/{name}.md)")),
            "README.md does not list {name}"
        );
        let summary = text.lines().next().unwrap_or_default();
        assert!(summary.len() > 20 && !summary.starts_with('#'), "{name} begins without a summary");
    }
}

#[test]
fn links_lead_to_files_that_are_there() {
    let mut found = 0;
    let documents = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = documents.filter(|path| path.extension().is_some_and(|is| is == "md"));
    let top = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root().join(name));
    for path in documents.chain(top) {
        let text = read(&path);
        for link in links(&text).filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let target = path.with_file_name("").join(link.split('#').next().unwrap_or_default());
            assert!(target.exists(), "{}: {link}", path.display());
            found += 1;
        }
    }
    assert!(found > 30, "the links were not found");
}

/// On docs.rs there is the package only, and no page beside that of a module.
#[test]
fn links_of_the_guide_work_where_it_is_published() {
    let manifest = read(&root().join("Cargo.toml"));
    assert!(manifest.contains("include = [\"/src\", \"/examples\", \"/docs/*.md\""), "the package");
    let fronts =
        ["src/lib.rs", "src/guide.rs"].map(|path| (path.to_owned(), read(&root().join(path))));
    let mut packaged = 0;
    for (name, text) in chapters().into_iter().chain(fronts) {
        for link in links(&text) {
            if let Some(file) = link.strip_prefix(PACKAGED) {
                assert!(root().join(file).is_file(), "{name}: {link}");
                assert!(file.starts_with("docs/") && file.ends_with(".md"), "{name}: {link}");
                packaged += 1;
            }
            let path = link.split(['#', '(']).next().unwrap_or_default();
            let is_item = path.split("::").all(|part| {
                !part.is_empty()
                    && part
                        .trim_start_matches("macro@")
                        .chars()
                        .all(|c| c.is_alphanumeric() || c == '_')
            });
            assert!(link.starts_with("https://") || is_item, "{name}: {link}");
        }
    }
    assert!(packaged > 5, "the links were not found");
}

/// The variants of a public enum, as its source has them.
fn variants(file: &str, name: &str) -> Vec<String> {
    let text = read(&root().join("crates").join(file));
    let (_, body) = text.split_once(&format!("pub enum {name} {{\n")).expect("the enum");
    let lines = body.split("\n}").next().unwrap().lines();
    let names = lines.filter_map(|line| line.strip_prefix("    "));
    let names = names.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    names.map(|line| line.split([',', ' ', '(', '{']).next().unwrap().to_owned()).collect()
}

#[test]
fn every_error_has_a_cause_and_a_cure() {
    let text = read(&root().join("src/guide/troubleshooting.md"));
    for (file, name, least) in [
        ("witrpc-core/src/error.rs", "Error", 20),
        ("witrpc-runtime/src/events/error.rs", "EventError", 5),
        ("witrpc-core/src/error.rs", "CloseReason", 5),
    ] {
        let variants = variants(file, name);
        assert!(variants.len() >= least, "{variants:?}");
        for variant in variants {
            let link = format!("](crate::{name}::{variant}) | ");
            let row = text.lines().find(|line| line.starts_with("| [`") && line.contains(&link));
            let cells = row.map_or(0, |row| {
                row.trim_matches('|').split(" | ").filter(|cell| cell.len() > 8).count()
            });
            assert_eq!(cells, 3, "{name}::{variant} in the chapter on troubleshooting");
        }
    }
}

/// Users depend on `witrpc`, and paste.
#[test]
fn examples_name_no_inner_crate() {
    let mut wrong = BTreeSet::new();
    let mut lines_of_code = 0;
    let documents = chapters().into_iter().map(|(name, text)| {
        let comment: String = text.lines().flat_map(|line| ["//! ", line, "\n"]).collect();
        (name, comment)
    });
    for (name, text) in
        sources().into_iter().filter(|(name, _)| !name.starts_with("tests/")).chain(documents)
    {
        let comments = text.lines().filter_map(|line| {
            let line = line.trim_start();
            line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))
        });
        let (mut in_block, mut is_code) = (false, false);
        for line in comments.map(str::trim) {
            if let Some(language) = line.strip_prefix("```") {
                in_block = !in_block;
                is_code = in_block
                    && (language.is_empty()
                        || language.contains("rust")
                        || language.contains("no_run"));
            } else if is_code {
                lines_of_code += 1;
                if ["witrpc_core", "witrpc_runtime", "witrpc_macros", "witrpc_mmf"]
                    .iter()
                    .any(|inner| line.contains(inner))
                {
                    wrong.insert(format!("{name}: {line}"));
                }
            }
        }
    }
    assert!(lines_of_code > 200, "the examples were not found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
