"""The standard passes, in the order of the data flow, and the named pipelines."""

from cimc.passes.allocate_tiles import AllocateTiles
from cimc.passes.binarize import Binarize
from cimc.passes.cleanup import Cleanup
from cimc.passes.find_similar import FindSimilar
from cimc.passes.fold_lut import FoldLut
from cimc.passes.fold_threshold import FoldThreshold
from cimc.passes.legalise import Legalise
from cimc.passes.lift_clip import LiftClip
from cimc.passes.merge_duplicates import MergeDuplicates
from cimc.passes.narrow_integers import NarrowIntegers
from cimc.passes.prune_similar import PruneSimilar
from cimc.passes.quantize import Quantize
from cimc.passes.quantize_dynamic import QuantizeDynamic
from cimc.passes.read_qdq import ReadQdq
from cimc.passes.recognise_integers import RecogniseIntegers
from cimc.passes.recognise_layers import RecogniseLayers
from cimc.passes.recognise_qonnx import RecogniseQonnx
from cimc.passes.recognise_sign import RecogniseSign
from cimc.passes.remove_dead_channels import RemoveDeadChannels
from cimc.passes.sink_dequant import SinkDequant
from cimc.passes.split_tiles import SplitTiles
from cimc.passes.ternarize import Ternarize

PASSES = [
    # any exporter's leavings
    Cleanup,
    # what quantised groups mean
    LiftClip,
    ReadQdq,
    # fewer channels
    PruneSimilar,
    MergeDuplicates,
    RemoveDeadChannels,
    # float to integers, approximately
    Binarize,
    Ternarize,
    QuantizeDynamic,
    Quantize,
    # float to encoded integers
    RecogniseIntegers,
    RecogniseSign,
    RecogniseQonnx,
    SinkDequant,
    RecogniseLayers,
    FoldThreshold,
    FoldLut,
    NarrowIntegers,
    # work that the chip does besides
    FindSimilar,
    # encoded integers to tiles
    Legalise,
    SplitTiles,
    AllocateTiles,
]

PIPELINES = {
    "recognise-quantization": (
        "recognise-integers,recognise-sign,recognise-qonnx,sink-dequant,recognise-layers,sink-dequant",
        "find what the model already holds as bits and integers",
    ),
    "recognise-any-alpha": (
        "recognise-integers,recognise-sign,recognise-qonnx,sink-dequant,recognise-layers,"
        "recognise-layers{any_alpha=true},sink-dequant",
        "the same, and layers whose float sums round: says which",
    ),
    "fold": (
        "fold-threshold,fold-lut,narrow-integers,cleanup",
        "turn what lies between integers into compares and tables, of as few bits as they need",
    ),
    "auto": (
        "cleanup,lift-clip,read-qdq,quantize-dynamic,recognise-any-alpha,fold",
        "as exact, but float layers become dynamic int8",
    ),
    "exact": (
        "cleanup,lift-clip,read-qdq,recognise-quantization,fold",
        "no approximation; float layers stay on the host",
    ),
    "int8": (
        "cleanup,quantize,lift-clip,read-qdq,recognise-quantization,fold",
        "static quantisation by calibration data, then as exact",
    ),
    "pruned": (
        "cleanup,prune-similar{criterion=budget},lift-clip,read-qdq,quantize-dynamic,"
        "recognise-any-alpha,fold",
        "channels removed by calibration data, with labels or remove_macs; the rest as auto",
    ),
    "binary": (
        "cleanup,binarize,lift-clip,read-qdq,quantize-dynamic,recognise-any-alpha,fold",
        "weights ±1 and two-level inputs by calibration data; the rest as auto",
    ),
    "ternary": (
        "cleanup,ternarize,lift-clip,read-qdq,quantize-dynamic,recognise-any-alpha,fold",
        "as binary, with weights -1, 0 and +1",
    ),
    "similarity": (
        "exact,find-similar",
        "as exact, and the array searches its kernels for similar ones",
    ),
    "place": (
        "legalise,split-tiles,allocate-tiles",
        "from the graph to the tiles; `cimc compile` appends it",
    ),
}
"""Comma list and summary by name."""
