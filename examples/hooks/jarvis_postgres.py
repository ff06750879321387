"""What the PostgreSQL hooks of jarvis-secretsd share; lies beside them.

Python's standard library and psql. No password is ever in the arguments or the
environment of a process, in a file on disk, or in a statement: the server gets
SCRAM-SHA-256 verifiers, and psql reads passwords from files in memory.

What a hook prints is thrown away, for it might print a value. So its exit status
says what is wrong: see docs/FORMATS.md.
"""

import base64
import configparser
import hashlib
import hmac
import os
import re
import stat
import subprocess
import sys

OLD, NEW = 3, 4
MAX_VALUE = 16 * 1024

BAD_USE, BAD_VALUE, NO_SERVER, REFUSED, BAD_CONFIG = 64, 65, 69, 70, 78

KEYS = {
    "host", "port", "dbname", "sslmode", "sslrootcert", "psql", "timeout",
    "admin", "admin_password_file", "role", "roles", "group",
}


class Failure(Exception):
    """The hook can't go on; the exit status says why."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


def main(phases, kind):
    """Runs the phase that the arguments name: `phases` maps it to a function
    of configuration, old and new value. `kind` is the hook's own name."""
    try:
        if len(sys.argv) != 3 or sys.argv[1] not in phases:
            raise Failure(BAD_USE)
        phase, secret = sys.argv[1:]
        old, new = read_value(OLD), read_value(NEW)
        phases[phase](load(kind, secret), old, new)
    except Failure as failure:
        sys.exit(failure.status)


def read_value(fd):
    """The value behind `fd`, or None: where there is none it is /dev/null."""
    if stat.S_ISCHR(os.fstat(fd).st_mode):
        return None
    with open(fd, "rb") as file:
        value = file.read(MAX_VALUE + 1)
    if len(value) > MAX_VALUE:
        raise Failure(BAD_VALUE)
    return value


def password(value):
    """`value` as a password: printable ASCII, which every client sends as it
    is; others are normalised, and not by all clients alike."""
    if isinstance(value, bytes):
        try:
            value = value.decode("ascii")
        except UnicodeDecodeError:
            raise Failure(BAD_VALUE) from None
    if not isinstance(value, str) or not re.fullmatch(r"[ -~]{1,4096}", value):
        raise Failure(BAD_VALUE)
    return value


def directory():
    """Where this hook lies: only so can it be reached by every user."""
    return os.environ.get("JARVIS_HOOKS", os.path.dirname(os.path.abspath(__file__)))


def load(kind, secret):
    """The section of KIND.conf that is called as the secret is."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(os.path.join(directory(), kind + ".conf"), encoding="utf-8") as file:
            about = os.fstat(file.fileno())
            # Only root, or who runs all of this without root, says where values go.
            if about.st_uid not in (0, os.geteuid()) or about.st_mode & 0o022:
                raise Failure(BAD_CONFIG)
            parser.read_file(file)
        config = dict(parser[secret])
    except (OSError, KeyError, configparser.Error, UnicodeDecodeError):
        raise Failure(BAD_CONFIG) from None
    if not {"host", "admin"} <= set(config) <= KEYS:
        raise Failure(BAD_CONFIG)
    return config


def setting(config, key):
    """The value of a key that must be there."""
    if not config.get(key):
        raise Failure(BAD_CONFIG)
    return config[key]


def verifier(secret):
    """What a server that knows the password `secret` stores (RFC 5803)."""
    salt, iterations = os.urandom(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", secret.encode("ascii"), salt, iterations)
    client = hmac.digest(salted, b"Client Key", "sha256")
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt, stored, server = (
        base64.b64encode(part).decode("ascii")
        for part in (salt, hashlib.sha256(client).digest(), server)
    )
    return f"SCRAM-SHA-256${iterations}:{salt}${stored}:{server}"


def identifier(name):
    """`name` as an identifier of SQL."""
    if not name or "\0" in name or "\n" in name:
        raise Failure(BAD_CONFIG)
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    """`text` as a string of SQL."""
    if "\0" in text or "\\" in text:
        raise Failure(BAD_CONFIG)
    return "'" + text.replace("'", "''") + "'"


def as_admin(config, sql):
    """Runs `sql` as the role that may change others; its output."""
    secret = ""
    if config.get("admin_password_file"):
        path = os.path.join(directory(), config["admin_password_file"])
        try:
            with open(path, encoding="utf-8") as file:
                secret = file.read(MAX_VALUE).removesuffix("\n")
        except (OSError, UnicodeDecodeError):
            raise Failure(BAD_CONFIG) from None
    return psql(config, setting(config, "admin"), secret, sql)


def logs_in(config, role, secret):
    """Fails unless `role` can log in with the password `secret`."""
    if psql(config, role, secret, "SELECT session_user;\n") != role:
        raise Failure(REFUSED)


def psql(config, role, secret, sql):
    """Runs `sql` as `role`; its output. Statements go in by standard input."""
    host = config["host"]
    local = host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")
    timeout = config.get("timeout", "5")
    if not timeout.isdecimal() or int(timeout) == 0:
        raise Failure(BAD_CONFIG)
    escaped = re.sub(r"([:\\])", r"\\\1", secret)
    passwords = os.memfd_create("passwords")
    try:
        os.fchmod(passwords, 0o600)
        os.write(passwords, f"*:*:*:*:{escaped}\n".encode())
        target = {
            "host": host,
            "port": config.get("port", "5432"),
            "dbname": config.get("dbname", "postgres"),
            "user": role,
            "passfile": f"/proc/self/fd/{passwords}",
            "sslmode": config.get("sslmode", "prefer" if local else "verify-full"),
            "connect_timeout": timeout,
            "options": f"-c statement_timeout={timeout}s",
            "application_name": "jarvis-secretsd",
        }
        if "sslrootcert" in config:
            target["sslrootcert"] = config["sslrootcert"]
        quoted = {key: re.sub(r"([\\'])", r"\\\1", text) for key, text in target.items()}
        connection = " ".join(f"{key}='{text}'" for key, text in quoted.items())
        program = [
            config.get("psql", "psql"), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
            "--no-password", "--set=ON_ERROR_STOP=1", "--dbname=" + connection,
        ]
        done = subprocess.run(
            program, input=sql.encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=[passwords], check=False,
        )
    except OSError:
        raise Failure(BAD_CONFIG) from None
    finally:
        os.close(passwords)
    if done.returncode:
        raise Failure(NO_SERVER if done.returncode == 2 else REFUSED)
    return done.stdout.decode().strip()
