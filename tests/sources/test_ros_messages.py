"""What messages of ROS mean here, beside OpenCV's own conversions and REP 103."""

import math

import cv2
import numpy as np
import pytest

from calibration.errors import CalibrationError
from calibration.model import CameraModel
from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import as_values, camera_of
from edge_rjepa.sources.ros_messages import (
    ENCODINGS,
    BadMessage,
    HeadTopic,
    Skipped,
    TfFrames,
    Topics,
    angles_of,
    is_rectified,
    lens_of,
    picture_of,
    stamp_s_of,
    topics_of,
)
from ros2_link.messages import decode, encode
from tests.ros2_link.made import (
    CAMERA_INFO,
    IMAGE,
    camera_info,
    compressed,
    header,
    image,
    joint_state,
    transforms,
)

BGR = cv2.resize(
    np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8), (32, 24)
)  # smooth, so that what lies between pixels is near them
FLAT = {"blue": (200, 40, 20), "green": (30, 210, 50), "red": (10, 60, 220)}


def sent(message):
    """The message after its way as bytes."""
    return decode(encode(message, IMAGE), IMAGE)


def bayer(bgr, pattern):
    """The picture as a sensor with this pattern of colours takes it."""
    mosaic = np.empty(bgr.shape[:2], np.uint8)
    for i, colour in enumerate(pattern):
        y, x = divmod(i, 2)
        mosaic[y::2, x::2] = bgr[y::2, x::2, "bgr".index(colour)]
    return mosaic


def two_bytes(bgr, order):
    """Pixels in pairs that share their colour: `order` of y and colour in each pixel."""
    y, u, v = cv2.split(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV))
    pixels = np.empty((*bgr.shape[:2], 2), np.uint8)
    pixels[..., order.index("y")] = y
    pixels[:, 0::2, order.index("c")], pixels[:, 1::2, order.index("c")] = u[:, ::2], v[:, ::2]
    return pixels


STORED = {  # pixels as each encoding has them, and what OpenCV makes of them
    "bgr8": BGR,
    "8UC3": BGR,
    "rgb8": BGR[..., ::-1],
    "bgra8": cv2.cvtColor(BGR, cv2.COLOR_BGR2BGRA),
    "rgba8": cv2.cvtColor(BGR, cv2.COLOR_BGR2RGBA),
}
GREY = cv2.cvtColor(BGR, cv2.COLOR_BGR2GRAY)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", STORED)
def test_colours_come_back_whatever_their_order(encoding, padding):
    picture = picture_of(sent(image(STORED[encoding], encoding, padding=padding)))
    np.testing.assert_array_equal(picture, BGR)
    assert picture.dtype == np.uint8 and picture.flags.writeable and picture.flags.c_contiguous


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_is_three_times_the_same(encoding):
    picture = picture_of(sent(image(GREY, encoding, padding=3)))
    np.testing.assert_array_equal(picture, cv2.cvtColor(GREY, cv2.COLOR_GRAY2BGR))


@pytest.mark.parametrize("big_endian", [0, 1])
def test_of_sixteen_bits_the_upper_eight_are_kept_in_either_order(big_endian):
    grey16 = (GREY.astype(np.uint16) << 8) + np.arange(GREY.size, dtype=np.uint16).reshape(
        GREY.shape
    ) % 256
    stored = grey16.astype(">u2" if big_endian else "<u2").view(np.uint8).reshape(*GREY.shape, 2)
    picture = picture_of(sent(image(stored, "mono16", big_endian=big_endian)))
    np.testing.assert_array_equal(picture, cv2.cvtColor(GREY, cv2.COLOR_GRAY2BGR))


@pytest.mark.parametrize(
    ("encoding", "order", "by_opencv"),
    [
        ("yuyv", "yc", cv2.COLOR_YUV2BGR_YUYV),
        ("yuv422_yuy2", "yc", cv2.COLOR_YUV2BGR_YUYV),
        ("uyvy", "cy", cv2.COLOR_YUV2BGR_UYVY),
        ("yuv422", "cy", cv2.COLOR_YUV2BGR_UYVY),
    ],
)
def test_pixels_in_pairs_have_their_colours(encoding, order, by_opencv):
    stored = two_bytes(BGR, order)
    picture = picture_of(sent(image(stored, encoding, padding=2)))
    np.testing.assert_array_equal(picture, cv2.cvtColor(stored, by_opencv))
    for colour in FLAT.values():  # and by what it shows: OpenCV's own scales differ a little
        flat = two_bytes(np.full((16, 18, 3), colour, np.uint8), order)
        shown = picture_of(sent(image(flat, encoding))).mean((0, 1))
        assert np.abs(shown - colour).max() < 45 and shown.argmax() == np.argmax(colour)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_have_their_colours(pattern):
    for colour in FLAT.values():
        flat = bayer(np.full((16, 18, 3), colour, np.uint8), pattern)
        picture = picture_of(sent(image(flat, f"bayer_{pattern}8")))
        np.testing.assert_array_equal(picture, np.full((16, 18, 3), colour, np.uint8))
    by_opencv = getattr(cv2, f"COLOR_Bayer{pattern.upper()}2BGR")
    stored = bayer(BGR, pattern)
    picture = picture_of(sent(image(stored, f"bayer_{pattern}8", padding=1)))
    np.testing.assert_array_equal(picture, cv2.cvtColor(stored, by_opencv))


def test_every_encoding_was_tested():
    tested = {*STORED, "mono8", "8UC1", "mono16", "yuyv", "yuv422_yuy2", "uyvy", "yuv422"}
    assert tested | {f"bayer_{p}8" for p in ("rggb", "bggr", "gbrg", "grbg")} == {*ENCODINGS}


@pytest.mark.parametrize("form", [".jpg", ".png"])
def test_compressed_pictures_are_opencvs(form):
    content = cv2.imencode(form, BGR)[1].tobytes()
    picture = picture_of(compressed(content, f"bgr8; {form[1:]} compressed bgr8"))
    np.testing.assert_array_equal(picture, cv2.imdecode(np.frombuffer(content, np.uint8), 1))


def changed(message, **fields):
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def of_jpeg(content, form="jpeg"):
    return compressed(content, form)


JPEG = cv2.imencode(".jpg", BGR)[1].tobytes()
HOSTILE = {
    "encoding": (image(BGR, "32FC1"), "encoding that is not read here"),
    "depth": (image(two_bytes(BGR, "yc"), "16UC1"), "encoding that is not read here"),
    "step": (changed(image(BGR), step=95), "step too short"),
    "no step": (changed(image(BGR), step=0), "step too short"),
    "short": (changed(image(BGR), data=image(BGR).data[:-1]), "data of the wrong size"),
    "long": (changed(image(BGR), data=image(BGR, padding=1).data), "data of the wrong size"),
    "empty": (changed(image(BGR), width=0, step=0), "too few pixels"),
    "huge": (changed(image(BGR), width=2**31, height=2**31), "too many pixels"),
    "odd": (image(np.zeros((16, 17, 2), np.uint8), "yuyv"), "odd width"),
    "line": (image(np.zeros((1, 80), np.uint8), "bayer_rggb8"), "too few pixels"),
    "dot": (of_jpeg(cv2.imencode(".png", BGR[:3, :3])[1].tobytes()), "too few pixels"),
    "torn jpeg": (of_jpeg(JPEG[:-30]), "no whole picture"),
    "no jpeg": (of_jpeg(b"hello"), "no whole picture"),
    "nothing": (of_jpeg(b""), "no whole picture"),
    "depth, compressed": (
        of_jpeg(JPEG, "16UC1; compressedDepth png"), "encoding that is not read here"
    ),
    "another type": (joint_state({"pan": 1.0}), "not a picture"),
}  # fmt: skip


@pytest.mark.parametrize("fault", HOSTILE)
def test_what_is_no_picture_is_a_bad_message_of_its_kind(fault):
    message, kind = HOSTILE[fault]
    with pytest.raises(BadMessage) as error:
        picture_of(message)
    assert error.value.kind == kind and str(error.value).startswith(kind)
    assert "\n" not in str(error.value) and isinstance(error.value, SourceError)


def test_each_kind_is_told_once_and_counted():
    skipped = Skipped()
    for width in (95, 94, 93):
        skipped.add("/image", BadMessage("step too short", f"{width} bytes"))
    skipped.add("/image", BadMessage("odd width"))
    assert skipped.drain_events() == [
        "/image: a message is skipped: step too short (95 bytes); more like it are counted",
        "/image: a message is skipped: odd width; more like it are counted",
    ]
    skipped.add("/image", BadMessage("odd width"))
    assert skipped.drain_events() == []
    assert skipped.counts == {"step too short": 3, "odd width": 2}


def test_a_stamp_is_seconds_or_none():
    assert stamp_s_of(header(12.5)) == 12.5
    assert stamp_s_of(header(0.0)) is None
    assert stamp_s_of(changed(header(3.0), stamp=changed(header().stamp, sec=-3))) is None
    assert (
        stamp_s_of(changed(header(3.0), stamp=changed(header().stamp, nanosec=2**32 - 1))) is None
    )


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Topics("")),
        ("/image", Topics("/image")),
        ("/image?info=/camera_info", Topics("/image", "/camera_info")),
        (
            "/a/b?joints=/joint_states:pan,-tilt",
            Topics("/a/b", joints=HeadTopic("/joint_states", ("pan", "-tilt"))),
        ),
        ("/a?joints=/j:pan", Topics("/a", joints=HeadTopic("/j", ("pan", "")))),
        ("/a?joints=/j:,tilt", Topics("/a", joints=HeadTopic("/j", ("", "tilt")))),
        (
            "/a?tf=/tf:base_link,camera_link&info=/i",
            Topics("/a", "/i", tf=HeadTopic("/tf", ("base_link", "camera_link"))),
        ),
        ("/a?domain=7", Topics("/a", more={"domain": "7"})),
    ],
)
def test_names_say_what_is_asked_for(text, expected):
    assert topics_of(text, more=["domain"]) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/a?inf=/i", "'inf' is unknown"),
        ("/a?info=/i&info=/j", "named twice"),
        ("/a?joints=/j", "needs the name of a joint"),
        ("/a?joints=/j:a,b,c", "use joints=TOPIC:PAN,TILT"),
        ("/a?joints=:a,b", "use joints=TOPIC:PAN,TILT"),
        ("/a?tf=/tf:base", "needs the names of both frames"),
        ("/a?joints=/j:a&tf=/tf:b,c", "leave one out"),
    ],
)
def test_a_name_that_is_not_understood_says_how(text, says):
    with pytest.raises(SourceError, match=says):
        topics_of(text)


# -- lenses ---------------------------------------------------------------------------------------


def through_bytes(info):
    return decode(encode(info, CAMERA_INFO), CAMERA_INFO)


def pixels_by_opencv(info, rays, fisheye=False):
    k = info.k.reshape(3, 3)
    if fisheye:
        return cv2.fisheye.projectPoints(rays[:, None], np.zeros(3), np.zeros(3), k, info.d)[0][
            :, 0
        ]
    return cv2.projectPoints(rays, np.zeros(3), np.zeros(3), k, info.d)[0][:, 0]


def some_rays(reach):
    slopes = np.random.default_rng(0).uniform(-reach, reach, (50, 2)) * (1.0, 0.75)
    return np.concatenate([slopes, np.ones((50, 1))], axis=1)


MILD = (-0.28, 0.07, 1e-3, -5e-4, -0.005)
RATIONAL = (0.45, -0.12, 1e-3, -5e-4, -0.005, 0.78, -0.02, -0.01)


@pytest.mark.parametrize(
    ("model", "distortion", "off_px"),
    [
        ("plumb_bob", MILD, 1e-6),
        ("plumb_bob", MILD[:4], 1e-6),
        ("plumb_bob", (), 1e-6),
        ("rational_polynomial", (*MILD, 0.0, 0.0, 0.0), 1e-6),
        ("rational_polynomial", RATIONAL, 1.0),
        ("equidistant", (0.03, -0.01, 0.004, -0.002), 1e-6),
    ],
)
def test_a_lens_sends_rays_where_opencv_does(model, distortion, off_px):
    info = through_bytes(camera_info(640, 480, model, distortion, centre=(330.0, 235.0)))
    camera = lens_of(info)(640, 480)
    rays = some_rays(0.5)
    expected = pixels_by_opencv(info, rays, model == "equidistant")
    assert np.abs(camera.pixels_of_rays(rays) - expected).max() < off_px
    assert camera_of(as_values(camera)) == camera


def test_a_scaled_picture_has_a_scaled_lens():
    whole = CameraModel("pinhole", 1280, 720, 1100.0, 1090.0, 650.0, 350.0, MILD)
    info = camera_info(1280, 720, "plumb_bob", MILD, (1100.0, 1090.0), (650.0, 350.0))
    assert lens_of(through_bytes(info))(640, 360) == whole.resized(640, 360)
    with pytest.raises(CalibrationError, match="not the shape"):
        lens_of(info)(640, 480)


def test_a_part_of_the_sensor_with_pixels_put_together():
    info = camera_info(
        1280, 960, focal=(1000.0, 1000.0), centre=(639.5, 479.5), binning=(2, 2),
        roi=(320, 240, 480, 640),
    )  # fmt: skip
    camera = lens_of(info)(320, 240)
    assert (camera.focal_px, camera.centre_px) == (500.0, (159.5, 119.5))


def test_pictures_of_a_rectified_topic_have_no_distortion():
    p = [500.0, 0.0, 320.0, 0.0, 0.0, 510.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    info = camera_info(640, 480, "plumb_bob", MILD, p=p)
    camera = lens_of(info, rectified=True)(640, 480)
    assert camera.parameters == (500.0, 510.0, 320.0, 240.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert is_rectified("/camera/image_rect_color/compressed")
    assert not is_rectified("/camera/image_raw")


def test_a_camera_that_is_not_calibrated_has_no_lens():
    assert lens_of(camera_info(640, 480, "", (), focal=(0.0, 0.0))) is None


@pytest.mark.parametrize(
    "info",
    [
        camera_info(640, 480, focal=(math.nan, 500.0)),
        camera_info(640, 480, focal=(-500.0, 500.0)),
        camera_info(0, 480, focal=(500.0, 500.0)),
        camera_info(640, 480, distortion=(math.inf, 0.0, 0.0, 0.0, 0.0)),
        camera_info(640, 480, distortion=(0.0,) * 6),
        camera_info(640, 480, "equidistant", (0.0,) * 5),
        camera_info(640, 480, "kannala", (0.0,) * 4),
        camera_info(640, 480, "rational_polynomial", (0.1,) * 14),
        camera_info(640, 480, "rational_polynomial", (0.0, 0.0, 0.0, 0.0, 0.0, -4.0, 0.0, 0.0)),
        camera_info(640, 480, distortion=(-2.0, 0.0, 0.0, 0.0, 0.0)),
        camera_info(640, 480, roi=(600, 0, 480, 640)),
    ],
)
def test_what_is_no_lens_is_a_bad_message(info):
    with pytest.raises(BadMessage, match=r"camera_info of no lens \(.+\)"):
        lens_of(through_bytes(info))


# -- head angles ----------------------------------------------------------------------------------


def turned(axis, angle_rad):
    """Quaternion x y z w."""
    return *(math.sin(0.5 * angle_rad) * np.array(axis)).tolist(), math.cos(0.5 * angle_rad)


def test_joints_turn_left_and_down_and_heads_right_and_up():
    state = joint_state({"wheel": 9.0, "tilt": 0.2, "pan": 0.5})
    assert angles_of(state, ("pan", "tilt")) == (-0.5, -0.2)
    assert angles_of(state, ("pan", "-tilt")) == (-0.5, 0.2)
    assert angles_of(state, ("pan", "")) == (-0.5, 0.0)
    assert angles_of(state, ("neck", "tilt")) is None


def test_a_joint_that_went_round_is_where_it_is():
    pan_rad, _ = angles_of(joint_state({"pan": 2.0 * math.pi + 0.25}), ("pan", ""))
    assert pan_rad == pytest.approx(-0.25)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_joint_angle_must_be_a_number(value):
    with pytest.raises(BadMessage, match="joint angle that is no number"):
        angles_of(joint_state({"pan": value}), ("pan", ""))


def test_joints_need_positions():
    state = changed(joint_state({"pan": 1.0}), position=np.empty(0))
    with pytest.raises(BadMessage, match="joints without positions"):
        angles_of(state, ("pan", ""))


def test_tf_tells_where_the_camera_looks():
    # To the left about z, then down about y: the axes of REP 103.
    frames = TfFrames("base_link", "camera_link")
    assert frames.angles_rad() is None
    assert frames.add(transforms([("base_link", "pan", turned((0, 0, 1), 0.4))], 5.0)) is None
    assert frames.add(transforms([("pan", "camera_link", turned((0, 1, 0), 0.1))], 6.0)) == 6.0
    assert frames.angles_rad() == pytest.approx((-0.4, -0.1))
    assert frames.add(transforms([("base_link", "wheel", turned((0, 1, 0), 2.0))], 7.0)) is None
    assert frames.add(transforms([("/base_link", "pan", turned((0, 0, 1), -0.2))], 8.0)) == 8.0
    assert frames.angles_rad() == pytest.approx((0.2, -0.1))


def test_joints_and_tf_agree():
    """The same head told in both ways."""
    pan, tilt = 0.7, -0.3
    frames = TfFrames("base", "camera")
    frames.add(
        transforms(
            [("base", "neck", turned((0, 0, 1), pan)), ("neck", "camera", turned((0, 1, 0), tilt))]
        )
    )
    joints = angles_of(joint_state({"pan": pan, "tilt": tilt}), ("pan", "tilt"))
    assert frames.angles_rad() == pytest.approx(joints)


def test_an_optical_frame_looks_along_z():
    # The rotation from a camera's body to its optical frame, as REP 103 has it.
    frames = TfFrames("camera_link", "camera_optical_frame")
    frames.add(transforms([("camera_link", "camera_optical_frame", (-0.5, 0.5, -0.5, 0.5))]))
    assert frames.angles_rad() == pytest.approx((0.0, 0.0))


def test_a_circle_of_frames_has_no_end_and_no_angles():
    one = (0.0, 0.0, 0.0, 1.0)
    frames = TfFrames("base", "camera")
    frames.add(transforms([("a", "camera", one), ("camera", "a", one)]))
    assert frames.angles_rad() is None


@pytest.mark.parametrize("quaternion", [(0.0,) * 4, (math.nan, 0.0, 0.0, 1.0), (math.inf,) * 4])
def test_a_rotation_must_be_one(quaternion):
    with pytest.raises(BadMessage, match="rotation that is none"):
        TfFrames("base", "camera").add(transforms([("base", "camera", quaternion)]))


def test_names_of_frames_without_end_are_refused():
    frames = TfFrames("base", "camera")
    one = (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(BadMessage, match="too many frames of tf"):
        frames.add(transforms([("base", f"f{i}", one) for i in range(5000)]))
