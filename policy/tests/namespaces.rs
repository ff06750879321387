//! Callers in containers and in user namespaces of their own.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Nobody, user};
use jarvis_policy::{Caller, Namespace, Policy, PolicyError, Verb};

fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text, &Nobody)
}

#[test]
fn a_denial_of_id_0_holds_in_a_container_too() {
    let text = "clients: {a: {match: {gid: 5}, allow: [x]}, b: {match: {uid: 0}, deny: [x]}}";
    let policy = parse(text).unwrap();
    let root = Caller { gid: 5, ..user(0) };
    let inside = Caller {
        containerized: true,
        ..root
    };
    for caller in [root, inside] {
        assert!(!policy.decide(&caller, Verb::Read, "x").allowed());
    }
}

#[test]
fn another_user_namespace_gives_nothing_and_escapes_nothing() {
    let policy = parse(
        "clients:\n  sub: {match: {uid: [200000, 1000]}, allow: ['**'], deny: []}\n  \
         ops: {match: {gid: 77}, allow: [by/group], deny: [no/group]}\n  \
         web: {match: {uid: 2000}, deny: [no/uid]}\n",
    )
    .unwrap();
    let reads = |namespace, uid, gid, name| {
        let caller = Caller {
            gid,
            namespace,
            ..user(uid)
        };
        policy.decide(&caller, Verb::Read, name).allowed()
    };
    let everywhere = [
        Namespace::Host,
        Namespace::Of(2000),
        Namespace::Of(5),
        Namespace::OfRoot,
        Namespace::Unknown,
    ];
    for namespace in everywhere {
        // A uid is what it is.
        assert!(reads(namespace, 200_000, 1, "yes"), "{namespace:?}");
        let host = namespace == Namespace::Host;
        assert_eq!(reads(namespace, 5, 77, "by/group"), host, "{namespace:?}");
        // Who could be denied is.
        let owner = matches!(namespace, Namespace::Of(2000) | Namespace::Unknown);
        assert_eq!(!reads(namespace, 200_000, 1, "no/uid"), owner);
        let users = matches!(namespace, Namespace::Of(_) | Namespace::Unknown);
        assert_eq!(!reads(namespace, 200_000, 1, "no/group"), users);
        assert!(!reads(namespace, 200_000, 77, "no/group"), "{namespace:?}");
    }
}
