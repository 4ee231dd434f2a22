import json
import shutil
from dataclasses import FrozenInstanceError, replace
from typing import get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from biflow.config import NetworkConfig, Shipped
from biflow.errors import UserError
from biflow.methods import BIFLOW, CONDIFF, FLOW, FLOWMAP, METHODS, SEQUENCE, Method
from biflow.methods.flowmap import JumpQuery
from biflow.model import Model, load_model, save_model, shipped_model, weights_file
from biflow.networks import VideoUNet
from biflow.paths import Fields, Query

TINY = NetworkConfig(channels=(32, 32), layers=1, attention=(-1,), head_dim=16, patch=2)
NETWORK = {"attention": [-1], "channels": [32, 32], "head_dim": 16, "layers": 1, "pair": False, "patch": 2}
NETWORK |= {"time_scale": 1000.0}  # TINY, as config.json has it
PAIR = NetworkConfig(channels=(32, 64), layers=1, attention=(), patch=1, pair=True, time_scale=1.0)
WEIGHTS, AVERAGED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.ema.safetensors"


def tiny(method: Method = BIFLOW, network: NetworkConfig = TINY, seed: int = 0, v_scale: float = 1.0, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = VideoUNet(method, network, v_scale=v_scale, span=settings.get("span", 1)).eval()
    return Model(unet, method, (3, 8, 8), **{"eps": 0.1 if method.takes_eps else 0.0, **settings})


@torch.no_grad()
def answer(model: Model) -> Fields:
    g = torch.Generator().manual_seed(1)
    x, condition = torch.randn(2, 2, *model.shape, generator=g)
    t, alpha = torch.rand(2, 2, generator=g)
    queries = {FLOW: Query(x, t), BIFLOW: Query(x, t, alpha), CONDIFF: Query(x, alpha=alpha, condition=condition)}
    queries[FLOWMAP] = JumpQuery(x, t, alpha, jump=t[:, None])
    queries[SEQUENCE] = Query(torch.stack([x] * model.span, dim=1), alpha=alpha)
    return model.network(queries[model.method])


def same_answers(a: Model, b: Model) -> bool:
    return all(x is y or torch.equal(x, y) for x, y in zip(answer(a), answer(b), strict=True))


# A model


def test_a_model_is_what_it_was_given_and_another_network_makes_another_model():
    model = tiny(fps=12.5)
    assert (model.size, model.eps, model.fps, model.limits) == ((8, 8), 0.1, 12.5, (-1, 1))
    assert (model.engine, model.device, model.folder) == ("torch", torch.device("cpu"), None)
    with pytest.raises(FrozenInstanceError):
        model.eps = 0.2
    other = replace(model, network=lambda query: Fields(query.x, query.x), engine="none")
    assert (other.method, other.fps, other.engine) == (BIFLOW, 12.5, "none")
    assert model.engine == "torch"


def test_only_a_module_has_weights():
    model = tiny()
    assert model.weights is model.network
    with pytest.raises(AssertionError, match="openvino f32 holds no weights"):
        _ = replace(model, network=lambda query: Fields(query.x), engine="openvino f32").weights


@pytest.mark.parametrize("name", get_args(Shipped))
def test_the_models_that_come_with_the_package(name):
    model = load_model(shipped_model(name))
    assert (model.method, model.shape) == (FLOWMAP if name == "maze" else BIFLOW, (3, 64, 64))
    assert model.actions
    assert {"left", "right"} < set(model.actions.keys)
    assert (shipped_model(name) / "first").is_dir()
    assert sorted(folder.name for folder in shipped_model().parent.iterdir()) == sorted(get_args(Shipped))


# Saving and loading


@pytest.mark.parametrize("network", [TINY, PAIR], ids=["tiny", "pair"])
@pytest.mark.parametrize("method", METHODS.values())
def test_a_saved_model_comes_back_the_same(tmp_path, method, network):
    eps = 0.25 if method.takes_eps else 0.0
    model = tiny(method, network, eps=eps, fps=12.5, v_scale=0.5)
    save_model(tmp_path, model)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", WEIGHTS}
    for loaded in (Model.from_pretrained(tmp_path), load_model(tmp_path), load_model(str(tmp_path))):
        assert loaded.method is method
        assert (loaded.shape, loaded.eps, loaded.fps) == ((3, 8, 8), eps, 12.5)
        assert loaded.network.network == network
        assert loaded.network.v_scale == 0.5
        assert not loaded.network.training
        assert loaded.folder == tmp_path
        assert same_answers(loaded, model)


def test_a_model_that_spins_comes_back_as_one(tmp_path):
    save_model(tmp_path, tiny(spin=2))
    assert load_model(tmp_path).spin == 2
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "spin": -1}))
    with pytest.raises(UserError, match="spin"):
        load_model(tmp_path)
    save_model(tmp_path, tiny())
    assert "spin" not in json.loads((tmp_path / "config.json").read_text())


def test_a_model_of_clips_comes_back_the_same(tmp_path):
    model = tiny(SEQUENCE, span=4)
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    assert (loaded.span, loaded.shape, answer(loaded).v.shape) == (4, (3, 8, 8), (2, 4, 3, 8, 8))
    assert same_answers(loaded, model)


def test_config_json_says_all_but_the_weights(tmp_path):
    save_model(tmp_path, tiny(eps=0.25, v_scale=0.5))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("_diffusers_version")
    assert config == {
        "_class_name": "VideoUNet",
        "eps": 0.25,
        "fps": None,
        "format": 1,
        "method": "biflow",
        "network": NETWORK,
        "size": [8, 8],
        "v_scale": 0.5,
    }


def test_weights_carry_what_is_known_of_them(tmp_path):
    averaged = tiny(seed=1).weights.state_dict()
    save_model(tmp_path, tiny(), averaged, {"step": "12"})
    for name in (WEIGHTS, AVERAGED):
        with safe_open(tmp_path / name, "pt") as file:
            assert file.metadata() == {"format": "pt", "step": "12"}


def write_old_folder(folder, method: str, **config):
    """A model folder as version 0.1 wrote it: config.json in these very words, and the weights of seed 0."""
    old = {
        "_class_name": "VideoUNet",
        "_diffusers_version": "0.35.1",
        "eps": 0.1,
        "fps": 17.5,
        "method": method,
        "network": NETWORK,
        "size": [8, 8],
        "v_scale": 0.25,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(old, indent=1) + "\n")
    save_file(tiny(METHODS[method]).weights.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_that_version_0_1_wrote_still_loads(tmp_path, method):
    write_old_folder(tmp_path, method)
    model = load_model(tmp_path)
    assert model.method is METHODS[method]
    assert (model.shape, model.fps) == ((3, 8, 8), 17.5)
    assert model.eps == (0.1 if METHODS[method].takes_eps else 0.0)  # it wrote a level for methods that take none, too
    assert (model.network.network, model.network.v_scale) == (TINY, 0.25)
    assert same_answers(model, tiny(METHODS[method], v_scale=0.25))


def test_an_old_folder_may_leave_out_what_has_a_default(tmp_path):
    write_old_folder(tmp_path, "biflow")
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("_class_name", "_diffusers_version", "eps", "fps", "method", "v_scale"):
        del config[key]
    for key in ("layers", "pair", "patch", "time_scale"):
        del config["network"][key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_model(tmp_path)
    assert (model.method, model.eps, model.fps) == (BIFLOW, 0.1, None)
    assert (model.network.network, model.network.v_scale) == (TINY, 1.0)


@pytest.fixture
def folder(tmp_path):
    """A saved model of seed 0, with the EMA weights of seed 1."""
    save_model(tmp_path, tiny(seed=0), tiny(seed=1).weights.state_dict())
    return tmp_path


def test_the_averaged_weights_are_preferred(folder):
    for load in (load_model, Model.from_pretrained):
        assert same_answers(load(folder), tiny(seed=1))
        assert same_answers(load(folder, ema=False), tiny(seed=0))
    assert not same_answers(tiny(seed=0), tiny(seed=1))
    assert weights_file(folder).name == AVERAGED
    assert weights_file(folder, ema=False).name == WEIGHTS
    weights_file(folder).unlink()
    assert same_answers(load_model(folder), tiny(seed=0))


def test_half_precision_weights_are_loaded_in_float32(folder):
    rounded = {name: tensor.bfloat16() for name, tensor in tiny(seed=1).weights.state_dict().items()}
    save_file(rounded, weights_file(folder))
    state = load_model(folder).weights.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in rounded.items())


class Linear(nn.Module):
    """A network that is no VideoUNet."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, query) -> Fields:
        return Fields(self.weight[0] * query.x, self.weight[1] * query.x)


def test_a_network_of_ones_own_is_saved_and_loaded_into(tmp_path):
    network = Linear()
    nn.init.uniform_(network.weight)
    model = Model(network, BIFLOW, (3, 6, 10), eps=0.2, fps=5.0)
    save_model(tmp_path, model, {"weight": torch.tensor([3.0, 4.0])})
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["_class_name"], config["method"], config["size"]) == ("Linear", "biflow", [6, 10])
    raw, averaged = Linear(), Linear()
    again = load_model(tmp_path, network=raw, ema=False)
    assert again.network is raw
    assert (again.method, again.shape, again.eps, again.fps) == (BIFLOW, (3, 6, 10), 0.2, 5.0)
    assert same_answers(again, model)
    assert Model.from_pretrained(tmp_path, network=averaged).network is averaged
    assert averaged.weight.tolist() == [3, 4]


def test_a_network_of_ones_own_that_is_not_given_is_asked_for(tmp_path):
    save_model(tmp_path, Model(Linear(), BIFLOW, (3, 6, 10)))
    with pytest.raises(UserError, match=r"a Linear, not a VideoUNet.*network="):
        load_model(tmp_path)


# Folders that are something else


def test_a_run_without_a_checkpoint_is_no_model_yet(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(UserError, match="is a run that has no checkpoint yet"):
        load_model(tmp_path)


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
    [
        {"network": {"channel": [32]}},
        {"network": {"channels": 32}},
        {"network": "small"},
        {"size": [8]},
        {"size": 8},
        {"size": [6, 8]},
        {"method": "bflow"},
        {"method": 3},
    ],
)
def test_a_config_that_makes_no_sense_is_an_error_that_names_it(folder, changes):
    edit_config(folder, **changes)
    with pytest.raises(UserError, match=r"config\.json does not describe a biflow model"):
        load_model(folder)


def test_a_size_that_the_network_cannot_take_names_the_nearest(folder):
    edit_config(folder, size=[6, 8])
    with pytest.raises(UserError, match=r"config\.json .*6x8 do not fit this network.* 4 or 8 works"):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "sentence"), [("{", "is not valid JSON"), ("[]", "does not describe a biflow"), ("null", "does not")]
)
def test_a_config_that_is_not_an_object_in_json_is_an_error_that_names_it(folder, content, sentence):
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=rf"config\.json {sentence}"):
        load_model(folder)
