"""All digits configs over seeds 0-4: `python -m tlx.sweep experiments/digits/sweep.py`, from the project's root."""

from tlx.sweep import Variant

SEEDS = range(5)
PRETRAINED = "pretrained=runs/experiments/digits/pre_trained_on_0_4-seed0"

VARIANTS = [
    Variant("noisy student, 100 labels", "configs/digits_noisy_student.py", seeds=SEEDS, seconds=80),
    Variant("FixMatch, 100 labels", "configs/digits_fixmatch.py", seeds=SEEDS, seconds=45),
    Variant("from scratch, all labels", "configs/digits_scratch.py", seeds=SEEDS, seconds=20),
    Variant(
        "distilled into a small MLP",
        "configs/digits_distill.py",
        "teacher=runs/experiments/digits/from_scratch__all_labels-seed0",
        seeds=SEEDS,
        seconds=20,
    ),
    Variant("pre-trained on 0-4", "configs/digits_pretrain.py", seeds=SEEDS, seconds=20),
    Variant("5-9 with 5 labels: from scratch", "configs/digits_finetune.py", "pretrained=", seeds=SEEDS, seconds=15),
    Variant("5-9 with 5 labels: fine-tuned", "configs/digits_finetune.py", PRETRAINED, seeds=SEEDS, seconds=15),
    Variant("5-9 with 5 labels: frozen", "configs/digits_frozen.py", PRETRAINED, seeds=SEEDS, seconds=15),
]

FIGURES = {
    "teacher": "rounds.0.test_accuracy",
    "student 1": "rounds.1.test_accuracy",
    "student 2": "rounds.2.test_accuracy",
    "student 3": "rounds.3.test_accuracy",
    "selected": "figures.test_accuracy",
    "validation": "figures.validation_accuracy",
    "last checkpoint": "figures.test_accuracy_last",
}
