"""The codec: what it says it reads, however the bytes are cut, and nothing that was not sent."""

import json
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge import protocol
from firmware_bridge.protocol import (
    AxisSettings,
    Cause,
    Configure,
    Flag,
    FrameDecoder,
    Greeting,
    Hello,
    Hold,
    Home,
    Kind,
    Move,
    ProtocolError,
    Relax,
    Reply,
    Result,
    State,
    Status,
    cobs,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    frame,
    uncobs,
)

GOLDEN = json.loads(protocol.VECTORS.read_text(encoding="utf-8"))

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
widths = u16.map(lambda ticks: 0.5 * ticks)
axes = st.builds(AxisSettings, widths, widths, widths, u16)
requests = st.one_of(
    st.builds(Hello, u32),
    st.sampled_from([Status(), Hold(), Home(), Relax()]),
    st.builds(Move, widths, widths, u16),
    st.builds(Configure, u32, axes, axes),
)
greetings = st.builds(
    Greeting, u32, st.just(1), st.tuples(u8, u8, u8), u8, u32, axes, axes, home_slew_us_per_s=u16
)


@st.composite
def states(draw):
    flags = draw(st.integers(0, 127).map(Flag))
    pair = st.tuples(widths, widths)
    driven = None if flags & Flag.TORQUE_OFF else draw(pair)
    causes = st.integers(0, 15).map(Cause)
    return State(flags, draw(pair), driven, draw(u16), draw(u32), draw(causes), draw(u16), draw(u8))


replies = st.one_of(
    st.builds(Reply, u16, st.just(Kind.HELLO), st.just(Result.OK), greetings),
    st.builds(Reply, u16, st.integers(2, 127), st.sampled_from(Result), states()),
    st.builds(Reply, u16, st.just(Kind.HELLO), st.just(Result.REFUSED), states()),
)
payloads = st.binary(min_size=3, max_size=protocol.LONGEST_PAYLOAD)


def plain(value):
    """As JSON has it."""
    return json.loads(json.dumps(value))


# ------------------------------------------------------------------------------------------------
# Messages


@given(u16, requests)
def test_requests_come_back(seq, message):
    assert decode_request(encode_request(seq, message)) == (seq, message)


@given(replies)
def test_replies_come_back(reply):
    assert decode_reply(encode_reply(reply)) == reply


@given(st.floats(0, 32767.5))
def test_widths_are_rounded_to_the_nearest_half_microsecond(width_us):
    _, message = decode_request(encode_request(0, Move(width_us, 0.0)))
    assert abs(message.pan_us - width_us) <= 0.25


@pytest.mark.parametrize(
    "message",
    [
        Move(-0.5, 0.0),
        Move(0.0, 32768.0),
        Move(float("nan"), 0.0),
        Move(1500.0, 1500.0, 65536),
        Move(1500.0, 1500.0, -1),
        Hello(2**32),
        Configure(1, AxisSettings(slew_us_per_s=70000)),
    ],
)
def test_what_does_not_fit_is_refused(message):
    with pytest.raises(ProtocolError) as refusal:
        encode_request(1, message)
    assert "\n" not in str(refusal.value)


@given(st.binary(max_size=60))
def test_any_payload_is_read_or_refused(payload):
    for decode in (decode_request, decode_reply):
        try:
            decode(payload)
        except ProtocolError as refusal:
            assert "\n" not in str(refusal)


@pytest.mark.parametrize("message", [Move(1500.0, 1500.0), Hello(1), Configure(1), Status()])
def test_each_kind_has_one_length(message):
    payload = encode_request(1, message)
    for wrong in (payload + b"\0", payload[:-1]):
        with pytest.raises(ProtocolError):
            decode_request(wrong)


def test_an_echo_is_no_reply():
    with pytest.raises(ProtocolError, match="echo"):
        decode_reply(encode_request(7, Move(1500.0, 1500.0)))


@given(st.integers(0, 255).filter(lambda version: version != 1), st.binary(max_size=40))
def test_of_another_protocol_the_start_of_the_greeting_is_read(version, rest):
    start = protocol.GREETING_START.pack(99, version, 4, 5, 6, 7, 8)
    reply = decode_reply(protocol.REPLY_HEAD.pack(3, Kind.HELLO | 0x80, 0) + start + rest)
    assert reply.body == Greeting(99, version, (4, 5, 6), 7, 8)


# ------------------------------------------------------------------------------------------------
# Frames


@given(st.binary(max_size=44))
def test_stuffing_has_no_zero_and_comes_back(data):
    assert 0 not in cobs(data)
    assert len(cobs(data)) == len(data) + 1
    assert uncobs(cobs(data)) == data


@pytest.mark.slow
@given(st.lists(payloads, max_size=6), st.data())
def test_frames_come_out_however_the_bytes_are_cut(sent, data):
    stream = b"\0" + b"".join(frame(payload) for payload in sent)
    decoder, received = FrameDecoder(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += decoder.feed(stream[:size])
        stream = stream[size:]
    assert received == sent and decoder.bad_frames == 0


@given(payloads, st.binary(max_size=80))
def test_after_any_bytes_and_a_zero_the_next_frame_is_read(payload, noise):
    decoder = FrameDecoder()
    decoder.feed(noise + b"\0")
    bad = decoder.bad_frames
    assert decoder.feed(frame(payload)) == [payload]
    assert decoder.bad_frames == bad <= len(noise.strip(b"\0").split(b"\0"))


@pytest.mark.slow
@given(requests, st.data())
@settings(max_examples=300)
def test_no_flip_drop_or_repetition_of_two_bytes_is_read_as_another_request(message, data):
    whole = frame(encode_request(9, message))
    hurt = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(hurt) - 1))
        hurt[at : at + 1] = data.draw(
            st.sampled_from([b"", bytes(2 * [hurt[at]]), bytes([hurt[at] ^ 1 << at % 8])])
        )
    received = FrameDecoder().feed(bytes(hurt) + b"\0")
    assert received in ([], [encode_request(9, message)])


def test_the_longest_payload_is_a_limit_on_both_sides():
    longest = bytes(protocol.LONGEST_PAYLOAD)
    assert len(frame(longest)) == protocol.LONGEST_FRAME
    assert FrameDecoder().feed(frame(longest)) == [longest]
    with pytest.raises(ProtocolError):
        frame(longest + b"\0")
    decoder = FrameDecoder()
    too_long = longest + b"!"
    sum32 = zlib.crc32(too_long).to_bytes(4, "little")
    assert decoder.feed(cobs(too_long + sum32) + b"\0") == [] and decoder.bad_frames == 1


def test_a_stream_without_end_takes_no_memory():
    decoder = FrameDecoder()
    for _ in range(1000):
        decoder.feed(b"\x55" * 1000)
    assert len(decoder._waiting) <= protocol.LONGEST_FRAME
    assert decoder.feed(b"\0") == [] and decoder.bad_frames == 1


# ------------------------------------------------------------------------------------------------
# Golden frames


@pytest.mark.parametrize("golden", GOLDEN["requests"], ids=lambda golden: golden["payload"])
def test_golden_requests(golden):
    [payload] = FrameDecoder().feed(bytes.fromhex(golden["frame"]))
    assert payload.hex() == golden["payload"]
    seq, message = decode_request(payload)
    assert (seq, type(message).__name__) == (golden["seq"], golden["message"])
    assert plain(message) == golden["fields"]
    assert frame(encode_request(seq, message)).hex() == golden["frame"]


@pytest.mark.parametrize("golden", GOLDEN["replies"], ids=lambda golden: golden["payload"])
def test_golden_replies(golden):
    [payload] = FrameDecoder().feed(bytes.fromhex(golden["frame"]))
    assert payload.hex() == golden["payload"]
    assert plain(decode_reply(payload)) == golden["fields"]
    assert frame(encode_reply(decode_reply(payload))).hex() == golden["frame"]


@pytest.mark.parametrize("golden", GOLDEN["bad"], ids=lambda golden: golden["why"])
def test_golden_broken_frames(golden):
    decoder = FrameDecoder()
    assert decoder.feed(bytes.fromhex(golden["frame"])) == [] and decoder.bad_frames == 1


def test_every_kind_is_among_the_golden_frames():
    assert {golden["message"] for golden in GOLDEN["requests"]} == {
        message.__name__ for message in protocol.KINDS
    }


def test_the_golden_frames_are_those_of_this_code():
    assert subprocess.run([sys.executable, "-m", "firmware_bridge.protocol"]).returncode == 0


def test_a_golden_frame_by_hand():
    """MOVE 1500 us, 1500 us, at once, as sequence number 1: worked out from PROTOCOL.md."""
    payload = bytes([0x01, 0x00, 3, 0xB8, 0x0B, 0xB8, 0x0B, 0x00, 0x00])
    assert frame(payload)[:2] == bytes([2, 1])  # the first zero is two bytes on
    assert frame(payload).endswith(zlib.crc32(payload).to_bytes(4, "little") + b"\0")
    assert encode_request(1, Move(1500.0, 1500.0)) == payload
