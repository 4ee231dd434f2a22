import json
import math
import shutil

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from torch import nn

from biflow.config import NetworkConfig
from biflow.errors import UserError
from biflow.networks import VideoUNet, check_size, import_reference, load_model, reference_network, weights_file

TINY = NetworkConfig(channels=(32, 32), layers=1, attention=(-1,), head_dim=16, patch=2)
RAW_TINY = NetworkConfig(channels=(32, 64), layers=1, attention=(), patch=1, pair=True, time_scale=1.0)


def tiny(method: str = "biflow", network: NetworkConfig = TINY, seed: int = 0, **settings) -> VideoUNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VideoUNet(method, network, (8, 8), **settings).eval()


def inputs(b: int = 2, size: int = 8):
    """x, t, alpha, condition."""
    g = torch.Generator().manual_seed(1)
    x, condition = torch.randn(2, b, 3, size, size, generator=g)
    t, alpha = torch.rand(2, b, generator=g)
    return x, t, alpha, condition


def call(model: VideoUNet):
    x, t, alpha, condition = inputs(size=model.config["size"][0])
    with torch.no_grad():
        if model.method == "condiff":
            return model(x, t, condition=condition)
        return model(x, t, alpha if model.method == "biflow" else None)


def same_outputs(a: VideoUNet, b: VideoUNet) -> bool:
    return all(x is y or torch.equal(x, y) for x, y in zip(call(a), call(b), strict=True))


# Heads, frames and patches


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(
    ("method", "channels_in", "channels_out"), [("flow", 3, 3), ("biflow", 3, 6), ("condiff", 6, 3)]
)
def test_channels_in_and_out(method, channels_in, channels_out, patch):
    model = tiny(method, NetworkConfig((32, 32), layers=1, attention=(), patch=patch))
    (net,) = model.nets
    assert net.config["in_channels"] == channels_in * patch**2
    assert net.config["out_channels"] == channels_out * patch**2
    v, n = call(model)
    assert v.shape == (2, 3, 8, 8)
    assert (n is not None and n.shape == v.shape) if method == "biflow" else n is None


@pytest.mark.parametrize(("method", "nets"), [("flow", 1), ("biflow", 2), ("condiff", 1)])
def test_a_pair_is_two_networks_of_three_channels_for_biflow_only(method, nets):
    model = tiny(method, RAW_TINY)
    assert [net.config["out_channels"] for net in model.nets] == [3] * nets


@pytest.mark.parametrize("patch", [1, 2])
def test_the_first_head_is_v_and_the_second_n(patch):
    model = tiny(network=NetworkConfig((32, 32), layers=1, attention=(), patch=patch))
    final = model.nets[0].conv_out
    nn.init.zeros_(final.weight)
    final.bias.data = torch.arange(6.0).repeat_interleave(patch**2)
    v, n = call(model)
    expected = torch.arange(6.0).reshape(2, 1, 3, 1, 1).expand(2, 2, 3, 8, 8)
    assert torch.equal(torch.stack([v, n]), expected)


def test_the_first_network_of_a_pair_is_v_and_the_second_n():
    model = tiny(network=RAW_TINY)
    for net, value in zip(model.nets, (1.0, 2.0), strict=True):
        nn.init.zeros_(net.conv_out.weight)
        nn.init.constant_(net.conv_out.bias, value)
    v, n = call(model)
    assert (v == 1).all()
    assert (n == 2).all()


@pytest.mark.parametrize("method", ["flow", "biflow"])
def test_v_scale_is_the_unit_of_v_and_of_nothing_else(method):
    plain, scaled = call(tiny(method)), call(tiny(method, v_scale=0.25))
    assert torch.equal(scaled.v, 0.25 * plain.v)
    assert scaled.n is plain.n is None if method == "flow" else torch.equal(scaled.n, plain.n)


class PassThrough(nn.Module):
    """In place of a UNet: returns some of its input channels."""

    def __init__(self, channels: slice):
        super().__init__()
        self.channels = channels

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        return (sample[:, self.channels],)


@pytest.mark.parametrize("patch", [1, 2])
def test_patches_leave_every_pixel_where_it_is(patch):
    model = tiny("flow", NetworkConfig((32, 32), layers=1, attention=(), patch=patch))
    model.nets[0] = PassThrough(slice(None))
    assert torch.equal(call(model).v, inputs()[0])


@pytest.mark.parametrize("patch", [1, 2])
def test_condiff_stacks_the_noisy_frame_before_the_condition(patch):
    model = tiny("condiff", NetworkConfig((32, 32), layers=1, attention=(), patch=patch))
    x, _, _, condition = inputs()
    model.nets[0] = PassThrough(slice(0, 3 * patch**2))
    assert torch.equal(call(model).v, x)
    model.nets[0] = PassThrough(slice(3 * patch**2, None))
    assert torch.equal(call(model).v, condition)


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(UserError, match=r"'bflow'.* flow, biflow, condiff"):
        VideoUNet("bflow", TINY, (8, 8))


# t and alpha


def sinusoids(values: torch.Tensor, channels: int) -> torch.Tensor:
    half = channels // 2
    angles = values[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("pair", [False, True])
def test_t_and_alpha_reach_their_embeddings_times_the_scale(pair, scale):
    model = tiny(network=NetworkConfig((32, 64), layers=1, attention=(), patch=1, pair=pair, time_scale=scale))
    _, t, alpha, _ = inputs()
    for net in model.nets:
        seen = []
        for module in (net.time_embedding, net.class_embedding):
            module.register_forward_pre_hook(lambda module, args, seen=seen: seen.append((module, args[0])))
        call(model)
        seen = dict(seen)
        assert torch.allclose(seen[net.time_embedding], sinusoids(t * scale, 32), atol=1e-4)
        assert torch.allclose(seen[net.class_embedding], sinusoids(alpha * scale, 32), atol=1e-4)


@pytest.mark.parametrize("method", ["flow", "condiff"])
def test_only_biflow_embeds_alpha(method):
    assert tiny(method).nets[0].class_embedding is None


# The reference's shapes


@pytest.mark.parametrize("width", [32, 192])
def test_the_reference_shapes_at_any_width(width):
    c = width
    default, small = reference_network("default", c, pair=True), reference_network("small", c, pair=False)
    with torch.device("meta"):
        seven, _ = VideoUNet("biflow", default, (64, 64)).nets
        (six,) = VideoUNet("condiff", small, (64, 64)).nets
    assert tuple(seven.config["block_out_channels"]) == (c, c, 2 * c, 2 * c, 2 * c, 4 * c, 4 * c)
    assert seven.config["down_block_types"] == ("DownBlock2D",) * 5 + ("AttnDownBlock2D", "DownBlock2D")
    assert seven.config["up_block_types"] == ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 5
    assert tuple(six.config["block_out_channels"]) == (c, c, 2 * c, 2 * c, 4 * c, 4 * c)
    assert six.config["down_block_types"] == ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D")
    assert six.config["up_block_types"] == ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4
    assert default.time_scale == small.time_scale == 1


def test_all_else_of_a_reference_network_is_the_default_of_diffusers():
    with torch.device("meta"):
        ours = VideoUNet("biflow", reference_network("small", 32, pair=True), (32, 32)).nets[0].config
        plain = reference_unet(in_channels=3, class_embed_type="timestep").config
    differ = {k for k in plain if ours[k] != plain[k] and not k.startswith("_")}
    assert differ == set()


# Sizes


@pytest.mark.parametrize(
    ("size", "nearest"), [((48, 64), "32 or 64"), ((64, 100), "96 or 128"), ((20, 20), "multiples of 32; 32 works")]
)
def test_a_size_that_does_not_fit_names_the_nearest_that_do(size, nearest):
    network = reference_network("small", 32, pair=False)
    with pytest.raises(UserError, match=nearest):
        check_size(network, *size)
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}.*{nearest}"):
        VideoUNet("flow", network, size)


def test_the_sizes_that_fit_are_those_that_run():
    assert TINY.divisor == 4
    check_size(TINY, 12, 20)
    x, t = torch.zeros(1, 3, 12, 20), torch.zeros(1)
    with torch.no_grad():
        assert tiny("flow")(x, t).v.shape == x.shape
    assert reference_network("default", 32, pair=True).divisor == 64


# Saving and loading


@pytest.mark.parametrize("network", [TINY, RAW_TINY])
@pytest.mark.parametrize("method", ["flow", "biflow", "condiff"])
def test_a_saved_model_comes_back_the_same(tmp_path, method, network):
    model = tiny(method, network, eps=0.25, fps=12.5, v_scale=0.5)
    model.save_pretrained(tmp_path)
    assert {"config.json", "diffusion_pytorch_model.safetensors"} == {path.name for path in tmp_path.iterdir()}
    for loaded in (VideoUNet.from_pretrained(tmp_path), load_model(tmp_path), load_model(str(tmp_path))):
        assert loaded.method == method
        assert loaded.network == network
        assert loaded.config["size"] == [8, 8]
        assert loaded.config["eps"] == 0.25
        assert loaded.config["fps"] == 12.5
        assert loaded.config["v_scale"] == 0.5
        assert not loaded.training
        assert same_outputs(loaded, model)


@pytest.fixture
def folder(tmp_path):
    """A saved model of seed 0, with the EMA weights of seed 1."""
    tiny(seed=0).save_pretrained(tmp_path)
    save_file(tiny(seed=1).state_dict(), tmp_path / "diffusion_pytorch_model.ema.safetensors")
    return tmp_path


def test_the_averaged_weights_are_preferred(folder):
    assert same_outputs(load_model(folder), tiny(seed=1))
    assert same_outputs(load_model(folder, ema=False), tiny(seed=0))
    assert same_outputs(VideoUNet.from_pretrained(folder, variant="ema"), tiny(seed=1))
    assert not same_outputs(tiny(seed=0), tiny(seed=1))
    assert weights_file(folder).name == "diffusion_pytorch_model.ema.safetensors"
    weights_file(folder).unlink()
    assert same_outputs(load_model(folder), tiny(seed=0))


def test_half_precision_weights_are_loaded_in_float32(folder):
    rounded = {name: tensor.bfloat16() for name, tensor in tiny(seed=1).state_dict().items()}
    save_file(rounded, weights_file(folder))
    state = load_model(folder).state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in rounded.items())


def test_no_model_in_the_folder(tmp_path, folder):
    with pytest.raises(UserError, match=r"No model in .*nowhere: it has no config\.json"):
        load_model(tmp_path / "nowhere")
    weights_file(folder).unlink()
    weights_file(folder).unlink()
    with pytest.raises(UserError, match=r"diffusion_pytorch_model\.safetensors is missing"):
        load_model(folder)


def test_a_pickle_is_not_loaded(folder):
    class Bomb:
        def __reduce__(self):
            return (shutil.rmtree, (str(folder),))

    torch.save({"nets.0.conv_in.weight": Bomb()}, weights_file(folder))
    with pytest.raises(UserError, match="not a safetensors file"):
        load_model(folder)
    assert folder.exists()


def test_a_cut_off_file_is_an_error_that_names_it(folder):
    path = weights_file(folder)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"diffusion_pytorch_model\.ema\.safetensors is not a safetensors file"):
        load_model(folder)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return config


def test_weights_of_another_shape_name_the_tensor(folder):
    config = edit_config(folder)
    edit_config(folder, network={**config["network"], "channels": [64, 64]})
    with pytest.raises(UserError, match=r"another shape: nets\.0\S+ is \(.*\), expected \("):
        load_model(folder)


def test_weights_of_another_network_name_a_tensor(folder):
    config = edit_config(folder)
    edit_config(folder, network={**config["network"], "layers": 2})
    with pytest.raises(UserError, match=r"another network: 'nets\.0"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes",
    [{"network": {"channel": [32]}}, {"network": {"channels": 32}}, {"network": "small"}, {"size": [8]}, {"size": 8}],
)
def test_a_config_that_makes_no_sense_is_an_error_that_names_it(folder, changes):
    edit_config(folder, **changes)
    with pytest.raises(UserError, match=r"config\.json does not describe a biflow model"):
        load_model(folder)


def test_a_config_that_is_no_json_is_an_error_that_names_it(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json does not describe a biflow model"):
        load_model(folder)


# Checkpoints of the reference implementation


def reference_unet(*, in_channels: int, class_embed_type: str | None) -> UNet2DModel:
    """The reference's "small" network at width 32, straight from diffusers."""
    return UNet2DModel(
        in_channels=in_channels,
        out_channels=3,
        block_out_channels=(32, 32, 64, 64, 128, 128),
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
        add_attention=True,
        class_embed_type=class_embed_type,
    )


@pytest.fixture(scope="module")
def plain_nets():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            "flow": [reference_unet(in_channels=3, class_embed_type=None).eval()],
            "condiff": [reference_unet(in_channels=6, class_embed_type=None).eval()],
            "biflow": [reference_unet(in_channels=3, class_embed_type="timestep").eval() for _ in range(2)],
        }


def write(path, *prefixed_nets):
    """One safetensors file of ("prefix", net) pairs."""
    save_file({prefix + key: t.clone() for prefix, net in prefixed_nets for key, t in net.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_reference_flow_checkpoint_gives_the_same_field(tmp_path, plain_nets, prefix):
    (net,) = plain_nets["flow"]
    path = write(tmp_path / "model.safetensors", (prefix, net))
    model = import_reference(path, method="flow", width=32, size=32, shape="small")
    x, t, _, _ = inputs(size=32)
    with torch.no_grad():
        v, n = model(x, t)
        assert torch.equal(v, net(x, t).sample)
    assert n is None
    assert not model.training


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_reference_condiff_checkpoint_gives_the_same_field(tmp_path, plain_nets, prefix):
    (net,) = plain_nets["condiff"]
    path = write(tmp_path / "model.safetensors", (prefix, net))
    model = import_reference(path, method="condiff", width=32, size=32, shape="small")
    x, t, _, condition = inputs(size=32)
    with torch.no_grad():
        assert torch.equal(model(x, t, condition=condition).v, net(torch.cat([x, condition], dim=1), t).sample)


def test_a_reference_biflow_checkpoint_gives_the_same_fields(tmp_path, plain_nets):
    v_net, n_net = plain_nets["biflow"]
    path = write(tmp_path / "model.safetensors", ("model1.", v_net), ("model2.", n_net))
    model = import_reference(path, method="biflow", width=32, size=32, shape="small")
    x, t, alpha, _ = inputs(size=32)
    with torch.no_grad():
        v, n = model(x, t, alpha)
        assert torch.equal(v, v_net(x, t, class_labels=alpha).sample)
        assert torch.equal(n, n_net(x, t, class_labels=alpha).sample)
        assert not torch.equal(v, n)
    model.save_pretrained(tmp_path / "ours")
    again = load_model(tmp_path / "ours")
    assert again.network == reference_network("small", 32, pair=True)
    assert load_file(weights_file(tmp_path / "ours")).keys() == model.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(again(x, t, alpha).n, n)


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"width": 64}, "no flow checkpoint of width 64 and shape small"),
        ({"shape": "default", "size": 64}, "no flow checkpoint of width 32 and shape default"),
        ({"method": "biflow"}, "no biflow checkpoint"),
        ({"method": "condiff"}, "no condiff checkpoint.*first 'nets.0.conv_in.weight'"),
        ({"size": 40}, "32 or 64"),
    ],
)
def test_a_reference_checkpoint_that_is_something_else(tmp_path, plain_nets, settings, hint):
    path = write(tmp_path / "model.safetensors", ("", plain_nets["flow"][0]))
    with pytest.raises(UserError, match=hint):
        import_reference(path, **{"method": "flow", "width": 32, "size": 32, "shape": "small", **settings})


def test_a_reference_checkpoint_that_is_a_pickle_or_missing(tmp_path):
    settings = {"method": "flow", "width": 32, "size": 32, "shape": "small"}
    with pytest.raises(UserError, match=r"no file .*model\.safetensors"):
        import_reference(tmp_path / "model.safetensors", **settings)
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt is not a safetensors file"):
        import_reference(tmp_path / "model.pt", **settings)
