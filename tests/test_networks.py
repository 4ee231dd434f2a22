import math
from typing import NamedTuple

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from biflow.config import NetworkConfig
from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF, FLOW, METHODS, SEQUENCE, Method
from biflow.networks import VideoUNet, check_size, halved, halves, of_halves
from biflow.paths import Fields, Query
from biflow.reference import reference_network

TINY = NetworkConfig(channels=(32, 32), layers=1, attention=(-1,), head_dim=16, patch=2)
RAW_TINY = NetworkConfig(channels=(32, 64), layers=1, attention=(), patch=1, pair=True, time_scale=1.0)
ALL = pytest.mark.parametrize("method", METHODS.values())


def tiny(method: Method = BIFLOW, network: NetworkConfig = TINY, seed: int = 0, **settings) -> VideoUNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VideoUNet(method, network, **settings).eval()


def query_of(method: Method, b: int = 2, size: int = 8) -> Query:
    """A query of random tensors such as the method asks."""
    g = torch.Generator().manual_seed(1)
    x, condition = torch.randn(2, b, 3, size, size, generator=g)
    t, alpha = torch.rand(2, b, generator=g)
    return {FLOW: Query(x, t), BIFLOW: Query(x, t, alpha), CONDIFF: Query(x, alpha=alpha, condition=condition)}[method]


def answer(network: VideoUNet, method: Method) -> Fields:
    with torch.no_grad():
        return network(query_of(method))


# Heads, frames and patches


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(("method", "channels_in", "channels_out"), [(FLOW, 3, 3), (BIFLOW, 3, 6), (CONDIFF, 6, 3)])
def test_channels_in_and_out(method, channels_in, channels_out, patch):
    network = tiny(method, NetworkConfig((32, 32), layers=1, attention=(), patch=patch))
    (net,) = network.nets
    assert net.config["in_channels"] == channels_in * patch**2
    assert net.config["out_channels"] == channels_out * patch**2
    v, n = answer(network, method)
    assert v.shape == (2, 3, 8, 8)
    assert (n is not None and n.shape == v.shape) if method is BIFLOW else n is None


@pytest.mark.parametrize(("method", "nets"), [(FLOW, 1), (BIFLOW, 2), (CONDIFF, 1)])
def test_a_pair_is_two_networks_of_three_channels_for_biflow_only(method, nets):
    network = tiny(method, RAW_TINY)
    assert [net.config["out_channels"] for net in network.nets] == [3] * nets


@pytest.mark.parametrize("patch", [1, 2])
def test_the_first_head_is_v_and_the_second_n(patch):
    network = tiny(network=NetworkConfig((32, 32), layers=1, attention=(), patch=patch))
    final = network.nets[0].conv_out
    nn.init.zeros_(final.weight)
    final.bias.data = torch.arange(6.0).repeat_interleave(patch**2)
    v, n = answer(network, BIFLOW)
    expected = torch.arange(6.0).reshape(2, 1, 3, 1, 1).expand(2, 2, 3, 8, 8)
    assert torch.equal(torch.stack([v, n]), expected)


def test_the_first_network_of_a_pair_is_v_and_the_second_n():
    network = tiny(network=RAW_TINY)
    for net, value in zip(network.nets, (1.0, 2.0), strict=True):
        nn.init.zeros_(net.conv_out.weight)
        nn.init.constant_(net.conv_out.bias, value)
    v, n = answer(network, BIFLOW)
    assert (v == 1).all()
    assert (n == 2).all()


@pytest.mark.parametrize("method", [FLOW, BIFLOW])
def test_v_scale_is_the_unit_of_v_and_of_nothing_else(method):
    plain, scaled = answer(tiny(method), method), answer(tiny(method, v_scale=0.25), method)
    assert torch.equal(scaled.v, 0.25 * plain.v)
    assert scaled.n is plain.n is None if method is FLOW else torch.equal(scaled.n, plain.n)


class PassThrough(nn.Module):
    """In place of a UNet: returns some of its input channels."""

    def __init__(self, channels: slice):
        super().__init__()
        self.channels = channels

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        return (sample[:, self.channels],)


@pytest.mark.parametrize(("alpha", "over"), [(0.0, 1.0), (0.5, 2.0), (0.99, 20.0), (1.0, 20.0)])
def test_of_clips_the_clip_is_learned_and_the_field_leads_to_it(alpha, over):
    network = tiny(SEQUENCE, span=4)
    head = network.nets[0].conv_out
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, 0.25)  # the clip that it takes every state for
    x = torch.rand(1, 4, 3, 8, 8)
    torch.testing.assert_close(network(Query(x, alpha=torch.tensor([alpha]))).v, (0.25 - x) * over)


@pytest.mark.parametrize("patch", [1, 2])
def test_patches_leave_every_pixel_where_it_is(patch):
    network = tiny(FLOW, NetworkConfig((32, 32), layers=1, attention=(), patch=patch))
    network.nets[0] = PassThrough(slice(None))
    assert torch.equal(answer(network, FLOW).v, query_of(FLOW).x)


@pytest.mark.parametrize("patch", [1, 2])
def test_condiff_stacks_the_noisy_frame_before_the_condition(patch):
    network = tiny(CONDIFF, NetworkConfig((32, 32), layers=1, attention=(), patch=patch))
    query = query_of(CONDIFF)
    network.nets[0] = PassThrough(slice(0, 3 * patch**2))
    assert torch.equal(answer(network, CONDIFF).v, query.x)
    network.nets[0] = PassThrough(slice(3 * patch**2, None))
    assert torch.equal(answer(network, CONDIFF).v, query.condition)


# The numbers of a query


def sinusoids(values: torch.Tensor, channels: int) -> torch.Tensor:
    half = channels // 2
    angles = values[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def embedded(network: VideoUNet, net: UNet2DModel, query) -> tuple[Tensor, Tensor | None]:
    """What reaches the embeddings of the time and of the class when the network is asked."""
    seen = {}
    for name in ("time_embedding", "class_embedding"):
        if (module := getattr(net, name)) is not None:
            module.register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0]}))
    with torch.no_grad():
        network(query)
    return seen["time_embedding"], seen.get("class_embedding")


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("pair", [False, True])
def test_t_and_alpha_reach_their_embeddings_times_the_scale(pair, scale):
    network = tiny(network=NetworkConfig((32, 64), layers=1, attention=(), patch=1, pair=pair, time_scale=scale))
    query = query_of(BIFLOW)
    for net in network.nets:
        time, label = embedded(network, net, query)
        assert torch.allclose(time, sinusoids(query.t * scale, 32), atol=1e-4)
        assert torch.allclose(label, sinusoids(query.alpha * scale, 32), atol=1e-4)


@pytest.mark.parametrize(("method", "number"), [(FLOW, "t"), (CONDIFF, "alpha")])
def test_a_single_number_is_embedded_as_the_time(method, number):
    network, query = tiny(method), query_of(method)
    time, label = embedded(network, network.nets[0], query)
    assert torch.allclose(time, sinusoids(getattr(query, number) * 1000, 32), atol=1e-4)
    assert label is network.nets[0].class_embedding is None


class Jump(NamedTuple):
    """A query of another kind."""

    x: Tensor
    t: Tensor
    to: Tensor
    earlier: Tensor


class Jumps(Method):
    """Asks with two past frames and two times."""

    name, title = "jumps", "JUMPS"

    def field(self, network, eps, backward):
        return lambda x, k: network(Jump(x, k, k + 0.5, -x)).v


def test_queries_of_another_kind_are_answered_too():
    network = tiny(Jumps(), NetworkConfig((32, 64), layers=1, attention=(), patch=1, time_scale=1.0))
    x, t, to = torch.randn(2, 3, 8, 8), torch.tensor([0.25, 0.5]), torch.tensor([0.75, 1.0])
    time, label = embedded(network, network.nets[0], Jump(x, t, to, 2 * x))
    assert torch.allclose(time, sinusoids(t, 32), atol=1e-4)
    assert torch.allclose(label, sinusoids(to, 32), atol=1e-4)
    network.nets[0] = PassThrough(slice(3, 6))
    assert torch.equal(network(Jump(x, t, to, 2 * x)).v, 2 * x)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"weights": torch.zeros(1, 4, 4)}, r"weights \(1, 4, 4\)"),
        ({"alpha": torch.zeros(1), "speed": torch.zeros(1)}, r"alpha \(1,\), speed \(1,\)"),
    ],
)
def test_a_query_that_it_would_not_read_in_full_is_refused(extra, sentence):
    kind = NamedTuple("Kind", [("x", Tensor), ("t", Tensor), *((name, Tensor) for name in extra)])

    class Asks(Method):
        name, title = "asks", "ASKS"

        def field(self, network, eps, backward):
            return lambda x, k: network(kind(x, k, **extra)).v

    with pytest.raises(UserError, match=f"ASKS asks with x .*{sentence}, but a VideoUNet"):
        VideoUNet(Asks(), TINY)


# The reference's shapes


@pytest.mark.parametrize("width", [32, 192])
def test_the_reference_shapes_at_any_width(width):
    c = width
    default, small = reference_network("default", c, pair=True), reference_network("small", c, pair=False)
    with torch.device("meta"):
        seven, _ = VideoUNet(BIFLOW, default).nets
        (six,) = VideoUNet(CONDIFF, small).nets
    assert tuple(seven.config["block_out_channels"]) == (c, c, 2 * c, 2 * c, 2 * c, 4 * c, 4 * c)
    assert seven.config["down_block_types"] == ("DownBlock2D",) * 5 + ("AttnDownBlock2D", "DownBlock2D")
    assert seven.config["up_block_types"] == ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 5
    assert tuple(six.config["block_out_channels"]) == (c, c, 2 * c, 2 * c, 4 * c, 4 * c)
    assert six.config["down_block_types"] == ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D")
    assert six.config["up_block_types"] == ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4
    assert default.time_scale == small.time_scale == 1


def test_all_else_of_a_reference_network_is_the_default_of_diffusers():
    with torch.device("meta"):
        ours = VideoUNet(BIFLOW, reference_network("small", 32, pair=True)).nets[0].config
        plain = UNet2DModel(
            in_channels=3,
            out_channels=3,
            block_out_channels=(32, 32, 64, 64, 128, 128),
            down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
            add_attention=True,
            class_embed_type="timestep",
        ).config
    differ = {k for k in plain if ours[k] != plain[k] and not k.startswith("_")}
    assert differ == set()


# Sizes


@pytest.mark.parametrize(
    ("size", "nearest"), [((48, 64), "32 or 64"), ((64, 100), "96 or 128"), ((20, 20), "multiples of 32; 32 works")]
)
def test_a_size_that_does_not_fit_names_the_nearest_that_do(size, nearest):
    network = reference_network("small", 32, pair=False)
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}.*{nearest}"):
        check_size(network, *size)


def test_the_sizes_that_fit_are_those_that_run():
    assert TINY.divisor == 4
    check_size(TINY, 12, 20)
    x, t = torch.zeros(1, 3, 12, 20), torch.zeros(1)
    with torch.no_grad():
        assert tiny(FLOW)(Query(x, t)).v.shape == x.shape
    assert reference_network("default", 32, pair=True).divisor == 64


# Halves, for bf16


def test_halves_keep_in_bf16_what_x_is():
    x = torch.randn(2, 3, 4, 4)
    rounded, rest = halves(x).bfloat16().chunk(2, dim=1)
    assert (x - rounded.float()).abs().max() > 2**-10
    assert ((x - rounded.float() - rest.float()).abs() <= 2**-17 * x.abs()).all()


def test_a_halved_query_has_halves_of_its_state_and_all_else_as_it_was():
    query = query_of(CONDIFF)
    half = halved(query)
    assert torch.equal(half.x, halves(query.x))
    assert half.t is None
    assert half.alpha is query.alpha
    assert half.condition is query.condition
    jump = Jump(query.x, query.alpha, query.alpha, query.condition)
    assert torch.equal(halved(jump).x, halves(query.x))
    assert halved(jump).earlier is query.condition


@pytest.mark.parametrize(("method", "config"), [(FLOW, TINY), (BIFLOW, TINY), (BIFLOW, RAW_TINY), (CONDIFF, TINY)])
def test_a_twin_of_halves_answers_as_the_network_does(method, config):
    network = tiny(method, config, v_scale=0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    twin = of_halves(network)
    query = query_of(method)
    with torch.no_grad():
        for got, expected in zip(twin(halved(query)), network(query), strict=True):
            assert (got is None) == (expected is None)
            if expected is not None:
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_so_deep_that_a_norm_has_a_single_value_is_refused():
    deep = NetworkConfig(channels=(32, 32, 32, 32), patch=2)
    with pytest.raises(UserError, match="frames of 16x16 have a single pixel at the coarsest of 4"):
        check_size(deep, 16, 16)
    check_size(deep, 16, 32)
    check_size(NetworkConfig(channels=(32, 32, 32, 64), patch=2), 16, 16)
