"""Presets: the reference's number for number, and the others as diffs that stay what they say."""

import pytest
from pydantic import ValidationError

from coronary.config import PRESETS, Config, HuWindow, Loss, ZScore
from shared.config import apply_preset, config_hash, layered


def preset(name):
    return apply_preset(Config(), PRESETS[name])


@pytest.mark.parametrize("name", ["reference-baseline", "reference"])
def test_the_reference_number_for_number(name):
    config = preset(name)
    assert config.features == (32, 64, 128, 256, 512, 32)
    assert config.preprocessing.spacing_mm == (1, 1, 1)
    assert config.preprocessing.normalisation == ZScore(pad_to=(96, 96, 96))
    assert config.loss == Loss(dice=1)
    assert config.loss.dice_of_background
    assert not config.loss.dice_over_batch
    assert not config.loss.soft_targets
    sampling = config.sampling
    assert (sampling.patch, sampling.patches_per_case, sampling.positive_fraction) == ((96, 96, 96), 4, 0.5)
    assert (sampling.distal_fraction, sampling.jitter_mm) == (0, 0)
    training = config.training
    assert (training.optimiser, training.learning_rate, training.weight_decay) == ("adam", 1e-4, 0)
    assert (training.epochs, training.steps_per_epoch, training.batch, training.schedule) == (5, None, 4, "constant")
    assert (training.ema, training.clip_norm, training.precision) == (0, None, "32-true")
    assert config.validation_fraction == 0.2


def test_the_references_two_runs_differ_in_augmentation_alone():
    without, with_all = preset("reference-baseline"), preset("reference")
    assert (without.sampling.augment, with_all.sampling.augment) == ("none", "reference")
    assert with_all.model_copy(update={"sampling": without.sampling}) == without


def test_the_ablation_is_the_baseline_under_adamw():
    ablation, baseline = preset("reference-ablation"), preset("reference-baseline")
    assert (ablation.training.optimiser, ablation.training.learning_rate) == ("adamw", 1e-3)
    assert ablation.model_copy(update={"training": baseline.training}) == baseline


def test_lite_is_best_but_for_width_patch_length_and_threshold():
    best, lite = preset("best"), preset("lite")
    for part in ("preprocessing", "loss", "dropout"):
        assert getattr(best, part) == getattr(lite, part), part
    assert lite.inference.model_copy(update={"threshold": best.inference.threshold}) == best.inference
    assert lite.sampling.model_copy(update={"patch": best.sampling.patch}) == best.sampling
    for field in ("optimiser", "schedule", "weight_decay", "clip_norm", "precision"):
        assert getattr(best.training, field) == getattr(lite.training, field), field


@pytest.mark.parametrize("name", PRESETS)
def test_what_holds_for_every_preset(name):
    config = preset(name)
    assert config == Config.model_validate_json(config.model_dump_json())
    assert all(side % 16 == 0 for side in (*config.sampling.patch, *config.inference.window))  # four poolings
    training = config.training
    assert training.warmup_steps < training.epochs * (training.steps_per_epoch or 1) or training.warmup_steps == 0
    assert training.ema == 0 or 1 / (1 - training.ema) < training.epochs * (training.steps_per_epoch or 1) / 4
    # Law 12: only the reference's own recipe mirrors.
    assert config.sampling.augment != "reference" or name == "reference"


def test_the_window_shows_what_prediction_looks_for():
    config = preset("best")
    window = config.preprocessing.normalisation
    assert window.low_hu < config.inference.lumen_threshold_hu < window.high_hu


def test_layers_of_presets_merge_field_by_field():
    base = {"training": {"epochs": 4, "seed": 1}, "dropout": 0.1}
    assert layered(base, {"training": {"seed": 2}, "phantoms": 3}) == {
        "training": {"epochs": 4, "seed": 2}, "dropout": 0.1, "phantoms": 3,
    }  # fmt: skip
    assert base["training"]["seed"] == 1
    window = layered({"normalisation": {"kind": "x"}}, {"normalisation": HuWindow()})
    assert window["normalisation"] == HuWindow()


def test_another_loss_is_another_run():
    assert config_hash(preset("lite")) != config_hash(apply_preset(preset("lite"), {"loss": {"cl_dice": 0.5}}))


def test_an_unknown_term_is_no_field():
    with pytest.raises(ValidationError, match="extra"):
        Loss.model_validate({"focal": 1})
