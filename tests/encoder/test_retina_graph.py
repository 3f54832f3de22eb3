"""The retina as a graph: what it says of hard windows, under both readers."""

import numpy as np
import pytest
from onnx import TensorProto

from edge_rjepa.encoder.onnx_graph import Graph, node
from edge_rjepa.encoder.parity import TOLERANCE, onnxruntime_reader, opencv_reader
from edge_rjepa.encoder.retina_graph import features_of
from edge_rjepa.eye.config import RetinaConfig
from edge_rjepa.eye.retina import Retina


def graph_of(retina):
    """Windows in, features out."""
    graph, side = Graph(), retina.config.window_px
    windows = graph.input("window", ["N", side, side, 3], "", TensorProto.UINT8)
    features = features_of(retina, node("Cast", windows, to=TensorProto.FLOAT))
    graph.output("features", features, ["N", retina.n_features], "")
    return graph.model("test", "1")


def hard_windows(side):
    """Every corner of the cube of colours, flat; checks and stripes; noise, dark and bright."""
    rng = np.random.default_rng(0)
    flat = [np.full((side, side, 3), 255) * np.array(corner) for corner in np.ndindex(2, 2, 2)]
    flat += [np.full((side, side, 3), grey) for grey in (1, 100, 128, 254)]
    places = np.arange(side)
    for px in (1, 2, 4, 8, 16):
        checks = np.add.outer(places // px, places // px) % 2 * 255
        stripes = np.broadcast_to(places // px % 2 * 255, (side, side))
        flat += [each[..., None] * np.array(c) for each in (checks, stripes, stripes.T)
                 for c in ((1, 1, 1), (0, 0, 1))]  # fmt: skip
    noise = [rng.integers(low, 256, (8, side, side, 3)) for low in (0, 252)]
    noise += [rng.integers(0, 4, (8, side, side, 3))]
    return np.concatenate([flat, *noise]).astype(np.uint8)


@pytest.mark.parametrize("open_reader", [onnxruntime_reader, opencv_reader])
@pytest.mark.parametrize(
    "config",
    [
        RetinaConfig(),
        RetinaConfig(colour_codes=0),
        RetinaConfig(colour_codes=5, orientation_scales=0),
        RetinaConfig(orientation_scales=4, orientation_parts=1),
        RetinaConfig(window_px=32, fovea_px=8, surround_cells=8, colour_cells=4, fovea_degree=4,
                     surround_degree=4, colour_degree=2),
    ],
)  # fmt: skip
def test_the_graph_is_the_retina(config, open_reader):
    retina = Retina(config)
    windows = hard_windows(config.window_px)
    middle = [[config.window_px // 2] * 2]
    wanted = np.vstack([retina(window, middle) for window in windows])
    read = open_reader(graph_of(retina))
    found = [read({"window": window[None]})["features"].reshape(1, -1) for window in windows]
    np.testing.assert_allclose(np.vstack(found), wanted, rtol=0, atol=TOLERANCE)
