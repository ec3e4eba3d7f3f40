"""Builds pygpt._C with CMake and Ninja; everything else about the package is in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import ninja
import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

if sys.platform == "win32":
    sys.exit("pygpt needs Linux or macOS; on Windows install it inside WSL 2")

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Hands the one extension to CMake and lets Ninja rebuild only what changed."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build_dir = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        # Isolated builds put ninja and pybind11 into a folder that is gone the next time, so their
        # paths are handed over at every configure rather than left to CMake's cache.
        subprocess.run(
            [
                "cmake",
                "-S",
                str(ROOT),
                "-B",
                str(build_dir),
                "-G",
                "Ninja",
                "-DCMAKE_BUILD_TYPE=Release",
                f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR) / 'ninja'}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            ],
            check=True,
        )
        subprocess.run(["cmake", "--build", str(build_dir), "--target", "_C"], check=True)


setup(
    packages=[*find_packages(include=["pygpt", "pygpt.*"]), "pygpt.kernels"],
    ext_modules=[
        Extension("pygpt._C", sources=["csrc/bindings/module.cpp"], depends=["CMakeLists.txt"]),
    ],
    cmdclass={"build_ext": CMakeBuild},
)
