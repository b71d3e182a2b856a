//! The map as JSON, for programs.

use crate::insight::map::Map;

/// One object, indented.
///
/// # Errors
/// Never for a map of [`Map::of`]; that it can be written is serde's to say.
pub fn json(map: &Map) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(map).map(|text| text + "\n")
}
