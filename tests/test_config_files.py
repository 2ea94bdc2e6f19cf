"""Config files by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpanoptic.config_files import (
    configs_folder,
    detectron2_config_file,
    find_config_file,
    is_detectron2s_own,
    list_config_files,
    own_config_file,
    zoo_file,
)
from rpanoptic.engine import setup_config
from rpanoptic.errors import ConfigError
from tests.paths import CONFIGS

OURS = "coco_panoptic/R50/crbp20.yaml"
DETECTRON2S = "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"


def test_a_checkouts_own_files_are_listed_without_the_bases() -> None:
    assert configs_folder() == CONFIGS
    names = list_config_files()
    assert OURS in names and "synthetic_panoptic_crbp.yaml" in names
    assert names == sorted(names)
    assert not [name for name in names if "_base_" in name]


def test_both_zoos_are_searched() -> None:
    assert find_config_file(OURS) == own_config_file(OURS) == CONFIGS / OURS
    file = find_config_file(DETECTRON2S)
    assert file == detectron2_config_file(DETECTRON2S)
    assert file.is_file()
    assert is_detectron2s_own(file) and not is_detectron2s_own(CONFIGS / OURS)


def test_bases_name_either_zoo() -> None:
    assert zoo_file(f"detectron2://{DETECTRON2S}") == detectron2_config_file(DETECTRON2S)
    for name in (OURS, "_base_/crbp20_mask_head.yaml"):
        assert zoo_file(f"rpanoptic://{name}") == CONFIGS / name
    assert zoo_file("../_base_/panoptic_fpn.yaml") is None
    assert zoo_file("https://example.com/base.yaml") is None


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (own_config_file, "coco_panoptic/R50/cbp20.yaml", f"rpanoptic has no .*Close.*{OURS}"),
        (own_config_file, "../configs/synthetic_panoptic_crbp.yaml", "rpanoptic has no config"),
        (detectron2_config_file, "panoptic_fpn_R_50_1x.yaml", f"Detectron2 has no .*{DETECTRON2S}"),
        (find_config_file, "panoptic_fpn_R_50_1x.yaml", f"neither .* nor .*{DETECTRON2S}"),
        (find_config_file, "crbp20.yaml", f"neither .* nor .*{OURS}"),
        (zoo_file, "detectron2://COCO-Panoptic/x.yaml", "Detectron2 has no config"),
    ],
)
def test_unknown_names_list_the_closest(find, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(name)


@pytest.mark.parametrize("find", [own_config_file, detectron2_config_file, find_config_file])
@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../../__init__.py",
        f"../configs/{DETECTRON2S}",
        f"./{DETECTRON2S}",
        "COCO-PanopticSegmentation",
        ".",
        "",
    ],
)
def test_a_path_is_no_name(find, name: str) -> None:
    with pytest.raises(ConfigError, match=f"config {name!r}"):
        find(name)


@pytest.mark.parametrize("name", ["/etc/passwd", "../../__init__.py", "COCO-Detection", ""])
def test_a_base_is_no_path_in_a_zoo(tmp_path: Path, name: str) -> None:
    config = tmp_path / "c.yaml"
    for scheme in ("detectron2", "rpanoptic"):
        config.write_text(f'_BASE_: "{scheme}://{name}"\n')
        with pytest.raises(ConfigError, match=f"c.yaml: _BASE_ '{scheme}://{name}'.* no config"):
            setup_config(config)
    config.write_text('_BASE_: "detectron2://panoptic_fpn_R_50_1x.yaml"\n')
    with pytest.raises(ConfigError, match=f"Close names: {DETECTRON2S}"):
        setup_config(config)
