"""Downloads over HTTP: locked between processes, resumed, checked, and whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .. import __version__
from ..errors import UserError
from ..utils.files import file_sha256, make_folder
from ..utils.progress import byte_bar

logger = logging.getLogger("ivtuning")

TIMEOUT = 30.0  # seconds without an answer, or without a byte
_ATTEMPTS = 8  # connections to one file; each must bring something
_CHUNK = 1 << 18


def download(url: str, file: Path, sha256: str | None = None) -> None:
    """Fetch `url` to `file`, unless that exists.

    What an interrupted download leaves in "<file>.part" is resumed where the server can do that and still has
    the same file. Of several processes one fetches, and the others wait for it.

    Args:
        sha256: the digest that the file must have, where it is known. Without it the length must be the
            one that the server states.

    Raises:
        UserError: no network, a server that refuses, an incomplete or another file, or a cache that cannot be
            written.
        OSError: the disk is full.
    """
    if file.is_file():
        return
    if is_offline():
        raise UserError(f"{_shown(url)} is not in the cache, and HF_HUB_OFFLINE is set: {_bring(file)}")
    try:
        make_folder(file.parent)
    except UserError as error:
        raise UserError(f"{error}, by setting IVTUNING_CACHE") from error
    part = file.with_name(f"{file.name}.part")
    with _lock(file):
        if file.is_file():
            return
        tag = Path(f"{part}.tag")
        _fetch(url, part, tag, file)
        if sha256:
            check_digest(_shown(url), part, sha256)
        with open(part, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(part, file)
        tag.unlink(missing_ok=True)


def check_digest(name: str, file: Path, sha256: str) -> None:
    """Raise UserError if the downloaded `file`, of that `name`, has another digest; it is then removed."""
    digest = file_sha256(file)
    if digest != sha256:
        size = _size(file)
        file.unlink()
        raise UserError(
            f"{name}: what came ({size:,} bytes) has the SHA-256 {digest[:12]}, not {sha256[:12]} as "
            "published: it was changed or damaged on its way; try again, or on another network"
        )


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def place_of(url: str, folder: Path) -> Path:
    """Where the file at `url` lies in the cache `folder`: below its host, by its path.

    A query is part of the name, as a digest.

    Raises:
        UserError: the address is damaged, names no file, or holds a password.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{_shown(url)} is no address ({error}): check it") from error
    if parts.username is not None:
        raise UserError(f"{_shown(url)}: fetch files behind a password yourself, and give their path")
    steps = [p for p in urllib.parse.unquote(parts.path).split("/") if p not in ("", ".", "..")]
    if not host or not steps or "\0" in parts.path:
        raise UserError(f"{_shown(url)} names no file: give the address of the file itself")
    if parts.query:
        name = Path(steps[-1])
        steps[-1] = f"{name.stem}-{hashlib.sha256(parts.query.encode()).hexdigest()[:12]}{name.suffix}"
    return folder.joinpath(parts.netloc.lower(), *steps)


def _shown(url: str) -> str:
    """`url` for a message, without password and query, which may be secret."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def _bring(file: Path) -> str:
    return f"fetch it on a machine with network access and put it at {file}, or give the path of a file"


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    lock = FileLock(f"{file}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("another process fetches %s: waiting for it", file.name)
            lock.acquire()
    except NotImplementedError as error:
        raise UserError(
            f"{file.parent} is on a file system without locks: set IVTUNING_CACHE to another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _fetch(url: str, part: Path, tag: Path, file: Path) -> None:
    """Fetch `url` to `part`, in as many connections as it takes, as long as each brings something."""
    cannot = f"cannot download {_shown(url)}"
    for _ in range(_ATTEMPTS):
        before = _size(part)
        try:
            total, reason = _receive(url, part, tag)
        except urllib.error.HTTPError as error:
            raise UserError(f"{cannot}: {_refusal(url, error.code, file)}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            cause = _one_line(getattr(error, "reason", error))
            raise UserError(f"{cannot} ({cause}): {_bring(file)}") from error
        got = _size(part)
        if got == 0 and not (total or reason):
            part.unlink(missing_ok=True)
            raise UserError(f"{cannot}: the server's file is empty: check the address")
        if got == total or (total is None and not reason):
            return
        if total is not None and got > total:
            part.unlink()
            raise UserError(f"{cannot}: it has more than the {total:,} bytes that its server stated")
        if got <= before:
            break
    size = "an unknown number of" if total is None else f"{total:,}"
    raise UserError(
        f"{cannot}: the connection ended after {_size(part):,} of {size} bytes"
        f"{f' ({reason})' if reason else ''}: the same command goes on from there"
    )


def _receive(url: str, part: Path, tag: Path) -> tuple[int | None, str]:
    """Append to `part` what one connection brings; `tag` keeps which file of the server that is a part of.

    Returns:
        The file's bytes, None where the server does not state them; and why the connection ended, "" where
        the server ended it.
    """
    headers = {"User-Agent": f"ivtuning/{__version__}", "Accept-Encoding": "identity"}
    have, known = _size(part), tag.read_text() if tag.is_file() else ""
    if have and known:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    address = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or "Range" not in headers:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return have, ""  # it was complete, and killed before it was renamed
        part.unlink()
        return _receive(url, part, tag)
    except UnicodeError as error:  # of a host name, perhaps one that the server redirects to
        raise UserError(
            f"{_shown(url)} is no address ({_one_line(error)}): check the name of its host"
        ) from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise UserError(
                f"{_shown(url)} is a web page, no file of weights: give the address of the file itself"
            )
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if response.status == http.HTTPStatus.PARTIAL_CONTENT and span and int(span[1]) == have:
            total = int(span[2])
        elif response.status == http.HTTPStatus.PARTIAL_CONTENT and "Range" in headers:
            part.unlink()  # a span that was not asked for, or of a file of unknown size
            return _receive(url, part, tag)
        else:
            length, have = response.headers.get("Content-Length", ""), 0
            total = int(length) if length.isdigit() else None
            part.unlink(missing_ok=True)
            tag.write_text(_validator(response.headers))
        _check_space(part.parent, (total or 0) - have)
        return total, _write(response, part, have, total)


def _validator(headers: http.client.HTTPMessage) -> str:
    """What tells whether a server still has the same file: a strong ETag, or a date; "" where it has none."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _write(response: http.client.HTTPResponse, part: Path, have: int, total: int | None) -> str:
    """Append `response` to `part`; returns why it ended early, "" where the server ended it."""
    name = part.name.removesuffix(".part")
    with open(part, "ab") as f, byte_bar(name, total, have) as bar:
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                return _one_line(error)
            if not chunk:
                return ""
            try:
                f.write(chunk)
                f.flush()
            except OSError as error:
                error.filename = str(part)  # for the message about a full disk
                raise
            bar.update(len(chunk))


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the disk of {folder} has {free / 1e6:,.0f} MB left, and the file needs {needed / 1e6:,.0f} MB "
            "more: free some, or set IVTUNING_CACHE to a folder on another disk"
        )


def _refusal(url: str, code: int, file: Path) -> str:
    """Why a server answered with the error `code`, and what to do."""
    if code in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE):
        return f"the server has no such file (HTTP {code}): check the address"
    if code in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        if urllib.parse.urlsplit(url).hostname == "huggingface.co":
            return f"the hub wants a login (HTTP {code}): give hf://OWNER/REPO/FILE, which uses yours"
        return f"the server wants a login or refuses this network (HTTP {code}): {_bring(file)}"
    if 300 <= code < 400:
        return f"its server redirects without end (HTTP {code}): check the address"
    return f"the server answers HTTP {code}: try again later, or {_bring(file)}"


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
