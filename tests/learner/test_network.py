"""The table of the network's arrays: its notation, and that nobody has other names or shapes."""

import dataclasses
import inspect
import re
from typing import Annotated

import numpy as np
import pytest

from benchmarks import peers
from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.learner import network, reference
from edge_rjepa.learner.cells import CELLS, find
from edge_rjepa.learner.engines.cpu import CpuEngine, Stream
from edge_rjepa.learner.kernels import arrays
from edge_rjepa.learner.kernels.cuda import arrays as cuda_arrays
from edge_rjepa.learner.kernels.cuda.tiles import GPU

SIZES = {
    "n_features": 11,
    "n_efference": 3,
    "n_embedding": 7,
    "n_hidden": 13,
    "n_predictor": 17,
    "n_gain": 5,
    "max_block": 4,
}
every_cell = pytest.mark.parametrize("cell", list(CELLS))
every_input = pytest.mark.parametrize("memory_input", ["embedding", "features"])
every_encoder = pytest.mark.parametrize("n_encoder_hidden", [0, 6], ids=["shallow", "deep"])


def network_of(cell="rtu", memory_input="embedding", n_encoder_hidden=6):
    config = RJepaConfig(
        **SIZES, cell=cell, memory_input=memory_input, n_encoder_hidden=n_encoder_hidden
    )
    return config, find(cell)


def workspaces(config, cell):
    """One of each device, both in this computer's memory; the GPU's for one stream."""
    return (
        arrays.zero_workspace(config, cell),
        cuda_arrays.workspace(config, cell, 1, np.zeros),
    )


def with_whole_lines(name, shape):
    """The shape on the CPU: 16 numbers of float32 fill a line of its cache."""
    in_lines = name in arrays.WHOLE_LINES
    return (*shape[:-1], -(-shape[-1] // 16) * 16) if in_lines else shape


def with_room(name, shape, config):
    """The shape on the CPU of what a block of max_block fixations makes."""
    if name in arrays.KEPT:
        fixations, blocks = arrays.room(config)
        before = shape[0] - config.max_block
        shape = (fixations + before * (1 + blocks), *shape[1:])
    return with_whole_lines(name, shape)


def test_a_declared_shape_is_sums_and_products_of_symbols():
    class Group:
        matrix: Annotated[network.Array, "K+1 G*n_h 1"]
        number: Annotated[network.Array, "K"]
        other: int

    n = network.sizes(*network_of())
    assert network.shapes(Group, n) == {"matrix": (5, 2 * 13, 1), "number": (4,)}


def test_what_a_symbol_is_that_no_network_has_is_an_error():
    class Group:
        array: Annotated[network.Array, "n_q"]

    with pytest.raises(ValueError, match="n_q"):
        network.shapes(Group, network.sizes(*network_of()))


@every_cell
@every_input
@every_encoder
def test_both_devices_have_the_arrays_of_the_table(cell, memory_input, n_encoder_hidden):
    config, cell = network_of(cell, memory_input, n_encoder_hidden)
    shapes = network.shapes(network.Activations, network.sizes(config, cell))
    ours, gpus = workspaces(config, cell)
    for name, shape in shapes.items():
        assert getattr(ours, name).shape == with_room(name, shape, config), name
        assert getattr(gpus, name).shape == (1, *shape), name
    weights, gpu_weights = (
        arrays.zero_weights(config, cell, 0),
        cuda_arrays.weights(config, cell, 1, np.zeros),
    )
    for name, shape in network.weight_shapes(config, cell).items():
        assert getattr(weights, name).shape == with_whole_lines(name, shape), name
        if np.prod(shape):
            assert getattr(gpu_weights, name).size == np.prod(shape), name
        else:
            assert name == "W_x" and n_encoder_hidden == 0
            assert getattr(gpu_weights, name) is None and gpus.d_hidden is None


@every_encoder
def test_what_ends_with_1_does_so_but_for_the_fixation_before(n_encoder_hidden):
    config, cell = network_of(n_encoder_hidden=n_encoder_hidden)
    ours, gpus = workspaces(config, cell)
    start = cuda_arrays.constant_ones(gpus)
    assert start.keys() == set(network.END_WITH_1)
    for name in network.END_WITH_1:
        array = getattr(ours, name)
        before = {"x": 1, "hidden": 1}.get(name, 0)  # rows of no fixation, without a 1
        assert network.first_row_with_1(name) == before == len(start[name][0]) - config.max_block
        last = start[name].shape[-1] - 1
        assert not array[:before].any() and (array[before:, last] == 1).all(), name
        assert not np.delete(array, last, axis=1).any(), name
        of_block = array[None, : before + config.max_block, : last + 1]
        np.testing.assert_array_equal(start[name], of_block, err_msg=name)


@every_cell
@every_input
@every_encoder
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_fills_up_rows_stays_zero_and_is_not_handed_out(
    cell, memory_input, n_encoder_hidden, dtype
):
    config = RJepaConfig(
        **SIZES, cell=cell, memory_input=memory_input, n_encoder_hidden=n_encoder_hidden,
        dtype=dtype, update_every=2,
    )  # fmt: skip
    stream = Stream(config, find(cell))
    learner, rng = RJepa(config, engine=CpuEngine([stream])), np.random.default_rng(0)
    learner.set_parameters({n: rng.normal(size=a.shape) for n, a in learner.parameters().items()})
    for K in (4, 1, 3, 2, 4):
        learner.learn_block(rng.normal(size=(K, 11)), rng.normal(size=(K, 3)))
    assert learner.gradient_sums()["W"].any()
    groups = [stream.weights, stream.gradient, stream.m2, stream.traces, stream.workspace]
    for group in groups:
        n = network.shapes(type(group), network.sizes(config, find(cell)))
        for name in n.keys() & arrays.WHOLE_LINES:
            assert not getattr(group, name)[..., n[name][-1] :].any(), name
        for name in n.keys() - arrays.WHOLE_LINES:
            found, rows = getattr(group, name).shape, name in arrays.KEPT
            if name in arrays.KEPT_BLOCKWISE:
                assert found == (arrays.room(config).blocks, *n[name]), name
            else:
                assert found == (with_room(name, n[name], config) if rows else n[name]), name
    for name, array in learner.tensors().items():  # `moved` is zero if statistics were just renewed
        assert array.any() or name == "statistics.moved" or not array.size, name
    flat = learner.tensors()["weights"]
    np.testing.assert_array_equal(arrays.packed(stream.weights, config, find(cell)), flat)
    other = arrays.zero_weights(config, find(cell), 0)
    arrays.unpack(flat, other, config, find(cell))
    np.testing.assert_array_equal(other.flat, stream.weights.flat)


@every_input
@every_encoder
def test_a_matrix_and_what_it_reads_have_rows_of_one_length(memory_input, n_encoder_hidden):
    """Products do not look: they would read beyond the shorter."""
    config, cell = network_of(memory_input=memory_input, n_encoder_hidden=n_encoder_hidden)
    weights = arrays.shapes(network.Weights, config, cell)
    read = arrays.shapes(arrays.Workspace, config, cell)
    for layer in network.layers(config):
        assert weights[layer.matrix][-1] == read[layer.reads][-1], layer
        assert (layer.matrix in arrays.WHOLE_LINES) == (layer.reads in arrays.WHOLE_LINES), layer


def test_rows_of_matrices_start_at_cache_lines():
    config, cell = network_of()
    rows = [arrays.zero_weights(config, cell, i).W for i in range(3)]
    workspace = arrays.zero_workspace(config, cell)
    rows += [workspace.c, workspace.x, arrays.zero_traces(config, cell).E]
    for array in rows:
        assert array.ctypes.data % 64 == 0 and array.strides[-2] % 64 == 0


@every_cell
@every_encoder
@pytest.mark.parametrize("kept", [(0, 0), (3, 2)])
def test_a_block_s_rows_are_views_of_the_workspace_after_what_is_kept(cell, n_encoder_hidden, kept):
    config, cell = network_of(cell, n_encoder_hidden=n_encoder_hidden)
    workspace, kept = arrays.zero_workspace(config, cell), arrays.Kept(*kept)
    two = arrays.rows(workspace, 2, kept)
    before = arrays.kept_rows(workspace, kept)
    for name in (field.name for field in dataclasses.fields(workspace)):
        whole, part = getattr(workspace, name), getattr(two, name)
        assert np.shares_memory(whole, part) or not whole.size, name
        if name in arrays.KEPT_BLOCKWISE:
            assert part.shape == whole.shape[1:], name
            assert np.shares_memory(whole[kept.blocks], part), name
            continue
        assert part.shape[1:] == whole.shape[1:], name
        axis = network.declarations(arrays.Workspace).get(name, "").partition(" ")[0]
        assert len(part) == {"K": 2, "K+1": 3}.get(axis, len(whole)), name
        if name in arrays.KEPT:
            first = kept.fixations + (kept.blocks if axis == "K+1" else 0)
            assert len(getattr(before, name)) == first, name
            assert np.shares_memory(whole[first], part[0]) or not whole.size, name


def test_blocks_of_any_lengths_are_learned_without_a_look_at_the_table(monkeypatch):
    """To work its shapes out takes as long as a small network's block."""
    config, _ = network_of()
    learner = RJepa(config)
    monkeypatch.delattr(network, "shapes")
    for K in (1, 3, 2, 4, 1):
        learner.learn_block(np.ones((K, 11)), np.ones((K, 3)))
    assert learner.fixations == 11


@every_encoder
def test_weights_lie_in_the_order_of_the_table(n_encoder_hidden):
    config, cell = network_of(n_encoder_hidden=n_encoder_hidden)
    flat = np.arange(network.count_weights(config, cell))
    parts = network.weights_in(flat, config, cell)
    assert tuple(parts) == network.WEIGHTS == arrays.Weights._fields[1:]
    assert np.concatenate([part.ravel() for part in parts.values()]).tolist() == flat.tolist()
    empty = {name for name, part in parts.items() if not np.shares_memory(part, flat)}
    assert empty == (set() if n_encoder_hidden else {"W_x"})


@every_input
@every_encoder
def test_every_layer_fits_what_it_reads_and_what_it_makes(memory_input, n_encoder_hidden):
    config, cell = network_of(memory_input=memory_input, n_encoder_hidden=n_encoder_hidden)
    n = network.sizes(config, cell)
    weights = network.weight_shapes(config, cell)
    activations = network.shapes(cuda_arrays.Workspace, n)
    layers = network.layers(config)
    with_arrays = {name for name, shape in weights.items() if np.prod(shape)}
    assert {layer.matrix for layer in layers} == with_arrays - {"lam"}
    for layer in layers:
        *_, columns = weights[layer.matrix]
        assert activations[layer.reads][1] == columns, layer
        assert layer.reads in network.END_WITH_1, layer
        assert layer.encoder == (layer.matrix in network.ENCODER), layer
    assert set(layers) - set(network.layers_without_past(config)) == {network.RECURRENT}
    for layer in network.layers_without_past(config):
        assert activations[layer.d_out] == (
            config.max_block + layer.encoder,
            weights[layer.matrix][0],
        ), layer


@every_encoder
def test_only_a_hidden_layer_reads_the_features_in_its_place(n_encoder_hidden):
    """In the order of the forward pass; what is read comes from before."""
    config, _ = network_of(n_encoder_hidden=n_encoder_hidden)
    reads = {layer.matrix: layer.reads for layer in network.layers(config)}
    encoder = {"W_x": "x", "W_z": "hidden"} if n_encoder_hidden else {"W_z": "x"}
    assert list(reads.items())[: len(encoder)] == list(encoder.items())
    assert list(reads)[len(encoder) :] == ["W", "G_a", "G_b", "V_1", "V_2", "V_3"]
    back = {layer.matrix for layer in network.layers(config) if layer.passes_back}
    assert back - {"G_b", "V_1", "V_2", "V_3"} == ({"W_z"} if n_encoder_hidden else set())


def test_a_hidden_layer_starts_at_unit_variance_and_the_embedding_small():
    config, cell = RJepaConfig(n_features=50, n_encoder_hidden=400, n_embedding=100), find("gated")
    flat = network.initial_weights(config, cell, np.random.default_rng(0))
    parts = network.weights_in(flat, config, cell)
    W_x, W_z = parts["W_x"][:, :-1], parts["W_z"][:, :-1]
    assert W_x.shape == (400, 50) and W_z.shape == (100, 400)
    assert W_x.std() * 50**0.5 == pytest.approx(1.0, rel=0.05)
    assert W_z.std() * 400**0.5 == pytest.approx(network.ENCODER_GAIN, rel=0.05)
    assert not parts["W_x"][:, -1].any() and not parts["W_z"][:, -1].any()


@every_encoder
def test_the_gpu_takes_its_steps_from_where_the_arrays_are(n_encoder_hidden):
    config, cell = network_of(n_encoder_hidden=n_encoder_hidden)
    weights = cuda_arrays.weights(config, cell, 2, np.zeros)
    workspace = cuda_arrays.workspace(config, cell, 2, np.zeros)
    table = cuda_arrays.descent_table(config, weights, workspace, GPU)
    layers = network.layers_without_past(config)
    assert len(table) == len(layers) + 1 == (8 if n_encoder_hidden else 7)

    def place(group, array):
        return (array.ctypes.data - group.flat.ctypes.data) // array.itemsize

    rows = {tuple(row[3:]) for row in table[:-1].tolist()}
    assert rows == {
        (
            place(weights, getattr(weights, layer.matrix)),
            place(workspace, getattr(workspace, layer.d_out)),
            getattr(workspace, layer.d_out).shape[1],
            place(workspace, getattr(workspace, layer.reads)),
            getattr(workspace, layer.reads).shape[1],
            1 if layer.encoder else 0,
            cuda_arrays.ADAM_ENCODER if layer.encoder else cuda_arrays.ADAM,
        )
        for layer in layers
    }
    sizes = [row[1] * row[2] for row in table.tolist()]
    assert sizes == sorted(sizes, reverse=True)


# ------------------------------------------------------------------------------------------------
# Those that are written apart: they share no code, but names and shapes


@every_cell
@every_input
@every_encoder
def test_the_reference_has_the_arrays_of_the_table(cell, memory_input, n_encoder_hidden):
    """Its documented shapes; and it runs with weights of those shapes."""
    config, registered = network_of(cell, memory_input, n_encoder_hidden)
    _, components, reads = reference.CELLS[cell]
    assert (components, reads) == (registered.n_state, registered.reads)
    symbols = network.sizes(config, registered)._asdict()
    text = inspect.getdoc(reference.NaiveModel).partition("parameters:")[2].partition("cell:")[0]
    found = {
        name: tuple(eval(length, {}, symbols) for length in shape.split(", "))
        for name, shape in re.findall(r"(\w+) \(([^)]+)\)", text)
    }
    assert found == network.weight_shapes(config, registered)
    model = reference.NaiveModel(RJepa(config).parameters(), cell, memory_input, 1.0, 40.0)
    (result,) = model.run([(np.ones((2, 11)), np.ones((2, 3)), False)])
    assert result.h.shape == (2, symbols["n_r"]) and result.z.shape == (2, 7)


@every_encoder
def test_the_peers_have_the_arrays_of_the_table(n_encoder_hidden):
    config = RJepaConfig(**SIZES, n_encoder_hidden=n_encoder_hidden)
    assert {*peers.LAYERS, "lam"} == set(network.WEIGHTS)
    rtrl = peers.RtrlPeer(config, RJepa(config).parameters())
    rtrl.learn_block(np.ones((1, 11)), np.ones((1, 3)))
    shapes = network.weight_shapes(config, find(config.cell))
    for arrays_of in (rtrl.parameters(), rtrl.last_gradients()):
        assert {name: array.shape for name, array in arrays_of.items()} == shapes
