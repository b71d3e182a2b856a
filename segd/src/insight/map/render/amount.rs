//! Numbers and times for people.

use jiff::Timestamp;

/// With three digits at the most that count: `7`, `1.2k`, `3.4M`.
pub(super) fn count(n: u64) -> String {
    const UNITS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let (mut unit, mut tenths) = (0, u128::from(n) * 10);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 || tenths >= 100 {
        format!("{}{name}", tenths / 10)
    } else {
        format!("{}.{}{name}", tenths / 10, tenths % 10)
    }
}

/// `2026-11-22 18:05 UTC`.
pub(super) fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// One thing or several.
pub(super) fn things(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short() {
        for (n, want) in
            [(0, "0"), (999, "999"), (1024, "1.0k"), (12_345, "12k"), (3_450_000, "3.4M"), (u64::MAX, "18E")]
        {
            assert_eq!(count(n), want);
        }
        assert_eq!((things(1, "edge"), things(0, "edge")), ("1 edge".into(), "0 edges".into()));
    }
}
