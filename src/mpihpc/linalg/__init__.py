"""Linear algebra on distributed arrays: products that move the fewest words their shapes allow, and norms."""

from mpihpc.array.reductions import vecdot
from mpihpc.linalg.matmul import error_bound, gram, layouts, matmul, outer, plan_product, working_dtype
from mpihpc.linalg.norms import norm
from mpihpc.linalg.plan import Layouts, ProductPlan
from mpihpc.linalg.product import Counts

__all__ = [
    "Counts",
    "Layouts",
    "ProductPlan",
    "error_bound",
    "gram",
    "layouts",
    "matmul",
    "norm",
    "outer",
    "plan_product",
    "vecdot",
    "working_dtype",
]
