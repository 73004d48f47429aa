"""Where a store is: a file for SQLite, or a URL for PostgreSQL. Passwords in it are never shown.

An address is parsed without chaining the parser's own error: that one may quote a part of the password.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import URL, make_url

from trimtab.errors import StoreError

_EXAMPLES = "write a file name, or postgresql://user:password@host/database"
_NETWORK = {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "smb3", "smbfs"}


@dataclass(frozen=True)
class Address:
    """One database, with a name that can be shown."""

    url: URL
    file: Path | None
    """Of SQLite; None for PostgreSQL."""

    @property
    def name(self) -> str:
        """What errors call it: the file, or the server and database without user, password and options."""
        if self.file is not None:
            return str(self.file)
        port = f":{self.url.port}" if self.url.port else ""
        return f"postgresql://{self.url.host or ''}{port}/{self.url.database or ''}"

    def __repr__(self) -> str:
        return f"Address({self.name})"


def parse_address(place: str | Path) -> Address:
    """The address that a person wrote.

    Raises:
        StoreError: it is neither a file nor a PostgreSQL URL, or lies where SQLite cannot keep it safe.
    """
    text = str(place)
    if isinstance(place, Path) or "://" not in text:
        return _file(Path(text).expanduser())
    scheme = text.split("://")[0].split("+")[0].lower()
    try:
        url = make_url(text)
    except Exception:  # of many kinds, and their texts quote the URL
        raise StoreError(
            "the address of the store cannot be read",
            where=f"{scheme}://...",
            fix=f"{_EXAMPLES}; in a password write %40 for @, %3A for : and %2F for /",
        ) from None
    if scheme == "sqlite":
        return _sqlite(url)
    if scheme in ("postgresql", "postgres"):
        return Address(url.set(drivername="postgresql+psycopg"), None)
    raise StoreError("no such kind of database", where=f"{scheme}://...", fix=_EXAMPLES)


def _sqlite(url: URL) -> Address:
    if not url.database or url.database == ":memory:" or url.query:
        raise StoreError(
            "a store needs a file of its own: memory forgets, and options of SQLite are set by the store",
            where="sqlite://...",
            fix="write sqlite:///feedback.sqlite, or just the file name",
        )
    return _file(Path(url.database))


def _file(path: Path) -> Address:
    path = path.absolute()
    if path.is_dir():
        raise StoreError("the store is a file, not a folder", where=str(path), fix="name a file in it")
    if not path.parent.is_dir():
        raise StoreError("the store's folder does not exist", where=str(path.parent), fix="make it first")
    _refuse_network(path)
    return Address(URL.create("sqlite+pysqlite", database=str(path)), path)


def _refuse_network(path: Path) -> None:
    # SQLite's locks do not hold between machines; where the kind of the file system is not known, go on.
    kind = file_system(path.resolve().parent)
    if kind.removeprefix("fuse.").rstrip("4") in _NETWORK or kind == "fuse.sshfs":
        raise StoreError(
            "SQLite cannot keep a store safe on a network file system",
            where=str(path),
            found=f"a file system of kind {kind}",
            fix="put the file on a local disk, or use PostgreSQL: postgresql://user:password@host/database",
        )


def file_system(folder: Path) -> str:
    """Kind of the file system that holds an absolute folder; empty where that cannot be told."""
    holding = [
        (len(Path(mount.mountpoint).parts), index, mount.fstype)
        for index, mount in enumerate(psutil.disk_partitions(all=True))
        if folder.is_relative_to(mount.mountpoint)
    ]
    return max(holding)[2].lower() if holding else ""
