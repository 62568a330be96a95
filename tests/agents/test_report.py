"""What a run leaves to look at: the table's lines and the pictures' panels."""

import html
import itertools
import json
import math
import re
import sys

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from toy_dags import Bag, Skips, Subsets

from agents.build import build_trainer
from agents.config import Config, usual, with_values
from agents.evaluation.evaluator import Evaluator
from agents.evaluation.exact import distribution
from agents.evaluation.metric import Column, run_columns
from agents.evaluation.settings import EvaluationSettings
from agents.registry import METRICS
from agents.runs import report
from agents.runs.folder import RunFileError, RunFolder
from agents.runs.train import main
from gfn_envs import DAG, BitSequence, Hypergrid, enumerate_dag

COLUMNS = run_columns(Evaluator(BitSequence(8, 2), EvaluationSettings(max_exact_edges=0)).columns())
ROW = {"trajectories": 16, "l1_exact": 0.5, "kl_exact": 0.1, "log_z_error": -1.0, "loss": 2.0, "backward_loss": 0.0}
UNENUMERATED = {"trajectories": 16, "mean_reward": 1.5, "unique_states": 7, "loss": 2.0, "backward_loss": 3.0}


def history(rows, base=ROW):
    return [base | {"trajectories": 1000 * (i + 1)} for i in range(rows)]


def trainer_of(dag: DAG, **settings):
    small = {"trajectories": 48, "network.width": 8, **settings}
    return build_trainer(with_values(usual("gfn/Hypergrid-v0", "tb", network="mlp"), small), dag)


def folder_at(path):
    return RunFolder(path, Config)


def table(history, columns=COLUMNS):
    return report.table(history, columns)


def learning_curve(history, columns=COLUMNS):
    return report.learning_curve(history, columns)


def drawn(figure):
    """Return the panels of a figure once it has been drawn, without a warning."""
    FigureCanvasAgg(figure).draw()
    return [axes for axes in figure.axes if axes.axison]


@pytest.mark.parametrize("rows", [1, 2, 11, 12, 13, 24, 100, 1001])
def test_the_table_shows_at_most_twelve_evaluations_and_always_the_last(rows):
    lines = table(history(rows)).splitlines()
    assert 2 <= len(lines) <= 13
    assert lines[-1].split()[0] == f"{1000 * rows:,}"
    assert len({len(line) for line in lines}) == 1
    numbers = [int(line.split()[0].replace(",", "")) for line in lines[1:]]
    assert len({b - a for a, b in itertools.pairwise(numbers)}) <= 1


def test_the_table_has_the_columns_that_were_measured():
    assert "L1 exact" in table([ROW])
    assert "mean reward" not in table([ROW])
    assert "L1 exact" not in table([UNENUMERATED])
    assert table([]) == "no evaluation yet"


def test_the_table_shows_numbers_that_are_not_finite():
    assert "inf" in table([ROW | {"kl_exact": math.inf}])


def test_the_learning_curve_has_a_panel_for_each_kind_of_metric_measured():
    titles = [axes.get_title() for axes in drawn(learning_curve(history(5)))]
    assert titles == ["distance to the target", "estimate of log Z, minus the true one", "training loss"]
    titles = [axes.get_title() for axes in drawn(learning_curve(history(5, UNENUMERATED)))]
    assert titles == ["mean reward", "training loss"]


def test_the_learning_curve_leaves_out_a_loss_that_is_always_zero():
    loss = drawn(learning_curve(history(5)))[-1]
    assert [line.get_label() for line in loss.get_lines()] == ["loss"]


def test_the_learning_curve_separates_thousands():
    axes = drawn(learning_curve(history(3)))[0]
    assert {"1,000", "3,000"} & {label.get_text() for label in axes.get_xticklabels()}


@pytest.mark.parametrize("rows", [[], [ROW | {"kl_exact": math.inf}] * 2, [{"trajectories": 4, "loss": 0.0}]])
def test_the_learning_curve_can_be_drawn_of_anything(rows):
    drawn(learning_curve(rows))


@pytest.mark.parametrize(
    ("dag", "panels"),
    [(Hypergrid(1, 5), 1), (Hypergrid(2, 5), 6), (Hypergrid(3, 4), 18), (Hypergrid(4, 3), 18), (Subsets(3, 3), 1)],
)
def test_the_distribution_has_three_maps_with_colour_bars_a_pair_of_components(dag, panels):
    enumeration = enumerate_dag(dag)
    figure = distribution(enumeration, enumeration.target)
    assert len(drawn(figure)) == panels


def test_the_maps_show_the_marginals_with_the_first_component_to_the_right():
    enumeration = enumerate_dag(Hypergrid(2, 5))
    states = enumeration.states[enumeration.terminal]
    learned = torch.zeros_like(enumeration.target)
    learned[(states[:, 0] == 3) & (states[:, 1] == 1)] = 1
    target, shown, difference = (
        axes.get_images()[0].get_array() for axes in distribution(enumeration, learned).axes[:3]
    )
    assert shown[1, 3] == 1  # rows go up, columns to the right
    assert shown.sum() == 1
    assert target.sum() == pytest.approx(1)
    assert abs(difference - (shown - target)).max() < 1e-9


def test_the_bars_show_target_and_learned_side_by_side():
    enumeration = enumerate_dag(Hypergrid(1, 5))
    (axes,) = distribution(enumeration, enumeration.target.flip(0)).axes
    target, learned = ([bar.get_height() for bar in bars] for bars in axes.containers)
    assert target == pytest.approx(learned[::-1])
    assert sum(target) == pytest.approx(1)


@pytest.mark.parametrize("dag", [Hypergrid(1, 4), Hypergrid(3, 3), Subsets(), Subsets(3, 3), Bag(), Skips()])
def test_every_dag_gets_all_pictures(dag, tmp_path):
    trainer = trainer_of(dag)
    trainer.train(lambda metrics: None, lambda: False, progress=False)
    paths = report.draw(folder_at(tmp_path), trainer)
    names = {"learning_curve.png", "distribution.png", "trajectories.png"}
    assert {path.name for path in paths} == names
    assert {path.name for path in tmp_path.iterdir()} == names | {"files.json"}
    for path in paths:
        assert imread(path).std() > 0.01  # not blank


def test_a_page_has_metrics_pictures_settings_and_the_command_to_go_on_and_no_network(tmp_path):
    trainer = trainer_of(Hypergrid(2, 4))
    trainer.train(lambda metrics: None, lambda: False, progress=False)
    folder = folder_at(tmp_path / "a <b> & c")
    (tmp_path / "a <b> & c").mkdir()
    page = report.write_page(folder, trainer, report.draw(folder, trainer), "python agents/run.py").read_text()
    assert html.escape(f"python agents/run.py --resume '{folder.path}'") in page
    assert "<b>" not in page
    assert "TV exact" in page
    assert "<td>agent.log_z_lr</td>" in page
    assert page.count('src="data:image/png;base64,') == 3
    assert not re.search(r"(src|href)=.(?!data:)", page)


def test_without_an_enumeration_there_is_no_picture_of_the_distribution(tmp_path):
    trainer = trainer_of(Hypergrid(2, 4), **{"trajectories": 16, "eval.max_exact_edges": 0})
    paths = report.draw(folder_at(tmp_path), trainer)
    assert {path.name for path in paths} == {"learning_curve.png", "trajectories.png"}


def test_drawing_does_not_disturb_the_run(tmp_path):
    plain, watched = trainer_of(Hypergrid(2, 4)), trainer_of(Hypergrid(2, 4))
    for _ in range(3):
        plain.step()
        watched.step()
        report.draw(folder_at(tmp_path), watched)
    for a, b in zip(plain.network.parameters(), watched.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_each_trajectory_drawn_states_its_length_and_reward():
    trainer = trainer_of(Hypergrid(2, 4))
    axes = drawn(report.trajectories(trainer.dag, trainer.agent.policy(), seed=0, count=5))
    assert len(axes) == 5
    assert all(re.fullmatch(r"1 step, log R = .+|\d+ steps, log R = .+", panel.get_title()) for panel in axes)


def test_the_title_of_a_dags_own_drawing_stays_below_the_length_and_reward():
    trainer = trainer_of(BitSequence(8, 2, modes=3))
    axes = drawn(report.trajectories(trainer.dag, trainer.agent.policy(), seed=0))
    titles = [panel.get_title() for panel in axes]
    assert all(
        re.fullmatch(r"4 steps, log R = (?!-0\.000).+\nnearest mode \d: \d bits? differs?", title) for title in titles
    )


@pytest.mark.parametrize(
    ("rewards", "scale"),
    [
        ([1e-30, 1e-20, 1e-3], "log"),
        ([0.5, 0.7, 2.0], "linear"),
        ([0.0, 1e-20, 1.0], "linear"),
        ([1e-30, math.nan, 1.0], "log"),
    ],
)
def test_mean_rewards_over_many_orders_of_magnitude_are_drawn_on_a_logarithmic_scale(rewards, scale):
    rows = [UNENUMERATED | {"trajectories": i, "mean_reward": reward} for i, reward in enumerate(rewards)]
    (axes,) = [each for each in drawn(learning_curve(rows)) if each.get_title() == "mean reward"]
    assert axes.get_yscale() == scale


def test_a_metric_that_is_never_a_number_has_no_panel():
    titles = [axes.get_title() for axes in drawn(learning_curve([ROW | {"spearman": math.nan}]))]
    assert "training loss" in titles
    assert not any("correlation" in title for title in titles)


@pytest.mark.parametrize("pace", [0, 1, 30])
def test_numbers_of_modes_have_whole_ticks(pace):
    rows = [{"trajectories": i, "modes_found": pace * i} for i in range(4)]
    (axes,) = drawn(learning_curve(rows))
    assert all(float(tick).is_integer() for tick in axes.get_yticks())


def test_the_table_keeps_a_column_that_the_last_evaluation_lacks():
    lines = table([ROW | {"spearman": 0.5}, ROW]).splitlines()
    assert "Spearman" in lines[0]
    assert "0.500" in lines[1]
    assert len({len(line) for line in lines}) == 1


def test_figures_that_nobody_declared_have_a_column_and_a_panel_of_their_own():
    rows = [ROW | {"trajectories": i, "clipped_share": i / 8, "debt": -1234.5678} for i in range(3)]
    heading, *_, last = table(rows).splitlines()
    assert re.search("clipped share +debt$", heading)
    assert last.split()[-2:] == ["0.25", "-1235"]
    panels = {axes.get_title(): axes for axes in drawn(learning_curve(rows))}
    assert list(panels)[-2:] == ["clipped share", "debt"]
    assert [line.get_ydata().tolist() for line in panels["clipped share"].get_lines()] == [[0, 0.125, 0.25]]


def test_what_an_update_tells_besides_its_loss_appears_in_table_and_curves(monkeypatch):
    trainer = trainer_of(Hypergrid(2, 4), eval_every=1)
    update = trainer.agent.update
    monkeypatch.setattr(trainer.agent, "update", lambda buffer: update(buffer) | {"clipped_share": torch.tensor(0.5)})
    trainer.train(lambda metrics: None, lambda: False, progress=False)
    assert [row["clipped_share"] for row in trainer.history] == [0.5] * 3
    assert "clipped share" in report.table(trainer.history, trainer.columns())
    figure = report.learning_curve(trainer.history, trainer.columns())
    assert [axes.get_title() for axes in drawn(figure)][-1] == "clipped share"


def test_columns_say_how_figures_are_shown():
    columns = {
        "a": Column("A", "{:.1f}", "both", "the first", scale="log", reference=2.0),
        "b": Column("B", panel="both", dashed=True, in_table=False),
        "c": Column("C"),
    }
    rows = [{"trajectories": i, "c": i, "b": 10.0**i, "a": 20.0**i} for i in range(1, 4)]
    assert table(rows, columns).splitlines()[0].split() == ["A", "C", "trajectories"]  # as declared, then the rest
    both, rest = drawn(learning_curve(rows, columns))
    assert (both.get_title(), rest.get_title()) == ("both", "trajectories")
    assert both.get_yscale() == "log"
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["the first", "B"]
    first, level, second = both.get_lines()
    assert (first.get_linestyle(), level.get_linestyle(), second.get_linestyle()) == ("-", "--", "--")
    assert set(level.get_ydata()) == {2.0}


METRIC = """
import agents
from matplotlib.figure import Figure

class Corner(agents.Metric):
    \"\"\"The share of the latest samples that lie at the origin.\"\"\"

    def __init__(self, context):
        super().__init__(context)
        self.latest = 0.0

    def columns(self):
        return {"at_origin": agents.Column("at origin", "{:.3f}", "origin", compared=1, meaning="share at the origin")}

    def add(self, objects):
        self.latest = float((objects.states[:, :-1].sum(1) == 0).double().mean())

    def compute(self, gflownet, last):
        return {"at_origin": self.latest}

    def pictures(self, gflownet):
        def draw():
            if MISSING:
                raise MISSING[0]
            figure = Figure()
            figure.subplots().bar([0], [self.latest])
            return figure
        return {"corner": draw}

    def tables(self, gflownet, seed):
        return {"corner": lambda: [("share", "note"), (f"{self.latest:.3f}", f"seed {seed}, as given")]}

MISSING = []
agents.register_metric("corner", "own_corner:Corner")
"""


@pytest.fixture
def corner(tmp_path, monkeypatch):
    """A user's module that registers a metric; what it registers is forgotten after the test."""
    (tmp_path / "own_corner.py").write_text(METRIC)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(METRICS, "_rows", dict(METRICS._rows))
    yield "own_corner:corner"
    sys.modules.pop("own_corner", None)


SHORT = ["--agent", "tb", "--env-kwargs", '{"dim": 2, "side": 4}', "--trajectories", "96", "--eval-every", "2"]
SHORT += ["--network.width", "8", "--no-progress"]


def test_a_metric_from_outside_appears_wherever_the_run_is_shown(corner, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*SHORT, "--metrics", corner, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all(0 <= row["at_origin"] <= 1 for row in rows)
    heading, *_, last, _ = capsys.readouterr().out.splitlines()[1:]
    assert "at origin" in heading
    assert f"{rows[-1]['at_origin']:.3f}" in last
    columns = folder_at(out).read_columns()
    assert columns["at_origin"] == Column("at origin", "{:.3f}", "origin", compared=1, meaning="share at the origin")
    assert "origin" in [axes.get_title() for axes in drawn(report.learning_curve(rows, columns))]
    assert imread(out / "corner.png").std() > 0.01
    assert (out / "corner.csv").read_text() == f'share,note\n{rows[-1]["at_origin"]:.3f},"seed 0, as given"\n'


def test_a_picture_whose_library_the_system_lacks_is_left_out_with_a_warning(corner, tmp_path):
    METRICS.find(corner)
    missing = sys.modules["own_corner"].MISSING  # as RDKit's drawing says without X libraries
    missing.append(ImportError("libXrender.so.1: cannot open shared object file"))
    out = tmp_path / "run"
    with pytest.warns(UserWarning, match=r"corner\.png is left out: libXrender\.so\.1: cannot open"):
        assert main([*SHORT, "--metrics", corner, "--out", str(out)]) == 0
    assert not (out / "corner.png").exists()
    assert (out / "learning_curve.png").exists()
    missing[:] = [ModuleNotFoundError("No module named 'rdkit'")]
    assert main([*SHORT, "--metrics", corner, "--out", str(out), "--overwrite"]) == 0
    assert not (out / "corner.png").exists()


def test_a_replaced_run_leaves_no_file_behind_and_takes_no_other(corner, tmp_path):
    out = tmp_path / "run"
    assert main([*SHORT, "--metrics", corner, "--out", str(out)]) == 0
    for name in ("mine.png", "mine.csv", "notes.txt"):
        (out / name).write_text("mine")
    (out / ".corner.png.123").write_text("half")
    assert main([*SHORT, "--out", str(out), "--overwrite"]) == 0
    assert not [path for path in out.iterdir() if "corner" in path.name]
    assert all((out / name).read_text() == "mine" for name in ("mine.png", "mine.csv", "notes.txt"))


@pytest.mark.parametrize("content", ["[1]", '["../other.txt"]', '[".."]', '[""]', '{"a": 1}', "[", "\xff"])
def test_a_list_of_files_that_is_damaged_removes_nothing(content, tmp_path):
    (tmp_path / "other.txt").write_text("other")
    folder = folder_at(tmp_path / "run")
    folder.path.mkdir()
    picture = folder.write("a.png", b"1")
    folder.files.write_bytes(content.encode("latin-1"))
    folder.clear()
    assert picture.exists()
    assert (tmp_path / "other.txt").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-9],
        lambda text: text.replace('"heading": "loss"', '"heading": 3'),
        lambda text: text.replace('"heading": "loss"', '"title": "loss"'),
        lambda text: text.replace('"scale": "log"', '"scale": "long"'),
        lambda text: text.replace("{:,.0f}", "{:,.0q}"),
        lambda text: text.replace('"reference": null', '"reference": "0"'),
        lambda text: "[]",
    ],
)
def test_damaged_columns_are_told(change, tmp_path):
    folder = folder_at(tmp_path)
    folder.write_columns(COLUMNS)
    assert folder.read_columns() == COLUMNS
    folder.columns.write_text(change(folder.columns.read_text()))
    with pytest.raises(RunFileError, match=r"columns\.json is damaged"):
        folder.read_columns()
    folder.columns.unlink()
    with pytest.raises(RunFileError, match=r"has no columns\.json"):
        folder.read_columns()


def test_a_picture_whose_package_is_missing_is_left_out(tmp_path, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("no such package")

    monkeypatch.setattr(Hypergrid, "draw", missing)
    paths = report.draw(folder_at(tmp_path), trainer_of(Hypergrid(2, 4)))
    assert {path.name for path in paths} == {"learning_curve.png", "distribution.png"}
