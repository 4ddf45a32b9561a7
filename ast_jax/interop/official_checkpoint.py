"""Makes a run of the authors' PyTorch weights, which evaluate.py and predict.py take.

ast-import --teacher=T.pth --student=S.pth --config=mvtec_3d_ad --workdir=DIR \\
    --category=NAME --config.backbone.padding=efficientnet_pytorch_0.7.1 \\
    --config.dataset.root=/data/mvtec_3d_ad

The `.pth` files are the state dicts that their training saves; PyTorch is not needed.
A further category joins the same run. With `dataset.root` the run is calibrated on the
data set's validation split. Their networks have seen every training image, whose
scores are lower than a new part's: no fraction of those can stand in for a validation
split, and without one there is no threshold.
"""

if __name__ == "__main__":  # before the imports, during which Ctrl-C has to work too
    import sys

    from ast_jax.commands.start import import_checkpoint

    sys.exit(import_checkpoint())

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import logging
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from ast_jax.backbones import architecture
from ast_jax.backbones.choice import AUTO, B5
from ast_jax.backbones.state_dict import read_state_dict
from ast_jax.config import STRIDE, validate
from ast_jax.data import depth
from ast_jax.errors import UserError
from ast_jax.features.category import Category
from ast_jax.files import expand_home
from ast_jax.inference.calibration_file import write_calibration
from ast_jax.inference.category import calibrate_category
from ast_jax.interop.official_state_dict import (
    StateDict,
    student_variables,
    teacher_params,
)
from ast_jax.mode import Mode
from ast_jax.models import create_student, create_teacher
from ast_jax.pipeline import open_categories
from ast_jax.run import Run
from ast_jax.training.checkpoints import CheckpointStore
from ast_jax.training.state import state_template

_CREATE = {"teacher": create_teacher, "student": create_student}
_AUTHORS_PADDING = architecture.PADDINGS[1]
# More than any schedule has, so that train.py takes the networks as trained.
_TRAINED = 10**9


def import_pair(
    config: ConfigDict, workdir: Path, category: str, files: Mapping[str, Path]
) -> Run:
    """Writes a pair into a new run, or as a further category into an imported one.

    Args:
      config: the authors' settings; its `dataset.categories` are set here.
      workdir: the run's folder.
      category: the pair's.
      files: "teacher" and "student" → `.pth` file.

    Raises:
      UserError: the files do not fit the configuration, the folder holds another run or
        this category, or the data are damaged. The folder is then as it was.
    """
    _check(config)
    directory = expand_home(workdir).absolute()
    if Path(category).name != category:
        raise UserError(f"--category={category}: not the name of a category.")
    if (directory / category).exists():
        raise UserError(
            f"{directory} has a {category!r} already; remove that folder or take "
            "another --workdir."
        )
    config.dataset.categories = (category,)
    if config.backbone.name == AUTO:
        config.backbone.name = B5
    states = {name: read_state_dict(Path(files[name])) for name in _CREATE}
    variables = _fit(states, config, files)
    opened = open_categories(config)[0] if config.dataset.root else None
    with _join_run(directory, config) as run:
        _write_pair(run, category, variables, opened)
        write_calibration(run, category, None, {})
        calibration = calibrate_category(run, opened).calibration if opened else None
        _move(run, directory, category)
    if calibration is None:
        logging.warning("%s: no validation images, so there is no threshold.", category)
    else:
        alpha, threshold = calibration.attainable, calibration.threshold
        logging.info("%s: threshold %.6g at alpha %.3g.", category, threshold, alpha)
    return Run.open(directory)


def _check(config: ConfigDict) -> None:
    """Checks the configuration before any file is opened."""
    validate(config)
    if config.calibration.fraction:
        raise UserError(
            f"calibration.fraction is {config.calibration.fraction}: the authors' "
            "networks have seen every training image, so none can calibrate; set "
            "--config.calibration.fraction=0 (a validation split is taken by itself)."
        )
    if len(config.train.seeds) > 1:
        raise UserError(f"train.seeds must be one seed. Got {config.train.seeds}.")
    if Mode(config.mode).has_colour and config.backbone.padding != _AUTHORS_PADDING:
        logging.info(
            "Features are padded as timm's; if the weights come from efficientnet_"
            "pytorch 0.7.1, add --config.backbone.padding=%s.",
            _AUTHORS_PADDING,
        )


def _sizes(config: ConfigDict) -> dict[str, int]:
    """Side and channels of the networks' input, by the configuration alone."""
    mode = Mode(config.mode)
    channels = depth.UNSHUFFLE**2 * mode.has_depth
    stride = STRIDE
    if mode.has_colour:
        options = config.backbone
        net = architecture.architecture(options.name.split(".")[0], options.stage)
        channels, stride = channels + net.channels, net.stride
    return {"side": config.dataset.image_size // stride, "channels": channels}


def _fit(
    states: Mapping[str, StateDict], config: ConfigDict, files: Mapping[str, Path]
) -> dict[str, dict]:
    """Both networks' variables, in the shapes of the configuration.

    Raises:
      UserError: a shape differs; the line names file and tensor.
    """
    size = _sizes(config)
    variables = {}
    for name, create in _CREATE.items():
        try:
            variables[name] = _variables(states[name], name, config)
        except UserError as error:
            raise UserError(f"{files[name]}: {error}") from error
        template = state_template(create(config, **size), config, **size).variables
        ours, expected = flatten_dict(variables[name]), flatten_dict(template)
        # Kernels first, because an error about a kernel helps most.
        for path, leaf in sorted(expected.items(), key=lambda item: -item[1].ndim):
            if ours[path].shape != leaf.shape:
                raise UserError(
                    f"{files[name]}: {'/'.join(path)} is {list(ours[path].shape)}, the "
                    f"configuration makes it {list(leaf.shape)}; check mode, backbone, "
                    "teacher.hidden, teacher.positional_encoding and student.width."
                )
    return variables


def _variables(state: StateDict, network: str, config: ConfigDict) -> dict[str, dict]:
    flow = {"gamma": config.teacher.gamma, "blocks": config.teacher.blocks}
    if network == "teacher":
        return {"params": teacher_params(state, **flow), "batch_stats": {}}
    if config.student.kind == "flow":
        return {"params": {"flow": teacher_params(state, **flow)}, "batch_stats": {}}
    return student_variables(state, config.student.blocks)


@contextlib.contextmanager
def _join_run(directory: Path, config: ConfigDict) -> Iterator[Run]:
    """Makes a run in a temporary folder beside `directory`; locks a run that exists.

    Its categories are those of the existing run and the configuration's.
    """
    with contextlib.ExitStack() as stack:
        config = config.copy_and_resolve_references()
        if (directory / "config.json").exists():
            existing = Run.open(directory)
            stack.enter_context(existing.lock())
            new, old = (c.dataset.categories for c in (config, existing.config))
            config.dataset.categories = old
            Run.create(directory, config)  # raises if the configuration differs
            config.dataset.categories = old and old + new  # empty: all
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(
                prefix=f".{directory.name}.", dir=directory.parent
            )
        except OSError as error:
            raise UserError(
                f"{directory}: cannot be written ({error.strerror})."
            ) from error
        yield Run.create(Path(stack.enter_context(temporary)) / "run", config)


def _write_pair(
    run: Run, category: str, variables: Mapping[str, dict], opened: Category | None
) -> None:
    """Writes the record and the checkpoints that `load_pair` reads."""
    size, seed = _sizes(run.config), run.config.train.seeds[0]
    record = {
        **size,
        "train": list(opened.parts["train"].ids) if opened else [],
        "held_out": [],
        "content": opened.parts["train"].content | opened.parts["validation"].content
        if opened
        else {},
        "normaliser": None,
    }
    if opened:
        record["bit_depth"] = opened.parts["train"].bit_depth
    run.write_record(category, seed, record)
    for name, create in _CREATE.items():
        template = state_template(create(run.config, **size), run.config, **size)
        state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), template)
        state = state.replace(step=jnp.int32(_TRAINED), **variables[name])
        with CheckpointStore(run.seed_directory(category, seed) / name) as store:
            store.save(state)


def _move(run: Run, directory: Path, category: str) -> None:
    """Moves a finished category to the run, then the configuration that names it."""
    directory.mkdir(exist_ok=True)
    (run.directory / category).replace(directory / category)
    (run.directory / "config.json").replace(directory / "config.json")
