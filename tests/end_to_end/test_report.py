"""The whole evaluation as a user runs it, resumed after a kill, and its report in a real browser."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from user_errors import assert_refused, run_script

from tardiff.data.format import Metadata, Split, read_dataset, write_dataset, write_split
from tardiff.evaluation.frame import NOISE, REAL
from tardiff.evaluation.sections import COPY, FRESH

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUICK = ["device=cpu", "controls=[guidance_rows,mixup]", "seeds=2", "bootstrap=40", "ratios=[0.1,0.2]", "weights=[]",
         "model.rnn.hidden_size=8", "training.steps=20", "training.batch_size=32", "repeats=2", "fine_tuned=12",
         "reference=first", "fidelity_metrics=[correlational,autocorrelation,marginal,mmd]"]


class Outline(HTMLParser):
    """Headings, images and outward links of a page."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.images, self.links, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        attributes = dict(attributes)
        if tag == "img":
            self.images.append(attributes)
        self.links += [value for name, value in attributes.items() if name in ("href", "src")]

    def handle_data(self, data):
        if self.inside in ("h1", "h2") and data.strip():
            self.headings.append(data)
        self.inside = None


@pytest.fixture(scope="module")
def sets(workplace, tmp_path_factory):
    """Two synthetic sets, all datasets different: the generated one and a noisy copy of it, and the training rows."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("first-seed0", "first-seed1", "second"):
        shutil.copytree(workplace.folder / "synthetic", folder / name)
    generated = read_dataset(folder / "first-seed0", ("train",)).train
    noise = np.random.default_rng(0).normal(0, 1, generated.x.shape).astype(np.float32)
    write_split(folder / "first-seed1" / "train.npz", Split(generated.x + noise, generated.y))
    real = read_dataset(workplace.folder / "data").train
    write_split(folder / "second" / "train.npz", Split(real.x, real.y))
    return folder


@pytest.fixture(scope="module")
def report(workplace, sets, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    finish(start(workplace, sets, output))
    return output


def arguments_of(workplace, sets, output, *more):
    arguments = ["--real", workplace.folder / "data", "--synthetic", sets / "first-seed0", sets / "first-seed1",
                 sets / "second", "--output", output, *QUICK, f"classifier={workplace.folder / 'classifier'}", *more]
    return list(map(str, arguments))


def start(workplace, sets, output, *more):
    return workplace._start(sys.executable, "scripts/evaluate.py", *arguments_of(workplace, sets, output, *more))


def finish(process):
    with process:
        printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed


def test_the_report_answers_first_and_shows_every_part(report, workplace):
    page = " ".join((report / "report.html").read_text().split())
    outline = Outline(page)
    assert outline.headings[0].startswith("Evaluation of synthetic data: simulated")
    assert [text.partition(":")[0] for text in outline.headings[1:]] == [
        "What was compared", "Utility", "Fidelity and plausibility", "Privacy", "Influence", "Provenance"]
    assert page.index('class="answer"') < page.index("What was compared")
    short = page.partition('class="short"')[2].partition("</dl>")[0]
    assert "2 seeds are too few" in short or "does not beat chance" in short
    assert re.search(r"second: flagged</strong>, by the attack on training rows", short)
    assert "stand in second verbatim: do not share it" in short
    attacked = page.partition("Attack on the training rows")[2].partition("</table>")[0]
    assert re.search(r"second</th><td>1\.000 <span>\[.*?\]</span></td><td>.*?</td><td>1 of 1</td>", attacked)
    assert re.search(r"first</th><td>0\.\d+ <span>\[.*?\]</span></td><td>.*?</td><td>\d of 2</td>", attacked)
    assert len(outline.images) == 10 and all(len(image["alt"]) > 20 for image in outline.images)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in outline.links)


def test_results_hold_every_number_and_match_the_inputs(report, workplace, sets):
    results = json.loads((report / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    real = read_dataset(workplace.folder / "data")
    assert results["hashes"]["real test"] == real.test.fingerprint()
    assert results["synthetic"]["first"]["folders"] == [str(sets / "first-seed0"), str(sets / "first-seed1")]
    assert results["utility"]["seeds"] == 2 and results["quick"] is False
    assert results["utility"]["judges"] == ["gru"]
    assert results["utility"]["guide_kinds"] == {"first": ["gru"], "second": ["gru"]}
    assert pd.read_csv(report / "utility.csv")["arm"].tolist() == [
        "TRTR", "control guidance_rows", "control mixup", "TSTR first", "TSTR second",
        "TSRTR first 0.1", "TSRTR first 0.2", "TSRTR second 0.1", "TSRTR second 0.2"]
    frame = pd.read_csv(report / "results.csv")
    assert frame.columns.tolist() == ["set", "metric", "judge", "key", "dataset", "repeat", "value"]
    assert frame[frame["metric"] == "mmd"]["set"].drop_duplicates().tolist() == [REAL, NOISE, "first", "second"]
    values = frame.set_index(["set", "metric", "key"])["value"]
    assert values["first", "marginal", "ks"].nunique() == 2, "one value for each dataset of the set"
    assert values["second", "marginal", "ks"].mean() == pytest.approx(values[REAL, "marginal", "ks"].mean())
    means = pd.read_csv(report / "privacy.csv").set_index(["set", "metric", "key"])["mean"]
    assert means["first", "nnaa", "nnaa"] == pytest.approx(values["first", "nnaa", "nnaa"].mean())
    assert values["second", "influence_distribution", "all/rows"] == 120
    # The anchors of privacy.
    assert means[COPY, "train_attack", "auroc"] > 0.99 and means[COPY, "train_attack", "flagged"] == 1
    assert means[COPY, "train_attack", "exact_copies"] == 1 and means[FRESH, "train_attack", "exact_copies"] == 0
    assert means[FRESH, "train_attack", "flagged"] == 0 and 0.2 < means[FRESH, "train_attack", "auroc"] < 0.8


def test_a_killed_evaluation_of_several_workers_resumes_and_ends_like_a_single_one(report, workplace, sets, tmp_path):
    process = start(workplace, sets, tmp_path, "workers=2")
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("metrics/*.npz"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # Returns when the workers, which share its output, have ended too.
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "results.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("metrics/*.npz")}
    assert len(kept) >= 5
    # The settings that a report is written with reproduce it.
    finish(workplace._start(sys.executable, "scripts/evaluate.py", str(report / "settings.yaml"), f"output={tmp_path}",
                            "workers=2"))
    assert all(path.stat().st_mtime_ns == kept[path] for path in kept)
    assert (tmp_path / "results.csv").read_text() == (report / "results.csv").read_text()


def test_a_refused_run_leaves_a_finished_report_alone(report, workplace, sets, capfd):
    before = {path: path.read_bytes() for path in report.iterdir() if path.is_file()}
    code = run_script("scripts/evaluate.py", *arguments_of(workplace, sets, report, "ratios=[9]"))
    assert_refused(code, capfd.readouterr().err, ("the ratio needs",))
    assert {path: path.read_bytes() for path in report.iterdir() if path.is_file()} == before


def test_three_classes_one_channel_gaps_and_a_set_without_some_classes(workplace, tmp_path):
    generator = np.random.default_rng(0)

    def draw(rows, mask=None):
        y = np.arange(rows) % 3
        x = np.sin((y[:, None] + 1) * np.arange(12) / 3) + 0.3 * generator.standard_normal((rows, 12))
        return Split(x[..., None].astype(np.float32), y, None, mask)

    names = Metadata("waves", ["wave"], ["mV"], ["slow", "medium", "fast"])
    gaps = generator.random((150, 12, 1)) < 0.8
    write_dataset(tmp_path / "real", {"train": draw(150, gaps), "val": draw(60), "test": draw(60)}, names)
    write_dataset(tmp_path / "whole", {"train": draw(90)}, names)
    shutil.copytree(tmp_path / "whole", tmp_path / "fast")
    write_split(tmp_path / "fast" / "train.npz", draw(270)[2::3])
    finish(workplace._start(
        sys.executable, "scripts/evaluate.py", "--real", str(tmp_path / "real"), "--synthetic", str(tmp_path / "whole"),
        str(tmp_path / "fast"), "--output", str(tmp_path / "report"), *QUICK, "reference=null", "seeds=3",
        "training.steps=60", "training.learning_rate=0.02"))
    aurocs = pd.read_csv(tmp_path / "report" / "utility.csv").set_index("arm")["auroc_mean"]
    assert "TSTR whole" in aurocs and "TSTR fast" not in aurocs and "TSRTR fast 0.2" in aurocs
    assert aurocs["TSTR whole"] > 0.9
    means = pd.read_csv(tmp_path / "report" / "fidelity.csv").set_index(["set", "metric", "key"])["mean"]
    assert np.isnan(means["whole", "correlational", "score"]), "one channel has no pairs"
    assert means["whole", "marginal", "ks"] < means["fast", "marginal", "ks"]
    page = " ".join((tmp_path / "report" / "report.html").read_text().split())
    assert "the set lacks a class, so that nothing can be trained on it alone" in page
    assert "(chance: 0.333)" in page and "Influence" not in Outline(page).headings


def test_a_report_on_the_selection_half_reads_no_test_and_leaves_no_file_of_another_report(workplace, sets, tmp_path):
    data, output = tmp_path / "data", tmp_path / "report"
    shutil.copytree(workplace.folder / "data", data)
    (data / "test.npz").unlink()
    command = ["--real", str(data), "--synthetic", str(sets / "second"), "--output", str(output), *QUICK,
               "reference=null", "ratios=[0.1]", "score_on=selection"]
    assert run_script("scripts/evaluate.py", *command, "sections=[utility,fidelity,privacy]") == 0
    page = (output / "report.html").read_text()
    assert "Scored on the selection half" in page and "test series" not in page
    means = pd.read_csv(output / "privacy.csv").set_index(["set", "metric", "key"])["mean"]
    assert means[COPY, "train_attack", "flagged"] == 1 and means[FRESH, "train_attack", "flagged"] == 0
    assert run_script("scripts/evaluate.py", *command, "sections=[utility]") == 0
    left = {path.name for path in output.iterdir()}
    assert "utility.csv" in left and not left & {"fidelity.csv", "privacy.csv", "attack.png"}


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_report_opens_offline_in_a_browser_and_prints(report, tmp_path):
    options = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}",
               "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1200,2000"]
    address = (report / "report.html").as_uri()
    probe = tmp_path / "probe.html"
    script = """<script>addEventListener('load', () => {
        const images = [...document.images];
        const broken = images.filter(i => !i.complete || i.naturalWidth < 100).length;
        const wide = document.documentElement.scrollWidth > innerWidth, text = document.body.innerText.length;
        document.title = JSON.stringify({images: images.length, broken, wide, text}); });</script>"""
    probe.write_text((report / "report.html").read_text().replace("</body>", script + "</body>"))
    page = subprocess.run([*options, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120,
                          check=True)
    seen = json.loads(page.stdout.partition("<title>")[2].partition("</title>")[0].replace("&quot;", '"'))
    assert seen["images"] == 10 and seen["broken"] == 0 and not seen["wide"] and seen["text"] > 3000
    subprocess.run([*options, f"--print-to-pdf={tmp_path / 'report.pdf'}", address], capture_output=True, timeout=120,
                   check=True)
    assert (tmp_path / "report.pdf").stat().st_size > 50_000


@pytest.mark.parametrize(("arguments", "message"), [
    (["--synthetic", "{sets}/nowhere", "reference=null"], "no finished dataset"),
    (["--real", "{sets}/nowhere"], "no finished dataset"),
    (["ratios=[0.2,0.2]"], "each number once"), (["sections=[influence]", "classifier=null"], "needs the classifier"),
    (["fidelity_metrics=[]"], "names none"),
    (["synthetic={real: {sets}/second}"], "stands for other rows"), (["synthetic={}"], "no synthetic dataset"),
    (["synthetic={a$b: {sets}/second}"], "a name may hold"), (["classifier={sets}/second"], "does not fit this stage"),
    (["fidelity_metrics=[fid]"], "is not one of"), (["sections=[utilities]"], "sections"),
    (["--synthetic", "{sets}/second", "{sets}/second"], "would have the same name")])
def test_a_fault_is_one_message(workplace, sets, tmp_path, capfd, arguments, message):
    output = tmp_path / "report"
    code = run_script("scripts/evaluate.py", *arguments_of(
        workplace, sets, output, *(argument.replace("{sets}", str(sets)) for argument in arguments)))
    assert_refused(code, capfd.readouterr().err, (message,))
    assert not (output / "report.html").exists()
