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


class Bad(Exception):
    """A record is not what it should be."""


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
    """Cuts the signature off a line: its payload and the signature."""
    tail = len(AFTER) + SIGNATURE_LENGTH
    if not line.endswith(AFTER) or line[-tail - len(BEFORE) : -tail] != BEFORE:
        raise Bad("no signature at its end")
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

    def start(self, record, segment):
        """A start record brings an epoch key that the identity certified."""
        start = record["start"]
        key = decode(start["epoch_key"], 32)
        claim = b"".join(
            [
                b"jarvis-audit-v1 epoch\0",
                self.host,
                number(record["epoch"]),
                number(record["seq"]),
                self.link,
                key,
            ]
        )
        check(self.identity, decode(start["cert"], 64), claim, "its epoch key is not certified")
        previous = {None: "none", "stop": "clean"}.get(self.last, "unclean")
        if start["previous"] != previous or start["segment"] != segment:
            raise Bad("it misreports what was before it")
        self.key = Ed25519PublicKey.from_public_bytes(key)
        self.epoch += 1

    def record(self, line, segment):
        payload, signature = split(line)
        record = json.loads(payload)
        link = hashlib.sha256(b"jarvis-audit-v1 record\0" + payload).digest()
        if record["v"] != 1:
            raise Bad("an unknown format")
        if record["seq"] != self.seq + 1:
            raise Bad(f"record {record['seq']} stands here")
        if record["prev"] != self.link.hex():
            raise Bad("it does not follow the record before it")
        if record["host"] != self.host.hex():
            raise Bad("it is another host's")
        if (record["action"] == "start") != ("start" in record):
            raise Bad("a start record without a start, or the other way round")
        if "start" in record:
            self.start(record, segment)
        if self.key is None or record["epoch"] != self.epoch:
            raise Bad("it is of another epoch")
        check(self.key, signature, b"jarvis-audit-v1 signature\0" + link, "its signature")
        if (record["action"] == "epoch") != ("next" in record):
            raise Bad("an epoch record without a next key, or the other way round")
        if "next" in record:
            if record["next"]["epoch"] != self.epoch + 1:
                raise Bad("the next epoch has another number")
            key = decode(record["next"]["epoch_key"], 32)
            self.key, self.epoch = Ed25519PublicKey.from_public_bytes(key), self.epoch + 1
        self.seq, self.link, self.last = self.seq + 1, link, record["action"]
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
        for segment, path in enumerate(segments, 1):
            if int(path.stem) != segment:
                raise Bad(f"segment {segment} is missing")
            with path.open("rb") as lines:
                while line := lines.readline(MAX_LINE):
                    if not line.endswith(b"\n"):
                        raise Bad("it is torn or too long")
                    verifier.record(line[:-1], segment)
        if verifier.seq == 0:
            raise Bad("there is no record")
        if checkpoint and not verifier.anchored:
            raise Bad("it is missing: the log ends before the checkpoint")
    except (Bad, KeyError, TypeError, ValueError) as error:
        print(f"record {verifier.seq + 1} is bad: {error}", file=sys.stderr)
        sys.exit(6)
    anchored = "anchored by the checkpoint" if verifier.anchored else "its tail is not anchored"
    print(f"{verifier.seq} records, head {verifier.link.hex()}, all good; {anchored}")


if __name__ == "__main__":
    main()
