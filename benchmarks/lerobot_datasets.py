"""Small LeRobot datasets of version 3, written to its specification with pyarrow and PyAV alone.

Nothing of the package that is tested writes them.
"""

import json

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FRONT, SIDE = "observation.images.front", "observation.images.side"
RATE = 10
JOINTS = ["pan.pos", "tilt.pos", "gripper.pos"]


def picture(episode, frame, size=(64, 48)):
    """A picture whose grey levels tell its episode and frame through lossy coding, too."""
    width, height = size
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2] = 40 + 10 * episode
    image[:, width // 2 :] = 20 + 7 * frame
    return image


def told_by(image):
    """(episode, frame) of a picture."""
    left, right = (part.mean() for part in np.array_split(image.astype(float), 2, axis=1))
    return round((left - 38) / 10), round((right - 18) / 7)


def state(episode, frame):
    """(pan, tilt, gripper) as the dataset has them."""
    return [0.1 * episode, 0.01 * frame, 1.0]


def write_mp4(path, images, codec="libx264", first_pts=0):
    """Pictures at RATE a second, a key picture every second one, as LeRobot writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = images[0].shape[:2]
    options = {"g": "2", "crf": "18"} | ({"preset": "12"} if codec == "libsvtav1" else {})
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = first_pts + i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def feature(dtype, shape, names=None):
    return {"dtype": dtype, "shape": list(shape), "names": names}


def write_dataset(
    folder, lengths=(12, 8, 10), codec="libx264", size=(64, 48), images=False, shown=picture
):
    """Episodes of these lengths by two cameras, every two of them in files of their own.

    images: whether the pictures of FRONT are in the table. shown: what both cameras see.
    """
    kind = "image" if images else "video"
    columns = ["height", "width", "channels"]
    info = {
        "codebase_version": "v3.0", "robot_type": "head", "fps": RATE, "chunks_size": 1000,
        "total_episodes": len(lengths), "total_frames": sum(lengths), "total_tasks": 1,
        "data_files_size_in_mb": 100, "video_files_size_in_mb": 200,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            FRONT: feature(kind, (size[1], size[0], 3), columns),
            SIDE: feature("video", (size[1], size[0], 3), columns),
            "observation.state": feature("float32", (3,), JOINTS),
            "action": feature("float32", (3,), {"motors": JOINTS}),
            "timestamp": feature("float32", (1,)),
            **{name: feature("int64", (1,))
               for name in ("frame_index", "episode_index", "index", "task_index")},
        },
    }  # fmt: skip
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    stats = {"observation.state": {"min": [0.0] * 3, "max": [1.0] * 3, "count": [sum(lengths)]}}
    (folder / "meta" / "stats.json").write_text(json.dumps(stats))
    pq.write_table(
        pa.table({"task_index": [0], "__index_level_0__": ["look"]}),
        folder / "meta" / "tasks.parquet",
    )
    episodes, first = [], 0
    for file in range(0, len(lengths), 2):
        numbers = range(file, min(file + 2, len(lengths)))
        data = folder / f"data/chunk-000/file-{file // 2:03d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        start = 0
        with pq.ParquetWriter(data, data_schema(images)) as writer:
            for number in numbers:
                writer.write_table(rows(number, lengths[number], first, images, size, shown))
                episode = {
                    "episode_index": number, "tasks": ["look"], "length": lengths[number],
                    "data/chunk_index": 0, "data/file_index": file // 2,
                    "dataset_from_index": first, "dataset_to_index": first + lengths[number],
                }  # fmt: skip
                for camera in (FRONT, SIDE)[images:]:
                    episode |= {
                        f"videos/{camera}/chunk_index": 0,
                        f"videos/{camera}/file_index": file // 2,
                        f"videos/{camera}/from_timestamp": start / RATE,
                        f"videos/{camera}/to_timestamp": (start + lengths[number]) / RATE,
                    }
                for name in ("min", "max", "mean", "std"):
                    episode[f"stats/observation.state/{name}"] = [0.0, 0.5, 1.0]
                episode["stats/observation.state/count"] = [lengths[number]]
                episodes.append(episode)
                first, start = first + lengths[number], start + lengths[number]
        seen = [shown(n, i, size) for n in numbers for i in range(lengths[n])]
        for camera in (FRONT, SIDE)[images:]:
            write_mp4(folder / f"videos/{camera}/chunk-000/file-{file // 2:03d}.mp4", seen, codec)
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(episodes), path)
    return folder


def data_schema(images=False):
    three = pa.list_(pa.float32(), 3)
    fields = [("observation.state", three), ("action", three), ("timestamp", pa.float32())]
    fields += [(n, pa.int64()) for n in ("frame_index", "episode_index", "index", "task_index")]
    if images:
        fields.insert(0, (FRONT, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
    return pa.schema(fields)


def rows(number, length, first, images, size, shown):
    states = [state(number, i) for i in range(length)]
    columns = {
        "observation.state": states, "action": states,
        "timestamp": [i / RATE for i in range(length)], "frame_index": list(range(length)),
        "episode_index": [number] * length, "index": list(range(first, first + length)),
        "task_index": [0] * length,
    }  # fmt: skip
    if images:
        files = [cv2.imencode(".png", shown(number, i, size))[1] for i in range(length)]
        columns[FRONT] = [{"bytes": file.tobytes(), "path": None} for file in files]
    schema = data_schema(images)
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)
