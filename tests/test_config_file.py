"""--config: shipped names, the user's own files, and what is wrong with either."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ast_jax import config_file
from ast_jax.errors import UserError

REPOSITORY = Path(__file__).parents[1]


def test_every_file_in_configs_is_shipped_and_loads_by_name():
    names = {path.stem for path in (REPOSITORY / "configs").glob("*.py")}
    assert config_file.shipped_files().keys() == names
    for name in names:
        config = config_file.load(name)
        assert config.method == ("ast_plus" if name == "folder" else "ast")


def test_a_name_takes_a_variant_and_a_path_means_the_same():
    small = config_file.load("folder:small")
    path = REPOSITORY / "configs" / "folder.py"
    assert small.student.width == 128
    assert small.to_dict() == config_file.load(f"{path}:small").to_dict()
    assert small.to_dict() != config_file.load("folder").to_dict()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("def get_config(:", ", line 1"),
        ("\nimport not_a_module", ", line 2: No module named 'not_a_module'"),
        ("x = 1", "no attribute 'get_config'"),
        ("def get_config():\n    return {}['teacher']", ", line 2"),
    ],
)
def test_a_file_that_cannot_be_run_is_named_with_the_line(tmp_path, text, named):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        config_file.load(str(path))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argument", ["qickstart", "no/folder.py", "", "README.md"])
def test_what_is_no_configuration_is_a_user_error(argument):
    with pytest.raises(UserError, match=re.escape(f"--config={argument}")):
        config_file.load(argument)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("qickstart", ("qickstart", "quickstart")),
        ("configs/qickstart.py", ("configs/qickstart.py", "quickstart")),
        ("folder:smal", ("folder:smal", "small")),
    ],
)
def test_a_misspelt_config_is_one_line_from_anywhere(tmp_path, value, named):
    command = [sys.executable, REPOSITORY / "train.py", f"--config={value}"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}", "--config.teacher.epochs=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and all(word in line for word in named)
    assert not any(tmp_path.iterdir())
