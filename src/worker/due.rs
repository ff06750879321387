//! When secrets are due: intervals with jitter, inside calendar windows.
//!
//! Runs in: the worker.
//! Touches: metadata of secrets; no plaintext.
//! Imported by: control, scheduler.

use jarvis_vault::{Secret, VersionState};

use crate::common::calendar::Windows;
use crate::worker::settings::Settings;

/// A rotation by schedule comes up to this share of its interval early, so that
/// what was made together is not rotated together.
const JITTER_PERCENT: u64 = 10;

/// When `secret` is to be rotated by schedule (Unix milliseconds), windows apart;
/// `None` without a schedule or a generator, or while it is out of service.
pub(crate) fn due_ms(id: u64, secret: &Secret, every_ms: Option<i64>) -> Option<i64> {
    let every = secret.settings.rotate_every_ms.or(every_ms)?;
    let current = secret.current()?;
    let generated = secret.kind.has_generator();
    let standing = current.state(current.created_ms, 0) == VersionState::Current;
    (generated && standing).then(|| {
        let spread = u64::try_from(every).unwrap_or_default() / 100 * JITTER_PERCENT;
        let early = match spread {
            0 => 0,
            spread => scatter(id, current.number) % spread,
        };
        let early = i64::try_from(early).unwrap_or_default();
        current
            .created_ms
            .saturating_add(every)
            .saturating_sub(early)
    })
}

/// A number that looks random and is the same each time (splitmix64,
/// <https://prng.di.unimi.it/splitmix64.c>).
fn scatter(id: u64, version: u32) -> u64 {
    let mut z = id
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(u64::from(version));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Whether `secret` may be rotated by schedule at `now_ms` (Unix milliseconds).
pub(crate) fn in_window(settings: &Settings, secret: &Secret, now_ms: i64) -> bool {
    let windows = secret.settings.windows.as_deref();
    match windows.or(settings.rotation.windows.as_deref()) {
        None => true,
        // They were checked when they were stored; what is not understood is shut.
        Some(text) => Windows::parse(text).is_ok_and(|windows| windows.contains(now_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_spreads_and_repeats() {
        let numbers: Vec<_> = (0..100).map(|id| scatter(id, 1) % 1000).collect();
        assert_eq!(
            numbers,
            (0..100).map(|id| scatter(id, 1) % 1000).collect::<Vec<_>>()
        );
        let early = numbers.iter().filter(|&&n| n < 500).count();
        assert!((30..70).contains(&early), "{early}");
    }
}
