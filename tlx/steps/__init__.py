"""The pure steps: supervised, distillation, self-training, evaluation.

Every factory returns a function of arrays that may be used alone, in any loop, under any of `tlx.parallel`'s
harnesses::

    step(state, batch, rng) -> (state, metrics)

What they share is one update, `tlx.update`, which says how terms become a loss; a step here is what is special to its
method: the objective and the weights of its examples.

A batch is a flat dict of arrays [B, ...], B examples:

    image   uint8 or float [B, H, W, C]
    slot    int32 [B], each example's place in the global batch (what its augmentation key is made of)
    label   int32 [B];  weight   float [B], 0 for examples whose label must not be used and for padding
    row     int32 [B], in place of the slot where an image has fixed views      (see `tlx.data.view.look`)
    partner_image, partner_label, partner_weight;  share float [B]              (mixup only)
    teacher_logits float [B, M, K], of M teachers, or their top: see `tlx.teachers`;  teacher_features [B, D]
                                                                                (distillation only)
    teacher_logits float [B, K];  teacher_weight float [B]                      (self-training only)
    labeled int8 [B], 1 for the labelled part                                   (self-training only)

`rng` is the run's root key, the same at every step; see `tlx.rng`. Metrics are pairs (sum, count), to be added up over
steps and divided at the end.
"""

from tlx.steps.distill import make_distill_step
from tlx.steps.evaluate import make_eval_step
from tlx.steps.self_train import make_self_train_step
from tlx.steps.supervised import make_supervised_step

__all__ = ["make_distill_step", "make_eval_step", "make_self_train_step", "make_supervised_step"]
