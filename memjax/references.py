"""What to cite for what was used: BibTeX, by pass."""

from collections.abc import Iterable

from memjax.errors import InputError, nearest
from memjax.version import __version__

# Key: kind, title, authors, where, year.
_WORKS = {
    "memjax": (
        "software",
        "memjax: the laboratory for memorization in deep networks",
        "The memjax authors",
        f"version {__version__}",
        "2026",
    ),
    "jax2018": (
        "software",
        "JAX: composable transformations of Python+NumPy programs",
        "Bradbury, James and Frostig, Roy and Hawkins, Peter and Johnson, Matthew James and "
        "Leary, Chris and Maclaurin, Dougal and Necula, George and Paszke, Adam and "
        "VanderPlas, Jake and Wanderman-Milne, Skye and Zhang, Qiao",
        "http://github.com/jax-ml/jax",
        "2018",
    ),
    "arpit2017": (
        "inproceedings",
        "A Closer Look at Memorization in Deep Networks",
        "Arpit, Devansh and Jastrz{\\k{e}}bski, Stanis{\\l}aw and Ballas, Nicolas and "
        "Krueger, David and Bengio, Emmanuel and Kanwal, Maxinder S. and Maharaj, Tegan and "
        "Fischer, Asja and Courville, Aaron and Bengio, Yoshua and Lacoste-Julien, Simon",
        "International Conference on Machine Learning",
        "2017",
    ),
    "paul2021": (
        "inproceedings",
        "Deep Learning on a Data Diet: Finding Important Examples Early in Training",
        "Paul, Mansheej and Ganguli, Surya and Dziugaite, Gintare Karolina",
        "Advances in Neural Information Processing Systems",
        "2021",
    ),
    "novak2018": (
        "inproceedings",
        "Sensitivity and Generalization in Neural Networks: an Empirical Study",
        "Novak, Roman and Bahri, Yasaman and Abolafia, Daniel A. and Pennington, Jeffrey and "
        "Sohl-Dickstein, Jascha",
        "International Conference on Learning Representations",
        "2018",
    ),
    "jacot2018": (
        "inproceedings",
        "Neural Tangent Kernel: Convergence and Generalization in Neural Networks",
        "Jacot, Arthur and Gabriel, Franck and Hongler, Cl{\\'e}ment",
        "Advances in Neural Information Processing Systems",
        "2018",
    ),
    "madry2018": (
        "inproceedings",
        "Towards Deep Learning Models Resistant to Adversarial Attacks",
        "Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and "
        "Vladu, Adrian",
        "International Conference on Learning Representations",
        "2018",
    ),
    "zhang2018": (
        "inproceedings",
        "Efficient Neural Network Robustness Certification with General Activation Functions",
        "Zhang, Huan and Weng, Tsui-Wei and Chen, Pin-Yu and Hsieh, Cho-Jui and Daniel, Luca",
        "Advances in Neural Information Processing Systems",
        "2018",
    ),
    "toneva2019": (
        "inproceedings",
        "An Empirical Study of Example Forgetting during Deep Neural Network Learning",
        "Toneva, Mariya and Sordoni, Alessandro and Tachet des Combes, Remi and "
        "Trischler, Adam and Bengio, Yoshua and Gordon, Geoffrey J.",
        "International Conference on Learning Representations",
        "2019",
    ),
    "pleiss2020": (
        "inproceedings",
        "Identifying Mislabeled Data using the Area Under the Margin Ranking",
        "Pleiss, Geoff and Zhang, Tianyi and Elenberg, Ethan and Weinberger, Kilian Q.",
        "Advances in Neural Information Processing Systems",
        "2020",
    ),
    "garg2024": (
        "inproceedings",
        "Memorization Through the Lens of Curvature of Loss Function Around Samples",
        "Garg, Isha and Ravikumar, Deepak and Roy, Kaushik",
        "International Conference on Machine Learning",
        "2024",
    ),
    "agarwal2022": (
        "inproceedings",
        "Estimating Example Difficulty Using Variance of Gradients",
        "Agarwal, Chirag and D'souza, Daniel and Hooker, Sara",
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        "2022",
    ),
    "baldock2021": (
        "inproceedings",
        "Deep Learning Through the Lens of Example Difficulty",
        "Baldock, Robert J. N. and Maennel, Hartmut and Neyshabur, Behnam",
        "Advances in Neural Information Processing Systems",
        "2021",
    ),
    "keskar2017": (
        "inproceedings",
        "On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima",
        "Keskar, Nitish Shirish and Mudigere, Dheevatsa and Nocedal, Jorge and "
        "Smelyanskiy, Mikhail and Tang, Ping Tak Peter",
        "International Conference on Learning Representations",
        "2017",
    ),
    "feldman2020": (
        "inproceedings",
        "What Neural Networks Memorize and Why: Discovering the Long Tail via Influence Estimation",
        "Feldman, Vitaly and Zhang, Chiyuan",
        "Advances in Neural Information Processing Systems",
        "2020",
    ),
    "carlini2022": (
        "inproceedings",
        "Membership Inference Attacks From First Principles",
        "Carlini, Nicholas and Chien, Steve and Nasr, Milad and Song, Shuang and "
        "Terzis, Andreas and Tram{\\`e}r, Florian",
        "IEEE Symposium on Security and Privacy",
        "2022",
    ),
    "zarifzadeh2024": (
        "inproceedings",
        "Low-Cost High-Power Membership Inference Attacks",
        "Zarifzadeh, Sajjad and Liu, Philippe and Shokri, Reza",
        "International Conference on Machine Learning",
        "2024",
    ),
    "zhang2022": (
        "article",
        "Are All Layers Created Equal?",
        "Zhang, Chiyuan and Bengio, Samy and Singer, Yoram",
        "Journal of Machine Learning Research",
        "2022",
    ),
    "maini2023": (
        "inproceedings",
        "Can Neural Network Memorization Be Localized?",
        "Maini, Pratyush and Mozer, Michael C. and Sedghi, Hanie and Lipton, Zachary C. and "
        "Kolter, J. Zico and Zhang, Chiyuan",
        "International Conference on Machine Learning",
        "2023",
    ),
    "koh2017": (
        "inproceedings",
        "Understanding Black-box Predictions via Influence Functions",
        "Koh, Pang Wei and Liang, Percy",
        "International Conference on Machine Learning",
        "2017",
    ),
    "pruthi2020": (
        "inproceedings",
        "Estimating Training Data Influence by Tracing Gradient Descent",
        "Pruthi, Garima and Liu, Frederick and Kale, Satyen and Sundararajan, Mukund",
        "Advances in Neural Information Processing Systems",
        "2020",
    ),
    "park2023": (
        "inproceedings",
        "TRAK: Attributing Model Behavior at Scale",
        "Park, Sung Min and Georgiev, Kristian and Ilyas, Andrew and Leclerc, Guillaume and "
        "Madry, Aleksander",
        "International Conference on Machine Learning",
        "2023",
    ),
    "northcutt2021": (
        "article",
        "Confident Learning: Estimating Uncertainty in Dataset Labels",
        "Northcutt, Curtis G. and Jiang, Lu and Chuang, Isaac L.",
        "Journal of Artificial Intelligence Research",
        "2021",
    ),
}
_ALWAYS = ("memjax", "jax2018")
_USED_BY = {
    "gradients": ("arpit2017", "paul2021"),
    "inputs": ("garg2024",),
    "vog": ("agarwal2022",),
    "prediction_depth": ("baldock2021",),
    "jacobians": ("novak2018",),
    "jacobian_spectrum": ("novak2018",),
    "ntk": ("jacot2018",),
    "sensitivity": ("arpit2017",),
    "class_sensitivity": ("arpit2017",),
    "critical": ("arpit2017", "madry2018", "zhang2018"),
    "difficulty": ("arpit2017", "toneva2019", "pleiss2020"),
    "filters": ("arpit2017",),
    "sharpness": ("arpit2017", "keskar2017"),
    "memorization": ("feldman2020",),
    "influence": ("feldman2020",),
    "membership": ("carlini2022", "zarifzadeh2024"),
    "vulnerability": ("carlini2022",),
    "rewinding": ("zhang2022", "maini2023"),
    "localization": ("maini2023",),
    "attribution": ("koh2017", "pruthi2020", "park2023"),
    "audit": ("northcutt2021", "pleiss2020"),
    "reproduce": ("arpit2017",),
}


def citation(passes: Iterable[str] | str = ()) -> str:
    """Returns BibTeX of memjax and of the work behind what was used.

    Args:
      passes: names of passes, and "audit" and "reproduce", as a list or with commas between.

    Returns:
      One entry a work, each once, in the order of use: to be written to a .bib file as it is.

    Raises:
      InputError: for a name that is none of these.

    Example:
      >>> entries = citation("memorization,influence")
      >>> [line.partition("{")[2] for line in entries.splitlines() if line.startswith("@")]
      ['memjax,', 'jax2018,', 'feldman2020,']
    """
    names = passes.split(",") if isinstance(passes, str) else list(passes)
    keys = list(_ALWAYS)
    for name in filter(None, names):
        if name not in _USED_BY:
            raise InputError(f"passes={name!r}: {nearest(str(name), _USED_BY)}")
        keys += _USED_BY[name]
    return "\n\n".join(_entry(key) for key in dict.fromkeys(keys))


def _entry(key: str) -> str:
    kind, title, author, place, year = _WORKS[key]
    where = {"inproceedings": "booktitle", "article": "journal", "software": "note"}[kind]
    fields = {"title": f"{{{title}}}", "author": author, where: place, "year": year}
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])
