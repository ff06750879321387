//! Real programs get exactly the bytes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::*;

/// A shell script as alice; `$F` is the secret, `$T` a file of her own.
fn script(home: &TestDaemon, user: &User, name: &str, script: &str) -> Output {
    let mut command = user.command("bash");
    command.args(["-c", script]);
    command
        .env("F", home.mount().join(name))
        .env("T", home.path("tmp/copy"));
    command
        .env("HOME", home.path("tmp"))
        .current_dir(home.path("tmp"));
    run(command, b"")
}

fn scratch(home: &TestDaemon) {
    fs::create_dir(home.path("tmp")).unwrap();
    let everyone = PermissionsExt::from_mode(0o777);
    fs::set_permissions(home.path("tmp"), everyone).unwrap();
}

#[test]
fn programs_read_the_exact_bytes() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    scratch(&home);
    // Every byte, and no multiple of a page.
    let value: Vec<u8> = (0..=255).cycle().take(10_007).collect();
    daemon.set("app/bytes", &value);
    for program in [
        "cat \"$F\"",
        "cp \"$F\" \"$T\" && cat \"$T\"",
        "head -c 100000 \"$F\"",
        "tail -c +1 \"$F\"",
        "dd if=\"$F\" bs=1 status=none",
        "dd if=\"$F\" bs=64k status=none",
        "tar -cf - -C \"$(dirname \"$F\")\" bytes | tar -xOf -",
        "busybox cat \"$F\"",
        "rm -f \"$T\"; busybox cp \"$F\" \"$T\" && cat \"$T\"",
        "python3 -c 'import os,sys; sys.stdout.buffer.write(open(os.environ[\"F\"],\"rb\").read())'",
        "rm -f \"$T\"; python3 -c 'import os,shutil; shutil.copyfile(os.environ[\"F\"],os.environ[\"T\"])' && cat \"$T\"",
        "node -e 'process.stdout.write(require(\"fs\").readFileSync(process.env.F))'",
        "perl -e 'open(my $f, \"<\", $ENV{F}); binmode $f; local $/; print <$f>'",
    ] {
        let output = script(&home, &alice(), "app/bytes", program);
        assert!(
            output.stdout == value,
            "{program}: {} bytes, {}",
            output.stdout.len(),
            text(&output.stderr)
        );
    }
    for (program, expected) in [
        ("wc -c < \"$F\"", "10007\n"),
        ("stat -c %s \"$F\"", "10007\n"),
        (
            "tail -c 3 \"$F\" | od -An -tu1",
            &format!(" {}\n", decimal(&value[10_004..])),
        ),
        ("cmp \"$F\" <(cat \"$F\") && echo same", "same\n"),
        (
            "test \"$(sha256sum < \"$F\")\" = \"$(cat \"$F\" | busybox sha256sum)\" && echo same",
            "same\n",
        ),
    ] {
        let output = script(&home, &alice(), "app/bytes", program);
        assert_eq!(
            text(&output.stdout),
            expected,
            "{program}: {}",
            text(&output.stderr)
        );
    }
}

fn decimal(bytes: &[u8]) -> String {
    let shown: Vec<String> = bytes.iter().map(|b| format!("{b:>3}")).collect();
    shown.join(" ")
}

#[test]
fn java_reads_a_secret() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    scratch(&home);
    daemon.set("app/db", b"for java");
    let source = "import java.nio.file.*; public class Read { public static void main(String[] a) \
        throws Exception { System.out.write(Files.readAllBytes(Path.of(a[0]))); System.out.flush(); } }";
    fs::write(home.path("tmp/Read.java"), source).unwrap();
    let output = script(&home, &alice(), "app/db", "java Read.java \"$F\"");
    assert_eq!(text(&output.stdout), "for java", "{output:?}");
}

/// Keys for TLS and SSH, made by openssl, stored, and loaded from the mount.
#[test]
fn servers_load_their_keys() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    scratch(&home);
    let made = script(
        &home,
        &root(),
        "",
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
         -subj /CN=localhost -keyout key.pem -out cert.pem 2>/dev/null && \
         ssh-keygen -q -t ed25519 -N '' -f host_key && cat key.pem",
    );
    daemon.set("tls/key", &made.stdout);
    daemon.set(
        "ssh/host_key",
        &fs::read(home.path("tmp/host_key")).unwrap(),
    );
    fs::remove_file(home.path("tmp/key.pem")).unwrap();

    let public = script(&home, &root(), "tls/key", "openssl pkey -in \"$F\" -pubout");
    let certified = script(
        &home,
        &root(),
        "",
        "openssl x509 -in cert.pem -pubkey -noout",
    );
    assert_eq!(public.stdout, certified.stdout);

    let sshd = script(
        &home,
        &root(),
        "ssh/host_key",
        "mkdir -p /run/sshd && \"$(command -v sshd || echo /usr/sbin/sshd)\" -t -f /dev/null -h \"$F\"",
    );
    assert!(sshd.status.success(), "{sshd:?}");

    let nginx = "cat > nginx.conf <<EOF
daemon off; pid $PWD/pid; error_log $PWD/error.log;
events {}
http {
  access_log off; client_body_temp_path $PWD/a; proxy_temp_path $PWD/b;
  fastcgi_temp_path $PWD/c; uwsgi_temp_path $PWD/d; scgi_temp_path $PWD/e;
  server { listen unix:$PWD/socket ssl; ssl_certificate $PWD/cert.pem; ssl_certificate_key $F;
           ssl_verify_client optional_no_ca; location / { return 200 $ssl_client_verify; } }
}
EOF
sed -i 's/return 200 ;/return 200 \"served to $ssl_client_s_dn\";/' nginx.conf
/usr/sbin/nginx -c $PWD/nginx.conf & server=$!
until [ -S socket ]; do kill -0 $server || exit 1; done
curl -sk --unix-socket socket --cert cert.pem --key \"$F\" https://localhost/
kill $server";
    let served = script(&home, &root(), "tls/key", nginx);
    assert_eq!(text(&served.stdout), "served to CN=localhost", "{served:?}");
}

#[test]
fn mappings_fault_and_nothing_is_cached() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    scratch(&home);
    daemon.set("app/db", &[7; 20_000]);
    let touch = "python3 -c 'import mmap,os; f=open(os.environ[\"F\"],\"rb\"); \
        m=mmap.mmap(f.fileno(),0,flags=mmap.MAP_PRIVATE,prot=mmap.PROT_READ); print(m[0])'; echo $?";
    let output = script(&home, &alice(), "app/db", touch);
    assert_eq!(
        text(&output.stdout).trim(),
        "135",
        "128 + SIGBUS: {output:?}"
    );
    let shared = touch.replace("MAP_PRIVATE", "MAP_SHARED");
    let output = script(&home, &alice(), "app/db", &shared);
    assert!(
        text(&output.stderr).contains("No such device"),
        "{output:?}"
    );
    let read = script(&home, &alice(), "app/db", "cat \"$F\" | wc -c");
    assert_eq!(text(&read.stdout), "20000\n");
    let pages = script(
        &home,
        &root(),
        "app/db",
        "fincore --noheadings --output pages \"$F\"",
    );
    assert_eq!(text(&pages.stdout).trim(), "0", "{pages:?}");
}

/// Where a consumer must map its file, the secret says so; pages go at close and
/// at rotation.
#[test]
fn cached_reads_can_be_allowed_for_a_secret() {
    let home = TestDaemon::new().init(POLICY);
    let daemon = home.start();
    scratch(&home);
    home.ok(&["set", "app/db", "--allow-cached-reads"], &[7; 20_000]);
    let touch = "python3 -c 'import mmap,os; f=open(os.environ[\"F\"],\"rb\"); \
        m=mmap.mmap(f.fileno(),0,flags=mmap.MAP_PRIVATE,prot=mmap.PROT_READ); print(m[0], m[19999])'";
    let output = script(&home, &alice(), "app/db", touch);
    assert_eq!(text(&output.stdout), "7 7\n", "{output:?}");
    assert!(!script(&home, &bob(), "app/db", touch).status.success());
    // Another open would drop the pages itself: they are counted on this handle.
    let held = fs::File::open(daemon.file("app/db")).unwrap();
    let mut sink = fs::File::create(home.path("tmp/sink")).unwrap();
    std::io::copy(&mut &held, &mut sink).unwrap();
    assert_eq!(fs::metadata(home.path("tmp/sink")).unwrap().len(), 20_000);
    assert!(cached_pages(&held) > 0, "held open, they stay");
    home.ok(&["set", "app/db"], &[8; 20_000]);
    assert!(cached_pages(&held) > 0, "also over a rotation");
    drop(held);
    assert_eq!(
        alice().read(&daemon.file("app/db")).unwrap(),
        [8; 20_000],
        "the setting stays"
    );
    let output = script(&home, &alice(), "app/db", touch);
    assert_eq!(text(&output.stdout), "8 8\n");
    home.ok(
        &["set", "app/db", "--allow-cached-reads=false"],
        &[9; 20_000],
    );
    assert!(!script(&home, &alice(), "app/db", touch).status.success());
}

/// The first read of a process tells its program, to the log and to whoever asks
/// who depends on the secret.
#[test]
fn programs_are_told_from_each_other() {
    let home = TestDaemon::new().init(TWO_PERSONS);
    let daemon = home.start();
    daemon.set("app/db", b"1");
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let reader = Path::new(env!("CARGO_BIN_EXE_jarvisctl"));
    let copies = ["one", "two", "odd\nname"].map(|name| place.path().join(name));
    let exes = |user: &User| -> Vec<Value> {
        let reads = home.records_with(&[("action", json!("read")), ("uid", json!(user.uid))]);
        reads.iter().map(|read| read["exe"].clone()).collect()
    };
    let shown = |path: &PathBuf| json!(path.to_str().unwrap());
    let (one, two) = (shown(&copies[0]), shown(&copies[1]));
    // What would break a terminal is not recorded.
    for (copy, expected) in copies.iter().zip([&one, &two, &Value::Null]) {
        copy_program(reader, copy);
        // A machine that is very busy does not answer in time.
        daemon.eventually("a read with its program", || {
            let read = alice()
                .command(copy)
                .args(["--mount", home.mount().to_str().unwrap(), "get", "app/db"])
                .output()
                .unwrap();
            assert_eq!(read.stdout, b"1", "{read:?}");
            exes(&alice()).last() == Some(expected)
        });
    }
    // A thread that reads twice is asked about once.
    let db = daemon.file("app/db");
    let own = shown(&std::env::current_exe().unwrap());
    daemon.eventually("two reads with one program", || {
        bob().act(|| [fs::read(&db).unwrap(), fs::read(&db).unwrap()]);
        exes(&bob()).ends_with(&[own.clone(), Value::Null])
    });

    let etc = home.etc();
    let impact = home.ok(&["impact", "app/db", "--dir", etc.to_str().unwrap()], b"");
    let mut programs: Vec<_> = impact["observed"].as_array().unwrap().iter().collect();
    programs.sort_by_key(|observed| observed["uid"] != json!(alice().uid));
    let programs: Vec<_> = programs.iter().map(|o| o["programs"].clone()).collect();
    assert_eq!(programs, [json!([one, two]), json!([own])]);
    let query = [
        "audit",
        "query",
        "--exe",
        copies[0].to_str().unwrap(),
        "--dir",
    ];
    let found = home.ok(&[&query[..], &[etc.to_str().unwrap()]].concat(), b"");
    assert_eq!(found.as_array().unwrap().len(), 1);
    daemon.stop();
    home.verify();
}

/// The same number on every architecture (Linux 6.5).
const SYS_CACHESTAT: libc::c_long = 451;

/// cachestat(2): pages of `file` in the page cache.
fn cached_pages(file: &fs::File) -> u64 {
    use std::os::fd::AsRawFd;
    let range = [0u64; 2];
    let mut stat = [0u64; 5];
    // SAFETY: the kernel reads two and writes five words, which these are; there
    // is no safe wrapper for this call yet.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            range.as_ptr(),
            stat.as_mut_ptr(),
            0,
        )
    };
    assert_eq!(result, 0, "cachestat: {}", std::io::Error::last_os_error());
    stat[0]
}
