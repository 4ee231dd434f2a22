"""Settings: one dataclass per command, at once its defaults, its command line, its YAML file and its record in JSON.

In a command's dataclass, positional fields are positional arguments, keyword-only fields are options, and the
docstring is the help text. Nothing here imports torch, so that the command line answers quickly.
"""

from biflow.config.data import FetchData, Prepare
from biflow.config.evaluation import Evaluate, FetchWeights, Fvd, Network, Report
from biflow.config.models import Export, ImportReference, Info
from biflow.config.parsing import parse, preset, read_yaml
from biflow.config.solver import SOLVERS, Solver, SolverName
from biflow.config.streaming import Demo, Direction, Engine, Eps, Sample, Serve, Shipped, eps_text
from biflow.config.training import NORM_GROUPS, NetworkConfig, Train, TrainConfig
