"""The kinds of noise and the data sets, by the words that every figure has for them."""

REAL, RANDX, RANDY, REMOVED = "real", "randX", "randY", "removed"
# All data, all noise: what figures 1, 2, 3, 4 and 9 compare.
WORDS = {
    REAL: "real data",
    RANDX: "random inputs (randX)",
    RANDY: "random labels (randY)",
    REMOVED: "examples removed instead",
}
DATA = (REAL, RANDX, RANDY)
NOISE = {kind: WORDS[kind] for kind in (RANDX, RANDY)}
DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10", "digits": "digits (8x8)"}
DATA_COLUMN = "real, randX (every input is noise) or randY (every label is random)"
KIND_COLUMN = "real (level 0, shared by both kinds), randX or randY"
LEVEL_COLUMN = "share of the training examples that are noise, 0 to 1"
SEED_COLUMN = "seed of the network, its order, its subset of the data and its noise"
