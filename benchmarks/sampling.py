"""What does writing a video cost beside solving its frames?

    python -m benchmarks.sampling [--model MODEL] [--frames 600] [--rounds 3] [--json FILE]

`biflow sample` with its defaults, one video at a time, against draining the same stream without writing anything. Both
make a few frames first and then `--frames` more, in turns; the difference of the two times is that of the frames alone,
without what comes once. Medians over rounds.
"""

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

from tqdm import tqdm

from benchmarks import record
from biflow import drain, load_model, sample_generators, shipped_model, starts, stream, to_float, with_engine
from biflow.config import Sample
from biflow.outputs import sample

FEW = 50  # frames, before the counted ones


def solving(folder: Path, frames: int) -> float:
    """Seconds for so many frames, which nobody writes."""
    begun = time.perf_counter()
    model = with_engine(load_model(folder))
    first = to_float(starts(folder / "first", model.size, samples=1, past=model.context).frames)
    generators = sample_generators(0, range(1))
    for _ in islice(drain(stream(model, first, generators=generators)), frames):
        pass
    return time.perf_counter() - begun


def sampling(folder: Path, frames: int) -> float:
    """Seconds for a video of so many frames."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        sample(Sample(folder, frames=frames, samples=1, out=Path(out) / "out"))
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=shipped_model())
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"solving": [], "sampling": []}
    for _ in tqdm(range(options.rounds), unit="round"):
        for name, make in (("solving", solving), ("sampling", sampling)):
            few, many = (make(options.model, frames) for frames in (FEW, FEW + options.frames))
            seconds[name].append(many - few)
    fps = {name: round(options.frames / median(values), 1) for name, values in seconds.items()}
    result = {"question": "frames/s of biflow sample over those of solving alone", "model": options.model.name}
    result |= {"fps": fps, "ratio": round(fps["sampling"] / fps["solving"], 3), "seconds": seconds}
    print(fps, f"ratio {result['ratio']}")
    record.write(options.json, result)


if __name__ == "__main__":
    main()
