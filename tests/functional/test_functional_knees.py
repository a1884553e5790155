"""Knees: the least-squares fit against brute force, the test against simulated noise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import knees as plain

from lightning_interp.functional import KneeFit, fit_knees
from lightning_interp.functional._piecewise import GridSearch, fit_pieces, has_room

SEEDS = st.integers(0, 10**6)


def ar1(size: int, phi: float, rng: np.random.Generator) -> np.ndarray:
    out = rng.standard_normal(size)
    for t in range(1, size):
        out[t] = phi * out[t - 1] + np.sqrt(1 - phi**2) * out[t]
    return out


def uneven(size: int, rng: np.random.Generator) -> np.ndarray:
    x = np.cumsum(rng.uniform(0.2, 1.8, size))
    return (x - x[0]) / (x[-1] - x[0])


def stick(x: np.ndarray, knees: tuple[float, ...], slopes: tuple[float, ...]) -> np.ndarray:
    y = slopes[0] * x
    for knee, before, after in zip(knees, slopes[:-1], slopes[1:], strict=True):
        y = y + (after - before) * np.maximum(x - knee, 0)
    return y


def assert_same(one: KneeFit, two: KneeFit) -> None:
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(two, name), err_msg=name)


# The fit.


@pytest.mark.parametrize(("count", "per_gap"), [(1, 20), (2, 4), (3, 1)])
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, size=st.integers(9, 13), min_points=st.integers(3, 4))
def test_no_choice_on_a_dense_grid_fits_better(count, per_gap, seed, size, min_points):
    rng = np.random.default_rng(seed)
    size = max(size, 2 + (count + 1) * (min_points - 1))
    x, y = uneven(size, rng), rng.standard_normal(size)
    starts = GridSearch(x, min_points, count, np.empty(0)).starts(y, count, 6)
    knees, rss = fit_pieces(x, y, starts, min_points)
    least, _ = plain.best(x, y, count, min_points, per_gap)
    assert plain.allowed(x, tuple(knees), min_points)
    assert rss == pytest.approx(plain.squares(x, y, tuple(knees)), rel=1e-9)
    assert rss <= least * (1 + 1e-9)


@pytest.mark.slow
def test_long_curves_reach_the_optimum_too():
    """The grid of starts is coarser than the readings from about 20 on."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = uneven(60, rng), ar1(60, 0.5, rng)
        starts = GridSearch(x, 3, 2, np.empty(0)).starts(y, 2, 6)
        assert fit_pieces(x, y, starts, 3)[1] <= plain.best(x, y, 2, per_gap=1)[0] * 1.02


@given(seed=SEEDS, size=st.integers(5, 20), count=st.integers(1, 3), min_points=st.integers(3, 5))
def test_room_counts_a_reading_at_a_knee_on_both_sides(seed, size, count, min_points):
    rng = np.random.default_rng(seed)
    x = uneven(size, rng)
    knees = np.sort(rng.choice(plain.grid(x, 2)[1:-1], count, replace=False))
    assert has_room(x, knees, min_points) == plain.allowed(x, tuple(knees), min_points)


EXACT = [
    ((2.0,), (0.0, 1.0)),
    ((2.6,), (-1.0, -0.2)),
    ((1.1, 2.7), (0.0, -1.0, 0.0)),
    ((1.0, 3.0), (0.5, 2.0, -1.0)),
    ((0.9, 2.05, 3.1), (0.0, 1.0, 0.0, 1.5)),
]


@pytest.mark.parametrize(("knees", "slopes"), EXACT)
@pytest.mark.parametrize("size", [21, 60])
@pytest.mark.parametrize("even", [True, False])
def test_knees_without_noise_are_exact(knees, slopes, size, even):
    x = np.linspace(0, 4, size) if even else 4 * uneven(size, np.random.default_rng(size))
    y = stick(x, knees, slopes)
    fit = fit_knees(x, y)
    np.testing.assert_allclose(fit.knees, knees, atol=1e-6)
    np.testing.assert_allclose(fit.slopes, slopes, atol=1e-6)
    np.testing.assert_allclose(fit.fitted, y, atol=1e-7)
    np.testing.assert_allclose(fit.intervals, np.stack([knees, knees], 1), atol=1e-6)
    assert fit.noise == pytest.approx(0, abs=1e-7)
    assert all(error == pytest.approx(0, abs=1e-6) for error in fit.slope_errors)


@pytest.mark.parametrize("y", [lambda x: 0 * x, lambda x: 0 * x + 1e6 + 0.1, lambda x: 7 - 0.3 * x, lambda x: 1e5 + x])
@pytest.mark.parametrize("size", [4, 8, 30])
def test_lines_without_noise_have_no_knees(y, size):
    x = np.log10(np.arange(1, size + 1) * 37.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_knees(x, y(x))
    assert fit.knees == fit.intervals == ()
    assert len(fit.slopes) == len(fit.slope_errors) == 1
    np.testing.assert_allclose(fit.fitted, y(x), rtol=1e-9, atol=1e-9)


def test_a_drop_between_plateaus_is_seen_though_one_knee_hardly_helps():
    x = np.linspace(0, 4, 30)
    y = stick(x, (1.5, 2.5), (0.0, -10.0, 0.0)) + 0.3 * ar1(30, 0.3, np.random.default_rng(1))
    assert fit_knees(x, y, max_knees=1).knees == ()
    fit = fit_knees(x, y)
    np.testing.assert_allclose(fit.knees, (1.5, 2.5), atol=0.15)
    assert all(low <= knee <= high for (low, high), knee in zip(fit.intervals, (1.5, 2.5), strict=True))


def test_predict_continues_the_fit():
    x = np.linspace(3, 5, 25)
    fit = fit_knees(x, stick(x, (3.8,), (1.0, -2.0)) + 0.02 * ar1(25, 0, np.random.default_rng(0)))
    np.testing.assert_allclose(fit.predict(x), fit.fitted, atol=1e-12)
    assert fit.predict([[2.0], [6.0]]).shape == (2, 1)
    assert fit.predict(6.0) - fit.predict(5.0) == pytest.approx(fit.slopes[-1])
    assert fit.predict(3.0) - fit.predict(2.0) == pytest.approx(fit.slopes[0])


@pytest.mark.parametrize(("size", "min_points"), [(21, 6), (22, 6), (61, 16), (61, 15), (200, 50)])
def test_pieces_may_fill_all_the_room_there_is(size, min_points):
    x = np.linspace(0, 4, size)
    for count in (1, 2, 3):
        starts = GridSearch(x, min_points, count, np.empty(0)).starts(x, count, 6)
        assert len(starts)
        assert all(plain.allowed(x, tuple(start), min_points) for start in starts)
    assert fit_knees(x, np.cos(2 * x), min_points=min_points, intervals=False).knees


# Invariances.


@settings(max_examples=20, deadline=None)
@given(
    seed=SEEDS,
    height=st.floats(0, 20),
    shift_x=st.floats(-100, 100),
    scale_x=st.floats(1e-3, 1e3),
    shift_y=st.floats(-100, 100),
    scale_y=st.floats(1e-6, 1e6),
    flip=st.booleans(),
)
def test_units_do_not_matter(seed, height, shift_x, scale_x, shift_y, scale_y, flip):
    rng = np.random.default_rng(seed)
    x = uneven(20, rng)
    y = height * np.maximum(x - 0.5, 0) + ar1(20, 0.4, rng)
    scale_y = -scale_y if flip else scale_y
    one = fit_knees(x, y, replicates=39)
    two = fit_knees(scale_x * (x + shift_x), scale_y * (y + shift_y), replicates=39)
    assert two.p_values == one.p_values
    np.testing.assert_allclose(np.array(two.knees) / scale_x - shift_x, one.knees, atol=1e-6)
    np.testing.assert_allclose(np.array(two.slopes) * scale_x / scale_y, one.slopes, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        np.array(two.slope_errors) * scale_x / abs(scale_y), one.slope_errors, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(two.fitted / scale_y - shift_y, one.fitted, atol=1e-6)
    assert two.noise / abs(scale_y) == pytest.approx(one.noise, rel=1e-5)
    assert two.autocorrelation == pytest.approx(one.autocorrelation, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_time_may_run_backwards(seed):
    rng = np.random.default_rng(seed)
    x = 4 * uneven(40, rng)
    y = stick(x, (1.3, 2.8), (0.0, 2.0, 0.0)) + 0.1 * ar1(40, 0.3, rng)
    one, two = fit_knees(x, y), fit_knees(-x[::-1], y[::-1])
    np.testing.assert_allclose(-np.array(two.knees)[::-1], one.knees, atol=1e-6)
    np.testing.assert_allclose(-np.array(two.slopes)[::-1], one.slopes, atol=1e-6)
    np.testing.assert_allclose(two.fitted[::-1], one.fitted, atol=1e-6)
    assert two.autocorrelation == pytest.approx(one.autocorrelation, abs=0.05)
    np.testing.assert_allclose(-np.array(two.intervals)[::-1, ::-1], one.intervals, atol=0.1)


def test_the_same_seed_gives_the_same_fit_and_the_global_generator_is_left_alone():
    rng = np.random.default_rng(3)
    x = np.linspace(0, 4, 24)
    y = 3 * np.maximum(x - 2, 0) + 0.5 * ar1(24, 0.3, rng)
    before = np.random.get_state()[1].copy()
    one = fit_knees(x, y, seed=5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert_same(one, fit_knees(x, y, seed=5))
    assert_same(one, fit_knees(x.tolist(), y.tolist(), seed=5))
    assert fit_knees(x, y, seed=6).intervals != one.intervals
    without = fit_knees(x, y, seed=5, intervals=False)
    assert without.intervals == ()
    assert without.knees == one.knees


@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS,
    size=st.integers(4, 30),
    kind=st.sampled_from(["noise", "steps", "integers", "spike", "curve", "jump"]),
    gaps=st.sampled_from([0.0, 2.0, 5.0]),
    max_knees=st.integers(0, 3),
    min_points=st.integers(3, 6),
)
def test_any_curve_gives_a_whole_answer_without_warnings(seed, size, kind, gaps, max_knees, min_points):
    rng = np.random.default_rng(seed)
    x = np.cumsum(10.0 ** rng.uniform(-gaps, 0, size))
    y = {
        "noise": lambda: rng.standard_normal(size),
        "steps": lambda: np.floor(4 * x / x[-1]),
        "integers": lambda: rng.integers(0, 2, size),
        "spike": lambda: 1.0 * (np.arange(size) == size // 2),
        "curve": lambda: np.exp(-5 * x / x[-1]),
        "jump": lambda: 1e8 * (np.arange(size) > size // 2) + rng.standard_normal(size),
    }[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_knees(x, y, max_knees=max_knees, min_points=min_points, replicates=19)
    count = len(fit.knees)
    assert count <= max_knees
    assert len(fit.intervals) == count
    assert len(fit.slopes) == len(fit.slope_errors) == count + 1
    assert len(fit.p_values) in (count, count + 1)
    unit = (x - x[0]) / (x[-1] - x[0])
    assert not count or plain.allowed(unit, tuple((np.array(fit.knees) - x[0]) / (x[-1] - x[0])), min_points)
    assert all(x[0] < low <= high < x[-1] for low, high in fit.intervals)
    assert np.isfinite([*fit.slopes, *fit.slope_errors, fit.noise, *fit.fitted, *np.ravel(fit.intervals)]).all()
    assert fit.fitted.dtype == np.float64
    assert 0 <= fit.autocorrelation <= 0.95


# The test of a knee.


def rates(truth, size, phi, runs, **options) -> float:
    x = np.linspace(0, 4, size)
    found = [
        len(fit_knees(x, truth(x) + ar1(size, phi, np.random.default_rng([size, run])), seed=run, **options).knees)
        for run in range(runs)
    ]
    return float(np.mean(np.array(found) > 0))


def shrinking_rate(size: int, runs: int, change: float) -> float:
    """False knees of lines whose noise changes by a power of ten, as that of losses does."""
    x = np.linspace(0, 4, size)
    profile = np.logspace(0, change, size)
    found = [
        fit_knees(x, x + profile * ar1(size, 0, np.random.default_rng([size, 5, run])), intervals=False, seed=run).knees
        for run in range(runs)
    ]
    return float(np.mean([len(knees) > 0 for knees in found]))


def ordinary_rate(size: int, phi: float, runs: int) -> float:
    """False knees of sup-F with the critical value for independent noise."""
    x = np.linspace(0, 4, size)

    def statistic(y: np.ndarray) -> float:
        least = min(plain.squares(x, y, (knee,)) for knee in x[2:-2])
        return plain.squares(x, y, ()) / least

    draws = [statistic(ar1(size, 0, np.random.default_rng([1, size, run]))) for run in range(200)]
    critical = np.quantile(draws, 0.95)
    return float(
        np.mean([statistic(ar1(size, phi, np.random.default_rng([size, run]))) > critical for run in range(runs)])
    )


def test_few_lines_with_autocorrelated_noise_have_knees():
    assert rates(lambda x: 2 * x, 20, 0.5, 60, intervals=False) <= 0.10
    assert ordinary_rate(20, 0.5, 60) >= 0.20


@pytest.mark.parametrize("change", [-1.0, 1.0])
def test_few_lines_with_noise_that_changes_have_knees(change: float) -> None:
    # With critical values for noise of one size, in 25 to 30 % of runs.
    assert shrinking_rate(30, 60, change) <= 0.15


@pytest.mark.slow
@pytest.mark.parametrize("size", [12, 20, 30])
def test_false_knees_are_rare_where_noise_shrinks_too(size: int) -> None:
    assert shrinking_rate(size, 400, -1.0) <= 0.10


def test_gentle_curvature_below_the_noise_is_no_knee():
    assert rates(lambda x: 0.25 * (x / 2 - 1) ** 2, 24, 0.3, 80, intervals=False) <= 0.12


@pytest.mark.slow
@pytest.mark.parametrize("size", [12, 20, 30, 60])
@pytest.mark.parametrize(("phi", "most"), [(0.0, 0.08), (0.3, 0.08), (0.5, 0.08), (0.7, 0.13)])
def test_false_knees_are_as_rare_as_stated(size, phi, most):
    assert rates(lambda x: 2 * x, size, phi, 400, intervals=False) <= most


def coverage(size: int, phi: float, runs: int) -> tuple[int, float]:
    x = np.linspace(0, 4, size)
    fits = [
        fit_knees(x, stick(x, (1.9,), (0.0, 6.0)) + ar1(size, phi, np.random.default_rng([size, 2, run])), seed=run)
        for run in range(runs)
    ]
    inside = [fit.intervals[0][0] <= 1.9 <= fit.intervals[0][1] for fit in fits if len(fit.knees) == 1]
    return len(inside), float(np.mean(inside))


def test_intervals_cover_a_planted_knee():
    found, covered = coverage(30, 0.3, 25)
    assert found >= 20
    assert covered >= 0.84


@pytest.mark.slow
@pytest.mark.parametrize("size", [20, 30, 60])
@pytest.mark.parametrize("phi", [0.0, 0.3, 0.5])
def test_intervals_cover_as_stated(size, phi):
    _, covered = coverage(size, phi, 200)
    assert covered >= 0.86


def test_slope_errors_and_noise_allow_for_autocorrelation():
    x = np.linspace(0, 4, 40)
    fits = [
        fit_knees(x, 2 * x + ar1(40, 0.5, np.random.default_rng([3, run])), max_knees=0, intervals=False)
        for run in range(200)
    ]
    spread = np.std([fit.slopes[0] for fit in fits])
    assert np.mean([fit.slope_errors[0] for fit in fits]) == pytest.approx(spread, rel=0.3)
    assert np.mean([abs(fit.slopes[0] - 2) < 2 * fit.slope_errors[0] for fit in fits]) >= 0.88
    assert np.mean([fit.noise for fit in fits]) == pytest.approx(1, rel=0.1)
    assert np.mean([fit.autocorrelation for fit in fits]) == pytest.approx(0.5, abs=0.08)


# Errors.

X = np.arange(10.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": X[:9]}, r"`x` and `y`.*\(10,\) and \(9,\)"),
        ({"x": X[:, None], "y": X[:, None]}, r"`x` and `y`.*\(10, 1\)"),
        ({"x": X[:3], "y": X[:3]}, "`x` needs at least 4 readings, got 3"),
        ({"x": [*X[:9], 8.0]}, r"`x` must increase, got 8.0 before 8.0 at index 8"),
        ({"x": X[::-1]}, "`x` must increase, got 9.0 before 8.0 at index 0"),
        ({"x": [*X[:9], np.inf]}, "`x` must be finite, got inf at index 9"),
        ({"y": [np.nan, *X[1:]]}, "`y` must be finite, got nan at index 0"),
        ({"max_knees": 4}, "`max_knees` must be 0, 1, 2 or 3, got 4"),
        ({"max_knees": -1}, "`max_knees`.*-1"),
        ({"level": 0.0}, "`level` must lie between 0 and 1, got 0.0"),
        ({"level": 1.0}, "`level`.*1.0"),
        ({"level": float("nan")}, "`level`.*nan"),
        ({"min_points": 2}, "`min_points` must be an integer of at least 3.*got 2"),
        ({"min_points": 3.5}, "`min_points`.*3.5"),
        ({"replicates": 18}, "`replicates` must be an integer of at least 19 for level 0.05, got 18"),
        ({"replicates": 98, "level": 0.01}, "`replicates`.*99.*98"),
    ],
)
def test_bad_arguments_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_knees(**({"x": X, "y": X} | arguments))
