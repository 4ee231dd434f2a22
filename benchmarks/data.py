"""How much faster are pairs of frames from a prepared set than pairs decoded from JPEG files each time?

    python -m benchmarks.data [--json FILE]

A clip of 640x360 JPEG frames is rendered and prepared at 64x64, and random pairs are drawn from both on one core. They
take turns, so that neither profits from a quiet moment of the machine. The clip is small and stays in memory for both;
a memory map larger than the processor's caches is two to three times slower. The target is a factor of 50 for batches.

A second row is for `biflow.films.decode`, which passes each frame through FFmpeg's filters: frames per second of a
640x360 H.264 film over those of PyAV alone, as biflow read films before. The target is 0.9.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks import record
from biflow.config import Prepare
from biflow.data.prepare import prepare
from biflow.data.windows import Windows
from biflow.films import decode
from biflow.video import VideoWriter, read_image

FRAMES, SIZE, BATCH, ROUNDS = 96, 64, 32, 12
TARGET = 50
FILM_TARGET = 0.9
FILM_FRAMES = 10 * FRAMES


def render(folder: Path) -> list[Path]:
    """Frames of moving shapes over noise, JPEG quality 90: about as hard to decode as camera frames."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 60, (360, 640, 3), dtype=np.uint8))
    shapes = rng.integers(0, 255, (12, 5))
    paths = []
    for index in range(FRAMES):
        frame = noise.copy()
        draw = ImageDraw.Draw(frame)
        for x, y, *colour in shapes.tolist():
            left, top = (2 * x + 3 * index) % 640, (y + index) % 360
            draw.ellipse((left, top, left + 80, top + 60), fill=tuple(colour))
        paths.append(folder / f"{index:04d}.jpg")
        frame.save(paths[-1], quality=90)
    return paths


def film(path: Path, pictures: list[Path]) -> None:
    """The pictures, forwards and backwards in turns, as H.264."""
    order = [*pictures, *pictures[::-1]]
    with VideoWriter(path, 25, (360, 640)) as writer:
        for index in range(FILM_FRAMES):
            writer.write(read_image(order[index % len(order)]))


def plain(path: Path) -> Iterator[torch.Tensor]:
    """The frames by PyAV alone, which sees neither time stamps nor orientation, HDR or alpha."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            yield torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).contiguous()


def measure_films() -> dict:
    """Frames per second of both ways to read a film, as medians over rounds in which they take turns."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "film.mp4"
        film(path, render(Path(temporary)))
        for one, other in zip(decode(path).frames, plain(path), strict=True):
            assert torch.equal(one, other)
        seconds = {"filters": [], "plain": []}
        for _ in range(ROUNDS):
            for name, read in (("filters", lambda: decode(path).frames), ("plain", lambda: plain(path))):
                start = time.perf_counter()
                count = sum(1 for _ in read())
                assert count == FILM_FRAMES
                seconds[name].append(time.perf_counter() - start)
    rates = {name: round(FILM_FRAMES / float(np.median(times)), 1) for name, times in seconds.items()}
    return {
        "question": "frames/s of a 640x360 H.264 film: FFmpeg's filter graph against PyAV alone",
        "frames_per_second": rates,
        "ratio": round(rates["filters"] / rates["plain"], 3),
        "target": FILM_TARGET,
    }


def measure() -> dict:
    """Pairs per second of each of the three ways, as medians over rounds in which they take turns."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        clip = Path(temporary) / "clip"
        clip.mkdir()
        paths = render(clip)
        prepared = Path(temporary) / "prepared"
        prepare(Prepare(clip, prepared, size=SIZE, split=1.0), progress=False)
        windows = Windows(prepared)
        rng = np.random.default_rng(1)

        def from_jpeg(indices: np.ndarray) -> torch.Tensor:
            return torch.stack([torch.stack([read_image(paths[j], SIZE) for j in (i, i + 1)]) for i in indices])

        def single(indices: np.ndarray) -> torch.Tensor:
            return torch.stack([windows[i] for i in indices])

        ways = {"decode": (from_jpeg, 1), "prepared_single": (single, 50), "prepared_batch": (windows.batch, 50)}
        indices = rng.integers(0, len(windows), BATCH)
        assert torch.equal(from_jpeg(indices), single(indices))  # the same pairs, bit by bit
        assert torch.equal(single(indices), windows.batch(indices))
        seconds = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (way, repeats) in ways.items():
                draws = rng.integers(0, len(windows), (repeats, BATCH))
                start = time.perf_counter()
                for indices in draws:
                    way(indices)
                seconds[name].append((time.perf_counter() - start) / repeats)
    rates = {name: round(BATCH / float(np.median(times)), 1) for name, times in seconds.items()}
    return {
        "question": f"pairs/s at {SIZE}x{SIZE}: prepared memory map against decoding two 640x360 JPEG frames",
        "pairs_per_second": rates,
        "ratio_batch": round(rates["prepared_batch"] / rates["decode"], 1),
        "ratio_single": round(rates["prepared_single"] / rates["decode"], 1),
        "target": TARGET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the result to this file, with machine, versions and commit")
    options = parser.parse_args()
    result = measure()
    result["films"] = films = measure_films()
    for name, rate in result["pairs_per_second"].items():
        print(f"{name:16} {rate:12,.1f} pairs/s")
    print(f"batches of {BATCH}: {result['ratio_batch']}x, single pairs: {result['ratio_single']}x (target {TARGET}x)")
    print(f"films, filters over PyAV alone: {films['ratio']} (target {FILM_TARGET})")
    record.write(options.json, result)


if __name__ == "__main__":
    main()
