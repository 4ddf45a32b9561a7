"""The start of every command, before slow imports.

Ctrl-C ends a command at once until it has imported its libraries.
"""

import importlib
import os
import signal


def train() -> None:
    """Runs `ast-train`."""
    _start("train")


def evaluate() -> None:
    """Runs `ast-evaluate`."""
    _start("evaluate")


def predict() -> None:
    """Runs `ast-predict`."""
    _start("predict")


def export() -> None:
    """Runs `ast-export`."""
    _start("export")


def feedback() -> None:
    """Runs `ast-feedback`."""
    _start("feedback")


def import_checkpoint() -> None:
    """Runs `ast-import`."""
    _start("import_checkpoint")


def _start(command: str) -> None:
    # A background job of a shell ignores Ctrl-C; that stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)
    importlib.import_module(f"ast_jax.commands.{command}").run()


def end_at_once(*_: object) -> None:
    """Ends the process; an exception in an import could vanish or be a traceback."""
    os.write(2, b"error: interrupted; run the same command to continue.\n")
    os._exit(130)


def allow_interruption() -> None:
    """Makes Ctrl-C a KeyboardInterrupt from now on."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
