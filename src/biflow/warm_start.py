"""Weights to begin a training with: those of another model, whose network may see less or have smaller patches."""

import json
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from biflow import methods
from biflow.actions import Actions
from biflow.errors import UserError
from biflow.methods import Method
from biflow.model import Model
from biflow.networks import VideoUNet
from biflow.tensors import mismatched

VECTOR = ".class_embedding.vector."


def start_from(network: VideoUNet, method: Method, actions: Actions | None, context: int, other: Model) -> None:
    """Load the weights of another model into a network of a method.

    The other model is of the same method or of its teacher, or learned from a teacher of this method: of a flow map
    BI-FLOW takes the field, which its jumps of length 0 are. Past frames and actions that the other one did not know
    have no effect until they are trained. Where the patches of the network are k times as wide, it does with frames of
    k times the size what the other one does with their k×k means.

    Raises:
        UserError: a model of another method, with other actions or of another shape.
    """
    folder = other.folder
    of_map = other.method.teacher == method.name
    if other.method.name not in (method.name, method.teacher) and not of_map:
        what = f"{folder} is a {other.method.title} model; {method.title} cannot begin with it."
        raise UserError(what, setting="init")
    if other.actions and actions and other.actions.columns != actions.columns:
        columns = [", ".join(one.columns) for one in (other.actions, actions)]
        raise UserError(f"The actions of {folder} are {columns[0]}, those of the set {columns[1]}.", setting="init")
    state, expected = dict(other.weights.state_dict()), network.state_dict()
    if of_map:
        _forget_jumps(state)
    if isinstance(other.weights, VideoUNet) and method.teacher is None:
        _widen_patches(state, other.weights.network.patch, network.network.patch)
    _add_conditions(state, expected, other.context, context)
    if bad := mismatched(expected, state):
        raise UserError(f"The network of {folder} has another shape{_differing(network, other, bad)}.", setting="init")
    network.load_state_dict(state)


def _add_conditions(state: dict[str, Tensor], expected: Mapping[str, Tensor], levels: int, context: int) -> None:
    """Let the weights take the conditions that are expected beside theirs, without effect.

    Their first `levels` numbers of the vector are levels of noise, of which a network with `context` takes as many. An
    action and the length of a jump follow.
    """
    for name, value in expected.items():
        own = state.get(name)
        if own is None and VECTOR in name:
            state[name] = value
        elif own is not None and _narrower(own, value):
            wider = torch.zeros_like(value)
            if name.endswith("conv_in.weight"):  # past frames are the last channels, the oldest last
                wider[:, : own.shape[1]] = own
            elif name.endswith(f"{VECTOR}0.weight"):
                wider[:, :levels] = own[:, :levels]
                wider[:, context : context + own.shape[1] - levels] = own[:, levels:]
            else:
                continue
            state[name] = wider


def field_of(other: Model) -> Model:
    """The BI-FLOW model whose field a flow map has."""
    assert isinstance(other.network, VideoUNet)
    assert other.method.teacher is not None
    method, unet = methods.get(other.method.teacher), other.network
    network = VideoUNet(method, unet.network, v_scale=unet.v_scale, conditions=other.conditions(1))
    start_from(network, method, other.actions, other.context, other)
    memory = (other.context, other.context_eps, other.actions, other.span, other.spin)
    return Model(network.eval(), method, other.shape, other.eps, other.fps, *memory)


def _forget_jumps(state: dict[str, Tensor]) -> None:
    """Make of the weights of a flow map those of its field: the length of a jump is the last number of its vector."""
    for name in [name for name in state if name.endswith(f"{VECTOR}0.weight")]:
        net = name.removesuffix(f"{VECTOR}0.weight")
        if state[name].shape[1] > 1:
            state[name] = state[name][:, :-1]
            continue
        last, bias = (f"{net}{VECTOR}2.weight", f"{net}{VECTOR}2.bias"), state[f"{net}{VECTOR}0.bias"]
        always = F.linear(F.silu(bias), *(state[part] for part in last))  # what it adds to the embedding of the noise
        state[f"{net}.class_embedding.linear_2.bias"] = state[f"{net}.class_embedding.linear_2.bias"] + always
        for part in ("0.weight", "0.bias", "2.weight", "2.bias"):
            del state[net + VECTOR + part]


def _widen_patches(state: dict[str, Tensor], patch: int, wider: int) -> None:
    """Let weights for patches of patch×patch pixels take and give patches k times as wide, by means of k×k pixels."""
    if wider <= patch or wider % patch:
        return
    k = wider // patch
    pixel = torch.arange(wider) // k
    of = (pixel[:, None] * patch + pixel).flatten()  # the pixel of the smaller patch, for each of the wider one
    for name, value in state.items():
        axis = 1 if name.endswith("conv_in.weight") else 0
        if name.endswith(("conv_in.weight", "conv_out.weight", "conv_out.bias")):
            channels = value.unflatten(axis, (-1, patch**2)).index_select(axis + 1, of.to(value.device))
            state[name] = channels.flatten(axis, axis + 1) / (k**2 if axis else 1)


def _differing(network: VideoUNet, other: Model, bad: list[str]) -> str:
    """How to mend it, for the end of a sentence: what to give for the network to have the shape of another one."""
    shape = vars(network.network)
    theirs = {name: value for name, value in vars(other.weights.network).items() if value != shape[name]}
    same = " and ".join(f"network.{name} {json.dumps(value)}" for name, value in theirs.items())
    return f": give {same}, as it has" if same else f", beginning with {bad[0]}"


def _narrower(own: Tensor, value: Tensor) -> bool:
    """Whether a weight takes fewer inputs than another one, and is like it in all else."""
    alike = own.ndim == value.ndim >= 2 and (own.shape[0], own.shape[2:]) == (value.shape[0], value.shape[2:])
    return alike and own.shape[1] < value.shape[1]
