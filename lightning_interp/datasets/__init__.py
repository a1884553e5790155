"""Data for compositional generalisation (a built-in grammar, SCAN, data in COGS's format) and for induction."""

from lightning_interp.datasets.cogs import CogsDataModule, CogsExample, read_cogs
from lightning_interp.datasets.encoding import Batch, EncodedPairs, Pair
from lightning_interp.datasets.grammar import Clause, GrammarDataModule, GrammarSplits, NounPhrase, generate_splits
from lightning_interp.datasets.repeated_segments import RepeatedSegments
from lightning_interp.datasets.scan import SCAN_SPLITS, ScanDataModule, read_scan, scan_commands, scan_split
from lightning_interp.datasets.sentences import sentence_loader
from lightning_interp.datasets.seq2seq import Seq2SeqDataModule
from lightning_interp.datasets.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Vocabulary

__all__ = [
    "GrammarDataModule",
    "ScanDataModule",
    "CogsDataModule",
    "Seq2SeqDataModule",
    "sentence_loader",
    "RepeatedSegments",
    "Vocabulary",
    "PAD_ID",
    "BOS_ID",
    "EOS_ID",
    "UNK_ID",
    "Batch",
    "EncodedPairs",
    "Pair",
    "Clause",
    "GrammarSplits",
    "NounPhrase",
    "generate_splits",
    "SCAN_SPLITS",
    "read_scan",
    "scan_commands",
    "scan_split",
    "CogsExample",
    "read_cogs",
]
