"""Says which labels of a data set are wrong, with evidence; writes a table, a list and a page.

python -m memjax.audit --data=photos/ --workdir=audit                     # a folder per class
python -m memjax.audit --data=labels.csv --workdir=audit --effort=quick
python -m memjax.audit --data=photos/ --workdir=audit --dry_run           # what it would cost
python -m memjax.audit --workdir=audit --apply=decisions.csv              # a cleaned copy

--data: a folder, a .npz, a .csv, .tsv or .parquet table, a data set that `datasets` saved,
file.py:function, digits, or tfds:NAME. Fields of the data, the model and the training can be set:
--config.dataset.label_column=tag --config.model.name=my.py:Net. The same command goes on after an
interruption.
"""

import sys

from absl import flags
from ml_collections import config_flags

from memjax import command_line
from memjax.config import default_config
from memjax.model_flags import take_model_fields

# The fields of a network are its own: those that ml_collections finds here must be of the config.
_words, sys.argv = sys.argv, [word for word in sys.argv if "-config.model." not in word]
config_flags.DEFINE_config_dict("config", default_config(), "Fields that differ from the defaults.")
sys.argv = _words
flags.adopt_module_key_flags(command_line)
flags.DEFINE_string("data", None, "The data set.")
flags.DEFINE_string("workdir", None, "The folder of the audit; made if it is not there.")
flags.DEFINE_enum("effort", "standard", ["quick", "standard", "thorough"], "How much is trained.")
flags.DEFINE_string(
    "pred_probs",
    "",
    "A .npy file [n classes] of out-of-sample probabilities; classes in the order of their names.",
)
flags.DEFINE_string("embeddings", "", "A .npy file [n features], trained on instead of the images.")
flags.DEFINE_string("apply", "", "decisions.csv: write a cleaned copy.")
flags.DEFINE_bool("check_harm", False, "Say what cleaning does to accuracy on held-out examples.")
flags.DEFINE_bool("dry_run", False, "Show what it costs, run nothing.")
FLAGS = flags.FLAGS


def main() -> None:
    """Runs what the flags say."""
    workdir = command_line.required("workdir", "audit")

    from memjax.auditing.harm import check_harm, describe_harm
    from memjax.auditing.request import Request, describe_cost
    from memjax.auditing.run import apply_decisions, audit, describe
    from memjax.sweeps.plan import use_every_core
    from memjax.training.watcher import Interrupted

    use_every_core()
    if FLAGS.apply:
        print(apply_decisions(workdir, FLAGS.apply))
        return
    _, model_fields = take_model_fields(sys.argv)
    overrides = dict(config_flags.get_override_values(FLAGS["config"]))
    overrides |= {f"model.{name}": value for name, value in model_fields.items()}
    request = Request(
        data=command_line.required("data", "photos/"),
        effort=FLAGS.effort,
        overrides=overrides,
        pred_probs=FLAGS.pred_probs,
        embeddings=FLAGS.embeddings,
        check_harm=FLAGS.check_harm,
    )
    if FLAGS.dry_run:
        print(describe_cost(request))
        return
    try:
        found = audit(request, workdir)
        for line in describe(found.summary):
            print(line)
        print(f"report: {workdir}/report.html; list: {workdir}/issues.csv", flush=True)
        if request.check_harm:
            print(describe_harm(check_harm(request, workdir)))
    except Interrupted as stopped:
        print(f"memjax: {stopped}; the same command goes on from there", file=sys.stderr)
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    command_line.run_entry_point(main)
