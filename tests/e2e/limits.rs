//! What one user may take.

use std::fs::File;
use std::sync::Barrier;

use serde_json::json;

use crate::harness::*;

#[test]
fn handles_are_capped_per_user() {
    let home = TestDaemon::new().init(POLICY);
    home.configure("# handles_per_uid = 1024", "handles_per_uid = 8");
    let daemon = home.start();
    daemon.set("shared", b"v");
    let open = |user: &User| user.act(|| File::open(daemon.file("shared")).map_err(|e| errno(&e)));
    let mut held: Vec<_> = (0..8).map(|_| open(&alice()).unwrap()).collect();
    for _ in 0..20 {
        assert_eq!(open(&alice()).map(drop), Err(EMFILE));
    }
    assert!(open(&root()).is_ok(), "another user is not concerned");
    let burst = home.records_with(&[("action", json!("limit")), ("uid", json!(alice().uid))]);
    assert_eq!(burst.len(), 1, "one record a burst");
    assert_eq!(home.ok(&["status"], b"")["opens_limited"], 1);
    held.pop();
    daemon.eventually("released", || open(&alice()).is_ok());
}

#[test]
fn a_flood_of_denials_does_not_flood_the_log() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("shared", b"v");
    bob().act(|| {
        for _ in 0..1000 {
            File::open(daemon.file("shared")).unwrap_err();
        }
    });
    daemon.stop();
    let (one_by_one, counted) = denials(&home);
    assert_eq!(one_by_one + counted, 1000, "none is lost");
    assert!((100..=300).contains(&one_by_one), "{one_by_one}");
    home.verify();
}

/// Denials that have records of their own, and those that were counted.
fn denials(home: &TestDaemon) -> (u64, u64) {
    let one_by_one = home.records_with(&[("action", json!("deny"))]).len() as u64;
    let counted = home.records_with(&[("action", json!("limit")), ("errno", json!(EACCES))]);
    let counts = counted
        .iter()
        .map(|record| record["count"].as_u64().unwrap());
    (one_by_one, counts.sum())
}

#[test]
fn denials_of_thousands_of_uids_are_all_told() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("shared", b"v");
    let uids = 300_000..304_500;
    for uid in uids.clone() {
        let stranger = User { uid, ..bob() };
        assert_eq!(stranger.read(&daemon.file("shared")), Err(EACCES));
    }
    daemon.stop();
    let (one_by_one, counted) = denials(&home);
    assert_eq!(one_by_one + counted, uids.len() as u64, "none is lost");
    let windows = 1 + home.records_with(&[("action", json!("limit"))]).len() as u64;
    assert!(one_by_one <= 2000 * windows, "{one_by_one}");
    home.verify();
}

#[test]
fn a_thousand_handles_are_the_default() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("shared", b"v");
    let (held, refused) = alice().act(|| {
        let mut held = Vec::new();
        loop {
            match File::open(daemon.file("shared")) {
                Ok(file) => held.push(file),
                Err(error) => return (held, errno(&error)),
            }
        }
    });
    assert_eq!((held.len(), refused), (1024, EMFILE));
    assert_eq!(
        home.ok(&["status"], b"")["open_handles"],
        1025,
        "and the control file"
    );
}

#[test]
fn pending_opens_are_capped_per_user() {
    let home = TestDaemon::new().init(POLICY);
    home.configure("# pending_opens_per_uid = 64", "pending_opens_per_uid = 1");
    let daemon = home.start();
    daemon.set("shared", &[1; 200_000]);
    // Eight threads of one user at four serving threads: some opens overlap.
    let barrier = Barrier::new(8);
    let refused: usize = std::thread::scope(|scope| {
        let opener = || {
            alice().become_thread();
            barrier.wait();
            let attempts = (0..500).map(|_| File::open(daemon.file("shared")));
            attempts
                .filter(|r| matches!(r, Err(e) if errno(e) == EMFILE))
                .count()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(opener)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert!(refused > 0, "no two opens overlapped");
    assert!(!home.records_with(&[("action", json!("limit"))]).is_empty());
    assert!(File::open(daemon.file("shared")).is_ok());
}

/// All that is looked at again and again with them is looked at in the first second.
#[test]
fn the_longest_times_are_served_and_longer_ones_refused() {
    let home = TestDaemon::new().init(POLICY);
    let keys = [
        ("retention_days", "90"),
        ("expiry_days", "90"),
        ("grace_days", "14"),
        ("schedule_days", "90"),
        ("recovery_days", "7"),
    ];
    for (key, default) in keys {
        home.configure(
            &format!("# {key} = {default}"),
            &format!("{key} = 4294967295"),
        );
        let error = home.try_start(home.daemon(), b"").err().unwrap();
        let rule = format!("{key} must be ");
        assert!(error.contains(&rule) && error.contains("36525"), "{error}");
        home.configure(&format!("{key} = 4294967295"), &format!("{key} = 36525"));
    }
    let daemon = home.start();
    daemon.set("app/db", b"v");
    home.ok(&["generate", "app/made", "--type", "password"], b"");
    home.ok(&["rotate", "app/made"], b"");
    assert!(home.ctl(&["delete", "app/db"], b"").status.success());
    assert!(alice().read(&daemon.file("app/made")).is_ok());
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
    daemon.stop();
    home.verify();
}
