//! The house rules that a machine can check: every source file opens with what
//! it is about, and is short enough to be read in one sitting. Tables of tests
//! may be longer.

use std::path::{Path, PathBuf};

/// Most lines of a source file, its tests not counted.
const MAX_LINES: usize = 700;

/// Directories that are not ours.
const FOREIGN: [&str; 5] = ["target", "node_modules", ".git", ".cache", "dist"];

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if !FOREIGN.iter().any(|foreign| name == *foreign) {
                files(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

#[test]
fn source_files_are_tidy() {
    let mut all = Vec::new();
    files(Path::new(env!("CARGO_MANIFEST_DIR")), &mut all);
    let sources: Vec<_> = all
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .collect();
    assert!(sources.len() > 80, "{} sources found", sources.len());
    let mut untidy = Vec::new();
    for path in sources {
        let text = std::fs::read_to_string(path).unwrap();
        if !text.starts_with("//!") {
            untidy.push(format!("{} does not open with //!", path.display()));
        }
        let lines = text
            .lines()
            .take_while(|line| *line != "#[cfg(test)]")
            .count();
        let is_test = path.components().any(|part| part.as_os_str() == "tests");
        if lines > MAX_LINES && !is_test {
            untidy.push(format!("{} has {lines} lines", path.display()));
        }
        for word in ["TODO", "FIXME", "todo!(", "unimplemented!("] {
            // Not this list itself.
            if text.contains(word) && !path.ends_with("tidy.rs") {
                untidy.push(format!("{} has a {word}", path.display()));
            }
        }
    }
    assert!(untidy.is_empty(), "{untidy:#?}");
}
