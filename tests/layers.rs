//! Which layer of src/ may use which, and what may be in it. That `unsafe` is in postgres/ alone, and that domain/ cannot use
//! PostgreSQL, the compiler sees to as well: `deny(unsafe_code)` in src/lib.rs, and a crate of its own.

use std::fs;
use std::path::{Path, PathBuf};

use magic_link_harness::documentation::root;

/// A folder of src/, and the paths of ours that code in it may name.
const LAYERS: [(&str, &[&str]); 5] = [
    ("domain", &["crate::"]),
    ("postgres", &["crate::postgres", "super::"]),
    (
        "operations/tables",
        &[
            "crate::postgres",
            "domain::",
            "super::",
            "crate::operations::tables",
        ],
    ),
    (
        "operations",
        &[
            "crate::postgres",
            "crate::operations",
            "domain::",
            "super::",
        ],
    ),
    (
        "functions",
        &[
            "crate::postgres",
            "crate::operations",
            "domain::",
            "super::",
        ],
    ),
];

fn source(folder: &str) -> PathBuf {
    root().join("src").join(folder)
}

/// The Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The file's lines of code, up to its tests, and without comments.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("\n#[cfg(test)]").next().unwrap_or_default();
    let code = code.split("\n#[cfg(any(test").next().unwrap_or_default();
    let lines = code.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with("//"));
    lines.map(str::to_owned).collect()
}

/// The layer of a file: the one with the longest path.
fn layer_of(path: &Path) -> &'static (&'static str, &'static [&'static str]) {
    let layers = LAYERS
        .iter()
        .filter(|(folder, _)| path.starts_with(source(folder)));
    layers
        .max_by_key(|(folder, _)| folder.len())
        .expect("a layer")
}

#[test]
fn no_layer_uses_one_above_it() {
    let mut read = 0;
    for path in files(&source("")) {
        if path.parent() == Some(&source("")) {
            continue;
        }
        let (layer, allowed) = layer_of(&path);
        for line in code(&path) {
            for own in ["crate::", "domain::", "super::"] {
                for (place, _) in line.match_indices(own) {
                    let named = &line[place..];
                    let is_whole = !line[..place]
                        .ends_with(|c: char| c.is_alphanumeric() || "_:$".contains(c));
                    let is_allowed = allowed.iter().any(|prefix| named.starts_with(prefix))
                        && !named.starts_with("super::super");
                    assert!(
                        !is_whole || is_allowed,
                        "{layer} uses {named} in {}",
                        path.display()
                    );
                }
            }
        }
        read += 1;
    }
    assert!(read > 40, "only {read} files were read");
}

/// A redemption needs the token table and the directory, and is an operation.
#[test]
fn a_table_does_not_know_another() {
    let tables = source("operations/tables");
    for path in files(&tables) {
        let below = path.strip_prefix(&tables).unwrap();
        let own = below
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let own = own.trim_end_matches(".rs");
        let is_alone = path.parent() == Some(&tables);
        for line in code(&path) {
            let others = line.replace(&format!("tables::{own}"), "");
            let names_others = others.contains("tables::") || is_alone && line.contains("super::");
            assert!(!names_others, "{}: {line}", below.display());
        }
    }
}

#[test]
fn the_domain_knows_no_postgresql_and_operations_no_sql_text() {
    for path in files(&source("domain")) {
        assert!(
            !code(&path).iter().any(|line| line.contains("pgrx")),
            "{}",
            path.display()
        );
    }
    let tables = source("operations/tables");
    let operations = files(&source("operations"))
        .into_iter()
        .filter(|path| !path.starts_with(&tables));
    for path in operations.chain(files(&source("functions"))) {
        let has_statements = code(&path).iter().any(|line| line.contains("statements!"));
        assert!(!has_statements, "{}", path.display());
    }
}

#[test]
fn unsafe_is_in_postgres_alone_and_each_block_argues() {
    let mut blocks = 0;
    for path in files(&source("")) {
        let in_postgres = path.starts_with(source("postgres"));
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (place, line) in lines.iter().enumerate() {
            let is_code = !line.starts_with("//") && !line.starts_with('#');
            if !is_code || !line.contains("unsafe {") {
                continue;
            }
            assert!(in_postgres, "{}: {line}", path.display());
            let argued = lines[place.saturating_sub(8)..place]
                .iter()
                .any(|line| line.contains("// SAFETY:"));
            assert!(argued, "{}: {line}", path.display());
            blocks += 1;
        }
    }
    assert!(blocks > 50, "only {blocks} blocks were found");
}

#[test]
fn no_file_is_long() {
    for path in files(&source("")) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 400, "{} has {lines} lines", path.display());
    }
}
