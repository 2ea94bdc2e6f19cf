from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage

from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder.imagenet.search.parameters import Float
from rpanoptic.pathfinder.imagenet.search.space import SPACES, Space
from rpanoptic.pathfinder.imagenet.search.storage import open_storage
from rpanoptic.pathfinder.imagenet.search.study import Search, load_study
from tests.pathfinder.imagenet.search.fakes import FAKE, begin, fake_search, go_on, overrides

pytestmark = pytest.mark.usefixtures("fakes")


def test_a_study_knows_what_it_is_of() -> None:
    storage = InMemoryStorage()
    search = fake_search(max_parameters=7, SOLVER__GAMMA=0.25)
    begin(storage, search)
    found = Search.of(load_study(storage, "convrnn"))
    assert found.space is FAKE and found.max_parameters == 7
    assert found.base.SOLVER.GAMMA == 0.25
    # What belongs to a machine may differ.
    begin(storage, fake_search(7, SOLVER__GAMMA=0.25, OUTPUT_DIR="x", MODEL__DEVICE="cuda:1"))


def test_a_study_of_another_search_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = InMemoryStorage()
    begin(storage, fake_search())
    message = (
        r"study 'convrnn' was made for another search: SOLVER.GAMMA: 0.1 in the study, 0.3 here, "
        r"TEST.EVAL_PERIOD: 10 in the study, 5 here. Give"
    )
    with pytest.raises(ConfigError, match=message):
        begin(storage, fake_search(SOLVER__GAMMA=0.3, TEST__EVAL_PERIOD=5))
    with pytest.raises(ConfigError, match="max_parameters: 0 in the study, 9 here"):
        begin(storage, fake_search(9))
    other = Space("other", FAKE.parameters, FAKE.overrides)
    with pytest.raises(ConfigError, match='space: "fake" in the study, "other" here'):
        begin(storage, Search(other, fake_search().base))
    wider = Space("fake", lambda cfg: (Float("rate", 1e-4, 2.0, log=True),), overrides)
    with pytest.raises(ConfigError, match=r"parameter 'rate': .*parameter 'clip': .*absent here"):
        begin(storage, Search(wider, fake_search().base))
    # This package has changed, or lost, the space since.
    monkeypatch.setitem(SPACES, "fake", wider)
    with pytest.raises(ConfigError, match="parameter 'rate'"):
        Search.of(load_study(storage, "convrnn"))
    monkeypatch.delitem(SPACES, "fake")
    with pytest.raises(ConfigError, match="another version of this package: --space 'fake'"):
        Search.of(load_study(storage, "convrnn"))


def test_studies_that_are_not_ours() -> None:
    storage = InMemoryStorage()
    optuna.create_study(storage=storage, study_name="foreign").optimize(lambda _: 1.0, n_trials=1)
    with pytest.raises(ConfigError, match="'foreign' is not one of architectures"):
        Search.of(load_study(storage, "foreign"))
    with pytest.raises(ConfigError, match="has no study 'convrnn'; it has 'foreign'"):
        load_study(storage, "convrnn")


def test_unknown_pruner() -> None:
    with pytest.raises(ConfigError, match="--pruner 'best' is unknown; known: hyperband, median"):
        begin(InMemoryStorage(), fake_search(), pruner="best")


def test_an_empty_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="BEST_METRIC is empty"):
        fake_search(RPANOPTIC__BEST_METRIC="").check()


def test_a_file_keeps_the_study(tmp_path: Path) -> None:
    search = fake_search()
    go_on(begin(tmp_path / "study.db", search), search, 2, tmp_path)
    study = load_study(open_storage(str(tmp_path / "study.db"), must_exist=True), "convrnn")
    assert len(study.trials) == 2 and Search.of(study).space is FAKE
    # As a URL, too.
    study = load_study(open_storage(f"sqlite:///{tmp_path / 'study.db'}"), "convrnn")
    assert len(study.trials) == 2


def test_files_that_are_no_studies(tmp_path: Path) -> None:
    text, foreign, cut = tmp_path / "text.db", tmp_path / "foreign.db", tmp_path / "cut.db"
    text.write_text("trial,value\n1,2\n")
    with closing(sqlite3.connect(foreign)) as database:
        database.execute("CREATE TABLE customers (name TEXT)")
    cut.write_bytes(foreign.read_bytes()[:150])
    before = foreign.read_bytes()
    cases = [
        (text, {}, "not a database of SQLite"),
        (foreign, {}, "something else than studies of Optuna: its tables are customers"),
        (cut, {}, "cut.db "),
        (tmp_path, {}, "cannot be read"),
        (tmp_path / "absent.db", {"must_exist": True}, "there is no file .*absent.db"),
        (tmp_path / "none" / "study.db", {}, "there is no folder .*none"),
        ("nonsense://study", {}, "nonsense"),
        ("://", {}, "--storage ://"),
    ]
    for place, options, message in cases:
        with pytest.raises(ConfigError, match=message):
            open_storage(str(place), **options)
    assert foreign.read_bytes() == before
    assert not (tmp_path / "absent.db").exists()
