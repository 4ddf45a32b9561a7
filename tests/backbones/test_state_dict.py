"""`.pth` files are read without PyTorch, as PyTorch reads them, or are refused."""

import io
import time
import zipfile

import numpy as np
import pytest
import torch_files
from torch_files import Call, Name, Persistent, Raw, archive, dumped, older, tensor

from ast_jax.backbones.state_dict import read_state_dict
from ast_jax.errors import UserError

RNG = np.random.default_rng(0)
ARRAYS = {
    "conv.weight": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "bn.weight": RNG.normal(size=4).astype(np.float32),
    "bn.bias": RNG.normal(size=4).astype(np.float32),
    "bn.num_batches_tracked": np.array(7, np.int64),
    "half": RNG.normal(size=(2, 5)).astype(np.float16),
    "double": RNG.normal(size=3),
    "nothing": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
    "bytes": np.arange(5, dtype=np.uint8),
}
FORMATS = {"archive": archive, "older": older}
each_format = pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)


@pytest.fixture
def read(tmp_path):
    def run(content: bytes):
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        return read_state_dict(path)

    return run


def same(got, expected=ARRAYS):
    return list(got) == list(expected) and all(
        (got[k].dtype, got[k].shape, got[k].tobytes())
        == (a.dtype, a.shape, a.tobytes())
        for k, a in expected.items()
    )


@each_format
def test_every_tensor_comes_back_in_its_type_and_order(read, write):
    assert same(read(torch_files.state_dict_file(ARRAYS, write)))


@each_format
def test_tensors_may_share_a_storage_and_have_any_order_of_axes(read, write):
    whole = np.arange(24, dtype=np.float32)
    value = {
        "first": tensor("0", whole, shape=(2, 3), strides=(3, 1)),
        "rest": tensor("0", whole, offset=6, shape=(3, 6), strides=(1, 3)),
    }
    got = read(write(value, {"0": whole}))
    assert same(
        got, {"first": whole[:6].reshape(2, 3), "rest": whole[6:].reshape(6, 3).T}
    )


@each_format
def test_bfloat16_becomes_float32(read, write):
    numbers = np.array([1.0, -2.5, 3.140625], np.float32)
    upper = (numbers.view("<u4") >> 16).astype("<u2")
    told = tensor("0", upper.view(np.int16), storage="torch BFloat16Storage")
    assert same(read(write({"a": told}, {"0": upper})), {"a": numbers})


def test_the_versions_of_modules_and_parameters_are_read_over(read):
    array = ARRAYS["bn.bias"]
    parameter = Call(
        "torch._utils _rebuild_parameter",
        (tensor("0", array), True, Call("collections OrderedDict", ())),
    )
    entries = torch_files.code("bn.bias") + torch_files.code(parameter)
    versions = torch_files.code({"_metadata": {"": {"version": 1}}})
    ordered = b"ccollections\nOrderedDict\n)R(" + entries + b"u" + versions + b"b"
    assert same(read(archive(Raw(ordered), {"0": array})), {"bn.bias": array})


def test_pytorch_reads_the_files_of_these_tests_alike(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for write in FORMATS.values():
        path = tmp_path / "weights.pth"
        path.write_bytes(torch_files.state_dict_file(ARRAYS, write))
        theirs = torch.load(path, weights_only=True)
        assert same({name: tensor.numpy() for name, tensor in theirs.items()})


@pytest.mark.parametrize("zipped", [True, False])
def test_what_pytorch_writes_is_read_as_pytorch_reads_it(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last),
        torch.nn.BatchNorm2d(8),
        torch.nn.Linear(8, 2).to(torch.bfloat16),
    )
    state = network.state_dict() | {"parameter": torch.nn.Parameter(torch.ones(2))}
    path = tmp_path / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    got = read_state_dict(path)
    assert list(got) == list(state)
    for name, theirs in state.items():
        wide = theirs.float() if theirs.dtype == torch.bfloat16 else theirs
        np.testing.assert_array_equal(got[name], wide.detach().numpy())


def damaged(rng, content):
    """One to three bytes are changed, mostly among the instructions."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        end = len(content) if rng.random() < 0.3 else min(len(content), 1500)
        changed[rng.integers(end)] ^= rng.integers(1, 256)
    return bytes(changed)


def cut(rng, content):
    return content[: rng.integers(len(content))]


def moved(rng, content):
    """A range of bytes is missing, doubled, or moved."""
    start, length, place = (int(rng.integers(n)) for n in (len(content), 60, 1500))
    taken = content[start : start + length]
    rest = content[:start] + content[start + length :]
    return rng.choice([rest, content[:place] + taken + content[place:]]).item()


def instructions_changed(rng, content):
    """As `damaged`, in an archive with correct checksums."""
    source = zipfile.ZipFile(io.BytesIO(content))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            pickle = entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, damaged(rng, data) if pickle else data)
    return buffer.getvalue()


def test_a_thousand_damaged_files_are_refused_or_read_as_pytorch_does(read):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    rng, accepted = np.random.default_rng(1), 0
    files = {
        name: torch_files.state_dict_file(ARRAYS, w) for name, w in FORMATS.items()
    }
    kinds = [
        *((name, damage) for name in files for damage in (damaged, cut, moved)),
        ("archive", instructions_changed),
    ]
    for n in range(1000):
        name, damage = kinds[n % len(kinds)]
        content = damage(rng, files[name])
        try:
            got = read(content)
        except UserError as error:
            assert "weights.pth" in str(error) and "\n" not in str(error)
            continue
        accepted += 1
        try:
            loaded = torch.load(
                io.BytesIO(content), weights_only=True, map_location="cpu"
            )
        except RuntimeError as error:  # in bytes that do not describe tensors
            assert "PytorchStreamReader" in str(error) and same(got)
        else:
            assert same(got, {key: tensor.numpy() for key, tensor in loaded.items()})
    assert 10 < accepted < 300


SMALL = np.ones(2, np.float32)
EXECUTED = []


def called(name, *arguments):
    return Call(name, arguments)


def deep(levels):
    return b"(" * levels + b"t" * levels


HOSTILE = {
    # Names that run code, in every way that a pickle can call them.
    **{
        f"name {name}": called(name, "EXECUTED.append(1)")
        for name in (
            "builtins eval",
            "builtins exec",
            "__builtin__ eval",
            "os system",
            "posix system",
            "subprocess Popen",
            "builtins getattr",
            "builtins __import__",
            "importlib import_module",
            "torch load",
            "torch.hub load",
            "torch._utils _rebuild_tensor",
            "torch.storage _load_from_bytes",
            "torch.jit._script unpackage_script_module",
            "numpy fromfile",
            "numpy.core.multiarray _reconstruct",
            "collections OrderedDict.fromkeys",
            "collections Counter",
            "operator attrgetter",
            "codecs decode",
        )
    },
    "inst": Raw(b"(X\x01\x00\x00\x00ai__builtin__\neval\n"),
    "obj": Raw(b"(cos\nsystem\nX\x01\x00\x00\x00ao"),
    "newobj": Raw(b"cos\nsystem\n)\x81"),
    "newobj of a dictionary": Raw(b"ccollections\nOrderedDict\n)\x81"),
    "stack global": Raw(b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93"),
    "extension": Raw(b"\x82\x01"),
    "persistent name": Raw(b"Pos.system\n"),
    "build of a call": Raw(b"ccollections\nOrderedDict\nX\x01\x00\x00\x00ab"),
    "call of a storage": called("torch FloatStorage", 10**9),
    "call of a string": Raw(torch_files.code("os.system") + b")R"),
    "dictionary of arguments": called("collections OrderedDict", [("a", 1)]),
    "name as a value": {"a": Name("torch FloatStorage")},
    # Sizes that the file does not have.
    "huge storage": {"a": tensor("0", SMALL, count=2**40, shape=(2**40,))},
    "huge shape": {"a": tensor("0", SMALL, shape=(2**40,))},
    "many axes": {"a": tensor("0", SMALL, shape=(2,) * 60, strides=(0,) * 60)},
    "repeated numbers": {"a": tensor("0", SMALL, shape=(2**30, 2), strides=(0, 1))},
    "negative count": {"a": tensor("0", SMALL, count=-2)},
    "negative offset": {"a": tensor("0", SMALL, offset=-1)},
    "offset beyond": {"a": tensor("0", SMALL, offset=1)},
    "negative stride": {"a": tensor("0", SMALL, strides=(-1,))},
    "negative side": {"a": tensor("0", SMALL, shape=(-2,))},
    "two sizes": {"a": tensor("0", SMALL), "b": tensor("0", SMALL, count=1)},
    "huge text": Raw(b"X\xff\xff\xff\xffabc"),
    "huge number": Raw(b"\x8b\xff\xff\xff\x7f1"),
    # Structures that ask for time, memory or recursion.
    "deep tuples": Raw(deep(20_000)),
    "doubled a thousand times": Raw(b"(t" + b"q\x000h\x00h\x00\x86" * 1000),
    "a dictionary in itself": Raw(b"}q\x00X\x01\x00\x00\x00ah\x00s"),
    "a tuple as name": Raw(b"}(" + deep(10_000) + b"K\x01u"),
    "endless instructions": Raw(b"N" * 300_000),
    "a name twice": Raw(
        b"}(" + 2 * torch_files.code("a") + torch_files.code("a") * 2 + b"u"
    ),
    "no value": Raw(b""),
    "unknown place in the memo": Raw(b"h\x07"),
    "a storage that is none": {"a": Persistent(("module", "x", "y", "z", 1))},
    "a storage of a hostile key": {"a": tensor("../../etc/passwd", SMALL)},
    "text as a tensor": {"a": "b"},
    "a list": [tensor("0", SMALL)],
}


def test_there_are_fifty_hostile_files():
    assert len(HOSTILE) >= 50


@each_format
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_at_once_and_runs_nothing(read, write, value):
    started = time.process_time()
    with pytest.raises(UserError, match=r"weights\.pth: not a state dict") as error:
        read(write(value, {"0": SMALL}))
    assert time.process_time() - started < 5
    assert not EXECUTED and "\n" not in str(error.value) and len(str(error.value)) < 700


SOUND = torch_files.pickled({"a": SMALL})


def compressed():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("weights/data.pkl", dumped(SOUND))
        file.writestr("weights/data/0", bytes(10**7))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (compressed(), "the archive is compressed"),
        (archive(SOUND, {"0": SMALL}, byteorder=b"big"), "big-endian"),
        (archive(SOUND, {}), "no file of 8 bytes data/'0'"),
        (archive(SOUND, {"0": SMALL[:1]}), "no file of 8 bytes data/'0'"),
        (archive(SOUND, {"0": SMALL}, **{"b/data.pkl": b""}), "2 files data.pkl"),
        (older(SOUND, {"0": SMALL}) + b"\0", "17 bytes of numbers instead of 16"),
        (older(SOUND, {"0": SMALL})[:-1], "15 bytes of numbers instead of 16"),
        (older(SOUND, {"1": SMALL}), "list of storages is not that of the tensors"),
        (older(SOUND, {"0": SMALL.astype("<f8")[:1]}), "has 1 numbers, not 2"),
        (b"", "neither a zip archive nor PyTorch's older format"),
        (b"\x89PNG\r\n", "neither a zip archive nor PyTorch's older format"),
        (b"PK\x03\x04", "not a zip file"),
        (torch_files.START, "pickle exhausted before seeing STOP"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(read, content, message):
    with pytest.raises(UserError) as error:
        read(content)
    assert message in str(error.value)


def test_a_whole_module_is_refused_with_the_way_out(read):
    module = Call("torch.nn.modules.linear Linear", ())
    with pytest.raises(UserError, match=r"Linear': a whole pickled module.*NEW"):
        read(archive(module, {}))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth: cannot be read \(No such file"):
        read_state_dict(tmp_path / "none.pth")
