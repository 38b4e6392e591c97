"""The ablation: the grid asks the paper's questions. A tiny one runs, skips finished runs, and has the right table."""

import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chromium import Browser, find_chromium
from click.testing import CliRunner
from lhotse import Recording
from tiny_config import TINY, set_options

from sdpn_k2.cli import cli
from sdpn_k2.config import config_differences, load_config
from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.errors import InputError
from sdpn_k2.experiments import run as experiment
from sdpn_k2.experiments.ablation import grid, jobs
from sdpn_k2.kaldi.backend.plda import read_plda
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.formats.tables import read_object
from sdpn_k2.reporting.report import write_report
from sdpn_k2.scoring.embeddings import subtract_mean, transform
from sdpn_k2.scoring.kmeans import pseudo_speakers
from sdpn_k2.scoring.trial_arrays import read_scores
from sdpn_k2.scoring.vector_files import read_embeddings

RECIPE = Path(__file__).resolve().parents[1] / "egs" / "voxceleb"
SMALL = RECIPE / "conf" / "sdpn_small.yaml"
SETTINGS = [*TINY, "train.steps=3", "train.log_every=1", "train.ema_momentum=[0.2,0.2]"]
ONLY = ["--only", "sdpn", "--only", "dino"]
OPTIONS = [*set_options(SETTINGS), *ONLY]


def changes(run, rows):
    base = next(row.config for row in rows if row.run == "sdpn")
    (config,) = {row.config for row in rows if row.run == run}
    return {key: value for key, _, value in config_differences(base, config)}


def test_the_grid_needs_an_sdpn_base():
    for make in (grid, jobs):
        with pytest.raises(InputError, match="method=dino"):
            make(SMALL, ["method=dino"])


def test_the_grid_asks_the_questions_of_the_paper():
    rows = grid(SMALL)
    assert {row.run: changes(row.run, rows) for row in rows} == {
        "sdpn": {},
        "dino": {"method": "dino"},
        "no-dr": {"objective.dr_weight": 0.0},
        "no-me": {"objective.me_weight": 0.0},
        "fixed-prototypes": {"train.prototype_lr_scale": 0.0},
        "k64": {"objective.num_prototypes": 64},
        "k256": {"objective.num_prototypes": 256},
        "k512": {"objective.num_prototypes": 512},
        "k1024": {"objective.num_prototypes": 1024},
        "local2": {"crops.num_local": 2},
        "no-augment": {"augment.clean_prob": 1.0, "augment.single_prob": 0.0, "augment.mask_prob": 0.0},
        "off-diagonal": {"objective.dim_reg": "off_diagonal"},
        "frobenius": {"objective.dim_reg": "frobenius"},
    }
    same = [(row.question, row.label) for row in rows if row.run == "sdpn"]
    assert same == [
        ("Method", "SDPN"),
        ("Parts of SDPN", "all of it"),
        ("Prototypes", "K = 128"),
        ("Local crops", "4"),
        ("Augmentation", "with"),
        ("L_DR", "KoLeo"),
    ]


def test_the_published_configuration_is_also_a_valid_base():
    rows = grid()
    assert next(row.run for row in rows if row.label == "K = 1024") == "sdpn"
    assert changes("k128", rows) == {"objective.num_prototypes": 128}


def test_jobs_cover_every_run_with_every_seed():
    found = jobs(SMALL, [], seeds=2)
    assert len(found) == 26 and len({(job.run, job.config.seed) for job in found}) == 26
    assert [job.config.seed for job in found] == [0] * 13 + [1] * 13
    assert found[13].folder(Path("out")) == Path("out/sdpn/seed1")
    assert [job.run for job in jobs(SMALL, [], 1, ["no-me", "dino"])] == ["dino", "no-me"]
    with pytest.raises(InputError, match="'sdnp' .*dino, "):
        jobs(SMALL, [], 1, ["sdnp"])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A prepared data folder: 10 training and 12 test utterances of noise, coloured by speaker."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (folder / "eval_sets").write_text("test\n")
    for name, count in (("train", 10), ("test", 12)):
        (folder / name).mkdir()
        for index in range(count):
            speaker = index % 4
            sound = np.convolve(rng.standard_normal(12000 + 1000 * index), np.arange(1, 3 + 3 * speaker), "valid")
            path = folder / name / f"s{speaker}-{index:02d}.wav"
            soundfile.write(path, 0.1 * sound / sound.std(), 16000, subtype="PCM_16")
        paths = sorted((folder / name).glob("*.wav"))
        (folder / name / "wav.scp").write_text("".join(f"{path.stem} {path}\n" for path in paths))
        (folder / name / "utt2spk").write_text("".join(f"{path.stem} {path.stem[:2]}\n" for path in paths))
        speakers = {f"s{i}": [path.stem for path in paths if path.stem[:2] == f"s{i}"] for i in range(4)}
        (folder / name / "spk2utt").write_text("".join(f"{s} {' '.join(ids)}\n" for s, ids in speakers.items()))
        (folder / name / "utt2dur").write_text("".join(f"{path.stem} 1.5\n" for path in paths))
    (folder / "test" / "trials").write_text(
        "".join(
            f"{a.stem} {b.stem} {'non' * (a.stem[:2] != b.stem[:2])}target\n" for a in paths for b in paths if a < b
        )
    )
    (folder / "manifests").mkdir()
    cuts = [Recording.from_file(path).to_cut() for path in sorted((folder / "train").glob("*.wav"))]
    write_manifest(cuts, folder / "manifests" / "selected_cuts_train.jsonl.gz")
    return folder


@pytest.fixture(scope="module")
def ablated(data, tmp_path_factory):
    """The whole of local/run_ablation.sh on it: the folder, and the messages."""
    out = tmp_path_factory.mktemp("ablation") / "out"
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", OMP_NUM_THREADS="1")
    done = subprocess.run(
        [
            "bash",
            "local/run_ablation.sh",
            "--nj",
            "2",
            "--seeds",
            "2",
            "--device",
            "cpu",
            "--only",
            "sdpn dino",
            "--config-set",
            " ".join(SETTINGS),
            str(data),
            str(out),
        ],
        cwd=RECIPE,
        capture_output=True,
        text=True,
        env=environment,
    )
    logs = "".join(path.read_text() for path in sorted(out.glob("log/*.log")))
    assert done.returncode == 0, done.stderr + logs
    return out, done.stdout + done.stderr


def results_of(out, run, scoring):
    read = [json.loads((out / run / f"seed{seed}" / "results.json").read_text()) for seed in (0, 1)]
    return [row for results in read for row in results["results"] if row["backend"] == scoring]


@pytest.mark.slow
def test_every_training_leaves_the_folder_that_the_recipe_leaves(ablated):
    out, said = ablated
    assert "4 trainings" in said and "missing" not in said
    for run in ("sdpn", "dino"):
        for seed in (0, 1):
            exp = out / run / f"seed{seed}"
            assert load_config(exp / "config.yaml").seed == seed
            scores = {path.name for path in (exp / "scores" / "test").iterdir()}
            assert scores == {"trials.cosine", "trials.cosine_mean", "trials.plda"}
            for name in ("final.pt", "train.log", "metrics.jsonl", "results.json", "RESULTS.md", "report.html"):
                assert (exp / name).is_file()
            for name in ("mean.vec", "transform.mat", "plda", "plda_labels"):
                assert (exp / "backend" / name).is_file()
            for name in ("xvector.scp", "spk_xvector.scp", "num_utts.ark"):
                assert (exp / "xvectors_train" / name).is_file() and (exp / "xvectors_test" / name).is_file()
    assert load_config(out / "dino" / "seed0" / "config.yaml").method == "dino"


@pytest.mark.slow
def test_a_report_on_such_a_folder_misses_nothing(ablated, data, tmp_path):
    exp = ablated[0] / "sdpn" / "seed1"
    assert write_report([exp], data, tmp_path / "report.html") == []
    assert 'id="missing"' not in (exp / "report.html").read_text()


@pytest.mark.slow
def test_mean_subtracted_scores_use_the_training_mean(ablated):
    import kaldiio

    out, _ = ablated
    exp = out / "sdpn" / "seed0"
    train = np.stack(list(kaldiio.load_scp(str(exp / "xvectors_train" / "xvector.scp")).values())).astype(np.float64)
    test = kaldiio.load_scp(str(exp / "xvectors_test" / "xvector.scp"))
    for line in (exp / "scores" / "test" / "trials.cosine_mean").read_text().splitlines():
        enroll, other, score = line.split()
        a, b = (test[name] - train.mean(axis=0) for name in (enroll, other))
        assert float(score) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=2e-5)


@pytest.mark.slow
def test_plda_scores_use_the_clusters_of_the_training_embeddings(ablated):
    exp = ablated[0] / "dino" / "seed1"
    assert (exp / "backend" / "plda_labels").read_text() == "clusters\n"
    classes = pseudo_speakers(read_embeddings(f"scp:{exp}/xvectors_train/xvector.scp"), seed=1)
    assert read_map(exp / "backend" / "utt2spk") == classes
    test = read_embeddings(f"scp:{exp}/xvectors_test/xvector.scp")
    mean, lda = read_object(f"{exp}/backend/mean.vec", "vector"), read_object(f"{exp}/backend/transform.mat", "matrix")
    vectors = transform(subtract_mean(test, mean), lda).vectors
    vectors *= np.sqrt(vectors.shape[1]) / np.linalg.norm(vectors, axis=1)[:, None]
    plda = read_plda(f"{exp}/backend/plda")
    transformed, _ = plda.transform_vectors(vectors)
    matrix = plda.log_likelihood_ratios(transformed, 1, transformed)
    scores = read_scores(exp / "scores" / "test" / "trials.plda")
    rows, columns = (
        np.array([test.ids.index(name) for name in ids])[index]
        for ids, index in (
            (scores.trials.enroll_ids, scores.trials.enroll),
            (scores.trials.test_ids, scores.trials.test),
        )
    )
    np.testing.assert_allclose(scores.values, matrix[rows, columns], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_too_few_training_embeddings_leave_cosine_scores(ablated, tmp_path):
    exp = tmp_path / "exp"
    (exp / "xvectors_train").mkdir(parents=True)
    script = (ablated[0] / "sdpn" / "seed0" / "xvectors_train" / "xvector.scp").read_text().splitlines(True)
    (exp / "xvectors_train" / "xvector.scp").write_text("".join(script[:5]))
    experiment._train_backend(exp, seed=0)
    assert sorted(path.name for path in (exp / "backend").iterdir()) == ["mean.vec", "no_plda"]
    assert re.search("5 .* 8 ", (exp / "backend" / "no_plda").read_text())


def table(data, out):
    done = CliRunner().invoke(cli, ["ablate", "table", "--config", str(SMALL), *OPTIONS, str(data), str(out)])
    assert done.exit_code == 0, done.output
    return done.output, (out / "ABLATION.md").read_text()


@pytest.mark.slow
def test_the_table_has_mean_and_spread_of_the_runs(ablated, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(ablated[0], out, symlinks=True)
    for i, (run, seed) in enumerate(itertools.product(("sdpn", "dino"), (0, 1))):
        # Figures that differ between runs, which three steps of training do not give.
        path = out / run / f"seed{seed}" / "results.json"
        results = json.loads(path.read_text())
        for j, row in enumerate(results["results"]):
            row.update(eer=0.01 * (10 * i + j + i * i), min_dcf_05=0.1 * i + 0.01 * j)
        path.write_text(json.dumps(results))
    _, page = table(data, out)
    assert "| Method | SDPN | 2 |" in page and "without L_ME" not in page
    for label, run in (("SDPN", "sdpn"), ("DINO", "dino"), ("KoLeo", "sdpn")):
        cells = [cell.strip() for cell in next(line for line in page.splitlines() if f"| {label} |" in line).split("|")]
        for column, scoring in ((4, "cosine"), (6, "cosine_mean"), (8, "plda")):
            rates = [100 * row["eer"] for row in results_of(out, run, scoring)]
            assert cells[column] == f"{statistics.mean(rates):.2f} ± {statistics.stdev(rates):.2f}"
            costs = [row["min_dcf_05"] for row in results_of(out, run, scoring)]
            assert cells[column + 1] == f"{statistics.mean(costs):.4f} ± {statistics.stdev(costs):.4f}"
    logs = [(out / "sdpn" / f"seed{seed}" / "metrics.jsonl").read_text().splitlines() for seed in (0, 1)]
    used = [json.loads(lines[-1])["prototypes_in_use"] for lines in logs]
    assert f"| SDPN | 2 | {statistics.mean(used):.1f} ± {statistics.stdev(used):.1f} |" in page
    assert "model.channels 16" in page and "git revision" in page


@pytest.mark.slow
def test_silhouettes_equal_sklearns(ablated):
    import kaldiio
    from sklearn.metrics import silhouette_score

    out, _ = ablated
    values = []
    for seed in (0, 1):
        vectors = kaldiio.load_scp(str(out / "dino" / f"seed{seed}" / "xvectors_test" / "xvector.scp"))
        speakers = [name[:2] for name in vectors]
        values.append(float(silhouette_score(np.stack(list(vectors.values())), speakers, metric="cosine")))
    line = next(line for line in (out / "ABLATION.md").read_text().splitlines() if "| DINO |" in line)
    assert line.endswith(f"| {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f} |")


@pytest.mark.slow
def test_the_picture_shows_five_speakers_by_two_systems(ablated):
    out, _ = ablated
    svg = (out / "figure2_test.svg").read_text()
    assert "dino, seed 0" in svg and "sdpn, seed 0" in svg and "currentColor" not in svg
    assert len(re.findall(r"silhouette -?−?0\.\d{3}", svg)) == 2
    assert "figure2_test.svg" in (out / "ABLATION.md").read_text()
    page = (out / "ablation.html").read_text()
    assert page.count("silhouette") >= 3 and page.count('role="img"') == 1
    assert not re.search(r"https?:", page)


@pytest.mark.slow
def test_a_browser_draws_and_sorts_the_page(ablated, tmp_path):
    if find_chromium() is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    page = ablated[0] / "ablation.html"
    with Browser(tmp_path) as browser:
        browser.open(page)
        width, height = browser.evaluate(
            "(({width, height}) => [width, height])(document.querySelector('figure svg').getBoundingClientRect())"
        )
        assert width > 400 and height > 200
        browser.click("#table2 th:nth-child(2) button")
        answers = browser.evaluate(
            "[...document.querySelectorAll('#table2 tbody tr')].map(row => row.cells[1].innerText)"
        )
        assert answers == ["4", "all of it", "DINO", "KoLeo", "SDPN", "with"]
        assert browser.console == [] and set(browser.requests) == {page.resolve().as_uri()}


@pytest.mark.slow
def test_done_runs_are_skipped_and_missing_ones_are_named(ablated, data, tmp_path):
    out, _ = ablated
    copy = tmp_path / "out"
    shutil.copytree(out, copy, symlinks=True)
    before = (copy / "sdpn" / "seed0" / "results.json").stat().st_mtime_ns
    done = CliRunner().invoke(
        cli,
        [
            "ablate",
            "run",
            "--job",
            "1",
            "--device",
            "cpu",
            "--seeds",
            "1",
            "--config",
            str(SMALL),
            *OPTIONS,
            str(data),
            str(copy),
        ],
    )
    assert done.exit_code == 0 and str(copy / "sdpn" / "seed0") in done.output
    assert (copy / "sdpn" / "seed0" / "results.json").stat().st_mtime_ns == before
    shutil.rmtree(copy / "dino" / "seed1")
    (copy / "sdpn" / "seed1" / "results.json").unlink()
    said, page = table(data, copy)
    assert f"missing: {copy / 'dino' / 'seed1'}: " in said
    assert f"missing: {copy / 'sdpn' / 'seed1' / 'results.json'}: " in said
    assert re.search(r"\| DINO \| 1 \| \d+\.\d\d \|", page) and "- missing: " in page


@pytest.mark.slow
def test_results_of_another_configuration_are_refused(ablated, data):
    out, _ = ablated
    done = CliRunner().invoke(
        cli, ["ablate", "run", "--job", "1", "--device", "cpu", *OPTIONS, "--set", "train.steps=4", str(data), str(out)]
    )
    assert isinstance(done.exception, InputError) and str(out / "sdpn" / "seed0") in str(done.exception)


def test_invalid_requests_are_refused(data, tmp_path):
    for arguments, message in (
        (["run", "--job", "7", "--seeds", "1", *ONLY, str(data), str(tmp_path / "o")], "--job 7"),
        (["run", "--job", "1", str(tmp_path), str(tmp_path / "o")], "selected_cuts_train.jsonl.gz"),
        (["table", *ONLY, str(data), str(tmp_path / "o")], str(tmp_path / "o" / "sdpn" / "seed0")),
    ):
        done = CliRunner().invoke(cli, ["ablate", *arguments])
        assert done.exit_code != 0 and message in done.output + str(done.exception)
    assert not (tmp_path / "o").exists()
