"""The six published video sets of the paper: where they are, under which terms, and how their owners ship them.

Addresses are those that the owners' own repositories name (given with each set). None of them publishes a checksum.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published set.

    files: (address, sha256 or None) of the archives; listing: a web page whose links to zips are the archives instead.
    Neither: the set can only be had by hand, from `page`, as `manual` says.
    """

    title: str
    page: str
    licence: str
    form: str
    split: str
    size: int
    files: tuple[tuple[str, str | None], ...] = ()
    listing: str | None = None
    manual: str | None = None


_LONG_VIDEO_GAN = "https://nvlabs-fi-cdn.nvidia.com/long-video-gan/datasets"
_FRAME_ZIPS = "shards, each a zip of jpg frames, VIDEO/INTERVAL/frame_000000.jpg, one folder a clip, 144x256"

DATASETS: dict[str, Published] = {
    "sky": Published(
        title="SKY, time-lapse videos of the sky (Xiong et al., CVPR 2018)",
        page="https://github.com/weixiong-ur/mdgan",
        licence="SKY: its authors state no licence and the videos come from YouTube; clear your use of it with them.",
        form="sky_timelapse.zip: folders of jpg frames below sky_train/ and sky_test/, up to 32 frames a clip",
        split="the owners', by folder",
        size=128,
        # Both links are Google Drive, which asks for a click: that of MDGAN's README, and that of ryushinn/ode-video's.
        manual="https://drive.google.com/file/d/1xWLiU-MBGN7MrsFHQm4_yXmfHBsMbJQo",
    ),
    "biking": Published(
        title="BIKING, first-person mountain biking (Brooks et al., NeurIPS 2022; videos by Brian Kennedy)",
        page="https://github.com/NVlabs/long-video-gan",
        licence="BIKING is under CC BY 4.0, https://creativecommons.org/licenses/by/4.0/.",
        form=_FRAME_ZIPS,
        split="80/20 by clip, seeded",
        size=128,
        listing=f"{_LONG_VIDEO_GAN}/biking/0144x0256/",
    ),
    "riding": Published(
        title="RIDING, first-person horseback riding (Brooks et al., NeurIPS 2022; videos by Elisa Wallace Eventing)",
        page="https://github.com/NVlabs/long-video-gan",
        licence="RIDING is under CC BY-NC-SA 4.0, https://creativecommons.org/licenses/by-nc-sa/4.0/: for research and "
        "evaluation that is not commercial, not to be redistributed without consent from Elisa Wallace Eventing.",
        form=_FRAME_ZIPS,
        split="80/20 by clip, seeded",
        size=128,
        listing=f"{_LONG_VIDEO_GAN}/horseback/0144x0256/",
    ),
    "carla": Published(
        title="CARLA Town01 without traffic (Harvey et al., NeurIPS 2022)",
        page="https://github.com/plai-group/flexible-video-diffusion-modeling",
        licence="CARLA Town01: its authors state no licence for the videos; clear your use of them with them.",
        form="no-traffic.tar.gz: video_N.pt, uint8 (T, H, W, C), 128x128, with video_train.csv and video_test.csv",
        split="the owners', by the two lists",
        size=128,
        files=(("https://www.cs.ubc.ca/~wsgh/fdm/carla/no-traffic.tar.gz", None),),  # datasets/carla/download.sh
    ),
    "mazes": Published(
        title="MAZES, GQN mazes as videos (Eslami et al. 2018; Saxena et al. 2021)",
        page="https://archive.org/details/gqn_mazes",
        licence="MAZES: the terms are on https://archive.org/details/gqn_mazes; read them before you use it.",
        form="gqn_mazes.zip: mp4 files, 64x64, 300 frames, in train/ and test/",
        split="the owners', by folder",
        size=64,
        files=(("https://archive.org/download/gqn_mazes/gqn_mazes.zip", None),),  # vaibhavsaxena11/cwvae, gqn_mazes.py
    ),
    "minerl": Published(
        title="MINERL, walks in Minecraft (Guss et al. 2019; Saxena et al. 2021)",
        page="https://archive.org/details/minerl_navigate",
        # As the owners' package on PyPI (minerl-navigate 1.1.0) says, and its code has the address and the folders.
        licence="MINERL is under CC BY-NC-SA 4.0, https://creativecommons.org/licenses/by-nc-sa/4.0/.",
        form="minerl_navigate.zip: mp4 files, 64x64, 500 frames, in minerl_navigate/train/ and minerl_navigate/test/",
        split="the owners', by folder",
        size=64,
        files=(("https://archive.org/download/minerl_navigate/minerl_navigate.zip", None),),
    ),
}
