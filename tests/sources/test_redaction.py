"""Names of sources as others may read them: no password in any spelling."""

import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.sources import open_source, redacted

SHOWN = [  # what is written, and what is shown of it
    ("rtsp://user:TOP@cam/live", "rtsp://***@cam/live"),
    ("rtsp://user:TO@P@cam/live", "rtsp://***@cam/live"),
    ("rtsp://user:TO/P@cam:554/live", "rtsp://***@cam:554/live"),
    ("rtsp://user:TO#P@cam", "rtsp://***@cam"),
    ("rtsp://user:TO?P@cam/live", "rtsp://***@cam/live"),
    ("rtsp://user:5/TOP@cam", "rtsp://***@cam"),
    ("rtsp://user:TO P@cam", "rtsp://***@cam"),
    ("http://TOP@cam/", "http://***@cam/"),
    ("http://cam/v?password=TOP", "http://cam/v?password=***"),
    ("http://cam/v?size=3&pwd=TOP;k=TOP", "http://cam/v?size=***&pwd=***;k=***"),
    ("http://cam/v?TOP", "http://cam/v?***"),
    ("http://cam/v?a=b=TOP", "http://cam/v?a=***"),
    ("http://cam/v?a=1#TOP", "http://cam/v?a=***"),
    ("http://u:TOP@cam/v?mail=a@b&x=TOP", "http://***@b&x=***"),
    ("rtsp://cam:554/user=u_password=TOP_channel=1.sdp", "rtsp://cam:554/user=u_password=***"),
    ("rtsp://cam/user=u&password=TOP&channel=1", "rtsp://cam/user=u&password=***&channel=1"),
    ("gst:rtspsrc location=rtsp://u:TOP@cam ! x", "gst:rtspsrc location=rtsp://***@cam ! x"),
    ('gst:src location="rtsp://u:TO P@cam" ! x', 'gst:src location="rtsp://***@cam" ! x'),
    ("gst:rtspsrc user-id=u user-pw=TOP ! x", "gst:rtspsrc user-id=u user-pw=*** ! x"),
    ("gst:src user-pw = TOP ! x", "gst:src user-pw = *** ! x"),
    ('gst:src user-pw="TO \\" TOP" ! x', "gst:src user-pw=*** ! x"),
    ("gst:src user-pw='TO P' ! x", "gst:src user-pw=*** ! x"),
    ("gst:src user-pw=(string)TOP ! x", "gst:src user-pw=*** ! x"),
    ("gst:srtsrc passphrase=TOP ! x", "gst:srtsrc passphrase=*** ! x"),
    ("gst:src PassWord=TOP ! x", "gst:src PassWord=*** ! x"),
    ("gst:src proxy-pw=TOP", "gst:src proxy-pw=***"),
]


@pytest.mark.parametrize(("written", "shown"), SHOWN)
def test_no_password_is_shown(written, shown):
    assert redacted(written) == shown and "TO" not in redacted(written)


@pytest.mark.parametrize(
    "spec",
    ["0", "/dev/video0", "scene:", "scene:/a/b@c", "walk.mp4", "rtsp://cam/stream@2",
     "http://cam:8080/s.mjpg", "gst:videotestsrc pattern=ball ! videoconvert", "replay:walk/"],
)  # fmt: skip
def test_what_holds_none_is_shown_as_it_is(spec):
    assert redacted(spec) == spec


def test_a_source_mistyped_is_told_without_its_password():
    with pytest.raises(SourceError, match="rstp://") as caught:
        open_source("rstp://user:TOP@cam/live")
    assert "TOP" not in str(caught.value)
