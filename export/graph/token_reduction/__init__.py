"""Graph pieces that shorten a sequence of visual tokens before the language model sees it, free of any exporter.

    scores: `add_linear_scorer`, `add_sensitivity`, `add_norm_scores`, `add_cls_scores` + `add_globalcom_scores`
    shares: `add_equal_quotas`, `add_quotas`
    choice: `add_selection`
    merging: `add_pooling`

Counts (`keep_count` and friends) and the layout of several views are the runtime's too: `farthing.runtime.keep`, `farthing.runtime.anyres`.
"""

from ....runtime.keep import choose_bucket, keep_buckets, keep_count
from .globalcom import LastLayer, add_cls_scores, add_globalcom_scores
from .parts import Views, add_row_scores, add_views
from .pooling import add_pooling, pool_sizes, scale_pool
from .quota import add_equal_quotas, add_quotas
from .scorer import add_linear_scorer, add_norm_scores
from .select import Selection, add_selection
from .sensitivity import Projector, add_sensitivity

__all__ = [
    "LastLayer",
    "Projector",
    "Selection",
    "Views",
    "add_cls_scores",
    "add_equal_quotas",
    "add_globalcom_scores",
    "add_linear_scorer",
    "add_norm_scores",
    "add_pooling",
    "add_quotas",
    "add_row_scores",
    "add_selection",
    "add_sensitivity",
    "add_views",
    "choose_bucket",
    "keep_buckets",
    "keep_count",
    "pool_sizes",
    "scale_pool",
]
