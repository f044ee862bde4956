"""Wrong labels and duplicates: the audit beside cleanlab and aum, on the same networks and budget.

    pip install . && pip install torch cleanlab==2.9.0 aum==1.0.2
    python -m benchmarks.audit --data=digits --out=audit.json
    python -m benchmarks.audit --data=mnist --examples=3000 --data_dir=DIR_OF_TFDS --out=audit.json

A piece is a data set, a kind of noise and a seed; pieces that stand in --out are not run again, and
the tables show all that stand there (--data= shows them only).

Noise: `uniform`, a share of the labels replaced by any other class; `class`, every class goes to
one other class, the shares of the classes from half to one and a half times the rate.

Budget: the audit trains m + p networks (labels as given, planted copy). The peers get m + p
networks on the labels as given: the same model, epochs, batches and subsets (70 %). cleanlab's
scores see out-of-sample probabilities averaged over networks at the end of training, as its users
do, and once more averaged over training ("epochs"), which is ours to have thought of; its best
score, chosen in hindsight with the true labels, is what the tables show. AUM is the package's
formula after every second epoch, averaged over the networks that trained on the example (checked
against the package); the loss is theirs too. Held-out accuracy: mean of 4 networks trained on what
is left without the suspects (ours: wrong with probability above .5; cleanlab: find_label_issues),
against true labels. Duplicates: 2 % exact and 2 % near (noise of 2 % of the range) copies.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time

import jax
import numpy as np
from aum import AUMCalculator
from cleanlab.count import num_label_issues
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.metrics import average_precision_score, roc_auc_score

from memjax.auditing.evidence import each_member, probabilities
from memjax.auditing.request import Request, prepare_request
from memjax.auditing.run import audit
from memjax.auditing.stages import EFFORTS, save_arrays
from memjax.config import resolve
from memjax.data.duplicates import find_duplicates
from memjax.data.sources import load_dataset
from memjax.loading import load_run
from memjax.training.run import run
from memjax.training.setup import prepare

NOISES = (("uniform", 0.2), ("uniform", 0.4), ("class", 0.2), ("class", 0.3))
QUALITIES = {
    "self_confidence": {"method": "self_confidence"},
    "normalized_margin": {"method": "normalized_margin"},
    "confidence_weighted_entropy": {"method": "confidence_weighted_entropy"},
    "self_confidence, adjusted": {"method": "self_confidence", "adjust_pred_probs": True},
    "normalized_margin, adjusted": {"method": "normalized_margin", "adjust_pred_probs": True},
}
HELD_OUT = {"digits": 497, "mnist": 5000, "cifar10": 2000}
FINAL_MEMBERS = 4


def clean_data(name, num_examples, data_dir, seed):
    """Returns (images, labels) to audit and (images, labels) held out; uint8 images."""
    section = {"source": "digits"} if name == "digits" else {
        "source": "tfds", "name": name, "data_dir": data_dir
    }  # fmt: skip
    whole = load_dataset(resolve({"dataset": section | {"num_validation": 0}}).dataset).train
    order = np.random.default_rng([seed, 0]).permutation(len(whole))
    held_out, rest = np.split(order, [HELD_OUT[name]])
    chosen = rest[:num_examples]

    def part(rows):
        return np.round(np.asarray(whole.images[rows]) * 255).astype(np.uint8), whole.labels[rows]

    return part(chosen), part(held_out)


def flip(labels, kind, rate, seed):
    """Returns the labels with wrong ones among them."""
    rng, classes = np.random.default_rng([seed, 1]), int(labels.max()) + 1
    if kind == "uniform":
        rates = np.full(classes, rate)
        others = (labels + rng.integers(1, classes, len(labels))) % classes
    else:
        cycle, place = rng.permutation(classes), np.empty(classes, int)
        place[cycle] = np.arange(classes)
        others = cycle[(place[labels] + 1) % classes]
        rates = rng.permutation(np.linspace(0.5 * rate, 1.5 * rate, classes))
    return np.where(rng.random(len(labels)) < rates[labels], others, labels)


def peers(config, labels, members, folder):
    """Returns name -> quality [n] of every peer, low is wrong, and cleanlab's probabilities."""
    config = dataclasses.replace(
        config,
        seed=config.seed + 50_000,
        ensemble=dataclasses.replace(config.ensemble, size=members),
        checkpoint=dataclasses.replace(config.checkpoint, powers_of_two=False, every_epochs=2),
    )
    run(prepare(config), folder)
    trained = load_run(folder)
    steps, rows = [step for step in trained.steps if step > 0], np.arange(len(labels))
    inside = trained.is_member.astype(float)
    found, aum = np.zeros((len(steps), len(labels), trained.setup.examples.num_classes)), 0.0
    loss, mean_loss, alone = 0.0, 0.0, 0.0
    package = AUMCalculator(str(folder))
    for time_of, step in enumerate(steps):
        for member, params in each_member(trained, step):
            log = np.log(probabilities(trained.logits_fn, params, trained.train.images) + 1e-30)
            found[time_of] += np.exp(log) * (1 - inside[member])[:, None]
            others = log.copy()
            others[rows, labels] = -np.inf
            margins, loss_now = log[rows, labels] - others.max(axis=1), -log[rows, labels]
            aum += margins * inside[member] / len(steps)
            mean_loss += loss_now * inside[member] / len(steps)
            loss += loss_now * inside[member] * (step == steps[-1])
            if member == 0:
                check_with_package(package, log, labels)
                alone = alone + margins
    from_package = np.array([package.sums[row] for row in rows])
    np.testing.assert_allclose(alone, from_package, rtol=1e-3, atol=1e-2)
    found /= (members - inside.sum(0))[None, :, None]
    counts = inside.sum(0)
    scores = {
        "aum": aum / counts,
        "loss at the end": -loss / counts,
        "loss, epochs": -mean_loss / counts,
    }
    return scores, {"": found[-1], ", epochs": found.mean(axis=0)}


def check_with_package(package, log_probabilities, labels):
    """Feeds the package one network: differences of logits are those of log-probabilities."""
    import torch

    logits = torch.from_numpy(log_probabilities.astype(np.float64))
    package.update(logits, torch.from_numpy(labels.astype(np.int64)), range(len(labels)))


def cleanlab_scores(labels, found):
    """Returns name -> quality [n], bool [n] of find_label_issues, and name -> noise rate."""
    scores, rates, issues = {}, {}, {}
    for suffix, probability in found.items():
        probability = probability / probability.sum(axis=1, keepdims=True)
        for name, options in QUALITIES.items():
            scores[f"{name}{suffix}"] = get_label_quality_scores(labels, probability, **options)
        issues[suffix] = find_label_issues(labels, probability, n_jobs=1)
        quality = scores[f"self_confidence{suffix}"]
        scores[f"find_label_issues{suffix}"] = quality - 2.0 * issues[suffix]
        rates[f"num_label_issues{suffix}"] = num_label_issues(labels, probability) / len(labels)
        rates[f"find_label_issues{suffix}"] = float(issues[suffix].mean())
    return {f"cleanlab {name}": one for name, one in scores.items()}, issues[""], rates


def measures(is_wrong, quality):
    worst = np.argsort(quality, kind="stable")[: is_wrong.sum()]
    return {
        "auroc": float(roc_auc_score(is_wrong, -quality)),
        "ap": float(average_precision_score(is_wrong, -quality)),
        "precision": float(is_wrong[worst].mean()),
    }


def accuracy(config, kept, labels, images, held_out, folder):
    """Returns the mean accuracy on held-out examples of networks trained on the kept ones."""
    arrays = {"images": images[kept], "labels": labels[kept]}
    arrays |= {"validation_images": held_out[0], "validation_labels": held_out[1]}
    folder.mkdir()
    save_arrays(folder / "data.npz", arrays)
    own = dataclasses.replace(
        config,
        dataset=dataclasses.replace(
            config.dataset, path=str(folder / "data.npz"), num_validation=-1
        ),
        ensemble=type(config.ensemble)(size=FINAL_MEMBERS),
        checkpoint=dataclasses.replace(config.checkpoint, powers_of_two=False, every_epochs=0),
    )
    run(prepare(own), folder / "run")
    trained = load_run(folder / "run")
    found = [
        probabilities(trained.logits_fn, params, trained.validation.images).argmax(axis=1)
        for _, params in each_member(trained, trained.steps[-1])
    ]
    return float(np.mean([one == held_out[1] for one in found]))


def duplicates(images, seed):
    """Returns precision and recall of planted exact and near copies."""
    rng, n = np.random.default_rng([seed, 2]), len(images)
    count = n // 50
    originals = rng.choice(n, 2 * count, replace=False)
    near = images[originals[count:]] + rng.normal(0, 5.1, images[originals[count:]].shape)
    near = np.clip(np.round(near), 0, 255).astype(np.uint8)
    found = find_duplicates(np.concatenate([images, images[originals[:count]], near]) / 255).near
    truth = np.zeros(len(found), bool)
    truth[originals], truth[n:] = True, True
    said = found >= 0
    return {
        "precision": float((said & truth).sum() / max(1, said.sum())),
        "recall exact": float(said[n : n + count].mean()),
        "recall near": float(said[n + count :].mean()),
    }


def measure(args, name, kind, rate, seed, folder):
    started = time.process_time()
    (images, truth), held_out = clean_data(name, args.examples, args.data_dir, seed)
    labels = flip(truth, kind, rate, seed)
    is_wrong = labels != truth
    save_arrays(folder / "data.npz", {"images": images, "labels": labels})
    request = Request(data=str(folder / "data.npz"), effort=args.effort, overrides={"seed": seed})
    found = audit(request, folder / "audit", say=lambda line: None)
    ours = found.table["probability_wrong"].to_numpy()
    audited = time.process_time() - started
    config = prepare_request(request).config
    effort = EFFORTS[args.effort]
    members = effort.members + effort.planted_members
    others, given = peers(config, labels, members, folder / "peers")
    from_cleanlab, issues, rates = cleanlab_scores(labels, given)
    qualities = {"memjax": -ours} | from_cleanlab | others
    arms = {
        "none": np.ones(len(labels), bool),
        "memjax": ours <= 0.5,
        "cleanlab": ~issues,
        "all wrong ones": ~is_wrong,
    }
    return {
        "data": name, "noise": f"{kind} {rate:.0%}", "seed": seed, "effort": args.effort,
        "examples": len(labels), "rate": float(is_wrong.mean()),
        "scores": {key: measures(is_wrong, value) for key, value in qualities.items()},
        "rates": {"memjax": found.summary["noise_rate"]} | rates,
        "rate interval": [found.summary["noise_rate_low"], found.summary["noise_rate_high"]],
        "suggested right": float(
            (found.table["suggested_label"].to_numpy() == truth)[is_wrong].mean()
        ),
        "accuracy": {
            arm: accuracy(config, np.flatnonzero(kept), labels, images, held_out, folder / arm)
            for arm, kept in arms.items()
        },
        "duplicates": duplicates(images, seed),
        "audit CPU seconds": audited, "CPU seconds": time.process_time() - started,
    }  # fmt: skip


def mean_of(pieces, *path):
    values = []
    for piece in pieces:
        for key in path:
            piece = piece[key]
        values.append(piece)
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return float(np.mean(values)), f"{np.mean(values):.3f}{spread}".replace("0.", ".")


def best_of(pieces, names):
    return max(names, key=lambda name: mean_of(pieces, "scores", name, "ap")[0])


def table(pieces):
    """Prints what was measured, a group of rows for every data set and noise."""
    groups = {}
    for piece in pieces:
        groups.setdefault((piece["data"], piece["noise"]), []).append(piece)
    print("| data, noise, seeds | score | AUROC | AP | precision at k |\n|---|---|---|---|---|")
    for (data, noise), group in groups.items():
        names = list(group[0]["scores"])
        ends = [name for name in names if name.startswith("cleanlab")]
        at_end = best_of(group, [name for name in ends if "epochs" not in name])
        at_all = best_of(group, [name for name in ends if "epochs" in name])
        loss = best_of(group, ["loss at the end", "loss, epochs"])
        for name in ("memjax", at_end, at_all, "aum", loss):
            cells = [mean_of(group, "scores", name, key)[1] for key in ("auroc", "ap", "precision")]
            print(f"| {data}, {noise}, {len(group)} | {name} | {' | '.join(cells)} |")
    print(
        "\n| data, noise | truly wrong | memjax says | cleanlab, nearest | accuracy: none |", end=""
    )
    print(" memjax | cleanlab | all wrong ones out |\n|---|---|---|---|---|---|---|---|")
    for (data, noise), group in groups.items():
        truly, names = mean_of(group, "rate"), list(group[0]["rates"])[1:]
        nearest = min(names, key=lambda name: sum(abs(p["rates"][name] - p["rate"]) for p in group))
        arms = [mean_of(group, "accuracy", arm)[1] for arm in group[0]["accuracy"]]
        rates = [mean_of(group, "rates", name)[1] for name in ("memjax", nearest)]
        print(f"| {data}, {noise} | {truly[1]} | {rates[0]} | {rates[1]} ({nearest}) | "
              f"{' | '.join(arms)} |")  # fmt: skip
    print("\n| data | duplicates: precision | recall, exact | recall, near |\n|---|---|---|---|")
    for data in dict.fromkeys(piece["data"] for piece in pieces):
        group = [piece for piece in pieces if piece["data"] == data]
        print(f"| {data} | " + " | ".join(
            mean_of(group, "duplicates", key)[1] for key in group[0]["duplicates"]
        ) + " |")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="of digits, mnist, cifar10; commas")
    parser.add_argument("--noises", default="", help="such as 'class 20%%'; commas; all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=1300)
    parser.add_argument("--effort", default="standard", choices=EFFORTS)
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--out", default="audit.json")
    args = parser.parse_args()
    out = pathlib.Path(args.out)
    pieces = json.loads(out.read_text()) if out.exists() else []
    done = {(piece["data"], piece["noise"], piece["seed"]) for piece in pieces}
    wanted = [noise for noise in NOISES if f"{noise[0]} {noise[1]:.0%}" in args.noises.split(",")]
    for name in filter(None, args.data.split(",")):
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for kind, rate in wanted if args.noises else NOISES:
                if (name, f"{kind} {rate:.0%}", seed) in done:
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    pieces.append(measure(args, name, kind, rate, seed, pathlib.Path(folder)))
                jax.clear_caches()
                out.write_text(json.dumps(pieces, indent=1) + "\n")
                print(f"{name}, {kind} {rate:.0%}, seed {seed}: memjax "
                      f"{pieces[-1]['scores']['memjax']['ap']:.3f}, "
                      f"{pieces[-1]['CPU seconds']:.0f} CPU s", flush=True)  # fmt: skip
    if pieces:
        table(pieces)


if __name__ == "__main__":
    main()
