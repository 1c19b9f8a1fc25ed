"""Puts configs/ into the wheel as ivtuning/configs; everything else is in pyproject.toml.

The configs live beside the package, where people edit them, and an editable install finds them there. A wheel
carries a copy.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithConfigs(build_py):
    """The package's modules, and the configs below them unless the install is editable."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._configs():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        configs = [] if self.editable_mode else [str(target) for _, target in self._configs()]
        return super().get_outputs(include_bytecode) + configs

    def _configs(self) -> list[tuple[Path, Path]]:
        """Each config file with its place in the build folder."""
        folder = Path(self.build_lib) / "ivtuning" / "configs"
        files = sorted((ROOT / "configs").rglob("*.py"))
        return [(file, folder / file.relative_to(ROOT / "configs")) for file in files]


setup(cmdclass={"build_py": BuildWithConfigs})
