use jarvis_vault::{MAX_VALUE, SecretName};

use super::*;
use proptest::prelude::*;

fn message(bytes: &[u8]) -> String {
    match parse(bytes) {
        Ok(_) => panic!("accepted"),
        Err(Malformed::Invalid(m) | Malformed::NameTooLong(m) | Malformed::TooLong(m)) => m,
    }
}

fn set_value(bytes: &[u8]) -> Vec<u8> {
    match parse(bytes).unwrap_or_else(|e| panic!("{e:?}")) {
        Parsed::One(Operation::Set { value, .. }) => value.expose().to_vec(),
        _ => panic!("not a set"),
    }
}

#[test]
fn values_come_in_three_ways() {
    assert_eq!(set_value(b"set a \"b  c\"\n"), b"b  c");
    assert_eq!(
        set_value(br#"set a "1\n\"2\"\u00e9""#),
        "1\n\"2\"\u{e9}".as_bytes()
    );
    assert_eq!(
        set_value(br#"{"op":"set","name":"a","value":"x\n"}"#),
        b"x\n"
    );
    assert_eq!(
        set_value(br#"{"op":"set","name":"a","value_b64":"AP8="}"#),
        b"\0\xff"
    );
}

#[test]
fn refusals_say_what_and_where() {
    let cases: [(&[u8], &str); 33] = [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"\xff", "byte 1 is not UTF-8"),
        (b"dance", "unknown request"),
        (b"set a", "use: set NAME \"VALUE\""),
        (b"set a b", "use: set NAME \"VALUE\""),
        (b"set a \"b", "use: set NAME \"VALUE\""),
        (b"set a b\"", "use: set NAME \"VALUE\""),
        (b"set a \"", "use: set NAME \"VALUE\""),
        (b"set a \"b\" ", "use: set NAME \"VALUE\""),
        (b"set a \"b\" \"c\"", "use: set NAME \"VALUE\""),
        (b"set a \"b\nc\"", "use: set NAME \"VALUE\""),
        (b"set a b \"c\"", "use: set NAME \"VALUE\""),
        (b"set  a \"b\"", "use: set NAME \"VALUE\""),
        (b"delete a ", "use: delete NAME"),
        (b"delete a\r\n", "U+000D"),
        (b"rotate", "use: rotate NAME"),
        (b"rotate a b", "use: rotate NAME"),
        (br#"{"op":"set","name":"a"}"#, "exactly one of"),
        (
            br#"{"op":"set","name":"a","value":"x","value_b64":""}"#,
            "exactly one of",
        ),
        (
            br#"{"op":"set","name":"a","name":"b"}"#,
            "given twice at line 1",
        ),
        (
            br#"{"op":"generate","name":"a","type":"json","options":{"template":{"b":1,"b":2}}}"#,
            "given twice at line 1",
        ),
        (
            br#"{"op":"generate","name":"a","type":"json","options":[]}"#,
            "no JSON object",
        ),
        (
            br#"{"op":"set","nam":"a"}"#,
            "unknown field at line 1, column",
        ),
        (
            br#"{"op":"rotate","name":"a","value":"x"}"#,
            "takes no field `value`",
        ),
        (br#"{"op":"rotate"}"#, "`name` is missing"),
        (br#"{"op":"key_add","name":"a"}"#, "takes no field `name`"),
        (br#"{"op":"key_add"}"#, "exactly one of `passphrase`"),
        (
            br#"{"op":"explain","name":"a","uid":1}"#,
            "`gid` is missing",
        ),
        (br#"[{"op":"status"}]"#, "only changes"),
        (br#"{"op":"set","name":"a","value_b64":"?"}"#, "not base64"),
        (br#"[]"#, "batch is empty"),
        (
            br#"[{"op":"rotate","name":"a"},{"op":"rotate","name":"a//b"}]"#,
            "request 2",
        ),
    ];
    for (bytes, expected) in cases {
        let text = message(bytes);
        assert!(text.contains(expected), "{text} lacks {expected}");
    }
}

#[test]
fn a_place_that_is_not_known_is_not_told() {
    for request in [
        r#"{"op":"versions"}"#,
        r#"{"op":"versions","name":1}"#,
        r#"{"op":"schedule","after":-1}"#,
        r#"{"op":"revoke","name":"a","reason":"x"}"#,
    ] {
        let text = message(request.as_bytes());
        assert!(!text.contains("line 0"), "{text}");
    }
}

#[test]
fn errors_never_quote_a_value() {
    for request in [
        r#"{"op":"set","name":"a","value":{"hunter2":1}}"#,
        r#"{"op":"set","name":"a","value":"hunter2"#,
        r#"{"op":"set","name":"a","hunter2":1}"#,
        r#"{"op":"hunter2"}"#,
        r#"{"op":"set","name":"a","value_b64":"hunter2!"}"#,
        r#"{"op":"set","name":"a","value":"x","length":"hunter2"}"#,
        r#"{"op":"key_add","key_b64":"hunter2!"}"#,
        r#"{"op":"key_add","passphrase":["hunter2"]}"#,
    ] {
        let text = message(request.as_bytes());
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn limits_hold() {
    let long = "v".repeat(MAX_VALUE);
    assert_eq!(
        set_value(format!("set a \"{long}\"").as_bytes()).len(),
        MAX_VALUE
    );
    let over = parse(format!("set a \"{long}v\"").as_bytes());
    assert!(matches!(over, Err(Malformed::TooLong(_))));
    let name = "n".repeat(256);
    let over = parse(format!("rotate {name}").as_bytes());
    assert!(matches!(over, Err(Malformed::NameTooLong(_))));
    let deep = "[".repeat(100_000);
    assert!(message(deep.as_bytes()).contains("JSON"));
}

/// Requests as they are, with a byte or a piece changed.
fn nearly_a_request() -> impl Strategy<Value = Vec<u8>> {
    let seeds = prop::sample::select(vec![
        r#"{"op":"set","name":"a/b","value":"v","type":"password","length":20,"if_kid":"none"}"#,
        r#"[{"op":"rotate","name":"a"},{"op":"delete","name":"b"}]"#,
        r#"{"op":"explain","name":"a","verb":"read","uid":1,"gid":2,"groups":[3,4]}"#,
        "generate a/b password 64",
        "set a \"b c\"",
    ]);
    (
        seeds,
        any::<prop::sample::Index>(),
        prop::collection::vec(any::<u8>(), 0..4),
    )
        .prop_map(|(seed, at, piece)| {
            let mut bytes = seed.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes.splice(at..(at + piece.len() / 2).min(seed.len()), piece);
            bytes
        })
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn what_parses_is_within_bounds(bytes in nearly_a_request()) {
        if let Ok(Parsed::One(operation)) = parse(&bytes)
        {
            for need in operation.needs() {
                let Subject::Secret(name) = need.on else { continue };
                prop_assert!(SecretName::parse(name.as_str()).is_ok());
            }
        }
    }
}
