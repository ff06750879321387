//! What a server finds that its predecessor left at any instruction.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use zerocopy::IntoBytes;

use super::*;
use crate::connection::Connection;
use crate::wire::abi::{InHeader, opcode};

/// A request of `len` bytes, its body full of `byte`.
fn request(opcode: u32, unique: u64, len: usize, byte: u8) -> Vec<u8> {
    let header = InHeader {
        len: u32::try_from(len).unwrap(),
        opcode,
        unique,
        nodeid: 1,
        uid: 0,
        gid: 0,
        pid: 7,
        total_extlen: 0,
        padding: 0,
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(len, byte);
    bytes
}

fn memory() -> RequestMemory {
    RequestMemory::create().unwrap()
}

/// The same memory as another process sees it.
fn other(memory: &RequestMemory) -> RequestMemory {
    RequestMemory::map(memory.fd().try_clone_to_owned().unwrap()).unwrap()
}

/// A server that dies with `bytes` in its first buffer, as the kernel left them.
fn die_reading(memory: &RequestMemory, bytes: &[u8], noted: bool) {
    let buffers = RequestBuffers::new(other(memory));
    let mut buffer = buffers.take().unwrap();
    buffer.room()[..bytes.len()].copy_from_slice(bytes);
    if noted {
        buffer.note_received(bytes.len());
    }
    std::mem::forget(buffer);
}

/// Requests that the next server finds: unanswered, torn, dismissed.
fn left(memory: &RequestMemory) -> (Vec<Vec<u8>>, usize, Vec<u64>) {
    let buffers = RequestBuffers::new(other(memory));
    let (mut unanswered, mut torn, mut dismissed) = (Vec::new(), 0, Vec::new());
    for left in buffers.take_left() {
        match left {
            LeftRequest::Unanswered(buffer) => unanswered.push(buffer.request().to_vec()),
            LeftRequest::Torn(_) => torn += 1,
            LeftRequest::Dismissed(request) => dismissed.push(request),
        }
    }
    (unanswered, torn, dismissed)
}

fn is_wiped(memory: &RequestMemory) -> bool {
    let memory = other(memory);
    let mut buffers = (0..=POOL).map(|index| memory.0.take(index).unwrap());
    // Beyond these bytes nothing was written in any test.
    buffers.all(|buffer| buffer[..64 * 1024].iter().all(|&byte| byte == 0))
}

#[test]
fn a_request_that_was_read_is_found_whether_its_length_was_noted_or_not() {
    for noted in [false, true] {
        let memory = memory();
        let bytes = request(opcode::LOOKUP, 6, 46, b'n');
        die_reading(&memory, &bytes, noted);
        let (unanswered, torn, dismissed) = left(&memory);
        assert_eq!((unanswered.len(), torn, dismissed.len()), (1, 0, 0));
        assert_eq!(
            (&unanswered[0][..36], &unanswered[0][40..]),
            (&bytes[..36], &bytes[40..])
        );
        // Dropped with the buffers: nothing is left, and all can be used.
        assert!(left(&memory).0.is_empty() && is_wiped(&memory));
    }
}

#[test]
fn a_long_request_counts_when_it_is_known_to_be_whole() {
    let memory = memory();
    let bytes = request(opcode::WRITE, 8, 3 * PAGE_BYTES, b'v');
    die_reading(&memory, &bytes, true);
    assert_eq!(left(&memory).0.len(), 1);
    // Its reader was killed while the kernel copied it.
    die_reading(&memory, &bytes[..PAGE_BYTES], false);
    let (unanswered, torn, _) = left(&memory);
    assert_eq!((unanswered.len(), torn), (0, 1));
    assert!(is_wiped(&memory));
}

#[test]
fn what_was_answered_is_wiped_and_not_found() {
    let memory = memory();
    let buffers = RequestBuffers::new(other(&memory));
    let mut buffer = buffers.take().unwrap();
    let bytes = request(opcode::WRITE, 8, 200, b'v');
    buffer.room()[..200].copy_from_slice(&bytes);
    buffer.note_received(200);
    assert!(!is_wiped(&memory));
    buffer.note_answered(8);
    std::mem::forget(buffer);
    let (unanswered, torn, dismissed) = left(&memory);
    assert_eq!((unanswered.len(), torn, dismissed.len()), (0, 0, 0));
    assert!(is_wiped(&memory));
    // One that forgets wants no answer.
    die_reading(&memory, &request(opcode::BATCH_FORGET, 0, 100, 1), true);
    assert!(left(&memory).0.is_empty() && is_wiped(&memory));
}

#[test]
fn what_was_dismissed_for_a_dead_server_is_told_to_the_next() {
    let memory = memory();
    die_reading(&memory, &request(opcode::OPEN, 6, 48, 0), true);
    let (index, header) = memory.unanswered().next().unwrap();
    assert_eq!(header.ids.tid, 7);
    memory.dismiss(index, &header);
    assert!(memory.unanswered().next().is_none());
    let (unanswered, _, dismissed) = left(&memory);
    assert_eq!((unanswered.len(), dismissed), (0, vec![6]));
}

/// A device's end and the kernel's.
fn pair() -> (Connection, OwnedFd) {
    let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let (ours, kernel) = socketpair(unix, packets, SocketFlags::NONBLOCK, None).unwrap();
    (Connection::from(ours), kernel)
}

#[test]
fn requests_wait_in_the_backlog_in_their_order() {
    let memory = memory();
    let (connection, kernel) = pair();
    let sent = [(2, 41), (4, 5000), (6, 48)].map(|(unique, len)| {
        let bytes = request(opcode::SETXATTR, unique, len, b'x');
        rustix::io::write(&kernel, &bytes).unwrap();
        bytes
    });
    let mut backlog = Backlog::open(&other(&memory)).unwrap();
    for _ in 0..2 {
        connection.receive(backlog.room().unwrap()).unwrap();
        backlog.keep();
    }
    // Who reads dies with the third, and the next one reads on behind it.
    connection.receive(backlog.room().unwrap()).unwrap();
    drop(backlog);
    let mut backlog = Backlog::open(&other(&memory)).unwrap();
    backlog.reuse();
    rustix::io::write(&kernel, &request(opcode::SETXATTR, 8, 50, b'y')).unwrap();
    let len = connection.receive(backlog.room().unwrap()).unwrap();
    backlog.forget(len);
    drop(backlog);

    let buffers = RequestBuffers::new(memory.clone());
    let mut backlog = buffers.backlog().unwrap();
    let waiting = backlog.waiting();
    let numbers: Vec<u64> = waiting.iter().map(|w| w.header.unique.request()).collect();
    assert_eq!(numbers, [2, 4, 6]);
    for (request, sent) in waiting.iter().zip(&sent) {
        let mut buffer = buffers.take().unwrap();
        assert!(backlog.hand_over(request, &mut buffer));
        assert_eq!(buffer.request().len(), sent.len());
        assert_eq!(
            (&buffer.request()[..36], &buffer.request()[40..]),
            (&sent[..36], &sent[40..])
        );
        assert!(!backlog.waiting().contains(request), "it was taken out");
    }
    drop(backlog);
    let mut backlog = Backlog::open(&other(&memory)).unwrap();
    assert!(backlog.waiting().is_empty());
    backlog.reuse();
    drop(backlog);
    assert!(is_wiped(&memory));
}

#[test]
fn a_full_backlog_has_no_room() {
    let memory = memory();
    let mut backlog = Backlog::open(&memory).unwrap();
    let mut kept = 0;
    while let Some(room) = backlog.room() {
        let len = 512 * 1024;
        room[..len].copy_from_slice(&request(opcode::WRITE, 2, len, 1));
        backlog.keep();
        kept += 1;
    }
    assert_eq!(backlog.waiting().len(), kept);
    assert!(kept >= 28);
}
