"""Reads FILE COUNT times in the WAY of a Python program; prints what was wrong."""

import errno
import mmap
import os
import sys

way, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
good = (b"a" * 8, b"b" * 100, b"c" * 3000)


def to_the_end():
    with open(path, "rb") as file:
        return file.read()


def mapped():
    while True:
        with open(path, "rb") as file:
            try:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
                    return bytes(pages)
            except OSError as error:
                # Two rotations came while it was opened: the file can't be mapped.
                if error.errno != errno.ENODEV:
                    raise


bad = 0
for _ in range(count):
    try:
        value = {"read": to_the_end, "map": mapped}[way]()
    except OSError as error:
        value = repr(error).encode()
    if value not in good:
        bad += 1
        if bad == 1:
            print(len(value), value[:40], file=sys.stderr)
print(f"{count} read, {bad} wrong")
