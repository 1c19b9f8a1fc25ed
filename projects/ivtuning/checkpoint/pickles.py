"""Reads pickles, numpy's and torch's, without running anything that they name.

A pickle is a program: it names functions and classes, calls them, and fills what they return. Here every name
stands for an entry in a table of this module's own functions, which rebuild arrays, tensors and containers.
A name that the table lacks becomes an inert placeholder, so that the tensors of a checkpoint can be read
although loggers or configs of another library lie beside them.
"""

from __future__ import annotations

import _compat_pickle
import os
import pickle
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

# Modules of Python whose names are harmless in a pickle; any other one means to run code.
_HARMLESS = {
    *("collections", "argparse", "pathlib", "datetime", "enum", "copyreg", "_codecs", "types", "typing"),
    *("decimal", "fractions", "uuid", "functools", "logging", "time", "re", "random", "dataclasses"),
}
_HARMLESS_BUILTINS = {
    *("set", "frozenset", "list", "tuple", "dict", "bytearray", "bytes", "str", "int", "float", "complex"),
    *("bool", "object", "slice", "range", "type", "getattr", "Exception"),
}


class Unusable(ValueError):
    """A file that is whole and yet not read. The message says why, and what to do."""


@dataclass(frozen=True)
class Unreadable:
    """What stands for a tensor that is not read; `kind` says why, such as "sparse"."""

    kind: str


class Placeholder:
    """Stands for an object of a class that is not loaded. It takes whatever a pickle fills it with."""

    def __init__(self, name: str):
        self.name = name

    def append(self, item: Any) -> None:
        pass

    extend = add = update = append

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class _Name:
    """A function or class that a pickle names."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *args: Any, **options: Any) -> Any:
        known = _CALLS.get(self.name)
        return known(*args) if known else Placeholder(self.name)


@dataclass
class _Storage:
    """The bytes of one or several tensors, as a tensor of bytes."""

    buffer: Tensor
    dtype: torch.dtype


class _DType:
    """A numpy dtype: its kind and size, and in the state that follows its byte order."""

    def __init__(self, spec: Any, *_: Any):
        self.spec, self.order = str(spec), "="

    def build(self, state: Any) -> None:
        self.order = state[1] if state[1] in "<>=" else "="

    def decode(self, data: Any, shape: Iterable[int], fortran: bool = False) -> Any:
        """The array in native byte order; a placeholder of arrays that hold no numbers."""
        if self.spec[:1] not in "fiubc":
            return Placeholder(f"numpy array of {self.spec}")
        data = data.encode("latin1") if isinstance(data, str) else data
        array = np.frombuffer(data, np.dtype(self.spec).newbyteorder(self.order))
        array = array.reshape(tuple(shape), order="F" if fortran else "C")
        # A copy, which can be written.
        return np.array(array, array.dtype.newbyteorder("="), order="C")


class _Array:
    """A numpy array before its state."""

    value: Any = None

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(data, (bytes, str)):
            self.value = Placeholder("numpy array of objects")
        else:
            self.value = dtype.decode(data, shape, fortran)


def _tensor(storage: _Storage, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    flat = storage.buffer
    whole = flat.numel() // storage.dtype.itemsize * storage.dtype.itemsize
    # torch refuses what lies outside of the storage.
    return torch.as_strided(flat[:whole].view(storage.dtype), tuple(size), tuple(stride), offset)


def _tensor_of_dtype(storage: _Storage, *args: Any) -> Tensor:
    dtype = getattr(torch, args[5].name.rpartition(".")[2])
    return _tensor(_Storage(storage.buffer, dtype), *args)


def _first(value: Any = None, *rest: Any) -> Any:
    return value


def _unreadable(kind: str) -> Callable[..., Unreadable]:
    return lambda *args: Unreadable(kind)


def _subclass(function: Any, kind: Any, args: Any, state: Any) -> Any:
    return function(*args) if isinstance(function, _Name) else Placeholder("tensor")


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": dict,
    "collections.Counter": dict,
    "collections.defaultdict": lambda factory=None, *args: dict(*args),
    "collections.deque": lambda items=(), *_: list(items),
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
    "builtins.bytearray": lambda data=b"", *_: data,
    "_codecs.encode": lambda text, *_: text.encode("latin1"),
    "torch.Size": tuple,
    "torch.nn.parameter.Parameter": _first,
    "torch.nn.parameter.Buffer": _first,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch._utils._rebuild_xla_tensor": _first,
    "torch._utils._rebuild_qtensor": _unreadable("quantized"),
    "torch._utils._rebuild_sparse_tensor": _unreadable("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable("sparse"),
    "torch._utils._rebuild_nested_tensor": _unreadable("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("meta"),
    "torch._utils._rebuild_wrapper_subclass": _unreadable("sharded or wrapped"),
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "numpy.dtype": _DType,
    # numpy 2 moved numpy.core to numpy._core.
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in {
            "multiarray._reconstruct": lambda *args: _Array(),
            "multiarray.scalar": lambda dtype, data=None, *_: dtype.decode(data, ()),
            "numeric._frombuffer": lambda data, dtype, shape, order: dtype.decode(data, shape, order == "F"),
        }.items()
    },
}
_STORAGES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8,
        "Byte": torch.uint8, "Bool": torch.bool, "Untyped": torch.uint8, "QInt8": torch.int8,
        "QUInt8": torch.uint8, "QInt32": torch.int32, "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
}  # fmt: skip


class _Bounded:
    """A file of which no more is asked than it has: Python would take the memory before it reads."""

    def __init__(self, file: BinaryIO):
        self.file, self.readline = file, file.readline
        start = file.tell()
        self.size = file.seek(0, os.SEEK_END)
        file.seek(start)

    def read(self, count: int) -> bytes:
        if count > self.size:
            raise EOFError("asks for more than there is")
        return self.file.read(count)


# Python's own implementation: that in C calls what lies on its stack, and allocates what a pickle asks for.
class Unpickler(pickle._Unpickler):
    """Unpickles one object; storages of tensors come from `load_storage(dtype, key, numel)`."""

    dispatch: Any = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, load_storage: Callable[[torch.dtype, str, int], Tensor]):
        super().__init__(_Bounded(file), encoding="latin1")
        self.load_storage = load_storage

    def find_class(self, module: str, name: str) -> _Name:
        # Protocols before 3 write the names of Python 2.
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        harmless = name in _HARMLESS_BUILTINS if module == "builtins" else module in _HARMLESS
        if module.partition(".")[0] in sys.stdlib_module_names and not harmless:
            raise Unusable(
                f"pickles a {module}.{name}, which would run its code on loading: if you trust the file, "
                "load it where it was written and save model.state_dict() alone"
            )
        return _Name(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError("extension codes are not used by checkpoints")

    def persistent_load(self, pid: Any) -> _Storage:
        if pid[0] != "storage":
            raise pickle.UnpicklingError(f"no such reference: {pid[0]}")
        _, kind, key, _, numel, *view = pid
        dtype = _STORAGES[kind.name.rpartition(".")[2]]
        buffer = self.load_storage(dtype, str(key), int(numel))
        if view and view[0]:
            _, start, length = view[0]
            buffer = buffer[start * dtype.itemsize : (start + length) * dtype.itemsize]
        return _Storage(buffer, dtype)

    def load_bytearray8(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(count))

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.stack[-1](*args)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def load_build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, (_Array, _DType)):
            built.build(state)

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build


def plain(value: Any, done: dict[int, Any] | None = None) -> Any:
    """`value`, in which arrays have taken their place; lists and dicts are changed as they are."""
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _Name):
        return Placeholder(value.name)
    if isinstance(value, (dict, list)):
        done[id(value)] = value
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            value[key] = plain(item, done)
    elif isinstance(value, tuple):
        done[id(value)] = tuple(plain(item, done) for item in value)
    return done.get(id(value), value)
