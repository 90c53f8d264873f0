"""Prefixes of operations in the graph IR, and the ONNX domains they stand for."""

from cimc.frontend import qonnx

DOMAIN = {"onnx": "", "ms": "com.microsoft", "ml": "ai.onnx.ml"}
"""ONNX domain by prefix; any other domain is its own prefix."""

PREFIX = {domain: prefix for prefix, domain in DOMAIN.items()} | {
    "ai.onnx": "onnx",  # an alias of the default domain
    **dict.fromkeys(qonnx.DOMAINS, "qonnx"),
}
"""Prefix by ONNX domain."""
