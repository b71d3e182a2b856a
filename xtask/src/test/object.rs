//! The BPF object as it was built: no way to panic in it, for a program with one does not load.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSymbol};

use crate::say::say;

/// Parts of the names of the functions that a panicking path calls.
const PANICS: [&str; 3] = ["panick", "slice_index_fail", "unwrap_failed"];

/// # Errors
/// When the object at `path` has a panicking path; names the functions.
pub(crate) fn check(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let object =
        object::File::parse(&*bytes).with_context(|| format!("{} is no ELF file", path.display()))?;
    let names = || object.symbols().filter_map(|symbol| symbol.name().ok());
    let found = panics(names());
    if !found.is_empty() {
        bail!(
            "{} can panic in {} places (use get, checked_* or a mask in place of [], / and unwrap):\n  {}",
            path.display(),
            found.len(),
            found[..found.len().min(8)].join("\n  ")
        );
    }
    say!("{}: {} bytes, {} symbols, none of a panic", path.display(), bytes.len(), names().count());
    Ok(())
}

fn panics<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    names.filter(|name| PANICS.iter().any(|part| name.contains(part))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_panic_by_its_symbol() {
        let names = ["connect4", "_RNvNtCs_4core9panicking18panic_bounds_check", "memcpy"];
        assert_eq!(panics(names.into_iter()), [names[1]]);
        assert_eq!(panics(["connect4", "memcpy"].into_iter()), [""; 0]);
    }
}
