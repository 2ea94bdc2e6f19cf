from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpanoptic.engine.array_pickle import RefusedPickleError, load_arrays

# The layout of an array in a pickle, by hand: what NumPy writes is too well behaved.
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
OBJECT = b"cnumpy\ndtype\n(VO8\nI0\nI1\ntR"
BYTE = b"cnumpy\ndtype\n(Vu1\nI0\nI1\ntR"
POINTER = b"C\x08AAAAAAAA"


def load(data: bytes) -> Any:
    return load_arrays(io.BytesIO(data))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_plain_data_is_read_back(protocol: int, module: str) -> None:
    metadata_kept = OrderedDict(w=np.zeros(1, np.float32))
    metadata_kept._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    shared = np.arange(3)
    data = {
        "model": {
            "f": np.arange(6, dtype=np.float32).reshape(2, 3),
            "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
            "big": np.arange(3, dtype=">f8"),
            "half": np.ones((1, 2, 1), np.float16),
            "zero": np.zeros((0, 4), np.float32),
            "nothing": np.array(2.5),
            "bool": np.array([True, False]),
            "text": np.array(["a", "bcd"]),
            "bytes": np.array([b"x", b"yz"]),
            "strided": np.arange(8)[::2],
            "swapped": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        },
        "__author__": "zoo",
        "matching_heuristics": True,
        "scalars": [np.float32(2), np.int64(-3), np.bool_(True), (np.float64(0.5), None)],
        "ordered": metadata_kept,
        "raw": b"\xff\x00",
        "twice": (shared, [shared]),
    }
    written = pickle.dumps(data, protocol=protocol)
    # NumPy 2 and 1 differ in the name of one package; lengths stand before names from protocol 4.
    if protocol < 4:
        written = written.replace(b"numpy._core", b"numpy.core")
        written = written.replace(b"numpy.core", module.encode())
    read = load(written)
    assert list(read) == list(data)
    for name, array in data["model"].items():
        found = read["model"][name]
        assert type(found) is np.ndarray
        assert found.dtype == array.dtype.newbyteorder("=")
        assert found.flags.writeable
        np.testing.assert_array_equal(found, array)
    assert read["scalars"] == data["scalars"]
    assert type(read["scalars"][0]) is np.float32
    assert type(read["ordered"]) is OrderedDict
    assert read["ordered"]._metadata == {"": {"version": 2}}
    assert (read["raw"], read["__author__"]) == (b"\xff\x00", "zoo")
    np.testing.assert_array_equal(read["twice"][1][0], shared)


def test_pickle_of_python_2() -> None:
    # As Python 2 wrote {"w": float32 [1, 2]} in protocol 2: bytes are strings there.
    written = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tbs."
    )
    read = load(written)
    np.testing.assert_array_equal(read["w"], np.array([1, 2], np.float32))


def test_container_that_holds_itself_or_one_very_often() -> None:
    loop: list[Any] = []
    loop.append({"again": loop})
    read = load(pickle.dumps(loop))
    assert read[0]["again"] is read
    often: list[Any] = []
    for _ in range(100):
        often = [often, often]
    assert len(load(pickle.dumps(often))) == 2


EXPLOITS = {
    "ndarray called": b"cnumpy\nndarray\n((I1\ntVO\n" + POINTER + b"tR.",
    "object dtype in the state": RECONSTRUCT
    + b"(I1\n(I1\nt"
    + OBJECT
    + b"I00\n"
    + POINTER
    + b"tb.",
    "object scalar": b"cnumpy.core.multiarray\nscalar\n(" + OBJECT + POINTER + b"tR.",
    "object buffer": b"cnumpy.core.numeric\n_frombuffer\n(" + POINTER + OBJECT + b"(I1\ntVC\ntR.",
    "comma string": b"cnumpy\ndtype\n(Vf4,O\ntR.",
    "fields in the state": BYTE + b"(I3\nV|\nN(Va\nt}(Va\n(" + OBJECT + b"I0\ntuI8\nI1\nI0\ntb.",
    "kind by type": b"cnumpy\ndtype\n(cnumpy\nndarray\ntR.",
    "array of another class": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\nttR.",
    "changed function": b"cnumpy\ndtype\n(N}(V_function\nNutb.",
    "changed marker": b"cnumpy\nndarray\n}(V__call__\nNub.",
    "a function alone": b"(lcnumpy\ndtype\na.",
    "codec": b"c_codecs\nencode\n(Vx\nVpunycode\ntR.",
    "another function": b"cposix\ngetpid\n)R.",
    "attribute of a module": b"cnumpy\nload\n(Vx\ntR.",
}


def test_exploits_are_refused(tmp_path: Path) -> None:
    # In a process of its own: what is not refused may end it with a segmentation fault.
    for number, written in enumerate(EXPLOITS.values()):
        (tmp_path / str(number)).write_bytes(written)
    code = (
        "import sys\n"
        "from rpanoptic.engine.array_pickle import RefusedPickleError, load_arrays\n"
        "for file in sys.argv[1:]:\n"
        "    try:\n"
        "        print('read', repr(load_arrays(open(file, 'rb'))), flush=True)\n"
        "    except RefusedPickleError:\n"
        "        print('refused', flush=True)\n"
    )
    files = [str(tmp_path / str(number)) for number in range(len(EXPLOITS))]
    done = subprocess.run(
        [sys.executable, "-c", code, *files],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = dict(zip(EXPLOITS, done.stdout.splitlines(), strict=True))
    assert answers == dict.fromkeys(EXPLOITS, "refused"), done.stderr


def test_array_of_objects_is_refused() -> None:
    for protocol in range(2, 6):
        with pytest.raises(RefusedPickleError, match="'O8'"):
            load(pickle.dumps(np.array([{}, None], dtype=object), protocol=protocol))


@pytest.mark.parametrize(
    "state", [b"(I1\n(I9\nt%sI00\nC\x02abtb.", b"(I1\n(I-1\nt%sI00\nC\x02abtb.", b"."]
)
def test_content_that_does_not_fit_is_damage(state: bytes) -> None:
    filled = state % BYTE if b"%s" in state else state
    with pytest.raises(ValueError, match="array"):
        load(RECONSTRUCT + filled)
