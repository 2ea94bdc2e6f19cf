"""The subcommands of datasets/convert_panoptic.py for label images, labelme and Cityscapes."""

import pytest

from rpanoptic.data.panoptic_source import PanopticSource
from tests.data.convert.random_sets import CATEGORIES, inspection, sayings, write_random_set
from tests.data.helpers import load_script

STUFF = [category["name"] for category in CATEGORIES if not category["isthing"]]


@pytest.fixture(scope="module")
def convert():
    """Runs a subcommand in one process, and returns its exit status."""
    main = load_script("datasets/convert_panoptic.py").main
    return lambda *arguments: main([str(one) for one in (*arguments, "--workers", 1)])


def inputs(source):
    return ["--panoptic-json", source.panoptic_json, "--panoptic-root", source.panoptic_root]


def outputs(source):
    return ["--output-json", source.panoptic_json, "--output-pngs", source.panoptic_root]


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (
            "to-labels",
            "from-labels --labels labels/classes --instances labels/instances "
            "--classes labels/classes.csv",
        ),
        (
            "to-labels --divisor 256 --format tif --void 99",
            "from-labels --labels labels/combined --divisor 256 --void 99 --classes panoptic.json",
        ),
        (
            "to-labelme --images images",
            f"from-labelme --labels labels --stuff {' '.join(STUFF)}",
        ),
        (
            "to-cityscapes",
            "from-cityscapes --labels labels",
        ),
        (
            "to-cityscapes --label-suffix _ids --void 5",
            "from-cityscapes --labels labels --label-suffix _ids --void 5 "
            "--classes labels/classes.csv",
        ),
    ],
)
def test_there_and_back(convert, tmp_path, monkeypatch, capsys, there, back):
    source = write_random_set(tmp_path)
    made = PanopticSource(source.image_root, tmp_path / "made.json", tmp_path / "made")
    monkeypatch.chdir(tmp_path)
    assert convert(*there.split(), *inputs(source), "--output", "labels") == 0
    assert capsys.readouterr().out.startswith("labels: 2 pictures")
    assert convert(*back.split(), "--images", "images", *outputs(made)) == 0
    assert capsys.readouterr().out.startswith("2 pictures, 14 segments, ")
    assert sayings(made) == sayings(source)
    assert inspection(made).worst != "error"


def test_the_value_of_void_is_told(convert, tmp_path, capsys):
    source = write_random_set(tmp_path)
    assert convert("to-labels", *inputs(source), "--output", tmp_path / "labels") == 0
    assert capsys.readouterr().out.endswith("; void is class 0\n")


def test_an_error_is_told_without_a_traceback(convert, tmp_path, capsys):
    source = write_random_set(tmp_path)
    status = convert(
        "from-cityscapes", "--images", source.image_root, "--labels", source.panoptic_root,
        *outputs(PanopticSource(tmp_path, tmp_path / "made.json", tmp_path / "made")),
    )  # fmt: skip
    assert status == 2
    assert "holds no PNG or TIFF named '*_gtFine_instanceIds.*'." in capsys.readouterr().err
    assert not (tmp_path / "made.json").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["from-labels", "--instances", "i", "--divisor", "1000"],
        ["from-labels", "--divisor", "1"],
        ["from-labelme", "--classes", "c.csv", "--stuff", "road"],
        ["from-cityscapes", "--without-instance", "nothing"],
    ],
)
def test_impossible_options_are_refused(convert, options, capsys):
    needed = ["--images", "i", "--labels", "l", "--output-json", "j", "--output-pngs", "p"]
    if options[0] == "from-labels":
        needed += ["--classes", "c.csv"]
    with pytest.raises(SystemExit):
        convert(*options, *needed)
    assert "error: argument" in capsys.readouterr().err


def test_the_list_of_classes_is_never_written_to(convert, tmp_path, monkeypatch, capsys):
    source = write_random_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert convert("to-labels", *inputs(source), "--output", "labels") == 0
    before = source.panoptic_json.read_bytes()
    command = "from-labels --images images --labels labels/classes --classes panoptic.json"
    assert convert(*command.split(), *outputs(source), "--overwrite") == 2
    assert "panoptic.json: the output would replace an input" in capsys.readouterr().err
    assert source.panoptic_json.read_bytes() == before
