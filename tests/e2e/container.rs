//! Containers that bind the tree.

use std::process::{Command, Output};

use serde_json::json;

use crate::harness::*;

pub const IMAGE: &str = "jarvis-e2e:busybox";

pub fn docker(arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", "docker"]).args(arguments);
    run(command, b"")
}

/// An image of one static busybox, from no registry.
pub fn image() {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
    for applet in ["cat", "ls", "sh", "sleep"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
    let tar = root.path().join("image.tar");
    let packed = Command::new("tar")
        .arg("-cf")
        .arg(&tar)
        .arg("-C")
        .arg(root.path())
        .arg("bin")
        .status();
    assert!(packed.unwrap().success());
    let imported = docker(&["import", tar.to_str().unwrap(), IMAGE]);
    assert!(
        imported.status.success(),
        "is the Docker engine running? {imported:?}"
    );
}

fn cat_in_container(home: &Home, user: &str, file: &str) -> Output {
    let volume = format!("{}:/secrets:ro", home.mount().display());
    let path = format!("/secrets/{file}");
    docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--user",
        user,
        "-v",
        &volume,
        IMAGE,
        "cat",
        &path,
    ])
}

#[test]
fn a_container_reads_what_its_user_may() {
    image();
    let home = Home::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"for the container");
    let (alice, bob) = (alice(), bob());
    let user = |u: &User| format!("{}:{}", u.uid, u.gid);

    let allowed = cat_in_container(&home, &user(&alice), "app/db");
    assert_eq!(text(&allowed.stdout), "for the container", "{allowed:?}");
    let read = &home.records_with(&[("action", json!("read"))])[0];
    let id = read["container"].as_str().unwrap();
    assert!(
        id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{read}"
    );
    let etc = home.etc();
    let query = |container: &str| {
        let arguments = [
            "audit",
            "query",
            "--container",
            container,
            "--action",
            "read",
        ];
        home.ok(
            &[&arguments[..], &["--dir", etc.to_str().unwrap()]].concat(),
            b"",
        )
    };
    assert_eq!(query(&id[..12]).as_array().unwrap().len(), 1);
    assert!(query("nobody").as_array().unwrap().is_empty());
    alice.read(&daemon.file("app/db")).unwrap();
    let on_the_host = &home.records_with(&[("action", json!("read"))])[1];
    assert_eq!(on_the_host["container"], json!(null), "{on_the_host}");

    let refused = cat_in_container(&home, &user(&bob), "app/db");
    assert!(
        text(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );
    assert!(refused.stdout.is_empty());

    // The container's root is not the host's, whom the policy lets do all.
    let container_root = cat_in_container(&home, "0:0", "app/db");
    assert!(
        text(&container_root.stderr).contains("Permission denied"),
        "{container_root:?}"
    );
    assert_eq!(
        root().read(&daemon.file("app/db")),
        Ok(b"for the container".to_vec())
    );

    let denied: Vec<u64> = home
        .records_with(&[("action", serde_json::json!("deny"))])
        .iter()
        .map(|record| record["uid"].as_u64().unwrap())
        .collect();
    assert_eq!(denied, [u64::from(bob.uid), 0]);
}

#[test]
fn a_running_container_sees_the_rotation() {
    image();
    let home = Home::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"before");
    let volume = format!("{}:/secrets:ro", home.mount().display());
    let user = format!("{}:{}", alice().uid, alice().gid);
    let started = docker(&[
        "run",
        "-di",
        "--rm",
        "--network",
        "none",
        "--user",
        &user,
        "-v",
        &volume,
        IMAGE,
        "cat",
    ]);
    assert!(started.status.success(), "{started:?}");
    let container = text(&started.stdout).trim().to_owned();
    let _remove = Container(container.clone());
    let cat = || text(&docker(&["exec", &container, "cat", "/secrets/app/db"]).stdout);
    assert_eq!(cat(), "before");
    daemon.set("app/db", b"after");
    assert_eq!(cat(), "after");
    let write = docker(&[
        "exec",
        &container,
        "sh",
        "-c",
        "echo 'set app/db x' > /secrets/jarvisctl",
    ]);
    assert!(!write.status.success(), "read-only for a container");
}

struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.0]);
    }
}
