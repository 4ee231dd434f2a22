"""The pipeline of diffusers: the same frames as a stream, and folders that everything else takes."""

import json

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

import biflow
from biflow import BiFlowPipeline, Solver, UserError
from biflow.actions import Actions
from biflow.config import NetworkConfig
from biflow.methods import BIFLOW, FLOW
from biflow.model import Model, empty_conditions, load_model, save_model
from biflow.networks import VideoUNet
from tests.engines.tiny import save_tiny

TINY = NetworkConfig(channels=(32,), attention=(), patch=2)
QUICK = {"num_inference_steps": 1, "solver": "euler"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"), Image.fromarray(picture(0)), "A card.", eps=0.3)


@pytest.fixture
def pipe(folder):
    pipe = BiFlowPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed, side=16):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def expected(model, pictures, frames=3, generators=None):
    """The frames of the library's own stream, (b, n, 3, h, w) in [0, 1]."""
    first = biflow.to_float(torch.from_numpy(np.stack(pictures)).movedim(-1, -3))
    generators = generators or [seeded()]
    videos = biflow.generate(model, first, frames=frames, generators=generators, solver=Solver("euler", steps=1))
    return videos / 2 + 0.5


def test_frames_are_those_of_the_stream(pipe, folder):
    ours = pipe(Image.fromarray(picture(0)), num_frames=3, generator=seeded(), output_type="pt", **QUICK).frames
    torch.testing.assert_close(ours, expected(load_model(folder), [picture(0)]), atol=1e-5, rtol=0)


def test_every_kind_of_image_is_the_same_start(pipe):
    pixels, two = picture(1), np.stack([picture(1), picture(2)])
    tensor = torch.from_numpy(pixels).movedim(-1, 0)
    for image in (Image.fromarray(pixels), pixels, pixels / 255, tensor, tensor / 255, tensor[None], [pixels]):
        start = pipe._first(image)
        assert (start.shape, start.dtype) == ((1, 3, 16, 16), torch.float32)
        torch.testing.assert_close(start, biflow.to_float(tensor)[None], atol=1e-6, rtol=0)
    for images in (two, list(two), [Image.fromarray(one) for one in two], torch.from_numpy(two).movedim(-1, 1)):
        assert torch.equal(pipe._first(images), biflow.to_float(torch.from_numpy(two).movedim(-1, 1)))
    assert pipe._first(np.stack([two, two])).shape == (2, 2, 3, 16, 16)
    assert pipe._first(Image.new("L", (40, 20), 255)).unique().tolist() == [1.0]  # resized, and grey as RGB


def test_without_an_image_it_starts_from_the_models_own(pipe, folder):
    assert torch.equal(pipe._first(None)[:, -1], pipe._first(Image.open(folder / "first" / "000.png")))
    alone = BiFlowPipeline(load_model(folder))
    alone.model = biflow.Model(alone.model.network, BIFLOW, (3, 16, 16))
    with pytest.raises(UserError, match="comes without first frames: give an image"):
        alone()


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((16, 16)), r"of shape \(16, 16\)"),
        (torch.zeros(16, 16, 3), r"of shape \(16, 16, 3\)"),
        (torch.full((3, 16, 16), -1.0), r"floats in \[0, 1\]"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), "int64"),
        (torch.full((3, 16, 16), torch.nan), r"floats in \[0, 1\]"),
        ("photo.jpg", "a str"),
        ([], "empty list"),
        (torch.empty(0, 3, 16, 16), r"empty, of shape \(0, 3, 16, 16\)"),
        (Image.new("F", (16, 16), 0.5), "has F pixels, whose range is unknown"),
        (np.zeros((16, 16, 3), np.uint16), r"uint16, but must be uint8, or floats in \[0, 1\]"),
        ([torch.zeros(3, 16, 16), torch.zeros(1, 2, 3, 16, 16)], "frames with and without others before them"),
    ],
)
def test_what_is_no_image_is_refused(pipe, image, sentence):
    with pytest.raises(UserError, match=sentence):
        pipe(image, num_frames=1)


def test_the_types_of_output(pipe):
    how = {"image": [picture(0), picture(1)], "num_frames": 3, **QUICK}
    pil, np_, pt = (pipe(**how, generator=seeded(), output_type=kind).frames for kind in ("pil", "np", "pt"))
    assert (len(pil), len(pil[0]), pil[0][0].size) == (2, 3, (16, 16))
    assert (np_.shape, np_.dtype, pt.shape, pt.dtype) == (
        (2, 3, 16, 16, 3),
        np.float32,
        (2, 3, 3, 16, 16),
        torch.float32,
    )
    np.testing.assert_array_equal(np_, pt.movedim(-3, -1).numpy())
    assert 0 <= np_.min() < np_.max() <= 1
    np.testing.assert_allclose(np.asarray(pil[1][2]) / 255, np_[1, 2], atol=0.51 / 255)
    (frames,) = pipe(**how, generator=seeded(), output_type="np", return_dict=False)
    np.testing.assert_array_equal(frames, np_)


def test_noise_follows_from_the_generator(pipe, folder):
    def video(image, generator):
        return pipe(image, num_frames=2, generator=generator, output_type="pt", **QUICK).frames

    one, other = picture(0), picture(1)
    assert torch.equal(video(one, seeded(1)), video(one, seeded(1)))
    assert not torch.equal(video(one, seeded(1)), video(one, seeded(2)))
    assert not torch.equal(video(one, None), video(one, None))
    both = video([one, other], [seeded(1), seeded(2)])
    torch.testing.assert_close(both[0], video(one, seeded(1))[0], atol=1e-5, rtol=0)  # whatever is beside it
    torch.testing.assert_close(both[1], video(other, seeded(2))[0], atol=1e-5, rtol=0)
    assert not torch.equal(*video([one, one], seeded(1)))
    with pytest.raises(UserError, match="2 samples need as many generators"):
        video([one, other], [seeded(1)])


def test_noise_level_and_steps_reach_the_solver(pipe):
    calm, wild = (
        pipe(picture(0), 2, level, generator=seeded(), output_type="pt", **QUICK).frames for level in (0.0, 1.5)
    )
    assert not torch.allclose(calm, wild, atol=0.05)
    for steps in (1, 3):
        shown = next(pipe.stream(picture(0), num_inference_steps=steps, solver="euler"))
        assert shown.nfe == [steps]
    assert next(pipe.stream(picture(0), num_inference_steps=4, solver=Solver("euler", steps=1))).nfe == [4]
    assert next(pipe.stream(picture(0), direction="backward")).time == -1


def test_a_callback_sees_every_frame_and_may_end_the_video(pipe):
    seen = []

    def callback(pipe, step, time, tensors):
        seen.append((step, time, tensors["frame"].shape))
        pipe._interrupt = step == 2
        return tensors

    frames = pipe(picture(0), num_frames=9, callback_on_step_end=callback, **QUICK).frames
    assert seen == [(step, step + 1.0, (1, 3, 16, 16)) for step in range(3)]
    assert len(frames[0]) == 3
    assert len(pipe(picture(0), num_frames=4, **QUICK).frames[0]) == 4  # the next call is not interrupted
    with pytest.raises(UserError, match="frame"):
        pipe(picture(0), callback_on_step_end=callback, callback_on_step_end_tensor_inputs=["latents"])


def test_the_progress_bar_is_that_of_diffusers(pipe, capsys):
    pipe.set_progress_bar_config(desc="dreaming")
    pipe(picture(0), num_frames=2, **QUICK)
    assert "dreaming: 100%" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe(picture(0), num_frames=2, **QUICK)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.02), (torch.float16, 0.005)])
def test_another_number_format_gives_nearly_the_same_frames(pipe, folder, dtype, near):
    assert (pipe.device.type, pipe.dtype) == ("cpu", torch.float32)
    how = {"num_frames": 3, "output_type": "pt", **QUICK}
    exact = pipe(picture(0), generator=seeded(), **how).frames
    moved = BiFlowPipeline.from_pretrained(folder, torch_dtype=dtype)
    moved.set_progress_bar_config(disable=True)
    assert moved.dtype == dtype
    assert moved.to("cpu", torch.float32).to(device="cpu", dtype=dtype) is moved
    frames = moved(picture(0), generator=seeded(), **how).frames
    assert frames.dtype == torch.float32
    assert (frames - exact).square().mean().sqrt() < near


def test_a_model_with_past_frames_and_actions(tmp_path):
    actions = Actions(("turn",), ((-1.0, 1.0),), {"left": {"turn": -1.0}, "right": {"turn": 1.0}})
    torch.manual_seed(1)
    wider = NetworkConfig(channels=(64,), attention=(), patch=2)  # in 32 groups of one channel, a shift has no effect
    network = VideoUNet(BIFLOW, wider, conditions=empty_conditions(1, (3, 1, 1), 2, actions))
    for name, weights in network.named_parameters():
        if ".class_embedding.vector." in name:  # zero until it is trained, and then no action would matter
            torch.nn.init.normal_(weights, std=0.5)
    save_model(tmp_path, Model(network, BIFLOW, (3, 16, 16), 0.1, 10.0, 2, 0.2, actions))
    pipe = BiFlowPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    how = {"image": np.stack([picture(0), picture(1), picture(2)])[None], "output_type": "pt", **QUICK}
    left, right = (pipe(actions=text, generator=seeded(), **how).frames for text in ("left*3", "right*3"))
    assert left.shape == (1, 3, 3, 16, 16)
    assert not torch.allclose(left, right, atol=1e-3)
    rows = pipe(actions=[[-1.0]] * 5, num_frames=3, generator=seeded(), **how).frames
    assert torch.equal(rows, left)
    with pytest.raises(UserError, match="The actions end after 1 of 2 frames"):
        pipe(actions=iter([[-1.0]]), num_frames=2, **how)
    with pytest.raises(UserError, match="at most 3, as many as there are actions for"):
        pipe(actions="left*3", num_frames=4, **how)
    assert pipe(actions="left*3", in_between=2, generator=seeded(), **how).frames.shape[1] == 6
    assert pipe(actions="left*3", in_between=2, num_frames=5, generator=seeded(), **how).frames.shape[1] == 5


def test_what_the_model_cannot_do_is_refused(tmp_path, pipe):
    torch.manual_seed(0)
    save_model(tmp_path, Model(VideoUNet(FLOW, TINY), FLOW, (3, 16, 16)))
    flow = BiFlowPipeline.from_pretrained(tmp_path)
    engine = BiFlowPipeline(biflow.Model(lambda query: query, FLOW, engine="openvino"))
    for call, sentence in {
        lambda: flow(picture(0), noise_level=0.2): "needs a BI-FLOW model",
        lambda: flow(picture(0), actions="left*3"): "takes no actions",
        lambda: pipe(picture(0), num_frames=0): "num_frames",
        lambda: pipe(picture(0), output_type="latent"): "pil, np or pt",
        lambda: pipe.to(torch.float64): "not in torch.float64",
        lambda: pipe(picture(0), num_inference_steps=0): "steps is 0",
        lambda: BiFlowPipeline.from_pretrained(tmp_path, use_safetensors=False): "safetensors only",
        lambda: BiFlowPipeline.from_pretrained(tmp_path / "nowhere"): "No model in",
        lambda: pipe.save_pretrained(tmp_path / "out", safe_serialization=False): "safetensors only",
        lambda: engine.to("cpu"): "openvino cannot be moved",
        lambda: engine.save_pretrained(tmp_path / "out"): "openvino cannot be saved: save the model first",
        lambda: engine.push_to_hub("a/b"): "openvino cannot be saved",
    }.items():
        with pytest.raises(UserError, match=sentence):
            call()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("frames", ["3", 2.5])
def test_a_number_of_frames_that_is_none_is_refused(pipe, unchecked, frames):
    with pytest.raises(UserError, match=f"num_frames is {frames}; it must be a whole number, at least 1"):
        pipe(picture(0), num_frames=frames)


def test_a_saved_pipeline_is_a_model_folder(pipe, folder, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    files = sorted(path.relative_to(tmp_path / "saved").as_posix() for path in (tmp_path / "saved").rglob("*.*"))
    assert files == ["README.md", "config.json", WEIGHTS, "first/000.png", "model_index.json"]
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert (index["_class_name"], index["model"]) == ("BiFlowPipeline", ["biflow.model", "Model"])
    for again in (load_model(tmp_path / "saved"), BiFlowPipeline.from_pretrained(tmp_path / "saved").model):
        assert (again.eps, again.fps, again.size) == (0.3, 10.0, (16, 16))
        pairs = zip(again.weights.parameters(), pipe.model.weights.parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    assert list(pipe.components) == ["model"]


def test_a_pipeline_that_is_saved_where_no_model_was_removes_nothing(pipe, tmp_path):
    (tmp_path / "first").mkdir()
    for name in ("first/mine.png", "evidence.json", "NOTICE"):
        (tmp_path / name).write_text("mine")
    pipe.save_pretrained(tmp_path)
    assert all((tmp_path / name).read_text() == "mine" for name in ("first/mine.png", "evidence.json", "NOTICE"))


def test_a_pipeline_that_is_saved_over_another_leaves_nothing_of_it(pipe, tmp_path):
    saved = tmp_path / "saved"
    (saved / "first" / "001").mkdir(parents=True)
    for name in (
        "first/001/0.png",
        "first/moments.safetensors",
        "evidence.json",
        "stream.webp",
        "NOTICE",
        "config.json",
    ):
        (saved / name).write_bytes(b"of another model")
    (saved / "README.md").write_text("<!-- biflow wrote this card of another model -->")
    (saved / "notes.txt").write_text("mine")
    pipe.save_pretrained(saved)
    files = sorted(path.relative_to(saved).as_posix() for path in saved.rglob("*.*"))
    assert files == ["README.md", "config.json", WEIGHTS, "first/000.png", "model_index.json", "notes.txt"]
    assert (saved / "README.md").read_text() == "A card."
    (saved / "README.md").write_text("My own card.")
    BiFlowPipeline.from_pretrained(saved).save_pretrained(saved)  # where it is
    assert (saved / "first" / "000.png").exists()
    assert (saved / "README.md").read_text() == "My own card."


def test_diffusers_own_loader_knows_only_its_own_classes(pipe, tmp_path):
    """What docs/hub.md says: `DiffusionPipeline.from_pretrained` takes classes of diffusers alone."""
    pipe.save_pretrained(tmp_path)
    with pytest.raises(AttributeError, match="BiFlowPipeline"):
        DiffusionPipeline.from_pretrained(tmp_path)


def test_a_pipeline_goes_to_the_hub_and_comes_back(pipe, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = pipe.push_to_hub("me/squares", token="hf_secret", private=True)
    assert url.startswith(f"{hub.address}/me/squares/commit/")
    assert sorted(hub.repositories["me/squares"]) == [
        "README.md",
        "config.json",
        WEIGHTS,
        "first/000.png",
        "model_index.json",
    ]
    assert hub.repositories["me/squares"]["README.md"] == b"A card."
    again = BiFlowPipeline.from_pretrained("me/squares", revision="v1", cache_dir=tmp_path / "mine")
    assert (tmp_path / "mine" / "models--me--squares").is_dir()
    how = {"num_frames": 2, "output_type": "pt", **QUICK}
    assert torch.equal(pipe(generator=seeded(), **how).frames, again(generator=seeded(), **how).frames)
    hub.status = 401
    with pytest.raises(UserError, match=r"cannot be uploaded to .*me/other \(it answers 401\)\. Log in with `hf auth"):
        pipe.push_to_hub("me/other")
