"""Packaging: what a wheel contains and requires, the pins, the version, continuous integration."""

from __future__ import annotations

import ast
import email
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.tools import ROOT

import ivtuning

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOLS_OF_DEVELOPERS = {"pytest", "ruff", "uv", "ninja", "wheel", "setuptools", "import-linter", "mypy"}


def package_name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the repository, built from a copy of what it needs."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("projects", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    build = "import setuptools.build_meta as backend; backend.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (tree / "dist").glob("*.whl")
    return path


def test_the_wheel_carries_modules_pages_configs_and_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    package = ROOT / "projects"
    modules = {str(p.relative_to(package)) for p in (package / "ivtuning").rglob("*.py")}
    pages = {
        str(p.relative_to(package))
        for kind in ("html", "css", "js")
        for p in (package / "ivtuning").rglob(f"*.{kind}")
    }
    configs = {f"ivtuning/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.py")}
    assert "ivtuning/pages/page.html" in pages
    assert {name for name in packed if name.startswith("ivtuning/")} == {
        *modules,
        *pages,
        *configs,
        "ivtuning/py.typed",
    }


def test_the_wheel_requires_ranges_and_no_developers_tools(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Version"] == ivtuning.__version__
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert len(needed) == len(PROJECT["dependencies"])
    assert not [line for line in needed if "==" in line]
    assert not TOOLS_OF_DEVELOPERS & {package_name(line) for line in needed}
    assert set(metadata.get_all("Provides-Extra")) == {"dev", "hub", "export", "video", "wandb"}


def test_the_wheel_finds_its_configs_from_any_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    code = (
        "import ivtuning\n"
        "cfg = ivtuning.load_config('configs/M3FD/vitdet_ivtuning_b.py')\n"
        "print(ivtuning.__file__, cfg.model.backbone.net.embed_dim)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "site/ivtuning/__init__.py"), "768"]


def test_every_dependency_and_tool_is_pinned():
    """requirements.txt has what `make setup` installs, in versions that pyproject.toml allows."""
    from packaging.requirements import Requirement

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        if line and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            pins.setdefault(package_name(line), []).append(next(iter(requirement.specifier)).version)
    extras = PROJECT["optional-dependencies"].values()
    for text in itertools.chain(PROJECT["dependencies"], *extras):
        requirement = Requirement(text)
        versions = pins.get(package_name(text))
        assert versions, f"{text} is not pinned: run make pins"
        assert all(requirement.specifier.contains(version) for version in versions), (
            f"{text}: pinned {versions}"
        )


def test_what_the_package_imports_is_required():
    known = {package_name(text) for text in PROJECT["dependencies"]}
    distributions = {
        "cv2": "opencv-python-headless",
        "PIL": "pillow",
        "faster_coco_eval": "faster-coco-eval",
        "huggingface_hub": "huggingface-hub",
        "hydra": "hydra-core",
        "yaml": "pyyaml",
    }
    # detectron2 comes with `make setup`, triton with torch; a benchmark compares with peft where that is.
    known |= {"detectron2", "triton", "ivtuning", "peft"}
    extras = PROJECT["optional-dependencies"]
    known |= {package_name(text) for extra in extras.keys() - {"dev"} for text in extras[extra]}
    for path in (ROOT / "projects/ivtuning").rglob("*.py"):
        modules = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.split(".")[0])
        for module in modules - set(sys.stdlib_module_names):
            assert distributions.get(module, module) in known, f"{path.relative_to(ROOT)} imports {module}"


def test_the_version_is_that_of_the_citation():
    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == ivtuning.__version__


def test_continuous_integration_runs_every_supported_python():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    listed = re.findall(r'"(3\.\d+)"', workflow)
    classifiers = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert listed == classifiers
    assert PROJECT["requires-python"] == f">={listed[0]}"
    assert "run: .ci/run" in workflow
    assert os.access(ROOT / ".ci/run", os.X_OK)


def public_functions(path: Path) -> Iterator[ast.FunctionDef]:
    """Functions and methods of a module whose names, and whose classes' names, have no leading underscore."""
    todo = [ast.parse(path.read_text())]
    for node in todo:
        for child in node.body:
            if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                todo.append(child)
            elif isinstance(child, ast.FunctionDef) and (
                child.name == "__init__" or not child.name.startswith("_")
            ):
                yield child


def test_public_functions_annotate_their_parameters():
    """Without annotations, `make lint` checks no call; it checks by itself that results are annotated."""
    bare = []
    for path in sorted((ROOT / "projects/ivtuning").rglob("*.py")):
        if not path.name.startswith("triton_"):  # Triton has no types for the arguments of kernels
            for function in public_functions(path):
                arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
                names = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
                if names and names[0] != "ctx":  # torch.autograd.Function
                    bare.append(
                        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}({', '.join(names)})"
                    )
    assert not bare, "\n".join(bare)
