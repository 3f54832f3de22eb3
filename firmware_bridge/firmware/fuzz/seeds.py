"""Writes the fuzzer's first inputs: every golden frame, and a session made of all of them.

python3 seeds.py VECTORS.json FOLDER
"""

import json
import sys
from pathlib import Path

RAW, FRAME, WAIT = 0, 1, 2  # operations of fuzz.c


def main(vectors: Path, folder: Path) -> None:
    golden = json.loads(vectors.read_text(encoding="utf-8"))
    payloads = [bytes.fromhex(each["payload"]) for each in golden["requests"]]
    broken = [bytes.fromhex(each["frame"]) for each in golden["bad"]]
    steps = [bytes([FRAME, len(p)]) + p + bytes([WAIT, 200]) for p in payloads]
    steps += [bytes([RAW, len(f)]) + f for f in broken]
    folder.mkdir(parents=True, exist_ok=True)
    for number, script in enumerate([*steps, b"".join(steps)]):
        (folder / f"seed{number:02}").write_bytes(b"\0" + script)  # kept memory: zeros


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
