"""End to end without a network: score, chain rule, renderer and trainer recover a scene from its exact score."""

from benchmarks.recover import recover


def test_a_scene_is_recovered_from_the_exact_score_of_its_pictures():
    result = recover(resolution=32, size=32, around=8, elevations=(0.0, 45.0), steps=120)
    # It reaches 30.2 dB; the full version (64^3, 64 x 64, 64 cameras) is benchmarks/results/recover.json.
    assert result["mean_psnr"] > 28
    assert min(result["psnr"]) > 26
