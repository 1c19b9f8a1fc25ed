"""Weights by name: timm://, hf://, detectron2:// and web addresses, fetched once into a cache."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .. import compat
from ..errors import UserError, nearest
from .download import TIMEOUT, check_digest, download, is_offline, place_of
from .sources import DETECTRON2, DIGESTS

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

_FORMS = "timm://MODEL, hf://OWNER/REPO/FILE, https://..., detectron2://... or a path"
# What repositories of timm call their files; the first one that a repository has is taken.
_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
_LOGIN = "`hf auth login`, or HF_TOKEN"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a write may fail with
# Files that the hub gave to this process, so that what was checked is what is read.
_found: dict[tuple, Path] = {}


def fetch(name: str) -> Path:
    """The file that `name`, which contains "://", stands for, on this machine.

    timm://MODEL is the file of that pretrained model, in timm's names of tensors.
    hf://OWNER/REPO/FILE[@REVISION] is a file of the Hugging Face Hub. Both are kept in the hub's own cache
    (HF_HOME). Files of http://, https:// and detectron2:// are kept in $IVTUNING_CACHE (default
    ~/.cache/ivtuning). Other schemes go to detectron2's handlers.

    Raises:
        UserError: the hub or server does not know the name, wants a login, or cannot be reached and the cache
            lacks the file; a download that is incomplete or has another digest than is known.
        OSError: the disk is full.
    """
    scheme, _, rest = name.partition("://")
    if scheme == "timm":
        return _fetch_timm(name, rest)
    if scheme == "hf":
        return _fetch_hf(name, *_parse_hf(name, rest))
    if scheme == "detectron2":
        return _fetch_url(DETECTRON2 + rest)
    if scheme in ("http", "https"):
        return _fetch_url(name)
    return _fetch_other(name)


def repository(name: str) -> str | None:
    """The repository of the hub that holds the weights `name`; None where that is not known."""
    scheme, _, rest = name.partition("#")[0].partition("://")
    with contextlib.suppress(UserError):
        if scheme == "timm":
            return _timm_cfg(name, rest).hf_hub_id
        if scheme == "hf":
            return _parse_hf(name, rest)[0]
    return None


def cache_folder() -> Path:
    """The folder of downloaded files."""
    try:
        return Path(os.environ.get("IVTUNING_CACHE") or "~/.cache/ivtuning").expanduser()
    except RuntimeError as error:
        raise UserError("there is no home folder for the cache: set IVTUNING_CACHE") from error


def _fetch_url(url: str) -> Path:
    file = place_of(url, cache_folder())
    download(url, file, DIGESTS.get(url.partition("?")[0]))
    return file


def _timm_cfg(name: str, model: str) -> PretrainedCfg:
    """What timm knows about the weights of a pretrained `model`."""
    import timm

    try:
        cfg = timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError:
        cfg = None
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        near = nearest(model, timm.list_pretrained()) or ": timm.list_pretrained() lists those that it has"
        raise UserError(f"{name}: timm {timm.__version__} has no weights of that name{near}")
    return cfg


def _fetch_timm(name: str, model: str) -> Path:
    cfg = _timm_cfg(name, model)
    if not cfg.hf_hub_id:
        return _fetch_url(cfg.url)
    repo, _, revision = cfg.hf_hub_id.partition("@")
    files = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _TIMM_FILES
    return _fetch_hf(name, repo, files, revision or None, latest=False)


def _parse_hf(name: str, rest: str) -> tuple[str, tuple[str, ...], str | None]:
    """The repository, the file and the revision in `rest`, OWNER/REPO/FILE[@REVISION]."""
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)/([^@]*[^@/])(?:@(.+))?", rest)
    if not match:
        raise UserError(
            f"{name}: a file of the hub is named hf://OWNER/REPO/FILE or hf://OWNER/REPO/FILE@REVISION"
        )
    return match[1], (match[2],), match[3]


def _fetch_hf(
    name: str, repo: str, files: tuple[str, ...], revision: str | None, latest: bool = True
) -> Path:
    """The first of `files` that the repository has.

    Args:
        latest: ask the hub whether it has a newer version than the cache; once in a process.
    """
    hub = _hugging_face(name)
    key = (hub.constants.ENDPOINT, hub.constants.HF_HUB_CACHE, repo, files, revision)
    if key in _found and _found[key].is_file():
        return _found[key]
    try:
        cached = [hub.try_to_load_from_cache(repo, file, revision=revision) for file in files]
        found = None if latest else next((path for path in cached if isinstance(path, str)), None)
        for file, before in zip(files, cached, strict=True) if found is None else ():
            try:
                found = hub.hf_hub_download(repo, file, revision=revision, etag_timeout=TIMEOUT)
            except hub.errors.LocalEntryNotFoundError:
                raise
            except hub.errors.EntryNotFoundError:
                continue
            if found != before:
                _check_blob(name, Path(found))
            break
    except UserError:
        raise
    except hub.errors.LocalEntryNotFoundError as error:
        raise UserError(_unreachable(hub, name, repo, files[0], revision)) from error
    except Exception as error:
        raise _hub_error(hub, name, repo, error) from error
    if found is None:
        near = _nearest_file(hub, repo, files[0], revision)
        raise UserError(f"{name}: the repository {repo} has no file {files[0]}{near}")
    _found[key] = Path(found)
    return _found[key]


def _unreachable(hub: ModuleType, name: str, repo: str, file: str, revision: str | None) -> str:
    cache = Path(hub.constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    why = "HF_HUB_OFFLINE is set" if is_offline() else f"{hub.constants.ENDPOINT} cannot be reached"
    at = f" --revision {revision}" if revision else ""
    return (
        f"{name} is not in the cache, and {why}: run `hf download {repo} {file}{at}` on a machine with "
        f"network access and copy what it puts there to {cache}, or give the path of a file"
    )


def _nearest_file(hub: ModuleType, repo: str, file: str, revision: str | None) -> str:
    known: list[str] = []
    with contextlib.suppress(Exception):  # it only helps the message
        known = hub.HfApi(endpoint=hub.constants.ENDPOINT).list_repo_files(repo, revision=revision)
    return nearest(file, known) or ": check the name of the file"


def _hugging_face(name: str) -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(f"{name}: needs huggingface_hub: pip install huggingface_hub") from error
    return huggingface_hub


def _hub_error(hub: ModuleType, name: str, repo: str, error: Exception) -> Exception:
    """What to raise for an `error` of the hub's client."""
    errors = hub.errors
    if isinstance(error, errors.GatedRepoError):
        page = f"{hub.constants.ENDPOINT}/{repo}"
        return UserError(f"{name}: accept the terms at {page}, and log in there with {_LOGIN}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{name}: the hub has no repository {repo}, or it is private: check the name, or log in "
            f"with {_LOGIN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{name}: the repository {repo} has no such revision: check what follows the @")
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{name}: {repo} is no name of a repository: check it")
    if isinstance(error, OSError) and (error.filename or error.errno in _FULL):
        error.filename = error.filename or hub.constants.HF_HUB_CACHE
        return error
    # Its client raises errors of the libraries below it as well.
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return UserError(f"{name}: the download failed ({line[:200]}): run the command again")


def _check_blob(name: str, path: Path) -> None:
    """Compare a file that the hub has just given with its digest, which names large files in its cache."""
    blob = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        check_digest(name, blob, blob.name)


def _fetch_other(name: str) -> Path:
    """A file of a scheme that detectron2 has a handler for, such as catalog://."""
    compat.prepare()
    try:
        from detectron2.utils.file_io import PathManager

        file = Path(PathManager.get_local_path(name))
        reason = "no such file"
    except (ImportError, OSError, RuntimeError, ValueError, KeyError) as error:
        file, reason = None, str(getattr(error, "reason", error)).strip(".") or type(error).__name__
    if file is None or not file.is_file():
        raise UserError(f"{name} cannot be fetched ({reason}): give {_FORMS}")
    return file
