"""Where the number of bits of an integer may change."""

from __future__ import annotations

from cimc.driver.rewrite import Rewriter
from cimc.ir.graph import Value

_MOVES = ("cim.max_pool", "cim.reshape", "cim.transpose")


def any_width(rw: Rewriter, value: Value) -> bool:
    """Whether only layers without a zero point use a value, pools and layout between: they take
    integers of any width."""
    if value in rw.graph.outputs:
        return False
    for node in rw.users(value):
        if node.op in ("cim.conv", "cim.matmul"):
            if node.arg(0) is not value or node.operand(2) is not None:
                return False
        elif node.op not in _MOVES or not any_width(rw, node.output):
            return False
    return True
