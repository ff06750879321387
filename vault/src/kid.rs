//! Key ids: `LASTSEGMENT-YYYYMMDD-HHMMSS`, UTC, with `-2`, `-3` ... for further
//! versions within one second.

use jiff::Timestamp;

/// The key id of a version made at `created_ms` (Unix milliseconds) after the
/// version with key id `previous`, which must not be younger.
pub(crate) fn next(segment: &str, created_ms: i64, previous: Option<&str>) -> String {
    let time = Timestamp::from_millisecond(created_ms).unwrap_or_default();
    let base = format!("{segment}-{}", time.strftime("%Y%m%d-%H%M%S"));
    match previous.and_then(|kid| kid.strip_prefix(&base)) {
        None => base,
        Some("") => format!("{base}-2"),
        Some(suffix) => {
            let count: u64 = suffix.trim_start_matches('-').parse().unwrap_or_default();
            format!("{base}-{}", count + 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn counts_within_one_second() {
        let first = next("pw", 1_700_000_000_123, None);
        assert_eq!(first, "pw-20231114-221320");
        let second = next("pw", 1_700_000_000_999, Some(&first));
        assert_eq!(second, "pw-20231114-221320-2");
        let third = next("pw", 1_700_000_000_999, Some(&second));
        assert_eq!(third, "pw-20231114-221320-3");
        assert_eq!(
            next("pw", 1_700_000_001_000, Some(&third)),
            "pw-20231114-221321"
        );
    }
}
