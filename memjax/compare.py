"""Puts every memorization score of a run's training examples side by side: do they agree?

python -m memjax.analyze --workdir=runs/ensemble --passes=gradients,difficulty,memorization
python -m memjax.compare --workdir=runs/ensemble
python -m memjax.compare --workdir=runs/ensemble --import=published.npz

It reads what training and the passes left, and trains nothing. Written to RUN/compare:
scores.parquet, agreement.csv, detection.csv and compare.png. With --duplicates it looks for
training examples that are there more than once, and tells which scores find them (duplicates.csv).
"""

from absl import flags

from memjax import command_line

flags.adopt_module_key_flags(command_line)
flags.DEFINE_string("workdir", None, "The run folder.")
flags.DEFINE_string("import", "", "A .npz file with 'index' and more scores of the same examples.")
flags.DEFINE_bool("duplicates", False, "Also: which scores find examples that are there twice.")
flags.DEFINE_string("data_dir", None, "Where tfds data lie now, if not where the run had them.")
FLAGS = flags.FLAGS


def main() -> None:
    """Runs what the flags say."""
    workdir = command_line.required("workdir", "runs/ensemble")

    from memjax.comparing.comparison import compare, describe, write_comparison
    from memjax.loading import load_run

    moved = {"dataset.data_dir": FLAGS.data_dir} if FLAGS.data_dir else {}
    run = load_run(workdir, **moved)
    found = compare(run, FLAGS["import"].value or "", FLAGS.duplicates)
    write_comparison(found, run.workdir / "compare")
    for line in describe(found):
        print(line)
    print(f"written: {run.workdir / 'compare'}")


if __name__ == "__main__":
    command_line.run_entry_point(main)
