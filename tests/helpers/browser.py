"""Pages in a headless browser, if one is installed: scripts that act as a user would, and screenshots.

The page is shown in a frame, because a window cannot be as narrow as a phone.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is on the PATH")

# Runs before any script of the page: collects what goes wrong.
_WATCH = """<script>{
window.__errors = [];
const fault = e => e.message || `cannot load ${e.target.src || e.target.href}`;
addEventListener("error", e => __errors.push(fault(e)), true);
addEventListener("unhandledrejection", e => __errors.push(String(e.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => __errors.push(words.join(" "));
}</script>"""
# Runs after the page has loaded, and sends to the frame's owner what the script returns.
_DRIVE = """<script>
addEventListener("load", async () => {
  const pause = (ms = 100) => new Promise(done => setTimeout(done, ms));
  await pause();
  let value = null;
  try { value = await (async () => { %s })(); } catch (e) { __errors.push(String(e.stack || e)); }
  const requests = performance.getEntriesByType("resource").map(entry => entry.name)
    .filter(name => !name.startsWith("file:") && !name.startsWith("data:"));
  parent.postMessage(JSON.stringify({ value: value ?? null, errors: __errors, requests }), "*");
});
</script>"""
_FRAME = """<!doctype html><style>body{margin:0;overflow:hidden}iframe{border:0;display:block}</style>
<script>addEventListener("message", e => {
  const bytes = new TextEncoder().encode(e.data);
  document.body.dataset.answer = btoa(Array.from(bytes, b => String.fromCharCode(b)).join(""));
});</script>
<body><iframe src="%s" width="%d" height="%d"></iframe>"""


@dataclass
class Visit:
    """What came of a visit to a page."""

    value: Any  # what the script returned
    errors: list[str] = field(default_factory=list)  # of scripts, on the console, and files that did not load
    requests: list[str] = field(default_factory=list)  # URLs of what the page asked a host for; no files


def run_page(path: Path, script: str = "", width: int = 1280, height: int = 900, hash: str = "") -> Visit:
    """Open the page `path` and run `script` in it.

    Args:
        script: the body of an async JavaScript function, which runs when the page has loaded. It can
            ``await pause(ms)``; what it returns must be JSON.
        width, height: size of the page's view, in CSS pixels.
        hash: the fragment of the page's address, with its ``#``.
    """
    with _framed(path, script, width, height, hash) as frame:
        page = _browse(frame, width, height, "--dump-dom").stdout
    answer = re.search(r'data-answer="([^"]*)"', page)
    assert answer, f"{path} did not answer: {page[:2000]}"
    return Visit(**json.loads(base64.b64decode(answer[1])))


def screenshot(
    path: Path, width: int = 1280, height: int = 900, script: str = "", hash: str = ""
) -> np.ndarray:
    """The page's view after `script`, see :func:`run_page`; (height, width, 3) uint8 RGB."""
    with _framed(path, script, width, height, hash) as frame:
        file = frame.with_suffix(".png")
        try:
            _browse(frame, width, height, f"--screenshot={file}", "--hide-scrollbars")
            with Image.open(file) as image:
                return np.asarray(image.convert("RGB"))[:height, :width]
        finally:
            file.unlink(missing_ok=True)


@contextmanager
def _framed(path: Path, script: str, width: int, height: int, hash: str) -> Iterator[Path]:
    """Path of a page that frames a copy of `path`; both lie beside it, so that its links work."""
    page = path.read_text(encoding="utf-8")
    assert "<meta charset" in page
    page = page.replace("<meta charset", f"{_WATCH}<meta charset", 1) + _DRIVE % script
    copy, frame = (path.with_name(f"_{name}_{os.getpid()}.html") for name in ("copy", "frame"))
    try:
        copy.write_text(page, encoding="utf-8")
        frame.write_text(_FRAME % (escape(copy.name + hash), width, height), encoding="utf-8")
        yield frame
    finally:
        copy.unlink(missing_ok=True)
        frame.unlink(missing_ok=True)


def _browse(page: Path, width: int, height: int, *flags: str) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as home:
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND",  # no host has an address
            f"--user-data-dir={home}/data",
            "--virtual-time-budget=10000",
            # A window has a least width, and bars above the page.
            f"--window-size={max(width, 500)},{height + 200}",
            *flags,
            page.resolve().as_uri(),
        ]
        environment = os.environ | {"HOME": home}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=True
        )
