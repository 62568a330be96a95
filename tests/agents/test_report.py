"""What a run leaves to look at: the table's lines and the pictures' panels."""

import itertools
import math
import re

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from toy_dags import Bag, Skips, Subsets

from agents import build
from agents.config import Config, EvaluationSettings, NetworkSettings
from agents.runs import report
from agents.runs.folder import PICTURES
from gfn_envs import DAG, BitSequence, Hypergrid, enumerate_dag

ROW = {"trajectories": 16, "l1_exact": 0.5, "kl_exact": 0.1, "log_z_error": -1.0, "loss": 2.0, "backward_loss": 0.0}
UNENUMERATED = {"trajectories": 16, "mean_reward": 1.5, "unique_states": 7, "loss": 2.0, "backward_loss": 3.0}


def history(rows, base=ROW):
    return [base | {"trajectories": 1000 * (i + 1)} for i in range(rows)]


def trainer_of(dag: DAG):
    return build.build_trainer(Config(agent="tb", trajectories=48, net=NetworkSettings(width=8)), dag)


def drawn(figure):
    """Return the panels of a figure once it has been drawn, without a warning."""
    FigureCanvasAgg(figure).draw()
    return [axes for axes in figure.axes if axes.axison]


@pytest.mark.parametrize("rows", [1, 2, 11, 12, 13, 24, 100, 1001])
def test_the_table_shows_at_most_twelve_evaluations_and_always_the_last(rows):
    lines = report.table(history(rows)).splitlines()
    assert 2 <= len(lines) <= 13
    assert lines[-1].split()[0] == f"{1000 * rows:,}"
    assert len({len(line) for line in lines}) == 1
    numbers = [int(line.split()[0].replace(",", "")) for line in lines[1:]]
    assert len({b - a for a, b in itertools.pairwise(numbers)}) <= 1


def test_the_table_has_the_columns_that_were_measured():
    assert "L1 exact" in report.table([ROW])
    assert "mean reward" not in report.table([ROW])
    assert "L1 exact" not in report.table([UNENUMERATED])
    assert report.table([]) == "no evaluation yet"


def test_the_table_shows_numbers_that_are_not_finite():
    assert "inf" in report.table([ROW | {"kl_exact": math.inf}])


def test_the_learning_curve_has_a_panel_for_each_kind_of_metric_measured():
    titles = [axes.get_title() for axes in drawn(report.learning_curve(history(5)))]
    assert titles == ["distance to the target", "estimate of log Z, minus the true one", "training loss"]
    titles = [axes.get_title() for axes in drawn(report.learning_curve(history(5, UNENUMERATED)))]
    assert titles == ["mean reward", "training loss"]


def test_the_learning_curve_leaves_out_a_loss_that_is_always_zero():
    loss = drawn(report.learning_curve(history(5)))[-1]
    assert [line.get_label() for line in loss.get_lines()] == ["loss"]


def test_the_learning_curve_separates_thousands():
    axes = drawn(report.learning_curve(history(3)))[0]
    assert {"1,000", "3,000"} & {label.get_text() for label in axes.get_xticklabels()}


@pytest.mark.parametrize("rows", [[], [ROW | {"kl_exact": math.inf}] * 2, [{"trajectories": 4, "loss": 0.0}]])
def test_the_learning_curve_can_be_drawn_of_anything(rows):
    drawn(report.learning_curve(rows))


@pytest.mark.parametrize(
    ("dag", "panels"),
    [(Hypergrid(1, 5), 1), (Hypergrid(2, 5), 6), (Hypergrid(3, 4), 18), (Hypergrid(4, 3), 18), (Subsets(3, 3), 1)],
)
def test_the_distribution_has_three_maps_with_colour_bars_a_pair_of_components(dag, panels):
    enumeration = enumerate_dag(dag)
    figure = report.distribution(enumeration, enumeration.target)
    assert len(drawn(figure)) == panels


def test_the_maps_show_the_marginals_with_the_first_component_to_the_right():
    enumeration = enumerate_dag(Hypergrid(2, 5))
    states = enumeration.states[enumeration.terminal]
    learned = torch.zeros_like(enumeration.target)
    learned[(states[:, 0] == 3) & (states[:, 1] == 1)] = 1
    target, shown, difference = (
        axes.get_images()[0].get_array() for axes in report.distribution(enumeration, learned).axes[:3]
    )
    assert shown[1, 3] == 1  # rows go up, columns to the right
    assert shown.sum() == 1
    assert target.sum() == pytest.approx(1)
    assert abs(difference - (shown - target)).max() < 1e-9


def test_the_bars_show_target_and_learned_side_by_side():
    enumeration = enumerate_dag(Hypergrid(1, 5))
    (axes,) = report.distribution(enumeration, enumeration.target.flip(0)).axes
    target, learned = ([bar.get_height() for bar in bars] for bars in axes.containers)
    assert target == pytest.approx(learned[::-1])
    assert sum(target) == pytest.approx(1)


@pytest.mark.parametrize("dag", [Hypergrid(1, 4), Hypergrid(3, 3), Subsets(), Subsets(3, 3), Bag(), Skips()])
def test_every_dag_gets_all_pictures(dag, tmp_path):
    trainer = trainer_of(dag)
    trainer.train(lambda metrics: None, lambda: False, progress=False)
    paths = report.draw_all(trainer, tmp_path)
    assert (
        {path.name for path in paths}
        == {path.name for path in tmp_path.iterdir()}
        == set(PICTURES) - {"likelihood.png", "top_molecules.png"}
    )
    for path in paths:
        assert imread(path).std() > 0.01  # not blank


def test_without_an_enumeration_there_is_no_picture_of_the_distribution(tmp_path):
    config = Config(
        agent="tb", trajectories=16, eval=EvaluationSettings(max_exact_edges=0), net=NetworkSettings(width=8)
    )
    trainer = build.build_trainer(config, Hypergrid(2, 4))
    assert {path.name for path in report.draw_all(trainer, tmp_path)} == {"learning_curve.png", "trajectories.png"}


def test_drawing_does_not_disturb_the_run(tmp_path):
    plain, watched = trainer_of(Hypergrid(2, 4)), trainer_of(Hypergrid(2, 4))
    for _ in range(3):
        plain.step()
        watched.step()
        report.draw_all(watched, tmp_path)
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
    axes = drawn(report.learning_curve(rows))[0]
    assert (axes.get_title(), axes.get_yscale()) == ("mean reward", scale)


def test_a_metric_that_is_never_a_number_has_no_panel():
    titles = [axes.get_title() for axes in drawn(report.learning_curve([ROW | {"spearman": math.nan}]))]
    assert "training loss" in titles
    assert not any("correlation" in title for title in titles)


@pytest.mark.parametrize("pace", [0, 1, 30])
def test_numbers_of_modes_have_whole_ticks(pace):
    rows = [{"trajectories": i, "modes_found": pace * i} for i in range(4)]
    (axes,) = drawn(report.learning_curve(rows))
    assert all(float(tick).is_integer() for tick in axes.get_yticks())


def test_the_table_keeps_a_column_that_the_last_evaluation_lacks():
    lines = report.table([ROW | {"spearman": 0.5}, ROW]).splitlines()
    assert "Spearman" in lines[0]
    assert "0.500" in lines[1]
    assert len({len(line) for line in lines}) == 1
