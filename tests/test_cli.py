"""The common part of all commands: paths, logging, JAX's cache, Ctrl-C."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags

from ast_jax import cli
from ast_jax.errors import UserError
from ast_jax.files import expand_home


def record(pathname, level=logging.INFO):
    return logging.LogRecord("absl", level, str(pathname), 1, "text", (), None)


OURS = Path(cli.__file__).parent / "training" / "loop.py"
ORBAX = Path("/site-packages/orbax/checkpoint/manager.py")


@pytest.mark.parametrize(
    ("pathname", "level", "heard"),
    [
        (OURS, logging.INFO, True),
        ("/home/ast_jax/other/library.py", logging.INFO, False),
        ("/home/orbax/other/library.py", logging.WARNING, True),
        ("/home/orbax/other/library.py", logging.INFO, False),
        (ORBAX, logging.ERROR, False),
    ],
)
def test_a_folders_name_does_not_decide_what_is_heard(pathname, level, heard):
    assert cli._is_ours(record(pathname, level)) is heard


def test_a_checkout_below_a_folder_called_orbax_is_heard(monkeypatch):
    package = "/home/orbax/checkpoint/ast_jax/"
    monkeypatch.setattr(cli, "_OURS", package)
    assert cli._is_ours(record(f"{package}training/loop.py"))


@pytest.fixture
def updates(monkeypatch):
    made = {}
    monkeypatch.setattr(jax.config, "update", made.__setitem__)
    return made


def test_compiled_programs_are_kept_where_nothing_else_is_chosen(updates, monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    for name in ("COMPILATION_CACHE_DIR", "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.delenv(f"JAX_{name}", raising=False)  # the tests' own
    cli.keep_compiled()
    assert updates["jax_compilation_cache_dir"] == "/home/x/.cache/ast_jax/compiled"
    assert updates["jax_persistent_cache_min_compile_time_secs"] < 1


def test_jaxs_own_variables_stay_as_the_user_set_them(updates, monkeypatch):
    for name in ("COMPILATION_CACHE_DIR", "PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(f"JAX_{name}", "5")
    cli.keep_compiled()
    assert updates == {}


def no_home(monkeypatch):
    """As in a container, whose user has only a number."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)


def test_without_a_home_folder_nothing_is_kept_and_commands_run(updates, monkeypatch):
    no_home(monkeypatch)
    cli.keep_compiled()
    assert "jax_compilation_cache_dir" not in updates


def test_a_tilde_is_the_home_folder_or_a_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    assert expand_home("~/runs/a") == Path("/home/x/runs/a")
    assert expand_home("~") == Path("/home/x")
    assert expand_home("runs/~") == Path("runs/~")
    assert expand_home("~no-such-user.png") == Path("~no-such-user.png")
    no_home(monkeypatch)
    with pytest.raises(UserError, match=r"~/runs.*HOME"):
        expand_home("~/runs")


def test_a_path_flag_knows_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    flags.DEFINE(cli._PathParser(), "workdir", None, "help", flag_values=values)
    values(["program", "--workdir=~/runs/a"])
    assert values.workdir == Path("/home/x/runs/a")


BLOCKED = """
import sys, types
from ast_jax.commands import start

def run():
    try:
        print("importing", flush=True)
        sys.stdin.read()
    except BaseException:
        print("swallowed", flush=True)

sys.modules["ast_jax.commands.train"] = types.SimpleNamespace(run=run)
start.train()
"""


def test_ctrl_c_during_the_imports_is_neither_lost_nor_a_traceback():
    # A shell's background job, as the tests may be, makes its children ignore Ctrl-C.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", BLOCKED],
            cwd=OURS.parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, ours)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    out, log = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert log == "error: interrupted; run the same command to continue.\n"
