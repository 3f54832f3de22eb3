"""Bags written for tests, each by a writer that is not ours."""

from types import SimpleNamespace

import foxglove
import numpy as np
from foxglove.mcap import MCAPWriteOptions
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from mcap_ros2.writer import Writer as McapRos2Writer
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore

from ros2_link.messages import definition, encode

IMAGES = "/camera/image_raw"
STORE = get_typestore(Stores.LATEST)


def at_ns(t_s):
    return 1_700_000_000_000_000_000 + round(1e9 * t_s)


def write_rosbag2(folder, stored, plugin="SQLITE3", compression="NONE", version=9):
    """By rosbags. stored: (topic, type, seconds, message or its bytes) each."""
    writer = Writer(folder, version=version, storage_plugin=StoragePlugin[plugin])
    writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind, t_s, message in stored:
            if (topic, kind) not in connections:
                connections[topic, kind] = writer.add_connection(topic, kind, typestore=STORE)
            cdr = message if isinstance(message, bytes) else encode(message, kind)
            writer.write(connections[topic, kind], at_ns(t_s), cdr)
    return folder


def write_mcap_ros2(path, stored, **options):
    """By mcap-ros2-support, which has a codec of its own."""
    with open(path, "wb") as file:
        writer = McapRos2Writer(file, **options)
        schemas = {}
        for topic, kind, t_s, message in stored:
            if kind not in schemas:
                schemas[kind] = writer.register_msgdef(kind, definition(kind))
            writer.write_message(topic, schemas[kind], _plain(message), at_ns(t_s))
        writer.finish()
    return path


def write_mcap(path, stored, compression=CompressionType.ZSTD, encoding="cdr", **options):
    """By mcap, with all its options."""
    with open(path, "wb") as file:
        writer = McapWriter(file, compression=compression, **options)
        writer.start("ros2")
        channels = {}
        for topic, kind, t_s, message in stored:
            if (topic, kind) not in channels:
                schema = writer.register_schema(kind, "ros2msg", b"")
                channels[topic, kind] = writer.register_channel(topic, encoding, schema)
            cdr = message if isinstance(message, bytes) else encode(message, kind)
            writer.add_message(channels[topic, kind], at_ns(t_s), cdr, at_ns(t_s))
        writer.finish()
    return path


def write_foxglove(path, stored, **options):
    """By Foxglove's writer of MCAP, which is of another language."""
    context = foxglove.Context()
    options = MCAPWriteOptions(profile="ros2", compression_threads=0, **options)
    with foxglove.open_mcap(path, context=context, writer_options=options):
        channels = {}
        for topic, kind, t_s, message in stored:
            if topic not in channels:
                text = definition(kind).encode()
                schema = foxglove.Schema(name=kind, encoding="ros2msg", data=text)
                channels[topic] = foxglove.Channel(
                    topic, schema=schema, message_encoding="cdr", context=context
                )
            channels[topic].log(encode(message, kind), log_time=at_ns(t_s))
    return path


def _plain(value):
    """A message without NumPy, which mcap-ros2-support does not know."""
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype == np.uint8 else value.tolist()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    names = [name for name in value.__dataclass_fields__ if not name.startswith("__")]
    return SimpleNamespace(**{name: _plain(getattr(value, name)) for name in names})
