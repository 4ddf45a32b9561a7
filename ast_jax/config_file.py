"""Configuration files: a path, or the name of one that the package ships."""

import importlib.util
import traceback
from pathlib import Path
from types import ModuleType

from absl import flags
from ml_collections import ConfigDict, config_flags

from ast_jax.errors import UserError
from ast_jax.files import expand_home

# An installed package contains them; in a checkout they are beside the package.
_INSTALLED = Path(__file__).with_name("configs")
_CHECKOUT = Path(__file__).parents[1] / "configs"


def shipped_files() -> dict[str, Path]:
    """Returns the shipped files, by name."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def load(argument: str) -> ConfigDict:
    """Loads the configuration that an argument such as "folder:small" names.

    Args:
      argument: the path of a file, or a shipped name; a variant follows a colon.

    Raises:
      UserError: there is no such file or variant, or the file cannot be run.
    """
    name, _, variant = argument.partition(":")
    path = _find(name)
    try:
        get_config = _run(path).get_config
        return get_config(variant) if variant else get_config()
    except UserError:
        raise
    except ValueError as error:  # an unknown variant
        raise UserError(f"--config={argument}: {error}") from error
    # A configuration is a user's program and can raise any type.
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(path)
        ]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--config={argument}: {place}: {reason}") from error


def module(name: str) -> ModuleType:
    """Returns a shipped configuration's module; other configurations build on it."""
    return _run(shipped_files()[name])


def define_flag() -> None:
    """Defines `--config`, and `--config.section.key` for each of its keys."""
    config_flags.DEFINE_config_file(
        "config",
        help_string="A shipped configuration or a file; NAME:VARIANT for a variant. "
        f"Shipped: {', '.join(shipped_files())}.",
    )
    flags.FLAGS["config"].parser = _Parser("config")


class _Parser(config_flags.config_flags.ConfigFileFlagParser):
    """ml_collections' parser, with shipped names and an early report of mistakes."""

    def parse(self, path: str) -> ConfigDict:
        """Loads and locks the configuration."""
        return load(path).lock()


def _find(name: str) -> Path:
    """The file of a path or a shipped name."""
    known = shipped_files()
    if name in known:
        return known[name]
    path = expand_home(name)
    if path.is_file():
        return path
    raise UserError(
        f"--config={name}: neither a file nor a shipped configuration; there are "
        f"{', '.join(known)}."
    )


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"configuration_{path.stem}", path)
    if spec is None:
        raise UserError(f"--config={path}: not a Python file (.py).")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
