"""The page of a run: what it says, where its predictions are, and how it behaves in a browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import needs_browser, run_page
from helpers.runs import write_metrics
from helpers.tools import line_of, load_tool
from PIL import Image

from ivtuning.config import set_names
from ivtuning.data.datasets.segmentation import register_known
from ivtuning.errors import UserError
from ivtuning.report import page, predictions
from ivtuning.report.runs import read_run


def write(*folders: Path, **options) -> str:
    """The page of runs, written beside the first."""
    runs = [read_run(folder) for folder in folders]
    return page.write_report(runs, folders[0].parent / "page.html", **options).read_text()


def text_of(html: str) -> str:
    """The words of a page, without its style and scripts."""
    html = re.sub(r"<(style|script)[^>]*>.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


@pytest.fixture
def copy_of(trained, tmp_path):
    made = shutil.ignore_patterns("predictions")  # by another test
    return Path(shutil.copytree(trained, tmp_path / "run", ignore=made))


def test_a_detector_has_its_facts_figures_and_pairs(trained, pairs):
    html = write(trained, pairs=2)
    words = text_of(html)
    for fact in ("finished, 2 of 2 iterations", "IVTuning + PromptStem", "synthetic_train", "synthetic_val"):
        assert fact in words
    assert "2 pairs, fp32" in words and "heads" in words  # of the parameters
    figures = json.loads((trained / "results.json").read_text())["results"]["bbox"]
    for name in ("AP50", "AP-person", "AP50-night", "AP-infrared"):
        assert f'">{figures[name]:.1f}</td>' in html
    assert "What follows is of model_final.pth, on the 4 images of the test set." in words
    assert "where the evaluation had" not in words  # the predictions give the same AP
    for title in ("Loss", "Learning rate", "AP by class", "Precision by recall, IoU 0.75 (AP)"):
        assert f"<figcaption>{title}</figcaption>" in html
    for title in ("Confusion", "Worst pairs", "Best pairs"):
        assert f"<h2>{title}</h2>" in html
    assert html.count("data:image/jpeg;base64,") == 4
    assert "background (missed)" in words and "the best F1 over all classes" in words
    assert "<b>ours" not in html and "&lt;b&gt;ours" in html
    assert not re.search(r'(src|href)="(?!data:)', html) and "url(" not in html


def test_predictions_are_made_once_and_again_for_other_weights(copy_of, pairs, monkeypatch):
    first = write(copy_of, pairs=0)
    stored = (copy_of / "predictions" / "predictions.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "Predictor", None)
        assert write(copy_of, pairs=0) == first
    os.utime(copy_of / "model_final.pth", (1, 1))
    (copy_of / "predictions" / "predictions.json").write_text("[]")
    assert write(copy_of, pairs=0) == first
    assert (copy_of / "predictions" / "predictions.json").read_bytes() == stored


def test_predictions_are_made_again_for_another_test_set(pair_classifier, tmp_path, monkeypatch):
    """Sets that a config names by `data.val` have the same images here, so that only their JSON tells."""
    made = []
    predict = predictions.predict_records
    monkeypatch.setattr(predictions, "predict_records", lambda *args: made.append(args[-1]) or predict(*args))
    (own,) = set_names(read_run(pair_classifier).cfg, "test")
    other = Path(shutil.copy(own, Path(own).parent / "other.json"))
    for val in (own, own, other, other):
        page.write_report([read_run(pair_classifier, [f"data.val={val}"])], tmp_path / "page.html", pairs=0)
    assert made == [own, str(other)]
    os.utime(other, (1, 1))
    page.write_report([read_run(pair_classifier, [f"data.val={other}"])], tmp_path / "page.html", pairs=0)
    assert made == [own, str(other), str(other)]


def test_predictions_that_lack_their_last_file_are_finished(copy_of, pairs):
    first = write(copy_of, pairs=0)
    summary = copy_of / "predictions" / "summary.json"
    summary.unlink()  # as a stop leaves them
    assert write(copy_of, pairs=0) == first and summary.is_file()
    journal = copy_of / "predictions" / "progress.jsonl"  # that of an earlier version knows no set
    options, *lines = journal.read_text().splitlines()
    options = json.loads(options)
    del options["options"]["set"]
    journal.write_text("\n".join([json.dumps(options), *lines, ""]))
    assert write(copy_of, pairs=0) == first


def test_figures_of_another_test_set_say_so(copy_of, segmentor, pairs):
    results = json.loads((copy_of / "results.json").read_text())
    evaluated = {"weights": str(copy_of / "model_final.pth"), "adapter": None}
    (copy_of / "results.json").write_text(json.dumps(results | evaluated | {"test": "synthetic_val"}))
    assert "synthetic_val" not in text_of(write(copy_of, pairs=0)).partition("Curves")[2]
    results["results"]["bbox"]["AP50"] += 1
    (copy_of / "results.json").write_text(json.dumps(results | evaluated | {"test": "night_val"}))
    html = write(copy_of, pairs=0)
    assert "<h2>Figures of boxes on night_val</h2>" in html
    words = text_of(html)
    assert "These figures are of night_val, which is not the run's own test set." in words
    assert "The figures above are of another set, night_val." in words
    assert "where the evaluation had" not in words
    assert "run on night_val" in text_of(write(copy_of, segmentor))


def test_predictions_of_the_user_stay(copy_of, pairs):
    journal = copy_of / "predictions" / "progress.jsonl"
    journal.parent.mkdir()
    journal.write_text('{"options": {"batch": 4}}\n')
    with pytest.raises(UserError, match="predictions holds predictions with"):
        write(copy_of)
    assert [p.name for p in journal.parent.iterdir()] == [journal.name]


def test_the_evaluated_weights_are_those_of_the_page(copy_of, pairs):
    shutil.copy(copy_of / "model_final.pth", copy_of / "other.pth")
    results = json.loads((copy_of / "results.json").read_text())
    results["results"]["bbox"]["AP50"] += 1
    results |= {"weights": "elsewhere/other.pth", "adapter": None}
    (copy_of / "results.json").write_text(json.dumps(results))
    words = text_of(write(copy_of, pairs=0))
    assert "What follows is of other.pth" in words
    assert re.search(r"They give AP50 \d+\.\d, where the evaluation had \d+\.\d", words)


def test_the_model_is_the_one_that_was_evaluated(copy_of, tmp_path):
    other = Path(shutil.copy(copy_of / "model_final.pth", tmp_path))
    (copy_of / "a.safetensors").touch()
    results = json.loads((copy_of / "results.json").read_text())
    evaluated = {"weights": str(other), "adapter": "elsewhere/a.safetensors"}
    (copy_of / "results.json").write_text(json.dumps(results | evaluated))
    assert read_run(copy_of).model == (str(other), str(copy_of / "a.safetensors"), False)
    other.unlink()  # a run that was moved has its checkpoints with it
    assert read_run(copy_of).model.file == str(copy_of / "model_final.pth")


def test_a_threshold_is_stated(trained, pairs):
    words = text_of(write(trained, pairs=1, threshold=1.0))
    assert "a score of at least 1.00 (given)" in words
    assert "F1 0.00: 0 found" in words and ", 0 false alarms" in words


def test_a_detector_may_find_nothing(copy_of, pairs):
    text = (copy_of / "config.yaml").read_text()
    assert "test_score_thresh: 0.0" in text
    (copy_of / "config.yaml").write_text(text.replace("test_score_thresh: 0.0", "test_score_thresh: 0.999"))
    words = text_of(write(copy_of, pairs=1))
    assert "The model has not detected anything." in words and "F1 0.00: 0 found" in words


def test_a_segmentor_has_its_confusion_of_pixels(segmentor):
    html = write(segmentor, pairs=1)
    words = text_of(html)
    assert "unfinished, 20 of 250 iterations" in words and "The run has not been evaluated yet." in words
    assert "Shares of each row in percent, of pixels that are not ignored." in words
    shares = [float(v) for v in re.findall(r'class="(?:hit|miss)[^>]*>([\d.]+)<', html)]
    assert 95 < sum(shares) < 505  # five rows of 100 %, some of which the four images may lack
    assert html.count("data:image/jpeg;base64,") == 2
    assert re.search(r"mIoU \d+\.\d, pixel accuracy \d+\.\d", words)
    assert len(list((segmentor / "predictions" / "labels").glob("*.png"))) == 4


def test_a_classifier_has_its_accuracy(classifier):
    html = write(classifier())
    words = text_of(html)
    assert "top-1 accuracy" in words and "balanced accuracy" in words
    assert "<i>red" not in html and "&lt;i&gt;red" in html and "blue &amp; co" in html
    assert html.count("data:image/jpeg;base64,") == 2


def test_a_classifier_of_pairs_shows_both_images_and_times_of_day(pair_classifier):
    html = write(pair_classifier, pairs=1)
    words = text_of(html)
    assert "top-1 by day" in words and "balanced by night" in words
    assert re.search(r"class images accuracy by day by night", words)
    (first, *_) = re.findall(r"data:image/jpeg;base64,([^\"]+)", html)
    assert Image.open(io.BytesIO(base64.b64decode(first))).width > 2 * 512  # side by side


def test_without_a_checkpoint_or_predictions_the_page_is_short(segmentor):
    (segmentor / "model_final.pth").unlink()
    assert "The run has no checkpoint yet" in text_of(write(segmentor))
    assert "<h2>Predictions</h2>" not in write(segmentor, predict=False)
    assert not (segmentor / "predictions").exists()


def test_several_runs_stand_side_by_side(trained, segmentor):
    html = write(trained, segmentor)
    words = text_of(html)
    assert "Report: <b>ours, labels" in words
    assert "finished, 2 of 2 iterations unfinished, 20 of 250 iterations" in words
    assert "<h2>Figures of boxes</h2>" in html and "<h2>Confusion</h2>" not in html
    loss = re.search(r"<figcaption>Total loss</figcaption>.*?</figure>", html, re.DOTALL)[0]
    assert loss.count("<polyline") == 2
    twice = text_of(write(segmentor, segmentor))
    assert "1 labels 2 labels" in twice


@needs_browser
def test_in_a_browser(trained, pairs):
    write(trained, pairs=1)
    script = """
        const chart = document.querySelector(".chart"), svg = chart.querySelector("svg");
        const box = svg.getBoundingClientRect(), tip = chart.querySelector(".tip");
        const move = x => svg.dispatchEvent(
            new PointerEvent("pointermove", { clientX: box.left + x * box.width, clientY: box.top + 50 }));
        const seen = [tip.hidden];
        move(0.15); seen.push(tip.hidden, tip.textContent);
        move(0.95); seen.push(tip.textContent);
        svg.dispatchEvent(new PointerEvent("pointerleave")); seen.push(tip.hidden);
        const pair = document.querySelector(".pair"), image = pair.querySelector("img");
        const narrow = pair.offsetWidth;
        pair.querySelector("button").click();
        return { seen, grows: pair.offsetWidth > narrow, pixels: image.naturalWidth,
                 page: document.documentElement.scrollWidth, tags: document.querySelectorAll("h1 *").length };
    """
    visit = run_page(trained.parent / "page.html", script)
    assert visit.errors == [] and visit.requests == []
    losses = read_run(trained).series("total_loss")
    hidden, shown, first, last, gone = visit.value["seen"]
    assert hidden and not shown and gone
    assert first.startswith("iteration 1total: ") and f"total: {losses[0][1]:.5g}" in first
    assert last.startswith("iteration 2total: ") and f"total: {losses[1][1]:.5g}" in last
    assert visit.value["grows"] and visit.value["pixels"] == 1200 and visit.value["tags"] == 0
    phone = run_page(trained.parent / "page.html", "return document.documentElement.scrollWidth", 360)
    assert phone.value <= 360


def test_the_tool_takes_runs_and_overrides(segmentor, capsys):
    load_tool("report").main([str(segmentor), "train.seed=7", "--no-predictions"])
    assert capsys.readouterr().out == f"wrote {segmentor / 'report.html'}\n"
    assert re.search(r"seed 7\b", text_of((segmentor / "report.html").read_text()))


DAMAGE = {
    "no folder": (lambda f: shutil.rmtree(f), [], "is no folder: give the output folder of a run"),
    "no run": (lambda f: (f / "config.yaml").unlink(), [], "holds no training run (config.yaml is missing)"),
    "no figures": (lambda f: write_metrics(f), [], "has no figures yet"),
    "a damaged line": (
        lambda f: write_metrics(f, {}, {"iteration": 1}),
        [],
        "metrics.json:1: not a line of metrics",
    ),
    "a list of results": (
        lambda f: (f / "results.json").write_text("[]"),
        [],
        "has no results of an evaluation",
    ),
    "no results": (
        lambda f: (f / "results.json").write_text('{"results": {"bbox": 1}}'),
        [],
        "has no results",
    ),
    "gone weights": (lambda f: None, ["--weights", "gone.pth"], "gone.pth"),
    "a key of no config": (lambda f: None, ["train.sead=1"], "train.sead"),
    "a threshold": (lambda f: None, ["--threshold", "2"], "--threshold 2 is not a score"),
    "weights of two runs": (lambda f: None, ["output/other", "--weights", "a.pth"], "goes with one run"),
    "no name of a run": (lambda f: None, [], "name the output folder of a run"),
    "a number of pairs": (lambda f: None, ["--pairs", "-1"], "--pairs -1"),
    "a folder as page": (lambda f: None, ["--output", "."], "is a folder: name a file"),
    "a page below a file": (
        lambda f: None,
        ["--no-predictions", "--output", "README.md/page.html"],
        "cannot be written",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_bad_input_ends_in_one_line(segmentor, capsys, case):
    damage, flags, words = DAMAGE[case]
    damage(segmentor)
    before = sorted(segmentor.rglob("*"))
    named = ["train.seed=1"] if case == "no name of a run" else [str(segmentor)]
    assert words in line_of(capsys, [*named, *flags], "report")
    assert sorted(segmentor.rglob("*")) == before


def test_a_missing_image_is_named_and_no_page_is_left(segmentor, synthetic, tmp_path, monkeypatch, capsys):
    shutil.copytree(synthetic, tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
        register_known()
        image = sorted((tmp_path / "data/synthetic/val/ir").iterdir())[0]
        image.unlink()
        assert image.name in line_of(capsys, [str(segmentor)], "report")
        assert not (segmentor / "report.html").exists() and not (segmentor / "predictions").exists()
    register_known()


def test_a_torn_last_line_is_left_out(segmentor):
    with open(segmentor / "metrics.json", "a") as file:
        file.write('{"iteration": 39, "total_l')
    assert read_run(segmentor).iterations == 20
    assert np.allclose(read_run(segmentor).series("total_loss"), [(20, 2.5)])
