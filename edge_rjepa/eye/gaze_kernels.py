"""The inner loops of gaze.py: saccades, and what the map remembers of its cells.

A map (N_LAYERS, all cells) float32 holds what is remembered. cells (c,) are the numbers of those in
the picture; their middles (2, c) and boxes (4, c) are in pixels: x, y; left, top, right, bottom.
"""

from __future__ import annotations

import math

import numpy as np

from edge_rjepa.base.jit import jit

# Layers of the map.
APPEARANCE = 0  # the first of four: blue, green, red and contrast as remembered, grey levels
SEEN, USUAL, TRACE, PICTURE, FAST, SLOW, KNOWN = range(4, 11)
N_LAYERS = 11

MOST_SHRINK = 256  # so many rows of bytes add up to 16 bits
NOISE = 4.0  # grey levels: less contrast or change than this is none
WHOLE_VIEW = 4.0  # change counts less when all of the view changes: in units of its mean
SURPRISE_FAST, SURPRISE_SLOW = 0.3, 0.03  # rates of the running means at a place, a fixation


def shrunk(rows, shrink) -> np.ndarray:
    """Means (H // shrink, W // shrink, 3) float32 of the squares of a picture's rows (H, 3 W).

    shrink: a power of two, MOST_SHRINK at most.
    """
    height, width = len(rows) // shrink, rows.shape[1] // (3 * shrink)
    columns = np.empty(3 * width * shrink, np.uint16)
    sums = np.empty((2, len(columns)), np.uint32)
    means = np.empty((height, width, 3), np.float32)
    _fill_shrunk(rows, shrink, columns, *sums, means)
    return means


@jit
def _fill_shrunk(rows, shrink, columns, sums, wider, means):
    """Fill the means; columns, sums, wider (3 W,): to work in."""
    share = 1.0 / (shrink * shrink)
    for y in range(len(means)):
        # Long runs of neighbours, which the compiler can vectorise: down the columns first, then
        # across them, each with one to its right, and that with one twice as far, and so on.
        columns[:] = 0
        for row in rows[y * shrink : (y + 1) * shrink]:
            for j in range(len(columns)):
                columns[j] += row[j]
        for j in range(len(columns)):
            sums[j] = columns[j]
        right = 3
        while right < 3 * shrink:
            others = sums[right:]
            for j in range(len(others)):
                wider[j] = sums[j] + others[j]
            sums, wider = wider, sums
            right *= 2
        for x in range(means.shape[1]):
            for channel in range(3):
                means[y, x, channel] = share * sums[3 * shrink * x + channel]


# -- what is remembered ----------------------------------------------------------------------------


def changes(layers, cells, seen) -> np.ndarray:
    """How much cells differ from memory, beyond what the whole view does: (c,) float64, 0 .. 1.

    seen (4, c): what they look like now, as APPEARANCE. Not compiled: Numba takes as long to
    compile a median as all else of a plan.
    """
    difference = seen - layers[APPEARANCE : APPEARANCE + 4, cells]
    ordered, half = np.sort(difference, axis=1), len(cells) // 2
    medians = 0.5 * (ordered[:, half] + ordered[:, ~half])  # np.median takes four times as long
    difference -= medians[:, None]  # a light, or the camera's exposure
    changed = np.sqrt(np.square(difference).sum(axis=0))
    changed *= layers[SEEN, cells] > 0.0
    return changed / (changed + (WHOLE_VIEW * changed.mean() + NOISE))


@jit
def add_remembered(layers, cells, surprise, weights, priority):
    """Add surprise, progress and neglect of the cells, each times its weight, to priority (c,).

    surprise: number, mean and variance of all surprise so far.
    """
    _, mean, variance = surprise
    by_surprise, by_progress, by_neglect = weights
    scale = 1.0 / (math.sqrt(variance) + 1e-9)
    for j in range(len(cells)):
        cell = cells[j]
        fast, slow = layers[FAST, cell], layers[SLOW, cell]
        known = scale * layers[KNOWN, cell]
        priority[j] += by_surprise * math.tanh(known * (fast - mean))
        priority[j] += by_progress * math.tanh(known * (slow - fast))
        priority[j] += by_neglect * (1.0 - layers[TRACE, cell])


@jit
def remember(layers, cells, seen, changed, picture, attended, rates):
    """Take down what the picture showed at the cells, and where gaze has been: attended, 0 .. 1.

    seen (4, c), changed (c,): see `changes`. picture (c,): priority by salience and change. rates:
    shares of neglect, of what is known, of change and of habit that are renewed in a frame.
    """
    neglect, forgetting, change, habit = rates
    for cell in range(layers.shape[1]):
        layers[TRACE, cell] *= 1.0 - neglect
        layers[PICTURE, cell] *= 1.0 - forgetting
        layers[KNOWN, cell] *= 1.0 - forgetting
    for j in range(len(cells)):
        cell = cells[j]
        follow = max(attended[j], change) if layers[SEEN, cell] > 0.0 else 1.0
        for i in range(4):
            layer = APPEARANCE + i
            layers[layer, cell] += follow * (seen[i, j] - layers[layer, cell])
        layers[SEEN, cell] = 1.0
        layers[USUAL, cell] += habit * (changed[j] - layers[USUAL, cell])
        layers[TRACE, cell] = max(layers[TRACE, cell], attended[j])
        layers[PICTURE, cell] = picture[j]


@jit
def note_surprise(layers, cells, middles, pixels, surprise, mean, radius_px):
    """Running means of surprise (K,), in nats, at the cells about the pixels (K, 2).

    mean: of all surprise so far.
    """
    for j in range(len(cells)):
        total = value = 0.0
        for k in range(len(pixels)):
            x, y = middles[0, j] - pixels[k, 0], middles[1, j] - pixels[k, 1]
            near = max(1.0 - (x * x + y * y) / radius_px**2, 0.0)
            total += near
            value += near * surprise[k]
        if total > 0.0:
            cell = cells[j]
            value, weight = value / total, min(total, 1.0)
            fast, slow, known = layers[FAST, cell], layers[SLOW, cell], layers[KNOWN, cell]
            # What was half forgotten lies half way to the mean, and no progress is known of it.
            fast = mean + known * (fast - mean)
            fast += weight * max(SURPRISE_FAST, 1.0 - known) * (value - fast)
            slow = fast + known * (slow - fast)
            slow += weight * SURPRISE_SLOW * (value - slow)
            layers[FAST, cell], layers[SLOW, cell] = fast, slow
            layers[KNOWN, cell] += weight * (1.0 - known)


# -- saccades --------------------------------------------------------------------------------------


@jit
def refusal(x, y, recent, inhibition):
    """Probability that a saccade to pixel (x, y) is refused, after the places in recent (n, 2)."""
    memory, strength, decay, radius_px = inhibition
    most = 0.0
    for i in range(len(recent) - 1, max(len(recent) - 1 - memory, -1), -1):
        refused = strength * (
            1.0 - ((x - recent[i, 0]) ** 2 + (y - recent[i, 1]) ** 2) / radius_px**2
        )
        if refused > most:  # never true of a place behind the camera, which is NaN
            most = refused
        strength *= decay
    return most


@jit
def wander(start, bounds, draws, amplitude, inhibition, places):
    """Fill the last K rows of places (n, 2), whose first ones hold the places before.

    bounds: left, top, right, bottom px. draws, for the candidates (K, tries): normal lengths,
    turns and chances in 0 to 1; and where to go (K, 2) px when all candidates are refused.
    amplitude: mean and standard deviation of its logarithm, px.
    """
    left, top, right, bottom = bounds
    lengths, turns, chances, anywhere = draws
    log_mean, log_std = amplitude
    count, tries = chances.shape
    before = len(places) - count
    x, y = start
    for k in range(count):
        next_x, next_y = anywhere[k]
        recent = places[: before + k]
        for i in range(tries):
            amplitude_px = math.exp(log_mean + log_std * lengths[k, i])
            direction_rad = 2.0 * math.pi * turns[k, i]
            to_x = x + amplitude_px * math.cos(direction_rad)
            to_y = y + amplitude_px * math.sin(direction_rad)
            if left <= to_x <= right and top <= to_y <= bottom:
                if chances[k, i] >= refusal(to_x, to_y, recent, inhibition):
                    next_x, next_y = to_x, to_y
                    break
        x, y = next_x, next_y
        places[before + k, 0], places[before + k, 1] = x, y


@jit
def search(start, middles, boxes, priority, draws, free_share, law, room, attended, places):
    """Fill the last K rows of places (n, 2), whose first ones hold the places before.

    Cells are drawn by their priority (c,). Where gaze goes priority is taken away, and attended
    (c,) set, by 1 there and less towards the inhibition's radius. draws (K, 4) in 0 to 1: which
    cell, where in it, and, where below free_share, that the priority counts for nothing. law:
    amplitude as of `wander`, and inhibition. room (3, c): to work in.
    """
    (log_mean, log_std), inhibition = law
    radius_px = inhibition[3]
    areas, refused, weights = room
    for j in range(len(areas)):
        areas[j] = max(boxes[2, j] - boxes[0, j], 1e-3) * max(boxes[3, j] - boxes[1, j], 1e-3)
    before = len(places) - len(draws)
    x, y = start
    for k in range(len(draws)):
        _refusals(middles, places[: before + k], inhibition, refused)
        pull = 0.0 if draws[k, 3] < free_share else 1.0
        highest = -np.inf
        for j in range(len(weights)):
            squared = (middles[0, j] - x) ** 2 + (middles[1, j] - y) ** 2
            # No cell is nearer than a part of itself; the floor is for pictures of one pixel.
            log_length = 0.5 * math.log(max(squared, 0.1 * areas[j], 1e-6))
            z = (log_length - log_mean) / log_std
            # A log-normal length in any direction has this density in the plane.
            weights[j] = pull * priority[j] - 0.5 * z * z - 2.0 * log_length
            highest = max(highest, weights[j])
        total = 0.0
        for j in range(len(weights)):
            weights[j] = math.exp(weights[j] - highest) * (1.0 - refused[j]) * areas[j]
            total += weights[j]
        left = draws[k, 0] * total
        chosen = 0
        while chosen < len(weights) - 1 and left >= weights[chosen]:
            left -= weights[chosen]
            chosen += 1
        x = boxes[0, chosen] + draws[k, 1] * (boxes[2, chosen] - boxes[0, chosen])
        y = boxes[1, chosen] + draws[k, 2] * (boxes[3, chosen] - boxes[1, chosen])
        places[before + k, 0], places[before + k, 1] = x, y
        for j in range(len(weights)):
            near = 1.0 - ((middles[0, j] - x) ** 2 + (middles[1, j] - y) ** 2) / radius_px**2
            if near > 0.0:
                priority[j] *= 1.0 - near
                attended[j] = max(attended[j], near)


@jit
def _refusals(middles, recent, inhibition, refused):
    """`refusal` of many places (2, c) at once, place after place: so the compiler can vectorise."""
    memory, strength, decay, radius_px = inhibition
    refused[:] = 0.0
    for i in range(len(recent) - 1, max(len(recent) - 1 - memory, -1), -1):
        x, y = recent[i]
        for j in range(len(refused)):
            squared = (middles[0, j] - x) ** 2 + (middles[1, j] - y) ** 2
            each = strength * (1.0 - squared / radius_px**2)
            refused[j] = each if each > refused[j] else refused[j]
        strength *= decay
