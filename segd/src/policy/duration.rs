//! Durations as people write them.

use std::time::Duration;

use jiff::SignedDuration;

/// `24h`, `10m`, `1h 30m`, `7d` (of 24 hours): more than none.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let days = text.trim().strip_suffix('d').and_then(|n| n.parse::<u64>().ok());
    let parsed = match days {
        Some(days) => Duration::from_secs(days.checked_mul(86_400)?),
        None => text.parse::<SignedDuration>().ok()?.try_into().ok()?,
    };
    (!parsed.is_zero()).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("24h", Some(86_400)),
            ("10m", Some(600)),
            ("1h 30m", Some(5400)),
            ("7d", Some(604_800)),
            ("0s", None),
            ("-5m", None),
            ("soon", None),
        ] {
            assert_eq!(duration(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
