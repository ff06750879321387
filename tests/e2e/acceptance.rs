//! What users of the HTTP ancestor checked after an installation, in one place.

use serde_json::{Value, json};

use crate::harness::*;

const POLICY: &str = "
default_deny: true
clients:
  admin: {match: {uid: 0}, allow: ['*'], verbs: ['*']}
  backend: {match: {uid: 61001}, allow: [jwt_signing_key, postgres_password]}
  db: {match: {uid: 61002}, allow: [postgres_password]}
  monitoring: {match: {uid: 61003}, allow: [grafana_password]}
";

fn client(name: &'static str, uid: u32) -> User {
    User {
        name,
        uid,
        gid: uid,
        groups: vec![uid],
    }
}

#[test]
fn the_ancestors_twelve_checks() {
    let home = TestDaemon::new().init(POLICY);
    let (daemon, address) = home.start_http();
    let url = format!("http://{address}");
    daemon.set("jwt_signing_key", b"planted-jwt-value");
    home.ok(&["generate", "postgres_password", "--length", "40"], b"");

    // 1 health, 2 metrics
    let health = home.ok(&["health", "--url", &url], b"");
    assert_eq!(
        (&health["status"], &health["secrets_count"]),
        (&json!("ok"), &json!(2))
    );
    let metrics = || text(&home.ctl(&["metrics", "--url", &url], b"").stdout);
    assert!(metrics().contains("jarvis_secrets 2"));

    // 3 list, 4 get
    let listed = home.ok(&["list"], b"");
    let names: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["name"])
        .collect();
    assert_eq!(names, ["jwt_signing_key", "postgres_password"]);
    assert_eq!(
        home.ctl(&["get", "jwt_signing_key"], b"").stdout,
        b"planted-jwt-value"
    );

    // 5 to 8 who reads what: four clients, two secrets
    let matrix = [
        (client("backend", 61001), true, true),
        (client("db", 61002), false, true),
        (client("monitoring", 61003), false, false),
        (client("nobody", 65534), false, false),
    ];
    for (user, jwt, postgres) in matrix {
        for (name, may) in [("jwt_signing_key", jwt), ("postgres_password", postgres)] {
            let read = user.read(&daemon.file(name));
            assert_eq!(read.is_ok(), may, "{} {name}: {read:?}", user.name);
            assert!(may || read == Err(EACCES));
        }
    }

    // 9 rotation gives a new key id and value
    let before = root().read(&daemon.file("postgres_password")).unwrap();
    let kid = |row: &Value| row["kid"].as_str().unwrap().to_owned();
    let old = kid(&home.ok(&["get", "postgres_password", "--meta"], b""));
    let new = kid(&home.ok(&["rotate", "postgres_password"], b""));
    let after = root().read(&daemon.file("postgres_password")).unwrap();
    assert!(old != new && before != after && after.len() == 40);

    // 10 latency is recorded
    let count = |text: &str| -> u64 {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("jarvis_open_seconds_count "));
        line.unwrap().parse().unwrap()
    };
    assert!(count(&metrics()) >= 11);
    daemon.stop();

    // 11 no plaintext in the vault
    let vault = std::fs::read(home.path("etc/vault/vault.redb")).unwrap();
    for planted in [
        &b"planted-jwt-value"[..],
        b"jwt_signing_key",
        &after,
        &before,
    ] {
        assert!(!vault.windows(planted.len()).any(|window| window == planted));
    }

    // 12 every signature is valid
    assert!(home.verify().contains("all good"));
}
