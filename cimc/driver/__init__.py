"""The driver of passes, and the interface that passes are written against.

A pass file needs this module, `cimc.ir` and, for constant evaluation, `cimc.frontend`.
"""

from cimc.driver.base import Geometry, Pass, PassContext
from cimc.driver.rewrite import Rewriter

__all__ = ["Geometry", "Pass", "PassContext", "Rewriter"]
