#!/usr/bin/env python3
"""Verifies an audit log of jarvis-secretsd from docs/FORMATS.md alone.

Shares no code with the daemon. Needs python3-cryptography.

usage: verify_audit.py LOG-DIRECTORY IDENTITY.PUB [CHECKPOINT]

Exit code 0: every record is good (and the log has what the checkpoint says).
Exit code 6: the first bad record is named.
"""

import base64
import hashlib
import json
import pathlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_LINE = 32 * 1024
BEFORE, AFTER = b',"sig":"', b'"}'
SIGNATURE_LENGTH = 86
SIGNED = ("start", "stop", "signature", "epoch", "segment", "prune")


class Bad(Exception):
    """A record is not what it should be."""


def refuse(wrong, what):
    if wrong:
        raise Bad(what)


def decode(text, length):
    """base64url without padding, unused bits zero."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (TypeError, ValueError) as error:
        raise Bad("no base64url") from error
    # Unused bits of the last character must be zero: one way to write it.
    if len(raw) != length or base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise Bad(f"no base64url of {length} bytes")
    return raw


def check(key, signature, message, what):
    try:
        key.verify(signature, message)
    except InvalidSignature as error:
        raise Bad(what) from error


def split(line):
    """Cuts the signature off a line, if it has one: its payload and the signature."""
    tail = len(AFTER) + SIGNATURE_LENGTH
    if not line.endswith(AFTER) or line[-tail - len(BEFORE) : -tail] != BEFORE:
        return line, None
    signature = decode(line[-tail : -len(AFTER)].decode("ascii", "replace"), 64)
    return line[: -tail - len(BEFORE)] + b"}", signature


def number(value, length=8):
    return value.to_bytes(length, "big")


class Verifier:
    def __init__(self, identity, checkpoint=None):
        raw = identity.public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        self.identity, self.host = identity, hashlib.sha256(raw).digest()[:8]
        self.seq, self.link, self.epoch = 0, bytes(32), 0
        self.key, self.last, self.checkpoint, self.anchored = None, None, checkpoint, False
        self.segment, self.first_seq, self.size, self.closed = 0, 0, 0, False
        self.pruned, self.explained = None, True
        self.time, self.times_back = "", []
        self.unsigned, self.nobody_vouches = 0, []

    def start(self, record, segment):
        """A start record brings an epoch key that the identity certified."""
        start = record["start"]
        key = decode(start["epoch_key"], 32)
        place = number(record["epoch"]) + number(record["seq"]) + self.link
        claim = b"jarvis-audit-v2 epoch\0" + self.host + place + key
        check(self.identity, decode(start["cert"], 64), claim, "its epoch key is not certified")
        previous = {None: "none", "stop": "clean"}.get(self.last, "unclean")
        known = self.last is not None or segment == 1
        if start["segment"] != segment or (known and start["previous"] != previous):
            raise Bad("it misreports what was before it")
        unsigned = start.get("unsigned", 0)
        if unsigned:
            refuse(known and self.last and unsigned != self.unsigned, "it counts other records")
            self.nobody_vouches.append((record["seq"] - unsigned, unsigned))
        self.key = Ed25519PublicKey.from_public_bytes(key)
        self.epoch += 1

    def begin_late(self, record, segment):
        """What came before was pruned; a prune record must say the same."""
        self.seq, self.epoch = record["seq"] - 1, record["epoch"] - 1
        self.link = bytes.fromhex(record["prev"])
        self.pruned, self.explained = (segment - 1, self.seq, record["prev"]), False

    def borders(self, record, segment, offset):
        """Where segments begin and end."""
        begins, opened, closes = segment != self.segment, record.get("open"), record.get("close")
        odd = (record["action"] == "segment") != (bool(opened) != bool(closes))
        refuse(odd, "a segment record without its particulars, or the other way round")
        if opened:
            follows = self.closed and opened["bytes_before"] == self.size
            first = self.segment == 0 and self.pruned
            if not begins or opened["segment"] != segment or not (follows or first):
                raise Bad("a segment begins here that should not")
            key = decode(opened["epoch_key"], 32)
            claim = number(segment, 4) + number(record["epoch"]) + key
            claim = b"jarvis-audit-v2 segment\0" + self.host + claim
            check(self.identity, decode(opened["cert"], 64), claim, "its key is not certified")
            self.key, self.epoch = Ed25519PublicKey.from_public_bytes(key), self.epoch + 1
        elif (begins and segment > 1 and "start" not in record) or (not begins and self.closed):
            raise Bad("a segment does not begin or end here")
        if begins:
            self.segment, self.first_seq = segment, record["seq"]
        here = {"segment": segment, "first_seq": self.first_seq, "bytes": offset}
        refuse(closes and closes != here, "it misreports the segment that it closes")
        self.closed = bool(closes)
        gone = record.get("prune")
        if gone and self.pruned and gone["segment"] >= self.pruned[0]:
            other = gone["segment"] == self.pruned[0] and tuple(gone.values()) != self.pruned
            refuse(other, "it tells of other records than those that are gone")
            self.explained = True

    def record(self, line, segment, offset):
        payload, signature = split(line)
        record = json.loads(payload)
        link = hashlib.sha256(b"\0" + payload).digest()
        refuse(record["v"] != 2, "an unknown format")
        if self.last is None and segment > 1:
            self.begin_late(record, segment)
        refuse(record["seq"] != self.seq + 1, f"record {record['seq']} stands here")
        refuse(record["prev"] != self.link.hex(), "it does not follow the record before it")
        refuse(record["host"] != self.host.hex(), "it is another host's")
        for action, field in (("start", "start"), ("epoch", "next"), ("prune", "prune")):
            missing = (record["action"] == action) != (field in record)
            refuse(missing, f"no {action} record without {field}, or the other way round")
        if "start" in record:
            self.start(record, segment)
        self.borders(record, segment, offset)
        refuse(self.key is None or record["epoch"] != self.epoch, "it is of another epoch")
        refuse(signature is None and record["action"] in SIGNED, "it has no signature")
        if signature is not None:
            check(self.key, signature, b"jarvis-audit-v2 signature\0" + link, "its signature")
        self.unsigned = 0 if signature is not None else self.unsigned + 1
        if "next" in record:
            refuse(record["next"]["epoch"] != self.epoch + 1, "the next epoch has another number")
            key = decode(record["next"]["epoch_key"], 32)
            self.key, self.epoch = Ed25519PublicKey.from_public_bytes(key), self.epoch + 1
        self.seq, self.link, self.last = self.seq + 1, link, record["action"]
        if record["time"] < self.time:
            self.times_back.append(self.seq)
        self.time = record["time"]
        self.size = offset + len(line) + 1
        if self.checkpoint and self.checkpoint["seq"] == str(self.seq):
            self.at_checkpoint()

    def at_checkpoint(self):
        note = self.checkpoint
        here = {"host": self.host.hex(), "head": self.link.hex(), "epoch": str(self.epoch)}
        if any(note[name] != value for name, value in here.items()):
            raise Bad("the checkpoint tells of another record")
        message = b"jarvis-audit-v1 checkpoint\0" + note["body"].encode()
        check(self.key, decode(note["signature"], 64), message, "the checkpoint's signature")
        self.anchored = True


def read_checkpoint(path):
    body, signature = path.read_text().split("\n\n")
    fields = dict(line.split(" ", 1) for line in body.split("\n")[1:])
    return {**fields, "body": body + "\n\n", "signature": signature.strip()}


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    directory, identity = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    checkpoint = read_checkpoint(pathlib.Path(sys.argv[3])) if len(sys.argv) == 4 else None
    verifier = Verifier(serialization.load_pem_public_key(identity.read_bytes()), checkpoint)
    try:
        segments = sorted(directory.glob("[0-9]" * 8 + ".jsonl"))
        for segment, path in enumerate(segments, int(segments[0].stem) if segments else 1):
            refuse(int(path.stem) != segment, f"segment {segment} is missing")
            with path.open("rb") as lines:
                while line := lines.readline(MAX_LINE):
                    refuse(not line.endswith(b"\n"), "it is torn or too long")
                    verifier.record(line[:-1], segment, lines.tell() - len(line))
        if verifier.seq == 0 or not verifier.explained:
            raise Bad("there is no record, or older ones are gone that were not pruned")
        if checkpoint and not verifier.anchored:
            raise Bad("it is missing: the log ends before the checkpoint")
    except (Bad, KeyError, TypeError, ValueError) as error:
        print(f"record {verifier.seq + 1} is bad: {error}", file=sys.stderr)
        sys.exit(6)
    if verifier.times_back:
        count, first = len(verifier.times_back), verifier.times_back[0]
        print(f"the clock went back {count} time(s), first before record {first}")
    for first, count in verifier.nobody_vouches:
        print(f"no signature vouches for {count} record(s) from {first} on")
    if verifier.unsigned:
        print(f"{verifier.unsigned} record(s) at the end are not signed yet")
    anchored = "anchored by the checkpoint" if verifier.anchored else "its tail is not anchored"
    print(f"all good up to record {verifier.seq}, head {verifier.link.hex()}; {anchored}")


if __name__ == "__main__":
    main()
