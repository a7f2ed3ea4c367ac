//! Holds the tree to its architecture: the arrows between crates, the fences around libraries, the shape of files.
//!
//! Not here: behaviour. What it knows of the design is in the tables below and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our crates a crate may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("shardglm-protocol", &[]),
    ("shardglm-kernels", &[]),
    ("shardglm-sharding", &["shardglm-protocol", "shardglm-kernels"]),
    ("shardglm-transport", &["shardglm-protocol"]),
    ("shardglm-node", &["shardglm-protocol", "shardglm-sharding", "shardglm-kernels", "shardglm-transport"]),
    ("shardglm-coordinator", &["shardglm-protocol", "shardglm-sharding", "shardglm-transport"]),
    ("shardglm-sim", &["shardglm-protocol", "shardglm-transport", "shardglm-node", "shardglm-coordinator"]),
    (
        "shardglm",
        &["shardglm-protocol", "shardglm-sharding", "shardglm-transport", "shardglm-node", "shardglm-coordinator"],
    ),
    ("shardglm-chaos", &["shardglm-protocol", "shardglm-transport"]),
];

/// Where a library may be named: paths from the workspace's root. A crate's own `tests/` and `benches/` are free.
const FENCES: &[(&str, &[&str])] = &[
    ("openraft", &["coordinator/src/raft/"]),
    ("axum", &["coordinator/src/gateway/", "coordinator/src/admin/"]),
    ("tonic", &["coordinator/src/gateway/", "coordinator/src/admin/"]),
    ("quinn", &["transport/src/"]),
    ("candle_core", &["sharding/src/layers/", "kernels/src/", "node/src/worker/"]),
    ("candle_nn", &["sharding/src/layers/"]),
    ("candle_transformers", &[]),
    ("cudarc", &["transport/src/collective/nccl/", "node/src/worker/device/"]),
    ("minijinja", &["coordinator/src/gateway/"]),
    ("tokenizers", &["coordinator/src/gateway/"]),
    ("llguidance", &["node/src/grammar/"]),
    ("clap", &["src/"]),
    ("anyhow", &["src/"]),
    ("reqwest", &["src/", "coordinator/src/gateway/pictures/"]),
    ("prometheus", &["coordinator/src/metrics/"]),
    ("redb", &["coordinator/src/raft/"]),
    ("bincode", &["coordinator/src/raft/"]),
];

/// Where `unsafe` may stand.
const UNSAFE_ROOMS: &[&str] = &["kernels/src/", "transport/src/collective/", "sharding/src/checkpoint/"];

/// Longest file, lines.
const LINES_MAX: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// Every source file of the workspace, as a path from its root, with its text.
fn sources() -> BTreeMap<String, String> {
    fn walk(dir: &Path, out: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let shown = path.strip_prefix(root()).expect("below the root").display().to_string();
                out.insert(shown, std::fs::read_to_string(&path).expect("UTF-8"));
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root(), &mut out);
    assert!(out.len() > 50, "found {} files", out.len());
    out
}

/// The code of a file: without comments and without what stands in quotes.
fn code(text: &str) -> String {
    let line = |line: &str| line.split("//").next().unwrap_or_default().split('"').step_by(2).collect::<String>();
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Whether `word` stands in `code` as a word of its own.
fn names(code: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(part_of_word)
            && !code[at + word.len()..].chars().next().is_some_and(part_of_word)
    })
}

fn is_test(path: &str) -> bool {
    Path::new(path).components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "benches" | "examples")))
        || PathBuf::from(path).file_stem().is_some_and(|s| s == "tests")
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let ours: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let packages = packages();
    assert_eq!(packages.len(), ARROWS.len(), "a package that the table does not know, or the reverse");
    for package in &packages {
        let name = package["name"].as_str().expect("a name");
        let (_, allowed) = ARROWS.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name} is not known"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("a name");
            let is_dev = dependency["kind"] == "dev";
            assert!(is_dev || !ours.contains(on) || allowed.contains(&on), "{name} must not depend on {on}");
            let features = dependency["features"].as_array().expect("features");
            let layers = features.iter().any(|f| f == "layers");
            assert!(!layers || is_dev || name == "shardglm-node", "{name} must plan without tensors: `layers` of {on}");
        }
    }
}

#[test]
fn libraries_stay_in_their_rooms() {
    let mut out = Vec::new();
    for (path, text) in sources() {
        if is_test(&path) {
            continue;
        }
        let code = code(&text);
        for (library, rooms) in FENCES {
            if names(&code, library) && !rooms.iter().any(|room| path.starts_with(room)) {
                out.push(format!("{path} names {library}, whose rooms are {rooms:?}"));
            }
        }
        if names(&code, "unsafe") && !UNSAFE_ROOMS.iter().any(|room| path.starts_with(room)) {
            out.push(format!("{path} has unsafe code"));
        }
    }
    assert!(out.is_empty(), "{}", out.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_none_is_too_long() {
    let mut out = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            out.push(format!("{path} does not open with //!"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            out.push(format!("{path} has {lines} lines, at most {LINES_MAX}"));
        }
    }
    assert!(out.is_empty(), "{}", out.join("\n"));
}

#[test]
fn the_scanner_sees_words_and_not_parts_of_them() {
    let text = "use axum::Router; // quinn\nlet s = \"openraft\"; let not_clap = 1;\n";
    let code = code(text);
    assert!(names(&code, "axum"));
    for absent in ["quinn", "openraft", "clap"] {
        assert!(!names(&code, absent), "{absent}");
    }
}
