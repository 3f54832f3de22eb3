"""Which thing is this? A classifier from one, five or ten labelled views of each.

    pip install scikit-learn
    edge-rjepa export runs/demo -o encoder.onnx
    python examples/few_examples.py encoder.onnx

The things are scikit-image's photographs before a simulated camera. A view of one may be from any
direction, nearer or further, in any light, and shows a part of it.
"""

import numpy as np
from simulated import dim_and_warm, kinds_of_rows, photographs, view
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

EXAMPLES, ASKED = (1, 5, 10), 20  # of each thing
DRAWS = 3  # of the examples, which the shares are means of


def main() -> None:
    kinds = kinds_of_rows()
    rng = np.random.default_rng(0)
    views, things = [], []
    for thing, wall in enumerate(photographs()):
        for _ in range(DRAWS * max(EXAMPLES) + ASKED):
            pan_deg, tilt_deg, closer = (
                rng.uniform(-25, 25),
                rng.uniform(-12, 12),
                rng.uniform(1, 2),
            )
            views.append(view(wall, pan_deg, tilt_deg, closer, dim_and_warm(rng)))
            things.append(thing)
    number = np.arange(len(views)) % (DRAWS * max(EXAMPLES) + ASKED)  # of the view, for its thing
    things, ask = np.array(things), number >= DRAWS * max(EXAMPLES)

    print(f"{thing + 1} things, {ask.sum()} views to tell; chance {1 / (thing + 1):.2f}")
    print(f"{'share told':<26}" + "".join(f"{f'{n} examples':>13}" for n in EXAMPLES))
    for name, row_of in kinds.items():
        rows = np.array([row_of(picture) for picture in views])
        shares = []
        for count in EXAMPLES:
            scores = []
            for first in range(0, DRAWS * count, count):
                fit = (number >= first) & (number < first + count)
                classifier = make_pipeline(
                    StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)
                )
                classifier.fit(rows[fit], things[fit])
                scores.append(classifier.score(rows[ask], things[ask]))
            shares.append(np.mean(scores))
        print(f"{name:<26}" + "".join(f"{share:>13.2f}" for share in shares))


if __name__ == "__main__":
    main()
