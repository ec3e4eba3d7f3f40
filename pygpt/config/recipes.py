"""The presets: one TOML file each in ``recipes/``, which says command, hardware, time and loss."""

from __future__ import annotations

from pathlib import Path

from pygpt.config import toml_file
from pygpt.config.train import TrainConfig
from pygpt.utils.errors import InputError
from pygpt.utils.suggest import did_you_mean

_FOLDER = Path(__file__).parent / "recipes"


def preset_names() -> list[str]:
    """All presets, by name."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def from_preset(name: str) -> TrainConfig:
    """The configuration a preset stands for.

    Raises:
        InputError: there is no such preset, with the nearest name.
    """
    names = preset_names()
    if name not in names:
        raise InputError(f"no preset {name!r}; {did_you_mean(name, names)}")
    return TrainConfig(preset=name, **toml_file.read(_FOLDER / f"{name}.toml"))
