"""RESULTS.md is what its command makes, and a finished report becomes a study."""

from pathlib import Path

import pandas as pd
import pytest

from tardiff.evaluation.frame import REAL, long_frame
from tardiff.stages.studies import main
from tardiff.utils.checkpoint import write_json

ROOT = Path(__file__).parents[1]


@pytest.fixture
def studies(tmp_path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "words.md").write_text("# All\n")
    return folder


@pytest.fixture
def report(tmp_path) -> Path:
    """The files of a finished report, as far as they are read: TRTR and TSTR of one set, two metrics of quality."""
    folder = tmp_path / "report"
    folder.mkdir()
    rows = [(REAL, "TRTR", "gru", key, None, seed, value + 0.01 * seed)
            for key, value in (("auroc", 0.7), ("auprc", 0.3)) for seed in range(3)]
    rows += [("guided", "TSTR", "gru", key, 0, seed, value) for key, value in
             (("auroc", 0.6), ("auprc", 0.2), ("auprc_minus_trtr", -0.1), ("auprc_minus_reference", 0.05))
             for seed in range(3)]
    rows += [("guided", "TSTR", "gru", f"auprc_minus_{other}_subject_variance", None, None, 1e-6)
             for other in ("trtr", "reference")]
    rows += [("guided", "correlational", "", "score", 0, 0, 0.08), ("guided", "train_attack", "", "auroc", 0, 0, 0.5)]
    long_frame(rows).to_csv(folder / "results.csv", index=False)
    write_json(folder / "results.json", {"real": {"name": "mine"}, "provenance": {"commit": "abc"},
                                          "utility": {"reference": "unguided"}})
    (folder / "settings.yaml").write_text("seeds: 3\n")
    (folder / "report.html").write_text("page")
    return folder


def command(studies: Path, *arguments: str) -> str:
    """Run the command on a folder of studies and return the page."""
    page = studies.parent / "RESULTS.md"
    main([*arguments, "--studies", str(studies), "--page", str(page)])
    return page.read_text(encoding="utf-8")


def test_the_committed_page_is_what_the_command_makes(tmp_path):
    main(["--studies", str(ROOT / "docs" / "results"), "--page", str(tmp_path / "RESULTS.md")])
    assert (tmp_path / "RESULTS.md").read_bytes() == (ROOT / "RESULTS.md").read_bytes()


def test_a_report_becomes_a_study_whose_words_stay(studies, report):
    page = command(studies, "--report", str(report))
    assert page.startswith("# All\n\n## mine\n") and "at commit abc" in page
    assert "| TRTR | gru | 0.710 (0.010) | 0.310 (0.010) |  |  |" in page
    differences = "-0.100 [-0.102, -0.098] loss | +0.050 [+0.048, +0.052] gain"
    assert f"| TSTR guided | gru | 0.600 (0.000) | 0.200 (0.000) | {differences} |" in page
    assert "| AUPRC minus TRTR | AUPRC minus unguided |" in page
    assert "| guided | 0.080 | 0.500 |" in page
    assert (studies / "mine" / "settings.yaml").read_text() == "seeds: 3\n"
    words = studies / "mine" / "words.md"
    words.write_text("Mine.\n\n{quality.csv}\n\n{utility.csv}\n")
    again = command(studies, "--report", str(report), "--name", "mine")
    assert words.read_text().startswith("Mine.") and again.index("| guided |") < again.index("| TRTR |")


def test_a_table_says_of_too_few_seeds_that_they_are_not_judged(studies, report):
    frame = pd.read_csv(report / "results.csv")
    frame[frame["repeat"] != 2].to_csv(report / "results.csv", index=False)
    page = command(studies, "--report", str(report))
    assert "too few seeds to judge" in next(line for line in page.splitlines() if line.startswith("| TSTR guided"))


def test_a_map_becomes_tables_of_gains_over_the_best_control(studies, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    columns = "n,arm,judge,set,protocol,metric,mean,verdict,control,control_difference,control_difference_low," \
              "control_difference_high,control_verdict,reference_difference,reference_difference_low," \
              "reference_difference_high,reference_verdict"
    lines = [columns]
    for n, gain in ((100, 0.03), (2000, -0.01)):
        for metric in ("auroc", "auprc"):
            lines += [f"{n},TRTR,gru,,TRTR,{metric},0.6" + 10 * ",",
                      f"{n},control mixup,gru,,mixup,{metric},0.62" + 10 * ",",
                      f"{n},control jitter,gru,,jitter,{metric},0.61" + 10 * ",",
                      f"{n},TSTR NA,gru,NA,TSTR,{metric},0.65,gain,mixup,{gain},{gain - 0.01},{gain + 0.01},"
                      f"{'gain' if gain > 0 else 'no gain shown'},{gain / 10},{gain / 10 - 0.001},0.005,no gain shown"]
    (made / "map.csv").write_text("\n".join(lines))
    (made / "map.png").write_bytes(b"figure")
    page = command(studies, "--map", str(made))
    assert page.count("| gru | TRTR | 0.600 | 0.600 |") == page.count("| gru | best control | 0.620 (mixup) |") == 2
    assert "| judge | arm | n = 100 | n = 2,000 |" in page and "made_map/map.png" in page
    assert "| gru | TSTR NA | +0.030 [+0.020, +0.040] gain | -0.010 [-0.020, +0.000] |" in page
    assert "| gru | TSTR NA, minus reference | +0.003 [+0.002, +0.005] | -0.001 [-0.002, +0.005] |" in page
    assert (studies / "made_map" / "map.png").read_bytes() == b"figure"
    with pytest.raises(SystemExit):
        command(studies, "--map", str(tmp_path / "nothing"))


def test_names_of_sets_that_look_like_no_value_stay(studies, report):
    path = report / "results.csv"
    for name in ("NA", "null", "1"):
        path.write_text(path.read_text().replace("guided", name))
        page = command(studies, "--report", str(report))
        assert f"| TSTR {name} | gru | 0.600" in page and f"| {name} | 0.080 | 0.500 |" in page
        path.write_text(path.read_text().replace(f"\n{name},", "\nguided,"))


def test_a_report_on_the_selection_half_is_no_study(studies, report, capsys):
    write_json(report / "results.json", {"real": {"name": "mine"}, "scored_on": "selection"})
    with pytest.raises(SystemExit):
        command(studies, "--report", str(report))
    assert "scored on the selection half" in capsys.readouterr().err and not (studies / "mine").exists()


def test_cells_stay_as_they_are(studies):
    (studies / "one").mkdir()
    (studies / "one" / "words.md").write_text("{table.csv}\n")
    pd.DataFrame({"a|b": ["0.10", "-0.000"], "c": ["", "NA"]}).to_csv(studies / "one" / "table.csv", index=False)
    assert "| a\\|b | c |\n| --- | --- |\n| 0.10 |  |\n| -0.000 | NA |" in command(studies)


@pytest.mark.parametrize(("words", "table"), [(None, None), ("Words.\n", "table.csv"), ("{other.csv}\n", "table.csv")])
def test_words_without_their_tables_are_refused(studies, words, table, capsys):
    (studies / "one").mkdir()
    if words:
        (studies / "one" / "words.md").write_text(words)
    if table:
        (studies / "one" / table).write_text("a\n1\n")
    with pytest.raises(SystemExit) as stop:
        command(studies)
    assert stop.value.code == 2 and "words.md" in capsys.readouterr().err
    assert not (studies.parent / "RESULTS.md").exists()


def test_an_unfinished_report_is_refused(studies, report, capsys):
    (report / "report.html").unlink()
    with pytest.raises(SystemExit):
        command(studies, "--report", str(report))
    assert "no finished report" in capsys.readouterr().err and not (studies / "mine").exists()
