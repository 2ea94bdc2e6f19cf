from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from rpanoptic.engine import setup_config
from rpanoptic.errors import ConfigError
from rpanoptic.pathfinder.imagenet import graph_picture
from rpanoptic.pathfinder.imagenet.graph_picture import graph_figure
from rpanoptic.visualization.style import ORANGE, save_figure
from tests.pathfinder.imagenet.models.tiny import CLASSIFIER, CONVRNN, RESNET, config
from tests.paths import ROOT

LAYERS = [
    {"name": "conv1", "channels": 4, "stride": 2},
    {"name": "conv2", "channels": 5, "cell": "conv_gru"},
    {"name": "conv3", "channels": 6, "cell": {"name": "time_decay"}},
]


def arguments(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    """What :func:`draw_graph` is called with for a tiny config."""
    found: dict[str, Any] = {}

    def draw(graph: Any, size: Any, **options: Any) -> None:
        found.update(options, graph=graph, size=size)

    monkeypatch.setattr(graph_picture, "draw_graph", draw)
    graph_figure(config(**changes))
    return found


def test_what_a_classifier_is_drawn_with(monkeypatch: pytest.MonkeyPatch) -> None:
    found = arguments(
        monkeypatch,
        RPANOPTIC__CLASSIFICATION__SIZE=16,
        **{
            f"{CONVRNN}LAYERS": LAYERS,
            f"{CONVRNN}GRADIENT": "bptt",
            f"{CONVRNN}IMAGE_STEPS": 3,
            f"{CONVRNN}CONNECTION__NONLINEARITY": "elu",
            f"{CLASSIFIER}POOL": True,
        },
    )
    assert found["size"] == (16, 16)
    assert found["cells"] == {"conv2": "conv_gru", "conv3": "time_decay"}
    assert found["connection"] == "1 × 1 convolution, elu, add"
    assert found["readout"] == "4 classes\npooled, linear"
    unrolling = found["unrolling"]
    assert (unrolling.steps, unrolling.first, unrolling.delay) == (5, 0, 1)
    assert unrolling.image_steps == 3
    # In training a "last" decoder sees one readout.
    assert unrolling.readouts == {"conv3": (5,)}
    assert unrolling.needed["conv2"] == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"READOUT_STEPS": [3, 5]}, (3, 5)),
        ({"STEP_LOSS": True}, (2, 3, 4, 5)),
        ({"DECODER": "mean"}, (2, 3, 4, 5)),
    ],
)
def test_the_readouts_that_training_sees(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], steps: tuple[int, ...]
) -> None:
    options = {f"{CLASSIFIER}{name}": value for name, value in changes.items()}
    found = arguments(monkeypatch, **{f"{CONVRNN}GRADIENT": "bptt"}, **options)
    assert found["unrolling"].readouts == {"conv3": steps}


def test_a_cell_that_takes_the_feedback_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = "general_reciprocal_gated"
    layers = [layer | ({"cell": cell} if "cell" in layer else {}) for layer in LAYERS]
    found = arguments(monkeypatch, **{f"{CONVRNN}LAYERS": layers})
    assert found["connection"] == "1 × 1 convolution, into the cell"


def test_a_detectors_outputs_are_read_where_they_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "MODEL__META_ARCHITECTURE": "GeneralizedRCNN",
        "INPUT__MIN_SIZE_TEST": 64,
        f"{CONVRNN}OUT_FEATURES": ["conv1", "conv2", "conv3"],
    }
    found = arguments(monkeypatch, **changes)
    assert found["size"] == (64, 64) and found["readout"] == ""
    assert found["unrolling"].readouts == {"conv2": (5,), "conv3": (5,)}
    mean = {f"{CONVRNN}READOUT": "mean", f"{CONVRNN}GRADIENT": "bptt"}
    found = arguments(monkeypatch, **changes, **mean)
    assert found["unrolling"].readouts == {"conv2": (1, 2, 3, 4, 5), "conv3": (2, 3, 4, 5)}


def test_a_network_without_cells_and_feedback() -> None:
    layers = [layer | {"cell": False} for layer in LAYERS]
    changes = {f"{CONVRNN}LAYERS": layers, f"{CONVRNN}FEEDBACK": []}
    figure = graph_figure(config(**changes), title="feed-forward")
    assert len(figure.axes) == 1 and figure.get_suptitle() == "feed-forward"


def test_a_narrow_figure_has_its_whole_legend_and_all_colors(tmp_path: Path) -> None:
    cfg = setup_config(ROOT / "configs" / "imagenet" / "digits" / "reciprocal_gated.yaml")
    figure = graph_figure(cfg)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    # Beside a few thick boxes, the thin lines of feedback keep their colour.
    file = save_figure(tmp_path / "graph.png", figure, colors=64)
    with Image.open(file) as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(256)}
    orange = [round(255 * part) for part in to_rgb(ORANGE)]
    assert min(max(abs(a - b) for a, b in zip(color, orange, strict=True)) for color in colors) < 12


def test_a_published_config_draws() -> None:
    cfg = setup_config(ROOT / "configs" / "imagenet" / "shallow" / "time_decay.yaml")
    figure = graph_figure(cfg, size=(128, 128))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "512 × 4 × 4" in texts and texts.count("↻ time decay") == 3
    assert len(figure.axes) == 2


def test_a_backbone_that_is_no_convrnn() -> None:
    message = "MODEL.BACKBONE.NAME: build_torchvision_resnet_backbone is no ConvRNN"
    with pytest.raises(ConfigError, match=f"{message}.*build_convrnn_backbone"):
        graph_figure(config(**RESNET))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{CLASSIFIER}READOUT_STEPS": [1]}, "MODEL.CLASSIFIER: readout_steps"),
        ({f"{CONVRNN}LAYERS": [{"name": "conv1"}]}, "MODEL.RECURRENT.CONVRNN.LAYERS"),
    ],
)
def test_impossible_keys(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        graph_figure(config(**{f"{CONVRNN}GRADIENT": "bptt"} | changes))
