import pytest

from ast_jax.config import default
from ast_jax.report import provenance
from ast_jax.run import Run


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.123, "0.12 s"),
        (48.4, "48 s"),
        (59.7, "1 min 0 s"),
        (200.0, "3 min 20 s"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert provenance.duration(seconds) == text


def test_what_differs_from_the_default_is_marked():
    config = default()
    config.teacher.hidden = 7
    config.train.seeds = (1, 2)
    rows = {
        key: (text, marked) for key, text, marked in provenance.configuration(config)
    }
    assert rows["teacher.hidden"] == ("7", True)
    assert rows["train.seeds"] == ("1, 2", True)
    assert rows["teacher.clamp"] == ("1.9", False)


def test_settings_name_the_backbone_only_where_there_is_one():
    config = default()
    assert "backbone tf_efficientnet_b5.aa_in1k" in provenance.settings(config)
    config.mode = "3d"
    assert "backbone" not in provenance.settings(config)


def test_facts_name_the_run_versions_and_hardware(tmp_path):
    facts = provenance.facts(Run.create(tmp_path, default()))
    assert facts["Run"] == str(tmp_path)
    assert {"jax", "flax", "Python", "AST-JAX"} <= facts.keys()
    assert "cores" in facts["Evaluated on"]
