import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF, FLOW
from biflow.model import load_model, save_model, weights_file
from biflow.paths import Query
from biflow.reference import import_reference, reference_network


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
            FLOW: [reference_unet(in_channels=3, class_embed_type=None).eval()],
            CONDIFF: [reference_unet(in_channels=6, class_embed_type=None).eval()],
            BIFLOW: [reference_unet(in_channels=3, class_embed_type="timestep").eval() for _ in range(2)],
        }


def inputs(b: int = 2, size: int = 32):
    """x, t, alpha, condition."""
    g = torch.Generator().manual_seed(1)
    x, condition = torch.randn(2, b, 3, size, size, generator=g)
    t, alpha = torch.rand(2, b, generator=g)
    return x, t, alpha, condition


def write(path, *prefixed_nets):
    """One safetensors file of ("prefix", net) pairs."""
    save_file({prefix + key: t.clone() for prefix, net in prefixed_nets for key, t in net.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_reference_flow_checkpoint_gives_the_same_field(tmp_path, plain_nets, prefix):
    (net,) = plain_nets[FLOW]
    path = write(tmp_path / "model.safetensors", (prefix, net))
    model = import_reference(path, method="flow", width=32, size=32, shape="small")
    x, t, _, _ = inputs()
    with torch.no_grad():
        v, n = model.network(Query(x, t))
        assert torch.equal(v, net(x, t).sample)
    assert n is None
    assert not model.network.training
    assert (model.method, model.shape, model.eps) == (FLOW, (3, 32, 32), 0)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_reference_condiff_checkpoint_gives_the_same_field(tmp_path, plain_nets, prefix):
    (net,) = plain_nets[CONDIFF]
    path = write(tmp_path / "model.safetensors", (prefix, net))
    model = import_reference(path, method="condiff", width=32, size=32, shape="small")
    x, _, alpha, condition = inputs()
    with torch.no_grad():
        expected = net(torch.cat([x, condition], dim=1), alpha).sample
        assert torch.equal(model.network(Query(x, alpha=alpha, condition=condition)).v, expected)
    assert model.eps == 0


def test_a_reference_biflow_checkpoint_gives_the_same_fields(tmp_path, plain_nets):
    v_net, n_net = plain_nets[BIFLOW]
    path = write(tmp_path / "model.safetensors", ("model1.", v_net), ("model2.", n_net))
    model = import_reference(path, method="biflow", width=32, size=32, shape="small")
    assert model.eps == 0.1
    x, t, alpha, _ = inputs()
    with torch.no_grad():
        v, n = model.network(Query(x, t, alpha))
        assert torch.equal(v, v_net(x, t, class_labels=alpha).sample)
        assert torch.equal(n, n_net(x, t, class_labels=alpha).sample)
        assert not torch.equal(v, n)
    save_model(tmp_path / "ours", model)
    again = load_model(tmp_path / "ours")
    assert again.network.network == reference_network("small", 32, pair=True)
    assert load_file(weights_file(tmp_path / "ours")).keys() == model.weights.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(again.network(Query(x, t, alpha)).n, n)


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"width": 64}, "not a flow checkpoint of width 64 and shape small: it is one of width='32'.$"),
        ({"shape": "default", "size": 64}, "not a flow checkpoint of width 32 and shape default: .* shape='small'.$"),
        ({"method": "biflow"}, "not a biflow checkpoint of width 32 and shape small: it is one of method='flow'.$"),
        ({"method": "condiff", "width": 64}, "not a condiff checkpoint.*: it is one of method='flow' and width='32'.$"),
        ({"method": "flw"}, "no method 'flw'.*mean 'flow'"),
        ({"size": 40}, "32 or 64"),
    ],
)
def test_a_reference_checkpoint_that_is_something_else(tmp_path, plain_nets, settings, hint):
    path = write(tmp_path / "model.safetensors", ("", plain_nets[FLOW][0]))
    with pytest.raises(UserError, match=hint):
        import_reference(path, **{"method": "flow", "width": 32, "size": 32, "shape": "small", **settings})


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.model."])
def test_prefixes_of_wrappers_do_not_matter(tmp_path, plain_nets, prefix):
    (net,) = plain_nets[FLOW]
    path = write(tmp_path / "model.safetensors", (prefix, net))
    model = import_reference(path, method="flow", width=32, size=32, shape="small")
    assert all(torch.equal(value, net.state_dict()[name[7:]]) for name, value in model.weights.state_dict().items())
    save_model(tmp_path / "ours", model)
    saved = load_file(weights_file(tmp_path / "ours"))
    wrapped = prefix.removesuffix("model.")
    save_file({f"{wrapped}{name}": value for name, value in saved.items()}, weights_file(tmp_path / "ours"))
    again = load_model(tmp_path / "ours").weights.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in again.items())


def test_wrappers_inside_of_a_pair_do_not_matter(tmp_path, plain_nets):
    v_net, n_net = plain_nets[BIFLOW]
    path = write(tmp_path / "model.safetensors", ("module.model1._orig_mod.", v_net), ("module.model2.module.", n_net))
    model = import_reference(path, method="biflow", width=32, size=32, shape="small")
    x, t, alpha, _ = inputs()
    with torch.no_grad():
        assert torch.equal(model.network(Query(x, t, alpha)).n, n_net(x, t, class_labels=alpha).sample)


def test_what_is_missing_unexpected_or_of_another_shape_is_named(tmp_path, plain_nets):
    state = dict(plain_nets[FLOW][0].state_dict())
    del state["conv_out.bias"]
    state |= {"n_averaged": torch.zeros(1), "conv_out.weight": torch.zeros(6, 32, 3, 3)}
    save_file({f"module.{name}": value.clone() for name, value in state.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as refusal:
        import_reference(tmp_path / "model.safetensors", method="flow", width=32, size=32, shape="small")
    assert str(refusal.value).endswith(
        ": 1 tensors missing (conv_out.bias), 1 tensors unexpected (n_averaged), "
        "1 tensors of another shape (conv_out.weight is (6, 32, 3, 3), not (3, 32, 3, 3))."
    )


def test_a_reference_checkpoint_that_is_a_pickle_or_missing(tmp_path):
    settings = {"method": "flow", "width": 32, "size": 32, "shape": "small"}
    with pytest.raises(UserError, match=r"no file .*model\.safetensors"):
        import_reference(tmp_path / "model.safetensors", **settings)
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt is not a safetensors file"):
        import_reference(tmp_path / "model.pt", **settings)
