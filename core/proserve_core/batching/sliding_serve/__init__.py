"""SlidingServe: chunk sizes of two steps chosen together, first tokens at risk picked as a knapsack.

Source: SlidingServe (arXiv 2606.05933). Its text is public only in part: modules, aims and results are the paper's, the
exact definitions (features, key, objective, values) are ours and fit what is reported. Four modules, each a unit:
`predictor` (batch latency), `priority_sorter` (order of prompts), `chunker` (two windows), `batch_constructor`
(knapsack); `policy` puts them together.
"""

from proserve_core.batching.sliding_serve.policy import SlidingOptions, SlidingServe

__all__ = ["SlidingOptions", "SlidingServe"]
