//! Containers that bind the tree.

use serde_json::json;

use crate::harness::*;

/// A container that has the tree at `/secrets`.
fn container(home: &TestDaemon, user: &User) -> Container {
    Container::run(user, &format!("{}:/secrets:ro", home.mount().display()))
}

#[test]
fn a_container_reads_what_its_user_may() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"for the container");
    let cat = |container: &Container| container.exec(&["cat", "/secrets/app/db"]);

    let of_alice = container(&home, &alice());
    let allowed = cat(&of_alice);
    assert_eq!(text(&allowed.stdout), "for the container", "{allowed:?}");
    let read = &home.records_with(&[("action", json!("read"))])[0];
    let id = of_alice.id();
    assert_eq!(read["container"], json!(id));
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
    alice().read(&daemon.file("app/db")).unwrap();
    let on_the_host = &home.records_with(&[("action", json!("read"))])[1];
    assert_eq!(on_the_host["container"], json!(null), "{on_the_host}");

    let refused = cat(&container(&home, &bob()));
    assert!(
        text(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );
    assert!(refused.stdout.is_empty());

    // The container's root is not the host's, whom the policy lets do all.
    let container_root = cat(&container(&home, &root()));
    assert!(
        text(&container_root.stderr).contains("Permission denied"),
        "{container_root:?}"
    );
    assert_eq!(
        root().read(&daemon.file("app/db")),
        Ok(b"for the container".to_vec())
    );

    let denied: Vec<u64> = home
        .records_with(&[("action", json!("deny"))])
        .iter()
        .map(|record| record["uid"].as_u64().unwrap())
        .collect();
    assert_eq!(denied, [u64::from(bob().uid), 0]);
}

#[test]
fn a_running_container_sees_the_rotation() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"before");
    let container = container(&home, &alice());
    let cat = || text(&container.exec(&["cat", "/secrets/app/db"]).stdout);
    assert_eq!(cat(), "before");
    daemon.set("app/db", b"after");
    assert_eq!(cat(), "after");
    let write = container.exec(&["sh", "-c", "echo 'set app/db x' > /secrets/jarvisctl"]);
    assert!(!write.status.success(), "read-only for a container");
}

#[test]
fn a_bound_file_comes_back_with_its_secret() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"before");
    let volume = format!("{}:/secret:ro", daemon.file("app/db").display());
    let container = Container::run(&alice(), &volume);
    let cat = || container.exec(&["cat", "/secret"]);
    assert_eq!(text(&cat().stdout), "before");
    // Opened before the deletion, read after the secret is back.
    let script = "exec 3</secret; echo open; read go; cat <&3";
    let held = container.start(&["sh", "-c", script], "open");
    home.ok(&["delete", "app/db"], b"");
    for _ in 0..2 {
        let gone = cat();
        assert!(text(&gone.stderr).contains("No such file"), "{gone:?}");
        assert_eq!(alice().read(&daemon.file("app/db")), Err(ENOENT));
    }
    daemon.set("app/db", b"after");
    assert_eq!(text(&cat().stdout), "after", "without a restart");
    daemon.set("app/db", b"later");
    assert_eq!(text(&cat().stdout), "later");
    assert_eq!(
        held.answer(b"go\n"),
        "before",
        "an open handle keeps its version"
    );
}

/// Whatever it shares with the host, and whatever its cgroup's name.
#[test]
fn a_containers_root_is_known_by_its_root_directory() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let volume = format!("{}:/secrets:ro", home.mount().display());
    let shared = ["--pid", "host", "--ipc", "host", "--uts", "host"];
    let nameless = ["--cgroup-parent", "/jarvis-test", "--cgroupns", "host"];
    let options = [&shared[..], &nameless].concat();
    let container = Container::run_with(&root(), &volume, &options);
    let refused = container.exec(&["cat", "/secrets/app/db"]);
    assert!(
        text(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );
    let denied = &home.records_with(&[("action", json!("deny"))])[0];
    assert_eq!(denied["uid"], 0);
    let reason = denied["reason"].as_str().unwrap();
    assert!(
        reason.contains("id 0 not counted: container"),
        "the record says why: {denied}"
    );

    // Nor is one that was given the host's root directory, and takes it as its own.
    let host = "/:/host:ro";
    let given = Container::run_with(&root(), host, &["--pid", "host"]);
    let db = daemon.file("app/db");
    let refused = given.exec(&[
        "/bin/busybox",
        "chroot",
        "/host",
        "/bin/cat",
        db.to_str().unwrap(),
    ]);
    assert!(
        text(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );
    let denied = home.records_with(&[("action", json!("deny"))]);
    let reason = denied.last().unwrap()["reason"].as_str().unwrap();
    assert!(reason.contains("cgroup of an engine"), "{reason}");
}

/// A unit may be called what it likes, and services have mount namespaces of their own.
#[test]
fn the_hosts_root_is_root_in_every_cgroup_and_mount_namespace() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    daemon.set("app/db", b"v");
    let db = daemon.file("app/db");
    for name in [
        "docker-compose@app.service",
        "docker.service",
        "lxc-net.service",
        "machine-x",
        "crio",
        "kubepods-exporter",
    ] {
        let cgroup = Cgroup::new(name);
        let cat = run(cgroup.command(&["cat", db.to_str().unwrap()]), b"");
        assert_eq!(cat.stdout, b"v", "{name}: {cat:?}");
    }
    let mut private = root().command("unshare");
    private.args(["--mount", "--net", "--uts", "--ipc", "--cgroup", "cat"]);
    private.arg(&db);
    let cat = run(private, b"");
    assert_eq!(cat.stdout, b"v", "{cat:?}");
}
