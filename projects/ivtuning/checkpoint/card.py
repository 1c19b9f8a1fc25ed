"""Model cards: the README.md that the Hugging Face Hub shows for an adapter file."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..hub.fetch import repository
from ..hub.names import config_name
from ..utils.files import atomic_write

_MARK = "<!-- Written by tools/export_adapter.py, which replaces this page as long as this line is in it. -->"
_LICENSE = "not stated; what is made from a base follows the base's license too"
# Notes that have a place of their own in a card.
_PLACED = ("dataset", "license", "base_license")
_TRAINING = ("train.", "optimizer.", "lr_multiplier", "dataloader.train.")


def model_card(
    adapter: Path,
    header: Mapping[str, Any],
    config: str,
    overrides: Sequence[str] = (),
    task: str | None = None,
    test_set: str | None = None,
) -> str:
    """The text of a card for the file `adapter`.

    Args:
        header: what :func:`.adapter.save_adapter` wrote. Of its metadata "license" and "base_license" are
            licenses, and further notes are shown as they are, such as AP=41.2.
        config, overrides: what builds the model and its input. What concerns training alone is left out,
            and so are the folders of data.
        task: the hub's name of it, such as "object-detection".
        test_set: what the figures in the notes were measured on.
    """
    notes, base = dict(header["metadata"]), header["base_weights"] or ""
    tuner, stem = header["tuner"], header["stem"]
    overrides = [_public(override) for override in overrides if not override.startswith(_TRAINING)]
    facts = {
        "method": f"{tuner['name']} ({_options(tuner)})" if tuner.get("options") else tuner["name"],
        "stem": stem["name"],
        "trunk": f"{header['trunk']}, {len(header['widths'])} blocks, {max(header['widths'])} wide",
        "base": f"`{base}`" if base else "not noted",
        "fingerprint of the base": f"`{header['fingerprint']}`",
        "parts": ", ".join({"backbone": "stem, tuner", "task": "neck, heads"}[g] for g in header["groups"]),
        "trained on": notes.get("dataset") or "not noted",
        "evaluated on": test_set or "not noted",
        **{key: value for key, value in notes.items() if key not in _PLACED},
        "license": notes.get("license", _LICENSE),
        "license of the base": notes.get("base_license", "see the base"),
        "written by": f"ivtuning {header['versions']['ivtuning']}",
    }
    front = {
        "library_name": "ivtuning",
        "license": notes.get("license", "unknown"),
        "pipeline_tag": task,
        "base_model": repository(base),
        "tags": ["infrared", "multispectral", "parameter-efficient-fine-tuning", tuner["name"]],
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items() if value is not None),
        "---",
        "",
        f"# {adapter.stem}",
        "",
        f"What {tuner['name']} trained on a frozen backbone. It loads on the base below and on no other.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items()),
        "",
        "## Use",
        "",
        *_use(adapter.name, header["groups"], base, config_name(config), overrides),
        "",
        _MARK,
    ]
    return "\n".join(lines) + "\n"


def write_card(adapter: Path, text: str) -> Path | None:
    """Write a card as README.md beside `adapter`.

    Returns:
        The file; None where a README.md is there that this tool did not write, which stays as it is.
    """
    file = adapter.with_name("README.md")
    if file.exists() and not (file.is_file() and _MARK.encode() in file.read_bytes()):
        return None
    with atomic_write(file) as temp:
        temp.write_text(text, encoding="utf-8")
    return file


def _use(name: str, groups: Sequence[str], base: str, config: str, overrides: Sequence[str]) -> list[str]:
    """The lines that load the adapter. Without neck and heads there is nothing to predict with."""
    file = f"hf://OWNER/REPO/{name}"
    weights = base if "://" in base else f"PATH/{base or 'base.pth'}"
    if "task" not in groups:
        return [
            "The file has no neck and heads. It goes into a model that has its own, on the same base:",
            "",
            "```python",
            "import ivtuning",
            "",
            f"ivtuning.load_adapter(model, {json.dumps(file)})",
            "```",
        ]
    more = f"    overrides={json.dumps(list(overrides))},\n" if overrides else ""
    command = [
        "tools/train_net.py",
        "--config-file",
        config,
        "--eval-only",
        "--weights",
        weights,
        "--adapter",
        file,
    ]
    return [
        "Replace OWNER/REPO by the name of this repository. With ivtuning installed:",
        "",
        "```python",
        "from ivtuning import Predictor",
        "",
        f"predict = Predictor(\n    {json.dumps(config)},\n    weights={json.dumps(weights)},",
        f"    adapter={json.dumps(file)},\n{more})",
        'prediction = predict("visible.png", "infrared.png")',
        "```",
        "",
        "The figures again, on the data:",
        "",
        "```",
        shlex.join([*command, *overrides]),
        "```",
    ]


def _public(override: str) -> str:
    """An override of the data without the folders in its value, which are of this machine."""
    key, _, value = override.partition("=")
    if not key.startswith(("data.", "dataloader.")) or "://" in value:
        return override
    names = re.sub(r"""[^][,'"]*/(?=[^/])""", "", value)
    return f"{key}={names}"


def _options(plugin: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in plugin["options"].items())


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
