"""Generative Video Bi-flow: stream video by solving an ODE from frame to frame (Liu & Ritschel, ICCV 2025)."""

from importlib import import_module

__version__ = "0.1.0"

# The public names and where they live; imported on first use, so that `import biflow` costs nothing.
_HOMES = {
    "bilinear": "paths",
    "forward_line": "paths",
    "backward_line": "paths",
    "denoising_line": "paths",
    "line": "paths",
    "field_along": "paths",
    "Curve": "paths",
    "Fields": "paths",
    "flow_loss": "objectives",
    "biflow_loss": "objectives",
    "condiff_loss": "objectives",
    "Solver": "solvers",
    "SolverError": "solvers",
    "solve": "solvers",
    "NetworkConfig": "config",
    "TrainConfig": "config",
    "VideoUNet": "networks",
    "load_model": "networks",
    "stream": "rollout",
    "rollout": "rollout",
    "denoise": "rollout",
    "sample_generators": "rollout",
    "UserError": "errors",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'biflow' has no attribute {name!r}")
    return getattr(import_module(f"biflow.{_HOMES[name]}"), name)
