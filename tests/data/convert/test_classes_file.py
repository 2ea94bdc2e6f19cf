import json

import pytest

from rpanoptic.data.convert.classes_file import read_classes, write_classes
from rpanoptic.data.panoptic_classes import ClassTable, PanopticClass, default_color
from rpanoptic.errors import DatasetError

CLASSES = ClassTable(
    (
        PanopticClass(0, 'road, "wet"', False, (128, 64, 128)),
        PanopticClass(7, "Käfer", True, default_color(0, isthing=True)),
    )
)
JSON = [
    {"id": 7, "name": "Käfer", "isthing": True, "extra": [1]},
    {"id": 0, "name": 'road, "wet"', "isthing": 0, "color": [128, 64, 128]},
]
YAML = """
- {id: 7, name: Käfer, isthing: yes}
- id: 0
  name: 'road, "wet"'
  isthing: false
  color: "#804080"
"""
CSV = '\ufeffid,name,isthing,color\n7, Käfer,1,\n0,"road, ""wet""",False,#804080\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.json", json.dumps(JSON)),
        ("panoptic.JSON", json.dumps({"images": [], "categories": JSON})),
        ("classes.yaml", YAML),
        ("classes.yml", "categories:" + YAML),
        ("classes.csv", CSV),
    ],
)
def test_classes_are_read_from_each_kind_of_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_classes(tmp_path / name) == CLASSES


@pytest.mark.parametrize("name", ["plain", " blanks about ", "two\nlines", "a,b", '"'])
@pytest.mark.parametrize("number", [-1, 3, -(2**63), 2**63 - 1])
def test_what_is_written_is_read_again(tmp_path, name, number):
    one = PanopticClass(number, name, True, (1, 2, 3))
    classes = ClassTable(tuple(sorted((*CLASSES.classes, one))))
    write_classes(tmp_path / "classes.csv", classes)
    assert read_classes(tmp_path / "classes.csv") == classes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "seven"}, "class 2 of the list must have a whole number as 'id'"),
        ({"id": True}, "class 2 of the list must have a whole number as 'id', got True"),
        ({"id": 0}, "class 2 of the list has the id 0 of an entry before it"),
        ({"name": " "}, "class 2 of the list must have a name as 'name', got ' '"),
        ({"isthing": 2}, "class 2 of the list must have 0 or 1 as 'isthing', got 2"),
        ({"isthing": "thing"}, "class 2 of the list must have 0 or 1 as 'isthing', got 'thing'"),
        ({"color": "red"}, "class 2 of the list must have '#rrggbb' or R, G, B"),
        ({"color": [0, 0, 256]}, "class 2 of the list must have '#rrggbb' or R, G, B"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, change, message):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps([JSON[1], {**JSON[0], **change}]))
    with pytest.raises(DatasetError) as caught:
        read_classes(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "", "a file of classes ends in .json, .yaml, .yml, .csv"),
        ("classes.json", "{", "no list of classes ("),
        ("classes.json", "[]", "no list of classes, nor"),
        ("classes.json", "[" * 100_000, "no list of classes ("),
        ("classes.json", '[{"id": 1, "name": "a"}]', "class 1 of the list lacks 'isthing'"),
        ("classes.json", '["a"]', "class 1 of the list must be an object, got 'a'"),
        ("classes.yaml", "!!python/object/apply:os.getcwd []", "no list of classes ("),
        (
            "classes.csv",
            "id;name;isthing\n1;a;0\n",
            "no list of classes (its first line must name the columns id, name, isthing",
        ),
        ("classes.csv", 'id,name,isthing\n1,"a,0\n', "no list of classes ("),
    ],
)
def test_another_file_is_no_list_of_classes(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError) as caught:
        read_classes(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.csv: cannot be read \(No such file"):
        read_classes(tmp_path / "none.csv")
