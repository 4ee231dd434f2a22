"""Weights to begin a training with: those of another model, whose network may see more or less, or smaller patches."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from biflow import methods
from biflow.actions import Actions
from biflow.config import NetworkConfig
from biflow.errors import UserError
from biflow.methods import Method
from biflow.model import Model
from biflow.networks import VideoUNet
from biflow.tensors import mismatched

log = logging.getLogger("biflow")

VECTOR = "class_embedding.vector."


def start_from(network: VideoUNet, method: Method, actions: Actions | None, context: int, other: Model) -> None:
    """Load the weights of another model into a network of a method, with these actions and this number of past frames.

    The other model is of the same method, of its teacher, or of one that has this method as its teacher: a flow map has
    the field of a BI-FLOW model too. Past frames and actions that only the network knows have no effect until they are
    trained; those that only the other model knows count as unknown from now on. If the patches of the network are k
    times as wide, it treats each block of k×k pixels, in frames of k times the size, as the other model treats a pixel.

    Raises:
        UserError: a model of another method, with other actions, or with a network of another shape.
    """
    folder, unet, own = other.folder, other.weights, network.network
    if other.method.name not in (method.name, method.teacher) and other.method.teacher != method.name:
        what = f"{folder} is a {other.method.title} model; {method.title} cannot begin with it."
        raise UserError(what, setting="init")
    if other.actions and actions and other.actions.columns != actions.columns:
        columns = [", ".join(one.columns) for one in (other.actions, actions)]
        raise UserError(f"The actions of {folder} are {columns[0]}, those of the set {columns[1]}.", setting="init")
    if other.actions and actions and other.actions.ranges != actions.ranges:
        ranges = [", ".join(f"{low:g} to {high:g}" for low, high in one.ranges) for one in (other.actions, actions)]
        what = "so an action means another number to it. To keep them, write them as `ranges` into actions.json."
        log.warning("The actions of %s go from %s, those of the set from %s, %s", folder, *ranges, what)
    assert isinstance(unet, VideoUNet)
    what = f"The network of {folder} has another shape"
    if advice := _differing(own, unet.network, patches=method.teacher is None):
        raise UserError(f"{what}: give {advice}.", setting="init")
    state, expected = dict(unet.state_dict()), network.state_dict()
    for net in (f"nets.{i}." for i in range(len(network.nets))):
        sizes = _sizes(state, net, other.context, other.actions)
        _fit_vector(state, net, sizes, _sizes(expected, net, context, actions))
        _fit_past(state, net, (context - other.context) * 3 * unet.network.patch**2)
        _widen_patches(state, net, unet.network.patch, own.patch)
    state = {name: value for name, value in expected.items() if VECTOR in name} | state
    if bad := mismatched(expected, state):
        raise UserError(f"{what}, beginning with {bad[0]}.", setting="init")
    network.load_state_dict(state)


def field_of(other: Model) -> Model:
    """The BI-FLOW model whose field a flow map has."""
    assert isinstance(other.network, VideoUNet)
    assert other.method.teacher is not None
    method, unet = methods.get(other.method.teacher), other.network
    network = VideoUNet(method, unet.network, v_scale=unet.v_scale, conditions=other.conditions(1))
    start_from(network, method, other.actions, other.context, other)
    return replace(other, network=network.eval(), method=method, folder=None)


def _differing(own: NetworkConfig, theirs: NetworkConfig, *, patches: bool) -> str:
    """What to give for a network to fit weights of another one, whose `patches` may be smaller; nothing if it fits."""
    values = {name: value for name, value in vars(theirs).items() if value != getattr(own, name)}
    if len({frozenset(i % len(one.channels) for i in one.attention) for one in (own, theirs)}) == 1:
        values.pop("attention", None)  # the same, whether counted from the first resolution or from the last
    if patches and own.patch % theirs.patch == 0:
        values.pop("patch", None)
    if not values:
        return ""
    same = " and ".join(f"network.{name} {json.dumps(value)}" for name, value in values.items())
    return f"{same}, as it has" + (", or a multiple of that patch" if patches and "patch" in values else "")


def _sizes(state: dict[str, Tensor], net: str, context: int, actions: Actions | None) -> tuple[int, int, int]:
    """How many numbers of a network's vector are levels of past frames, an action, and others: the length of a jump."""
    levels, action = context, 1 + len(actions.columns) if actions else 0
    weight = state.get(f"{net}{VECTOR}0.weight")
    return levels, action, (0 if weight is None else weight.shape[1] - levels - action)


def _fit_vector(state: dict[str, Tensor], net: str, sizes: Sequence[int], wanted: Sequence[int]) -> None:
    """Let weights for a vector of parts of these sizes take one of the wanted sizes.

    What is left out is from now on what it is where nothing is known: -1 for the level of a past frame, and else 0.
    """
    first, last = f"{net}{VECTOR}0.", f"{net}{VECTOR}2."
    if first + "weight" not in state:
        return
    weight = state[first + "weight"]
    parts, bias = weight.split(list(sizes), dim=1), state[first + "bias"]
    bias = bias - parts[0][:, wanted[0] :].sum(1)
    state[first + "weight"], state[first + "bias"] = weight.new_zeros(len(weight), sum(wanted)), bias
    for part, room in zip(parts, state[first + "weight"].split(list(wanted), dim=1), strict=True):
        both = min(part.shape[1], room.shape[1])
        room[:, :both] = part[:, :both]
    if not any(wanted):
        always = F.linear(F.silu(bias), state[last + "weight"], state[last + "bias"])
        state[f"{net}time_embedding.linear_2.bias"] = state[f"{net}time_embedding.linear_2.bias"] + always
        for name in [name for name in state if name.startswith(net + VECTOR)]:
            del state[name]


def _fit_past(state: dict[str, Tensor], net: str, more: int) -> None:
    """Let the first convolution take more channels, or fewer: past frames are the last ones, the oldest last."""
    state[f"{net}conv_in.weight"] = F.pad(state[f"{net}conv_in.weight"], (0, 0, 0, 0, 0, more))


def _widen_patches(state: dict[str, Tensor], net: str, patch: int, wider: int) -> None:
    """Let weights for patches of patch×patch pixels take and give patches k times as wide, by means of k×k pixels."""
    k, pixel = wider // patch, torch.arange(wider) // (wider // patch)
    of = (pixel[:, None] * patch + pixel).flatten()  # the pixel of the smaller patch, for each of the wider one
    for name, axis in (("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0)):
        value = state[net + name]
        channels = value.unflatten(axis, (-1, patch**2)).index_select(axis + 1, of.to(value.device))
        state[net + name] = channels.flatten(axis, axis + 1) / (k**2 if axis else 1)
