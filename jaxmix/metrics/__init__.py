"""What a fit is worth: criteria, agreement of labels, silhouettes, matching of components."""

from jaxmix.metrics.agreement import adjusted_rand_index, normalized_mutual_information, stability
from jaxmix.metrics.criteria import aic, bic, icl
from jaxmix.metrics.matching import match
from jaxmix.metrics.silhouettes import silhouette, silhouette_samples

__all__ = [
    "adjusted_rand_index",
    "aic",
    "bic",
    "icl",
    "match",
    "normalized_mutual_information",
    "silhouette",
    "silhouette_samples",
    "stability",
]
