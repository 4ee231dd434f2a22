"""Generative Video Bi-flow: stream video by solving an ODE from frame to frame (Liu & Ritschel, ICCV 2025).

Load a model and stream from it:

>>> import biflow
>>> model = biflow.load_model(biflow.shipped_model())
>>> first = biflow.first_frames(model.folder / "first", model.size, samples=1)  # uint8 (1, 3, 64, 64)
>>> for frame in biflow.stream(model, biflow.to_float(first), eps=0.2):
...     if frame.time == 3:  # frame.x is (1, 3, 64, 64) in [-1, 1]; the stream itself has no end
...         break

`biflow.with_engine(model)` evaluates the network in the fastest way of this machine. `biflow.train` makes a model from
a prepared set of clips. The method in equations is in `biflow.paths`, `biflow.methods` and `biflow.solvers`.
"""

import lazy_loader

__version__ = "0.2.0.dev0"

# The public names stand in __init__.pyi, for type checkers as well; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
