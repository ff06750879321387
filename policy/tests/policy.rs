//! Policies as admins write them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod common;

use common::user;
use jarvis_policy::{Accounts, Caller, Namespace, Policy, PolicyError, Verb};
use proptest::prelude::*;

struct Known;

impl Accounts for Known {
    fn uid(&self, user: &str) -> Option<u32> {
        ["root", "backend", "web"]
            .iter()
            .position(|u| *u == user)
            .map(|at| at as u32 * 1000)
    }

    fn gid(&self, group: &str) -> Option<u32> {
        ["root", "ops"]
            .iter()
            .position(|g| *g == group)
            .map(|at| at as u32 * 500)
    }
}

const POLICY: &str = r#"
default_deny: true
clients:
  admin:
    match: {uid: 0}
    allow: ["*"]
    verbs: ["*"]
  backend:
    allow: [jwt_signing_key, "backend/**"]
    deny: [backend/root_password]
  operators:
    match: {group: ops}
    allow: ["*"]
    verbs: [rotate]
  both:
    match: {user: [web, 4242], gid: 77}
    allow: ["web/*"]
"#;

fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text, &Known)
}

fn rule(policy: &Policy, caller: &Caller<'_>, verb: Verb, name: &str) -> String {
    policy.decide(caller, verb, name).rule().to_string()
}

#[test]
fn decisions_name_their_rule() {
    let policy = parse(POLICY).unwrap();
    let read = |caller: &Caller<'_>, name: &str| rule(&policy, caller, Verb::Read, name);
    assert_eq!(read(&user(0), "any/thing"), r#"admin allow "*""#);
    assert_eq!(
        read(&user(1000), "backend/x/y"),
        r#"backend allow "backend/**""#
    );
    assert_eq!(
        read(&user(1000), "backend/root_password"),
        r#"backend deny "backend/root_password""#
    );
    assert_eq!(read(&user(1000), "web/x"), "default deny");
    assert_eq!(read(&user(5), "jwt_signing_key"), "default deny");
}

#[test]
fn deny_wins_over_every_client_and_verb() {
    let policy = parse(POLICY).unwrap();
    let operator = Caller {
        groups: &[3, 500],
        ..user(1000)
    };
    for verb in Verb::ALL {
        assert!(
            !policy
                .decide(&operator, verb, "backend/root_password")
                .allowed()
        );
    }
    assert!(policy.decide(&operator, Verb::Rotate, "web/x").allowed());
}

#[test]
fn verbs_belong_to_their_client() {
    let policy = parse(POLICY).unwrap();
    assert!(
        policy
            .decide(&user(1000), Verb::List, "jwt_signing_key")
            .allowed()
    );
    assert!(
        !policy
            .decide(&user(1000), Verb::Write, "jwt_signing_key")
            .allowed()
    );
    assert!(policy.manages(&user(0)) && !policy.manages(&user(1000)));
    let operator = Caller {
        gid: 500,
        ..user(9)
    };
    assert!(policy.manages(&operator) && policy.grants(&operator, Verb::Rotate));
    assert!(!policy.grants(&operator, Verb::Policy));
    assert!(!policy.decide(&operator, Verb::Read, "web/x").allowed());
}

#[test]
fn all_keys_of_a_match_must_hold() {
    let policy = parse(POLICY).unwrap();
    let allowed = |uid, gid, groups: &[u32]| {
        let caller = Caller {
            uid,
            gid,
            groups,
            containerized: false,
            namespace: Namespace::Host,
        };
        policy.decide(&caller, Verb::Read, "web/x").allowed()
    };
    assert!(allowed(2000, 77, &[]));
    assert!(allowed(4242, 1, &[5, 77]));
    assert!(!allowed(2000, 1, &[]));
    assert!(!allowed(1, 77, &[]));
}

#[test]
fn a_containers_root_is_not_the_hosts() {
    let policy = parse(POLICY).unwrap();
    let inside = |uid| Caller {
        containerized: true,
        ..user(uid)
    };
    assert!(!policy.decide(&inside(0), Verb::Read, "a").allowed());
    assert!(!policy.manages(&inside(0)));
    assert!(
        policy
            .decide(&inside(1000), Verb::Read, "jwt_signing_key")
            .allowed()
    );
    let by_group = parse("clients: {wheel: {match: {gid: 0}, allow: [a]}}").unwrap();
    let member = Caller {
        groups: &[0],
        ..user(5)
    };
    assert!(by_group.decide(&member, Verb::Read, "a").allowed());
    let inside = Caller {
        containerized: true,
        ..member
    };
    assert!(!by_group.decide(&inside, Verb::Read, "a").allowed());
}

#[test]
fn listings_follow_what_lies_beneath() {
    let policy = parse(POLICY).unwrap();
    let may = |uid, dir| policy.may_beneath(&user(uid), Verb::Read, dir);
    assert!(may(1000, "") && may(1000, "backend") && may(1000, "backend/x"));
    assert!(!may(1000, "web") && !may(7, ""));
    let denied = parse("clients: {a: {match: {uid: 1}, allow: ['*'], deny: ['x/**']}}").unwrap();
    assert!(denied.may_beneath(&user(1), Verb::Read, ""));
    assert!(!denied.may_beneath(&user(1), Verb::Read, "x"));
}

#[test]
fn refusals_have_their_place() {
    let cases = [
        (
            "clients:\n  a:\n    match: {uid: 1}\n    alow: [x]\n",
            4,
            5,
            "alow",
        ),
        (
            "clients:\n  a:\n    match: {container: x}\n    allow: [x]\n",
            3,
            13,
            "container",
        ),
        ("colour: red\nclients: {}\n", 1, 1, "colour"),
        (
            "default_deny: false\nclients: {}\n",
            1,
            15,
            "can only be true",
        ),
        (
            "clients:\n  a:\n    match: {uid: 1}\n    allow: [x, 'a//b']\n",
            4,
            16,
            "empty segment",
        ),
        (
            "clients:\n  a:\n    match: {uid: 1}\n    allow: [x]\n    verbs: [read, fly]\n",
            5,
            19,
            "unknown verb \"fly\"",
        ),
        (
            "clients:\n  a:\n    match: {user: nobody-here}\n    allow: [x]\n",
            3,
            19,
            "no user `nobody-here`",
        ),
        (
            "clients:\n  a:\n    match: {group: none}\n    allow: [x]\n",
            3,
            20,
            "no group `none`",
        ),
        (
            "clients:\n  a:\n    match: {uid: root}\n    allow: [x]\n",
            3,
            18,
            "takes numbers",
        ),
        (
            "clients:\n  a:\n    match: {uid: 4294967295}\n    allow: [x]\n",
            3,
            18,
            "no valid id",
        ),
        (
            "clients:\n  a:\n    match: {uid: []}\n    allow: [x]\n",
            3,
            18,
            "empty list",
        ),
        (
            "clients:\n  a:\n    match: {}\n    allow: [x]\n",
            3,
            12,
            "`match` is empty",
        ),
        (
            "clients:\n  a:\n    match: {user: [web, nope]}\n    allow: [x]\n",
            3,
            25,
            "no user `nope`",
        ),
        (
            "clients:\n  a:\n    match: {uid: 1}\n    allow: [x]\n    verbs: ['*', fly]\n",
            5,
            18,
            "unknown verb",
        ),
        (
            "clients:\n  ghost:\n    allow: [x]\n",
            2,
            3,
            "no user `ghost`",
        ),
        (
            "clients:\n  web:\n    allow: ['a/**']\n    verbs: [read, key]\n",
            4,
            19,
            "`key` is about the whole vault, and client `web` is not allowed everything",
        ),
        (
            "clients:\n  a:\n    match: {uid: 1}\n",
            2,
            3,
            "neither allows nor denies",
        ),
        (
            "clients:\n  a b:\n    match: {uid: 1}\n    allow: [x]\n",
            2,
            3,
            "client's name",
        ),
    ];
    for (text, line, column, message) in cases {
        let error = parse(text).unwrap_err();
        assert_eq!(
            (error.line(), error.column()),
            (line, column),
            "{text}{error}"
        );
        assert!(
            error.to_string().contains(message),
            "{error} lacks {message}"
        );
    }
}

#[test]
fn verbs_about_the_vault_need_a_client_that_is_allowed_everything() {
    let subtree = parse("clients: {web: {allow: ['web/**'], verbs: ['*']}}").unwrap();
    let web = user(2000);
    for verb in Verb::ALL {
        assert_eq!(
            subtree.decide(&web, verb, "web/x").allowed(),
            !verb.is_about_vault(),
            "\"*\" of a subtree: {verb}"
        );
        let vault = subtree.decide_vault(&web, verb);
        assert!(!vault.allowed(), "{verb}");
    }
    for verb in ["audit", "policy", "key"] {
        let with = |allow: &str, verb: &str| {
            parse(&format!(
                "clients: {{web: {{allow: [{allow}], verbs: [{verb}]}}}}"
            ))
        };
        assert!(with("'web/**', web", verb).is_err(), "{verb}");
        assert!(with("'*/**', '*'", verb).is_ok(), "{verb}");
        let all = with("x, '**'", verb).unwrap();
        let by = all.decide_vault(&web, verb.parse().unwrap());
        assert_eq!(by.rule().to_string(), "web allow \"**\"");
    }
    // A client that denies everything denies the vault.
    let suspended = "clients: {web: {allow: ['*'], verbs: ['*']}, \
                     off: {match: {user: web}, deny: ['*']}}";
    let suspended = parse(suspended).unwrap();
    assert!(!suspended.decide_vault(&web, Verb::Key).allowed());
}

#[test]
fn null_takes_no_selector_away() {
    for text in [
        "clients: {web: {match: {uid: null, user: web}, allow: [x]}}",
        "clients: {web: {match: {uid: ~, user: web}, allow: [x]}}",
        "clients: {web: {match: {uid: , user: web}, allow: [x]}}",
        "clients: {web: {match: ~, allow: [x]}}",
        "clients: {web: {match: {user: web}, allow: [x], verbs: ~}}",
        "default_deny: ~\nclients: {web: {match: {user: web}, allow: [x]}}",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn no_client_takes_anothers_place() {
    for key in ["web", "!foo web", "!!str web", "'web'", "\"web\""] {
        let text =
            format!("clients:\n  web: {{allow: ['*'], deny: [y]}}\n  {key}: {{allow: ['*']}}\n");
        assert!(parse(&text).is_err(), "{text}");
    }
}

#[test]
fn a_suspended_client_manages_nothing() {
    let policy = parse("clients: {web: {allow: ['*'], deny: ['*'], verbs: ['*']}}").unwrap();
    assert!(!policy.manages(&user(2000)) && !policy.grants(&user(2000), Verb::Policy));
}

#[test]
fn messages_hold_no_control_characters() {
    let long = "n".repeat(5000);
    for name in ["q\\e[31m\\nq", &long] {
        let text = format!("clients: {{a: {{match: {{user: \"{name}\"}}, allow: [x]}}}}");
        let message = parse(&text).unwrap_err().to_string();
        assert!(
            !message.contains(char::is_control) && message.len() < 400,
            "{message:?}"
        );
    }
}

#[test]
fn yaml_itself_is_bounded() {
    for (text, message) in [
        (
            "clients: {a: {match: {uid: 1}, allow: [x]}, a: {match: {uid: 2}, allow: [y]}}",
            "uplicate",
        ),
        ("clients: &x {a: {match: {uid: 1}, allow: [x]}}", ""),
        ("clients: {a: {match: {uid: 1}, allow: [*]}}", ""),
        (
            "clients: {a: {match: {uid: [[1]]}, allow: [x]}}",
            "list within a list",
        ),
        ("[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]", ""),
        ("", ""),
        ("clients: {a: {match: {uid: -1}, allow: [x]}}", "negative"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(
            error.contains(message) && !error.contains('\n'),
            "{text}: {error}"
        );
    }
    let large = format!("# {}\nclients: {{}}", "x".repeat(1024 * 1024));
    assert!(parse(&large).unwrap_err().to_string().contains("bytes"));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_mutation_panics(at in 0..POLICY.len(), byte in any::<char>()) {
        let mut text: Vec<char> = POLICY.chars().collect();
        text[at] = byte;
        let _ = parse(&text.into_iter().collect::<String>());
    }

    #[test]
    fn a_listing_never_hides_what_may_be_read(
        allow in prop::collection::vec("(a|b|\\*|\\*\\*)(/(a|b|\\*|\\*\\*)){0,2}", 1..4),
        deny in prop::collection::vec("(a|b|\\*|\\*\\*)(/(a|b|\\*|\\*\\*)){0,2}", 0..3),
        name in "[ab](/[ab]){0,3}",
    ) {
        let quoted = |list: &[String]| list.iter().map(|p| format!("'{p}'")).collect::<Vec<_>>().join(", ");
        let text = format!(
            "clients: {{a: {{match: {{uid: 1}}, allow: [{}], deny: [{}]}}}}",
            quoted(&allow), quoted(&deny)
        );
        let policy = parse(&text).unwrap();
        if policy.decide(&user(1), Verb::Read, &name).allowed() {
            for (at, _) in name.match_indices('/') {
                prop_assert!(policy.may_beneath(&user(1), Verb::Read, &name[..at]));
            }
            prop_assert!(policy.may_beneath(&user(1), Verb::Read, ""));
        }
    }
}
