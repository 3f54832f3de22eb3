"""An RTSP camera on loopback: `/usr/bin/python3 rtsp_server.py PORT`, with Debian's GStreamer.

A ball that bounces, 320x240, H.264, 15 pictures a second. It prints a line once it serves.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - versions first

PICTURES = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=15/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 "
    "! rtph264pay name=pay0 pt=96 )"
)

Gst.init(None)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(PICTURES)
factory.set_shared(True)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
print("serving", flush=True)
GLib.MainLoop().run()
