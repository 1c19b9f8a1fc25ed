"""Pickles: what they hold is read, and nothing that they name is run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from helpers.weights import same

from ivtuning.checkpoint.files import read, read_state
from ivtuning.checkpoint.pickles import Placeholder
from ivtuning.errors import UserError

ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def saved(tmp_path, content, zipped=True):
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    return tmp_path / "x.pth"


@ZIPPED
def test_tensors_are_what_torch_loads(tmp_path, zipped):
    whole = torch.arange(24.0).view(2, 3, 4)
    content = {
        **{name: torch.ones(3).to(getattr(torch, name)) for name in DTYPES},
        "transposed": whole.permute(2, 0, 1),
        "part": whole[1, 1:],
        "expanded": torch.ones(1).expand(5),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "complex": torch.ones(2, dtype=torch.complex64),
    }
    path = saved(tmp_path, content, zipped)
    wanted, got = torch.load(path), read(path)
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor) and got[name].dtype is tensor.dtype, name
        assert got[name].stride() == tensor.stride(), name
    # Views of one storage share it as before.
    got["transposed"][0, 1, 1] = 7
    assert got["part"][0, 0] == 7


@ZIPPED
def test_containers_and_numbers_are_plain(tmp_path, zipped):
    content = {
        "ordered": OrderedDict(a=[1, (2.5, None)]), "counter": Counter("aab"), "queue": deque([1, 2]),
        "default": defaultdict(list, b=[True]), "set": {1, 2}, "complex": 1j, "bytes": b"\xff\0",
        "array": [np.arange(6.0).reshape(2, 3), (np.float32(2),)], "int": 2**70, "size": torch.Size([2]),
    }  # fmt: skip
    got = read(saved(tmp_path, content, zipped))
    assert got["ordered"] == {"a": [1, (2.5, None)]} and got["counter"] == {"a": 2, "b": 1}
    assert got["queue"] == [1, 2] and got["default"] == {"b": [True]} and got["set"] == {1, 2}
    assert got["complex"] == 1j and got["bytes"] == b"\xff\0" and got["int"] == 2**70 and got["size"] == (2,)
    assert np.array_equal(got["array"][0], content["array"][0]) and got["array"][1][0] == 2


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_pickles_of_every_protocol(tmp_path, protocol):
    arrays = {
        "big_endian": np.arange(6, dtype=">f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "flags": np.array([True, False]),
        "scalar": np.float64(3),
        "counts": np.arange(3),
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(
        pickle.dumps({"model": arrays, "names": np.array(["a"]), "odd": np.array([{}])}, protocol)
    )
    wanted = {n: torch.as_tensor(np.asarray(a, a.dtype.newbyteorder("="))) for n, a in arrays.items()}
    assert same(read_state(path), wanted)


class Call:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


HOSTILE = {
    "os.system": (os.system, "touch ran"),
    "eval": (eval, "open('ran', 'w')"),
    "exec": (exec, "open('ran', 'w')"),
    "open": (open, "ran", "w"),
    "import": (__import__, "antigravity"),
    "subprocess": (subprocess.Popen, ["touch", "ran"]),
    "pickle": (pickle.loads, b"N."),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("form", ["zip", "legacy", "numpy"])
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    content = {"model": {"x": np.zeros(1)}, "hook": Call(*HOSTILE[name])}
    if form == "numpy":
        (tmp_path / "x.pth").write_bytes(pickle.dumps(content))
    else:
        saved(tmp_path, content, form == "zip")
    with pytest.raises(UserError, match=r"x.pth: pickles a \S+, which would run its code"):
        read_state(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_what_a_pickle_fetches_by_getattr_is_inert(tmp_path):
    # builtins.getattr(collections.OrderedDict, "fromkeys")("ab"), with every step on the stack.
    program = b"\x80\x02cbuiltins\ngetattr\nccollections\nOrderedDict\nX\x08\0\0\0fromkeys\x86R\x85."
    (tmp_path / "x.pkl").write_bytes(program)
    (got,) = read(tmp_path / "x.pkl")
    assert isinstance(got, Placeholder)


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02}r\xff\xff\xff\x7fq\0.",  # a place far out in the memo
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 45) + b"x.",  # a text of 32 TB
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 35) + b"x.",  # an array of 32 GB
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 35) + b"x.",  # a frame of 32 GB
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",  # an array of 2 GB
        b"\x80\x02\x82\x01.",  # an extension code
        b"\x80\x02]K\x01\x85R.",  # a call of a list
        b"\x80\x02(((((((",
    ],
    ids=["memo", "text", "bytes", "frame", "bytearray", "extension", "call", "marks"],
)
def test_odd_programs_end_in_one_line(tmp_path, program):
    (tmp_path / "x.pkl").write_bytes(program)
    with pytest.raises(UserError, match="x.pkl: "):
        read_state(tmp_path / "x.pkl")


def test_what_is_shared_is_visited_once(tmp_path):
    shared = ({"a": np.ones(1)},)
    for _ in range(60):
        shared = (shared, shared)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"w": np.zeros(1), "shared": shared}))
    assert same(read_state(tmp_path / "x.pkl"), {"w": torch.zeros(1, dtype=torch.float64)})


@ZIPPED
def test_objects_of_other_libraries_are_skipped(tmp_path, monkeypatch, zipped):
    module = types.ModuleType("mmengine_like")
    monkeypatch.setitem(sys.modules, "mmengine_like", module)
    source = """
class ConfigDict(dict): pass
class HistoryBuffer:
    def mean(self): pass
    def __init__(self): self.data, self.methods = None, {"mean": HistoryBuffer.mean}
class MessageHub:
    def __init__(self): self.scalars = {"loss": HistoryBuffer()}
    def __setstate__(self, state): raise AssertionError("code ran")
class Names(list): pass
"""
    exec(compile(source, "mmengine_like", "exec"), module.__dict__)
    state = {"a.w": torch.arange(3.0)}
    content = {
        "meta": {"cfg": module.ConfigDict(lr=1), "names": module.Names("ab")},
        "message_hub": module.MessageHub(),
        "state_dict": OrderedDict(state),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    path = saved(tmp_path, content, zipped)
    assert same(read_state(path), state)
    assert read(path)["message_hub"].name == "mmengine_like.MessageHub"


@pytest.mark.parametrize("content", [torch.nn.Linear(2, 2), {"model": torch.nn.Linear(2, 2), "ema": None}])
def test_a_pickled_module_is_no_state_dict(tmp_path, content):
    with pytest.raises(UserError, match="a pickled torch.nn.modules.linear.Linear.*save model.state_dict"):
        read_state(saved(tmp_path, content))


def compressed(path):
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def test_compressed_parts_are_not_unpacked(tmp_path):
    path = saved(tmp_path, {"a": torch.zeros(1_000_000)})
    compressed(path)
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match="compressed parts"):
        read_state(path)


def test_tensors_larger_than_their_file(tmp_path):
    path = saved(tmp_path, {"a": torch.zeros(65536)}, zipped=False)
    # The size in the storage's reference, and that in the tensor's shape.
    data = path.read_bytes().replace(b"J\0\0\1\0", b"J\0\0\0\x7f")
    path.write_bytes(data)
    with pytest.raises(UserError, match="truncated, damaged"):
        read_state(path)


def test_a_changed_byte_is_noticed(tmp_path):
    path = saved(tmp_path, {"a": torch.zeros(1000)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        read_state(path)


def test_files_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, {"a": torch.arange(9.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_state(path), {"a": torch.arange(9.0)})


ODD = {
    "sparse": lambda: torch.ones(3).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(3, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_not_dense_are_named(tmp_path, kind):
    with pytest.raises(UserError, match=rf"x.pth: block.w is a {kind} tensor: save it as a dense one"):
        read_state(saved(tmp_path, {"block.w": ODD[kind](), "block.b": torch.ones(1)}))
