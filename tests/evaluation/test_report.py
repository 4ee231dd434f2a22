"""Reports of synthetic evaluations. test_evaluate.py reports a real one."""

import csv
import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from biflow import methods
from biflow.errors import UserError
from biflow.evaluation.report import report, texts
from biflow.evaluation.report.figures import BLUES, OTHERS, colours, over_time, pareto
from biflow.evaluation.report.runs import groups, read_runs

FRAMES, WINDOW, STRIDE = 14, 6, 4
MIDPOINT = {"method": "midpoint", "steps": 1, "rtol": 0.01, "reference": False}
TWENTY = {"method": "euler", "steps": 20, "rtol": 0.01, "reference": False}


def distance(mean: float, count: int) -> dict:
    windows = [mean - 5, mean, mean + 5, mean + 10][:count]
    intervals = [[value - 20, value + 30] for value in windows]
    parts = {"mean": mean, "interval": [mean - 20, mean + 30], "slope": 1.25}
    parts["slope_interval"] = [-0.5, 3.0]
    return parts | {"per_window": windows, "per_window_intervals": intervals}


@pytest.fixture
def evaluated(tmp_path):
    """Writes the folder of an evaluation: metrics.json, random videos of 8x10, and their first frames."""

    def write(
        name,
        method="biflow",
        eps=0.1,
        fvd=500.0,
        *,
        direction="forward",
        solver=MIDPOINT,
        frames=FRAMES,
        note=None,
        engine="torch",
        nfe=2.5,
    ):
        folder, random = tmp_path / name, np.random.default_rng(0)
        (folder / "videos").mkdir(parents=True)
        for sample in range(2):
            np.save(folder / "videos" / f"{sample:03d}.npy", random.integers(0, 256, (frames, 8, 10, 3), np.uint8))
        np.save(folder / "first.npy", random.integers(0, 256, (2, 3, 8, 10), np.uint8))
        count = (frames - WINDOW) // STRIDE + 1
        settings = {"name": "tiny", "samples": 2, "frames": frames, "window": WINDOW, "stride": STRIDE, "nearest": 0}
        settings |= {"eps": eps, "direction": direction, "solver": solver}
        over_time = {"frames": list(range(frames)), "generated": [1.5] * frames, "real": 1.0}
        metrics = {
            "fvd": distance(float(fvd), count),
            "kvd": distance(fvd / 10, count),
            "nfe": {"mean": nfe, "interval": [2.25, 2.75], "p95": 3.0, "batch_max": 3.5},
            "over_time": {"motion": over_time, "colour_drift": over_time},
            "seconds_per_frame": 0.125,
            "windows": {"real": 3, "generated": 2},
            "note": note,
            "protocol": {
                "settings": settings,
                "engine": engine,
                "model": {"method": method, "sha256": f"model {method}"},
                "data": {"name": "squares", "sha256": "data", "fps": 10.0},
                "networks": {"i3d": {"name": "mean colours"}},
            },
        }
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    return write


@pytest.fixture
def five(evaluated):
    return [
        evaluated("condiff", "condiff", 0.0, 400),
        evaluated("clean", eps=0.0, fvd=900),
        evaluated("noisy", eps=0.1, fvd=300),
        evaluated("back", direction="backward"),
        evaluated("twenty", solver=TWENTY, nfe=20.0),
        evaluated("flow", "flow", 0.0, 2000),
    ]


@pytest.fixture
def extended(evaluated):
    """Writes an evaluation with numbers of the past and of actions; some may be left out."""

    def write(name, actions="data", without=(), **settings):
        folder = evaluated(name, **settings)
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["protocol"]["settings"] |= {"actions": actions}
        ratio = {"generated": 1.0, "real": 2.0, "over_real": 0.5, "interval": [0.4, 0.6], "last_over_real": 0.25}
        inverse = {"pairs": {"generated": 28, "real": 99}, "inverse_model": {"sha256": "0123456789"}}
        palette = {"palettes": 3, "hold": 8, "frames": {"generated": 28, "real": 200}}
        turning = {"script": "left*22 right*22", "videos": 3, "unrelated": "64 pairs of frames"}
        values = {"model": {"mean": [30.0, 20.0]}, "dropped": {"mean": [25.0, 15.0]}, "copy": {"mean": [24.0, 14.0]}}
        parts = {
            "control": {**ratio, "over_real": 0.875, "chance": 0.333, "protocol": inverse},
            "palette": {**ratio, "protocol": palette},
            "turning": {"back": 0.31, "away": 1.2, "interval": [0.2, 0.4], "unrelated": 0.55, "protocol": turning},
            "truth": {"frames": [1, 8], "psnr": values, "ssim": values, "protocol": {"videos": 3}},
            "motion": {**ratio, "over_real": 0.75},
            "grid": {**ratio, "over_real": 1.5, "protocol": {"period": 2}},
        }
        parts["turning"]["real"] = {"back": 0.02, "away": 1.1, "turns": 46}
        metrics["past_and_actions"] = {**{k: v for k, v in parts.items() if k not in without}, "notes": []}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    return write


def rows(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:2] == "| "]


def test_the_report_holds_every_run_once_and_the_paper_s_numbers_as_such(five, tmp_path):
    page = report(five, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    table, equal_cost = text.split("Equal cost, 20 Euler steps")
    labels = [row[0] for row in rows(table)[1:]]
    assert labels == ["FLOW", "BI-FLOW ε 0", "BI-FLOW ε 0.1 ★", "BI-FLOW ε 0.1, backward", "CONDIFF"]
    assert rows(table)[3][1:] == [
        "300 [280, 330]",
        "+1.25 [-0.50, +3.00]",
        "30.0 [10.0, 60.0]",
        "2.50 [2.25, 2.75]",
        "3",
        "3.50",
        "midpoint x 1",
        "torch",
    ]
    assert [row[0] for row in rows(equal_cost.split("##")[0])[1:]] == ["BI-FLOW ε 0.1, 20 steps"]
    assert text.count("★ |") == 1
    paper = rows(text.split("## The paper's numbers")[1])
    assert paper[0] == ["", "SKY", "BIKING", "RIDING", "CARLA", "MAZES", "MINERL"]
    assert paper[2][:3] == ["BI-FLOW", "526 / 14.57", "3753 / 25.63"]
    assert paper[6] == ["CONDIFF, 20 steps", "994", "10253", "6698", "829", "655", "2286"]
    csv = (tmp_path / "report" / "report.csv").read_text().splitlines()
    assert len(csv) == 7
    assert csv[2] == (
        "squares,BI-FLOW,0.0,forward,midpoint,1,tiny,model biflow,"
        "900.0,880.0,930.0,1.25,-0.5,3.0,90.0,70.0,120.0,1.25,-0.5,3.0,2.5,2.25,2.75,3.0,3.5,0.125,,torch" + 25 * ","
    )
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"scatter_squares.svg", "time_squares.png", "methods_squares.png"} <= written
    assert "directions_squares_0.1.png" in written
    html = page.read_text()
    assert html.count("<video") == 6
    assert "http" not in html.replace("http://www.w3.org", "").replace("data:", "")[:3000]


def test_the_past_and_actions_have_tables_with_their_protocol(evaluated, extended, tmp_path):
    alone = ("control", "truth", "turning")
    folders = [evaluated("old"), extended("told"), extended("alone", actions="none", without=alone)]
    page = report(folders, tmp_path / "report").read_text()
    text = (tmp_path / "report" / "report.md").read_text()
    assert text.count("Protocol **tiny**") == 1  # an earlier version's, and other actions, are in the same table
    section = text.split("### Past and actions")[1].split("## The paper")[0]
    found = rows(section)
    between = "1.00 [0.40, 0.60]"
    motion, grid = "0.75 [0.40, 0.60]", "1.50 [0.40, 0.60]"
    own, dropped = "BI-FLOW ε 0.1, actions data", "BI-FLOW ε 0.1, actions none"
    assert found[1:3] == [
        [own, "0.88 [0.40, 0.60]", between, "0.50", "0.31 [0.20, 0.40]", "1.20", motion, grid, "0.25"],
        [dropped, "", between, "0.50", "", "", motion, grid, "0.25"],
    ]
    assert found[4:] == [
        [own, "30.0, 20.0", "30.00, 20.00", ""],
        [f"{own}, without actions", "25.0, 15.0", "25.00, 15.00", ""],
        ["the first frame, copied", "24.0, 14.0", "24.00, 14.00", ""],
    ]
    for words in ("01234567", "28 generated and 99 real pairs", "3 palettes", r"left\*22 right\*22", "every 2 pixels"):
        assert section.count(words) == 1
    assert "<h3>Past and actions</h3>" in page
    table = [line.split(",") for line in (tmp_path / "report" / "report.csv").read_text().splitlines()]
    columns = {name: [line[at] for line in table[1:]] for at, name in enumerate(table[0])}
    assert sorted(columns["control_over_real"]) == ["", "", "0.875"]
    assert sorted(columns["grid_over_real"]) == ["", "1.5", "1.5"]
    assert sorted(columns["actions"]) == ["", "data", "none"]


def test_a_file_of_actions_is_named_with_its_checksum(extended):
    folder = extended("walk", actions="somewhere/walk.csv")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["protocol"]["actions_file"] = {"name": "walk.csv", "sha256": "0123456789"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert read_runs([folder])[0].label == "BI-FLOW ε 0.1, actions walk.csv (01234567)"


def test_other_frames_of_the_truth_stand_in_another_table(evaluated, extended):
    folder = extended("other")
    path = folder / "metrics.json"
    path.write_text(path.read_text().replace('"nearest": 0', '"nearest": 0, "truth": [1, 9]'))
    usual = evaluated("old")
    assert len(groups(read_runs([usual, extended("told"), folder]))) == 2


INSIDE = {"tr": ("thead", "tbody"), "th": ("tr",), "td": ("tr",), "li": ("ul", "ol"), "thead": ("table",)}
INSIDE |= {"tbody": ("table",), "figcaption": ("figure",)}


class Page(HTMLParser):
    """Checks that tags balance and stand where they may. Collects text by tag, and the URLs that would be loaded."""

    VOID = ("meta", "img", "link", "br", "hr", "input")
    BLOCKS = ("table", "section", "div", "p", "h1", "h2", "h3", "ul", "figure", "blockquote")

    def __init__(self, html: str):
        super().__init__()
        self.open, self.text, self.urls = [], {}, []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.urls += [value for name, value in attrs if name in ("src", "href")]
        assert tag not in INSIDE or self.open[-1] in INSIDE[tag]
        assert tag not in self.BLOCKS or not {"p", "table", "h1", "h2", "h3", "ul"} & set(self.open), self.open
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data.strip())


def test_the_page_is_balanced_html_that_loads_nothing(five, tmp_path):
    page = Page(report(five, tmp_path / "report").read_text())
    assert len(page.urls) == 6 + 3  # videos and plots
    assert {url.split(",")[0] for url in page.urls} == {"data:video/mp4;base64", "data:image/svg+xml;base64"}
    assert page.text["h1"] == ["Evaluation"]
    assert page.text["h2"] == ["squares", "The paper's numbers"]
    assert "BI-FLOW ε 0.1 ★" in page.text["td"]
    assert page.text["td"][-7:] == ["CONDIFF, 20 steps", "994", "10253", "6698", "829", "655", "2286"]
    assert "BI-FLOW ε 0.1, backward, FVD 500, NFE 2.5" in page.text["figcaption"]


def test_every_kind_of_report_is_valid_html(evaluated, extended, tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "video", lambda run: "data:,")
    (plot := tmp_path / "plot.svg").write_text("<svg/>")
    many = [evaluated("one_solver"), evaluated("other", solver=TWENTY), evaluated("engine", engine="openvino bf16")]
    kinds = {
        "solvers and engines": many,
        "a table at the end": [evaluated("cost", solver=TWENTY)],
        "another table at the end": [extended("truth")],
        "a list at the end": [extended("list", without=("truth",))],
        "one window": [evaluated("window", frames=WINDOW)],
        "several groups": [*many, evaluated("short", frames=WINDOW, note="Few.")],
        "backward alone": [evaluated("back", direction="backward")],
    }
    for name, folders in kinds.items():
        page = Page(texts.page([(group, [plot]) for group in groups(read_runs(folders))]))
        assert page.text["h2"][-1] == "The paper's numbers", name
        words = "The first 4 videos of each run. Models that see as many past frames have the same first ones."
        assert page.text["p"].count(words) >= 1


def test_runs_of_other_solvers_and_engines_have_rows_and_pictures_of_their_own(evaluated, tmp_path):
    how = [(solver, engine) for solver in (MIDPOINT, {**MIDPOINT, "steps": 3}) for engine in ("torch", "openvino bf16")]
    folders = [
        evaluated(f"{direction}_{number}", direction=direction, solver=solver, engine=engine)
        for number, (solver, engine) in enumerate(how)
        for direction in ("forward", "backward")
    ]
    (group,) = groups(read_runs(folders))
    labels = [run.label for run in group.runs]
    assert len(set(labels)) == 8
    assert "BI-FLOW ε 0.1, backward, midpoint x 3, openvino bf16" in labels
    for backward, forward in group.directions():
        assert backward.folder.name.partition("_")[2] == forward.folder.name.partition("_")[2]
    report(folders, tmp_path / "report")
    assert len(list((tmp_path / "report").glob("directions_squares_0.1_*.png"))) == 4
    again = [run.label for run in groups(read_runs([folders[0], evaluated("twin")]))[0].runs]
    assert again == ["BI-FLOW ε 0.1, forward_0", "BI-FLOW ε 0.1, twin"]  # the same in all but the folder


def test_distances_of_frames_have_a_table_columns_and_a_plot_over_time(evaluated, tmp_path):
    folder = evaluated("frames")
    metrics = json.loads((folder / "metrics.json").read_text())
    of = {"n": {"real": 24, "generated": 6}}
    metrics |= {"fid": distance(200.0, 3) | of, "kid": {**distance(0.25, 3), "interval": [-0.125, 0.5]}}
    metrics["over_time"]["lpips_to_previous"] = {"frames": [2, 4], "generated": [0.5, 0.25], "real": 0.25}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    report([folder, evaluated("without", eps=0.2)], tmp_path / "report")
    table = rows((tmp_path / "report" / "report.md").read_text().split("FID and KID")[1].split("##")[0])
    slopes = "+1.25 [-0.50, +3.00]", "+1.2500 [-0.5000, +3.0000]"
    assert table[1:] == [
        ["BI-FLOW ε 0.1", "200 [180, 230]", slopes[0], "0.250 [-0.125, 0.500]", slopes[1], "6, 24", "1.50"]
    ]
    with (tmp_path / "report" / "report.csv").open() as file:
        measured, without = csv.DictReader(file)
    assert (measured["fid"], measured["kid_low"], measured["kid_slope_high"]) == ("200.0", "-0.125", "3.0")
    assert (without["fid"], without["kid_slope_high"]) == ("", "")
    shown = [
        [axes.get_ylabel() for axes in over_time(runs).axes]
        for runs in (read_runs([folder]), read_runs([folder, tmp_path / "without"]))
    ]
    assert shown == [["FVD", "KVD", "FID", "KID"], ["FVD", "KVD"]]
    metrics["kid"]["per_window"].pop()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="kid has 2 windows, but its settings give 3"):
        read_runs([folder])


def test_twenty_steps_that_several_frames_share_are_not_of_equal_cost(evaluated, tmp_path):
    group = groups(read_runs([evaluated("span", solver=TWENTY, nfe=5.0), evaluated("one", solver=TWENTY, nfe=20.0)]))[0]
    assert [run.folder.name for run in group.equal_cost] == ["one"]
    assert [run.folder.name for run in group.main] == ["span"]


def test_a_star_compares_noise_levels_of_one_model(evaluated):
    other = [evaluated("map", "flowmap", eps=0.3, fvd=10), evaluated("auto", eps="auto", fvd=90)]
    one = [evaluated("low", eps=0.1, fvd=100)]
    best = [groups(read_runs(folders))[0].best for folders in (one, one + other[:1], one + other)]
    assert [run and run.folder.name for run in best] == [None, None, "auto"]


def test_models_of_one_kind_are_told_apart_by_the_past_frames_that_they_see(evaluated):
    folders = [evaluated("one"), evaluated("two")]
    path = folders[1] / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["protocol"]["model"]["context"] = 3
    path.write_text(json.dumps(metrics))
    labels = [run.label for run in groups(read_runs(folders))[0].runs]
    assert sorted(labels) == ["BI-FLOW ε 0.1, 3 past frames", "BI-FLOW ε 0.1, no past frames"]
    metrics["protocol"]["model"]["context"] = 1
    path.write_text(json.dumps(metrics))
    assert "BI-FLOW ε 0.1, 1 past frame" in [run.label for run in groups(read_runs(folders))[0].runs]


def test_folders_of_one_name_are_told_apart_by_their_paths(evaluated):
    runs = read_runs([evaluated("one/evaluated"), evaluated("two/evaluated")])
    every = groups(runs)[0].runs
    assert len({run.label for run in every}) == len(set(colours(every).values())) == 2


def test_many_noise_levels_are_all_blue_and_differ(evaluated):
    levels = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    found = list(colours(read_runs([evaluated(f"{eps}", eps=eps) for eps in levels])).values())
    assert (found[0], found[-1], len(set(found))) == (BLUES[0], BLUES[-1], len(levels))
    assert not set(found) & set(OTHERS)


def test_runs_of_one_noise_level_differ_in_colour(evaluated):
    runs = read_runs([evaluated("one"), evaluated("map", "flowmap"), evaluated("two", solver={**MIDPOINT, "steps": 2})])
    assert len(set(colours(groups(runs)[0].runs).values())) == 3


def test_every_note_is_shown_once(evaluated, tmp_path):
    folders = [evaluated("a"), evaluated("b", eps=0.2, note="Few."), evaluated("c", eps=0.3, note="Few.")]
    report(folders, tmp_path / "report")
    assert (tmp_path / "report" / "report.md").read_text().count("> Few.") == 1


def test_names_of_sets_may_have_spaces_and_look_like_numbered_ones(evaluated, tmp_path):
    folders = [evaluated(name, **settings) for name, settings in (("a", {}), ("b", {"frames": WINDOW}), ("c", {}))]
    for folder, name in zip(folders, ("my maze", "my maze", "my maze_0"), strict=True):
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["protocol"]["data"]["name"] = name
        (folder / "metrics.json").write_text(json.dumps(metrics))
    assert len({group.name for group in groups(read_runs(folders))}) == 3
    report(folders, tmp_path / "report")
    assert "](<scatter_my maze_0.png>)" in (tmp_path / "report" / "report.md").read_text()


def test_a_single_window_has_no_trend(evaluated, tmp_path):
    page = report([evaluated("one", frames=WINDOW)], tmp_path / "report").read_text()
    text = (tmp_path / "report" / "report.md").read_text()
    cost = ["2.50 [2.25, 2.75]", "3", "3.50"]
    assert rows(text)[1] == ["BI-FLOW ε 0.1", "500 [480, 530]", "", "50.0 [30.0, 80.0]", *cost, "midpoint x 1", "torch"]
    assert "1.25" not in text
    assert "1.25" not in (tmp_path / "report" / "report.csv").read_text()
    assert "which a single window does not have" in page


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"\x93NUMPY")])
def test_videos_that_are_gone_are_named_and_left_out(damage, evaluated, tmp_path, caplog):
    folders = [evaluated("whole"), evaluated("gone", eps=0.2), evaluated("back", direction="backward")]
    damage(folders[1] / "videos" / "001.npy")
    damage(folders[2] / "first.npy")
    html = report(folders, tmp_path / "report").read_text()
    assert f"Gone or damaged: {folders[1] / 'videos' / '001.npy'}. The report shows no videos" in caplog.text
    assert f"Gone or damaged: {folders[2] / 'first.npy'}." in caplog.text
    assert html.count("<video") == 1
    assert Page(html).text["p"].count("The videos of this run are gone.") == 2
    assert len(rows((tmp_path / "report" / "report.md").read_text().split("★ The")[0])) == 4
    assert not list((tmp_path / "report").glob("directions_*"))


def test_an_evaluation_without_fvd_is_named_and_left_out(evaluated, tmp_path, caplog):
    whole, without = evaluated("whole"), evaluated("without")
    metrics = json.loads((without / "metrics.json").read_text())
    del metrics["fvd"], metrics["kvd"]
    (without / "metrics.json").write_text(json.dumps(metrics))
    report([without, whole], tmp_path / "report")
    assert f"{without} has no FVD: left out of the report." in caplog.text
    assert len((tmp_path / "report" / "report.csv").read_text().splitlines()) == 2
    with pytest.raises(UserError, match="has no FVD"):
        report([without], tmp_path / "other")


@pytest.mark.parametrize("name", ["report.md", "report.csv", "report.html"])
def test_another_report_is_not_replaced(name, evaluated, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / name).write_text("# My year")
    with pytest.raises(UserError, match=rf"holds another {name}, which would be lost\. Name a new folder"):
        report([evaluated("run")], tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == [name]
    assert (tmp_path / "thesis" / name).read_text() == "# My year"


def test_pictures_of_an_earlier_report_are_removed_and_nothing_else(evaluated, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    (out / "report.md").write_text(texts.TITLE)
    old = ["report.html", "scatter_old.svg", "time_old_1.png", "methods_old.png", "directions_old_0.1.png"]
    old += ["last_old.png"]
    for name in (*old, "notes.md", "my_scatter.png"):
        (out / name).write_text("written before")
    report([evaluated("other")], out)
    pictures = {f"{name}_squares.{kind}" for name in ("scatter", "time", "measures") for kind in ("png", "svg")}
    own = {"report.md", "report.csv", "report.html", "methods_squares.png", "last_squares.png", *pictures}
    assert {path.name for path in out.iterdir()} == {"notes.md", "my_scatter.png", *own}


def test_a_measure_that_not_all_runs_have_is_drawn_and_the_legend_names_all(evaluated, tmp_path):
    folders = [evaluated("one"), evaluated("two", "flow", 0.0)]
    metrics = json.loads((folders[0] / "metrics.json").read_text())
    metrics["over_time"]["drift"] = {"frames": [0, 3], "generated": [1.0, 2.0], "real": 1.0}
    (folders[0] / "metrics.json").write_text(json.dumps(metrics))
    report(folders, tmp_path / "report")
    drawn = (tmp_path / "report" / "measures_squares.svg").read_text()
    assert all(f"<!-- {text} -->" in drawn for text in ("drift", "FLOW"))
    assert "BI-FLOW" in drawn


@pytest.mark.parametrize("script", ["left right " * 120, "left\nright"])
def test_a_script_of_actions_may_be_long_and_have_lines(extended, tmp_path, script):
    folder = extended("walk", actions=script)
    assert len(read_runs([folder])[0].label) < 70
    assert read_runs([folder])[0].label.startswith("BI-FLOW ε 0.1, actions left right")
    report([folder], tmp_path / "report")


def test_a_script_of_actions_is_text_in_markdown(extended, tmp_path):
    page = Page(report([extended("walk", actions="forward*40 left*12|x")], tmp_path / "report").read_text())
    assert "BI-FLOW ε 0.1, actions forward*40 left*12|x" in page.text["td"]


def test_what_a_metrics_file_says_is_text_and_not_html(evaluated, tmp_path):
    note = 'Few <b>windows</b> & </section> "quoted"'
    html = report([evaluated("<i>", "x<script>", 0.0, note=note)], tmp_path / "report").read_text()
    page = Page(html)
    assert "".join(page.text["p"]).count(note) == 1
    assert "x<script>" in page.text["td"]
    assert html.count("<script>") == 1


def test_a_method_that_is_not_known_is_reported_by_its_name_after_the_others(evaluated, tmp_path):
    folders = [evaluated("a", "toy", 0.0, 100), evaluated("b", "toy", 0.2, 50), evaluated("c", "condiff", 0.0)]
    report(folders, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert [row[0] for row in rows(text)[1:4]] == ["CONDIFF", "toy", "toy ε 0.2"]
    assert "squares,toy,0.2," in (tmp_path / "report" / "report.csv").read_text()
    assert (tmp_path / "report" / "scatter_squares.svg").exists()


def test_a_method_added_from_outside_has_its_title_and_order(evaluated, monkeypatch):
    toy = SimpleNamespace(name="toy", title="TOY", takes_eps=True)
    monkeypatch.setitem(methods.METHODS, "toy", toy)
    runs = read_runs([evaluated("b", "toy", 0.0), evaluated("a", "condiff", 0.0), evaluated("c", "elsewhere", 0.0)])
    assert [run.label for run in runs] == ["CONDIFF", "TOY ε 0", "elsewhere"]


def test_noise_levels_are_blue_and_methods_without_keep_their_colours(five, evaluated):
    every = [*five, evaluated("half", eps=0.3), evaluated("toy", "toy", 0.0)]
    found = colours(read_runs(every))
    assert [found[label] for label in ("BI-FLOW ε 0", "BI-FLOW ε 0.3")] == [BLUES[0], BLUES[-1]]
    assert [found[label] for label in ("FLOW", "CONDIFF")] == ["#2a9d5c", "#d1495b"]
    assert len({found[label] for label in ("FLOW", "CONDIFF", "toy")} - set(BLUES)) == 3
    assert colours(read_runs(every[:1])) == {"CONDIFF": "#d1495b"}  # the same in every report


def test_levels_that_were_chosen_stand_after_the_others_with_their_mean(five, evaluated, tmp_path):
    folder = evaluated("auto", eps="auto")
    metrics = json.loads((folder / "metrics.json").read_text()) | {
        "eps": {"mean": 0.0712, "over_time": [0.07] * FRAMES}
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    runs = read_runs([*five, folder])
    labels = [run.label for run in runs if run.method.takes_eps]
    assert labels.index("BI-FLOW ε auto (0.07 on average)") == len(labels) - 1
    assert colours(runs)["BI-FLOW ε auto (0.07 on average)"] == BLUES[-1]
    report([*five, folder], tmp_path / "report")
    assert "| BI-FLOW ε auto (0.07 on average) |" in (tmp_path / "report" / "report.md").read_text()


def test_runs_of_different_protocols_stand_in_different_tables(evaluated, tmp_path):
    folders = [evaluated("short"), evaluated("longer", frames=18)]
    assert [group.name for group in groups(read_runs(folders))] == ["squares_0", "squares_1"]
    report(folders, tmp_path / "report")
    assert (tmp_path / "report" / "report.md").read_text().count("Protocol **tiny**") == 2


def test_data_named_as_one_of_the_papers_sets_stand_beside_its_numbers(evaluated, tmp_path):
    folder = evaluated("run")
    path = folder / "metrics.json"
    path.write_text(path.read_text().replace('"squares"', '"my_carla"'))
    report([folder], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| *BI-FLOW, the paper's* | *345* | | | | | *23.51* | *Heun, 0.01* |" in text


def test_the_front_holds_what_nothing_beats():
    assert pareto([(1.0, 9.0), (2.0, 5.0), (3.0, 6.0), (4.0, 2.0)]) == [(1, 9), (2, 5), (4, 2)]


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no metrics\.json"):
        read_runs([tmp_path])
    for content, sentence in (("{}", "cannot be read as an evaluation"), ("[]", "cannot"), ("{", "is not valid JSON")):
        (tmp_path / "metrics.json").write_text(content)
        with pytest.raises(UserError, match=rf"metrics\.json {sentence}"):
            read_runs([tmp_path])


def test_what_an_earlier_version_measured_without_intervals_is_shown_without(evaluated, tmp_path):
    folder = evaluated("earlier")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["nfe"] = {"mean": 2.5, "p95": 3.0}
    for name in ("fvd", "kvd"):
        del metrics[name]["slope_interval"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    report([folder], tmp_path / "report")
    row = rows((tmp_path / "report" / "report.md").read_text())[1]
    assert row[1:] == ["500 [480, 530]", "+1.25", "50.0 [30.0, 80.0]", "2.50", "3", "", "midpoint x 1", "torch"]
    assert ",1.25,,,50.0," in (tmp_path / "report" / "report.csv").read_text()
