"""Files that Detectron2 0.6 lacks and the mends add."""

from __future__ import annotations

from rpanoptic.installation.mend import Need, NewFile

_HEADER = (
    "# Written for rpanoptic; not a part of Detectron2 v0.6. The list of changes is in MENDS.txt"
    " beside\n# the package's metadata.\n"
)

_DEVELOP = (
    _HEADER
    + '''"""Stand-ins for what an optional dependency would provide."""


def _missing(name, dependency, message):
    if not isinstance(dependency, str):
        dependency = ", ".join(dependency)
    text = f"'{name}' needs '{dependency}', which cannot be imported."
    return f"{text} {message}" if message else text


def create_dummy_class(klass, dependency, message=""):
    """
    Make a class that raises an ImportError when it is built or asked for an attribute.

    Args:
        klass (str): the name of the class.
        dependency (str or list[str]): what it needs.
        message (str): more for the error's text, such as how to get the dependency.
    """
    text = _missing(klass, dependency, message)

    class _Meta(type):
        def __getattr__(cls, name):
            if name.startswith("__") and name.endswith("__"):
                raise AttributeError(name)  # inspection must not fail
            raise ImportError(text)

    def __init__(self, *args, **kwargs):
        raise ImportError(text)

    return _Meta(klass, (object,), {"__init__": __init__, "__module__": __name__})


def create_dummy_func(func, dependency, message=""):
    """
    Make a function that raises an ImportError when it is called. Arguments as for
    :func:`create_dummy_class`.
    """
    text = _missing(func, dependency, message)

    def dummy(*args, **kwargs):
        raise ImportError(text)

    dummy.__name__ = dummy.__qualname__ = func
    return dummy
'''
)

_STUB = (
    _HEADER
    + '''"""Stands where the compiled operators of Detectron2 would be.

This Detectron2 was installed without its C++ and CUDA sources. ROIAlign and NMS come from
torchvision, so most models need nothing from here. What is asked for nevertheless raises an
ImportError that names it.
"""

_HOW = (
    "This Detectron2 is installed without compiled operators. Rotated boxes, deformable "
    "convolution on a GPU and the fast COCO evaluation need them: run 'pip uninstall detectron2', "
    "then build it from the source at https://github.com/facebookresearch/detectron2"
)


def get_compiler_version():
    return "none (compiled operators are absent)"


def get_cuda_version():
    return "none (compiled operators are absent)"


def has_cuda():
    return False


def __getattr__(name):
    if name.startswith("__") and name.endswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise ImportError(f"The operator 'detectron2._C.{name}' is missing. {_HOW}.")
'''
)

NEW_FILES = (
    NewFile(
        name="dummy-classes",
        need=Need.MUST,
        file="utils/develop.py",
        why="Stand-ins that say what is missing, for operators that were not compiled.",
        text=_DEVELOP,
        upstream="710e7795d0ee",
    ),
    NewFile(
        name="compiled-ops-stub",
        need=Need.MUST,
        file="_C.py",
        why="The archive has no C++ sources: a missing operator says how to get it.",
        text=_STUB,
    ),
)
