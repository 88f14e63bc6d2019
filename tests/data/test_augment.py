import numpy as np

from steadydepth.data.augment import Light, relight, smooth_field


def test_no_light_change_changes_nothing():
    frame = np.random.default_rng(0).random((5, 7, 3), dtype=np.float32)
    np.testing.assert_allclose(relight(frame, Light(), np.random.default_rng(1)), frame, atol=1e-6)


def test_each_part_has_the_deviation_it_is_given():
    grey = np.full((8, 8, 3), 0.3, np.float32)
    generator = np.random.default_rng(2)
    logs = np.array([np.log(relight(grey, Light(exposure=0.1), generator)[0, 0, 0] / 0.3) for _ in range(600)])
    assert abs(logs.std() - 0.1) < 0.01
    colours = np.array([np.log(relight(grey, Light(white_balance=0.1), generator)[0, 0] / 0.3) for _ in range(600)])
    assert np.abs(colours.std(axis=0) - 0.1).max() < 0.012
    assert abs(np.corrcoef(colours[:, 0], colours[:, 1])[0, 1]) < 0.15
    grey = np.full((60, 60, 3), 0.5, np.float32)
    noisy = relight(grey, Light(noise=0.02), generator)
    assert abs(noisy.std() - 0.02) < 0.001


def test_unevenness_is_smooth_and_of_unit_deviation():
    generator = np.random.default_rng(3)
    fields = np.stack([smooth_field(generator, 20, 30) for _ in range(400)])
    assert 0.8 < fields.std() < 1.6
    assert np.abs(np.diff(fields, axis=2)).mean() < 0.15
