"""Is this the same place, seen from elsewhere and in other light?

    edge-rjepa export runs/demo -o encoder.onnx
    python examples/find_place.py encoder.onnx

A simulated camera on a pan-tilt head stands before one photograph after another; the photographs
come with scikit-image. At each it looks in five directions: these views are what the robot knows.
Later it comes back. It looks elsewhere, stands closer, and the light is dimmer and warmer. The
known view with the largest product of rows (a plain cosine) says which place it is.
"""

import numpy as np
from simulated import dim_and_warm, kinds_of_rows, photographs, view

KNOWN_DEG = [(0, 0), (-8, -4), (8, -4), (-8, 4), (8, 4)]  # pan, tilt
PAN_DEG, TILT_DEG = 14, 8  # asked from -PAN_DEG to PAN_DEG, beyond what is known
CLOSER = 1.3
ASKED = 10  # at each place
CONDITIONS = ("other direction", "and closer", "and other light", "all three")


def main() -> None:
    kinds = kinds_of_rows()
    rng = np.random.default_rng(0)
    known, asked, places = [], {condition: [] for condition in CONDITIONS}, []
    for place, wall in enumerate(photographs()):
        known += [(place, view(wall, *head)) for head in KNOWN_DEG]
        for _ in range(ASKED):
            head = rng.uniform(-PAN_DEG, PAN_DEG), rng.uniform(-TILT_DEG, TILT_DEG)
            light = dim_and_warm(rng)
            asked["other direction"].append(view(wall, *head))
            asked["and closer"].append(view(wall, *head, CLOSER))
            asked["and other light"].append(view(wall, *head, 1.0, light))
            asked["all three"].append(view(wall, *head, CLOSER, light))
            places.append(place)

    print(f"{len(known)} known views of {place + 1} places, {len(places)} views to find each time")
    print(f"{'share found':<26}" + "".join(f"{condition:>17}" for condition in CONDITIONS))
    for name, row_of in kinds.items():
        rows = np.array([row_of(picture) for _, picture in known])
        shares = []
        for pictures in asked.values():
            likeness = np.array([row_of(picture) for picture in pictures]) @ rows.T
            found = [known[i][0] for i in likeness.argmax(axis=1)]
            shares.append(np.mean(np.equal(found, places)))
        print(f"{name:<26}" + "".join(f"{share:>17.2f}" for share in shares))


if __name__ == "__main__":
    main()
