//! Times in the past as people write them.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};

/// `2h` and `7d` ago, `2027-06-30` (its beginning, here), `2027-06-30T18:00` (here), `2027-06-30T18:00:00Z`.
pub(super) fn past(text: &str) -> Result<Timestamp, String> {
    let ago = crate::policy::duration::duration(text).and_then(|ago| SignedDuration::try_from(ago).ok());
    let local = || text.parse::<civil::DateTime>().ok()?.to_zoned(TimeZone::system()).ok();
    ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok())
        .or_else(|| text.parse().ok())
        .or_else(|| Some(local()?.timestamp()))
        .ok_or_else(|| "write it like `2h`, `7d`, `2027-06-30` or `2027-06-30T18:00:00+02:00`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        let now = Timestamp::now();
        let ago = |text| past(text).unwrap().duration_until(now).as_secs();
        assert!((7200 - 60..=7200).contains(&ago("2h")), "{}", ago("2h"));
        assert!((7 * 86_400 - 60..=7 * 86_400).contains(&ago("7d")), "{}", ago("7d"));
        let time = "2027-06-30T18:00:00+02:00";
        assert_eq!(past(time).unwrap(), "2027-06-30T16:00:00Z".parse().unwrap());
        let midnight = civil::date(2027, 6, 30).to_zoned(TimeZone::system()).unwrap().timestamp();
        assert_eq!(past("2027-06-30").unwrap(), midnight);
        for bad in ["yesterday", "", "2027-13-01", "-5m"] {
            assert!(past(bad).unwrap_err().starts_with("write it like"), "{bad}");
        }
    }
}
