"""The settings of networks and training runs: at once the YAML file, the command line and the checkpoint's metadata."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from biflow.config.checks import as_plain, check, check_batch, check_level, check_seed, check_sides
from biflow.errors import UserError

NORM_GROUPS = 32  # every width of a network is a multiple of it
WIDEST, DEEPEST, CONTEXT = 8192, 16, 256  # widths, resolutions and blocks in each, and past frames of a network
SPAN, SPIN = 64, 16  # frames per solve, and pixels aside


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the network.

    Attributes:
        channels: Width of each resolution, from full to coarsest; multiples of 32.
        layers: Residual blocks per resolution.
        attention: Resolutions with self-attention: indices into the channels, negative ones count from the end.
        head_dim: Channels of an attention head.
        patch: Side of the pixel-unshuffle in front of the UNet and of the pixel-shuffle behind it; 1 for none.
        pair: Use two networks, f^v and f^n, as the reference code trains, instead of the paper's one with two heads.
        time_scale: Factor on t and alpha before their sinusoidal embedding; the reference uses 1.
    """

    channels: tuple[int, ...] = (64, 64, 128)
    layers: int = 1
    attention: tuple[int, ...] = (-1,)
    head_dim: int = 32
    patch: int = 2
    pair: bool = False
    time_scale: float = 1000.0

    def __post_init__(self) -> None:
        if not self.channels:
            raise UserError("network.channels is empty, but must have a width or more.", setting="network.channels")
        if len(self.channels) > DEEPEST:
            message = f"network.channels has {len(self.channels)} widths, but must have at most {DEEPEST}."
            raise UserError(message, setting="network.channels")
        for name, most in (("layers", DEEPEST), ("head_dim", WIDEST), ("patch", 64)):
            if not 1 <= (value := getattr(self, name)) <= most:
                bound = "at least 1" if value < 1 else f"at most {most}"
                message = f"network.{name} is {str(value)[:40]}, but must be {bound}."
                raise UserError(message, setting=f"network.{name}")
        if not 0 < self.time_scale <= 1e6:
            message = f"network.time_scale is {self.time_scale}, but must be above 0 and at most 1000000."
            raise UserError(message, setting="network.time_scale")
        if bad := [c for c in self.channels if c % NORM_GROUPS or c < 1]:
            message = f"network.channels: {bad[0]} is not a multiple of {NORM_GROUPS}, the groups of the norms."
            raise UserError(message, setting="network.channels")
        if max(self.channels) > WIDEST:
            message = f"network.channels: {str(max(self.channels))[:40]} is wider than {WIDEST}."
            raise UserError(message, setting="network.channels")
        if bad := [i for i in self.attention if not -len(self.channels) <= i < len(self.channels)]:
            message = f"network.attention: there is no resolution {bad[0]} among {len(self.channels)} channels."
            raise UserError(message, setting="network.attention")
        narrowest = min(self.channels[i] for i in (*self.attention, -1))  # the middle always has attention
        if self.head_dim > narrowest:
            message = f"network.head_dim is {self.head_dim}, but attention is at a width of {narrowest}."
            raise UserError(message, setting="network.head_dim")

    @property
    def divisor(self) -> int:
        """Frame sides must be multiples of this."""
        return self.patch * 2 ** (len(self.channels) - 1)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the training run. The defaults of the objective and the optimiser are the paper's.

    Attributes:
        method: The method: flow (Eq. 3), biflow (Eq. 5), condiff (Eq. 1 given the current frame), flowmap, which is
            learned from a biflow model (--from) and then takes one evaluation per frame, or sequence, which makes whole
            clips of `span` frames (Eq. 1) and cannot stream.
        steps: Number of optimiser steps.
        batch: Samples per step, over all processes and accumulated parts.
        accumulate: Parts of a batch whose gradients are summed before the step.
        optimizer: "adamw", the paper's, or "muon", which needs about half the steps (docs/lab-notes.md).
        lr: Largest learning rate, reached after the warm-up.
        schedule: Learning rate after the warm-up: constant, or a cosine down to zero at the last step.
        warmup: Steps of linear warm-up.
        weight_decay: Decoupled weight decay.
        clip: Largest norm of the gradient.
        ema: Decay of the averaged weights that streaming uses; 0 for none.
        alpha_max: Largest noise level that BI-FLOW is trained with; it draws from U(0, alpha_max).
        span: How many frames of the videos lie ahead where a frame is solved to. FLOW and BI-FLOW then give as many
            frames per solve. 1 is the paper's. With more, the model sees no past frames and takes no actions. For
            sequence, the number of frames of a clip.
        spin: Largest number of pixels by which frames are moved aside, at random, before they are solved, in training
            and streaming. Patches then leave a weaker grid in a stream (cycle spinning); half a patch is enough. 0, as
            in the paper, for none. SEQUENCE, which makes whole clips, does without.
        path: The path of training from the current frame to the one `span` frames ahead: "linear", the paper's,
            which mixes these two; "knots", straight lines from each frame to the next; or "cubic", a smooth
            curve through all of them. With a span of 1 they are the same.
        context: Number of past frames that the network sees beside the current one; 0 is the paper's.
        context_noise: Largest noise level on past frames in training. Each has its own from U(0, context_noise), which
            the network is told.
        context_eps: Noise level on past frames in streaming.
        own_frames: Share of the samples that begin with frames of the model's own, as in streaming, instead of the
            clip's.
        init: A run, a model folder, or the id of a model on the Hugging Face Hub, to take the first weights from. It
            may have another context, no actions, or smaller patches, for frames that are as much smaller. Of a flow
            map, BI-FLOW takes the field.
        coarse_noise: Share of coarse parts in BI-FLOW's training noise, which teach it to undo a drift of colours; 0
            is the paper's white noise. See `biflow.methods.noise`.
        v_scale: Unit in which the network predicts f^v; the loss weighs its term with 1 / v_scale². By default the rms
            of x1 - x0 over the training set, so that motion, however slow, weighs as much as noise does. 1 is the
            paper's plain sum, with which f^v learns almost nothing in a run of a few hours. CONDIFF and
            SEQUENCE, which start from noise, do not use it.
        precision: Number format of the computation. "auto" is bf16 where the hardware computes in it (CUDA, AMX,
            AVX-512 BF16), else fp32.
        compile: Compile the network with torch.compile. The first step then takes minutes.
        seed: Seed of the initial weights, the order of the samples and the noise.
        log_every: Steps between lines of the log.
        logger: Where the log goes besides log.jsonl: TensorBoard, or Weights & Biases (wandb, which has to be installed
            and knows the modes WANDB_MODE=online, offline and disabled).
        save_every: Steps between checkpoints.
        preview_every: Steps between previews; 0 for none. The first ones come earlier: after 50, 100, 200, 400 … steps.
        eps: Noise level of the previews, and the model's default for streaming, for methods that take one.
        network: The shape of the network.
    """

    method: str = "biflow"
    steps: int = 200_000
    batch: int = 128
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.9999
    alpha_max: float = 1.0
    span: int = 1
    spin: int = 0
    path: Literal["linear", "knots", "cubic"] = "linear"
    context: int = 0
    context_noise: float = 0.3
    context_eps: float = 0.1
    own_frames: float = 0.0
    init: str | None = None
    coarse_noise: float = 0.0
    v_scale: float | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    seed: int = 0
    log_every: int = 50
    logger: Literal["tensorboard", "wandb"] = "tensorboard"
    save_every: int = 1000
    preview_every: int = 5000
    eps: float = 0.1
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def __post_init__(self) -> None:
        as_plain(self)
        check(self, "be at least 1", lambda n: n >= 1, "steps", "accumulate", "log_every", "save_every")
        check_batch(self)
        check(self, "be at least 1", lambda n: n >= 1, "span", most=SPAN)
        if self.span > 1 and (self.context or self.own_frames):
            what = "a model that solves several frames at once sees no past frames and trains on none of its own"
            raise UserError(f"span is {self.span}, but {what}: use context=0 and own_frames=0.", setting="span")
        check_level(self, "coarse_noise", "eps", "context_noise", "context_eps")
        check(self, "not be negative", lambda n: n >= 0, "warmup", "preview_every")
        check(self, "not be negative", lambda n: n >= 0, "context", most=CONTEXT)
        check(self, "not be negative", lambda n: n >= 0, "spin", most=SPIN)
        check(self, "not be negative", lambda value: 0 <= value < float("inf"), "weight_decay")
        check(self, "be at least 0 and at most 1", lambda value: 0 <= value <= 1, "own_frames")
        check(self, "be positive", lambda value: 0 < value < float("inf"), "lr", "alpha_max")
        check(self, "be from 1e-6 to 1e6", lambda value: 1e-6 <= value <= 1e6, "v_scale")
        if self.init == "":
            raise UserError("init is empty: name a run or a model, or leave it out.", setting="init")
        check(self, "be positive", lambda value: value > 0, "clip")
        check(self, "be at least 0 and below 1", lambda value: 0 <= value < 1, "ema")
        check_seed(self)


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Train a model by one of the methods. The same command again resumes from the newest checkpoint in OUT.

    Attributes:
        data: A prepared set, or anything that `biflow prepare` takes.
        out: The folder of the run. An interrupted run in it is resumed.
        preset: Where settings come from that neither an option nor CONFIG gives: "own" is for your own clips on a CPU,
            "base" for frames of 128x128 on a graphics card, "maze" for a model to steer, "compare" for comparing the
            methods, and "paper" has the paper's. The defaults shown here are those of "own".
        config: A YAML file with any of these settings. Options override it, and it overrides the preset.
        size: Side of the frames, where DATA is not prepared yet.
        new_data: What to do if DATA is not what the run in OUT was trained on: refuse to resume, or accept the new
            data. The unit of the motion, v_scale, stays that of the weights, and a new pass over the data begins.
        processes: Processes that share each batch, of one thread each, on a CPU. By default as many as there are cores,
            and one for a model so small that more would not be faster.
        dry_run: Print the settings and stop.

    Examples:
        biflow train --data datasets/mine --out runs/mine
        biflow train --data my_clips --out runs/short --steps 2000 --network.channels "[64, 64]"
        biflow train --preset base --data datasets/mine --out runs/large
        accelerate launch -m biflow.cli train --preset base --data datasets/mine --out runs/large
    """

    data: Path
    out: Path
    preset: str = "own"
    config: Path | None = None
    size: int = 64
    new_data: Literal["refuse", "accept"] = "refuse"
    processes: int | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "be at least 1", lambda n: n >= 1, "processes")
        check_sides(self)

    @property
    def settings(self) -> TrainConfig:
        """What the run's checkpoints record: all but where it reads and writes."""
        return TrainConfig(**{item.name: getattr(self, item.name) for item in fields(TrainConfig)})
