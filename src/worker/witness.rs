//! The vault's witness of the audit log and of the time, in the words of either.
//!
//! Each commit stores the last record that was on disk before it, and so does a thread
//! every ten seconds and the end of a worker. A worker that opens the log compares
//! ([`known_records`]): a log that lost its end, was deleted or is another one is
//! refused. Only records that were synced are remembered, so a power loss, which takes
//! records that were only written, is no false alarm.
//!
//! Runs in: the worker.
//! Touches: numbers and digests of records; no vault, no log, no value.
//! Imported by: commit, mod.rs of the worker.

use jarvis_audit::{HostId, KnownRecord, RecordMark};
use jarvis_vault::{ClockWitness, LogWitness, Witness};

use crate::common::timeline::{Moment, TimeMark};
use crate::ipc::worker::KeptRecord;

/// The record that is `mark` in the log of `host`, for the vault.
pub(crate) fn log_witness(host: HostId, mark: RecordMark) -> LogWitness {
    LogWitness {
        host: host.bytes(),
        seq: mark.seq,
        head: mark.head,
    }
}

/// The time, for the vault.
pub(crate) fn clock_witness(mark: TimeMark) -> ClockWitness {
    ClockWitness {
        boot: mark.boot,
        since_boot_ms: mark.last.since_boot_ms,
        wall_ms: mark.last.wall_ms,
        settled_ms: mark.settled_ms,
        doubted_ms: mark.doubted_ms,
    }
}

/// The time, as the vault knows it.
pub(crate) fn time_mark(clock: ClockWitness) -> TimeMark {
    TimeMark {
        boot: clock.boot,
        last: Moment {
            wall_ms: clock.wall_ms,
            since_boot_ms: clock.since_boot_ms,
        },
        settled_ms: clock.settled_ms,
        doubted_ms: clock.doubted_ms,
    }
}

/// Records that the log of `host` must have: the one that the vault knows, and the one
/// that the kept checkpoint tells of.
pub(crate) fn known_records(
    host: HostId,
    vault: &Witness,
    kept: Option<KeptRecord>,
) -> Vec<KnownRecord<'static>> {
    let vault = vault.log.map(|log| KnownRecord {
        source: "the vault",
        host: HostId::from_bytes(log.host),
        mark: RecordMark {
            seq: log.seq,
            head: log.head,
        },
    });
    let kept = kept.map(|kept| KnownRecord {
        source: "the kept checkpoint",
        host,
        mark: RecordMark {
            seq: kept.seq,
            head: kept.head,
        },
    });
    vault.into_iter().chain(kept).collect()
}
