import numpy as np

from steadydepth.ops.photometric import Photometric, _smooth_field, augment_photometric


def test_no_light_change_changes_nothing():
    frame = np.random.default_rng(0).random((5, 7, 3), dtype=np.float32)
    np.testing.assert_allclose(augment_photometric(frame, Photometric(), np.random.default_rng(1)), frame, atol=1e-6)


def test_each_part_has_the_deviation_it_is_given():
    grey = np.full((8, 8, 3), 0.3, np.float32)
    generator = np.random.default_rng(2)
    logs = np.array(
        [np.log(augment_photometric(grey, Photometric(exposure=0.1), generator)[0, 0, 0] / 0.3) for _ in range(600)]
    )
    assert abs(logs.std() - 0.1) < 0.01
    colours = np.array(
        [np.log(augment_photometric(grey, Photometric(white_balance=0.1), generator)[0, 0] / 0.3) for _ in range(600)]
    )
    assert np.abs(colours.std(axis=0) - 0.1).max() < 0.012
    assert abs(np.corrcoef(colours[:, 0], colours[:, 1])[0, 1]) < 0.15
    grey = np.full((60, 60, 3), 0.5, np.float32)
    noisy = augment_photometric(grey, Photometric(noise=0.02), generator)
    assert abs(noisy.std() - 0.02) < 0.001


def test_unevenness_is_smooth_and_of_unit_deviation():
    generator = np.random.default_rng(3)
    fields = np.stack([_smooth_field(generator, 20, 30) for _ in range(400)])
    assert 0.8 < fields.std() < 1.6
    assert np.abs(np.diff(fields, axis=2)).mean() < 0.15


def test_blur_and_jpeg_lose_detail_and_keep_the_mean():
    frame = np.random.default_rng(4).random((24, 32, 3), dtype=np.float32)
    generator = np.random.default_rng(5)
    for light, most in ((Photometric(blur=1.5), 0.6), (Photometric(jpeg=0.9), 0.99)):
        lit = [augment_photometric(frame, light, generator) for _ in range(8)]
        assert (
            np.mean([np.abs(np.diff(one, axis=1)).mean() for one in lit]) < most * np.abs(np.diff(frame, axis=1)).mean()
        )
        assert abs(np.mean(lit) - frame.mean()) < 0.02
        assert not np.array_equal(lit[0], lit[1])


def test_a_recoded_clip_is_the_clip_with_the_errors_of_its_rate():
    from steadydepth.files.video_write import recode

    y, x = np.mgrid[:33, :46]
    frames = np.stack([np.stack([x * 4 + t, y * 5, x + y], axis=-1) for t in range(3)]).astype(np.uint8)
    errors = [np.abs(recode(frames, crf=crf).astype(int) - frames).mean() for crf in (5, 45)]
    assert recode(frames, crf=5).shape == frames.shape
    assert errors[0] < 3 < 1.5 * errors[0] + errors[1]
    assert errors[1] > 1.5 * errors[0]
