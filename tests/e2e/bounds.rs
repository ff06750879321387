//! What a vault keeps and what an answer holds is bounded.

use serde_json::{Value, json};

use crate::harness::*;

#[test]
fn long_answers_come_in_pages() {
    let home = TestDaemon::new().init(POLICY);
    home.configure("# schedule_days", "schedule_days");
    let daemon = home.start();
    let names: Vec<_> = (0..300).map(|n| format!("app/s{n:03}")).collect();
    let generate = |name| json!({"op": "generate", "name": name});
    let batch: Vec<_> = names.iter().map(generate).collect();
    let mut control = Control::open(&home.mount()).unwrap();
    let mut ask = |request: Value| control.ask(request.to_string()).1["result"].take();
    ask(json!(batch));
    daemon.set("app/opaque", b"v");
    let first = ask(json!({"op": "schedule"}));
    let rows = first["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 256);
    let rest = ask(json!({"op": "schedule", "after": first["next"]}));
    let more = rest["rows"].as_array().unwrap();
    assert_eq!(rest["next"], Value::Null);
    let both: Vec<_> = rows.iter().chain(more).cloned().collect();
    let scheduled = strings(&both, "name");
    assert!(names.iter().all(|name| scheduled.contains(name)));
    let planned = home.ok(&["rotate", "--all", "--force", "--dry-run"], b"");
    assert_eq!(strings(planned.as_array().unwrap(), "name"), scheduled);
}

#[test]
fn requests_that_wait_never_stand_in_the_way_of_an_emergency() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let request = json!({"op": "revoke", "name": "app/db", "reason": "manual_request"});
    let full = alice().act(|| {
        let mut control = Control::open(&home.mount()).unwrap();
        let mut asked = 0;
        loop {
            let (result, answer) = control.ask(request.to_string());
            if result.is_err() {
                break (asked, answer);
            }
            asked += 1;
        }
    });
    assert_eq!(full.0, 64);
    assert_eq!(full.1["error"]["code"], "too_many_revocations");
    let message = full.1["error"]["message"].as_str().unwrap();
    for part in ["64 revocations", "revoke list", &alice().uid.to_string()] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(alice().read(&daemon.file("app/db")), Ok(b"v".to_vec()));
    let emergency = [
        "revoke",
        "request",
        "app/db",
        "--reason",
        "system-breach",
        "--immediate",
    ];
    let done = home.ctl_as(&alice(), &emergency, b"");
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(alice().read(&daemon.file("app/db")), Err(EKEYREVOKED));
    let kept = home.ok(&["revoke", "list"], b"");
    assert_eq!(kept.as_array().unwrap().len(), 65);
}
