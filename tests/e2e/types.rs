//! Secrets of every type, and what other programs make of them.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::*;

/// Every type through the CLI: made, read, rotated, and what other programs make
/// of it.
#[test]
fn secrets_of_every_type_are_made_and_rotated() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    let template = home.path("template.json");
    fs::write(
        &template,
        r#"{"user":"app","password":{"$generate":{"type":"password","length":24}}}"#,
    )
    .unwrap();
    let cases: [(&str, &[&str]); 7] = [
        (
            "app/password",
            &[
                "--classes",
                "lower,digit,symbol",
                "--no-ambiguous",
                "--length",
                "30",
            ],
        ),
        ("app/api_key", &["--prefix", "sk_", "--length", "20"]),
        ("app/random", &["--bytes", "64", "--encoding", "raw"]),
        ("app/uuid", &[]),
        ("app/jwt", &["--algorithm", "HS512"]),
        ("app/ed25519", &[]),
        ("app/json", &["--template", template.to_str().unwrap()]),
    ];
    let lengths = [30, 23, 64, 36, 86, 0, 0];
    for ((name, options), length) in cases.into_iter().zip(lengths) {
        let kind = name.trim_start_matches("app/");
        home.ok(
            &[&["generate", name, "--type", kind], options].concat(),
            b"",
        );
        let read = || alice().read(&daemon.file(name)).unwrap();
        let first = read();
        home.ok(&["rotate", name], b"");
        assert!(first != read(), "{name} is another one");
        if length > 0 {
            assert_eq!((first.len(), read().len()), (length, length), "{name}");
        }
        assert_eq!(home.ok(&["versions", name], b"")["type"], kind);
    }
    let json: Value =
        serde_json::from_slice(&alice().read(&daemon.file("app/json")).unwrap()).unwrap();
    assert_eq!(
        (&json["user"], json["password"].as_str().unwrap().len()),
        (&json!("app"), 24)
    );

    // OpenSSL signs with one half and verifies with the other.
    let (message, signature) = (home.path("message"), home.path("signature"));
    fs::write(&message, "signed").unwrap();
    let openssl = |arguments: &[&std::ffi::OsStr]| {
        let mut command = Command::new("openssl");
        command
            .arg("pkeyutl")
            .args(arguments)
            .arg("-rawin")
            .arg("-in")
            .arg(&message);
        run(command, b"")
    };
    let (key, public) = (daemon.file("app/ed25519"), daemon.file("app/ed25519.pub"));
    let signed = openssl(&[
        "-sign".as_ref(),
        "-inkey".as_ref(),
        key.as_ref(),
        "-out".as_ref(),
        signature.as_ref(),
    ]);
    assert!(signed.status.success(), "{signed:?}");
    let verified = openssl(&[
        "-verify".as_ref(),
        "-pubin".as_ref(),
        "-inkey".as_ref(),
        public.as_ref(),
        "-sigfile".as_ref(),
        signature.as_ref(),
    ]);
    assert!(
        text(&verified.stdout).contains("Verified Successfully"),
        "{verified:?}"
    );
    let records = home.records_with(&[("name", json!("app/ed25519.pub"))]);
    let actions: Vec<_> = records
        .iter()
        .filter(|r| r["action"] != "read")
        .map(|r| r["action"].clone())
        .collect();
    assert_eq!(actions, ["create", "rotate"]);

    for (arguments, message) in [
        (&["generate", "x", "--type", "rot13"][..], "unknown `type`"),
        (
            &["generate", "x", "--type", "uuid", "--length", "9"],
            "unknown field among its options",
        ),
        (
            &["generate", "x", "--length", "5"],
            "`length` must be 8 to 4096",
        ),
        (
            &["generate", "x", "--type", "random", "--encoding", "hunter2"],
            "type `random`",
        ),
    ] {
        let refused = home.ctl(arguments, b"");
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(text(&refused.stderr).contains(message), "{refused:?}");
        assert!(!text(&refused.stderr).contains("hunter2"), "{refused:?}");
    }
    let wrong = home.ctl(&["set", "app/ed25519"], b"no key");
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let types = home.ok(&["types"], b"");
    assert_eq!(types.as_array().unwrap().len(), 8);
    daemon.stop();
    home.verify();
}
