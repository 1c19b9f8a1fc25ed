"""Tells what kind of file a file of weights is, by its content and not by its name."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

# The first bytes of files that people give as weights, what these are, and what to do.
_BEGINNINGS = (
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xfd7zXZ", "an xz archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it: save a state dict with torch.save"),
    (b"\x93NUMPY", "a numpy array: save a dict of arrays by their names with torch.save"),
    (b"GGUF", "a GGUF file: take the weights in safetensors or PyTorch format"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"\x89PNG", "a PNG image: give a file of weights"),
    (b"\xff\xd8\xff", "a JPEG image: give a file of weights"),
    (b"%PDF", "a PDF: give a file of weights"),
)
_ONNX = re.compile(
    rb"\x08[\x01-\x20](\x12.{1,60}\x1a|\x12.(pytorch|onnx|tf2onnx|skl2onnx|paddle))", re.DOTALL
)
# Pickles in text, which Python 2 wrote, end in a dot and have short lines.
_TEXT = re.compile(rb"(?=.{12})[A-Za-z#\"'{\[][\x20-\x7e\t\r\n]*", re.DOTALL)


def is_safetensors(head: bytes) -> bool:
    """Whether a file whose first bytes are `head` (at least 9 of them) is a safetensors file."""
    return len(head) > 8 and head[8:9] == b"{" and head[5:8] == b"\0\0\0"


def other_kind(path: Path, head: bytes) -> str | None:
    """What a file that begins with `head` is, and what to do; None where it may be a file of weights."""
    for start, what in _BEGINNINGS:
        if head.startswith(start):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if _ONNX.match(head):
        return "an ONNX model: take the weights in safetensors or PyTorch format"
    if head.lstrip()[:200].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "a web page, not the file itself: open its address in a browser and download the file"
    if head.lstrip().startswith(b"{") and b'"weight_map"' in head:
        return "the list of a checkpoint in several parts: join the parts into one file"
    if head.lstrip().startswith((b"{", b"[")) and path.suffix.lower() == ".json":
        return "a JSON file: give a file of weights"
    if _TEXT.fullmatch(head):
        return f"a text file, which begins with {head[:20].decode()!r}: give a file of weights"
    return None


def torch_root(names: Iterable[str]) -> str | None:
    """The folder in a zip archive of files `names` where torch.save put its parts; None of other archives."""
    return next((n.removesuffix("data.pkl") for n in names if re.fullmatch(r"[^/]+/data\.pkl", n)), None)


def other_archive(archive: zipfile.ZipFile) -> str | None:
    """What the zip `archive` is, and what to do; None where torch.save wrote it."""
    names = archive.namelist()
    inner = {n.partition("/")[2] for n in names}
    if "constants.pkl" in inner:
        return (
            "a TorchScript program, which would run its code on loading: save the state_dict() of "
            "torch.jit.load(FILE) with torch.save"
        )
    if "archive_format" in inner or any(n.endswith(("model.json", "exported_program.json")) for n in names):
        return (
            "a program of torch.export: save the state_dict of torch.export.load(FILE) with torch.save, or "
            "take the weights themselves"
        )
    if torch_root(names):
        return None
    if names and all(n.endswith(".npy") for n in names):
        return "an .npz archive of numpy: save a dict of its arrays with torch.save"
    return f"a zip archive of {len(names)} {'file' if len(names) == 1 else 'files'}: unpack it"
