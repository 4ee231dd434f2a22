import logging
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from biflow.animation import AnimationWriter
from biflow.config import Prepare
from biflow.data.prepare import prepare
from biflow.errors import UserError
from biflow.evaluation.windows import VideoSet
from biflow.video import VideoWriter


def numbered(path, frames, side=8):
    """A video whose every pixel of frame i is i."""
    np.save(path, np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, side, side, 3)))


def spans(videos):
    return [(number, *frames[:, 0, 0, 0].tolist()[:: videos.window - 1]) for number, frames in videos.clips()]


def test_windows_slide_by_the_stride_and_leave_out_the_rest(tmp_path):
    numbered(tmp_path / "0.npy", 9)
    numbered(tmp_path / "1.npy", 4)
    videos = VideoSet(tmp_path, window=4, stride=2)
    assert videos.survey() == 4
    # (video, first frame, last frame): frame 8 of the first video is in no whole window.
    assert spans(videos) == [(0, 0, 3), (0, 2, 5), (0, 4, 7), (1, 0, 3)]
    assert (videos.videos, videos.frames, videos.short, videos.size) == (2, 13, 0, (8, 8))


def test_a_stride_longer_than_the_window_skips_frames(tmp_path):
    numbered(tmp_path / "0.npy", 10)
    assert spans(VideoSet(tmp_path, window=3, stride=5)) == [(0, 0, 2), (0, 5, 7)]


def test_short_videos_are_left_out_named_and_counted(tmp_path, caplog):
    numbered(tmp_path / "0.npy", 3)
    numbered(tmp_path / "1.npy", 5, side=16)  # its size is the only one that counts
    videos = VideoSet(tmp_path, window=4, stride=4)
    with caplog.at_level(logging.WARNING, "biflow"):
        assert spans(videos) == [(0, 0, 3)]
    assert (videos.videos, videos.short, videos.size) == (1, 1, (16, 16))
    assert "0.npy has 3 frames" in caplog.text


def test_a_prepared_set_gives_the_split_asked_for(tmp_path):
    for clip in range(5):
        numbered(tmp_path / f"{clip}.npy", 6)
    prepared = tmp_path / "prepared"
    prepare(Prepare(tmp_path, prepared, size=8), progress=False)
    sets = {split: VideoSet(prepared, split, window=6, stride=1) for split in ("train", "test", "all")}
    counts = {split: len(spans(videos)) for split, videos in sets.items()}
    assert counts == {"train": 4, "test": 1, "all": 5}


def test_mixed_sizes_are_refused_before_any_work_unless_resized(tmp_path):
    numbered(tmp_path / "0.npy", 4, side=8)
    numbered(tmp_path / "1.npy", 4, side=6)
    with pytest.raises(UserError, match=r"1\.npy has frames of 6x6, others in .* of 8x8; ") as refused:
        VideoSet(tmp_path, window=4, stride=4).survey()
    assert refused.value.setting == "size"
    clips = list(VideoSet(tmp_path, window=4, stride=4, side=6).clips())
    assert [frames.shape for _, frames in clips] == [torch.Size([4, 3, 6, 6])] * 2


def test_a_video_that_changes_its_size_is_refused_even_if_resized(tmp_path):
    for i, side in enumerate((8, 8, 6, 6)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match="changes size from 8x8 to 6x6"):
        list(VideoSet(tmp_path, window=2, stride=1, side=6).clips())


def test_frames_win_over_the_video_made_of_them(tmp_path, caplog):
    # What `biflow sample --png` writes: a video, its frames, and a sheet that is no video.
    Image.new("RGB", (90, 30)).save(tmp_path / "sheet.png")
    (tmp_path / "sample_000").mkdir()
    with VideoWriter(tmp_path / "sample_000.mp4", 25, (8, 8), scale=4) as writer:
        for i in range(4):
            writer.write(torch.full((3, 8, 8), i, dtype=torch.uint8))
            Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "sample_000" / f"{i:06d}.png")
    videos = VideoSet(tmp_path, window=4, stride=1)
    assert videos.survey() == 1
    assert spans(videos) == [(0, 0, 3)]
    assert (videos.short, videos.size) == (0, (8, 8))
    assert "1 of 2 videos are another one's copies" in caplog.text


@pytest.mark.parametrize("suffixes", [("mp4", "gif"), ("webp", "mp4", "gif")])
def test_a_video_in_several_files_counts_once(tmp_path, caplog, suffixes):
    for name, suffix in product(("walk.1", "walk.2"), suffixes):  # two videos, whose dots begin no suffix
        writer = VideoWriter if suffix == "mp4" else AnimationWriter
        with writer(tmp_path / f"{name}.{suffix}", 10, (16, 16)) as written:
            for level in range(0, 160, 40):
                written.write(torch.full((3, 16, 16), level, dtype=torch.uint8))
    videos = VideoSet(tmp_path, window=4, stride=1)
    assert len(list(videos.clips())) == videos.videos == 2
    copies, files = 2 * len(suffixes) - 2, 2 * len(suffixes)
    assert f"{copies} of {files} videos are another one's copies" in caplog.text


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no clips"):
        VideoSet(tmp_path, window=4, stride=4)
