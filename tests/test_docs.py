"""The pages of docs/ keep their word: their Python runs, their tables name what there is."""

from __future__ import annotations

import inspect
import re

import pytest

from rpanoptic.recurrent import CELLS, GRADIENTS, SOLVERS
from rpanoptic.recurrent.gradients.base import BACKENDS, FAILURE_POLICIES
from tests.markdown import broken_links, python_blocks, run_block
from tests.modeling.components import REGISTRIES
from tests.paths import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
RECURRENT = ROOT / "docs" / "recurrent.md"
TRAINING = 'gradient="crbp"'
EXAMPLES = [
    pytest.param(source, page.name, id=f"{page.stem}-{place}")
    for page in PAGES
    for place, source in enumerate(python_blocks(page))
    if TRAINING not in source  # has a test of its own
]


@pytest.mark.parametrize(("source", "name"), EXAMPLES)
def test_examples_run(source: str, name: str) -> None:
    run_block(source, name)


@pytest.mark.parametrize("gradient", ["crbp", "bptt"])
def test_the_example_learns_under_either_method(gradient: str) -> None:
    (source,) = [block for block in python_blocks(RECURRENT) if TRAINING in block]
    losses = run_block(source.replace("crbp", gradient), RECURRENT.name)["losses"]
    # The page says less than half; seeds 0 to 2 gave a fifth to a half under either method.
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_linked_files_exist(page) -> None:
    assert broken_links(page) == []


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of recurrent.md, without its first two rows."""
    text = RECURRENT.read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    table = re.search(r"(?:^\|.*\|\n)+", section, re.M)
    assert table
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[0].splitlines()[2:]]


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("Gradient methods", list(GRADIENTS)),
        ("Adjoint solvers", list(SOLVERS)),
        ("Cells", list(CELLS)),
        ("Where there is no equilibrium", FAILURE_POLICIES),
    ],
)
def test_tables_name_all_there_is_and_no_more(heading: str, known) -> None:
    named = [row[0].split("`")[1] for row in rows(heading)]
    assert sorted(named) == sorted(known)


def test_back_ends_are_named() -> None:
    text = RECURRENT.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in BACKENDS)


def test_default_norms_are_those_of_the_cells() -> None:
    for name, _, norm, *_ in rows("Cells"):
        option = inspect.signature(CELLS.get(name.strip("`"))).parameters.get("norm")
        assert norm == ("–" if option is None else option.default or "none"), name


def test_registered_parts_are_named() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    parts = [
        name
        for registry in REGISTRIES.values()
        for name, part in registry
        if part.__module__.startswith("rpanoptic.")
    ]
    assert len(parts) > 10
    assert [name for name in parts if f"`{name}`" not in text and f" {name}`" not in text] == []
