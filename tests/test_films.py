from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from biflow import films
from biflow.errors import UserError
from tests.making_films import (
    BLUE,
    GREEN,
    RED,
    YELLOW,
    grey,
    middles,
    of_planes,
    quadrants,
    set_display_matrix,
    write_film,
)

PATCHES = [list(colour) for colour in (RED, GREEN, BLUE, YELLOW)]


def decoded(path):
    video = films.decode(path)
    return video, list(video.frames)


def away(frame, colours):
    """The largest difference of a frame's four patches from these colours."""
    return np.abs(np.array(middles(frame)) - np.array(colours)).max()


@pytest.mark.parametrize(
    ("matrix", "lying"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((0, 1, -1, 0), lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, -1)),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda p: np.rot90(p.transpose(1, 0, 2), 2)),
    ],
)
def test_every_display_matrix_is_turned_upright(tmp_path, matrix, lying):
    set_display_matrix(write_film(tmp_path / "a.mp4", [lying(quadrants(96, 64))] * 2), *matrix)
    video, frames = decoded(tmp_path / "a.mp4")
    assert frames[1].shape == (3, 96, 64)
    assert away(frames[1], PATCHES) <= 6
    assert video.changes == ([] if matrix == (1, 0, 0, 1) else ["turned upright"])


def test_a_film_of_rgba_is_turned_upright_as_well(tmp_path):
    opaque = np.dstack([quadrants(96, 64), np.full((96, 64), 255, np.uint8)])
    set_display_matrix(write_film(tmp_path / "a.mov", [opaque[::-1]] * 2, codec="png", pixels="rgba"), 1, 0, 0, -1)
    _, frames = decoded(tmp_path / "a.mov")
    assert away(frames[1], PATCHES) == 0


def hdr_signal(colours, curve):
    """sRGB colours as an HDR signal of BT.2020 primaries, with the white of SDR at 203 nits (BT.2408)."""
    signal = colours / 255
    light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    light = light @ np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]).T
    if curve == "pq":  # SMPTE ST 2084
        y = (light * 203 / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    luma = (light @ [0.2627, 0.6780, 0.0593])[..., None]
    scene = np.maximum(0.265 * light * luma ** (1 / 1.2 - 1), 0)  # BT.2100, for a display of 1000 nits
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


def ycbcr(rgb, kr, kb, depth=8):
    """R'G'B' in [0, 1] as limited-range Y'CbCr 4:2:0 (H.273)."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    halved = [c[::2, ::2] for c in ((blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr))]
    unit, kind = 2 ** (depth - 8), np.uint8 if depth == 8 else np.uint16
    planes = [(16 + 219 * luma) * unit, *((128 + 224 * c) * unit for c in halved)]
    form = "yuv420p" if depth == 8 else "yuv420p10le"
    return of_planes([plane.round().astype(kind) for plane in planes], form)


# FFmpeg takes 4 s of CPU to set this up.
@pytest.mark.parametrize(("curve", "number"), [("hlg", 18), pytest.param("pq", 16, marks=pytest.mark.slow)])
def test_hdr_is_mapped_to_sdr(tmp_path, curve, number):
    frames = [ycbcr(hdr_signal(quadrants(), curve), 0.2627, 0.0593, 10) for _ in range(2)]
    tags = {"color_primaries": 9, "color_trc": number, "colorspace": 9, "color_range": 1}
    options = {"crf": "4", "x265-params": "log-level=none:bframes=0"}
    write_film(tmp_path / "a.mov", frames, codec="libx265", pixels="yuv420p10le", options=options, tags=tags)
    video, frames = decoded(tmp_path / "a.mov")
    assert away(frames[0], PATCHES) <= 18  # as SDR it would be off by 60 and more
    assert video.changes == [f"mapped from HDR ({curve.upper()}) to SDR"]


def test_untagged_film_is_bt709_if_it_is_more_than_standard_definition(tmp_path):
    for height, width, kr, kb in ((480, 640, 0.299, 0.114), (720, 1280, 0.2126, 0.0722)):
        picture = ycbcr(quadrants(height, width) / 255, kr, kb)
        write_film(tmp_path / "a.mp4", [picture], options={"crf": "5", "preset": "ultrafast"})
        (frame,) = decoded(tmp_path / "a.mp4")[1]
        assert away(frame, PATCHES) <= 6


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels", "options"),
    [
        ("mov", "png", "rgba", None),
        ("mov", "qtrle", "argb", None),
        ("mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
        ("webm", "libvpx", "yuva420p", {"auto-alt-ref": "0", "b:v": "2M", "crf": "10"}),
        ("webm", "libvpx-vp9", "yuva420p", {"b:v": "2M", "crf": "10"}),
    ],
)
def test_transparent_film_lies_over_black(tmp_path, suffix, codec, pixels, options):
    picture = np.dstack([np.random.default_rng(0).integers(0, 255, (64, 64, 3)), np.zeros((64, 64))]).astype(np.uint8)
    picture[16:48, 16:48] = (240, 140, 20, 255)  # around it lies noise that is not to be seen
    write_film(tmp_path / f"a.{suffix}", [picture] * 3, codec=codec, pixels=pixels, options=options)
    video, frames = decoded(tmp_path / f"a.{suffix}")
    assert len(frames) == 3
    assert (frames[1].float().mean((1, 2)) - torch.tensor([60.0, 35, 5])).abs().max() < 4
    assert frames[1][:, :12].float().mean() < 3
    assert video.changes == ["put over black where it is transparent"]


def test_pixels_become_square(tmp_path):
    write_film(tmp_path / "a.mp4", [quadrants(64, 48)], ratio=Fraction(4, 3))
    video, (frame,) = decoded(tmp_path / "a.mp4")
    assert frame.shape == (3, 64, 64)
    assert away(frame, PATCHES) <= 6
    assert video.changes == ["made square in its pixels"]


@pytest.mark.parametrize("first", ["tff", "bff"])
def test_interlaced_film_has_no_combs(tmp_path, first):
    pictures = []
    for step in range(12):
        fields = [np.roll(grey(40, 64, 96), 0, 1) for _ in range(2)]
        for field, picture in enumerate(fields):
            left = 4 + 6 * step + 3 * field  # a bar that moves between the two fields
            picture[:, left : left + 8] = 220
        woven = fields[0].copy()
        upper = 0 if first == "tff" else 1
        woven[upper::2], woven[1 - upper :: 2] = fields[0][upper::2], fields[1][1 - upper :: 2]
        pictures.append(woven)
    options = {"flags": "+ildct+ilme", "x264-params": f"{first}=1", "crf": "5", "bf": "0"}
    write_film(tmp_path / "a.mp4", pictures, options=options)
    video, frames = decoded(tmp_path / "a.mp4")
    assert len(frames) == len(video.times) - 1 == 12
    light = torch.stack(frames[2:-2]).float().mean(1)
    combs = (light[:, 1:-1] - (light[:, :-2] + light[:, 2:]) / 2).abs().mean()
    raw = torch.from_numpy(np.stack(pictures[2:-2])).float().mean(-1)
    assert combs < 0.1 * (raw[:, 1:-1] - (raw[:, :-2] + raw[:, 2:]) / 2).abs().mean()
    assert video.changes == ["deinterlaced"]


def test_rates_come_from_time_stamps(tmp_path):
    stamps = np.cumsum(np.r_[0, np.random.default_rng(0).uniform(0.028, 0.040, 60)])
    live = {"options": {"b:v": "1M"}, "container": {"live": "1"}, "codec": "libvpx"}
    write_film(tmp_path / "browser.webm", [grey(90)] * 61, fps=1000, times=stamps, **live)
    assert films.decode(tmp_path / "browser.webm").fps == pytest.approx(1 / np.diff(stamps).mean(), rel=0.05)
    dark = np.r_[np.arange(30) / 30, 1 + np.arange(10) / 10, 2 + np.arange(30) / 30]  # the phone slows down
    write_film(tmp_path / "phone.mp4", [grey(90)] * 70, fps=30, times=dark)
    video, frames = decoded(tmp_path / "phone.mp4")
    assert video.fps == 30
    assert len(frames) == 70
    assert video.times == pytest.approx([*dark, 3.0], abs=2e-3)
    write_film(tmp_path / "ntsc.mp4", [grey(90)] * 8, fps=30000 / 1001)
    assert films.decode(tmp_path / "ntsc.mp4").fps == 29.97
    stills = [Image.fromarray(grey(level)) for level in (10, 90, 170)]
    stills[0].save(tmp_path / "held.gif", save_all=True, append_images=stills[1:], duration=[50, 2000, 50])
    video, frames = decoded(tmp_path / "held.gif")
    assert video.fps == 20
    assert video.times == pytest.approx([0, 0.05, 2.05, 2.1])


def test_same_time_stamps_give_no_nonsensical_rate(tmp_path):
    write_film(tmp_path / "a.mkv", [grey(90)] * 3, fps=1000, times=[0, 0.001, 0.002], codec="mjpeg", pixels="yuvj420p")
    assert films.decode(tmp_path / "a.mkv").fps is None


def test_a_cut_without_encoding_anew_hides_its_lead_in(tmp_path, caplog):
    pictures = [grey(3 * i) for i in range(75)]
    write_film(tmp_path / "whole.mp4", pictures, options={"crf": "1", "g": "60"})
    with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(tmp_path / "cut.mp4"), "w") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        shift = round(1.4 / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None and packet.pts < 2 * shift:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                out.mux(packet)
    _, frames = decoded(tmp_path / "cut.mp4")
    assert frames[0].float().mean() == pytest.approx(3 * 35, abs=3)
    assert frames[-1].float().mean() == pytest.approx(3 * 69, abs=3)
    assert len(frames) == 35
    assert not caplog.text


def test_a_cover_picture_is_not_the_film(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 200, 200, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        cover_frame = av.VideoFrame.from_ndarray(np.full((200, 200, 3), (255, 0, 255), np.uint8), format="rgb24")
        out.mux(cover.encode(cover_frame.reformat(format="yuvj420p")))
        for _ in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey(90), format="rgb24")))
        out.mux(stream.encode(None))
    _, frames = decoded(tmp_path / "a.mkv")
    assert len(frames) == 5
    assert frames[0].shape == (3, 32, 48)


def test_sound_with_a_cover_is_not_a_film(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as out:
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 200, 200, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((200, 200, 3), 90, np.uint8), format="rgb24")
        out.mux(cover.encode(picture.reformat(format="yuvj420p")))
        out.mux(cover.encode(None))
    with pytest.raises(UserError, match=r"song\.mp4 has only a cover picture"):
        films.decode(tmp_path / "song.mp4")


@pytest.mark.parametrize("name", ["12:30.mp4", "file:x.mp4", "100%.mp4", "a\nb.mp4", "#1?.mp4", "übung 🎞.mp4"])
def test_names_may_have_any_characters(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_film(name, [grey(90)] * 2)
    assert len(decoded(name)[1]) == 2


@pytest.mark.parametrize(
    ("suffix", "codec", "form"),
    [
        ("avi", "mjpeg", "avi"),
        ("webm", "libvpx", "webm"),
        ("gif", "gif", "gif"),
        ("mpg", "mpeg1video", "mpeg"),
        ("mts", "mpeg2video", "mpegts"),
        ("wmv", "wmv2", "asf"),
        ("flv", "flv", "flv"),
        ("3gp", "libx264", "3gp"),
        ("ogv", "libvpx", "ogg"),
        ("mxf", "mpeg2video", "mxf"),
        ("y4m", "wrapped_avframe", "yuv4mpegpipe"),
        ("h264", "libx264", "h264"),
    ],
)
def test_other_containers_are_read(tmp_path, suffix, codec, form):
    pixels = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
    options = None if codec == "libx264" else {"q:v": "2"} if "mpeg" in codec or codec in ("flv", "wmv2") else {}
    levels = np.linspace(0, 255, 6).astype(int)
    pictures = [av.VideoFrame.from_ndarray(grey(level), format="rgb24").reformat(format=pixels) for level in levels]
    path = write_film(tmp_path / f"a.{suffix}", pictures, codec=codec, pixels=pixels, form=form, options=options)
    assert f".{suffix}" in films.VIDEO_SUFFIXES
    video, frames = decoded(path)
    assert video.fps == 25
    assert [frame.float().mean().item() for frame in frames] == pytest.approx(levels, abs=12)


def noise(count=40):
    pictures = np.random.default_rng(0).integers(0, 255, (count, 32, 48, 3), np.uint8)
    return list(pictures)


def test_damaged_films_are_refused(tmp_path):
    data = write_film(tmp_path / "whole.mp4", noise()).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.mp4").write_text("not a film")
    for name in ("cut.mp4", "text.mp4"):
        with pytest.raises(UserError, match=f"{name} cannot be opened as a video"):
            films.decode(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        films.decode(tmp_path / "none.mp4")
    hurt = bytearray(data)
    hurt[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    (tmp_path / "hurt.mp4").write_bytes(hurt)
    with pytest.raises(UserError, match=r"hurt\.mp4 is damaged"):
        decoded(tmp_path / "hurt.mp4")


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_damage_that_a_decoder_would_conceal_is_damage(tmp_path, suffix):
    path = write_film(tmp_path / f"a.{suffix}", noise(), codec="libx264")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(1).integers(0, 255, 400, np.uint8).tobytes()
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.{suffix} is damaged"):
        decoded(path)


def test_a_file_that_ends_early_is_reported(tmp_path, caplog):
    data = write_film(tmp_path / "whole.mkv", noise()).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    assert 5 < len(decoded(tmp_path / "cut.mkv")[1]) < 35
    assert "of about 40 frames; it may be cut short" in caplog.text


def test_a_broadcast_that_was_cut_begins_at_its_next_key_frame(tmp_path):
    pictures = [quadrants()] * 60
    data = write_film(tmp_path / "a.ts", pictures, form="mpegts", options={"crf": "12", "g": "20"}).read_bytes()
    packet = 188
    (tmp_path / "cut.ts").write_bytes(data[len(data) // packet // 4 * packet :])
    _, frames = decoded(tmp_path / "cut.ts")
    assert len(frames) == 40
    assert all(away(frame, PATCHES) <= 6 for frame in frames)


def test_joined_recordings_are_one_film(tmp_path):
    parts = [write_film(tmp_path / f"{i}.ts", [grey(level)] * 20, form="mpegts") for i, level in enumerate((60, 180))]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    video, frames = decoded(tmp_path / "joined.ts")
    assert [round(frame.float().mean().item() / 60) for frame in frames] == [1] * 20 + [3] * 20
    assert np.diff(video.times) == pytest.approx(0.04, abs=0.01)


def test_sound_may_begin_in_the_middle(tmp_path):
    path = write_film(tmp_path / "a.flv", [grey(90, 16, 16)] * 1000, codec="flv1", form="flv")
    data = path.read_bytes()
    tags = [13]  # where each begins, behind the header: kind, size, time, number, content, and its size again
    while tags[-1] < len(data):
        tags.append(tags[-1] + 15 + int.from_bytes(data[tags[-1] + 1 : tags[-1] + 4], "big"))
    late, sound = tags[900], b"\x2f" + bytes(100)
    tag = b"\x08" + len(sound).to_bytes(3, "big") + data[late + 4 : late + 8] + bytes(3) + sound
    path.write_bytes(data[:late] + tag + len(tag).to_bytes(4, "big") + data[late:])
    assert len(decoded(path)[1]) == 1000


def test_a_jump_of_the_clock_is_left_out(tmp_path):
    times = [*np.arange(10) / 25, *(36000 + np.arange(10) / 25)]
    write_film(tmp_path / "a.mkv", [grey(90)] * 20, times=times)
    video, frames = decoded(tmp_path / "a.mkv")
    assert len(frames) == 20
    assert video.times[-1] == pytest.approx(0.8, abs=0.05)
    assert video.changes == ["taken without breaks in its time stamps"]


def test_tags_that_are_not_utf8_do_not_matter(tmp_path):
    path = write_film(tmp_path / "a.avi", [grey(90)] * 3, codec="mjpeg", pixels="yuvj420p")
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.avi"), "w") as out:
        out.metadata["title"] = "Titlex"
        copy = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    path = tmp_path / "b.avi"
    path.write_bytes(path.read_bytes().replace(b"Titlex", b"Titl\xe9\xe8"))
    assert len(decoded(path)[1]) == 3


def test_lists_of_other_files_are_not_followed(tmp_path):
    write_film(tmp_path / "a.mp4", [grey(90)] * 2)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    (tmp_path / "play.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "call.mp4").write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 0 RTP/AVP 96\n")
    for name in ("list.mp4", "play.mp4", "call.mp4"):
        with pytest.raises(UserError, match="cannot be opened as a video"):
            films.decode(tmp_path / name)
