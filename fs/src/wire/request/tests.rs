//! Requests as the kernel sends them, and as nobody should.

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

/// A request with `body`, of the right length.
fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
    let header = InHeader {
        len: u32::try_from(size_of::<InHeader>() + body.len()).unwrap(),
        opcode,
        unique: 6,
        nodeid: 7,
        uid: 1001,
        gid: 1002,
        pid: 1003,
        total_extlen: 0,
        padding: 0,
    };
    [header.as_bytes(), body].concat()
}

fn operation(bytes: &[u8]) -> Result<Operation<'_>, Malformed> {
    Request::parse(bytes).map(|request| request.operation)
}

#[test]
fn a_lookup_has_its_head_and_its_name() {
    let bytes = request(opcode::LOOKUP, b"app\0");
    let parsed = Request::parse(&bytes).unwrap();
    assert_eq!((parsed.header.unique.request(), parsed.header.node), (6, 7));
    let ids = HeaderIds {
        uid: 1001,
        gid: 1002,
        tid: 1003,
    };
    assert_eq!(parsed.header.ids, ids);
    let name = OsStr::new("app");
    assert_eq!(parsed.operation, Operation::Lookup { name });
    assert!(operation(&request(opcode::LOOKUP, b"app")).is_err());
    assert!(operation(&request(opcode::LOOKUP, b"")).is_err());
}

#[test]
fn a_write_has_as_many_bytes_as_it_says() {
    let write = |size, offset| WriteIn {
        fh: 9,
        offset,
        size,
        write_flags: 0,
        lock_owner: 0,
        flags: 0,
        padding: 0,
    };
    let bytes = |write: WriteIn| request(opcode::WRITE, &[write.as_bytes(), b"abc"].concat());
    let whole = Operation::Write {
        handle: 9,
        offset: 5,
        data: b"abc",
    };
    assert_eq!(operation(&bytes(write(3, 5))), Ok(whole));
    for (size, offset) in [(2, 5), (4, 5), (u32::MAX, 5), (3, u64::MAX)] {
        assert!(operation(&bytes(write(size, offset))).is_err());
    }
}

#[test]
fn a_read_tells_whether_it_fills_the_page_cache() {
    let read = |read_flags| ReadIn {
        fh: 9,
        offset: 5,
        size: 4096,
        read_flags,
        lock_owner: 0,
        flags: 0,
        padding: 0,
    };
    for (flags, has_lock_owner) in [(0, false), (2, true), (3, true)] {
        let range = (5, 4096);
        let wanted = Operation::Read {
            handle: 9,
            range,
            has_lock_owner,
        };
        assert_eq!(
            operation(&request(opcode::READ, read(flags).as_bytes())),
            Ok(wanted)
        );
    }
}

#[test]
fn what_is_not_known_is_told_apart_from_what_is_malformed() {
    assert_eq!(operation(&request(5, b"")), Ok(Operation::Unknown));
    assert_eq!(operation(&request(4096, b"x")), Ok(Operation::Unknown));
    assert_eq!(
        operation(&request(opcode::RENAME2, b"")),
        Ok(Operation::Change)
    );
    assert_eq!(operation(&request(opcode::OPEN, b"\0\0\0")), Err(Malformed));
}

#[test]
fn an_old_kernel_says_less_at_init() {
    let words = [7, 34, 131_072, 5_u32];
    let Ok(Operation::Init(init)) = operation(&request(opcode::INIT, words.as_bytes())) else {
        panic!("not an INIT");
    };
    assert_eq!(
        (init.major, init.minor, init.flags, init.flags2),
        (7, 34, 5, 0)
    );
}

/// Everything that a request of its kind may hold at least, by its number.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(Just(0), 0..200),
        "[a-z]{0,300}\0?".prop_map(String::into_bytes),
    ]
}

proptest! {
    /// Whatever comes is parsed or refused; nothing outside of it is looked at.
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        Request::parse(&bytes).ok();
        RequestHeader::parse(&bytes).ok();
    }

    #[test]
    fn any_body_is_parsed_or_refused(opcode in 0..60_u32, body in bodies()) {
        let bytes = request(opcode, &body);
        if let Ok(Operation::Write { data, .. }) = operation(&bytes) {
            prop_assert!(body.ends_with(data));
        }
    }

    /// A request that was cut, or has something behind it, is none.
    #[test]
    fn a_length_that_lies_is_refused(opcode in 0..60_u32, body in bodies(), cut in 1..40_usize) {
        let whole = request(opcode, &body);
        let short = whole.len().saturating_sub(cut);
        prop_assert_eq!(Request::parse(&whole[..short]).err(), Some(Malformed));
        let long = [&whole[..], &vec![0; cut]].concat();
        prop_assert_eq!(Request::parse(&long).err(), Some(Malformed));
    }
}
