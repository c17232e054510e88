"""Tasks by the name that `train.eval_tasks` takes, one file each: problems on which a model is evaluated."""

from foretrain.trainer.tasks import addition, copying, last_word, recall, which_word  # noqa: F401  (they register them)
