//! What others write is no order to a terminal, and no formula to a spreadsheet.

use serde_json::json;

use crate::harness::*;

#[test]
fn names_that_deceive_the_eye_are_refused() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    for name in [
        "a\u{1b}[2J",
        "a\u{202e}txt",
        "a\u{200b}",
        "a\u{2028}b",
        "a ",
        " a",
        "app /a",
        "u\u{308}bung",
    ] {
        let set = home.ctl(&["set", name], b"v");
        assert_eq!(set.status.code(), Some(2), "{name:?}: {set:?}");
        let said = text(&set.stderr);
        assert!(
            !said.contains(['\u{1b}', '\u{202e}', '\u{2028}']),
            "{said:?}"
        );
        let mut control = Control::open(&home.mount()).unwrap();
        let request = json!({"op": "set", "name": name, "value": "v"}).to_string();
        assert_eq!(control.ask(request).0, Err(EINVAL), "{name:?}");
    }
    daemon.set("\u{fc}bung/a b", b"v");
}

#[test]
fn a_log_that_nobody_verified_orders_a_terminal_nothing() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("victim", b"v");
    daemon.stop();
    let wild = "=1+1\u{1b}[2J\u{202e}\u{9b}\nforged";
    let quoted = serde_json::to_string(wild).unwrap();
    let segment = home.segments().remove(0);
    let log = std::fs::read_to_string(&segment).unwrap();
    let log = log.replace("\"victim\"", &quoted);
    std::fs::write(&segment, log).unwrap();
    let dir = home.etc();
    let dir = dir.to_str().unwrap();
    let shown = |arguments: &[&str]| {
        let output = home.ctl_as(&root(), &[arguments, &["--dir", dir]].concat(), b"");
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    let calm = |shown: &str| {
        assert!(
            !shown.contains(['\u{1b}', '\u{202e}', '\u{9b}']),
            "{shown:?}"
        );
        assert!(!shown.contains("\nforged"), "{shown:?}");
    };
    for command in [
        &["audit", "query"][..],
        &["audit", "tail"],
        &["audit", "summary", "--by", "secret"],
        &["audit", "query", "--csv"],
    ] {
        let shown = shown(command);
        calm(&shown);
        assert!(
            shown.contains(r"\u{1b}[2J\u{202e}\u{9b}\u{a}forged"),
            "{shown}"
        );
    }
    let csv = shown(&["audit", "query", "--csv", "--action", "create"]);
    assert!(csv.contains(",'=1+1"), "{csv}");
    let json = shown(&["audit", "query", "--json", "--action", "create"]);
    calm(&json);
    let records: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(records[0]["name"], json!(wild), "it means the same");
}

#[test]
fn the_daemon_tells_of_its_arguments_without_orders() {
    let home = TestDaemon::new().init(POLICY);
    let mut daemon = std::process::Command::new(home.daemon().get_program());
    daemon
        .arg("--config")
        .arg(home.path("\u{1b}[2J\u{202e}none"));
    let said = home.try_start(daemon, b"").err().unwrap();
    assert!(said.contains(r"\u{1b}[2J\u{202e}none"), "{said}");
    assert!(!said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
}
