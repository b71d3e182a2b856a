//! Words of [`named`] that may be missing, for `#[serde(with = "optional_named")]`.

use serde::{Deserialize, Deserializer, Serializer};

use crate::telemetry::named::{self, Named};

#[expect(clippy::ref_option, reason = "serde calls it so")]
pub(super) fn serialize<T: Named, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(word) => named::serialize(word, to),
        None => to.serialize_none(),
    }
}

pub(super) fn deserialize<'de, T: Named, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(bound = "T: Named")]
    struct Word<T: Named>(#[serde(with = "named")] T);
    Ok(Option::<Word<T>>::deserialize(from)?.map(|word| word.0))
}
