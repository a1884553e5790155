"""What each measure that is logged is, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["COMMON", "MEASURES", "PHASE", "Better", "Words"]

Better: TypeAlias = Literal["higher", "lower", "neither", "as the metric"]


@dataclass(frozen=True)
class Words:
    """A measure in words."""

    title: str
    """What it is called where a person reads, such as "effective rank"."""
    what: str
    """One sentence that says what it is."""
    better: Better = "neither"
    """Which way is better, for what most people want of a model."""
    none: str = ""
    """What it is where there is no effect: its level of chance, its bounds; empty for counts."""
    form: str = ""
    """How the parts of a key behind its measure are said: a pattern of ``{site}``, the first of them, ``{last}``,
    ``{rest}``, what is left, and ``{all}``. Without one they are a site and what is read there."""
    apart: bool = False
    """Whether each ``{rest}`` has a scale of its own, so that no chart holds two of them."""


_NATS = "0 where both are alike, .693 (ln 2) where they share nothing."
_SHARE = "0 for none, 1 for all."
_RANK = "From 1, where all vectors lie on one line, to the number of dimensions."
_NOISE = "1 where noise does nothing, 0 where all that was learned is lost."
_LEVEL = "Compare it with its value above chance."
_PAIRS = "At chance .5."
_MARGIN = "At chance 0."
_CLOZE = "Chance is one over the number of candidates; see the baselines."

_STRUCTURE: dict[str, Words] = {
    "information": Words(
        "information",
        "Entropy of the representations at a fixed resolution, as a share of its maximum: it falls where they cluster.",
        none="0 where all are in one place, 1 where they are spread evenly.",
    ),
    "variation": Words(
        "variation",
        "Entropy of the representations that is left within a label, as a share of its maximum.",
        none="Equal to the information where labels tell nothing.",
    ),
    "parent_variation": Words(
        "variation within the parent",
        "Entropy that is left within the parent of a nested label, on the same rows as the label's own variation.",
        none="Equal to the label's variation where the label tells nothing beyond its parent.",
    ),
    "regularity": Words(
        "regularity",
        "What representations tell about the label: entropy without it, less the entropy within it.",
        "higher",
        f"Few rows a label look regular by accident. {_LEVEL}",
    ),
    "disentanglement": Words(
        "disentanglement",
        "How far representations of one label lie from those of the others: their Jensen–Shannon divergence, in nats.",
        "higher",
        f"{_NATS} Few rows a label look disentangled by accident. {_LEVEL}",
    ),
    "complexity": Words(
        "complexity",
        "What representations keep of the input: information about the first label set of the plane.",
        none=f"0 for nothing. {_LEVEL}",
    ),
    "expressivity": Words(
        "expressivity",
        "What representations keep of the output: information about the second label set of the plane.",
        "higher",
        f"0 for nothing. {_LEVEL}",
    ),
    "optimality": Words(
        "optimality",
        "Expressivity as a share of complexity: how much of what is kept of the input is about the output.",
        "higher",
        "0 for nothing; 1 is the bound for what depends on the output through the input alone.",
    ),
    "coverage": Words("coverage", "Share of positions whose label is frequent enough to be read.", none=_SHARE),
    "num_labels": Words("number of labels", "Labels that are frequent enough to be read."),
    "floor": Words(
        "floor of information",
        "Mean entropy of single representations, which the soft estimator spreads over several points.",
        none="Information cannot fall below it.",
    ),
}

_GEOMETRY: dict[str, Words] = {
    "rankme": Words("RankMe", "How many dimensions are used, told from singular values about zero.", none=_RANK),
    "effective_rank": Words(
        "effective rank", "How many dimensions are used, told from the eigenvalues of the covariance.", none=_RANK
    ),
    "participation_ratio": Words(
        "participation ratio",
        "How many dimensions carry most of the variance; large eigenvalues count more than in the effective rank.",
        none=_RANK,
    ),
    "matrix_entropy": Words(
        "matrix entropy",
        "Entropy of the spectrum about zero, as a share of its maximum.",
        none="0 where one direction holds all, 1 where all directions are alike.",
    ),
    "alpha": Words(
        "decay of the spectrum (α)",
        "How fast eigenvalues fall with their rank: the exponent of a power law.",
        none="0 where all directions are alike; around 1 in many networks that generalise.",
    ),
    "alpha_r2": Words(
        "fit of the decay (R²)",
        "How well a power law describes the eigenvalues that α is told from.",
        "higher",
        "Near 1 for a power law; α means nothing where it is low.",
    ),
    "anisotropy": Words(
        "anisotropy",
        "Mean cosine of two representations: how far all point the same way.",
        none="0 where directions are random, 1 where all are the same.",
    ),
    "curvature": Words(
        "curvature",
        "Mean angle between successive steps along a sequence, in radians.",
        none="0 for a straight path, π/2 for independent steps, 2π/3 for independent positions.",
    ),
    "rows": Words("rows read", "Positions that were read."),
    "nonfinite": Words(
        "left out as not finite", "What was left out since it is not finite.", "lower", "0 for nothing."
    ),
}

_NOISED: dict[str, Words] = {
    "under_noise": Words(
        "under noise",
        "The model's own metric while noise is added, averaged over scales, in the metric's units.",
        "as the metric",
        "Equal to the metric itself where noise does nothing.",
        form="{rest} under noise at {site}",
        apart=True,
    ),
    "robustness": Words(
        "robustness to noise",
        "Share of what the metric gained since training began that survives noise, averaged over scales.",
        "higher",
        f"{_NOISE} Not logged while the model is no better than before training.",
        form="robustness of {rest} to noise at {site}",
        apart=True,
    ),
    "retention": Words(
        "share kept under noise",
        "Share of what the metric gained since training began that survives noise of one scale.",
        "higher",
        _NOISE,
        form="share of {rest} kept under noise {last} at {site}",
        apart=True,
    ),
    "half_scale": Words(
        "noise that halves what was learned",
        "Scale of the noise under which half of what the metric gained is lost.",
        "higher",
        "Not logged where more than half survives the largest scale.",
        form="noise at {site} that halves {rest}",
        apart=True,
    ),
    "noisy": Words(
        "under noise of one scale",
        "The model's own metric while noise of one scale is added, in the metric's units.",
        "as the metric",
        "Equal to the metric itself where noise does nothing.",
        form="{rest} under noise {last} at {site}",
        apart=True,
    ),
    "drift": Words(
        "drift under noise",
        "How far noise turns representations downstream of it: 1 less the cosine with those without noise.",
        "lower",
        "0 where noise does nothing, 1 where nothing is left of their direction.",
        form="drift of {rest} under noise {last} at {site}",
        apart=True,
    ),
    "clean": Words(
        "without noise",
        "The model's own metric without noise, on the examples that are read with it.",
        "as the metric",
        "In the metric's units.",
        form="{all} without noise",
        apart=True,
    ),
}

_PROBED: dict[str, Words] = {
    "probe_accuracy": Words(
        "probe accuracy",
        "Share of labels that a linear probe reads, of words that it has not seen.",
        "higher",
        "Read it above chance and above random weights.",
    ),
    "probe_r2": Words(
        "probe R²",
        "Share of a number's variance that a linear probe reads, of words that it has not seen.",
        "higher",
        "About 0 where nothing can be read.",
    ),
    "probe": Words(
        "probe",
        "Accuracy or R² of a linear probe on words that it has not seen.",
        "higher",
        "Read it above chance and above random weights.",
    ),
    "probe_seen": Words(
        "probe on seen words",
        "Accuracy or R² of a linear probe on held-out samples, whose words it has seen elsewhere.",
        "higher",
        "Compare it with the control task.",
    ),
    "probe_majority": Words(
        "probe, majority", "Accuracy of naming the most frequent label.", none="What no probe gives."
    ),
    "probe_classes": Words("probe, labels", "Labels that are frequent enough to be probed."),
    "probe_coverage": Words("probe, coverage", "Share of labelled rows whose label is probed.", none=_SHARE),
    "probe_rows": Words("probe, rows", "Rows that probes see."),
    "selectivity": Words(
        "selectivity",
        "What a probe reads of the labels, less what it reads of labels dealt out at random to words.",
        "higher",
        "0 where the probe only remembers words.",
    ),
    "best_layer": Words(
        "best site",
        "Number of the site where most can be read, from 0.",
        none="The first one of equals.",
        form="best site for {all}",
    ),
    "centre_of_gravity": Words(
        "centre of gravity",
        "Mean number of the sites, weighted by what can be read there above random weights and chance.",
        none="Not logged where nothing can be read.",
        form="centre of gravity of {all}",
    ),
    "codelength": Words(
        "codelength",
        "Bits a label that it takes to send labels with the help of representations.",
        "lower",
        "log₂ of the number of labels where representations do not help.",
    ),
    "compression": Words(
        "compression",
        "How many times shorter labels become with the help of representations.",
        "higher",
        "1 where representations do not help.",
    ),
    "uuas": Words(
        "edges of trees (UUAS)",
        "Share of the edges of syntax trees that a probe of distances finds.",
        "higher",
        "Read it above the chain that links each word to the next, and above random weights.",
    ),
    "dspr": Words(
        "distances in trees (DSpr)",
        "Rank correlation of predicted distances in the syntax tree with true ones.",
        "higher",
        "0 for no relation; read it above random weights.",
    ),
    "nspr": Words(
        "depths in trees (NSpr)",
        "Rank correlation of predicted depths in the syntax tree with true ones.",
        "higher",
        "0 for no relation; read it above random weights.",
    ),
    "root_accuracy": Words(
        "roots of trees",
        "Share of sentences whose root a probe of depths finds.",
        "higher",
        "One over the length of a sentence at chance; read it above random weights.",
    ),
    "distance_loss": Words("loss of the distance probe", "Loss of the distance probe on sentences held out.", "lower"),
    "depth_loss": Words("loss of the depth probe", "Loss of the depth probe on sentences held out.", "lower"),
    "coordinate_r2": Words(
        "coordinates (R²)",
        "Share of the variance of coordinates that a linear probe reads.",
        "higher",
        "0 and lower where nothing is known.",
    ),
    "coordinate_r2_blocked": Words(
        "coordinates of new blocks (R²)",
        "Share of the variance of coordinates that a linear probe reads of whole blocks that it has not seen.",
        "higher",
        "Well below 0 where nothing is known.",
    ),
    "coordinate_spearman": Words(
        "order of coordinates",
        "Rank correlation of predicted coordinates with true ones.",
        "higher",
        "Below 0 where nothing is known.",
    ),
    "coordinate_spearman_blocked": Words(
        "order of coordinates of new blocks",
        "Rank correlation of predicted coordinates with true ones, of whole blocks that the probe has not seen.",
        "higher",
        "Below 0 where nothing is known.",
    ),
    "proximity_error": Words(
        "proximity error",
        "Share of other entities that are put nearer to an entity's place than itself.",
        "lower",
        "At chance .5, at best 0.",
    ),
    "proximity_error_blocked": Words(
        "proximity error of new blocks",
        "Share of other entities that are put nearer to an entity's place than itself, of whole unseen blocks.",
        "lower",
        "Above .5 where nothing is known, at best 0.",
    ),
    "truth_accuracy": Words(
        "truth of statements",
        "Share of affirmative statements of unseen topics whose truth a probe tells.",
        "higher",
        "At chance .5.",
        form="truth of statements at {site}, probe {rest}",
    ),
    "truth_negated": Words(
        "truth of negated statements",
        "Share of negated statements whose truth the probe of affirmative ones tells.",
        "higher",
        'At chance .5; below it where "not" is passed over.',
        form="truth of negated statements at {site}, probe {rest}",
    ),
    "truth_overall": Words(
        "truth, affirmed and negated",
        "Mean share of affirmative and of negated statements whose truth a probe tells.",
        "higher",
        'At chance .5, and also where "not" is passed over.',
        form="truth, affirmed and negated, at {site}, probe {rest}",
    ),
    "truth_auroc": Words(
        "order by truth",
        "How often a true affirmative statement is put above a false one.",
        "higher",
        "At chance .5.",
        form="order by truth at {site}, probe {rest}",
    ),
    "truth_negated_auroc": Words(
        "order of negated statements by truth",
        "How often a true negated statement is put above a false one.",
        "higher",
        'At chance .5; 0 where "not" is passed over.',
        form="order of negated statements by truth at {site}, probe {rest}",
    ),
    "truth_likelihood": Words(
        "truth by probability",
        "What the probability of a statement alone tells of its truth, without a probe.",
        "higher",
        "At chance .5.",
        form="truth by probability, {all}",
    ),
}

_TASKS: dict[str, Words] = {
    "task_accuracy": Words(
        "accuracy on tasks",
        "Share of minimal pairs whose acceptable sentence is the more probable one.",
        "higher",
        _PAIRS,
        form="accuracy on tasks, {all}",
    ),
    "task_margin": Words(
        "margin on tasks",
        "By how much the acceptable sentence of a pair is more probable, in nats.",
        "higher",
        _MARGIN,
        form="margin on tasks, {all}",
    ),
    "phenomenon_accuracy": Words(
        "accuracy on a phenomenon",
        "Share of a phenomenon's minimal pairs whose acceptable sentence is the more probable one.",
        "higher",
        _PAIRS,
        form="accuracy on {all}",
    ),
    "phenomenon_margin": Words(
        "margin on a phenomenon",
        "By how much the acceptable sentence of a phenomenon's pairs is more probable, in nats.",
        "higher",
        _MARGIN,
        form="margin on {all}",
    ),
    "alignment": Words(
        "alignment of tasks",
        "Mean cosine of the gradients of two tasks, within a phenomenon or between phenomena.",
        none="0 where tasks have nothing in common; noise of gradients makes it smaller.",
        form="alignment of tasks, {all}",
    ),
    "alignment_disattenuated": Words(
        "alignment of tasks without noise",
        "Mean cosine of the gradients of two tasks, with the noise of gradients taken out.",
        none="0 where tasks have nothing in common, 1 where they are the same.",
        form="alignment of tasks without noise, {all}",
    ),
    "alignment_centred": Words(
        "alignment of tasks, centred",
        "Mean cosine of the gradients of two tasks, without what all tasks share.",
        none="About 0 where no two tasks have more in common than all have.",
        form="alignment of tasks, centred, {all}",
    ),
    "overlap": Words(
        "shared parameters of tasks",
        "Share of the parameters that matter most to one task that matter most to another, too.",
        none="Compare it with its null.",
        form="shared parameters of tasks, {all}",
    ),
    "overlap_null": Words(
        "shared parameters of tasks, null",
        "Share of parameters that gradients which say nothing of the tasks have in common.",
        none="What shared parameters are compared with.",
        form="shared parameters of tasks, null, {all}",
    ),
    "overlap_above_null": Words(
        "shared parameters of tasks, above null",
        "Share of parameters that matter most to both of two tasks, less that of gradients which say nothing of them.",
        none="0 where tasks share no more than chance.",
        form="shared parameters of tasks, above null, {all}",
    ),
    "reliability": Words(
        "reliability of gradients",
        "Share of the tasks' gradients that is signal and not the choice of sentences.",
        "higher",
        "0 for noise alone, 1 for none.",
        form="reliability of gradients, {all}",
    ),
    "agreement": Words(
        "agreement with linguistics",
        "Rank correlation over pairs of tasks of their alignment with what they share by linguistics or words.",
        none="0 for no relation.",
        form="agreement of alignment with {all}",
    ),
    "agreement_p": Words(
        "agreement, p",
        "How often an agreement as large comes about by chance, in a permutation test.",
        "lower",
        "Any value from 0 to 1 alike where there is no relation.",
        form="agreement of alignment with {all}, p",
    ),
    "stability": Words(
        "stability of alignment",
        "Rank correlation of the tasks' alignment with that at an earlier reading.",
        none="0 for no relation, 1 where the order is the same.",
        form="alignment like the {all} reading",
    ),
    "pairs_accuracy": Words(
        "accuracy on pairs",
        "Share of minimal pairs whose acceptable sentence is the more probable one.",
        "higher",
        _PAIRS,
        form="accuracy on pairs, {all}",
    ),
    "pairs_margin": Words(
        "margin on pairs",
        "By how much the acceptable sentence of a pair is more probable, in nats.",
        "higher",
        _MARGIN,
        form="margin on pairs, {all}",
    ),
    "pairs_acquired": Words(
        "step of acquisition",
        "First step from which on the accuracy on a phenomenon stayed above its threshold.",
        "lower",
        "Not logged while it is below.",
        form="step when pairs of {all} were acquired",
    ),
    "phenomena_acquired": Words("phenomena acquired", "How many phenomena are acquired now.", "higher", "0 for none."),
    "cloze_accuracy": Words(
        "accuracy on facts",
        "Share of facts whose right answer is the most probable of its candidates.",
        "higher",
        _CLOZE,
        form="accuracy on facts, {all}",
    ),
    "cloze_mrr": Words(
        "rank of answers (MRR)",
        "Mean of one over the rank of the right answer among the candidates.",
        "higher",
        "1 where it always comes first; at chance the mean of one over all ranks.",
        form="rank of answers (MRR), {all}",
    ),
    "cloze_margin": Words(
        "margin on facts",
        "By how much the right answer is more probable than the best wrong candidate, in nats.",
        "higher",
        "Above 0 where the right answer comes first; below 0 at chance.",
        form="margin on facts, {all}",
    ),
    "cloze_acquired": Words(
        "step of acquisition of facts",
        "First step from which on the accuracy on a relation stayed above its threshold.",
        "lower",
        "Not logged while it is below.",
        form="step when facts of {all} were acquired",
    ),
    "cloze_majority": Words(
        "facts, majority",
        "Accuracy of the most frequent answer of the relation.",
        none="A baseline.",
        form="facts, majority, {all}",
    ),
    "cloze_frequency": Words(
        "facts, frequency",
        "Accuracy of the most frequent of a fact's candidates.",
        none="A baseline.",
        form="facts, frequency, {all}",
    ),
    "cloze_chance": Words(
        "facts, chance",
        "Accuracy of a random candidate.",
        none="A baseline.",
        form="facts, chance, {all}",
    ),
    "relations_acquired": Words("relations acquired", "How many relations are acquired now.", "higher", "0 for none."),
}

_CLASSES: dict[str, Words] = {
    "class_accuracy": Words(
        "accuracy by class",
        "Share of right predictions among the rows of one class.",
        "higher",
        "One over the number of targets at chance.",
        form="accuracy on {rest} at {site}",
    ),
    "class_loss": Words(
        "loss by class",
        "Mean cross-entropy of the rows of one class, in nats.",
        "lower",
        "The logarithm of the number of targets at chance.",
        form="loss on {rest} at {site}",
    ),
    "class_count": Words("rows of a class", "Rows of one class.", form="rows of {rest} at {site}"),
    "class_effective": Words(
        "independent rows of a class",
        "How many independent rows those of one class are as good as.",
        form="independent rows of {rest} at {site}",
    ),
    "class_named": Words(
        "predictions of a class",
        "Rows for which one class is predicted, right or not.",
        form="predictions of {rest} at {site}",
    ),
    "class_known": Words(
        "class known",
        "1 where a class is named among its own rows more often than among others, beyond chance.",
        "higher",
        "0 for not known.",
        form="{rest} known at {site}",
    ),
    "class_acquired": Words(
        "step of acquisition of a class",
        "First step at which the accuracy on a class came near its best so far.",
        "lower",
        "Not logged for a class that was never predicted rightly.",
        form="step when {rest} was acquired at {site}",
    ),
    "class_forgotten": Words(
        "class forgotten",
        "1 where the accuracy on a class has fallen below its best, beyond chance.",
        "lower",
        "0 for not forgotten.",
        form="{rest} forgotten at {site}",
    ),
    "classes_forgotten": Words("classes forgotten", "How many classes are forgotten now.", "lower", "0 for none."),
}

_SIMILARITY: dict[str, Words] = {
    "cka": Words(
        "similarity (CKA)",
        "How alike representations of the same inputs are to those of an earlier reading, up to rotation and scale.",
        none="1 where they are the same, about 0 where they are unrelated.",
        form="similarity (CKA) to the {rest} reading at {site}",
    ),
    "silhouette": Words(
        "silhouette",
        "How much nearer representations lie to their own class than to the nearest other one, −1 to 1.",
        "higher",
        f"Below 0 for random labels of many classes. {_LEVEL}",
    ),
    "knn_purity": Words(
        "purity of neighbours",
        "Share of the nearest neighbours that are of the same class.",
        "higher",
        f"The share of the class at chance. {_LEVEL}",
    ),
    "sampled_rows": Words("rows compared", "Positions that similarity and separation of classes are told from."),
}

_CALIBRATION: dict[str, Words] = {
    "ece": Words(
        "calibration error (ECE)",
        "Mean gap between confidence and accuracy, over bins of equal width.",
        "lower",
        "0 for perfect calibration; below √(bins / predictions) / 2 it is noise.",
    ),
    "adaptive_ece": Words(
        "calibration error, equal bins",
        "Mean gap between confidence and accuracy, over bins of equally many predictions.",
        "lower",
        "0 for perfect calibration; below √(bins / predictions) / 2 it is noise.",
    ),
    "brier": Words(
        "Brier score",
        "Mean squared error of the predicted probabilities.",
        "lower",
        "0 at best, at most 2; at most 1 for a confidence that is spoken.",
    ),
    "auroc_confidence": Words(
        "confidence tells right from wrong",
        "How often a right prediction is more confident than a wrong one.",
        "higher",
        "At chance .5.",
    ),
    "overconfidence": Words(
        "over-confidence",
        "Mean confidence less accuracy: above 0 where the model is too sure, below 0 where it is not sure enough.",
        none="0 is best.",
    ),
    "accuracy": Words("accuracy", "Share of right predictions.", "higher", "One over the number of classes at chance."),
    "aurc": Words(
        "risk over coverage",
        "Error rate among the most confident predictions, averaged over all shares of them.",
        "lower",
        "Equal to the error rate where confidence tells nothing.",
    ),
    "selective_accuracy": Words(
        "accuracy of the most confident",
        "Accuracy on the most confident share of predictions.",
        "higher",
        "Equal to the accuracy where confidence tells nothing.",
        form="accuracy of the most confident {rest} at {site}",
    ),
    "confidence": Words("confidence", "Mean confidence of the predictions.", none="Compare it with the accuracy."),
    "predictions": Words("predictions read", "Predictions that were read."),
    "sampled_predictions": Words("predictions sampled", "Predictions that the measures of ranks are told from."),
}

_COSTS: dict[str, Words] = {
    "seconds": Words(
        "seconds a reading",
        "Time that the last reading of a callback took.",
        "lower",
        form="seconds a reading of {all}",
    ),
    "failed": Words(
        "readings dropped",
        "How many readings of a callback failed and were dropped.",
        "lower",
        "0 for none.",
        form="readings dropped by {all}",
    ),
}

MEASURES: Mapping[str, Words] = {
    **_STRUCTURE,
    **_GEOMETRY,
    **_NOISED,
    **_PROBED,
    **_TASKS,
    **_CLASSES,
    **_SIMILARITY,
    **_CALIBRATION,
    **_COSTS,
}
"""The first part of a key → its measure in words, without what is derived of one (``…_above_chance``, ``…/se``)."""

COMMON = frozenset(
    {
        *("accuracy", "adaptive_ece", "agreement", "agreement_p", "alignment", "alpha", "aurc", "brier", "clean"),
        *("codelength", "complexity", "compression", "confidence", "coverage", "curvature", "depth_loss"),
        *("distance_loss", "drift", "ece", "floor", "noisy", "nonfinite", "num_labels", "overconfidence", "overlap"),
        *("predictions", "reliability", "rows", "selective_accuracy", "selectivity", "silhouette", "stability", "cka"),
    }
)
"""Words that others use for keys of their own: they count only where a callback here logs them."""

PHASE: Mapping[str, Words] = {
    "current": Words("phase", "The phase of training that the run is in.", none="0 where no phase is known."),
    "fits": Words("phases as expected", "1 while the readings agree with the template of phases, else 0."),
    "boundary_step": Words(
        "beginning of the phase", "The step at which the current phase began.", none="Not logged in the first phase."
    ),
    "provisional": Words(
        "phase, provisional",
        "What the phase would be if readings go on like this: an early verdict, which later ones may take back.",
        none="0 for no such verdict.",
    ),
    "lag": Words(
        "lag behind the phase",
        "How much later a curve bends than the phase begins, in decades of steps.",
        none="0 for at the same time, below 0 for earlier.",
    ),
}
"""What follows ``phase/`` in a key, in words."""
