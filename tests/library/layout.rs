//! The order of the modules: `src/lib.rs` and `src/replay/mod.rs` list them from the bottom up, and no module uses one that is listed after
//! it.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// The files of a module, except those that hold only its tests.
fn files_of(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.with_extension("rs")];
    }
    let entries = path.read_dir().expect("a folder of sources").map(|entry| entry.expect("a file").path());
    let sources = entries.filter(|path| !path.to_string_lossy().trim_end_matches(".rs").ends_with("tests"));
    sources.flat_map(|path| if path.is_dir() { files_of(&path) } else { vec![path] }).collect()
}

/// The code of a file without comments and unit tests.
fn product_of(file: &Path) -> String {
    let text = read_to_string(file).expect("a source file");
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    product.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The uses of modules that are listed later in the file `root` of `folder`; at least `least` modules must be listed.
fn upwards(folder: &Path, root: &str, prefix: &str, least: usize) -> Vec<String> {
    let list = read_to_string(folder.join(root)).expect("a list of modules");
    let modules: Vec<&str> = list.lines().filter_map(|line| line.strip_prefix("pub mod ")?.split(';').next()).collect();
    assert!(modules.len() >= least, "{modules:?}");
    let mut upwards = Vec::new();
    for (floor, module) in modules.iter().enumerate() {
        for file in files_of(&folder.join(module)).iter().filter(|file| file.extension().is_some_and(|end| end == "rs"))
        {
            let product = product_of(file);
            let used = modules[floor + 1..].iter().filter(|above| product.contains(&format!("{prefix}{above}")));
            upwards.extend(used.map(|above| format!("{} uses {above}", file.display())));
        }
    }
    upwards
}

#[test]
fn no_module_uses_one_that_follows_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    assert_eq!(upwards(&src, "lib.rs", "crate::", 16), [""; 0]);
    assert_eq!(upwards(&src.join("replay"), "mod.rs", "crate::replay::", 8), [""; 0]);
}
