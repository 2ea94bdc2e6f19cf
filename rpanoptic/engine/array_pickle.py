"""Reading pickles of NumPy arrays and plain containers without running what they name.

A pickle names functions and classes, and has them called with arguments of its choice. NumPy's own
are no exception: an array of Python objects over given bytes is an array of forged pointers. So
none of them is handed out. Each name stands for an object of this module that does that one thing
with checked arguments, and arrays are built here, of plain numbers or text alone.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np

# Booleans, integers, floats, complex numbers and text, with their size in bytes or characters.
_PLAIN_TYPE = re.compile(r"[biufcSU][1-9]\d*")
_BYTE_ORDERS = ("<", ">", "|", "=")


class RefusedPickleError(pickle.UnpicklingError):
    """The pickle holds more than arrays and containers; the message says what."""


def load_arrays(stream: IO[bytes]) -> Any:
    """Unpickle arrays, NumPy scalars and plain containers, of any protocol, from Python 2 or 3.

    Args:
        stream: a binary stream. Strings of Python 2 are read as latin1.

    Returns:
        the object; its arrays are writable and in native byte order.

    Raises:
        RefusedPickleError: it holds anything else, such as an array of objects.
        Exception: the pickle is damaged; of many types, as :meth:`pickle.Unpickler.load` says.
    """
    return _finished(_ArrayUnpickler(stream, encoding="latin1").load(), {})


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 moved numpy.core to numpy._core; files of either kind exist.
        plain = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        if plain not in _ADMITTED:
            raise RefusedPickleError(f"{module}.{name}")
        return _ADMITTED[plain]


class _Admitted:
    """What a name of the pickle stands for: it can be called, and not be changed."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:
        # Without this method, unpickling would set attributes as the pickle says.
        raise RefusedPickleError("a changed function")


class _Type:
    """A type of plain array elements."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, *flags: object) -> None:
        if not isinstance(code, str) or not _PLAIN_TYPE.fullmatch(code):
            raise RefusedPickleError(f"array elements of the type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, parent type, names, fields, ...); numpy.dtype would believe it all.
        order, *structure = state[1:5]
        if order not in _BYTE_ORDERS or any(part is not None for part in structure):
            raise RefusedPickleError("array elements of a structured type")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array that gets its content after it was made."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # Very old files lack the version in front.
        shape, kind, fortran, data = state[-4:]
        self.value = _array(data, kind, shape, "F" if fortran else "C")


def _array(data: object, kind: object, shape: object, order: str) -> np.ndarray:
    """A new array of the given bytes, in native byte order."""
    if not isinstance(kind, _Type):
        raise RefusedPickleError(f"array elements of the type {kind!r}")
    if isinstance(data, str):  # the bytes of Python 2
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise RefusedPickleError(f"an array over a {type(data).__name__}")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array has the shape {shape!r}")
    if len(data) != math.prod(shape) * kind.dtype.itemsize:
        raise ValueError(f"an array of shape {shape} and type {kind.dtype} has {len(data)} bytes")
    flat = np.frombuffer(data, kind.dtype) if data else np.zeros(0, kind.dtype)
    return flat.astype(kind.dtype.newbyteorder("=")).reshape(
        shape, order="F" if order == "F" else "C"
    )


def _reconstruct(subtype: object, *shape_and_code: object) -> _Array:
    if subtype is not _NDARRAY:
        raise RefusedPickleError("an array of another class")
    return _Array()


def _scalar(kind: object, data: object = b"") -> Any:
    return _array(data, kind, (1,), "C")[0]


def _from_buffer(
    data: object, kind: object, shape: object, order: str, axis_order: tuple[int, ...] | None = None
) -> np.ndarray:
    array = _array(data, kind, shape, order)
    return array if axis_order is None else array.transpose(axis_order)


def _ordered_dict(items: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(items)


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as Python 3 pickles them for Python 2; any other codec has no business here."""
    if encoding != "latin1":
        raise RefusedPickleError(f"_codecs.encode({encoding})")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


def _not_called(*args: object) -> None:
    raise RefusedPickleError("a call of numpy.ndarray")


_NDARRAY = _Admitted(_not_called)
_ADMITTED = {
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _Admitted(_Type),
    "numpy.core.multiarray._reconstruct": _Admitted(_reconstruct),
    "numpy.core.multiarray.scalar": _Admitted(_scalar),
    "numpy.core.numeric._frombuffer": _Admitted(_from_buffer),
    "collections.OrderedDict": _Admitted(_ordered_dict),
    "_codecs.encode": _Admitted(_encode_latin1),
    # How Python 3 writes empty bytes for Python 2; it takes no arguments here.
    "__builtin__.bytes": _Admitted(_empty_bytes),
}


def _finished(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """``value`` with NumPy's arrays in the place of ours.

    Args:
        value: what the pickle holds.
        done: id of a container -> itself, to keep the id taken, and its finished copy. So each
            is copied once, however often it occurs, and one that holds itself is no endless loop.
    """
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array has no content")
        return value.value
    if isinstance(value, _Type):
        return value.dtype
    if isinstance(value, _Admitted):
        raise RefusedPickleError("a function")
    if isinstance(value, dict):
        copy: dict[Any, Any] = OrderedDict() if isinstance(value, OrderedDict) else {}
        done[id(value)] = value, copy
        copy.update((key, _finished(item, done)) for key, item in value.items())
        # PyTorch keeps the versions of modules here; no other attribute is carried over.
        metadata = getattr(value, "_metadata", None)
        if isinstance(metadata, dict):
            copy._metadata = _finished(metadata, done)  # type: ignore[attr-defined]
        return copy
    if isinstance(value, list):
        items: list[Any] = []
        done[id(value)] = value, items
        items.extend(_finished(item, done) for item in value)
        return items
    if isinstance(value, tuple):
        parts = tuple(_finished(item, done) for item in value)
        done[id(value)] = value, parts
        return parts
    return value
