"""Reads FILE COUNT times in the WAY of a Python program; prints what was wrong."""

import mmap
import os
import sys

way, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
good = (b"a" * 8, b"b" * 100, b"c" * 3000)


def to_the_end():
    with open(path, "rb") as file:
        return file.read()


def by_seek():
    with open(path, "rb", buffering=0) as file:
        size = os.lseek(file.fileno(), 0, os.SEEK_END)
        return os.pread(file.fileno(), size, 0).ljust(size, b"\0")


def mapped():
    with open(path, "rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            return bytes(pages)


bad = 0
for _ in range(count):
    try:
        value = {"read": to_the_end, "seek": by_seek, "map": mapped}[way]()
    except OSError as error:
        value = repr(error).encode()
    if value not in good:
        bad += 1
        if bad == 1:
            print(len(value), value[:40], file=sys.stderr)
print(f"{count} read, {bad} wrong")
