"""The common part of all commands: flags, logging, one line for a user's mistake."""

import os
import sys
from collections.abc import Callable, Sequence
from logging import WARNING, LogRecord
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict

import ast_jax
from ast_jax.errors import UserError
from ast_jax.files import expand_home

_OURS = os.path.dirname(os.path.abspath(ast_jax.__file__)) + os.sep
_INTERRUPTED = 130


def run(main: Callable[[], None], define_flags: Callable[[], None]) -> None:
    """Runs a command: parses flags, logs to standard error, exits 1 on a UserError.

    Args:
      main: the command; `--help` prints the docstring of its module.
      define_flags: defines the command's flags.
    """
    _define(define_flags, sys.modules[main.__module__].__doc__)

    def guard(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            fail(f"unexpected argument {argv[1]!r}; flags have the form --name=value.")
        logging.set_verbosity(logging.INFO)
        logging.get_absl_handler().addFilter(_is_ours)
        keep_compiled()
        try:
            main()
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            fail("interrupted; run the same command to continue.", _INTERRUPTED)

    app.run(guard, flags_parser=_parse_flags)


def _define(define_flags: Callable[[], None], help_text: str | None) -> None:
    """Defines flags so that `--help` shows them in every script."""
    before = set(flags.FLAGS)
    define_flags()
    sys.modules["__main__"].__doc__ = help_text
    for name in set(flags.FLAGS) - before:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def define_path(name: str, help_text: str) -> None:
    """Defines a flag for a path, in which `~` is the home folder."""
    flags.DEFINE(_PathParser(), name, None, help_text)


def define_backbone_weights() -> None:
    """Defines the flag of every command that needs the backbone's weights."""
    define_path(
        "backbone_weights",
        "The backbone's file of weights, if a run does not find it by itself.",
    )


class _PathParser(flags.ArgumentParser):
    def parse(self, argument: str | Path) -> Path:
        """Returns the path."""
        return expand_home(argument)

    def flag_type(self) -> str:
        """Returns the name of the type in `--helpxml`."""
        return "path"


def keep_compiled() -> None:
    """Keeps compiled programs on disk for the next start.

    JAX's own environment variables, if the user has set them, take precedence.
    """
    import jax

    choices = {
        # JAX's default, 1 s, leaves out most programs of a start.
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    try:
        folder = expand_home("~/.cache/ast_jax/compiled")
        choices["jax_compilation_cache_dir"] = str(folder)
    except UserError as error:
        logging.warning("Compiled programs are not kept: %s", error)
    for name, value in choices.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def traced_folder() -> Path | None:
    """The folder of traced programs, in that of compiled ones; None without it."""
    import jax

    folder = jax.config.jax_compilation_cache_dir
    return folder and Path(folder) / "traced"


def _is_ours(record: LogRecord) -> bool:
    """Passes our own records, and warnings of other libraries that use absl.

    Orbax is left out, because it logs every error that it raises with a traceback.
    """
    if os.path.abspath(record.pathname).startswith(_OURS):
        return True
    from_orbax = f"{os.sep}orbax{os.sep}checkpoint{os.sep}" in record.pathname
    return record.levelno >= WARNING and not from_orbax


def fail(message: str, status: int = 1) -> None:
    """Prints one line to standard error and ends the process."""
    # Names of files may hold line ends.
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(status)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses with absl; a wrong flag or configuration key gives one line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(_drop_traceback(str(error)))
    except UserError as error:
        fail(str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        fail(f"configuration: {_first_lines(error)}")
    raise AssertionError("unreachable")


def _drop_traceback(text: str) -> str:
    """The first and the last line; ml_collections puts a traceback between them."""
    first, *rest = text.strip().splitlines()
    return f"{first} {rest[-1]}" if rest else first


def _first_lines(error: Exception) -> str:
    text = error.args[0] if error.args else str(error)
    if isinstance(text, Exception) and text.args:  # ml_collections wraps a KeyError
        text = text.args[0]
    return " ".join(str(text).split())


def plain_config(config: ConfigDict) -> ConfigDict:
    """The configuration of a flag as an ordinary ConfigDict."""
    return ConfigDict(config.to_dict())
