"""Messages of a file or of a web socket, decoded by the schemas that came with them."""

import json
from functools import cache

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def decoded(name: str, encoding: str, schema: bytes, content: bytes):
    """A dict, or an object of protobuf's."""
    if encoding == "jsonschema":
        assert json.loads(schema)["title"] == name
        return json.loads(content)
    assert encoding == "protobuf"
    return _class_of(name, schema).FromString(content)


@cache
def _class_of(name: str, schema: bytes):
    pool = descriptor_pool.DescriptorPool()
    for each in descriptor_pb2.FileDescriptorSet.FromString(schema).file:
        pool.Add(each)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
