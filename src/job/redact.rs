//! Hides the values of options that must not be printed.
//!
//! In: options by name. Out: their `Debug` form, with the values of secret ones left out. Pure.

use std::collections::BTreeMap;
use std::fmt;

/// Parts of names whose values are never printed. This also hides some harmless ones, but shows none that is secret.
const SECRET_PARTS: [&str; 6] = ["password", "secret", "key", "token", "sasl", "credential"];

/// Whether the value of an option with this name must not be printed.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRET_PARTS.iter().any(|part| name.contains(part))
}

/// Options for `Debug`, without the values of secret ones.
pub(super) struct Redacted<'a>(pub(super) &'a BTreeMap<String, String>);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|(name, value)| (name, if is_secret(name) { "***" } else { value.as_str() }));
        f.debug_map().entries(shown).finish()
    }
}
